"""The programs of the package: its only code that prints.

``main`` is the entry point and ``app`` lists the commands. A module holds one group of commands. What they share
is in ``common`` (options, servers, exit codes), ``output`` (tables and JSON) and ``inputs`` (values of a model's
inputs). Only ``typer`` is imported with a module; everything else that is heavy is imported where it is used, so
that ``tritonhttp --help`` is fast.
"""
