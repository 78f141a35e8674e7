"""Settings of every test."""

import gc

import keras
from hypothesis import settings

# The same examples in every run: a failure is a change of the code, never of the draw. JAX compiles every operation
# for every shape (2 s an example), so the other backends search less; TensorFlow has searched the same code.
settings.register_profile(
    "repeatable", deadline=None, max_examples=25 if keras.backend.backend() == "tensorflow" else 4, derandomize=True
)
settings.load_profile("repeatable")


def pytest_collection_finish():
    """Keeps the garbage collector from visiting all that the libraries hold again and again: a fifth less time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_terminal_summary(terminalreporter):
    """Prints the `summary` that a test recorded, also if it passed in another process."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()) if getattr(report, "when", "") == "call" else ():
                if name == "summary":
                    terminalreporter.write_line(value)
