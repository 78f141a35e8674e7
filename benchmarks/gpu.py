"""The layer and the bare matrix products on a GPU, in every precision, beside what the device can do.

    python -m benchmarks.gpu [--backends jax torch tensorflow] [--seconds 2] [--output benchmarks/results]

Runs each backend that finds a GPU, in a process of its own. The limit of a call is the larger of two times: its
operations at the rate of a large square product, and its bytes, each input read and each output written once, at the
rate of a large copy; both rates are measured in the same run. Inputs change from call to call, and are together larger
than the device's cache. Exits with 2 if there is no GPU. `--allow-cpu` runs tiny sizes where there is none, to see that
everything runs.
"""

import argparse
import importlib.util
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks import backends, forms, markdown, problem, report
from benchmarks.measuring import ROOT, paired_ratio

# Name, dtype of the inputs, whether float32 products may use TF32.
PRECISIONS = (
    ("float32", "float32", False),
    ("TF32", "float32", True),
    ("bfloat16", "bfloat16", False),
    ("float16", "float16", False),
)
ROTATED_BYTES = 512e6
PRODUCT_SIZE, COPY_VALUES = 8192, 2**28
TINY_PRODUCT_SIZE, TINY_COPY_VALUES = 64, 2**12
MIN_VISITS = 5


def measure(backend, seconds, tiny):
    """Rows of every size, precision and kind of call on one backend."""
    framework = backends.load(backend)
    rows = []
    for precision, dtype, allow_tf32 in PRECISIONS:
        framework.allow_tf32(allow_tf32)
        operations_rate, bytes_rate = _limits(framework, dtype, seconds, tiny)
        for size, shape in (problem.TINY if tiny else problem.SIZES).items():
            given = problem.arrays(*shape)
            made, error = _calls(framework, given, dtype, tiny)
            for what in forms.WHATS:
                chosen = {form: call for (its_what, form), call in made.items() if its_what == what}
                rounds = _interleaved(framework, chosen, seconds)
                rows.append(
                    {
                        "backend": backend,
                        "precision": precision,
                        "size": size,
                        "shape": shape,
                        "what": what,
                        "rounds": rounds,
                        "operations": problem.product_operations(what, *shape),
                        "bytes": problem.least_bytes(what, shape, 4 if dtype == "float32" else 2),
                        "operations_per_second": operations_rate,
                        "bytes_per_second": bytes_rate,
                        "error": error,
                    }
                )
            print(f"gpu: {backend}, {precision}, {size}", file=sys.stderr, flush=True)
    return rows


def _limits(framework, dtype, seconds, tiny):
    """Operations a second of a large product, bytes a second of a large copy."""
    size = TINY_PRODUCT_SIZE if tiny else PRODUCT_SIZE
    values = TINY_COPY_VALUES if tiny else COPY_VALUES
    rng = np.random.default_rng(0)
    matrix = framework.tensor(rng.standard_normal((size, size), "float32"), dtype)
    vector = framework.tensor(rng.standard_normal(values, "float32"), dtype)
    product = framework.forward(lambda weights, matrix: matrix @ matrix, [])
    negation = framework.forward(lambda weights, vector: -vector, [])
    calls = {"product": (product, [(matrix,)]), "copy": (negation, [(vector,)])}
    rounds = _interleaved(framework, calls, seconds)
    bytes_per_value = 4 if dtype == "float32" else 2
    return (
        2 * size**3 / statistics.median(rounds["product"]),
        2 * bytes_per_value * values / statistics.median(rounds["copy"]),
    )


def _calls(framework, given, dtype, tiny):
    """Dict from (what, form) to a function and the tuples of arguments it takes in turn; and the layer's error."""
    num_copies = 2 if tiny else max(2, int(np.ceil(ROTATED_BYTES / given["frames"].nbytes)))
    calls, error = {}, None
    for form in ("chain", "NetVLAD"):
        function, weights, inputs = forms.FORMS[form](framework, given, dtype)
        copies = [inputs, *((framework.tensor(given["frames"], dtype),) for _ in range(num_copies - 1))]
        forward = framework.forward(function, weights)
        outputs = forward(*inputs)
        if form == "NetVLAD":
            first = framework.to_numpy(outputs[0])
            error = forms.check(form, first, given, forms.BFLOAT16_TOLERANCE)
        gradient = framework.tensor(given["gradient"].reshape(tuple(outputs.shape)), dtype)
        calls["forward", form] = forward, copies
        step = framework.training_step(function, weights)
        calls["training step", form] = step, [(gradient, *copy) for copy in copies]
    return calls, error


