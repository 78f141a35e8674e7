import contextlib

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_netvlad.export import export_onnx, export_saved_model, inspect_artefact, publish
from keras_netvlad.export.inspection import find_artefacts
from keras_netvlad.models import VideoClassifier


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return VideoClassifier({"frames": 6}, 5, num_clusters=4, hidden_units=8, name="classifier")


@pytest.fixture(scope="module")
def base(model, tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    rows = {"frames": np.zeros((3, 2, 6), "float32"), "num_frames": np.array([1, 2, 2])}
    publish(model, base, metadata={"labels": list("abcdefg"[:5]), "trained_on": "noise"}, data=rows)
    export_onnx(model, base / "model.onnx", external_data_threshold=1)
    return base


def test_a_saved_model_is_described(base, model):
    description = inspect_artefact(base / "classifier" / "1")
    assert description.kind == "saved_model"
    assert description.stored == {"float32": model.count_params()}
    assert description.num_warmup_requests == 18
    names = list(description.signatures)
    assert names == ["serving_default", *sorted(names[1:])]
    assert description.signatures["serving_default"] == (
        {"frames": ((None, None, 6), "float32"), "num_frames": ((None,), "int32")},
        {"descriptor": ((None, 24), "float32"), "scores": ((None, 5), "float32")},
    )
    text = str(description)
    for part in (
        "saved_model  ",
        f"  stores      {model.count_params():,} float32\n",
        "  trained_on  noise\n",
        "  labels      5: a, b, c, d, e\n",
        "  warm-up     18 requests\n",
        "    <- frames  float32 (?, ?, 6)\n",
        "    -> frames_first_sum  float32 (?, 4, 6)\n",
        "  parity      ok, ",
        "    serving_default scores: relative difference ",
        "    top-1 agreement of scores: 3 of 3 rows",
    ):
        assert part in text


def test_an_onnx_model_is_described(base, model):
    description = inspect_artefact(base / "model.onnx")
    assert description.kind == "onnx"
    # The weights, and a few constants of the graph.
    assert model.count_params() <= description.stored["float32"] < model.count_params() + 10
    assert description.num_bytes == sum((base / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    assert "opset 18" in description.made_with
    assert "    <- frames  float32 (batch, frames, 6)\n" in str(description)
    assert "  precision   float32\n" in str(description)


def test_what_was_not_verified_says_so(model, tmp_path):
    export_saved_model(model, tmp_path / "1", verify=False)
    assert "parity      not recorded; `keras-netvlad verify` compares" in str(inspect_artefact(tmp_path / "1"))
    (tmp_path / "1" / "parity.json").unlink()
    assert "parity      not recorded" in str(inspect_artefact(tmp_path / "1"))


@pytest.mark.slow
def test_a_directory_of_models_is_searched_in_the_order_of_versions(model, tmp_path):
    for name in ("10", "9", ".9.partial"):
        export_saved_model(model, tmp_path / "classifier" / name, verify=False)
    assert [path.name for path in find_artefacts(tmp_path)] == ["9", "10"]
    assert find_artefacts(tmp_path / "classifier" / "9") == [tmp_path / "classifier" / "9"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"There must be a SavedModel, an .onnx or a .tflite file at or below"):
        find_artefacts(tmp_path / "empty")


def test_other_things_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"An artifact is a directory with a saved_model.pb or a file"):
        inspect_artefact(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"must be an ONNX model; export it again. Received: .*model.onnx"):
        inspect_artefact(tmp_path / "model.onnx")
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ValueError, match=r"must be a SavedModel's graph with the tag `serve`"):
        inspect_artefact(tmp_path)


@pytest.mark.slow
def test_damaged_parts_are_named(model, tmp_path):
    export_saved_model(model, tmp_path / "1")
    (tmp_path / "1" / "parity.json").write_text("{")
    with pytest.raises(ValueError, match=r"as JSON; export the artifact again. Received: .*parity.json \("):
        inspect_artefact(tmp_path / "1")
    for text, reason in (
        ("[]", "the file holds a list, not an object"),
        ("[" * 100_000, "the file nests its values too deeply"),
        ('{"parity": {"ok": true}}', "the value `parity.num_runs` is missing or has the wrong type"),
        ('{"metadata": {"labels": [1]}}', r"the value `metadata.labels\[0\]` is missing or has the wrong type"),
        ('{"parity": {"ok": true, "num_runs": 1' + "0" * 400 + "}}", "the value `parity.num_runs` is missing"),
    ):
        (tmp_path / "1" / "parity.json").write_text(text)
        with pytest.raises(ValueError, match=rf"export the artifact again. Received: .*parity.json \({reason}"):
            inspect_artefact(tmp_path / "1")
    (tmp_path / "1" / "parity.json").write_bytes(b'{"producer": "\xff"}')
    with pytest.raises(ValueError, match=r"export the artifact again. Received: .*parity.json \(.*utf-8"):
        inspect_artefact(tmp_path / "1")
    (tmp_path / "1" / "variables" / "variables.index").write_bytes(b"x" * 10)
    with pytest.raises(ValueError, match=r"must be a SavedModel's variables"):
        inspect_artefact(tmp_path / "1")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1), value=st.integers(0, 255), cut=st.booleans(), kind=st.sampled_from(["onnx", "pb"]))
def test_damaged_bytes_give_a_description_or_one_sentence(base, tmp_path, position, value, cut, kind):
    whole = base / "model.onnx" if kind == "onnx" else base / "classifier" / "1" / "saved_model.pb"
    content = bytearray(whole.read_bytes())
    index = int(position * (len(content) - 1))
    content[index] = value
    damaged = tmp_path / ("model.onnx" if kind == "onnx" else "saved_model.pb")
    damaged.write_bytes(content[:index] if cut else content)
    (tmp_path / "variables").mkdir(exist_ok=True)
    for file in (base / "classifier" / "1" / "variables").iterdir():
        (tmp_path / "variables" / file.name).write_bytes(file.read_bytes())
    with contextlib.suppress(ValueError):  # the one sentence; anything else fails
        assert str(inspect_artefact(damaged if kind == "onnx" else tmp_path))
