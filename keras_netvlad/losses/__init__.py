"""Ranking losses, which bring descriptors of the same place together and push others apart."""

from keras_netvlad.losses.multi_similarity_loss import MultiSimilarityLoss
from keras_netvlad.losses.weakly_supervised_triplet_loss import WeaklySupervisedTripletLoss

__all__ = ["MultiSimilarityLoss", "WeaklySupervisedTripletLoss"]

# Importing one of the packages that define serializable classes registers all of them.
import keras_netvlad.registration  # noqa: F401
