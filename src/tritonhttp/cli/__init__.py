"""The programs of the package: its only code that prints."""
