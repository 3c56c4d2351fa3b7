"""``tritonhttp top``: servers and their models, live.

``state`` compares what servers said, ``view`` makes rows and columns of that, ``details`` the tables of a model:
these are pure. ``read`` asks the servers, ``screen`` shows all in a terminal, ``command`` has the options and the
output without a screen.
"""
