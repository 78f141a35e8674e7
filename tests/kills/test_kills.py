"""Every writer, killed at each of its calls of the file system: a visible target is complete, and writing again works.

A kill leaves what the process has handed to the system so far. Each call is therefore preceded by a copy of the
directory, which is what a kill at this place leaves. `python -m tests.kills` kills processes.
"""

import re
import shutil
import subprocess
import sys

import pytest
from paths import ROOT

from tests.kills.audit import before_each_call
from tests.kills.writers import WRITERS, check_what_is_left


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_kill_at_any_call_leaves_nothing_or_all_of_a_target(tmp_path, writer):
    root = tmp_path / "root"
    root.mkdir()
    copies = []

    def copy():
        copies.append(tmp_path / f"{len(copies)}" / "root")
        shutil.copytree(root, copies[-1])

    with before_each_call(root, copy):
        writer.write(root)
    assert len(copies) >= writer.min_calls
    writer.check(root / writer.target)
    found = [check_what_is_left(writer, copy) for copy in copies]
    # One in the middle, and, unless the target grows, the place next to the last rename.
    places = {len(copies) // 2} if writer.grows else {len(copies) // 2, len(found) - 1 - found[::-1].index(False)}
    for place in places:
        if writer.grows or not found[place]:
            writer.write(copies[place])
            writer.check(copies[place] / writer.target)


@pytest.mark.slow
def test_the_script_kills_and_counts():
    command = [sys.executable, "-m", "tests.kills", "--kills", "4", "--seed", "0", "--writers", "index", "records"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert re.search(r"^all +4 kills without a fault, 0 with one", finished.stdout, re.MULTILINE)
