"""Serving: cold load, latency and throughput of every runtime and precision, and the error of each precision.

    python -m benchmarks.serving --model MODEL.keras [--data DATA.npz] [--frames 300] [--seconds 60]

measures a VideoClassifier of one stream of your own; data is one array for each input. Every runtime has the bare
matrix products of the same sizes beside it.
"""

import argparse
import importlib.util
import os
import tempfile
import time
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

import numpy as np

from benchmarks import markdown
from benchmarks.measuring import ROOT, PeakMemory, Worker, interleaved, medians, paired_ratio

# Runtime, file and, for OpenVINO, the precision that it is told to compute in; its own choice here is bfloat16.
ARTEFACTS = {
    "TensorFlow float32": ("tensorflow", "float32", None),
    "TensorFlow bfloat16": ("tensorflow", "bfloat16", None),
    "onnxruntime float32": ("onnxruntime", "float32.onnx", None),
    "onnxruntime float16": ("onnxruntime", "float16.onnx", None),
    "onnxruntime int8": ("onnxruntime", "int8.onnx", None),
    "OpenVINO float32": ("openvino", "float32.onnx", "f32"),
    "OpenVINO float32, its default": ("openvino", "float32.onnx", None),
    "OpenVINO float16": ("openvino", "float16.onnx", "f32"),
    "OpenVINO int8": ("openvino", "int8.onnx", "f32"),
}
CHAINS = {
    "TensorFlow chain": ("tensorflow", "chain.npz", None),
    "onnxruntime chain": ("onnxruntime", "chain.onnx", None),
    "OpenVINO chain": ("openvino", "chain.onnx", "f32"),
}
QUICK_LOADS = ("TensorFlow float32", "TensorFlow bfloat16", "onnxruntime int8", "OpenVINO float32")
BASE = "TensorFlow float32"
BATCHES = (1, 32)
# A hidden projection of 302 MB, YouTube-8M's classes.
LARGE = {"feature_size": 1152, "num_classes": 3862, "num_clusters": 64, "hidden_units": 1024, "num_frames": 300}
TITLE = "Serving"


def export_random(directory, feature_size, num_classes, num_clusters, hidden_units, num_frames):
    """Every artefact of a model with random weights; the data are videos of several lengths."""
    from keras_netvlad.models import VideoClassifier

    rng = np.random.default_rng(0)
    data = {
        "frames": rng.standard_normal((32, num_frames, feature_size), "float32"),
        "num_frames": rng.integers(1, num_frames + 1, 32).astype("int32"),
    }
    model = VideoClassifier({"frames": feature_size}, num_classes, num_clusters, hidden_units)
    export_all(Path(directory), model, data, num_frames)


def export_vowels(directory):
    """Every artefact of a model that is large enough for int8, trained on the packaged speech frames; its test set."""
    import keras

    from keras_netvlad.data import load_japanese_vowels
    from keras_netvlad.models import VideoClassifier

    keras.utils.set_random_seed(0)
    train, (data, labels) = load_japanese_vowels()
    model = VideoClassifier({"frames": 12}, 9, num_clusters=64, hidden_units=2048, activation="softmax")
    model.compile(keras.optimizers.Adam(0.001), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*train, epochs=30, verbose=0)
    export_all(Path(directory), model, data, 29)
    return {"accuracy": model.evaluate(data, labels, verbose=0, return_dict=True)["accuracy"]}


def export_file(directory, path, data_path, num_frames):
    """Every artefact of a saved model."""
    from keras_netvlad.models import load_model

    model = load_model(path)
    ((stream, feature_size),) = model.feature_sizes.items()
    if data_path:
        with np.load(data_path, allow_pickle=False) as file:
            data = dict(file)
    else:
        frames = np.random.default_rng(0).standard_normal((32, num_frames, feature_size), "float32")
        data = {stream: frames, "num_frames": np.full(32, num_frames, "int32")}
    export_all(Path(directory), model, data, num_frames)


