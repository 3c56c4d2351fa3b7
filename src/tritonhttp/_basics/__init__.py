"""What every room may use: the log, numbers that callers give, and which implementation runs."""
