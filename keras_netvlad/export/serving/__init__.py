"""Writes the directories that model servers load."""
