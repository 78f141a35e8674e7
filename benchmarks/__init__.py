"""Measurements: `python -m benchmarks`, on a GPU `python -m benchmarks.gpu`."""