def export_all(directory, model, data, num_frames):
    """Writes what is measured: artefacts, chains, inputs of each batch size, and data with the model's scores."""
    import keras

    from benchmarks.onnx_forms import chain
    from keras_netvlad.export import export_onnx, export_saved_model

    ((stream, feature_size),) = model.feature_sizes.items()
    export_saved_model(model, directory / "float32", verify=False)
    config = {**model.get_config(), "dtype": "mixed_bfloat16"}
    rounded = type(model).from_config(config)
    rounded.set_weights(model.get_weights())
    export_saved_model(rounded, directory / "bfloat16", verify=False)
    for precision in ("float32", "float16", "int8"):
        export_onnx(model, directory / f"{precision}.onnx", precision=precision, verify=False)
    names = [f"{stream}_netvlad", *(["hidden"] if model.hidden_units else []), "scores"]
    kernels = [keras.ops.convert_to_numpy(model.get_layer(name).kernel) for name in names]
    (directory / "chain.onnx").write_bytes(chain(kernels, stream))
    np.savez(directory / "chain.npz", *kernels)
    np.savez(directory / "data.npz", scores=model.predict(data, verbose=0, batch_size=25)["scores"], **data)
    for batch in BATCHES:
        frames = np.random.default_rng(batch).standard_normal((batch, num_frames, feature_size), "float32")
        np.savez(
            directory / f"batch {batch}.npz", **{stream: frames, "num_frames": np.full(batch, num_frames, "int32")}
        )


def open_artefact(directory, runtime, file, hint):
    """A function from a dict of inputs to a dict of outputs."""
    path = Path(directory, file)
    if file == "chain.npz":
        return _tensorflow_chain(path)
    if runtime != "openvino":
        return _artefact_module().Artefact(path).run
    import openvino

    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": hint} if hint else {})
    names = [port.get_any_name() for port in compiled.inputs]
    return lambda inputs: {
        port.get_any_name(): values for port, values in compiled({name: inputs[name] for name in names}).items()
    }


