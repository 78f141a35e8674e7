"""The script that plants faults: its result for faults that tests notice and do not notice, and its errors."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LIMIT = """
def is_small(x):
    return x < 3


def name():
    return "limit"


def count_down(x):
    while x > 0:
        x -= 1
    return x
"""
TESTS = """
import pytest
from limit import count_down, is_small, name


def test_limit():
    assert is_small(2) and not is_small(3)


def test_name():
    name()


def test_count():
    assert count_down(3) == 0


def test_absent():
    pytest.importorskip("no_such_package")


def test_broken():
    assert name() == "other"
"""


@pytest.fixture
def play(tmp_path):
    """A function that plants changes in a small repository and returns the results in order."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "limit.py").write_text(LIMIT)
    (tmp_path / "tree" / "test_limit.py").write_text(TESTS)
    (tmp_path / "tree" / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]\n')

    def play(*changes):
        program = f"""
            import sys
            sys.path.insert(0, {str(HERE)!r})
            from pathlib import Path
            from mutant import Mutant
            from runner import run
            root = Path({str(tmp_path / "tree")!r})
            mutants = [Mutant("limit.py", a, b, (f"test_limit.py::{{t}}",), *e) for a, b, t, *e in {changes!r}]
            print([mutant.is_stale(root) for mutant in mutants])
            for mutant, result in run(root, mutants, 3, preloaded=["pytest"]):
                print(result, flush=True)
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
        assert (tmp_path / "tree" / "limit.py").read_text() == LIMIT
        stale, *results = done.stdout.splitlines()
        return stale, results, done.stderr

    return play


@pytest.mark.slow
def test_every_fault_gets_its_result(play):
    stale, results, _ = play(
        ("x < 3", "x < 4", "test_limit"),
        ("x < 3", "x <= 3", "test_name"),
        ("x -= 1", "x -= 0", "test_count"),  # never ends
        ("x < 3", "x < 4", "test_absent"),
        ("x < 3", "not x >= 3", "test_limit", "the same"),
        ("return x < 3", "return (", "test_name"),  # cannot be imported
        ("x < 3", "x < 2", "test_limit"),
    )
    assert stale == str([False] * 7)
    assert results == [
        "killed",
        "survived",
        "killed by the time limit",
        "not applicable",
        "equivalent",
        "killed",
        "killed",
    ]


def test_what_does_not_fit_the_source_is_stale(play):
    stale, _, _ = play(
        ("x < 5", "x < 4", "test_limit"),
        ("x", "y", "test_limit"),  # more than one place
        ("x < 3", "x < 4", "test_gone"),
        ("x < 3", "x < 3", "test_limit"),
    )
    assert stale == str([True] * 4)


def test_tests_that_fail_without_a_fault_judge_none(play):
    _, results, error = play(("x < 3", "x < 4", "test_broken"))
    assert results == []
    assert "BrokenTestsError: Tests of test_limit.py fail without a mutant" in error
