"""Streaming Keras metrics for YouTube-8M and for retrieval, for any number of videos and devices."""

from keras_netvlad.metrics.global_average_precision import GlobalAveragePrecision
from keras_netvlad.metrics.hit_at_one import HitAtOne
from keras_netvlad.metrics.mean_average_precision import MeanAveragePrecision
from keras_netvlad.metrics.perr import PERR
from keras_netvlad.metrics.recall_at_n import RecallAtN
from keras_netvlad.metrics.retrieval_mean_average_precision import RetrievalMeanAveragePrecision
from keras_netvlad.metrics.segment_mean_average_precision import SegmentMeanAveragePrecision

__all__ = [
    "PERR",
    "GlobalAveragePrecision",
    "HitAtOne",
    "MeanAveragePrecision",
    "RecallAtN",
    "RetrievalMeanAveragePrecision",
    "SegmentMeanAveragePrecision",
]

# Importing one of the packages that define serializable classes registers all of them.
import keras_netvlad.registration  # noqa: F401
