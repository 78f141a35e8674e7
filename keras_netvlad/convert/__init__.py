"""Converts the weights of other NetVLADs, and complete checkpoints: TensorFlow, PyTorch and MATLAB."""

from keras_netvlad.convert.arrays import from_arrays
from keras_netvlad.convert.loupe import from_loupe
from keras_netvlad.convert.matlab import from_matlab
from keras_netvlad.convert.pytorch import from_pytorch
from keras_netvlad.convert.rows import reorder_rows
from keras_netvlad.convert.tensorflow_addons import from_tfa
from keras_netvlad.convert.whole_models import convert_file, convert_model

__all__ = [
    "convert_file",
    "convert_model",
    "from_arrays",
    "from_loupe",
    "from_matlab",
    "from_pytorch",
    "from_tfa",
    "reorder_rows",
]
