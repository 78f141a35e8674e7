"""Kills every writer at random calls of the file system; exits with 1 if what is left is wrong."""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.kills.writers import WRITERS, check_what_is_left

# The child writes the number of its calls and ends, or kills itself before a call.
CHILD = """
import os, signal, sys
from pathlib import Path
from tests.kills.audit import before_each_call
from tests.kills.writers import WRITERS
name, root, place = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
calls = 0
def count():
    global calls
    calls += 1
    if calls == place:
        os.kill(os.getpid(), signal.SIGKILL)
with before_each_call(root, count):
    WRITERS[name].write(root)
print(calls)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Kills the writers, prints the counts, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="number of kills (default %(default)s)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="seed of the places (default: the time)")
    parser.add_argument("--writers", nargs="+", choices=WRITERS, default=list(WRITERS), help="only these")
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    begin, counts, faults = time.monotonic(), Counter(), 0
    calls = {name: int(_write(name, 0)) for name in options.writers}
    for number in range(options.kills):
        name = options.writers[number % len(options.writers)]
        place = rng.randint(1, calls[name])
        try:
            _write(name, place)
            counts[name] += 1
        except Exception as error:
            faults += 1
            print(f"{name}, killed before call {place}: {type(error).__name__}: {error}", flush=True)
    for name in options.writers:
        print(f"{name:<15} {counts[name]:>5} kills at {calls[name]} places")
    print(f"{'all':<15} {counts.total():>5} kills without a fault, {faults} with one; seed {options.seed}, ", end="")
    print(f"{time.monotonic() - begin:.0f} s")
    return int(faults > 0)


def _write(name: str, place: int) -> str:
    """Runs a writer in a process, kills it before a call, and checks what is left. Returns what the process printed."""
    writer = WRITERS[name]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        root.mkdir()
        command = [sys.executable, "-c", CHILD, name, str(root), str(place)]
        child = subprocess.run(command, capture_output=True, text=True, timeout=600)
        expected = -signal.SIGKILL if place else 0
        if child.returncode != expected:
            raise RuntimeError(f"exit code {child.returncode} instead of {expected}: {child.stderr[-2000:]}")
        if not check_what_is_left(writer, root) or writer.grows:
            writer.write(root)
        writer.check(root / writer.target)
        return child.stdout


if __name__ == "__main__":
    sys.exit(main())
