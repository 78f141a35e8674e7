"""`.keras` files: whole, damaged, foreign, hostile."""

import contextlib
import io
import json
import pickle
import zipfile

import h5py
import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_netvlad.models import VideoClassifier, load_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.keras"
    VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None).save(path)
    return path


def rewritten(whole, path, **parts):
    """A copy of a `.keras` file with some of its parts changed; `None` leaves one out."""
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            key = name.split(".")[0]
            content = parts.get(key, source.read(name))
            if content is not None:
                target.writestr(name, content)
    return path


def test_a_whole_file_is_the_model(whole):
    assert isinstance(load_model(whole), VideoClassifier)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda whole, path: None, FileNotFoundError, r"Received: .*broken.keras, which is not a file"),
        (lambda whole, path: path.mkdir(), FileNotFoundError, r"Received: .*broken.keras, which is not a file"),
        (lambda whole, path: path.write_bytes(b""), ValueError, r"must be a whole .keras file"),
        (lambda whole, path: path.write_bytes(whole.read_bytes()[:-40]), ValueError, r"must be a whole .keras file"),
        (lambda whole, path: path.write_bytes(pickle.dumps({"a": 1})), ValueError, r"must be a whole .keras file"),
        (lambda whole, path: rewritten(whole, path, config=None), ValueError, r"could not be rebuilt"),
        (lambda whole, path: rewritten(whole, path, config=b"{"), ValueError, r"could not be rebuilt"),
        (lambda whole, path: rewritten(whole, path, model=None), ValueError, r"could not be rebuilt"),
        (lambda whole, path: rewritten(whole, path, model=b"no HDF5"), ValueError, r"could not be rebuilt"),
    ],
)
def test_what_is_no_whole_model_says_so(whole, tmp_path, make, error, message):
    make(whole, tmp_path / "broken.keras")
    with pytest.raises(error, match=message):
        load_model(tmp_path / "broken.keras")


def test_code_in_a_file_is_not_run(tmp_path):
    frames = keras.Input((None, 3), name="frames")
    keras.Model(frames, keras.layers.Lambda(lambda x: x * 2)(frames)).save(tmp_path / "lambda.keras")
    with pytest.raises(ValueError, match=r"could not be rebuilt"):
        load_model(tmp_path / "lambda.keras")


def test_a_file_that_names_another_modules_function_is_refused(whole, tmp_path):
    with zipfile.ZipFile(whole) as source:
        config = json.loads(source.read("config.json"))
    config["module"], config["class_name"], config["config"] = "os", "system", {"command": f"touch {tmp_path}/run"}
    rewritten(whole, tmp_path / "hostile.keras", config=json.dumps(config))
    with pytest.raises(ValueError, match=r"could not be rebuilt"):
        load_model(tmp_path / "hostile.keras")
    assert not (tmp_path / "run").exists()


def resized(whole, path, **arguments):
    with zipfile.ZipFile(whole) as source:
        config = json.loads(source.read("config.json"))
    config["config"].update(arguments)
    return rewritten(whole, path, config=json.dumps(config))


@pytest.mark.slow
def test_a_file_that_declares_more_than_it_holds_is_refused_before_memory_is_taken(whole, tmp_path):
    resized(whole, tmp_path / "layers.keras", num_clusters=10**9)
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        file.create_dataset("layers/vars/0", (10**9,), "float32", chunks=True)  # no values are stored
    rewritten(whole, tmp_path / "weights.keras", model=weights.getvalue())
    with zipfile.ZipFile(tmp_path / "members.keras", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", bytes(300 << 20))
    for name in ("layers", "weights", "members"):
        with pytest.raises(ValueError, match=rf"Received: .*{name}.keras \(the file has .* and declares {name} of "):
            load_model(tmp_path / f"{name}.keras")


def test_pickled_arrays_are_not_opened(tmp_path):
    from keras_netvlad.export import export_onnx, verify

    model = VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None)
    export_onnx(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "pickled.npz", frames=np.array([{"a": 1}], object), num_frames=np.array([1]))
    with pytest.raises(ValueError, match=r"`data` must be an .npz file of arrays"):
        verify(model, tmp_path / "model.onnx", data=tmp_path / "pickled.npz")


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1), value=st.integers(0, 255), part=st.sampled_from(["config.json", "model.weights.h5"]))
def test_damaged_parts_give_a_model_or_one_sentence(whole, tmp_path, position, value, part):
    with zipfile.ZipFile(whole) as source:
        content = bytearray(source.read(part))
    content[int(position * (len(content) - 1))] = value
    damaged = rewritten(whole, tmp_path / "damaged.keras", **{part.split(".")[0]: bytes(content)})
    with contextlib.suppress(ValueError), contextlib.redirect_stderr(io.StringIO()):  # the sentence; no other error
        load_model(damaged)
