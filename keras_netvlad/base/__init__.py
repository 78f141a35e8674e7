"""Atomic files, locks, argument checks and shared names, for every other package. Needs only NumPy."""
