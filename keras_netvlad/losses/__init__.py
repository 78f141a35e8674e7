"""Ranking losses, which bring descriptors of the same place together, and the loss of rated segments."""

from keras_netvlad.losses.multi_similarity_loss import MultiSimilarityLoss
from keras_netvlad.losses.rated_binary_crossentropy import RatedBinaryCrossentropy
from keras_netvlad.losses.weakly_supervised_triplet_loss import WeaklySupervisedTripletLoss

__all__ = ["MultiSimilarityLoss", "RatedBinaryCrossentropy", "WeaklySupervisedTripletLoss"]

# Importing one of the packages that define serializable classes registers all of them.
import keras_netvlad.registration  # noqa: F401
