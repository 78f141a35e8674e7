"""The writer of LiteRT files, the format of TensorFlow Lite."""
