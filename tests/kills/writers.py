"""`WRITERS`: everything in the package that writes files, with what a kill may leave of it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_netvlad import VideoClassifier
from keras_netvlad.data import write_youtube8m, youtube8m
from keras_netvlad.export import (
    Artefact,
    export_model,
    export_onnx,
    export_saved_model,
    inspect_artefact,
    publish,
    publish_triton,
)
from keras_netvlad.export.inspection import find_artefacts
from keras_netvlad.models import load_model
from keras_netvlad.retrieval import DescriptorIndex
from keras_netvlad.training import train
from keras_netvlad.videos import Vocabulary, build_vocabulary, extract_features
from keras_netvlad.videos.encoder_file import EncoderFile
from tests.support.make_videos import grey, write_video

FEATURES = {"frames": 4}


def small_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return VideoClassifier(FEATURES, 3, num_clusters=2, hidden_units=None, name="small")


def write_index(root: Path) -> None:
    index = DescriptorIndex()
    index.add([f"{n}" for n in range(50)], np.random.default_rng(0).normal(size=(50, 8)))
    index.save(root / "index.npz")


def write_records(path: Path) -> None:
    rng = np.random.default_rng(0)
    videos = [{"id": f"{n}", "labels": [n % 3], "frames": rng.normal(size=(n % 5 + 1, 4))} for n in range(16)]
    write_youtube8m(path, videos)


def count_records(path: Path) -> int:
    return sum(len(inputs["num_frames"]) for inputs, _ in youtube8m(path, 4, feature_sizes=FEATURES))


def check_records(path: Path) -> None:
    assert count_records(path) == 16


def write_features(root: Path) -> None:
    videos = root.parent / "videos"
    if not videos.exists():
        videos.mkdir()
        for number in range(4):
            write_video(videos / f"{number}.mkv", [grey(10 * i + number) for i in range(4)])
    keras.utils.set_random_seed(0)  # of the weights of the backbone
    extract_features(videos, root / "features", "MobileNet", weights=None, size=32)


def check_features(path: Path) -> None:
    if (path / "extraction.json").exists():
        json.loads((path / "extraction.json").read_text())
        EncoderFile(path / "encoder.onnx")  # It is written before the settings.
    sizes = {"rgb": 1024}
    for record in path.glob("*.tfrecord"):
        assert sum(len(inputs["num_frames"]) for inputs, _ in youtube8m(record, 4, feature_sizes=sizes)) == 1


def make_clips(folder: Path) -> Path:
    clips = folder / "clips"
    if not clips.exists():
        clips.mkdir()
        for number in range(2):
            write_video(clips / f"{number}.mkv", [grey(10 * i + number) for i in range(4)])
    return clips


def write_vocabulary(root: Path) -> None:
    backbone = root.parent / "backbone.keras"
    if not backbone.exists():
        keras.utils.set_random_seed(0)
        keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 4, strides=4)]).save(backbone)
    build_vocabulary(make_clips(root.parent), root / "vocabulary", backbone, size=16, num_clusters=2)


def check_vocabulary(path: Path) -> None:
    # Opening it compares the files with their digests.
    assert np.isfinite(Vocabulary(path).descriptor(make_clips(path.parents[1]) / "0.mkv")).all()
    load_model(path / "model.keras")


def write_run(root: Path) -> None:
    records = root.parent / "train.tfrecord"
    if not records.exists():
        write_records(records)
    options = {"feature_sizes": FEATURES, "num_classes": 3, "overrides": {"num_clusters": 2, "hidden_units": 8}}
    try:
        train(records, root / "run", preset="nextvlad", epochs=2, batch_size=4, save_every=2, verbose=0, **options)
    except ValueError as error:
        if "has ended" not in str(error):  # the kill came after the end of the run
            raise


def check_run(path: Path) -> None:
    for name in ("settings.json", "state.json"):
        if (path / name).exists():
            json.loads((path / name).read_text())
    for checkpoint in path.glob("round*.npz"):
        with np.load(checkpoint) as arrays:
            assert all(arrays[name].dtype for name in arrays.files)
    if (path / "model.keras").exists():
        load_model(path / "model.keras")
    if list(path.glob("served/*/[0-9]*")):
        check_artifacts(path / "served")


def check_artifacts(root: Path) -> None:
    for path in find_artefacts(root):
        assert inspect_artefact(path).num_bytes
        Artefact(path)


def check_triton(root: Path) -> None:
    check_artifacts(root)
    assert (root / "config.pbtxt").is_file()


@dataclass(frozen=True)
class Writer:
    """Writes a target and checks one.

    Args:
        write: Writes below a directory. Called again after a kill, it finishes the target.
        target: Path of the target in the directory.
        check: Raises if a target is visible that is not what it should be.
        min_calls: Smallest number of calls of the file system, each a place of a kill.
        companions: Files that may be visible before the target.
        grows: Boolean, whether the target is a directory that is visible from the beginning. `check` then checks the
            files that it has so far.
    """

    write: Callable[[Path], object]
    target: str
    check: Callable[[Path], object]
    min_calls: int
    companions: tuple[str, ...] = ()
    grows: bool = False


WRITERS = {
    "index": Writer(write_index, "index.npz", DescriptorIndex.load, 10),
    "records": Writer(lambda root: write_records(root / "frames.tfrecord"), "frames.tfrecord", check_records, 9),
    "SavedModel": Writer(
        lambda root: export_saved_model(small_model(), root / "1", verify=False), "1", check_artifacts, 20
    ),
    "ONNX": Writer(
        lambda root: export_onnx(small_model(), root / "model.onnx", verify=False, external_data_threshold=1),
        "model.onnx",
        check_artifacts,
        12,
        ("model.onnx.data", "model.onnx.parity.json"),
    ),
    "both": Writer(lambda root: export_model(small_model(), root / "out"), "out", check_artifacts, 60),
    "publish": Writer(
        lambda root: publish(small_model(), root / "models", warmup_frames=(2,)), "models/small/1", check_artifacts, 30
    ),
    "publish_triton": Writer(
        lambda root: publish_triton(small_model(), root / "models", verify=False), "models/small", check_triton, 35
    ),
    "extract": Writer(write_features, "features", check_features, 30, grows=True),
    "vocabulary": Writer(write_vocabulary, "vocabulary", check_vocabulary, 40),
    "train": Writer(write_run, "run", check_run, 60, grows=True),
}


def visible(root: Path) -> set[str]:
    """Returns the paths in a directory that no hidden directory holds."""
    paths = [path.relative_to(root) for path in root.rglob("*")]
    return {str(path) for path in paths if not any(part.startswith(".") for part in path.parts)}


def check_what_is_left(writer: Writer, root: Path) -> bool:
    """Checks what a kill left below a directory. Returns whether the target is visible."""
    if (root / writer.target).exists():
        writer.check(root / writer.target)
        return True
    parents = {str(path) for path in Path(writer.target).parents}
    assert visible(root) <= {*writer.companions, *parents}, visible(root)
    return False
