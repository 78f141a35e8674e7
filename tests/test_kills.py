"""Every writer, killed at each of its calls of the file system: a visible target is complete, and writing again works.

A kill leaves what the process has handed to the system so far. Each call is therefore preceded by a copy of the
directory, which is what a kill at this place leaves. The tests of single writers, and those of `train`, kill processes.
"""

import shutil
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_netvlad import VideoClassifier
from keras_netvlad.base import atomic_files
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
from keras_netvlad.retrieval import DescriptorIndex

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"}


class Copies:
    """Copies a directory before each call that concerns it. An audit hook can't be removed, so there is one for all."""

    def __init__(self) -> None:
        self.source = None
        sys.addaudithook(lambda event, details: self.copy(details[0]) if event in EVENTS and self.source else None)

    @contextmanager
    def of(self, source, target):
        """Copies `source` to numbered directories in `target` during the block, and yields their list."""
        self.source, self.target, self.made = source, target, []
        try:
            yield self.made
        finally:
            self.source = None

    def copy(self, path):
        source = self.source
        if str(source) not in str(path):
            return
        self.source = None  # the calls of the copy itself
        copied = self.target / f"{len(self.made)}"
        shutil.copytree(source, copied)
        self.made.append(copied)
        self.source = source


COPIES = Copies()


@pytest.fixture
def flushes(monkeypatch):
    """Makes the flushes, which are no audit events, places of a kill, too."""
    flush = atomic_files.flush

    def flush_and_copy(path):
        if COPIES.source:
            COPIES.copy(path)
        flush(path)

    monkeypatch.setattr(atomic_files, "flush", flush_and_copy)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None, name="small")


def write_index(root, model):
    index = DescriptorIndex()
    index.add([f"{n}" for n in range(50)], np.random.default_rng(0).normal(size=(50, 8)))
    index.save(root / "index.npz")


def write_records(path):
    rng = np.random.default_rng(0)
    write_youtube8m(path, [{"id": f"{n}", "labels": [n % 3], "frames": rng.normal(size=(n + 1, 4))} for n in range(8)])


def check_records(path):
    assert sum(len(inputs["num_frames"]) for inputs, _ in youtube8m(path, 4, feature_sizes={"frames": 4})) == 8


def write_triton(root, model):
    publish_triton(model, root / "models", verify=False)


def check_artifacts(root):
    for path in find_artefacts(root):
        assert inspect_artefact(path).num_bytes
        Artefact(path)


def check_triton(root):
    check_artifacts(root)
    assert (root / "config.pbtxt").is_file()


@dataclass
class Writer:
    """A writer: its targets, the files that may be visible early, the check of a visible target, and its calls."""

    write: Callable[[Path, keras.Model], object]
    target: str
    check: Callable[[Path], object]
    min_calls: int
    companions: tuple[str, ...] = ()


WRITERS = {
    "index": Writer(write_index, "index.npz", DescriptorIndex.load, 10),
    "records": Writer(lambda root, _: write_records(root / "frames.tfrecord"), "frames.tfrecord", check_records, 9),
    "saved_model": Writer(
        lambda root, model: export_saved_model(model, root / "1", verify=False), "1", check_artifacts, 20
    ),
    "onnx": Writer(
        lambda root, model: export_onnx(model, root / "model.onnx", verify=False, external_data_threshold=1),
        "model.onnx",
        check_artifacts,
        12,
        ("model.onnx.data", "model.onnx.parity.json"),
    ),
    "both": Writer(lambda root, model: export_model(model, root / "out"), "out", check_artifacts, 60),
    "publish": Writer(
        lambda root, model: publish(model, root / "models", warmup_frames=(2,)), "models/small/1", check_artifacts, 30
    ),
    "triton": Writer(write_triton, "models/small", check_triton, 35),
}


def visible(root):
    """Paths in a directory that no hidden directory holds."""
    paths = [path.relative_to(root) for path in root.rglob("*")]
    return {str(path) for path in paths if not any(part.startswith(".") for part in path.parts)}


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_kill_at_any_call_leaves_nothing_or_all_of_a_target(tmp_path, model, flushes, writer):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "copies").mkdir()
    with COPIES.of(root, tmp_path / "copies") as copies:
        writer.write(root, model)
    assert len(copies) >= writer.min_calls
    writer.check(root / writer.target)
    found = []
    for copy in copies:
        if (copy / writer.target).exists():
            writer.check(copy / writer.target)
            found.append(copy)
        else:
            parents = {str(path) for path in Path(writer.target).parents}
            assert visible(copy) <= {*writer.companions, *parents}
    # The place next to the last rename, and one in the middle.
    for copy in {copies[len(copies) // 2], next((copy for copy in reversed(copies) if copy not in found), copies[0])}:
        if not (copy / writer.target).exists():
            writer.write(copy, model)
            writer.check(copy / writer.target)
