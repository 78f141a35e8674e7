"""Kills every writer of files in the package: `python -m tests.kills --help`."""
