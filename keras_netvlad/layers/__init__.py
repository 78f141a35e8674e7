"""Keras layers: pooling and what it needs."""

from keras_netvlad.layers.context_gating import ContextGating
from keras_netvlad.layers.dequantize import Dequantize
from keras_netvlad.layers.frame_mask import FrameMask
from keras_netvlad.layers.mixture_of_experts import MixtureOfExperts
from keras_netvlad.layers.netvlad import NetVLAD
from keras_netvlad.layers.vlad import VLAD

__all__ = ["VLAD", "ContextGating", "Dequantize", "FrameMask", "MixtureOfExperts", "NetVLAD"]
