"""Accuracy of every pooling on real speech: same head, five seeds, mean and standard deviation.

Chosen for each pooling are its learning rate and its epochs, on validation data that test nothing. Settings of NetVLAD,
and one of attention, are compared on the validation data alone.
"""

import numpy as np

from benchmarks import markdown
from benchmarks.measuring import Worker

TITLE = "Accuracy of the poolings"
NAMES = ("netvlad", "netrvlad", "netfv", "soft_dbow", "nextvlad", "mean", "mean_std", "max", "attention")
NUM_CLUSTERS = 16
HIDDEN_UNITS = 128
# A pooling, arguments of VideoClassifier that differ from those of the comparison, and whether `adapt` goes before
# training. On the digits only: of the 54 vowels that validate, one or none is wrong.
VARIANTS = {
    "after adapt": ("netvlad", {}, True),
    "normalize_input": ("netvlad", {"pooling_options": {"normalize_input": True}}, False),
    "K = 4": ("netvlad", {"num_clusters": 4}, False),
    "K = 64": ("netvlad", {"num_clusters": 64}, False),
    "dropout 0.5": ("netvlad", {"dropout": 0.5}, False),
    "linear head": ("netvlad", {"hidden_units": None}, False),
    "attention, linear head": ("attention", {"hidden_units": None}, False),
}
# Epochs at most, epochs without a better validation accuracy after which training stops, and videos a batch.
BUDGETS = {"Japanese vowels": (60, 10, 32), "spoken digits": (40, 8, 128)}
QUICK_BUDGETS = {"Japanese vowels": (1, 1, 64), "spoken digits": (1, 1, 64)}
RATES = (0.003, 0.01, 0.03)
SEEDS = 5
VALIDATION_SEEDS = 2
MAX_FRAMES = 64  # of a recording; the mean is 41
WANTED = (
    "spoken digits: name with --digits an .npz of the Free Spoken Digit Dataset "
    "(github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0), with `mel (frames, 40)`, log-mel frames of all "
    "recordings end to end, and for each recording `T`, its frames, `digit` and `speaker`"
)


