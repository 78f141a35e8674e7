"""Files of earlier releases load, and compute the same numbers.

`make_golden.py` in `tests/files/golden` wrote those of release 0.1.0, those in `golden_0_2` and
`golden_0_2_youtube8m` those of 0.2.0.
"""

import functools
import runpy
import zipfile

import keras
import numpy as np
import pytest
from paths import FILES

import keras_netvlad  # noqa: F401
from keras_netvlad.layers import NetFV

DIRECTORIES = (FILES / "golden", FILES / "golden_0_2", FILES / "golden_0_2_youtube8m")
MODELS = {path.stem: path for directory in DIRECTORIES for path in sorted(directory.glob("*.keras"))}
# Largest differences, relative to the largest value. On a processor that rounds as the one that wrote the files all
# outputs but Fisher vectors, which release 0.1.0 summed around 0, are equal bit by bit; on others they are not.
NETFV = {"float64": 4e-15, "float32": 2e-6}
# On another processor. Layers of 16 bits round at every step.
ELSEWHERE = {"float64": 4e-15, "float32": 2e-5, "float16": 4e-3}
SIXTEEN_BITS = ("mixed", "float16", "mixture_of_experts_options", "ensemble")
SIXTEEN_BITS_ELSEWHERE = 1e-2


@functools.cache
def _archive(directory):
    """Returns the inputs and outputs of the models of a directory, and whether this processor rounds as theirs."""
    with np.load(directory / "golden.npz") as file:
        arrays = dict(file)
    make_golden = runpy.run_path(str(directory / "make_golden.py"))
    return arrays, np.array_equal(make_golden["canary"](), arrays["canary"])


def _part(arrays, name, kind):
    prefix = f"{name}/{kind}/"
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def _numpy(value):
    value = keras.ops.convert_to_numpy(value)
    return value.astype("float32") if value.dtype.kind == "V" else value


def _outputs(model, inputs):
    """Returns the outputs that `make_golden.py` saved; for poolings also those with masks and of public methods."""
    weights = inputs.pop("weights", None)
    outputs = model(inputs, training=False)
    outputs = dict(outputs) if isinstance(outputs, dict) else {"output": outputs}
    if weights is None:
        return outputs
    layer, frames, mask = model.layers[-1], inputs["frames"], inputs["mask"]
    outputs.update(unmasked=layer(frames), weighted=layer(frames, mask=weights))
    if hasattr(layer, "assign"):
        outputs["assign"] = layer.assign(frames, mask=mask)
    if hasattr(layer, "aggregate"):
        sums = layer.aggregate(frames, mask=mask)
        if not isinstance(layer, NetFV):
            outputs.update(first_sum=sums[0], second_sum=sums[1])
        outputs["describe"] = layer.describe(*sums)
    return outputs


@pytest.mark.parametrize("name", MODELS)
def test_a_file_of_an_earlier_release_gives_the_same_numbers(name):
    arrays, rounds_alike = _archive(MODELS[name].parent)
    model = keras.saving.load_model(MODELS[name])
    received = _outputs(model, _part(arrays, name, "inputs"))
    expected = _part(arrays, name, "outputs")
    assert set(received) == set(expected)
    for key, value in expected.items():
        found = _numpy(received[key])
        assert found.dtype == value.dtype, key
        if value.dtype == bool:
            np.testing.assert_array_equal(found, value)
            continue
        limits = NETFV if "netfv" in name else {}
        limit = limits.get(value.dtype.name, 0) if rounds_alike else ELSEWHERE[value.dtype.name]
        if not rounds_alike and any(part in name for part in SIXTEEN_BITS):
            limit = SIXTEEN_BITS_ELSEWHERE
        difference = np.abs(found.astype("float64") - value.astype("float64")).max()
        assert difference <= limit * np.abs(value).max(), key


def test_every_public_layer_and_preset_has_a_file():
    from keras_netvlad import layers
    from keras_netvlad.models.presets import PRESETS

    configs = "".join(zipfile.ZipFile(path).read("config.json").decode() for path in MODELS.values())
    # A VideoClassifier's file has no configurations of its layers.
    missing = {name for name in layers.__all__ if f'"class_name": "{name}"' not in configs}
    assert missing == {"PicturePreprocessing"}  # part of what `export_onnx(layout=...)` makes, which is never saved
    assert {f"preset_{preset}" for preset in PRESETS} <= set(MODELS)
