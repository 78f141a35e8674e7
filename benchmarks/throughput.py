"""Videos a second: reading records, training steps, both together; and what that makes of an epoch of YouTube-8M.

The epoch on GPUs is an estimate on paper, from bytes and floating point operations; `ASSUMED` is what it takes for
given.
"""

import tempfile
from functools import cache, partial
from pathlib import Path

import numpy as np

from benchmarks import markdown
from benchmarks.measuring import Worker, interleaved, medians, quartiles

TITLE = "Throughput"
FULL = {"num_videos": 512, "batch": 32, "num_classes": 3862, "clusters": (64, 256), "hidden_units": 1024, "frames": 300}
QUICK = {"num_videos": 8, "batch": 4, "num_classes": 5, "clusters": (2, 3), "hidden_units": 4, "frames": 20}
SIZES = {"rgb": 1024, "audio": 128}
READERS = ("textbook", "youtube8m, shuffled", "youtube8m, in order")

# Of the data set's page: videos of 2018 and bytes of all frame-level records. Of one GPU: half of an H100's 989 TFLOP/s
# in bfloat16 for products, two thirds of its 3.35 TB/s for the optimizer. Between GPUs: what an all-reduce moves, in a
# host and over hosts. Of a host: the records that it reads from its disks or network.
ASSUMED = {
    "videos": 3_888_919,
    "all videos": 6_134_598,
    "bytes of all records": 1.53e12,
    "frames": 300,
    "batch a GPU": 80,
    "FLOP/s": 0.5 * 989e12,
    "bytes/s of memory": 0.67 * 3.35e12,
    "bytes of the optimizer a parameter": 32,
    "all-reduce in a host, bytes/s": 300e9,
    "all-reduce over hosts, bytes/s": 40e9,
    "GPUs a host": 8,
    "records a host, bytes/s": 2e9,
}


