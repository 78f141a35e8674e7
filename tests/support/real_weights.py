"""MobileNetV2 with its real ImageNet weights, which `make backends` installs, as an image model for `extract`."""

import sys
from pathlib import Path

import keras
import pytest
from paths import EXAMPLES


def weights_file():
    """Returns torchvision's file of weights, or skips the test."""
    pytest.importorskip("torch", reason="`make backends` installs torch")
    found = next(Path(sys.prefix, "weights").rglob("mobilenet_v2-b0353104.pth"), None)
    if found is None:
        pytest.skip("`make backends` installs the weights")
    return found


def save_mobilenet(path, size):
    """Saves the model, which takes pictures from 0 to 255."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        from video_from_files import torchvision_mobilenet
    finally:
        sys.path.remove(str(EXAMPLES))
    backbone = torchvision_mobilenet(size, weights_file())
    pictures = keras.Input((size, size, 3))
    scaled = keras.layers.Rescaling(1 / 255)(pictures)
    # The mean and the standard deviation of ImageNet's colors, as torchvision has them.
    deviations = (0.229, 0.224, 0.225)
    normalized = keras.layers.Normalization(mean=(0.485, 0.456, 0.406), variance=[d**2 for d in deviations])(scaled)
    keras.Model(pictures, backbone(normalized)).save(path)
    return str(path)
