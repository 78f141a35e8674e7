"""Time and memory of a million descriptors on one machine: clusters, descriptors, whitening, index and search.

Descriptors of 8192 values are random around random centers, and are made and reduced chunk by chunk, as they would
come from a model. Only the reduced ones are kept.
"""

import importlib.util
import random
import time

import numpy as np

from benchmarks import markdown
from benchmarks.measuring import PeakMemory, Worker, quartiles

TITLE = "Search in a million descriptors"
# Features of a picture, their size and the clusters, so that descriptors have 8192 values.
FEATURES, SIZE, CLUSTERS = 196, 128, 64
REDUCED = 512
# Ten samples for each component, as `PCAWhitening` advises.
SAMPLES = 10 * REDUCED
DESCRIPTORS, CENTERS, CHUNK, BATCHES = 1_000_000, 20_000, 8192, (1, 64)
QUICK = {"DESCRIPTORS": 600, "CENTERS": 50, "CHUNK": 200, "CLUSTERS": 4, "SIZE": 16, "REDUCED": 8, "SAMPLES": 80}
NOISE = 0.7
# Approximate search: cells, of which a query visits a few, and a byte for each value.
CELLS, VISITED, TRAINED = 1024, 16, 40_000


def measure(quick, seconds):
    """Makes, reduces and searches; returns a dict for JSON."""
    if importlib.util.find_spec("faiss") is None:
        return {"left_out": ["search: faiss is not installed"], "rows": []}
    with Worker("search", memory=True, limit_seconds=3600, KERAS_BACKEND="tensorflow") as worker:
        result = worker.run("benchmarks.search:stages", sizes=QUICK if quick else {}, seconds=0 if quick else seconds)
    return {**result, "left_out": []}