def _interleaved(framework, calls, seconds):
    """Seconds of a call, one value a round; a round is a pass over all inputs of every call, in shuffled order."""
    for function, arguments in calls.values():
        framework.wait(function(*arguments[0]))
    rounds = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(rounds.values()))) < MIN_VISITS:
        for name in random.sample(list(calls), len(calls)):
            function, arguments = calls[name]
            framework.wait(function(*arguments[0]))
            start = time.perf_counter()
            for given in arguments:
                outputs = function(*given)
            framework.wait(outputs)
            rounds[name].append((time.perf_counter() - start) / len(arguments))
    return rounds


def describe(result):
    """Results of a device as Markdown."""
    rows, cells = result["rows"], []
    for row in rows:
        seconds = statistics.median(row["rounds"]["NetVLAD"])
        arithmetic = row["operations"] / row["operations_per_second"]
        moving = row["bytes"] / row["bytes_per_second"]
        cells.append([row["backend"], row["precision"], row["size"], row["what"]])
        cells[-1] += [
            f"{1e3 * seconds:.3f}",
            markdown.ratio(paired_ratio(row["rounds"], "NetVLAD", "chain")),
            f"{row['operations'] / seconds / 1e12:.3g}",
            f"{row['bytes'] / seconds / 1e9:.3g}",
            f"{100 * max(arithmetic, moving) / seconds:.0f}% ({'arithmetic' if arithmetic > moving else 'bytes'})",
            f"{100 * max(arithmetic, moving) / statistics.median(row['rounds']['chain']):.0f}%",
            f"{row['error']:.0e}",
        ]
    header = ["backend", "precision", "size", "what", "ms", "NetVLAD / chain", "TFLOP/s", "GB/s"]
    text = markdown.table([*header, "of the limit", "the chain's", "error"], cells)
    measured = {(row["backend"], row["precision"]): row for row in rows}
    limits = [
        [backend, precision, f"{row['operations_per_second'] / 1e12:.4g}", f"{row['bytes_per_second'] / 1e9:.4g}"]
        for (backend, precision), row in measured.items()
    ]
    text = f"{result['device']}, {result['date']}, commit {result['commit']}:\n\n{text}"
    return f"{text}\n\nMeasured limits:\n\n" + markdown.table(["backend", "precision", "TFLOP/s", "GB/s"], limits)


def run_backend(backend, seconds, allow_cpu):
    """Runs in a process whose Keras has that backend; prints JSON. Returns the exit code."""
    device = backends.load(backend).device_name()
    if device is None and not allow_cpu:
        return 2
    rows = measure(backend, seconds, tiny=device is None)
    print(json.dumps({"device": device or "cpu", **report.describe_run(), "rows": rows}))
    return 0


def main():
    """Runs every backend; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", choices=("jax", "torch", "tensorflow"))
    parser.add_argument("--seconds", type=float, default=2, help="measuring time of each row (default %(default)s)")
    parser.add_argument("--output", type=Path, help="folder for gpu-<device>.json")
    parser.add_argument("--allow-cpu", action="store_true", help="tiny sizes on the CPU where there is no GPU")
    parser.add_argument("--one", choices=("jax", "torch", "tensorflow"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return run_backend(options.one, options.seconds, options.allow_cpu)
    rows, missing, device = [], [], None
    for backend in options.backends or ("jax", "torch", "tensorflow"):
        if importlib.util.find_spec(backend) is None:
            missing.append(f"{backend} is not installed")
            continue
        command = [sys.executable, "-m", "benchmarks.gpu", "--one", backend, "--seconds", str(options.seconds)]
        finished = subprocess.run(
            command + (["--allow-cpu"] if options.allow_cpu else []),
            cwd=ROOT,
            env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
        )
        if finished.returncode == 2:
            missing.append(f"{backend} finds none")
        elif finished.returncode:
            print(f"{backend} failed:\n{finished.stderr[-2000:]}", file=sys.stderr)
            return 1
        else:
            result = json.loads(finished.stdout.splitlines()[-1])
            rows += result.pop("rows")
            device = result
    if not rows:
        print(f"A GPU is needed for these measurements: {', '.join(missing)}.", file=sys.stderr)
        return 2
    result = {**device, "rows": rows}
    print(describe(result))
    if options.output:
        name = re.sub(r"[^a-z0-9]+", "-", device["device"].lower()).strip("-")
        report.write_json(options.output / f"gpu-{name}.json", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