def write_records(directory, num_videos, num_classes, frames):
    """Writes videos of `frames // 3` to `frames` frames to four files."""
    from keras_netvlad.data import write_youtube8m

    rng = np.random.default_rng(0)
    lengths = rng.integers(frames // 3, frames + 1, num_videos)
    for part in range(4):
        write_youtube8m(
            Path(directory, f"train{part}.tfrecord"),
            (
                {
                    "id": str(video),
                    "labels": rng.integers(0, num_classes, 3).tolist(),
                    **{name: rng.integers(0, 256, (lengths[video], size), "uint8") for name, size in SIZES.items()},
                }
                for video in range(part, num_videos, 4)
            ),
        )


def textbook(directory, size):
    """The way of most tutorials: one record at a time, to float32, padded."""
    import tensorflow as tf

    def parse(record):
        context, lists = tf.io.parse_single_sequence_example(
            record,
            {"labels": tf.io.VarLenFeature(tf.int64)},
            {name: tf.io.FixedLenSequenceFeature([], tf.string) for name in SIZES},
        )
        inputs = {
            name: tf.cast(tf.reshape(tf.io.decode_raw(lists[name], tf.uint8), (-1, SIZES[name])), tf.float32)
            * (4 / 255)
            + (4 / 512 - 2)
            for name in SIZES
        }
        inputs["num_frames"] = tf.shape(inputs["rgb"])[0]
        labels = tf.sparse.to_indicator(context["labels"], size["num_classes"])
        return inputs, tf.cast(labels, tf.float32)

    files = tf.data.Dataset.list_files(str(Path(directory, "*.tfrecord")), seed=0)
    records = files.interleave(tf.data.TFRecordDataset, cycle_length=4, num_parallel_calls=tf.data.AUTOTUNE)
    videos = records.shuffle(4 * size["batch"]).map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    return videos.padded_batch(size["batch"], drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def ours(directory, size, shuffle, **options):
    """`youtube8m` of the same files."""
    from keras_netvlad.data import youtube8m

    return youtube8m(
        str(Path(directory, "*.tfrecord")),
        size["batch"],
        num_classes=size["num_classes"],
        max_frames=size["frames"],
        shuffle=shuffle,
        drop_remainder=True,
        **options,
    )


def read_all(dataset):
    """One epoch, to the last byte."""
    for _ in dataset:
        pass


@cache
def train_step(num_clusters, num_classes, hidden_units):
    """A function of a batch that trains a model."""
    import keras

    from keras_netvlad import VideoClassifier

    model = VideoClassifier(SIZES, num_classes, num_clusters, hidden_units, input_dtype="uint8")
    model.compile("adam", "binary_crossentropy", jit_compile=False)
    return lambda batch: keras.ops.convert_to_numpy(model.train_on_batch(*batch))


def reading(directory, size):
    """Calls that read one epoch."""
    datasets = {
        "textbook": textbook(directory, size),
        "youtube8m, shuffled": ours(directory, size, True),
        "youtube8m, in order": ours(directory, size, False),
    }
    return {name: partial(read_all, dataset) for name, dataset in datasets.items()}


def training(directory, size):
    """Calls that train on one batch, of the same one and of the next of the files."""
    data = ours(directory, size, True, epochs=None, fixed_frames=True)
    made = {}
    for num_clusters in size["clusters"]:
        step = train_step(num_clusters, size["num_classes"], size["hidden_units"])
        batches = iter(data)
        batch = next(batches)
        made[f"step, K = {num_clusters}"] = partial(step, batch)
        made[f"from files, K = {num_clusters}"] = partial(_next_step, step, batches)
    return made


def _next_step(step, batches):
    step(next(batches))


def measure(quick, seconds):
    """Runs everything; returns a dict for JSON."""
    size = QUICK if quick else FULL
    limits = {"min_visits": 2, "visit_seconds": 0, "seconds": 0} if quick else {"seconds": seconds}
    rows = []
    with tempfile.TemporaryDirectory() as directory, Worker("tensorflow", KERAS_BACKEND="tensorflow") as worker:
        places = {key: size[key] for key in ("num_videos", "num_classes", "frames")}
        worker.run("benchmarks.throughput:write_records", directory=directory, **places)
        for function, videos in (
            ("reading", size["num_videos"] // size["batch"] * size["batch"]),
            ("training", size["batch"]),
        ):
            names = worker.make(f"benchmarks.throughput:{function}", directory=directory, size=size)
            rounds = medians(interleaved({worker: names}, **limits))
            rows += [
                {"name": name.split("/")[1], "videos": videos, "seconds": values} for name, values in rounds.items()
            ]
            print(f"throughput: {function}", flush=True)
    return {"left_out": [], "size": {**size, "clusters": list(size["clusters"])}, "rows": rows}


def flops_and_parameters():
    """Multiply-adds count twice: a forward pass of `gated_netvlad` over a video, and the model's parameters."""
    from keras_netvlad.models.presets import preset_settings

    settings = preset_settings("gated_netvlad")
    clusters, hidden, classes = settings["num_clusters"], settings["hidden_units"], 3862
    pooled = sum(size * clusters[name] for name, size in SIZES.items())
    products = 2 * ASSUMED["frames"] * pooled  # assignment and aggregation
    head = pooled * hidden + hidden**2 + hidden * classes * 5 + classes**2  # projection, gating, experts, gating
    return 2 * (products + head), 2 * pooled + head


def epoch(num_gpus):
    """Seconds of one epoch of YouTube-8M: products, optimizer, all-reduce, and the records, which overlap with them."""
    flops, parameters = flops_and_parameters()
    steps = ASSUMED["videos"] / (ASSUMED["batch a GPU"] * num_gpus)
    hosts = -(-num_gpus // ASSUMED["GPUs a host"])
    link = ASSUMED["all-reduce in a host, bytes/s" if hosts == 1 else "all-reduce over hosts, bytes/s"]
    return {
        "products": 3 * flops * ASSUMED["videos"] / num_gpus / ASSUMED["FLOP/s"],
        "optimizer": steps * ASSUMED["bytes of the optimizer a parameter"] * parameters / ASSUMED["bytes/s of memory"],
        "all-reduce": steps * 2 * 4 * parameters * (num_gpus - 1) / num_gpus / link,
        "records": ASSUMED["bytes of all records"]
        * ASSUMED["videos"]
        / ASSUMED["all videos"]
        / hosts
        / ASSUMED["records a host, bytes/s"],
    }


def tables(part):
    """The part as Markdown."""
    base, rows = {}, []
    for row in part["rows"]:
        low, middle, high = quartiles([row["videos"] / value for value in row["seconds"]])
        kind = "reading" if row["name"] in READERS else row["name"].split(", ")[1]
        base.setdefault(kind, row["seconds"])
        ratio = quartiles([one / other for one, other in zip(base[kind], row["seconds"], strict=True)])[1]
        rows.append([row["name"], f"{middle:,.0f} ({low:,.0f} to {high:,.0f})", f"{ratio:.2f}"])
    measured = markdown.table(["what", "videos/s", "times textbook, or the step on one batch"], rows)
    flops, parameters = flops_and_parameters()
    estimates = []
    for num_gpus in (1, 8, 64):
        seconds = epoch(num_gpus)
        hours = max(seconds["products"] + seconds["optimizer"] + seconds["all-reduce"], seconds["records"]) / 3600
        cells = [f"{seconds[name] / 60:.1f}" for name in ("products", "optimizer", "all-reduce", "records")]
        estimates.append([num_gpus, *cells, f"{hours:.2f}"])
    header = [
        "GPUs",
        *(f"{name}, min" for name in ("products", "optimizer", "all-reduce", "records")),
        "hours an epoch",
    ]
    assumptions = ", ".join(f"{name} {value:,.4g}" for name, value in ASSUMED.items())
    return (
        f"{measured}\n\nAn epoch of YouTube-8M with `gated_netvlad`, on paper, not measured: {flops / 1e9:.2f} GFLOP a "
        f"video forward, three times that in training; {parameters / 1e6:.0f} million parameters; records are read "
        f"while the GPUs work. Assumed: {assumptions}.\n\n{markdown.table(header, estimates)}"
    )


def draw(part):
    """Videos a second."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    is_reading = [row["name"] in READERS for row in part["rows"]]
    for axes, wanted, color in ((left, True, "tab:blue"), (right, False, "tab:green")):
        rows = [row for row, reads in zip(part["rows"], is_reading, strict=True) if reads is wanted]
        spreads = [quartiles([row["videos"] / value for value in row["seconds"]]) for row in rows]
        middles = [middle for _, middle, _ in spreads]
        errors = [[middle - low, high - middle] for low, middle, high in spreads]
        axes.barh([row["name"] for row in rows], middles, xerr=list(zip(*errors, strict=True)), color=color)
        axes.invert_yaxis()
        axes.set(xlabel="videos a second", title="reading" if wanted else "training")
    return figure
