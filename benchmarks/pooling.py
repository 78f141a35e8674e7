"""Accuracy of every pooling on real speech: same head, same budget, five seeds, mean and standard deviation.

The only thing chosen for each pooling is its learning rate, on a validation split of the training data.
"""

import numpy as np

from benchmarks import markdown
from benchmarks.measuring import Worker

TITLE = "Accuracy of the poolings"
NAMES = ("netvlad", "netrvlad", "netfv", "soft_dbow", "nextvlad", "mean", "mean_std", "max", "attention")
ADAPTED = "netvlad after adapt"
# Epochs and videos a batch. K of both is 16.
BUDGETS = {"Japanese vowels": (40, 32), "spoken digits": (8, 64)}
QUICK_BUDGETS = {"Japanese vowels": (1, 64), "spoken digits": (1, 64)}
NUM_CLUSTERS = 16
RATES = (1e-3, 1e-2)
SEEDS = 5
MAX_FRAMES = 64  # of a recording; the mean is 41
WANTED = (
    "spoken digits: name with --digits an .npz of the Free Spoken Digit Dataset "
    "(github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0), with `mel (frames, 40)`, log-mel frames of all "
    "recordings end to end, and for each recording `T`, its frames, `digit` and `speaker`"
)


def measure(quick, _seconds, digits=None):
    """Trains everything; returns a dict for JSON."""
    budgets, seeds = (QUICK_BUDGETS, 1) if quick else (BUDGETS, SEEDS)
    rows = []
    for data, (epochs, batch_size) in budgets.items():
        if data == "spoken digits" and digits is None:
            continue
        with Worker("pooling", KERAS_BACKEND="tensorflow", limit_seconds=3600) as worker:
            for name in ("netvlad", "mean") if quick else (*NAMES, ADAPTED):
                settings = {"data": data, "name": name, "epochs": epochs, "batch_size": batch_size}
                row = worker.run(
                    "benchmarks.pooling:row", **settings, seeds=seeds, digits=None if digits is None else str(digits)
                )
                rows.append(row)
                print(f"pooling: {data}, {name}: {np.mean(row['test']):.3f}", flush=True)
    return {"left_out": [] if digits else [WANTED], "rows": rows}


def row(data, name, epochs, batch_size, seeds, digits):
    """Test accuracies of one pooling on one data set, at the learning rate that validates best on the first split."""
    splits = [_split(data, seed, digits) for seed in range(seeds)]
    trained_accuracy = _trainer(name, splits[0], epochs, batch_size)
    train, validation, _ = splits[0]
    validated = [trained_accuracy(train, validation, rate, seed=100) for rate in RATES]
    rate = RATES[int(np.argmax(validated))]
    test = [
        trained_accuracy(_joined(train, validation), test, rate, seed)
        for seed, (train, validation, test) in enumerate(splits)
    ]
    return {
        **{"data": data, "pooling": name, "epochs": epochs, "batch_size": batch_size},
        **{"rate": rate, "validated": validated, "test": test},
    }


def _split(data, seed, digits):
    """Training, validation and test parts `(frames, num_frames, classes)`.

    Vowels come in an official split, a fifth of whose training part validates. Of the speakers of the digits one
    tests, another for each seed, and the next one validates.
    """
    if data == "Japanese vowels":
        from keras_netvlad.data import load_japanese_vowels

        (inputs, classes), (test_inputs, test_classes) = load_japanese_vowels()
        order = np.random.default_rng(seed).permutation(len(classes))
        parts = [(inputs, classes, order[54:]), (inputs, classes, order[:54])]
        parts.append((test_inputs, test_classes, np.arange(len(test_classes))))
        return [(given["frames"][rows], given["num_frames"][rows], given_y[rows]) for given, given_y, rows in parts]
    with np.load(digits, allow_pickle=False) as arrays:
        mel, lengths = arrays["mel"].astype("float32"), arrays["T"]
        classes, speakers = arrays["digit"].astype("int32"), np.unique(arrays["speaker"], return_inverse=True)[1]
    num_frames = np.minimum(lengths, MAX_FRAMES).astype("int32")
    frames = np.zeros((len(lengths), MAX_FRAMES, mel.shape[1]), "float32")
    for recording, (start, count) in enumerate(zip(np.cumsum(lengths) - lengths, num_frames, strict=True)):
        frames[recording, :count] = mel[start : start + count]
    tests, validates = speakers == seed % 6, speakers == (seed + 1) % 6
    return [(frames[rows], num_frames[rows], classes[rows]) for rows in (~(tests | validates), validates, tests)]


