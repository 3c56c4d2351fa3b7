"""The programs of the package: the only code of it that prints."""
