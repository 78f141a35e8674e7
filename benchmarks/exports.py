"""Export beside `keras.Model.export`: time, peak memory over the loaded model, size of the artefact."""

import os
import tempfile
import time
from pathlib import Path

from benchmarks import markdown
from benchmarks.measuring import ROOT, PeakMemory, Worker, available_bytes

KINDS = ("onnx", "onnx, verified", "keras onnx", "saved_model", "saved_model, verified", "keras saved_model")
MILLIONS = (20, 80, 600)
# Memory that an export takes, over the weights, the model itself included: measured 50 for Keras's ONNX.
NEEDED = {"keras onnx": 53}
NEEDED_BY_OTHERS = 3.5
TITLE = "Export"


def export(kind, num_classes, num_clusters, feature_size, hidden_units):
    """Exports once; returns the figures."""
    import numpy as np

    from keras_netvlad.export import export_onnx, export_saved_model
    from keras_netvlad.models import VideoClassifier

    model = VideoClassifier({"frames": feature_size}, num_classes, num_clusters, hidden_units)
    # Keras exports to ONNX only what was called.
    model({"frames": np.zeros((1, 1, feature_size), "float32"), "num_frames": np.ones(1, "int32")})
    is_onnx = "onnx" in kind
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as directory:
        path = os.path.join(directory, "model.onnx" if is_onnx else "model")
        with PeakMemory() as memory:
            start = time.perf_counter()
            if kind.startswith("keras"):
                model.export(path, format="onnx" if is_onnx else "tf_saved_model", verbose=False)
            else:
                (export_onnx if is_onnx else export_saved_model)(model, path, verify="verified" in kind)
            seconds = time.perf_counter() - start
        num_bytes = sum(file.stat().st_size for file in Path(directory).rglob("*") if file.is_file())
    weights = 4 * model.count_params()
    return {"weights_bytes": weights, "seconds": seconds, "added_bytes": memory.added, "artefact_bytes": num_bytes}


def measure(quick, seconds):
    """Runs everything; returns a dict for JSON."""
    del seconds  # every export is run once
    sizes = {"num_classes": 10, "num_clusters": 4, "feature_size": 32}
    sizes = sizes if quick else {"num_classes": 1000, "num_clusters": 64, "feature_size": 1024}
    left_out, rows = [], []
    for millions in (0.01,) if quick else MILLIONS:
        for kind in ("onnx",) if quick else KINDS:
            needed = 1e9 + 4e6 * millions * NEEDED.get(kind, NEEDED_BY_OTHERS)
            if needed > available_bytes():
                left_out.append(
                    f"{kind} of {millions} million parameters takes about {needed / 1e9:.0f} GB of memory, "
                    f"{available_bytes() / 1e9:.0f} were free"
                )
                continue
            per_unit = sizes["num_clusters"] * sizes["feature_size"] + sizes["num_classes"]
            hidden_units = max(1, round(millions * 1e6 / per_unit))
            with Worker(kind, KERAS_BACKEND="tensorflow") as worker:
                figures = worker.run("benchmarks.exports:export", kind=kind, hidden_units=hidden_units, **sizes)
            rows.append({"kind": kind, **figures})
            print(f"exports: {millions} million parameters, {kind}", flush=True)
    return {"left_out": left_out, "rows": rows}


def tables(part):
    """The part as Markdown."""
    rows = [
        [
            f"{row['weights_bytes'] / 1e6:.0f} MB",
            row["kind"],
            f"{row['seconds']:.1f}",
            f"{row['added_bytes'] / row['weights_bytes']:.2f}",
            f"{row['artefact_bytes'] / row['weights_bytes']:.3f}",
        ]
        for row in part["rows"]
    ]
    header = ["weights", "export", "seconds", "peak memory over the model / weights", "artefact / weights"]
    return markdown.table(header, rows) + markdown.notes(part["left_out"])


def draw(part):
    """Bars of time and memory, logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    weights = sorted({row["weights_bytes"] for row in part["rows"]})
    kinds = list(dict.fromkeys(row["kind"] for row in part["rows"]))
    for axes, title in zip(figure.subplots(1, 2), ("seconds", "peak memory over the model / weights"), strict=True):
        for index, kind in enumerate(kinds):
            rows = [row for row in part["rows"] if row["kind"] == kind]
            places = [weights.index(row["weights_bytes"]) + 0.13 * (index - 2.5) for row in rows]
            in_bytes = [row["added_bytes"] / row["weights_bytes"] for row in rows]
            values = [row["seconds"] for row in rows] if title == "seconds" else in_bytes
            axes.bar(places, [max(value, 1e-2) for value in values], 0.13, label=kind)
        axes.set(title=title, yscale="log", xlabel="weights")
        axes.set_xticks(range(len(weights)), [f"{size / 1e6:.0f} MB" for size in weights])
    figure.legend(*figure.axes[0].get_legend_handles_labels(), ncols=6, fontsize="small", loc="outside lower center")
    return figure
