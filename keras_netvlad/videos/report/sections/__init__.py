"""The sections of the report. Each function takes the run and returns a piece of HTML."""
