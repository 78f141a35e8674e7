"""Compares this checkout with another one, in one interleaved run: is anything slower or larger than before?

    python -m benchmarks.versions ../other-checkout [--seconds 20] [--quick]

Each checkout runs in separate worker processes, with its own `benchmarks.forms` and `keras_netvlad`. The tables show
medians of paired ratios, this checkout over the other, with quartiles.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import markdown, problem
from benchmarks.exports import KINDS
from benchmarks.forms import WHATS
from benchmarks.measuring import ROOT, Worker, interleaved, medians, paired_ratio, quartiles

FORMS = ("NetVLAD", "NetVLAD, masked")
EXPORTS = [kind for kind in KINDS if not kind.startswith("keras")]
EXPORT_SIZES = {"num_classes": 1000, "num_clusters": 64, "feature_size": 1024, "hidden_units": 300}
TINY_EXPORT_SIZES = {"num_classes": 10, "num_clusters": 4, "feature_size": 32, "hidden_units": 8}
IMPORT = "import time, keras; start = time.perf_counter(); import keras_netvlad; print(time.perf_counter() - start)"


def main():
    """Measures layers, exports and the import, and prints a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="directory of the other checkout")
    parser.add_argument("--seconds", type=float, default=20, help="measuring time of each row (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    options = parser.parse_args()
    if not (options.other / "benchmarks" / "worker.py").is_file():
        parser.error(f"OTHER must be a checkout of this repository. Received: {options.other}")
    checkouts = {"this": ROOT, "other": options.other.resolve()}
    print(f"Forward and training step, this checkout / the other:\n\n{layers(checkouts, options)}\n")
    print(f"Export of a model of {_weights(options)}, this / other:\n\n{exports(checkouts, options)}\n")
    print(f"Import over that of Keras, milliseconds:\n\n{imports(checkouts, options)}")


def layers(checkouts, options):
    """Times forward and training step at every size."""
    rows = []
    limits = {"min_visits": 2, "visit_seconds": 0, "seconds": 0} if options.quick else {"seconds": options.seconds}
    with _worker("this", checkouts) as this, _worker("other", checkouts) as other:
        for size, shape in (problem.TINY if options.quick else problem.SIZES).items():
            for worker in (this, other):
                worker.make("benchmarks.forms:calls", backend="tensorflow", shape=shape, forms=FORMS)
            for what in WHATS:
                names = [f"{what}/{form}" for form in FORMS]
                rounds = medians(interleaved({this: names, other: names}, **limits))
                ratios = [markdown.ratio(paired_ratio(rounds, f"this/{name}", f"other/{name}")) for name in names]
                rows.append([size, what, *ratios])
    return markdown.table(["size", "what", *FORMS], rows)


def exports(checkouts, options):
    """Exports the same model in turns, each time in a new process."""
    rows = []
    for kind in EXPORTS[-2:] if options.quick else EXPORTS:
        measured = {name: [] for name in checkouts}
        for _ in range(1 if options.quick else 5):
            for name in checkouts:
                with _worker(name, checkouts, memory=True) as worker:
                    measured[name].append(worker.run("benchmarks.exports:export", kind=kind, **_sizes(options)))
        row = [kind]
        for figure in ("seconds", "added_bytes"):
            pairs = zip(measured["this"], measured["other"], strict=True)
            ratios = [this[figure] / other[figure] for this, other in pairs]
            row.append(markdown.ratio(quartiles(ratios) if len(ratios) > 1 else 3 * ratios))
        rows.append(row)
    return markdown.table(["export", "time", "memory"], rows)


def imports(checkouts, options):
    """Imports the package in turns, each time in a new process."""
    times = {name: [] for name in checkouts}
    for _ in range(1 if options.quick else 15):
        for name, root in checkouts.items():
            command = [sys.executable, "-c", IMPORT]
            finished = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=120)
            times[name].append(1e3 * float(finished.stdout.splitlines()[-1]))
            time.sleep(0.1)
    return markdown.table(list(times), [[f"{statistics.median(values):.1f}" for values in times.values()]])


def _worker(name, checkouts, memory=False):
    return Worker(name, memory=memory, root=checkouts[name], KERAS_BACKEND="tensorflow")


def _sizes(options):
    return TINY_EXPORT_SIZES if options.quick else EXPORT_SIZES


def _weights(options):
    sizes = _sizes(options)
    descriptor = sizes["num_clusters"] * sizes["feature_size"]
    values = 2 * descriptor + sizes["hidden_units"] * (descriptor + sizes["num_classes"])
    return f"{4e-6 * values:.0f} MB"


if __name__ == "__main__":
    main()
