"""The kinds of files, and the function of the package that reads each."""

import json
import random
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import h5py
import keras
import numpy as np
import tensorflow as tf
from scipy.io import savemat

from keras_netvlad import VideoClassifier
from keras_netvlad.convert import from_loupe, from_matlab, from_tfa
from keras_netvlad.data import read_video, record_files, write_youtube8m, youtube8m
from keras_netvlad.export import export_litert, export_onnx, export_saved_model, inspect_artefact
from keras_netvlad.export.description import Description
from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.export.parity_file import parity_path, read_parity
from keras_netvlad.export.serving.warmup import WARMUP_FILE, read_warmup, write_warmup
from keras_netvlad.export.verification.real_data import check_data
from keras_netvlad.models import load_model
from keras_netvlad.retrieval import DescriptorIndex, index_records
from keras_netvlad.training.run_directory import Rounds
from keras_netvlad.videos import Predictor, Vocabulary, build_vocabulary, extract_features, train, write_report
from keras_netvlad.videos.features_folder import FeaturesFolder
from keras_netvlad.videos.labels import read_labels
from tests.fuzz.mutation import mutate_bytes, mutate_json, mutate_zip, seal

RUN_FILES = ("results.json", "history.json", "clips.npz")
CONVERTERS = (from_loupe, from_matlab, from_tfa)
Mutation = Callable[[bytes, list[bytes], random.Random, Path], None]


class Refused(Exception):
    """A file was refused with a sentence that is not the whole message of the exception."""


@dataclass
class Kind:
    """A kind of file.

    Attributes:
        seeds: Contents of right files.
        path: Path to write the mutated files to.
        names_file: Whether every refusal names the file. Converters refuse arrays by their names; a predictor and a
            vocabulary name the file whose hash is another one.
        read: Reads the file at that path; raises if it is refused.
        mutate: Writes a mutated file.
    """

    seeds: list[bytes]
    path: Path
    read: Callable[[], object]
    mutate: Mutation
    names_file: bool = True


def any_bytes(content: bytes, others: list[bytes], draw: random.Random, path: Path) -> None:
    """Mutates bytes anywhere."""
    path.write_bytes(mutate_bytes(content, others, draw))


def records(content: bytes, others: list[bytes], draw: random.Random, path: Path) -> None:
    """Mutates a TFRecord file, or one of its records behind right checksums."""
    if draw.random() < 0.3:
        return any_bytes(content, others, draw, path)
    found, offset = [], 0
    while offset < len(content):
        (length,) = struct.unpack_from("<Q", content, offset)
        found.append(content[offset + 12 : offset + 12 + length])
        offset += length + 16
    chosen = draw.randrange(len(found))
    found[chosen] = mutate_bytes(found[chosen], found, draw)
    return seal(found, str(path))


def json_values(content: bytes, others: list[bytes], draw: random.Random, path: Path) -> None:
    """Mutates the values or the bytes of a JSON file."""
    path.write_bytes(mutate_json(content, draw) if draw.random() < 0.7 else mutate_bytes(content, others, draw))


def archive(content: bytes, others: list[bytes], draw: random.Random, path: Path) -> None:
    """Mutates the members or the bytes of a ZIP archive."""
    path.write_bytes(mutate_zip(content, others, draw) if draw.random() < 0.7 else mutate_bytes(content, others, draw))


