"""The notebook runs as it is, and its outputs belong to its code."""

import json

import keras
import pytest
from make_features import CLASSES, SIZE, make_backbone
from make_labeled_videos import make_labeled_videos
from paths import EXAMPLES

NOTEBOOK = json.loads((EXAMPLES / "own_videos.ipynb").read_text(encoding="utf-8"))
CELLS = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_the_outputs_are_of_one_run_from_top_to_bottom():
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    kinds = {output["output_type"] for cell in CELLS for output in cell["outputs"]}
    assert kinds == {"stream", "display_data", "execute_result"}
    # All but the first, which sets the options, show something.
    assert all(cell["outputs"] for cell in CELLS[1:])


@pytest.mark.slow
def test_the_code_runs(tmp_path, monkeypatch, capsys):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    make_labeled_videos(tmp_path / "videos", CLASSES, clips_per_class=6, groups_per_class=3, seconds=2, size=(64, 48))
    make_backbone(tmp_path / "backbone.keras")
    options = {"LABELS": "videos/labels.csv", "BACKBONE": "backbone.keras", "SIZE": SIZE, "EPOCHS": 2}
    names = {}
    exec("".join(CELLS[0]["source"]), names)
    assert set(options) <= set(names)
    names |= options
    for cell in CELLS[1:]:
        exec("".join(cell["source"]), names)
    printed = capsys.readouterr().out
    assert "18 videos, 72 frames" in printed
    assert "test accuracy of netvlad" in printed
    assert printed.count(" ok") == 11
    assert (tmp_path / "own_videos" / "served" / "own_videos" / "1" / "parity.json").is_file()
    keras.backend.clear_session()
