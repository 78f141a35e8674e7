"""The examples run as they are, at small size."""

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
    assert printed.count(" ok") == 4
    assert (tmp_path / "out" / "model.onnx").is_file()
