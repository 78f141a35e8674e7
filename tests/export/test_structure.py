"""Signatures are computed once per call, and modules of `keras_netvlad.export` import only from lower levels."""

import ast
import collections

import pytest
from paths import ROOT
from small_classifier import make_classifier

from keras_netvlad.export import export_model, export_onnx, export_saved_model, publish, publish_triton, verify
from keras_netvlad.export import serving_signatures as signatures_module

EXPORT = ROOT / "keras_netvlad" / "export"
LEVELS = (
    ("port", "signature", "float8", "reason", "forward", "graph_walk", "metadata", "parity_file", "pictures"),
    ("model_card", "model_signature", "frame_by_frame", "padding", "serving_signatures"),
    ("verification",),
    ("saved_model", "onnx", "litert"),
    ("serving",),
    ("model_export", "description", "inspection", "layer_comparison"),
)
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "serving", "default"),
    [
        (lambda model, path: export_saved_model(model, path / "1"), 1, 0),
        (lambda model, path: export_onnx(model, path / "model.onnx"), 0, 1),
        (lambda model, path: export_onnx(model, path / "model.onnx", signature="describe"), 1, 0),
        (lambda model, path: export_model(model, path / "out"), 1, 0),
        (lambda model, path: export_model(model, path / "out", formats=["onnx"]), 0, 1),
        (lambda model, path: export_model(model, path / "out", formats=["onnx"], onnx_signatures="all"), 1, 0),
        (lambda model, path: publish(model, path), 1, 0),
        (lambda model, path: publish_triton(model, path / "repository"), 0, 1),
        (lambda model, path: verify(model, path / "made.onnx"), 1, 0),
    ],
    ids=[
        "export_saved_model",
        "export_onnx",
        "export_onnx describe",
        "export_model",
        "export_model onnx",
        "export_model onnx all",
        "publish",
        "publish_triton",
        "verify",
    ],
)
def test_the_signatures_of_a_model_are_computed_once(call, serving, default, tmp_path, monkeypatch):
    """The float64 copy is another model, whose signatures are not counted."""
    model = make_classifier()
    export_onnx(model, tmp_path / "made.onnx", verify=False)
    calls = collections.Counter()
    for function in (signatures_module.serving_signatures, signatures_module.read_signature):

        def counting(given, function=function):
            calls[function.__name__] += given is model
            return function(given)

        for path in modules():
            module = ".".join(["keras_netvlad", "export", *path.relative_to(EXPORT).with_suffix("").parts])
            if path.name != "__init__.py" and function.__name__ in imported_names(path):
                monkeypatch.setattr(f"{module}.{function.__name__}", counting)
    call(model, tmp_path)
    # `serving_signatures` reads the default signature itself.
    assert (calls["serving_signatures"], calls["read_signature"]) == (serving, serving + default)


def modules():
    return sorted(EXPORT.rglob("*.py"))


def imports_of(path):
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]


def imported_names(path):
    return {alias.name for node in imports_of(path) for alias in node.names}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(EXPORT)))
def test_modules_import_from_lower_levels_only(path):
    room = path.relative_to(EXPORT).with_suffix("").parts[0]
    if room == "__init__":
        assert {file.relative_to(EXPORT).with_suffix("").parts[0] for file in modules()} - {room} == set(LEVEL_OF)
        return
    for node in imports_of(path):
        if node.module and node.module.startswith("keras_netvlad.export."):
            other = node.module.split(".")[2]
            assert LEVEL_OF[other] <= LEVEL_OF[room], f"{path.name} imports {node.module}"