def make_kinds(folder: Path) -> dict[str, Kind]:
    """Writes right files of every kind, and returns the kinds by name."""
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    model = VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None, name="small")
    signature = read_signature(model)
    export_onnx(model, folder / "model.onnx")
    export_litert(model, folder / "model.tflite")
    export_saved_model(model, folder / "1")
    model.save(folder / "model.keras")
    warmup = [
        ("serving_default", {"frames": np.zeros((2, 3, 4), "float32"), "num_frames": np.array([1, 2], "int32")}),
        ("serve_examples", {"examples": np.array([b"one", b"two"], object)}),
    ]
    (folder / "1" / WARMUP_FILE).parent.mkdir(exist_ok=True)
    write_warmup(folder / "1" / WARMUP_FILE, warmup)
    videos = [{"id": f"{n}", "labels": [n], "frames": rng.normal(size=(n + 1, 4))} for n in range(3)]
    write_youtube8m(folder / "frames.tfrecord", videos)
    index = DescriptorIndex()
    index.add(["one", "two", "three"], rng.normal(size=(3, 5)))
    index.save(folder / "index.npz")
    data = {"frames": rng.normal(size=(2, 3, 4)), "num_frames": np.array([2, 3])}
    np.savez(folder / "data.npz", **data)
    np.savez_compressed(folder / "compressed.npz", **data)
    tensors = {"cluster_centers": np.ones((1, 4, 2)), "dense/kernel": np.ones((4, 2)), "dense/bias": np.ones(2)}
    for name, options in (("plain.h5", {}), ("chunked.h5", {"chunks": True, "compression": "gzip", "maxshape": None})):
        with h5py.File(folder / name, "w") as file:
            for key, values in tensors.items():
                file.create_dataset(key, data=values, **{k: v for k, v in options.items() if v is not None})
    savemat(folder / "net.mat", _matlab_network(rng))
    checkpoint = tf.train.Checkpoint(
        cluster_weights=tf.Variable(tf.ones((4, 2))),
        cluster_biases=tf.Variable(tf.ones(2)),
        cluster_weights2=tf.Variable(tf.ones((1, 4, 2))),
    )
    (folder / "checkpoint").mkdir()
    checkpoint.write(str(folder / "checkpoint" / "model"))
    for suffix, codec in ((".mp4", "mpeg4"), (".avi", "mpeg4"), (".mkv", "mjpeg")):
        _write_video(folder / f"video{suffix}", codec, rng)
    (folder / "state.json").write_text(
        json.dumps({"rounds": 2, "weights": "round2.npz", "best": {"gap": 0.5, "weights": "round1.npz"}, "waited": 1})
    )
    (folder / "extraction.json").write_text(json.dumps({"backbone": "MobileNetV2", "dtype": "float16", "fps": 1.0}))

    names = _train_on_own_videos(folder / "own", rng)
    build_vocabulary(
        folder / "own" / "videos", folder / "vocabulary", folder / "own" / "backbone.keras", size=8, num_clusters=2
    )

    work = folder / "work"
    shutil.copytree(folder / "own" / "features", work / "features")
    # One copy for each file, so that its mutations leave the others right.
    for name in ("predictor", *RUN_FILES):
        shutil.copytree(folder / "own" / "run", work / name)
    for name in ("graph", "parity"):
        shutil.copytree(folder / "1", work / name)
    shutil.copytree(folder / "vocabulary", work / "vocabulary")
    for name in ("run", "records", "labels"):
        (work / name).mkdir()
    shutil.copy(folder / "frames.tfrecord", work / "records" / "frames.tfrecord")
    for name in ("data", "index"):
        shutil.copytree(folder / "checkpoint", work / name)

    def kind(name: str, read: Callable[[Path], object], mutate: Mutation, *seeds: Path) -> Kind:
        return Kind(
            [seed.read_bytes() for seed in seeds],
            work / name,
            lambda: read(work / name),
            mutate,
            read not in (*CONVERTERS, _predict, _vocabulary),
        )

    def checkpoint(copy: str, name: str) -> Kind:
        content, path = (folder / "checkpoint" / name).read_bytes(), work / copy / name
        return Kind([content], path, lambda: from_loupe(work / copy / "model"), any_bytes, names_file=False)

    def inspect_parent(levels: int) -> Callable[[Path], object]:
        return lambda path: str(inspect_artefact(path.parents[levels]))

    return {
        "warm-up records": kind("requests", read_warmup, records, folder / "1" / WARMUP_FILE),
        "frame-level records": kind("frames.tfrecord", _read_frames, records, folder / "frames.tfrecord"),
        "TFRecord walks": kind("walk", _walk, any_bytes, folder / "frames.tfrecord", folder / "1" / WARMUP_FILE),
        "indexes (.npz)": kind("index.npz", _search, archive, folder / "index.npz"),
        "--data (.npz)": kind(
            "data.npz",
            lambda path: check_data(path, signature),
            archive,
            folder / "data.npz",
            folder / "compressed.npz",
        ),
        "parity.json": kind("parity/parity.json", _describe, json_values, parity_path(folder / "1")),
        "state.json": kind("run/state.json", _state, json_values, folder / "state.json"),
        "extraction.json": kind("records/extraction.json", _extracted_dtype, json_values, folder / "extraction.json"),
        "labels.csv": kind(
            "labels/labels.csv", lambda path: read_labels(path, names), any_bytes, folder / "own" / "labels.csv"
        ),
        "videos.csv": kind("features/videos.csv", _split, any_bytes, folder / "own" / "features" / "videos.csv"),
        "predictor.json": kind(
            "predictor/predictor/predictor.json", _predict, json_values, folder / "own/run/predictor/predictor.json"
        ),
        "vocabulary.json": kind(
            "vocabulary/vocabulary.json", _vocabulary, json_values, folder / "vocabulary" / "vocabulary.json"
        ),
        **{
            f"{name} of a run": kind(
                f"{name}/{name}",
                _report,
                archive if name.endswith(".npz") else json_values,
                folder / "own" / "run" / name,
            )
            for name in RUN_FILES
        },
        "LiteRT": kind("model.tflite", lambda path: str(inspect_artefact(path)), any_bytes, folder / "model.tflite"),
        "ONNX": kind("model.onnx", lambda path: str(inspect_artefact(path)), any_bytes, folder / "model.onnx"),
        "saved_model.pb": kind("graph/saved_model.pb", inspect_parent(0), any_bytes, folder / "1" / "saved_model.pb"),
        ".h5": kind("weights.h5", from_tfa, any_bytes, folder / "plain.h5", folder / "chunked.h5"),
        ".mat": kind("net.mat", from_matlab, any_bytes, folder / "net.mat"),
        "checkpoints": checkpoint("data", "model.data-00000-of-00001"),
        "checkpoint indexes": checkpoint("index", "model.index"),
        ".mp4": kind("video.mp4", _frames, any_bytes, folder / "video.mp4"),
        ".avi": kind("video.avi", _frames, any_bytes, folder / "video.avi"),
        ".mkv": kind("video.mkv", _frames, any_bytes, folder / "video.mkv"),
        ".keras": kind("model.keras", load_model, archive, folder / "model.keras"),
    }


