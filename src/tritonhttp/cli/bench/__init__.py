"""Measure a model under load: ``tritonhttp bench MODEL``.

Pure, without I/O, clock or thread: ``schedule`` (levels, intended starts), ``figures`` (percentiles, intervals of
confidence, stability), ``search`` (the highest level that keeps a bound), ``compare`` (with an earlier result),
``formats`` (files, also perf_analyzer's), ``report`` (one page of HTML).

``command`` has the options, ``session`` what follows from them. ``data`` makes requests. ``load`` sends them from
threads, ``load_aio`` from an event loop, ``processes`` from several processes. ``measure`` is one level,
``run`` all of them; ``server_side`` asks the server about the same windows. ``show`` prints.
"""
