"""Keras callbacks."""

from keras_netvlad.callbacks.assignment_monitor import AssignmentMonitor

__all__ = ["AssignmentMonitor"]
