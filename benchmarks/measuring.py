"""Workers, interleaving, paired ratios and peak memory, shared by all benchmarks.

Each framework runs in a worker, a process that makes calls and times them when told to. A round visits all workers in
shuffled order, and a worker makes its calls in shuffled order, so that a busy machine slows all of them alike. NumPy
and the standard library only: workers of other environments import this, too.
"""

import gc
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Threads of the worker before still spin for a while after their last call.
PAUSE_SECONDS = 0.005
# Every tensor is mapped, and unmapped when freed, so that resident memory is what is in use.
MEMORY_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}


class Worker:
    """A process that makes calls and times them.

    Args:
        name: String, to tell its times from those of others.
        python: Path of its interpreter, which needs NumPy and what it is to measure.
        memory: Boolean, whether it is to measure memory, for which its allocator returns all that is freed.
        limit_seconds: Number, how long an answer may take.
        root: Directory of the checkout whose `benchmarks` and `keras_netvlad` the process imports.
        **environment: Environment variables of the process.
    """

    def __init__(self, name, python=sys.executable, memory=False, limit_seconds=600, root=ROOT, **environment):
        self.name = name
        self.limit_seconds = limit_seconds
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed on exit
        self._process = subprocess.Popen(
            [str(python), "-m", "benchmarks.worker"],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={
                **os.environ,
                "TF_CPP_MIN_LOG_LEVEL": "3",
                # TensorFlow's choice depends on the processor, and without oneDNN it does not count memory.
                "TF_ENABLE_ONEDNN_OPTS": "1",
                "PYTHONPATH": str(root),
                **(MEMORY_ENVIRONMENT if memory else {}),
                **environment,
            },
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def send(self, **request):
        """Asks without waiting, so that several workers can get ready at once; `receive` has the answer."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def receive(self):
        """The answer to the oldest request.

        Raises:
            RuntimeError: If the request failed, or took longer than the limit.
        """
        watchdog = threading.Timer(self.limit_seconds, self._process.kill)
        watchdog.start()
        line = self._process.stdout.readline()
        watchdog.cancel()
        answer = json.loads(line) if line else {"error": f"no answer; {self._last_error()}"}
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer["result"]

    def ask(self, **request):
        """Sends a request and returns its answer."""
        self.send(**request)
        return self.receive()

    def make(self, function, **arguments):
        """Has `module:function` make calls, a dict by name, in the place of earlier ones; returns their names."""
        return self.ask(make=function, arguments=arguments)

    def run(self, function, **arguments):
        """Returns what `module:function` returns there."""
        return self.ask(run=function, arguments=arguments)

    def _last_error(self):
        self._errors.seek(0)
        lines = [line for line in self._errors.read().splitlines() if line.strip()]
        return lines[-1] if lines else "killed"


def interleaved(names, seconds, min_visits=5, visit_seconds=0.2):
    """Times calls of several workers in one run.

    Args:
        names: Dict from worker to the names of its calls.
        seconds: Number, measuring time.
        min_visits: Integer, rounds at least.
        visit_seconds: Number, how long a worker repeats its calls in a round; at least once each.

    Returns:
        Dict from `<worker>/<name>` to a list with a list of times for each round, in seconds.
    """
    times = {f"{worker.name}/{name}": [] for worker in names for name in names[worker]}
    end = time.perf_counter() + seconds
    visits = 0
    while visits < min_visits or time.perf_counter() < end:
        for worker in random.sample(list(names), len(names)):
            time.sleep(PAUSE_SECONDS)
            for name, values in worker.ask(visit=names[worker], seconds=visit_seconds).items():
                times[f"{worker.name}/{name}"].append(values)
        visits += 1
    return times


def medians(times):
    """Dict from each name to the median of every round, to four digits."""
    return {name: [float(f"{statistics.median(visit):.4g}") for visit in visits] for name, visits in times.items()}


def quartiles(values):
    """Lower quartile, median, upper quartile."""
    return tuple(statistics.quantiles(values, n=4, method="inclusive"))


def paired_ratio(rounds, name, base):
    """Quartiles of the ratio of two calls, paired round by round.

    Args:
        rounds: What `medians` returns.
        name, base: Names in it.
    """
    return quartiles([value / other for value, other in zip(rounds[name], rounds[base], strict=True)])


class PeakMemory:
    """Resident memory that a block adds at its highest, `added`, in bytes: the kernel's own high-water mark."""

    def __enter__(self):
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the mark starts again from here
        self._start = _status_bytes("VmRSS")
        return self

    def __exit__(self, *_):
        self.added = _status_bytes("VmHWM") - self._start


def _status_bytes(field):
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def available_bytes():
    """Memory of the machine that is free or can be freed."""
    return 1024 * int(re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1])
