"""Readers and writers of data: YouTube-8M's records, video files, optical flow, and the packaged speech frames."""

from keras_netvlad.data.japanese_vowels import load_japanese_vowels
from keras_netvlad.data.optical_flow import read_flow
from keras_netvlad.data.video import read_video
from keras_netvlad.data.youtube8m import youtube8m
from keras_netvlad.data.youtube8m_writer import write_youtube8m

__all__ = ["load_japanese_vowels", "read_flow", "read_video", "write_youtube8m", "youtube8m"]
