"""The life of a call: retries, the choice of a server, who is told, in which order. No I/O."""
