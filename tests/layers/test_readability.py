"""The public poolings are readable: each owns its methods, and a call runs through few files."""

import ast
import inspect
import itertools
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from paths import ROOT

from keras_netvlad import layers

PACKAGE = str(ROOT / "keras_netvlad")
PURE = (layers.MaxPooling, layers.MeanPooling, layers.MeanStdPooling)
POOLINGS = (
    layers.NetVLAD,
    layers.NetRVLAD,
    layers.NetFV,
    layers.NeXtVLAD,
    layers.SoftDBoW,
    layers.SALAD,
    layers.ScoredVLAD,
    layers.VLAD,
    layers.AttentionPooling,
    layers.GeMPooling,
    *PURE,
)
# Measured for NetVLAD: 6 files and 11 changes of file. NetFV has the most equations.
MOST_FILES, MOST_CHANGES = 6, {layers.NetFV: 24, layers.NeXtVLAD: 14}


def new_layer(pooling):
    has_clusters = "num_clusters" in inspect.signature(pooling.__init__).parameters
    scores = {"score_layer": keras.layers.Dense(4)} if pooling is layers.ScoredVLAD else {}
    return pooling(num_clusters=4, **scores) if has_clusters else pooling()


def files_of_calls(layer, inputs, mask):
    """Returns the file of each function of the package that a call of the layer runs, in order."""
    files = []

    def profile(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            files.append(frame.f_code.co_filename)

    sys.setprofile(profile)
    try:
        layer.call(inputs, mask=mask)
    finally:
        sys.setprofile(None)
    return files


@pytest.mark.parametrize("pooling", POOLINGS, ids=lambda pooling: pooling.__name__)
def test_a_masked_call_runs_through_few_files(pooling):
    inputs = keras.ops.convert_to_tensor(np.ones((2, 7, 8), "float32"))
    mask = keras.ops.convert_to_tensor(np.arange(7) < [[7], [4]])
    layer = new_layer(pooling)
    layer(inputs, mask=mask)
    files = files_of_calls(layer, inputs, mask)
    assert files[0] == inspect.getfile(pooling)
    assert len(set(files)) <= MOST_FILES, sorted(set(files))
    assert sum(earlier != later for earlier, later in itertools.pairwise(files)) <= MOST_CHANGES.get(pooling, 12), files


@pytest.mark.parametrize("pooling", POOLINGS, ids=lambda pooling: pooling.__name__)
def test_each_pooling_defines_its_own_methods_in_order(pooling):
    # The poolings without weights need no `build`: that of the base class notes the feature size.
    expected = ["__init__", "build", "call", "compute_output_shape", "get_config"]
    if pooling in PURE:
        expected.remove("build")
    own = [name for name, value in vars(pooling).items() if inspect.isfunction(value)]
    assert [name for name in own if name in expected] == expected
    # The first ones: helpers and other public methods come after them.
    assert own[: len(expected)] == expected


@pytest.mark.parametrize("pooling", POOLINGS, ids=lambda pooling: pooling.__name__)
def test_at_most_two_classes_stand_between_a_pooling_and_keras(pooling):
    between = [base for base in pooling.__mro__[1:] if issubclass(base, keras.Layer) and base is not keras.Layer]
    between = [base for base in between if base.__module__.startswith("keras_netvlad.")]
    assert len(between) <= 2
    mixins = [base for base in pooling.__mro__[1:] if base.__module__.startswith("keras_netvlad.")]
    assert all(mixin.__bases__ == (object,) for mixin in mixins if mixin not in between)


def test_every_public_pooling_is_checked():
    from keras_netvlad.layers.frame_pooling import FramePooling

    public = {getattr(layers, name) for name in layers.__all__}
    assert {layer for layer in public if issubclass(layer, FramePooling)} == set(POOLINGS)


def private_names():
    """Returns the private names that the classes of `keras_netvlad.layers` define."""
    classes = {base for pooling in POOLINGS for base in pooling.__mro__ if base.__module__.startswith("keras_netvlad.")}
    return {name for each in classes for name in vars(each) if name.startswith("_") and not name.startswith("__")}


def test_no_other_module_reads_a_private_name_of_a_layer():
    names = private_names() - {"_abc_impl", "_api_export_path", "_tracker", "_lock", "_auto_config"}
    assert {"_assigned", "_residuals", "_real_features"} <= names
    readers = []
    for path in sorted(Path(PACKAGE).rglob("*.py")):
        if path.parent.name == "layers":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            is_attribute = isinstance(node, ast.Attribute) and node.attr in names
            if is_attribute and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
                readers.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {node.attr}")
    assert readers == []