def _train_on_own_videos(folder: Path, rng: np.random.Generator) -> list[str]:
    """Writes videos, features and a run of one epoch, and returns the names of the videos."""
    names = [f"{name}_{number}.avi" for name in ("day", "night") for number in range(3)]
    (folder / "videos").mkdir(parents=True)
    for name in names:
        _write_video(folder / "videos" / name, "mpeg4", rng)
    rows = [f"{name},{name.split('_')[0]},{number}" for number, name in enumerate(names)]
    (folder / "labels.csv").write_text("\n".join(["path,label,group", *rows]) + "\n")
    layers = [keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 127.5, -1), keras.layers.Conv2D(4, 8)]
    keras.Sequential(layers).save(folder / "backbone.keras")
    features = folder / "features"
    labels = folder / "labels.csv"
    extract_features(folder / "videos", features, folder / "backbone.keras", size=8, fps=5, labels=labels)
    train(features, folder / "run", num_clusters=2, epochs=1, adapt=False, verbose=0)
    return names


def _split(path: Path) -> None:
    folder = FeaturesFolder(path.parent)
    assert {video.name for name in ("train", "validation", "test") for video in folder.split(name)} == {
        video.name for video in folder.videos
    }


def _predict(path: Path) -> None:
    predictor = Predictor(path.parent)
    answer = predictor.predict(path.parents[3] / "own" / "videos" / "day_0.avi")
    assert len(predictor.labels) == len(answer.scores)


def _vocabulary(path: Path) -> None:
    assert Vocabulary(path.parent).descriptor(path.parents[2] / "own" / "videos" / "day_0.avi").ndim == 1


def _report(path: Path) -> None:
    write_report(path.parent, path.parents[1] / "report.html")


def _read_frames(path: Path) -> None:
    data = youtube8m(path, 3, num_classes=3, feature_sizes={"frames": 4}, max_frames=2**31 - 1)
    try:
        for _ in data:
            pass
    except tf.errors.InvalidArgumentError as error:  # documented; the message names the file and the record
        lines = [line for line in str(error).splitlines() if line.startswith(f"ValueError: {path}, record ")]
        if not lines:
            raise
        raise Refused(lines[0]) from error


def _describe(path: Path) -> None:
    str(Description("1", "saved_model", 1, "", {}, {}, parity=read_parity(path.parent)))


def _walk(path: Path) -> None:
    offsets, fault = record_files.index_records(str(path))
    size = path.stat().st_size
    assert all(0 <= offset < size for offset in offsets)
    assert fault is None or "\n" not in fault


def _search(path: Path) -> None:
    index = DescriptorIndex.load(path)
    if len(index):
        index.search(index.descriptor(index.ids[0])[None])


def _state(path: Path) -> None:
    state = Rounds(path.parent, None, {}).state
    assert state["rounds"] >= 0
    assert Path(state["weights"] or "x").name == (state["weights"] or "x")


def _extracted_dtype(path: Path) -> None:
    index_records_module = __import__(index_records.__module__, fromlist=["_extracted_dtype"])
    assert index_records_module._extracted_dtype(path.parent) in ("uint8", "float16")


def _frames(path: Path) -> None:
    for _, number in zip(read_video(path, fps=5, size=16), range(100), strict=False):
        assert number < 100


def _matlab_network(rng: np.random.Generator) -> dict[str, object]:
    layers = np.empty((1, 1), object)
    weights = np.empty((1, 2), object)
    weights[0, 0], weights[0, 1] = rng.normal(size=(4, 2)), rng.normal(size=(4, 2))
    layers[0, 0] = {"name": "vlad:core", "weights": weights}
    return {"net": {"layers": layers}}


def _write_video(path: Path, codec: str, rng: np.random.Generator) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=5)
        stream.width, stream.height = 32, 24
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for _ in range(4):
            picture = rng.integers(0, 256, (24, 32, 3)).astype("uint8")
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
