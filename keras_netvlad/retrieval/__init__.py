"""Searches descriptors. Importing this package loads NumPy only."""

from keras_netvlad.retrieval.descriptor_index import DescriptorIndex
from keras_netvlad.retrieval.index_records import index_records

__all__ = ["DescriptorIndex", "index_records"]
