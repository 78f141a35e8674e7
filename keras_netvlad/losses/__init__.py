"""Losses that train descriptors to rank: near for one place, far for another."""

from keras_netvlad.losses.multi_similarity_loss import MultiSimilarityLoss
from keras_netvlad.losses.weakly_supervised_triplet_loss import WeaklySupervisedTripletLoss

__all__ = ["MultiSimilarityLoss", "WeaklySupervisedTripletLoss"]

# Importing one of the packages that define serializable classes registers all of them.
import keras_netvlad.registration  # noqa: F401
