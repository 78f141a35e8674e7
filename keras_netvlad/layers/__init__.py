"""Keras layers: pooling and what it needs."""

from keras_netvlad.layers.attention_pooling import AttentionPooling
from keras_netvlad.layers.context_gating import ContextGating
from keras_netvlad.layers.dequantize import Dequantize
from keras_netvlad.layers.frame_encoder import FrameEncoder
from keras_netvlad.layers.frame_mask import FrameMask
from keras_netvlad.layers.max_pooling import MaxPooling
from keras_netvlad.layers.mean_pooling import MeanPooling
from keras_netvlad.layers.mean_std_pooling import MeanStdPooling
from keras_netvlad.layers.mixture_of_experts import MixtureOfExperts
from keras_netvlad.layers.netfv import NetFV
from keras_netvlad.layers.netrvlad import NetRVLAD
from keras_netvlad.layers.netvlad import NetVLAD
from keras_netvlad.layers.nextvlad import NeXtVLAD
from keras_netvlad.layers.soft_dbow import SoftDBoW
from keras_netvlad.layers.vlad import VLAD

__all__ = [
    "VLAD",
    "AttentionPooling",
    "ContextGating",
    "Dequantize",
    "FrameEncoder",
    "FrameMask",
    "MaxPooling",
    "MeanPooling",
    "MeanStdPooling",
    "MixtureOfExperts",
    "NeXtVLAD",
    "NetFV",
    "NetRVLAD",
    "NetVLAD",
    "SoftDBoW",
]
