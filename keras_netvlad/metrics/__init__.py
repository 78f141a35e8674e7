"""Keras metrics of YouTube-8M: streaming, for any number of videos, on one device or on many."""

from keras_netvlad.metrics.global_average_precision import GlobalAveragePrecision
from keras_netvlad.metrics.hit_at_one import HitAtOne
from keras_netvlad.metrics.mean_average_precision import MeanAveragePrecision
from keras_netvlad.metrics.perr import PERR

__all__ = ["PERR", "GlobalAveragePrecision", "HitAtOne", "MeanAveragePrecision"]
