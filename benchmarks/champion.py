"""The ensemble of 2018's winners as one artefact of less than 1 GB: its size, and what its quantization costs.

    python -m benchmarks.champion [--digits fsdd_logmel40.npz] [--seeds 3] [--skip-size]

Two things that can't be measured on the same model here, for YouTube-8M is not at hand:

- the size of the file, of the presets at full size, with random weights: really exported as int8 and verified;
- the loss of GAP, of the same presets made small and trained on real speech frames: with every kernel in int8, and
  with 256 uniform levels a tensor, which is what the winners' own code does to tensors of more than 17,000 values.

Digits are the Free Spoken Digit Dataset as log-mel bands, one speaker left out of training at a time.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks import markdown
from benchmarks.measuring import PeakMemory

# All poolings of the ensemble but its second NetVLAD, with which the file would have more than a gigabyte.
MEMBERS = (
    "skalic_austin_2018_netvlad_1",
    "skalic_austin_2018_netfv",
    "skalic_austin_2018_soft_dbow_1",
    "skalic_austin_2018_soft_dbow_2",
    "skalic_austin_2018_soft_dbow_3",
)
# The winners' `quantize.py`.
LEVELS, LEAST_VALUES = 256, 17_000
SMALL = {"netvlad": {"num_clusters": 32}, "netfv": {"num_clusters": 16}, "soft_dbow": {"num_clusters": 512}}
SMALL_HIDDEN_UNITS = 256
EPOCHS = 30


def main():
    """Prints both tables and writes their numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=Path, help="fsdd_logmel40.npz: spoken digits, too")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--skip-size", action="store_true", help="leave out the export at full size")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    results = {"members": MEMBERS}
    if not options.skip_size:
        results["size"] = measure_size()
        print(size_table(results["size"]), "\n")
    splits = {"vowels": [read_vowels()]}
    if options.digits:
        splits["digits"] = read_digits(options.digits)
    results["loss"] = {
        name: [measure_loss(*split, seed) for split in of_data for seed in range(options.seeds)]
        for name, of_data in splits.items()
    }
    print(loss_table(results["loss"]))
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n")


def champion(small=None, **overrides):
    """The ensemble of the members, with equal weights, and the members; `small` is arguments by pooling."""
    from keras_netvlad import VideoClassifier
    from keras_netvlad.models import ensemble
    from keras_netvlad.models.presets import PRESETS

    models = [
        VideoClassifier.from_preset(
            preset, name=preset, **{**overrides, **(small[PRESETS[preset]["pooling"]] if small else {})}
        )
        for preset in MEMBERS
    ]
    return ensemble(models, name="champion"), models


def measure_size():
    """Bytes of the int8 artefact of the ensemble at full size, and of each member."""
    from keras_netvlad.export import export_onnx

    whole, models = champion()
    sizes = {}
    with tempfile.TemporaryDirectory() as directory:
        for model in (*models, whole):
            path = Path(directory, model.name, "model.onnx")
            path.parent.mkdir()
            start = time.perf_counter()
            with PeakMemory() as memory:
                report = export_onnx(model, path, precision="int8")
            sizes[model.name] = {
                "parameters": model.count_params(),
                "bytes": sum(file.stat().st_size for file in path.parent.iterdir()),
                "seconds": time.perf_counter() - start,
                "difference": max(row["max_relative_difference"] for row in report.as_dict()["outputs"]),
                "memory": memory.added,
            }
            shutil.rmtree(path.parent)
    return sizes


def size_table(sizes):
    """Parameters, and bytes before and after."""
    header = ["model", "parameters", "float32", "int8 artefact", "export and verification", "largest difference"]
    rows = [
        [
            f"`{name}`",
            f"{row['parameters'] / 1e6:.1f} M",
            f"{4 * row['parameters'] / 1e6:.0f} MB",
            f"**{row['bytes'] / 1e6:.0f} MB**",
            f"{row['seconds']:.0f} s",
            f"{row['difference']:.1e}",
        ]
        for name, row in sizes.items()
    ]
    return markdown.table(header, rows)


def read_vowels():
    """Nine speakers say /ae/: the packaged frames, in the official split."""
    from keras_netvlad.data import load_japanese_vowels

    return load_japanese_vowels()


