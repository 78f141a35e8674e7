"""Real inputs."""

from keras_netvlad.data.japanese_vowels import load_japanese_vowels
from keras_netvlad.data.video import read_video

__all__ = ["load_japanese_vowels", "read_video"]
