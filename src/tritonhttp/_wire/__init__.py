"""Bytes only: framing of tensors, requests and responses. No socket, no clock, no thread."""
