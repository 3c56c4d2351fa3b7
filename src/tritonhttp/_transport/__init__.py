"""Sockets: where requests leave and answers arrive."""
