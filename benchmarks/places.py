"""Recall of places on a real walk: untrained poolings of the maps of an ImageNet network, settings chosen beforehand.

One walk through a corridor is the database, a second walk has the queries. Clusters, whitening and every choice of a
setting come from the first walk alone: changed copies of its pictures search for their neighbors.
"""

import sys
from pathlib import Path

import numpy as np

from benchmarks import markdown
from benchmarks.measuring import Worker, interleaved, medians, paired_ratio

TITLE = "Recall of places"
NEIGHBORS = 2  # pictures of a walk that are this near show the same place, as in the data set's own relevance
SIZES = (8, 16, 32, 64)
WHITENINGS = (16, 32, 64)  # numbers of components; the walk has 111 pictures, so there are 110 at most
QUICK_WHITENINGS = (2,)
SEEDS = 3
WITHOUT_CLUSTERS = ("mean", "max", "GeM")
CLUSTERED = ("VLAD", "NetVLAD", "NetRVLAD", "optimal transport")  # on the clusters of k-means
RANDOM = ("NetVLAD, random", "SALAD, random", "SuperVLAD, random")
RANDOM_SIZE = 16
BATCH, TIMED_PICTURES = 16, 8
# The operations are small: a second thread would wait for the first one.
ONE_THREAD = {
    **{"KERAS_BACKEND": "tensorflow", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    **{"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"},
}
WANTED = (
    "places: name with --corridor an .npz of the Corridor set of VPR-Bench (github.com/MubarizZaffar/VPR-Bench), with "
    "`ref_jpeg` and `query_jpeg`, the files of both walks end to end, `ref_bytes` and `query_bytes`, the length of "
    "each file, and `relevance (queries, references)`, boolean"
)
NO_WEIGHTS = "places: the ImageNet weights of MobileNetV2 are not installed; run it with `make bench`"


def measure(quick, seconds, corridor=None):
    """Describes, whitens and searches with every setting; returns a dict for JSON."""
    weights = next(Path(sys.prefix, "weights").rglob("mobilenet_v2-b0353104.pth"), None)
    missing = [WANTED] if corridor is None else [] if weights or quick else [NO_WEIGHTS]
    if missing:
        return {"left_out": missing, "rows": []}
    given = {"quick": quick, "corridor": str(corridor), "weights": None if quick else str(weights)}
    with Worker("places", limit_seconds=3600, **ONE_THREAD) as worker:
        result = worker.run("benchmarks.places:search", **given)
        limits = {"min_visits": 2, "seconds": 0, "visit_seconds": 0} if quick else {"seconds": seconds * 3}
        names = worker.make("benchmarks.places:calls", **given)
        rounds = medians(interleaved({worker: names}, **limits))
    return {
        **result,
        "rounds": {name.removeprefix("places/"): values for name, values in rounds.items()},
        "left_out": [],
    }


# In the worker.


def search(quick, corridor, weights):
    """Returns the recall of every pooling with every setting, on copies of the first walk and on the second walk."""
    references, queries, relevance = read_walks(corridor)
    encode = encoder(quick, weights)
    views = changed(references, np.random.default_rng(0))
    walks = {"references": references, "queries": queries, **views}
    maps = {name: encode(pictures) for name, pictures in walks.items()}
    distance = np.abs(np.subtract.outer(np.arange(len(references)), np.arange(len(references))))
    # The picture itself is excluded: a second walk has no copy of it.
    neighbors = (distance <= NEIGHBORS) - 2 * (distance == 0).astype(int)
    rows = []
    for row, describe in settings(maps["references"], quick):
        described = {name: _normalized(np.asarray(describe(values))) for name, values in maps.items()}
        size = described["queries"].shape[1]
        sizes = QUICK_WHITENINGS if quick else WHITENINGS
        for whitening, values in whitened(in_span(described), sizes).items():
            ranked = {name: values[name] @ values["references"].T for name in values}
            validated = [recalls(neighbors, ranked[name])[0] for name in views]
            recall = recalls(relevance.astype(int), ranked["queries"])
            result = {"values": whitening or size, "validated": float(np.mean(validated)), "recall": recall}
            rows.append({**row, "whitening": whitening, **result})
        print(f"places: {_name(row)}, seed {row['seed']}", flush=True)
    return {"references": len(references), "queries": len(queries), "maps": maps["queries"].shape[1:], "rows": rows}


def calls(quick, corridor, weights):
    """Returns the calls to time, by name: the backbone and the poolings of its maps, all for the same pictures."""
    import tensorflow as tf

    references, _, _ = read_walks(corridor)
    encode = encoder(quick, weights)
    maps = encode(references)
    timed = {"backbone": tf.function(encode.backbone)}
    given = {"backbone": tf.constant(encode.resized(references[:TIMED_PICTURES]))}
    for row, describe in settings(maps, quick, seeds=1):
        timed[_name(row)] = tf.function(describe)
        given[_name(row)] = tf.constant(maps[:TIMED_PICTURES])
    return {name: lambda name=name: timed[name](given[name]) for name in timed}


def read_walks(path):
    """Returns the pictures of both walks `(R, H, W, 3)` and `(Q, H, W, 3)` as bytes, and their relevance `(Q, R)`."""
    import tensorflow as tf

    walks = []
    with np.load(path, allow_pickle=False) as arrays:
        for name in ("ref", "query"):
            ends = np.cumsum(arrays[f"{name}_bytes"])
            files = np.split(arrays[f"{name}_jpeg"], ends[:-1])
            walks.append(np.stack([tf.io.decode_jpeg(file.tobytes(), channels=3).numpy() for file in files]))
        return (*walks, arrays["relevance"])


def encoder(quick, weights):
    """Returns a function from pictures to the maps of the last layer of MobileNetV2, `(B, 7, 7, 1280)`."""
    import keras

    from examples.video_from_files import torchvision_mobilenet

    size = 32 if quick else 224
    if quick:
        convolution = keras.layers.Conv2D(12, 5, 8, activation="relu", padding="same")
        backbone = keras.Sequential([keras.Input((size, size, 3)), convolution])
    else:
        backbone = torchvision_mobilenet(size, weights)

    def resized(pictures):
        values = keras.ops.image.resize(keras.ops.cast(pictures, "float32"), (size, size))
        mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # torchvision's
        return ((np.asarray(values) / 255.0 - mean) / deviation).astype("float32")

    def encode(pictures):
        batches = range(0, len(pictures), BATCH)
        return np.concatenate([np.asarray(backbone(resized(pictures[start : start + BATCH]))) for start in batches])

    encode.backbone, encode.resized = backbone, resized
    return encode


def changed(pictures, rng):
    """Returns copies of pictures, by the name of the change: darker, noisy and nearer, as another walk may see them."""
    rows, columns = (size // 8 for size in pictures.shape[1:3])
    return {
        "darker": pictures // 3,
        "noisy": np.clip(np.rint(pictures + rng.normal(0, 40, pictures.shape)), 0, 255).astype("uint8"),
        "nearer": pictures[:, rows:-rows, columns:-columns],
    }


def settings(maps, quick, seeds=SEEDS):
    """Yields each pooling: its description, and a function from maps to descriptors. Clusters are those of `maps`.

    Poolings with clusters normalize the features, as NetVLAD's paper does.
    """
    from keras import utils

    from keras_netvlad import NetVLAD
    from keras_netvlad.layers import SALAD, GeMPooling, MaxPooling, MeanPooling, NetRVLAD

    for normalize in (False, True):
        options = {"normalize_input": normalize}
        layers = (MeanPooling(**options), MaxPooling(**options), GeMPooling(**options))
        for name, layer in zip(WITHOUT_CLUSTERS, layers, strict=True):
            yield {"pooling": name, "K": None, **options, "seed": 0}, layer
    sizes, seeds = (SIZES[:2], 1) if quick else (SIZES, seeds)
    for seed in range(seeds):
        for size in sizes:
            for name, describe in clustered(maps, size, options, seed).items():
                yield {"pooling": name, "K": size, **options, "seed": seed}, describe
        utils.set_random_seed(seed)
        layers = (
            NetVLAD(RANDOM_SIZE, **options),
            SALAD(RANDOM_SIZE, **options),
            NetRVLAD.supervlad(**options),
        )
        for name, layer in zip(RANDOM, layers, strict=True):
            yield {"pooling": name, "K": layer.num_clusters, **options, "seed": seed}, layer


def clustered(maps, size, options, seed):
    """Returns functions from maps to descriptors for the poolings that share the clusters of k-means."""
    from keras import ops

    from keras_netvlad import NetVLAD
    from keras_netvlad.layers import VLAD, NetRVLAD, ScoredVLAD
    from keras_netvlad.layers.optimal_transport import transported_assignments
    from keras_netvlad.layers.vlad_ops import normalize

    netvlad = NetVLAD(size, **options)
    netvlad.adapt(maps, seed=seed, verbose=0)
    vlad, netrvlad = VLAD(size, **options), NetRVLAD(size, **options)
    scored = ScoredVLAD(size, softmax=False, **options)
    for layer in (vlad, netrvlad, scored):
        layer.build(maps.shape)
        for weight in layer.weights:
            weight.assign(getattr(netvlad, weight.name))

    def transported(values):
        features = ops.reshape(values, (-1, values.shape[1] * values.shape[2], values.shape[3]))
        features = normalize(features) if options["normalize_input"] else features
        scores = ops.matmul(features, netvlad.kernel) + netvlad.bias
        shares = transported_assignments(scores, ops.ones_like(features[..., :1]), None, iterations=3)
        return scored(features, scores=shares)

    return dict(zip(CLUSTERED, (vlad, netvlad, netrvlad, transported), strict=True))


def in_span(described):
    """Returns descriptors as coordinates in the span of the references, `(., R)`.

    Products with references stay the same, and so do the principal components of the references. Both are as good as
    those of the long descriptors and take a fraction of the time.
    """
    basis, _ = np.linalg.qr(described["references"].T)  # (F, R)
    return {name: values @ basis for name, values in described.items()}


def whitened(described, sizes):
    """Returns descriptors of every walk by the number of components, `None` for those that are not whitened."""
    from keras_netvlad.layers import PCAWhitening

    # The components are sorted, so that the first of many are those of a layer with fewer.
    layer = PCAWhitening(max(sizes), normalize_output=False)
    layer.adapt(described["references"])
    components = {name: np.asarray(layer(values)) for name, values in described.items()}
    shortened = {size: {name: _normalized(values[:, :size]) for name, values in components.items()} for size in sizes}
    return {None: described, **shortened}


def _normalized(values):
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def recalls(relevance, similarities):
    """Returns the recall at 1, 5 and 10 as `RecallAtN` defines it: items of negative relevance are left out."""
    best = np.where(relevance > 0, similarities, -np.inf).max(axis=1, keepdims=True)
    before = ((relevance == 0) & (similarities >= best)).sum(axis=1)
    return [float((before < n).mean()) for n in (1, 5, 10)]


# In the process that writes.


def _name(row):
    return row["pooling"] if row["K"] is None else f"{row['pooling']}, K = {row['K']}"


def tables(part):
    """Returns the settings chosen on the first walk, and every number of clusters, as Markdown tables."""
    if not part["rows"]:
        return markdown.notes(part["left_out"]).strip()
    text = (
        f"{part['queries']} queries among {part['references']} pictures; maps "
        f"{' x '.join(str(size) for size in part['maps'])}. Settings chosen on the first walk:\n\n"
    )
    rows = [
        [
            *(row["pooling"], row["K"] or "", "yes" if row["normalize_input"] else "no", row["whitening"] or "no"),
            *(f"{row['validated']:.3f}", *(_deviation(row["recall"], n) for n in range(3))),
            *(f"{4 * row['values']:,}", markdown.ratio(paired_ratio(part["rounds"], _name(row), "backbone"))),
        ]
        for row in _chosen(part)
    ]
    header = ["pooling", "K", "features normalized", "whitened to", "first walk", "Recall@1", "Recall@5", "Recall@10"]
    text += markdown.table([*header, "bytes", "time / network"], rows)
    settings = [row for row in _settings(part) if row["pooling"] in CLUSTERED]
    sizes = sorted({row["K"] for row in settings})
    rows = [
        [
            *(name, whitening or "no"),
            *(_deviation(_one(settings, pooling=name, K=size, whitening=whitening)["recall"], 0) for size in sizes),
        ]
        for name in CLUSTERED
        for whitening in dict.fromkeys(row["whitening"] for row in settings)
    ]
    header = ["pooling", "whitened to", *(f"K = {size}" for size in sizes)]
    text += f"\n\nRecall@1 of every number of clusters:\n\n{markdown.table(header, rows)}"
    rows = [
        [
            *(row["pooling"], row["K"] or "", "yes" if row["normalize_input"] else "no"),
            *(
                _deviation(_one(_settings(part), **_key(row), whitening=size)["recall"], 0)
                for size in _whitenings(part)
            ),
        ]
        for row in _settings(part)
        if row["pooling"] not in CLUSTERED and row["whitening"] is None
    ]
    header = [
        "pooling",
        "K",
        "features normalized",
        *(f"whitened to {size}" if size else "not" for size in _whitenings(part)),
    ]
    return f"{text}\n\nRecall@1 of the others:\n\n{markdown.table(header, rows)}"


def _key(row):
    return {name: row[name] for name in ("pooling", "K", "normalize_input")}


def _whitenings(part):
    return list(dict.fromkeys(row["whitening"] for row in part["rows"]))


def _settings(part):
    """Returns one row for each setting, with the recalls of all seeds `(seeds, 3)`."""
    found = {}
    for row in part["rows"]:
        key = (*_key(row).values(), row["whitening"])
        found.setdefault(key, []).append(row)
    return [
        {
            **rows[0],
            "validated": float(np.mean([row["validated"] for row in rows])),
            "recall": [row["recall"] for row in rows],
        }
        for rows in found.values()
    ]


def _chosen(part):
    """Returns the setting of each pooling that is best on the first walk, the best recall on the second walk first.

    Of equally good settings, the shortest descriptor is chosen.
    """
    settings = _settings(part)
    best = [
        max((row for row in settings if row["pooling"] == name), key=lambda row: (row["validated"], -row["values"]))
        for name in dict.fromkeys(row["pooling"] for row in settings)
    ]
    return sorted(best, key=lambda row: -np.mean(row["recall"], axis=0)[0])


def _one(settings, **given):
    return next(row for row in settings if all(row[name] == value for name, value in given.items()))


def _deviation(recalls, column):
    """Mean and standard deviation over the seeds, if there are several."""
    values = [row[column] for row in recalls]
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


def draw(part):
    """Draws recall over the number of clusters, whitened or not, with the standard deviation of the seeds."""
    from matplotlib.figure import Figure

    settings = _settings(part)
    whitenings = _whitenings(part) or [None]
    figure = Figure(figsize=(2.9 * len(whitenings), 3.8), layout="constrained")
    panels = figure.subplots(1, len(whitenings), squeeze=False, sharey=True)[0]
    for whitening, axes in zip(whitenings, panels, strict=True):
        rows = [row for row in settings if row["whitening"] == whitening and row["normalize_input"]]
        for number, name in enumerate(CLUSTERED):
            points = sorted(
                (row["K"], [recall[0] for recall in row["recall"]]) for row in rows if row["pooling"] == name
            )
            means = [np.mean(values) for _, values in points]
            errors = [np.std(values, ddof=min(len(values) - 1, 1)) for _, values in points]
            places = [size * 1.04 ** (number - 1.5) for size, _ in points]  # side by side
            axes.errorbar(places, means, errors, fmt="o-", markersize=3, capsize=3, label=name, color=f"C{number}")
        for row in rows:
            if row["pooling"] in WITHOUT_CLUSTERS:
                style = ("-", "--", ":")[WITHOUT_CLUSTERS.index(row["pooling"])]
                axes.axhline(row["recall"][0][0], color="gray", linestyle=style, label=row["pooling"])
        axes.set_xscale("log", base=2)
        axes.set_xticks(SIZES, [str(size) for size in SIZES])
        axes.set_title(f"whitened to {whitening}" if whitening else "not whitened", fontsize="medium")
        axes.set_xlabel("clusters K")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("Recall@1")
    handles, labels = panels[0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize="small")
    return figure
