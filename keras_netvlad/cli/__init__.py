"""The parts of the command line: its parser, its commands, and how it reports errors."""
