"""Feeds mutated files to every reader of files in the package: `python -m tests.fuzz --help`."""
