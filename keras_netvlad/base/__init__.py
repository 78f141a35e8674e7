"""What every other package may import: atomic files, locks, checks and shared names. Needs only NumPy."""