@cache
def _artefact_module():
    """The loader by itself, as a server would have it: the package would import Keras and TensorFlow."""
    path = ROOT / "keras_netvlad" / "export" / "verification" / "artefact.py"
    spec = importlib.util.spec_from_file_location("artefact", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _tensorflow_chain(path):
    import tensorflow as tf

    from benchmarks.backends import on_tensorflow

    with np.load(path) as file:
        first, *others = (tf.constant(kernel) for kernel in file.values())

    def products(weights, frames):
        features = on_tensorflow.chain([first], frames)
        features = tf.reshape(features, (frames.shape[0], others[0].shape[0]))
        for kernel in others:
            features = features @ kernel
        return features

    run = on_tensorflow.forward(products, [])
    return lambda inputs: {"scores": run(*(value for name, value in inputs.items() if name != "num_frames")).numpy()}


def calls(directory, runtime):
    """Calls to measure, `batch <b>/<artefact>`, of all artefacts and the chain of a runtime."""
    made = {}
    inputs = {batch: _load_arrays(directory, f"batch {batch}.npz") for batch in BATCHES}
    for name, (its_runtime, file, hint) in {**ARTEFACTS, **CHAINS}.items():
        if its_runtime == runtime:
            run = open_artefact(directory, runtime, file, hint)
            for batch in BATCHES:
                run(inputs[batch])
                made[f"batch {batch}/{name}"] = partial(run, inputs[batch])
    return made


def load(directory, name):
    """Loads an artefact from the disk and runs it, in a process that has done nothing yet; returns the figures."""
    runtime, file, hint = ARTEFACTS[name]
    data = _load_arrays(directory, "data.npz")
    expected = data.pop("scores")
    path = Path(directory, file)
    files = list(path.rglob("*")) if path.is_dir() else [path, Path(f"{path}.data")]
    files = [file for file in files if file.is_file()]
    for file_path in files:
        _drop_from_cache(file_path)
    start = time.perf_counter()
    importlib.import_module(runtime)
    imported = time.perf_counter()
    with PeakMemory() as memory:
        loading = time.perf_counter()
        run = open_artefact(directory, runtime, file, hint)
        loaded = time.perf_counter()
        run({input_name: values[:1] for input_name, values in data.items()})
        answered = time.perf_counter()
    parts = [
        run({input_name: values[first : first + 25] for input_name, values in data.items()})["scores"]
        for first in range(0, len(expected), 25)
    ]
    scores = np.concatenate(parts)
    return {
        "bytes": sum(file.stat().st_size for file in files),
        "import_seconds": imported - start,
        "load_seconds": loaded - loading,
        "first_answer_seconds": answered - loading,
        "added_bytes": memory.added,
        "difference": float(np.max(np.abs(scores - expected))),
        "same_class": int(np.sum(scores.argmax(axis=1) == expected.argmax(axis=1))),
        "num_videos": len(expected),
    }


def _load_arrays(directory, name):
    with np.load(Path(directory, name)) as file:
        return dict(file)


def _drop_from_cache(path):
    """So that it is read from the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(quick, seconds):
    """Runs everything; returns a dict for JSON."""
    sizes = {"feature_size": 32, "num_classes": 10, "num_clusters": 4, "hidden_units": 8192, "num_frames": 20}
    sources = {"random weights": ("export_random", sizes if quick else LARGE)}
    if not quick:
        sources["Japanese Vowels"] = "export_vowels", {}
    limits = {"min_visits": 2, "visit_seconds": 0, "seconds": 0} if quick else {"seconds": seconds}
    return _measure(sources, limits, **({"loads": 1, "names": QUICK_LOADS} if quick else {}))


def _measure(sources, limits, loads=3, names=tuple(ARTEFACTS)):
    left_out, rows, models = [], [], {}
    artefacts = {name: ARTEFACTS[name] for name in names}
    if importlib.util.find_spec("openvino") is None:
        left_out.append("openvino is not installed")
        artefacts = {name: value for name, value in artefacts.items() if value[0] != "openvino"}
    runtimes = dict.fromkeys(runtime for runtime, _, _ in artefacts.values())
    (ROOT / "build").mkdir(exist_ok=True)
    for index, (source, (function, arguments)) in enumerate(sources.items()):
        with tempfile.TemporaryDirectory(dir=ROOT / "build") as directory:
            with Worker("export", KERAS_BACKEND="tensorflow") as worker:
                figures = worker.run(f"benchmarks.serving:{function}", directory=directory, **arguments)
            print(f"serving: {source}, exported", flush=True)
            models[source] = {**arguments, **(figures or {})}
            loaded = {name: [] for name in artefacts}
            for _ in range(loads if index == 0 else 1):
                for name in np.random.default_rng().permutation(list(artefacts)):
                    with Worker(name, KERAS_BACKEND="tensorflow") as worker:
                        loaded[name].append(worker.run("benchmarks.serving:load", directory=directory, name=name))
            print(f"serving: {source}, loaded", flush=True)
            times = _times(directory, runtimes, limits) if index == 0 else {}
            for name, runs in loaded.items():
                rows.append({"model": source, "name": name, **{key: _median(runs, key) for key in runs[0]}})
            if times:
                models[source]["times"] = times
    return {"left_out": left_out, "models": models, "rows": rows}


def _median(runs, key):
    return float(np.median([run[key] for run in runs]))


def _times(directory, runtimes, limits):
    times = {}
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(runtime, KERAS_BACKEND="tensorflow")) for runtime in runtimes]
        for worker in workers:
            arguments = {"directory": directory, "runtime": worker.name}
            worker.send(make="benchmarks.serving:calls", arguments=arguments)
        names = {worker: worker.receive() for worker in workers}
        for batch in BATCHES:
            chosen = {worker: [name for name in names[worker] if f"batch {batch}/" in name] for worker in workers}
            measured = interleaved(chosen, **limits)
            measured = {name.split("/", 2)[2]: visits for name, visits in measured.items()}
            quantiles = {
                name: np.quantile([value for visit in visits for value in visit], (0.5, 0.99)).tolist()
                for name, visits in measured.items()
            }
            times[f"batch {batch}"] = {"rounds": medians(measured), "p50, p99": quantiles}
            print(f"serving: batch {batch}", flush=True)
    return times


def tables(part):
    """The part as Markdown."""
    text = []
    for source, model in part["models"].items():
        rows = [row for row in part["rows"] if row["model"] == source]
        header = ["artefact", "MB", "cold load, s", "to the first answer, s", "memory, MB"]
        header += ["largest difference of a score", "same class first"]
        cells = [
            [
                row["name"],
                f"{row['bytes'] / 1e6:.1f}",
                f"{row['load_seconds']:.2f}",
                f"{row['first_answer_seconds']:.2f}",
                f"{row['added_bytes'] / 1e6:.0f}",
                f"{row['difference']:.1e}",
                f"{row['same_class']:.0f} of {row['num_videos']:.0f}",
            ]
            for row in rows
        ]
        accuracy = f", test accuracy {model['accuracy']:.3f}" if "accuracy" in model else ""
        text.append(f"{source}{accuracy}:\n\n" + markdown.table(header, cells))
        if "times" in model:
            text.append(_times_table(model["times"]))
    return "\n\n".join(text) + markdown.notes(part["left_out"])


def _times_table(times):
    one, many = (times[f"batch {batch}"] for batch in BATCHES)
    cells = []
    for name in one["rounds"]:
        chain = f"{name.split()[0]} chain"
        p50, p99 = one["p50, p99"][name]
        row = [name, f"{1e3 * p50:.1f}", f"{1e3 * p99:.1f}"]
        for batch, measured in ((1, one), (32, many)):
            if batch == 32:
                row.append(f"{32 / measured['p50, p99'][name][0]:.0f}")
            row += [markdown.ratio(paired_ratio(measured["rounds"], name, base)) for base in (BASE, chain)]
        cells.append(row)
    header = ["artefact", "batch 1: p50, ms", "p99, ms", f"time / {BASE}", "time / its chain"]
    return markdown.table([*header, "batch 32: videos/s", f"time / {BASE}", "time / its chain"], cells)


def draw(part):
    """Bars of latency and throughput."""
    from matplotlib.figure import Figure

    times = next(model["times"] for model in part["models"].values() if "times" in model)
    names = list(times["batch 1"]["rounds"])
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    p50, p99 = (np.array([times["batch 1"]["p50, p99"][name][i] for name in names]) * 1e3 for i in (0, 1))
    left.barh(names, p50, xerr=[np.zeros(len(names)), p99 - p50], capsize=3)
    left.set(xlabel="ms at batch 1: p50, whiskers to p99")
    left.invert_yaxis()
    right.barh(names, [32 / times["batch 32"]["p50, p99"][name][0] for name in names], color="tab:green")
    right.set(xlabel="videos a second at batch 32")
    return figure


def main():
    """Prints the tables of a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a VideoClassifier of one stream, saved as .keras")
    parser.add_argument("--data", help="an .npz file with one array for each input")
    parser.add_argument("--frames", type=int, default=300, help="frames of each video in timings (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="of measuring a batch size (default %(default)s)")
    options = parser.parse_args()
    data_path = options.data and os.path.abspath(options.data)
    arguments = {"path": os.path.abspath(options.model), "data_path": data_path, "num_frames": options.frames}
    print(tables(_measure({options.model: ("export_file", arguments)}, {"seconds": options.seconds})))


if __name__ == "__main__":
    main()
