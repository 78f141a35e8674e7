"""The labeled clips of the tests: as many as asked for, the same every time, with groups that share no pixels."""

import csv
import hashlib
import importlib.util
import itertools

import numpy as np
import pytest
from make_labeled_videos import SOURCES, camera_move, film, make_labeled_videos, path_of, read_source, regions

from keras_netvlad.data import read_video

SMALL = {"clips_per_class": 4, "groups_per_class": 2, "seconds": 0.5, "size": (64, 48)}


def digests(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_clips_are_listed_with_their_groups_and_the_same_every_time(tmp_path):
    rows = make_labeled_videos(tmp_path / "one", ("flower", "phone"), **SMALL)
    assert [row[1:] for row in rows] == [(name, f"{name}_{n // 2}") for name in ("flower", "phone") for n in range(4)]
    with open(tmp_path / "one" / "labels.csv", newline="", encoding="utf-8") as file:
        assert [tuple(row) for row in csv.reader(file)] == [("path", "label", "group"), *rows]
    for path, label, _ in rows:
        assert path.startswith(f"{label}/")
        frames = list(read_video(tmp_path / "one" / path, fps=None))
        assert (len(frames), frames[0].shape) == (5, (48, 64, 3))
        assert frames[0].std() > 2
    assert len(digests(tmp_path / "one")) == 9
    # A class has the same clips whatever the other classes are.
    make_labeled_videos(tmp_path / "two", ("phone",), **SMALL)
    clips = digests(tmp_path / "two" / "phone")
    assert clips == digests(tmp_path / "one" / "phone")
    make_labeled_videos(tmp_path / "three", ("phone",), **SMALL, seed=1)
    assert not set(digests(tmp_path / "three" / "phone").values()) & set(clips.values())
    with pytest.raises(ValueError, match=r"There must be 1 to 4 groups\. Received: 5"):
        make_labeled_videos(tmp_path / "four", ("phone",), clips_per_class=4, groups_per_class=5)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("shape", [(1, 427, 640), (1, 600, 512), (60, 144, 176)])
def test_regions_cover_the_source_once(shape, count):
    seen = np.zeros(shape, "int8")
    for region in regions(*shape, count):
        seen[region.first : region.last, region.top : region.bottom, region.left : region.right] += 1
    assert (seen == 1).all()


def test_a_clip_shows_its_region_only():
    source = read_source(path_of("flower"))
    parts = regions(1, *source[0].shape[:2], 6)
    for part, other in itertools.permutations(parts, 2):
        changed = source[0].copy()
        changed[other.top : other.bottom, other.left : other.right] = 0
        before, after = (
            film(pictures, part, 6, (64, 48), np.random.default_rng(3)) for pictures in (source, [changed])
        )
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("seed", range(20))
def test_the_camera_stays_in_the_picture(seed):
    left, top, width, height = camera_move(170, 213, 40, (160, 120), np.random.default_rng(seed)).T
    assert min(left.min(), top.min()) >= 0
    assert (left + width).max() <= 170 + 1e-9
    assert (top + height).max() <= 213 + 1e-9
    np.testing.assert_allclose(height, 0.75 * width)
    assert max(np.ptp(left), np.ptp(top), np.ptp(width)) > 0


@pytest.mark.slow
def test_every_source_is_in_its_package():
    if importlib.util.find_spec("skimage") is None:
        pytest.skip("`make test` installs scikit-image")
    for name in SOURCES:
        assert min(read_source(path_of(name))[0].shape[:2]) >= 140
