"""A short run of the fuzzer. `python -m tests.fuzz` is the long one."""

import subprocess
import sys

import pytest
from paths import ROOT

from tests.fuzz.__main__ import SHARES


@pytest.mark.slow
def test_no_mutated_file_crashes_hangs_or_gives_a_trace():
    command = [sys.executable, "-m", "tests.fuzz", "--inputs", "600", "--seed", "0"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    for kind in SHARES:
        assert f"\n{kind} " in f"\n{finished.stdout}"
