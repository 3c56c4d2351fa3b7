"""Basics for every package: the log, numbers from callers, and the choice between C and Python."""
