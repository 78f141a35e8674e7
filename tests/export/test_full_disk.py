"""Exports to a full disk: one sentence that names the path, and nothing left, whichever file does not fit."""

import errno
import os
from pathlib import Path

import keras
import pytest

from keras_netvlad.export import export_model, export_onnx, export_saved_model, publish, publish_triton
from keras_netvlad.models import VideoClassifier

resource = pytest.importorskip("resource", reason="a limit on the size of files needs POSIX")
SENTENCE = r"^The disk must have room for the output; free some space or choose another path\. Received: "


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    # 69 kB of weights, more than the limit below.
    return VideoClassifier({"frames": 64}, 3, num_clusters=8, hidden_units=32, name="classifier")


@pytest.fixture
def small_files():
    """A limit on the size of files fails writes as a full disk does, also those of TensorFlow's C++."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


EXPORTS = {
    "saved_model": lambda model, path: export_saved_model(model, path, verify=False),
    "onnx": lambda model, path: export_onnx(model, f"{path}.onnx", verify=False),
    "external": lambda model, path: export_onnx(model, f"{path}.onnx", verify=False, external_data_threshold=1),
    "triton": lambda model, path: publish_triton(model, path, verify=False),
}


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize("export", ["saved_model", slow("onnx"), "external", slow("triton")])
def test_a_file_that_does_not_fit_is_named(model, tmp_path, small_files, export):
    with pytest.raises(OSError, match=rf"{SENTENCE}{tmp_path}/\.?out.* \(File too large\)$") as caught:
        EXPORTS[export](model, tmp_path / "out")
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_path_is_the_callers_and_not_a_temporary_one(model, tmp_path, small_files):
    with pytest.raises(OSError, match=rf"{SENTENCE}{tmp_path}/out \("):
        export_model(model, tmp_path / "out")
    with pytest.raises(OSError, match=rf"{SENTENCE}{tmp_path}/models/classifier/1 \("):
        publish(model, tmp_path / "models")
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "models" / "classifier").iterdir()) == []


# The files that Python writes by name. Those of TensorFlow and the weights are tested above.
FILES = [
    slow("saved_model", "parity.json"),
    slow("onnx", "out.onnx"),
    ("onnx", "out.onnx.parity.json"),
    slow("triton", "model.onnx"),
    slow("triton", "model.onnx.parity.json"),
    ("triton", "config.pbtxt"),
]


def fail_on(monkeypatch, name, nth=1):
    """Fails the nth write to files of a name, after some bytes."""
    real, seen = {kind: getattr(Path, kind) for kind in ("write_text", "write_bytes")}, []

    def write(kind):
        def failing(path, content, *arguments, **options):
            seen.extend([path] if path.name == name else [])
            if path.name == name and len(seen) == nth:
                real[kind](path, content[:3])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real[kind](path, content, *arguments, **options)

        return failing

    for kind in real:
        monkeypatch.setattr(Path, kind, write(kind))
    return seen


@pytest.mark.parametrize(("export", "name"), FILES)
def test_each_small_file_that_does_not_fit_is_named(model, tmp_path, monkeypatch, export, name):
    fail_on(monkeypatch, name)
    with pytest.raises(OSError, match=rf"{SENTENCE}{tmp_path}/\.?out.* \(No space left on device\)$"):
        EXPORTS[export](model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_name_of_a_graph_that_does_not_fit_is_named(model, tmp_path, monkeypatch):
    fail_on(monkeypatch, "model.onnx", nth=2)
    with pytest.raises(OSError, match=rf"{SENTENCE}{tmp_path}/\.?out.* \(No space left on device\)$"):
        publish_triton(model, tmp_path / "out", verify=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["parity.json", "batching_params.pbtxt"])
def test_each_small_file_of_a_published_version_is_named(model, tmp_path, monkeypatch, name):
    fail_on(monkeypatch, name)
    with pytest.raises(OSError, match=rf"{SENTENCE}{tmp_path}/classifier/1 \(No space left on device\)$"):
        publish(model, tmp_path)
    assert list((tmp_path / "classifier").iterdir()) == []


@pytest.mark.parametrize("export", ["saved_model", slow("onnx"), slow("external"), "triton"])
def test_permissions_are_those_of_the_umask(model, tmp_path, export):
    before = os.umask(0o027)
    try:
        EXPORTS[export](model, tmp_path / "out")
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path): oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*")}
    expected = {path: "0o750" if (tmp_path / path).is_dir() else "0o640" for path in modes}
    assert modes == expected
