"""Time and memory of a million descriptors on one machine: clusters, descriptors, whitening, index and search.

Descriptors of 8192 values are random around random centers, and are made and reduced chunk by chunk, as they would
come from a model. The time to reduce them grows with their number, so a part of them is reduced, and the index is
filled up with descriptors that are drawn in the same way, but short. Everything runs on one thread, and times are those
of its processor, so that other work on the machine changes them little.
"""

import importlib.util
import random
import time
from types import SimpleNamespace

import numpy as np

from benchmarks import markdown
from benchmarks.measuring import PeakMemory, Worker, quartiles
from benchmarks.places import ONE_THREAD

TITLE = "Search in a million descriptors"
# Features of a picture, their size and the clusters, so that descriptors have 8192 values; components, and samples to
# find them; how many long descriptors are reduced; how many short ones the index gets, around how many centers; and how
# many are made at once.
FULL = {"features": 196, "size": 128, "clusters": 64, "reduced": 512, "samples": 2560}
FULL |= {"long": 65_536, "descriptors": 1_000_000, "centers": 5000, "chunk": 16_384}
QUICK = {"features": 20, "size": 16, "clusters": 4, "reduced": 8, "samples": 80}
QUICK |= {"long": 400, "descriptors": 600, "centers": 50, "chunk": 200}
NOISE = 0.7  # standard deviation around a center, over that of the centers
BATCHES = (1, 64)
# Approximate search: cells, of which a query visits a few, and a byte for each value.
CELLS, VISITED, TRAINED = 256, 8, 10_000


def measure(quick, seconds):
    """Makes, reduces and searches; returns a dict for JSON."""
    if importlib.util.find_spec("faiss") is None:
        return {"left_out": ["search: faiss is not installed"], "rows": []}
    with Worker("search", memory=True, limit_seconds=3600, **ONE_THREAD) as worker:
        result = worker.run("benchmarks.search:stages", sizes=QUICK if quick else FULL, seconds=0 if quick else seconds)
    return {**result, "left_out": []}


def stages(sizes, seconds):
    """Returns time and memory of each stage, and the times of searches."""
    sizes = SimpleNamespace(**sizes)
    rows = []

    def timed(stage, number, call):
        with PeakMemory() as memory:
            start = time.process_time()
            result = call()
            elapsed = time.process_time() - start
        rows.append({"stage": stage, "number": number, "seconds": elapsed, "memory": memory.added})
        print(f"search: {rows[-1]}", flush=True)
        return result

    rng = np.random.default_rng(0)
    _describe(timed, sizes, rng)
    index = _reduce(timed, sizes, rows, rng)
    return {"rows": rows, **_search(timed, index, sizes.chunk, seconds)}


def _describe(timed, sizes, rng):
    """Clusters features, and computes descriptors of a few pictures."""
    import tensorflow as tf

    from keras_netvlad import NetVLAD

    pictures = rng.standard_normal((512, sizes.features, sizes.size), "float32")
    layer = NetVLAD(sizes.clusters)
    number = min(256 * sizes.clusters, len(pictures) * sizes.features)
    timed("k-means, `adapt`", number, lambda: layer.adapt(pictures, seed=0, verbose=0))
    describe = tf.function(layer)
    describe(pictures[:64])
    parts = [tf.constant(pictures[start : start + 64]) for start in range(0, len(pictures), 64)]
    timed("descriptors, `NetVLAD`", len(pictures), lambda: [np.asarray(describe(part)) for part in parts])


