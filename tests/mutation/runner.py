"""Runs tests on copies of the repository that hold one mutant each."""

import contextlib
import importlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from mutant import Mutant

# Imported once: every run of the tests is a fork of this process, which spares most of the start of a new one. The
# package itself is imported in the fork, after the mutant was planted.
PRELOADED = ("pytest", "tensorflow", "keras", "onnx", "onnxruntime", "hypothesis", "av", "scipy.io", "sklearn.cluster")
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", ".hypothesis", "__pycache__", "build", "node_modules", "*.egg-info"
)
KILLED, TIMED_OUT, SURVIVED = "killed", "killed by the time limit", "survived"
NOT_APPLICABLE, EQUIVALENT = "not applicable", "equivalent"
# Exit status of a run without a test that ran, for example because an optional package is missing.
NOTHING_RAN = 77
RESULTS = {0: SURVIVED, NOTHING_RAN: NOT_APPLICABLE, -signal.SIGKILL: TIMED_OUT}


class BrokenTestsError(RuntimeError):
    """Tests fail without a mutant, so that they cannot judge one."""


def run(
    root: Path, mutants: Iterable[Mutant], seconds: int, preloaded: Iterable[str] = PRELOADED
) -> Iterator[tuple[Mutant, str]]:
    """Plants mutants one by one and runs their tests.

    Args:
        root: The repository. It is copied and never changed.
        mutants: Mutants that are not stale.
        seconds: Time limit of the tests of one mutant, after which it counts as killed.
        preloaded: Names of modules to import once for all runs. Mutants must not lie in them.

    Yields:
        Each mutant, and `KILLED`, `TIMED_OUT`, `SURVIVED`, `NOT_APPLICABLE` or `EQUIVALENT`.

    Raises:
        BrokenTestsError: If tests fail without a mutant.
    """
    for name in preloaded:
        with contextlib.suppress(ImportError):  # tests that need an absent package are skipped
            importlib.import_module(name)
    mutants = list(mutants)
    tests_by_file, checked = _tests_by_file(mutants), set()
    with tempfile.TemporaryDirectory(prefix="mutation") as directory:
        tree = Path(directory, "tree")
        shutil.copytree(root, tree, ignore=NOT_COPIED)
        for mutant in mutants:
            if mutant.equivalent:
                yield mutant, EQUIVALENT
                continue
            for file in {test.partition("::")[0] for test in mutant.tests} - checked:
                status, output = run_tests(tree, tests_by_file[file], 10 * seconds, stop_at_first=False)
                if status not in (0, NOTHING_RAN):
                    raise BrokenTestsError(f"Tests of {file} fail without a mutant; repair them first.\n{output}")
                checked.add(file)
            path = tree / mutant.file
            original = path.read_text()
            path.write_text(mutant.applied(original))
            status, _ = run_tests(tree, mutant.tests, seconds)
            path.write_text(original)
            yield mutant, RESULTS.get(status, KILLED)


def run_tests(tree: Path, tests: Iterable[str], seconds: int, stop_at_first: bool = True) -> tuple[int, str]:
    """Runs tests of a copy in a fork of this process.

    Returns:
        The exit status of pytest, `NOTHING_RAN` if no test ran, or -9 after the time limit; and what was printed.
    """
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if not child:
            try:
                os.setsid()  # children of tests are ended together with them
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                status = _run_here(tree, list(tests), stop_at_first)
            except BaseException as error:
                print(repr(error), flush=True)
                status = 3
            os._exit(status)
        deadline = time.monotonic() + seconds
        status = None
        while status is None:
            ended, wait_status = os.waitpid(child, os.WNOHANG)
            if ended:
                status = os.waitstatus_to_exitcode(wait_status)
            elif time.monotonic() > deadline:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                status = -signal.SIGKILL
            else:
                time.sleep(0.05)
        output.seek(0)
        return status, output.read()


def _run_here(tree: Path, tests: list[str], stop_at_first: bool) -> int:
    import sys

    import pytest

    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)  # for processes that tests start
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # the tests need none, and loading them takes seconds
    sys.dont_write_bytecode = True  # cached code is recognized by time and size, which a mutant may share
    sys.path.insert(0, str(tree))

    class Counter:
        passed = 0

        def pytest_runtest_logreport(self, report):
            self.passed += report.when == "call" and report.passed

    counter = Counter()
    options = ["-p", "no:cacheprovider", "-m", "", "--tb=short"]
    status = int(pytest.main([*options, *(["-x"] if stop_at_first else []), *tests], plugins=[counter]))
    return NOTHING_RAN if status == 0 and not counter.passed else status


def _tests_by_file(mutants: Iterable[Mutant]) -> dict[str, list[str]]:
    tests: dict[str, list[str]] = {}
    for mutant in mutants:
        for test in mutant.tests if not mutant.equivalent else ():
            of_file = tests.setdefault(test.partition("::")[0], [])
            if test not in of_file:
                of_file.append(test)
    return tests
