"""The notebooks run as they are, and their outputs belong to their code."""

import base64
import json
import re

import keras
import pytest
from paths import EXAMPLES

NOTEBOOKS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in EXAMPLES.glob("*.ipynb")}


def code_cells(name):
    return [cell for cell in NOTEBOOKS[name]["cells"] if cell["cell_type"] == "code"]


def pictures(name):
    outputs = [output.get("data", {}) for cell in code_cells(name) for output in cell["outputs"]]
    return [base64.b64decode(data["image/png"]) for data in outputs if "image/png" in data]


@pytest.mark.parametrize(("name", "count"), [("netvlad_from_scratch", 2), ("own_videos", 3), ("place_search", 3)])
def test_the_outputs_are_of_one_run_and_small(name, count):
    cells = code_cells(name)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert {output["output_type"] for cell in cells for output in cell["outputs"]} <= {
        *("stream", "display_data", "execute_result")
    }
    assert len(pictures(name)) == count
    assert (EXAMPLES / f"{name}.ipynb").stat().st_size < 300_000


def test_the_layer_has_40_lines():
    (source,) = (
        "".join(cell["source"]) for cell in code_cells("netvlad_from_scratch") if "class " in "".join(cell["source"])
    )
    lines = source[source.index("class ") :].splitlines()
    assert len([line for line in lines if line and not line.lstrip().startswith("#")]) <= 40


def run(name, options):
    """Runs the cells of a notebook with other options, and returns its names."""
    pytest.importorskip("matplotlib").use("agg")
    first, *others = code_cells(name)
    names = {}
    exec("".join(first["source"]), names)
    assert set(options) <= set(names)
    names |= options
    for cell in others:
        exec("".join(cell["source"]), names)
    keras.backend.clear_session()
    return names


@pytest.mark.slow
def test_netvlad_from_scratch(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("netvlad_from_scratch", {"EPOCHS": 2})
    printed = capsys.readouterr().out
    # Measured 6e-8.
    assert float(re.search(r"largest difference (\S+)", printed)[1]) < 1e-6
    # The faults of the short layer, which the library does not have.
    assert re.findall(r"40 lines .*(finite|nan)$", printed, flags=re.MULTILINE) == ["finite", "nan", "nan"]
    assert "keras_netvlad  370 of 370 descriptors are finite" in printed
    assert "keras_netvlad  length of the descriptor 0.0" in printed
    # Measured 6.5e-5, the rounding of a float16 descriptor.
    assert float(re.search(r"keras_netvlad  largest error (\S+)", printed)[1]) < 5e-4


@pytest.mark.slow
def test_place_search(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = run("place_search", {"EPOCHS": 1, "VIEWS": 2})
    printed = capsys.readouterr().out
    recalls = dict(re.findall(r"^(.*?)  +recall@1 (\S+)", printed, flags=re.MULTILINE))
    # Measured 0.71 and 0.81; an arbitrary answer is right in one of 52 cases.
    assert float(recalls["NetVLAD, k-means"]) > float(recalls["mean"]) > 0.5
    assert printed.count(" ok") == 1
    # The ONNX file and the index answer as the model does.
    assert names["found"].shape == (1, 3)
    assert (tmp_path / "places.npz").is_file()