def _joined(*parts):
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def _trainer(name, split, epochs, batch_size):
    """A function that trains a fresh model and returns its accuracy. Compiled once: new weights take its places."""
    import keras

    from keras_netvlad import VideoClassifier

    frames, _, classes = split[0]
    pooling = "netvlad" if name == ADAPTED else name

    def make():
        return VideoClassifier(
            {"frames": frames.shape[2]}, int(classes.max()) + 1, NUM_CLUSTERS, None, "softmax", pooling=pooling
        )

    model = make()
    model.compile(keras.optimizers.Adam(), {"scores": "sparse_categorical_crossentropy"}, jit_compile=False)

    def trained_accuracy(train, test, rate, seed):
        keras.utils.set_random_seed(seed)
        frames, num_frames, classes = train
        is_real = np.arange(frames.shape[1]) < num_frames[:, None]
        mean, scale = frames[is_real].mean(axis=0), frames[is_real].std(axis=0)
        inputs, test_inputs = ({"frames": (part[0] - mean) / scale, "num_frames": part[1]} for part in (train, test))
        fresh = make()
        if name == ADAPTED:
            fresh.get_layer("frames_netvlad").adapt(inputs["frames"], mask=is_real, seed=seed, verbose=0)
        model.set_weights(fresh.get_weights())
        for variable in model.optimizer.variables:  # Adam begins with zeros
            variable.assign(np.zeros(variable.shape))
        model.optimizer.learning_rate = rate
        model.fit(inputs, {"scores": classes}, batch_size, epochs, verbose=0)
        scores = model.predict(test_inputs, batch_size=256, verbose=0)["scores"]
        return float(np.mean(scores.argmax(axis=1) == test[2]))

    return trained_accuracy


def tables(part):
    """The part as Markdown, best first."""
    rows = []
    for row in _best_first(part["rows"]):
        netvlad = next(other for other in part["rows"] if (other["data"], other["pooling"]) == (row["data"], "netvlad"))
        behind = np.subtract(row["test"], netvlad["test"])
        cells = [row["data"], row["pooling"], f"{np.mean(row['test']):.3f}", f"{np.std(row['test']):.3f}"]
        cells += [f"{np.mean(behind):+.3f} ({np.sum(behind > 0)} of {len(behind)} seeds above)", f"{row['rate']:g}"]
        rows.append([*cells, ", ".join(f"{accuracy:.3f}" for accuracy in row["validated"])])
    rates = ", ".join(f"{rate:g}" for rate in RATES)
    header = ["data", "pooling", "test accuracy, mean", "standard deviation", "beside netvlad, seed by seed"]
    header += ["learning rate", f"validation accuracy at {rates}"]
    return markdown.table(header, rows) + markdown.notes(part["left_out"])


def _best_first(rows):
    names = list(dict.fromkeys(row["data"] for row in rows))
    return sorted(rows, key=lambda row: (names.index(row["data"]), -np.mean(row["test"])))


def draw(part):
    """Mean, standard deviation and every seed, best on top."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["data"] for row in part["rows"]))
    figure = Figure(figsize=(4.6 * len(names), 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        rows = [row for row in reversed(_best_first(part["rows"])) if row["data"] == name]
        for height, row in enumerate(rows):
            color = "tab:red" if row["pooling"].startswith("netvlad") else "tab:blue"
            axes.errorbar(np.mean(row["test"]), height, xerr=np.std(row["test"]), fmt="o", capsize=3, color=color)
            axes.plot(row["test"], [height] * len(row["test"]), "|", color=color, alpha=0.5)
        axes.set_yticks(range(len(rows)), [row["pooling"] for row in rows])
        axes.set_xlabel("test accuracy")
        axes.set_title(name)
        axes.grid(axis="x", alpha=0.3)
    return figure
