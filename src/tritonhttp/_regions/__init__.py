"""Shared memory regions that clean up after themselves: objects for callers, and a pool for the transparent path.

Nothing here talks to a server. Work of several requests is a generator of operations: a client carries out each
one, and sends its result or throws its error back in.
"""