def measure(quick, _seconds, digits=None):
    """Trains everything; returns a dict for JSON."""
    budgets = QUICK_BUDGETS if quick else BUDGETS
    rows = []
    # The operations are small: a second thread would wait for the first one.
    environment = {"KERAS_BACKEND": "tensorflow", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    for data in budgets:
        if data == "spoken digits" and digits is None:
            continue
        with Worker("pooling", limit_seconds=3600, **environment) as worker:
            for name in ("netvlad", "mean") if quick else (*NAMES, *(VARIANTS if data == "spoken digits" else ())):
                settings = {"data": data, "name": name, "budget": budgets[data], "digits": digits and str(digits)}
                seeds = 0 if name in VARIANTS else 1 if quick else SEEDS
                rows.append(worker.run("benchmarks.pooling:row", **settings, seeds=seeds))
                print(f"pooling: {rows[-1]}", flush=True)
    return {"left_out": [] if digits else [WANTED], "rows": rows}


def row(data, name, budget, seeds, digits):
    """Accuracies of one pooling on one data set: of validation at every rate, and of tests at the best one."""
    import keras

    epochs, patience, batch_size = budget
    splits = [_validation_split(data, seed, digits) for seed in range(VALIDATION_SEEDS)]
    fit = _fitter(name, splits[0], batch_size)
    validated, best_epochs = [], []
    for rate in RATES:
        bests = []
        for seed, (train, validation) in enumerate(splits):
            stop = keras.callbacks.EarlyStopping("val_accuracy", mode="max", patience=patience)
            history = fit(train, validation, rate, 100 + seed, epochs, [stop])
            scores = list(zip(history["val_accuracy"], np.negative(history["val_loss"]), strict=True))
            bests.append((*max(scores), scores.index(max(scores)) + 1))  # of equal accuracies, that of the least loss
        accuracy, negated_loss, epoch = np.mean(bests, axis=0)
        validated.append((float(accuracy), float(negated_loss)))
        best_epochs.append(round(float(epoch)))
    best = validated.index(max(validated))
    test = [
        fit(*_test_split(data, seed, digits), RATES[best], seed, best_epochs[best])["val_accuracy"][-1]
        for seed in range(seeds)
    ]
    return {
        **{"data": data, "pooling": name, "batch_size": batch_size, "rate": RATES[best], "epochs": best_epochs[best]},
        **{"validated": [accuracy for accuracy, _ in validated], "test": test},
    }


def _validation_split(data, seed, digits):
    """Training and validation parts, `(frames, num_frames, classes)`: a fifth of the vowels' training part validates,
    another for each seed, and of the digits the sixth speaker, who is in no test."""
    if data == "Japanese vowels":
        train, _ = _read_vowels()
        order = np.random.default_rng(seed).permutation(len(train[2]))
        return [tuple(array[rows] for array in train) for rows in (order[54:], order[:54])]
    return _leaving_out(5, digits)


def _test_split(data, seed, digits):
    """Training and test parts: the vowels' official ones, or, of the digits, a speaker for each seed."""
    return _read_vowels() if data == "Japanese vowels" else _leaving_out(seed, digits)


def _read_vowels():
    from keras_netvlad.data import load_japanese_vowels

    return [(inputs["frames"], inputs["num_frames"], classes) for inputs, classes in load_japanese_vowels()]


def _leaving_out(speaker, digits):
    with np.load(digits, allow_pickle=False) as arrays:
        mel, lengths = arrays["mel"].astype("float32"), arrays["T"]
        classes, speakers = arrays["digit"].astype("int32"), np.unique(arrays["speaker"], return_inverse=True)[1]
    num_frames = np.minimum(lengths, MAX_FRAMES).astype("int32")
    frames = np.zeros((len(lengths), MAX_FRAMES, mel.shape[1]), "float32")
    for recording, (start, count) in enumerate(zip(np.cumsum(lengths) - lengths, num_frames, strict=True)):
        frames[recording, :count] = mel[start : start + count]
    return [(frames[rows], num_frames[rows], classes[rows]) for rows in (speakers != speaker, speakers == speaker)]


def _fitter(name, split, batch_size):
    """A function that trains a fresh model and returns its history. Traced once: new weights take its places."""
    import keras

    from keras_netvlad import VideoClassifier

    frames, _, classes = split[0]
    pooling, settings, adapts = VARIANTS.get(name, (name, {}, False))
    settings = {"num_clusters": NUM_CLUSTERS, "hidden_units": HIDDEN_UNITS, **settings}

    def make():
        return VideoClassifier(
            {"frames": frames.shape[2]}, int(classes.max()) + 1, activation="softmax", pooling=pooling, **settings
        )

    model = make()
    model.compile(
        keras.optimizers.Adam(),
        {"scores": "sparse_categorical_crossentropy"},
        metrics={"scores": "accuracy"},
        steps_per_execution=16,
        jit_compile=False,
    )

    def fit(train, held_out, rate, seed, epochs, callbacks=()):
        keras.utils.set_random_seed(seed)
        frames, num_frames, classes = train
        is_real = np.arange(frames.shape[1]) < num_frames[:, None]
        mean, scale = frames[is_real].mean(axis=0), frames[is_real].std(axis=0)
        inputs, other = ({"frames": (part[0] - mean) / scale, "num_frames": part[1]} for part in (train, held_out))
        fresh = make()
        if adapts:
            fresh.get_layer("frames_netvlad").adapt(inputs["frames"], mask=is_real, seed=seed, verbose=0)
        model.set_weights(fresh.get_weights())
        for variable in model.optimizer.variables:  # Adam begins with zeros
            variable.assign(np.zeros(variable.shape))
        model.optimizer.learning_rate = rate
        return model.fit(
            inputs,
            {"scores": classes},
            batch_size,
            epochs,
            verbose=0,
            callbacks=list(callbacks),
            validation_data=(other, {"scores": held_out[2]}),
            validation_batch_size=500,
            validation_freq=1 if callbacks else epochs,
        ).history

    return fit


def tables(part):
    """The part as Markdown, best first."""
    validation_header = f"validation accuracy at {', '.join(f'{rate:g}' for rate in RATES)}"
    rows = []
    for row in _tested_best_first(part):
        behind = np.subtract(row["test"], _netvlad(part, row["data"])["test"])
        cells = [row["data"], row["pooling"], f"{np.mean(row['test']):.3f}", f"{_deviation(row):.3f}"]
        beside = f"{np.mean(behind):+.3f} ({np.sum(behind > 0)} of {len(behind)} seeds above)"
        cells += ["" if row["pooling"] == "netvlad" else beside, f"{row['rate']:g}"]
        rows.append([*cells, row["epochs"], _validated(row)])
    header = ["data", "pooling", "test accuracy, mean", "standard deviation", "beside netvlad, seed by seed"]
    text = markdown.table([*header, "learning rate", "epochs", validation_header], rows)
    varied = [row for row in part["rows"] if not row["test"]]
    if varied:
        rows = []
        for row in varied:
            of_default = max(_netvlad(part, row["data"])["validated"])
            best = max(row["validated"])
            pooling = VARIANTS[row["pooling"]][0]
            setting = f"{pooling}, {row['pooling'].removeprefix(f'{pooling}, ')}"
            rows.append([row["data"], setting, f"{best:.3f}", f"{best - of_default:+.3f}", _validated(row)])
        header = ["data", "setting", "best validation accuracy", "beside netvlad as above", validation_header]
        text += "\n\n" + markdown.table(header, rows)
    return text + markdown.notes(part["left_out"])


def _validated(row):
    return ", ".join(f"{accuracy:.3f}" for accuracy in row["validated"])


def _netvlad(part, data):
    return next(row for row in part["rows"] if (row["data"], row["pooling"]) == (data, "netvlad"))


def _deviation(row):
    return np.std(row["test"], ddof=1) if len(row["test"]) > 1 else 0.0


def _tested_best_first(part):
    rows = [row for row in part["rows"] if row["test"]]
    names = list(dict.fromkeys(row["data"] for row in rows))
    return sorted(rows, key=lambda row: (names.index(row["data"]), -np.mean(row["test"])))


def draw(part):
    """Mean, standard deviation and every seed, best on top."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["data"] for row in part["rows"]))
    figure = Figure(figsize=(4.6 * len(names), 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        rows = [row for row in reversed(_tested_best_first(part)) if row["data"] == name]
        for height, row in enumerate(rows):
            color = "tab:red" if row["pooling"].startswith("netvlad") else "tab:blue"
            axes.errorbar(np.mean(row["test"]), height, xerr=_deviation(row), fmt="o", capsize=3, color=color)
            axes.plot(row["test"], [height] * len(row["test"]), "|", color=color, alpha=0.5)
        axes.set_yticks(range(len(rows)), [row["pooling"] for row in rows])
        axes.set_xlabel("test accuracy")
        axes.set_title(name)
        axes.grid(axis="x", alpha=0.3)
    return figure
