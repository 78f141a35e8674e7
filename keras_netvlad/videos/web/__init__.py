"""A web page that classifies videos in the browser, with the ONNX files of a predictor."""

from keras_netvlad.videos.web.write import write_web_page

__all__ = ["write_web_page"]
