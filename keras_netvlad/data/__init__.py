"""Real inputs."""

from keras_netvlad.data.japanese_vowels import load_japanese_vowels

__all__ = ["load_japanese_vowels"]