def _reduce(timed, sizes, rows, rng):
    """Returns an index of reduced descriptors. Making the long ones is not measured."""
    from keras_netvlad.layers import PCAWhitening
    from keras_netvlad.retrieval import DescriptorIndex

    size = sizes.clusters * sizes.size
    centers = rng.standard_normal((sizes.centers, size), "float32")
    noise = NOISE * rng.standard_normal((sizes.chunk, size), "float32")

    def chunk(centers, noise, number):
        made = centers[rng.integers(0, len(centers), number)]
        made += noise[rng.integers(0, len(noise), number)]
        return made

    layer, index = PCAWhitening(sizes.reduced), DescriptorIndex()
    sample = chunk(centers, noise, sizes.samples)
    timed("whitening, `PCAWhitening.adapt`", sizes.samples, lambda: layer.adapt(sample))
    seconds, memory = {"reduce": 0.0, "add": 0.0}, {"reduce": 0, "add": 0}

    def added_up(name, call):
        with PeakMemory() as peak:
            start = time.process_time()
            result = call()
            seconds[name] += time.process_time() - start
        memory[name] = memory[name] + peak.added if name == "add" else max(memory[name], peak.added)
        return result

    for start in range(0, sizes.descriptors, sizes.chunk):
        number = min(sizes.chunk, sizes.descriptors - start)
        if start < sizes.long:
            long = chunk(centers, noise, number)
            short = added_up("reduce", lambda long=long: np.asarray(layer(long)))
        else:
            if start - sizes.chunk < sizes.long:
                centers, noise = (
                    rng.standard_normal((len(rows), sizes.reduced), "float32") for rows in (centers, noise)
                )
                noise *= NOISE
            short = chunk(centers, noise, number)
        names = [f"{number:07d}" for number in range(start, start + len(short))]
        added_up("add", lambda names=names, short=short: index.add(names, short))
    for name, stage in {"reduce": f"{size} to {sizes.reduced} values", "add": "`DescriptorIndex.add`"}.items():
        number = sizes.long if name == "reduce" else sizes.descriptors
        rows.append({"stage": stage, "number": number, "seconds": seconds[name], "memory": memory[name]})
        print(f"search: {rows[-1]}", flush=True)
    return index


def _search(timed, index, chunk, seconds):
    """Returns the times of every search, and how often it finds the nearest descriptor."""
    import faiss

    names = index.ids[:: len(index) // max(BATCHES)][: max(BATCHES)]
    # The first use joins the chunks that were added.
    timed("joining the chunks of the index", len(index), lambda: index.descriptor(names[0]))
    queries = np.stack([index.descriptor(name) for name in names])
    exact = timed("`to_faiss`", len(index), index.to_faiss)

    def approximate():
        cells = min(CELLS, len(index) // 40)
        found = faiss.index_factory(queries.shape[1], f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT)
        found.train(exact.reconstruct_n(0, min(TRAINED, len(index))))
        for start in range(0, len(index), chunk):
            found.add(exact.reconstruct_n(start, min(chunk, len(index) - start)))
        found.nprobe = VISITED
        return found

    cells = timed(f"faiss, {CELLS} cells, a byte a value", len(index), approximate)
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
    while visits < 3 or time.perf_counter() < end:
        for name in random.sample(list(searches), len(searches)):
            for batch in BATCHES:
                start = time.process_time()
                searches[name](noisy[:batch])
                times[name][str(batch)].append(time.process_time() - start)
        visits += 1
    return {"times": times, "recalls": recalls}


def _unit(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def tables(part):
    """Returns the results as Markdown tables."""
    if not part["rows"]:
        return markdown.notes(part["left_out"]).strip()
    header = ["stage", "number", "processor, seconds", "a second", "memory that it adds, MB"]
    rows = [
        [
            *(row["stage"], f"{row['number']:,}", f"{row['seconds']:.1f}"),
            *(f"{row['number'] / row['seconds']:,.0f}", f"{max(row['memory'], 0) / 1e6:,.0f}"),
        ]
        for row in part["rows"]
    ]
    text = markdown.table(header, rows)
    header = ["search", "1 query, processor, ms", "64 queries, processor, ms", "share of the ten nearest that it finds"]
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
    searches = list(reversed(part.get("times", {}).items()))
    for height, (_, times) in enumerate(searches):
        for batch, color in zip(times, ("tab:red", "tab:blue"), strict=True):
            value = 1e3 * np.median(times[batch]) / int(batch)
            axes.plot(value, height, "o", color=color, label=f"{batch} at once" if height == 0 else None)
    axes.set_yticks(range(len(searches)), [name.strip("`") for name, _ in searches])
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds per query")
    axes.grid(axis="x", alpha=0.3)
    if part["rows"]:
        axes.legend(fontsize="small")
    return figure
