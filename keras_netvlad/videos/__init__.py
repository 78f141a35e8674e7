"""Work on the user's own video files."""

from keras_netvlad.videos.extraction import Extracted, extract_features

__all__ = ["Extracted", "extract_features"]
