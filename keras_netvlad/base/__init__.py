"""The ground floor, imported by everything: needs NumPy and the standard library only."""
