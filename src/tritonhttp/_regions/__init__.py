"""Shared memory regions that see to themselves: as objects for callers, and pooled for the transparent path.

No I/O with a server happens here. What takes several requests is a generator of operations: a client carries each
out and sends its result, or throws its error, back in.
"""