def read_digits(path):
    """Ten digits by six speakers: for each speaker, a split that trains on the others."""
    with np.load(path, allow_pickle=False) as file:
        mel, lengths, digits, speakers = (file[name] for name in ("mel", "T", "digit", "speaker"))
    frames = np.zeros((len(lengths), lengths.max(), mel.shape[1]), "float32")
    real = np.arange(frames.shape[1]) < lengths[:, None]
    frames[real] = mel
    splits = []
    for speaker in np.unique(speakers):
        test = speakers == speaker
        mean, deviation = frames[~test][real[~test]].mean(axis=0), frames[~test][real[~test]].std(axis=0)
        scaled = np.where(real[..., None], (frames - mean) / deviation, 0.0).astype("float32")
        parts = [
            ({"frames": scaled[rows], "num_frames": lengths[rows].astype("int32")}, digits[rows])
            for rows in (~test, test)
        ]
        splits.append(tuple(parts))
    return splits


def measure_loss(train, test, seed):
    """GAP on test data in float32, in int8, and with 256 uniform levels a tensor; and the largest difference."""
    import keras

    from keras_netvlad.export import Artefact, export_onnx

    keras.utils.set_random_seed(seed)
    (x_train, y_train), (x_test, y_test) = train, test
    num_classes = int(y_train.max()) + 1
    feature_sizes = {"frames": x_train["frames"].shape[-1]}
    whole, models = champion(
        SMALL, feature_sizes=feature_sizes, num_classes=num_classes, hidden_units=SMALL_HIDDEN_UNITS
    )
    labels = np.eye(num_classes, dtype="float32")
    for model in models:
        rate = keras.optimizers.schedules.CosineDecay(2e-3, EPOCHS * -(-len(y_train) // 32))
        model.compile(keras.optimizers.Adam(rate), "binary_crossentropy")
        model.fit(x_train, labels[y_train], epochs=EPOCHS, verbose=0)
    scores = {"float32": whole.predict(x_test, verbose=0)["scores"]}
    # As at full size, where each is large enough.
    with (
        tempfile.TemporaryDirectory() as directory,
        mock.patch("keras_netvlad.export.onnx.precision.INT8_MIN_VALUES", 0),
    ):
        path = Path(directory, "model.onnx")
        export_onnx(whole, path, precision="int8", verify=False)
        scores["int8"] = Artefact(path).run(x_test)["scores"]
    for weight in whole.weights:
        if np.prod(weight.shape) > LEAST_VALUES:
            weight.assign(uniform_levels(weight.numpy()))
    scores["256 levels"] = whole.predict(x_test, verbose=0)["scores"]
    return {
        name: {
            "gap": global_average_precision(labels[y_test], values),
            "accuracy": float(np.mean(values.argmax(axis=1) == y_test)),
            "difference": float(np.abs(values - scores["float32"]).max()),
        }
        for name, values in scores.items()
    }


def uniform_levels(values):
    """The nearest of 256 levels between the smallest and the largest value of a tensor."""
    exact = values.astype("float64")
    levels = np.linspace(exact.min(), exact.max(), LEVELS)
    return levels[np.rint((exact - levels[0]) / (levels[1] - levels[0])).astype(int)].astype(values.dtype)


def loss_table(loss):
    """GAP, and what is lost of it, means over splits and seeds."""
    rows = []
    for data, runs in loss.items():
        for name in runs[0]:
            gaps = np.array([run[name]["gap"] for run in runs])
            losses = np.array([run["float32"]["gap"] for run in runs]) - gaps
            rows.append(
                [
                    f"{data}, {len(runs)} runs",
                    name,
                    f"{gaps.mean():.5f}",
                    f"{losses.mean():+.5f} ({losses.min():+.5f} to {losses.max():+.5f})" if losses.any() else "",
                    f"{np.mean([run[name]['accuracy'] for run in runs]):.4f}",
                    f"{max(run[name]['difference'] for run in runs):.1e}",
                ]
            )
    return markdown.table(["data", "weights", "GAP", "loss of GAP", "accuracy", "largest difference of a score"], rows)


def global_average_precision(labels, scores):
    """YouTube-8M's GAP."""
    from keras_netvlad.metrics import GlobalAveragePrecision

    metric = GlobalAveragePrecision()
    metric.update_state(labels, scores)
    return float(metric.result())


if __name__ == "__main__":
    main()
