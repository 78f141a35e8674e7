"""Export beside `keras.Model.export`: time, peak memory over the loaded model, size of the artefact.

    python benchmarks/export.py [--millions 20 80]

Each export runs in a process of its own. Peak memory is the highest resident memory during the export less the
resident memory before it, as a multiple of the weights' bytes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

KINDS = ("ours onnx", "ours onnx, verified", "keras onnx", "ours saved_model", "ours saved_model, verified")
KINDS += ("keras saved_model",)


def resident_bytes():
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class PeakMemory:
    """Watches the resident memory while a block runs."""

    def __enter__(self):
        self.start = self.peak = resident_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _watch(self):
        while not self._stop.wait(0.005):
            self.peak = max(self.peak, resident_bytes())


def measure_one(kind, millions):
    """Exports once in this process; returns the figures."""
    from keras_netvlad.export import export_onnx, export_saved_model
    from keras_netvlad.models import VideoClassifier

    clusters, feature_size, num_classes = 64, 1024, 1000
    hidden_units = round(millions * 1e6 / (clusters * feature_size + num_classes))
    model = VideoClassifier({"frames": feature_size}, num_classes, clusters, hidden_units)
    # Keras exports to ONNX only what was called.
    model({"frames": np.zeros((1, 1, feature_size), "float32"), "num_frames": np.ones(1, "int32")})
    owner, form = kind.replace(", verified", "").split()
    with tempfile.TemporaryDirectory(dir=os.getcwd()) as directory:
        path = os.path.join(directory, "model.onnx" if form == "onnx" else "model")
        with PeakMemory() as memory:
            start = time.perf_counter()
            if owner == "keras":
                model.export(path, format="onnx" if form == "onnx" else "tf_saved_model", verbose=False)
            else:
                export = export_onnx if form == "onnx" else export_saved_model
                export(model, path, verify="verified" in kind)
            seconds = time.perf_counter() - start
        num_bytes = sum(file.stat().st_size for file in Path(directory).rglob("*") if file.is_file())
    weights = 4 * model.count_params()
    return {
        "kind": kind,
        "weights_bytes": weights,
        "seconds": seconds,
        "memory": (memory.peak - memory.start) / weights,
        "size": num_bytes / weights,
    }


def main():
    """Prints one row an export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, nargs="+", default=[20, 80], help="millions of parameters")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_one(options.kinds[0], options.millions[0])))
        return
    print("| weights | export | seconds | peak memory over the model / weights | artefact / weights |")
    print("|---|---|---|---|---|")
    for millions in options.millions:
        for kind in options.kinds:
            command = [sys.executable, __file__, "--one", "--millions", str(millions), "--kinds", kind]
            finished = subprocess.run(command, capture_output=True, text=True, timeout=900)
            if finished.returncode:
                print(
                    f"| {4 * millions:.0f} MB | {kind} | failed: {finished.stderr.strip().splitlines()[-1][:90]} | | |"
                )
                continue
            row = json.loads(finished.stdout.strip().splitlines()[-1])
            print(
                f"| {row['weights_bytes'] / 1e6:.0f} MB | {kind} | {row['seconds']:.1f} | {row['memory']:.2f} | "
                f"{row['size']:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