def stages(sizes, seconds):
    """Returns time and memory of each stage, and the times of searches."""
    globals().update(sizes)
    rows = []

    def timed(stage, number, call):
        with PeakMemory() as memory:
            start = time.perf_counter()
            result = call()
            elapsed = time.perf_counter() - start
        rows.append({"stage": stage, "number": number, "seconds": elapsed, "memory": memory.added})
        print(f"search: {rows[-1]}", flush=True)
        return result

    rng = np.random.default_rng(0)
    _describe(timed, rng)
    centers = rng.standard_normal((CENTERS, CLUSTERS * SIZE), "float32")
    reduced = _reduce(timed, rows, centers, rng)
    del centers
    queries = _unit(reduced[:: max(len(reduced) // max(BATCHES), 1)][: max(BATCHES)])
    return {"rows": rows, **_search(timed, reduced, queries, seconds)}


def _describe(timed, rng):
    """Clusters features, and computes descriptors of a few pictures."""
    import tensorflow as tf

    from keras_netvlad import NetVLAD

    pictures = rng.standard_normal((512, FEATURES, SIZE), "float32")
    layer = NetVLAD(CLUSTERS)
    number = min(256 * CLUSTERS, len(pictures) * FEATURES)
    timed("k-means, `adapt`", number, lambda: layer.adapt(pictures, seed=0, verbose=0))
    describe = tf.function(layer)
    describe(pictures[:64])
    parts = [tf.constant(pictures[start : start + 64]) for start in range(0, len(pictures), 64)]
    timed("descriptors, `NetVLAD`", len(pictures), lambda: [np.asarray(describe(part)) for part in parts])


def _reduce(timed, rows, centers, rng):
    """Returns the reduced descriptors. Making the long ones is not measured."""
    from keras_netvlad.layers import PCAWhitening

    def chunk(number):
        rows = rng.standard_normal((number, centers.shape[1]), "float32")
        rows *= NOISE
        rows += centers[rng.integers(0, len(centers), number)]
        return rows

    layer = PCAWhitening(REDUCED)
    sample = chunk(SAMPLES)
    timed("whitening, `PCAWhitening.adapt`", SAMPLES, lambda: layer.adapt(sample))
    reduced, elapsed, added = np.empty((DESCRIPTORS, REDUCED), "float32"), 0.0, 0
    for start in range(0, DESCRIPTORS, CHUNK):
        long = chunk(min(CHUNK, DESCRIPTORS - start))
        with PeakMemory() as memory:
            begin = time.perf_counter()
            reduced[start : start + len(long)] = np.asarray(layer(long))
            elapsed += time.perf_counter() - begin
        added = max(added, memory.added)
    rows.append(
        {"stage": f"{centers.shape[1]} to {REDUCED} values", "number": DESCRIPTORS, "seconds": elapsed, "memory": added}
    )
    return reduced


def _search(timed, reduced, queries, seconds):
    """Returns the times of every search, and how often it finds the nearest descriptor."""
    import faiss

    from keras_netvlad.retrieval import DescriptorIndex

    index = DescriptorIndex()

    def fill():
        for start in range(0, len(reduced), CHUNK):
            part = reduced[start : start + CHUNK]
            index.add([f"{number:07d}" for number in range(start, start + len(part))], part)
        index.search(queries[:1], 1)  # joins the parts

    timed("`DescriptorIndex.add`", len(reduced), fill)
    exact = timed("`to_faiss`", len(reduced), index.to_faiss)

    def approximate():
        cells = min(CELLS, len(reduced) // 40)
        found = faiss.index_factory(queries.shape[1], f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT)
        found.train(_unit(reduced[:TRAINED]))
        for start in range(0, len(reduced), CHUNK):
            found.add(_unit(reduced[start : start + CHUNK]))
        found.nprobe = VISITED
        return found

    cells = timed(f"faiss, {CELLS} cells, a byte a value", len(reduced), approximate)
    # Queries are near a descriptor, and not equal to one.
    noisy = _unit(queries + 0.3 * _unit(np.random.default_rng(1).standard_normal(queries.shape, "float32")))
    searches = {
        "`DescriptorIndex.search`": lambda rows: index.search(rows, 10)[0].astype(int),
        "faiss, exact": lambda rows: exact.search(rows, 10)[1],
        f"faiss, {VISITED} of {CELLS} cells": lambda rows: cells.search(rows, 10)[1],
    }
    nearest = searches["`DescriptorIndex.search`"](noisy)
    recalls = {
        name: float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(search(noisy), nearest, strict=True)]))
        for name, search in searches.items()
    }
    times = {name: {str(batch): [] for batch in BATCHES} for name in searches}
    end, visits = time.perf_counter() + seconds, 0
    while visits < 5 or time.perf_counter() < end:
        for name in random.sample(list(searches), len(searches)):
            for batch in BATCHES:
                start = time.perf_counter()
                searches[name](noisy[:batch])
                times[name][str(batch)].append(time.perf_counter() - start)
        visits += 1
    return {"times": times, "recalls": recalls}


def _unit(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def tables(part):
    """Returns the results as Markdown tables."""
    if not part["rows"]:
        return markdown.notes(part["left_out"]).strip()
    header = ["stage", "number", "seconds", "a second", "memory that it adds, MB"]
    rows = [
        [
            *(row["stage"], f"{row['number']:,}", f"{row['seconds']:.1f}"),
            *(f"{row['number'] / row['seconds']:,.0f}", f"{max(row['memory'], 0) / 1e6:,.0f}"),
        ]
        for row in part["rows"]
    ]
    text = markdown.table(header, rows)
    header = ["search", "1 query, ms", "64 queries, ms", "share of the ten nearest that it finds"]
    rows = [
        [name, *(_milliseconds(values) for values in times.values()), f"{part['recalls'][name]:.3f}"]
        for name, times in part["times"].items()
    ]
    return f"{text}\n\nThe ten nearest, of medians and quartiles:\n\n{markdown.table(header, rows)}"


def _milliseconds(values):
    low, middle, high = (1e3 * value for value in quartiles(values))
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


def draw(part):
    """Draws the time of a query by itself and in a batch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    for height, times in enumerate(reversed(part.get("times", {}).values())):
        for batch, color in zip(times, ("tab:red", "tab:blue"), strict=True):
            value = 1e3 * np.median(times[batch]) / int(batch)
            axes.plot(value, height, "o", color=color, label=f"{batch} at once" if height == 0 else None)
    axes.set_yticks(range(len(part.get("times", {}))), list(reversed(part.get("times", {}))))
    axes.set_xscale("log")
    axes.set_xlabel("ms a query")
    axes.grid(axis="x", alpha=0.3)
    if part["rows"]:
        axes.legend(fontsize="small")
    return figure
