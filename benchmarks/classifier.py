"""Where the time of a training step of the video classifier goes."""

from functools import partial

import numpy as np

from benchmarks import markdown
from benchmarks.measuring import Worker, interleaved, medians, quartiles

# B, N, D, hidden units, classes: YouTube-8M.
SIZES = (32, 300, 1152, 1024, 3862)
CLUSTERS = (64, 256)
STAGES = ("input", "assignment", "aggregation", "hidden", "classifier", "optimizer")
TITLE = "The video classifier"


def steps(num_videos, num_frames, feature_size, hidden_units, num_classes, num_clusters):
    """Training steps of the model up to each stage, a call each, from NumPy arrays to gradients.

    The last is the whole step of Keras: `train_on_batch` with Adam.
    """
    import tensorflow as tf

    from keras_netvlad import VideoClassifier

    rng = np.random.default_rng(0)
    frames = rng.standard_normal((num_videos, num_frames, feature_size), "float32")
    lengths = rng.integers(num_frames // 2, num_frames + 1, num_videos).astype("int32")
    labels = (rng.random((num_videos, num_classes)) < 3 / num_classes).astype("float32")
    model = VideoClassifier({"frames": feature_size}, num_classes, num_clusters, hidden_units)
    frame_mask, netvlad = model.get_layer("frames_mask"), model.get_layer("frames_netvlad")
    hidden, scores = model.get_layer("hidden"), model.get_layer("scores")

    def select(frames, lengths):
        return tf.where(frame_mask(lengths, frames)[..., None], frames, 0.0)

    def assign(frames, lengths):
        return netvlad.assign(frames, mask=frame_mask(lengths, frames))

    def pool(frames, lengths):
        return netvlad(frames, mask=frame_mask(lengths, frames))

    def project(frames, lengths):
        return hidden(pool(frames, lengths))

    def classify(frames, lengths):
        return scores(project(frames, lengths))

    stages = {"input": (select, [])}
    stages["assignment"] = assign, [netvlad.kernel, netvlad.bias]
    stages["aggregation"] = pool, netvlad.trainable_weights
    stages["hidden"] = project, netvlad.trainable_weights + hidden.trainable_weights
    stages["classifier"] = classify, model.trainable_weights
    calls = {}
    for stage, (function, weights) in stages.items():
        gradient = labels if stage == "classifier" else rng.standard_normal(function(frames, lengths).shape, "float32")
        # The gradient of the outputs comes from the step before: it is no part of any stage.
        step = _step(function, [weight.value for weight in weights])
        calls[stage] = partial(step, frames, lengths, tf.constant(gradient))
    # Not XLA's, Keras's choice: stages and the whole have to be compiled alike.
    model.compile("adam", "binary_crossentropy", jit_compile=False)
    calls["optimizer"] = partial(model.train_on_batch, {"frames": frames, "num_frames": lengths}, labels)
    return calls


def _step(function, weights):
    import tensorflow as tf

    @tf.function(autograph=False)
    def run(frames, lengths, gradient):
        with tf.GradientTape() as tape:
            outputs = function(frames, lengths)
        return outputs, tape.gradient(outputs, weights, output_gradients=gradient)

    return run


def measure(quick, seconds):
    """Runs everything; returns a dict for JSON."""
    # Each stage contains those before it, so that one after the other is measured, and the rest is a difference.
    limits = {"min_visits": 2, "visit_seconds": 0, "seconds": 0} if quick else {"seconds": seconds}
    rows = []
    for num_clusters in (4,) if quick else CLUSTERS:
        shape = (2, 20, 32, 16, 10) if quick else SIZES
        names = ("num_videos", "num_frames", "feature_size", "hidden_units", "num_classes")
        with Worker("tensorflow", KERAS_BACKEND="tensorflow") as worker:
            arguments = dict(zip(names, shape, strict=True))
            stages = worker.make("benchmarks.classifier:steps", num_clusters=num_clusters, **arguments)
            rounds = medians(interleaved({worker: stages}, **limits))
        rounds = {stage: rounds[f"tensorflow/{stage}"] for stage in stages}
        rows.append({**arguments, "num_clusters": num_clusters, "rounds": rounds})
        print(f"classifier: {num_clusters} clusters", flush=True)
    return {"left_out": [], "rows": rows}


def _seconds(row):
    """Quartiles of the time that each stage adds to those before it."""
    earlier = [0.0] * len(row["rounds"]["input"])
    added = {}
    for stage in STAGES:
        added[stage] = quartiles([now - then for now, then in zip(row["rounds"][stage], earlier, strict=True)])
        earlier = row["rounds"][stage]
    return added


def tables(part):
    """The part as Markdown."""
    rows = []
    for row in part["rows"]:
        added = _seconds(row)
        whole = quartiles(row["rounds"]["optimizer"])[1]
        cells = [row["num_clusters"], f"{1e3 * whole:.0f}"]
        cells += [f"{1e3 * added[stage][1]:.0f} ({100 * added[stage][1] / whole:.0f}%)" for stage in STAGES]
        rows.append(cells)
    return markdown.table(["K", "step, ms", *(f"{stage}, ms" for stage in STAGES)], rows)


def draw(part):
    """A stacked bar for each number of clusters."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.8 * len(part["rows"])), layout="constrained")
    axes = figure.subplots()
    labels = [f"K = {row['num_clusters']}" for row in part["rows"]]
    left = [0.0] * len(labels)
    for stage in STAGES:
        widths = [max(0.0, 1e3 * _seconds(row)[stage][1]) for row in part["rows"]]
        axes.barh(labels, widths, left=left, label=stage)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set(xlabel="ms of a training step")
    axes.legend(ncols=len(STAGES), fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure
