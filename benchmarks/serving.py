"""Served answers: every runtime and precision beside the bare matrix products of the same sizes.

    python benchmarks/serving.py [--vowels | --model MODEL.keras --data DATA.npz] [--frames 300] [--runs 60]

Without a model: one of 320 MB with random weights. `--vowels` trains one of 6 MB on the packaged speech frames. With
data, one array for each input: the largest difference of the scores, and how often the same class comes first. All are
loaded in one process, each for the first time, and called in turns, in a shuffled order; a ratio is the median of the
turns' ratios, with quartiles.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

PRECISIONS = ("float32", "float16", "int8")
PRODUCTS = "bare products"
BATCHES = (1, 32)


def train_on_vowels():
    """A classifier large enough for int8, trained on Japanese Vowels, and the inputs of the test set."""
    import keras

    from keras_netvlad.data import load_japanese_vowels
    from keras_netvlad.models import VideoClassifier

    keras.utils.set_random_seed(0)
    (x_train, y_train), (x_test, y_test) = load_japanese_vowels()
    model = VideoClassifier({"frames": 12}, 9, num_clusters=64, hidden_units=2048, activation="softmax")
    model.compile(keras.optimizers.Adam(0.001), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x_train, y_train, epochs=30, verbose=0)
    accuracy = model.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"]
    print(f"Japanese Vowels, test accuracy {accuracy:.3f}")
    return model, x_test


def load_runtimes(model, directory):
    """Exports a model in every form and loads what came out: dict from a name to run, seconds of loading, bytes."""
    import openvino

    from keras_netvlad.export import Artefact, export_onnx, export_saved_model

    export_saved_model(model, directory / "tensorflow", verify=False)
    for precision in PRECISIONS:
        export_onnx(model, directory / f"{precision}.onnx", precision=precision, verify=False)
    runtimes = {PRODUCTS: (bare_products(model), 0.0, 4 * model.count_params())}
    artefacts = {f"onnxruntime {precision}": directory / f"{precision}.onnx" for precision in PRECISIONS}
    for name, path in {"TensorFlow": directory / "tensorflow", **artefacts}.items():
        artefact = Artefact(path)
        runtimes[name] = artefact.run, artefact.load_seconds, artefact.num_bytes
    core = openvino.Core()
    for precision in PRECISIONS:
        start = time.perf_counter()
        compiled = core.compile_model(str(directory / f"{precision}.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        seconds = time.perf_counter() - start
        num_bytes = runtimes[f"onnxruntime {precision}"][2]
        runtimes[f"OpenVINO {precision}"] = openvino_run(compiled), seconds, num_bytes
    return runtimes


def openvino_run(compiled):
    """A function from inputs to outputs by name."""
    return lambda inputs: {port.get_any_name(): values for port, values in compiled(inputs).items()}


def bare_products(model):
    """The matrix products of a classifier of one stream, and nothing else, in TensorFlow."""
    import tensorflow as tf

    (stream,) = model.feature_sizes
    layer = model.get_layer(f"{stream}_netvlad")
    names = ("hidden", "scores") if model.hidden_units else ("scores",)
    kernels = [model.get_layer(name).kernel.value for name in names]

    @tf.function(autograph=False, reduce_retracing=True)
    def products(frames):
        features = tf.matmul(tf.matmul(frames, layer.kernel.value), frames, transpose_a=True)
        features = tf.reshape(features, (-1, layer.num_clusters * layer.feature_size))
        for kernel in kernels:
            features = features @ kernel
        return features

    return lambda inputs: products(tf.constant(inputs[stream])).numpy()


def time_in_turns(runtimes, inputs, runs, generator):
    """Seconds of every run of every runtime, `(runs,)` each."""
    seconds = {name: [] for name in runtimes}
    for run, *_ in runtimes.values():
        run(inputs)
    for _ in range(runs):
        for name in generator.permutation(list(runtimes)):
            start = time.perf_counter()
            runtimes[name][0](inputs)
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def draw_inputs(model, batch, frames, generator):
    """Random frames of the sizes that a model takes."""
    streams = {
        name: generator.normal(size=(batch, frames, size)).astype("float32")
        for name, size in model.feature_sizes.items()
    }
    return {**streams, "num_frames": np.full(batch, frames, "int32")}


def compute_scores(run, data, batch=25):
    """Scores of all rows, `(rows, classes)`."""
    rows = len(data["num_frames"])
    parts = [
        run({name: values[start : start + batch] for name, values in data.items()})["scores"]
        for start in range(0, rows, batch)
    ]
    return np.concatenate(parts)


def describe_ratio(seconds, name, other):
    """A ratio of times as a table's cell."""
    low, middle, high = np.quantile(seconds[name] / seconds[other], [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main():
    """Prints one row a runtime."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vowels", action="store_true", help="train a model on the packaged speech frames")
    parser.add_argument("--model", help="a VideoClassifier of one stream, saved as .keras")
    parser.add_argument("--data", help="an .npz file with one array for each input")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--runs", type=int, default=60)
    options = parser.parse_args()

    from keras_netvlad.models import VideoClassifier, load_model

    data = None
    if options.data:
        with np.load(options.data, allow_pickle=False) as file:
            data = dict(file)
    if options.vowels:
        model, data = train_on_vowels()
    else:
        model = load_model(options.model) if options.model else VideoClassifier({"frames": 1152}, 3862)
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as directory:
        runtimes = load_runtimes(model, Path(directory))
        seconds = {}
        for batch in BATCHES:
            inputs = draw_inputs(model, batch, options.frames, generator)
            seconds[batch] = time_in_turns(
                runtimes, inputs, max(4, options.runs // (1 if batch == 1 else 4)), generator
            )
        scores = {}
        if data is not None:
            scores = {name: compute_scores(run, data) for name, (run, *_) in runtimes.items() if name != PRODUCTS}
        header = ["runtime", "MB", "load s", "batch 1: p50 ms", "p99 ms", "/ TensorFlow", "/ bare products"]
        header += ["batch 32: videos/s", "/ TensorFlow", "/ bare products"]
        header += ["scores' difference", "same class first"] if scores else []
        print("| " + " | ".join(header) + " |")
        print("|---" * len(header) + "|")
        for name, (_, load_seconds, num_bytes) in runtimes.items():
            one, many = seconds[1][name], seconds[32][name]
            cells = [
                name,
                f"{num_bytes / 1e6:.0f}",
                f"{load_seconds:.2f}",
                f"{1e3 * np.median(one):.2f}",
                f"{1e3 * np.quantile(one, 0.99):.2f}",
                describe_ratio(seconds[1], name, "TensorFlow"),
                describe_ratio(seconds[1], name, PRODUCTS),
                f"{32 / np.median(many):.0f}",
                describe_ratio(seconds[32], name, "TensorFlow"),
                describe_ratio(seconds[32], name, PRODUCTS),
            ]
            if name in scores:
                expected = scores["TensorFlow"]
                same = int(np.sum(scores[name].argmax(axis=1) == expected.argmax(axis=1)))
                cells += [f"{np.max(np.abs(scores[name] - expected)):.1e}", f"{same} of {len(expected)}"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
