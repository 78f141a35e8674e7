"""Feeds mutated files to every reader; exits with 1 after a crash, a hang, a trace or an excess of memory."""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np

from tests.fuzz.worker import LAST, NEXT, RESULTS

# Shares of the inputs. Most go to the readers that take less than a millisecond.
SHARES = {
    "TFRecord walks": 24,
    "indexes (.npz)": 20,
    "--data (.npz)": 12,
    "parity.json": 10,
    "state.json": 10,
    "extraction.json": 6,
    "labels.csv": 6,
    "videos.csv": 3,
    "predictor.json": 0.5,
    "vocabulary.json": 0.5,
    "results.json of a run": 0.5,
    "history.json of a run": 0.5,
    "clips.npz of a run": 0.5,
    "ONNX": 8,
    "LiteRT": 2,
    "saved_model.pb": 1,
    "warm-up records": 1.5,
    "frame-level records": 0.5,
    ".h5": 1.5,
    ".mat": 0.05,
    "checkpoints": 0.8,
    "checkpoint indexes": 0.8,
    ".mp4": 0.5,
    ".avi": 0.5,
    ".mkv": 0.5,
    ".keras": 0.2,
}
# A busy machine takes a minute to make the right files; no mutated file may take as long.
HANG_SECONDS, START_SECONDS = 60, 600


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the mutated files, prints the counts, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=105_000, help="number of mutated files (default %(default)s)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="seed of the mutations (default: the time)")
    parser.add_argument("--kind", choices=SHARES, help="only this kind, with all inputs")
    parser.add_argument("--first", type=int, default=0, help="number of the first input, to repeat one of --kind")
    options = parser.parse_args(arguments)
    shares = SHARES if options.kind is None else {options.kind: 1}
    begin = time.monotonic()
    with tempfile.NamedTemporaryFile() as file:
        progress = np.memmap(file.name, "int64", "w+", shape=(len(shares), len(RESULTS) + 2))
        progress[:, NEXT] = options.first
        for row, share in zip(progress, shares.values(), strict=True):
            row[LAST] = options.first + -int(-options.inputs * share // sum(shares.values()))
        while (progress[:, NEXT] < progress[:, LAST]).any():
            _work(file.name, progress, options.first, options.seed, list(shares))
        counts = progress[:, : len(RESULTS)].copy()
    for name, row in (*zip(shares, counts, strict=True), ("all", counts.sum(axis=0))):
        results = ", ".join(f"{count:,} {result}" for result, count in zip(RESULTS, row, strict=True))
        print(f"{name:<20} {row.sum():>8,} inputs: {results}")
    print(f"seed {options.seed}, {time.monotonic() - begin:.0f} s")
    return int(counts[:, RESULTS.index("trace") :].any())


def _work(path, progress, first, seed, names):
    """Runs a worker until it has read all files or dies, and counts the file that it died of."""
    before = progress[:, NEXT].sum()
    with tempfile.TemporaryFile() as errors:
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", path, str(seed), *names],
            stderr=errors,
            # TensorFlow reserves gigabytes of addresses that it never uses.
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (32 << 30, 32 << 30)),
        )
        seen, since, fault = before, time.monotonic(), "crash"
        while worker.poll() is None:
            time.sleep(0.2)
            now = progress[:, NEXT].sum()
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > (START_SECONDS if seen == before else HANG_SECONDS):
                worker.kill()
                fault = "hang"
        errors.seek(0)
        said = errors.read()[-2000:].decode(errors="replace")
    counted = progress[:, : len(RESULTS)].sum(axis=1)
    died_of = np.flatnonzero(progress[:, NEXT] - first != counted)
    if worker.returncode and not len(died_of):
        raise RuntimeError(f"The right files could not be read: {said}")
    for kind in died_of:
        number = progress[kind, NEXT] - 1
        print(f"{names[kind]}, input {number}: {fault}, exit code {worker.returncode}\n{said}", flush=True)
        progress[kind, RESULTS.index(fault)] += 1


if __name__ == "__main__":
    sys.exit(main())
