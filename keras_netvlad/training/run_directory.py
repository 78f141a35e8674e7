"""The directory of a training run: its lock, its settings, and the state from which it resumes."""

import contextlib
import json
import shutil
import zipfile

import keras
import numpy as np

from keras_netvlad.base.atomic_files import replaced
from keras_netvlad.base.locks import exclusive

SETTINGS, STATE, LOCK, MODEL, SERVED = "settings.json", "state.json", "lock", "model.keras", "served"


@contextlib.contextmanager
def run_directory(output):
    """Makes the directory of a run and locks it against other processes during the block."""
    is_new = not output.exists()
    if not is_new and not (output / LOCK).exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"`output` must be a new directory or one of a run of `train`. Received: {output}")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except NotADirectoryError:
        raise NotADirectoryError(f"`output` must lie in a directory. Received: {output}, in a file") from None
    in_use = f"`output` is in use by another run; wait for its end or choose another. Received: {output}"
    with exclusive(output / LOCK, in_use):
        try:
            yield
        except BaseException:
            if is_new and not (output / STATE).exists():
                shutil.rmtree(output)  # a mistake found before the first round leaves nothing
            raise


def check_settings(output, settings, name):
    """Writes the settings of a new run, or raises if a run is resumed with other settings."""
    if (output / SERVED / name / "1").exists():
        raise ValueError(f"The run in `output` has ended; choose another directory for a new one. Received: {output}")
    path = output / SETTINGS
    if not path.exists():
        with replaced(path) as part:
            part.write_text(json.dumps(settings, indent=1))
        return
    before = _read(path)
    changed = {key: (before.get(key), settings[key]) for key in settings if before.get(key) != settings[key]}
    if changed:
        differences = ", ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in changed.items())
        raise ValueError(
            "A run goes on with the settings that it began with; give those, or another `output`. "
            f"Received: {differences}"
        )


class Rounds(keras.callbacks.Callback):
    """Writes after each round what to go on from; tells when to stop."""

    def __init__(self, output, patience, skipped):
        super().__init__()
        self.output, self.patience, self.skipped = output, patience, skipped
        self.state = {"rounds": 0, "weights": None, "best": None, "waited": 0}
        if (output / STATE).exists():
            self.state = _read(output / STATE)

    @property
    def has_ended(self):
        """Whether `patience` validations in a row have not been better than the best."""
        return self.patience is not None and self.state["waited"] >= self.patience

    def restore(self, model):
        """Brings a model to the end of the last round written; returns the number of rounds behind it."""
        model.optimizer.build(model.trainable_variables)
        if self.state["weights"]:
            _load(model, self.output / self.state["weights"])
        return self.state["rounds"]

    def load_best(self, model):
        """Gives a model the weights, or their moving average, of the best validation, or of the last round."""
        best = self.state["best"]
        _load(model, self.output / (best["weights"] if best else self.state["weights"]))
        model.optimizer.finalize_variable_values(model.trainable_variables)

    def on_epoch_end(self, epoch, logs=None):
        """Writes the state after a round and removes the states that are no longer needed."""
        name = f"round{epoch + 1}.npz"
        state = {**self.state, "rounds": epoch + 1, "weights": name}
        gap = (logs or {}).get("val_gap", (logs or {}).get("val_scores_gap"))
        if gap is not None:
            is_better = state["best"] is None or gap > state["best"]["gap"]
            state["waited"] = 0 if is_better else state["waited"] + 1
            if is_better:
                state["best"] = {"gap": float(gap), "weights": name}
        with replaced(self.output / name) as part, open(part, "wb") as file:
            np.savez(file, **{f"{n}": keras.ops.convert_to_numpy(v) for n, v in enumerate(_variables(self.model))})
        with replaced(self.output / STATE) as part:
            part.write_text(json.dumps(state))
        self.state = state
        needed = {state["weights"], state["best"] and state["best"]["weights"]}
        for path in self.output.glob("round*.npz"):
            if path.name not in needed:
                path.unlink()
        if self.skipped:
            print(f"Skipped {len(self.skipped)} bad records so far, such as {next(iter(self.skipped.items()))}")
        if self.has_ended:
            self.model.stop_training = True


def _variables(model):
    """All that a step changes. Keras's weights files lack the state of random numbers (Keras 3.15)."""
    return [*model.variables, *model.optimizer.variables]


def _load(model, path):
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = [arrays[f"{number}"] for number, _ in enumerate(_variables(model))]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise _damaged(path) from None
    for variable, value in zip(_variables(model), values, strict=True):
        variable.assign(value)


def _read(path):
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise _damaged(path) from None


def _damaged(path):
    return ValueError(f"What the run in `output` goes on from is damaged or lost; begin another. Received: {path}")
