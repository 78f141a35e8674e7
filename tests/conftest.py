"""Settings of every test."""

from hypothesis import settings

# The same examples in every run: a failure is a change of the code, never of the draw.
settings.register_profile("repeatable", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("repeatable")
