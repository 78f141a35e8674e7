"""ONNX in float32, float16 and int8 beside the TensorFlow signature: size, loading, latency, and what it costs.

    python benchmarks/precision.py [--model MODEL.keras --data DATA.npz] [--frames 300] [--runs 60]

Without a model: one of 320 MB with random weights. With data, one array for each input: the largest difference of the
scores, and how often the same class comes first. All artefacts are loaded in one process and called in turns, in a
shuffled order; a ratio is the median of the turns' ratios, with quartiles.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

PRECISIONS = ("float32", "float16", "int8")


def load_artefacts(model, directory):
    """Exports a model in every form and loads what came out."""
    from keras_netvlad.export import Artefact, export_onnx, export_saved_model

    export_saved_model(model, directory / "tensorflow", verify=False)
    for precision in PRECISIONS:
        export_onnx(model, directory / f"{precision}.onnx", precision=precision, verify=False)
    paths = {name: directory / f"{name}.onnx" for name in PRECISIONS}
    return {name: Artefact(path) for name, path in {"tensorflow": directory / "tensorflow", **paths}.items()}


def time_in_turns(artefacts, inputs, runs, generator):
    """Seconds of every run of every artefact, `(runs,)` each."""
    seconds = {name: [] for name in artefacts}
    for artefact in artefacts.values():
        artefact.run(inputs)
    for _ in range(runs):
        for name in generator.permutation(list(artefacts)):
            start = time.perf_counter()
            artefacts[name].run(inputs)
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def draw_inputs(artefact, batch, frames, generator):
    """Random frames of the sizes that an artefact takes."""
    ports = artefact.signatures["serving_default"][0]
    return {
        name: generator.normal(size=(batch, frames, shape[2])).astype("float32")
        if len(shape) == 3
        else np.full(batch, frames, "int32")
        for name, (shape, _) in ports.items()
    }


def compute_scores(artefact, data, batch=25):
    """Scores of all rows, `(rows, classes)`."""
    rows = len(next(iter(data.values())))
    parts = [
        artefact.run({name: values[start : start + batch] for name, values in data.items()})["scores"]
        for start in range(0, rows, batch)
    ]
    return np.concatenate(parts)


def describe_ratio(seconds, name, other):
    """A ratio of times as a table's cell."""
    low, middle, high = np.quantile(seconds[name] / seconds[other], [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main():
    """Prints one row an artefact."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a .keras file with an output `scores`")
    parser.add_argument("--data", help="an .npz file with one array for each input")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--runs", type=int, default=60)
    options = parser.parse_args()

    from keras_netvlad.models import VideoClassifier, load_model

    model = load_model(options.model) if options.model else VideoClassifier({"frames": 1152}, 3862)
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as directory:
        artefacts = load_artefacts(model, Path(directory))
        seconds = {}
        for batch, runs in ((1, options.runs), (32, options.runs // 4)):
            inputs = draw_inputs(artefacts["float32"], batch, options.frames, generator)
            seconds[batch] = time_in_turns(artefacts, inputs, runs, generator)
        scores = {}
        if options.data:
            with np.load(options.data, allow_pickle=False) as data:
                data = dict(data)
            scores = {name: compute_scores(artefact, data) for name, artefact in artefacts.items()}
        print(
            "| artefact | MB | load s | ms, batch 1 | / TensorFlow | / float32 | ms, batch 32 | / TensorFlow |", end=""
        )
        print(" scores' difference | same class first |" if scores else "")
        print("|---" * (10 if scores else 8) + "|")
        for name, artefact in artefacts.items():
            cells = [
                name,
                f"{artefact.num_bytes / 1e6:.0f}",
                f"{artefact.load_seconds:.2f}",
                f"{1e3 * np.median(seconds[1][name]):.2f}",
                describe_ratio(seconds[1], name, "tensorflow"),
                describe_ratio(seconds[1], name, "float32"),
                f"{1e3 * np.median(seconds[32][name]):.1f}",
                describe_ratio(seconds[32], name, "tensorflow"),
            ]
            if scores:
                expected = scores["tensorflow"]
                same = int(np.sum(scores[name].argmax(axis=1) == expected.argmax(axis=1)))
                cells += [f"{np.max(np.abs(scores[name] - expected)):.1e}", f"{same} of {len(expected)}"]
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
