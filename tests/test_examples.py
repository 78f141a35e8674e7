"""The examples run as they are, at small size."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(directory, name, *arguments):
    finished = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments], cwd=directory, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_quickstart(tmp_path):
    printed = run_example(tmp_path, "quickstart.py", "--epochs", "2", "--output", "out")
    assert "Test accuracy: 0." in printed
    assert printed.count(" ok") == 13  # 11 outputs in five signatures, and the two of the ONNX model
    assert (tmp_path / "out" / "model.onnx").is_file()


@pytest.mark.slow
def test_long_video(tmp_path):
    printed = run_example(tmp_path, "long_video.py", "--minutes", "0.5", "--features", "32", "--clusters", "4")
    assert "750 frames (0.5 min, 0 MB) pooled to 128 numbers" in printed


@pytest.mark.slow
def test_migrate_from_tfa(tmp_path):
    printed = run_example(tmp_path, "migrate_from_tfa.py")
    assert "Saved migrated.keras, 909 parameters" in printed
    # Measured 2.7e-7.
    assert float(re.search(r"difference to the old model's: (\S+)", printed)[1]) < 5e-6
