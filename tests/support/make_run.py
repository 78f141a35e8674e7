"""Directories of training runs with random numbers that fit together, for the tests of the report."""

import json

import numpy as np

SPLITS = ("train", "validation", "test")


def make_run(folder, rows=None, task="single_label", num_clusters=12, frames=8, fps=2.0, videos=None, seed=0):
    """Writes the files of a run as `keras-netvlad train` writes them.

    Args:
        folder: Directory to create.
        rows: List of `(path, label, group)`, as `make_labeled_videos` returns it. By default, 12 clips of 3 classes.
        task: `"single_label"` or `"multi_label"`. With several labels, every third clip has two.
        num_clusters: Number of clusters. The last one is never used.
        frames: Number of frames of each clip; every fifth clip has one less.
        fps: Frames per second.
        videos: Folder of the videos, for the settings.
        seed: Seed of all numbers.

    Returns:
        Dict with the arrays of `clips.npz`.
    """
    rng = np.random.default_rng(seed)
    rows = rows or [
        (f"{name}/{n:02d}.mp4", name, f"{name}_{n // 2}") for name in ("cat", "dog", "owl") for n in range(12)
    ]
    names = sorted({label for _, label, _ in rows})
    classes = np.array([names.index(label) for _, label, _ in rows])
    split = np.array([SPLITS[max(0, int(group.rpartition("_")[2]) % 6 - 3)] for _, _, group in rows])
    labels = np.eye(len(names), dtype="uint8")[classes]
    if task == "multi_label":
        labels[::3] |= np.eye(len(names), dtype="uint8")[(classes[::3] + 1) % len(names)]
    logits = {}
    for model, strength in (("scores", 4.0), ("mean_scores", 2.5)):
        raw = strength * labels + rng.normal(0, 1.4, labels.shape)
        exp = np.exp(raw - raw.max(axis=1, keepdims=True))
        is_single = task == "single_label"
        logits[model] = (exp / exp.sum(axis=1, keepdims=True) if is_single else 1 / (1 + np.exp(2 - raw))).astype(
            "float32"
        )
    centers = rng.normal(size=(len(names), 64))
    lengths = np.array([frames - (number % 5 == 4) for number in range(len(rows))], "int32")
    # Each class prefers some clusters; a slow wave changes them during a clip.
    liking = rng.normal(0, 1.6, (len(names), num_clusters))
    assignments = []
    for label, length in zip(classes, lengths, strict=True):
        phase = rng.uniform(0, 2 * np.pi, num_clusters)
        waves = 2.5 * np.sin(phase + np.linspace(0, 4, length)[:, None]) + liking[label]
        waves[:, -1] = -30
        exp = np.exp(waves - waves.max(axis=1, keepdims=True))
        assignments.append(exp / exp.sum(axis=1, keepdims=True))
    arrays = {
        "ids": np.array([path for path, _, _ in rows]),
        "split": split,
        "labels": labels,
        **logits,
        "descriptors": (centers[classes] + rng.normal(0, 1.2, (len(rows), 64))).astype("float32"),
        "frames_per_clip": lengths,
        "assignments": np.concatenate(assignments).astype("float32"),
    }
    (folder / "predictor").mkdir(parents=True)
    write_results(folder, names, task, arrays)
    np.savez(folder / "clips.npz", **arrays)
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    settings = {
        "features": "features",
        "epochs": 30,
        "num_clusters": num_clusters,
        "learning_rate": 0.001,
        "seed": seed,
    }
    write_json(folder / "settings.json", {**settings, "fps": fps, "videos": videos and str(videos), "patience": None})
    write_json(folder / "history.json", histories(rng, "accuracy" if task == "single_label" else "gap"))
    predictor = {"labels": names, "task": task, "fps": fps, "size": 224, "stream": "rgb"}
    write_json(folder / "predictor" / "predictor.json", predictor)
    for name, difference in (("backbone", 3.1e-6), ("classifier", 4.2e-7)):
        write_json(folder / "predictor" / f"{name}.onnx.parity.json", parity(difference))
    return arrays


def write_results(folder, names, task, arrays):
    """Writes `results.json`: values of the test clips, and intervals of a normal approximation."""
    labels, test = arrays["labels"], arrays["split"] == "test"
    values, by_class = {}, {}
    for model, scores in (("model", arrays["scores"]), ("mean", arrays["mean_scores"])):
        is_right = labels[np.arange(len(labels)), scores.argmax(axis=1)] > 0
        value = float(is_right[test].mean())
        width = 1.96 * np.sqrt(value * (1 - value) / test.sum())
        values[model] = {"value": value, "low": max(0.0, value - width), "high": min(1.0, value + width)}
        by_class[model] = [float(is_right[test & (column > 0)].mean()) for column in labels.T]
    counts = {split: arrays["split"] == split for split in SPLITS}
    results = {
        "pooling": "netvlad",
        "task": task,
        "metric": "accuracy" if task == "single_label" else "gap",
        "confidence": 0.95,
        "test": values,
        "num_videos": {split: int(chosen.sum()) for split, chosen in counts.items()},
        "classes": [
            {
                "name": name,
                **{split: int((labels[chosen, number] > 0).sum()) for split, chosen in counts.items()},
                **{model: by_class[model][number] for model in values},
            }
            for number, name in enumerate(names)
        ],
    }
    write_json(folder / "results.json", results)


def histories(rng, metric, epochs=30):
    """Returns learning curves of two models."""
    histories = {}
    for model, speed, best in (("model", 5, 0.95), ("mean", 8, 0.86)):
        rows = []
        for epoch in range(1, epochs + 1):
            left = np.exp(-epoch / speed)
            noise = rng.normal(0, 0.012, 4)
            rows.append(
                {
                    "epoch": epoch,
                    "loss": 0.15 + 1.6 * left + abs(noise[0]),
                    "val_loss": 0.32 + 1.4 * left + 0.004 * epoch + abs(noise[1]),
                    metric: min(1.0, best + 0.04 - 0.7 * left + noise[2]),
                    f"val_{metric}": min(1.0, best - 0.04 - 0.65 * left + 2 * noise[3]),
                }
            )
        histories[model] = rows
    return histories


def parity(difference):
    """Returns the content of a parity file with one output."""
    output = {"signature": "serving_default", "output": "scores", "max_absolute_difference": difference, "ok": True}
    differences = {"max_relative_difference": difference, "max_relative_difference_to_float64": 2 * difference}
    agreement = {"output": "scores", "same": 12, "rows": 12, "min": 1.0}
    sizes = {"kind": "onnx", "num_bytes": 123456, "load_seconds": 0.02, "num_runs": 15, "judge": "float64"}
    return {
        "producer": "keras_netvlad",
        "created": "2026-01-01T00:00:00+00:00",
        "precision": "float32",
        "metadata": {},
        "parity": {
            **{"ok": True, "tolerance": 1e-4, **sizes},
            **{"outputs": [{**output, **differences}], "top_1_agreement": agreement},
        },
    }


def write_json(path, content):
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
