"""The YouTube-8M recipe: training that resumes after a kill."""

from keras_netvlad.training.youtube8m import train

__all__ = ["train"]
