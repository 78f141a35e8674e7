"""The directory of a training run: its lock, its settings, and the checkpoint from which it resumes."""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from keras_netvlad.base.atomic_files import replaced
from keras_netvlad.base.full_disk_error import full_disk_named
from keras_netvlad.base.json_files import read_json_object
from keras_netvlad.base.locks import exclusive
from keras_netvlad.base.npz_files import read_npz

SETTINGS, STATE, LOCK, MODEL, SERVED = "settings.json", "state.json", "lock", "model.keras", "served"
CHECKPOINT = re.compile(r"round[1-9][0-9]*\.npz")


@contextlib.contextmanager
def run_directory(output: Path) -> Iterator[None]:
    """Creates the directory of a run and locks it against other processes during the block.

    If the block raises before the first checkpoint of a new run, the directory is removed.

    Args:
        output: The directory.

    Raises:
        FileExistsError: If the directory holds something other than a run.
        NotADirectoryError: If its parent is a file.
        FullDiskError: If the block raises an error for lack of room on the disk.
        OSError: If another process holds the lock.
    """
    is_new = not output.exists()
    if not is_new and not (output / LOCK).exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"`output` must be a new directory or one of a run of `train`. Received: {output}")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except NotADirectoryError:
        raise NotADirectoryError(f"`output` must lie in a directory. Received: {output}, in a file") from None
    in_use = f"`output` is in use by another run; wait until it ends or choose another. Received: {output}"
    with exclusive(output / LOCK, in_use):
        try:
            with full_disk_named(output):
                yield
        except BaseException:
            if is_new and not (output / STATE).exists():
                shutil.rmtree(output)
            raise


def check_settings(
    output: Path, settings: Mapping[str, Any], result: Path, later: Mapping[str, Any] | None = None
) -> None:
    """Writes the settings of a new run, or compares them with those of the run that is resumed.

    Args:
        output: Directory of the run.
        settings: Dict of JSON values.
        result: Path of what the run writes last.
        later: Settings that runs of earlier releases did not store, with the values that they had.

    Raises:
        ValueError: If the run has ended, its settings file is damaged, or it had other settings.
    """
    if result.exists():
        raise ValueError(f"The run in `output` has ended; choose another directory for a new one. Received: {output}")
    path = output / SETTINGS
    if not path.exists():
        with replaced(path) as part:
            part.write_text(json.dumps(settings, indent=1))
        return
    before = {**(later or {}), **_read(path)}
    changed = {key: (before.get(key), settings[key]) for key in settings if before.get(key) != settings[key]}
    if changed:
        differences = ", ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in changed.items())
        raise ValueError(
            "A run resumes with the settings it was started with; give those, or another `output`. "
            f"Received: {differences}"
        )


class Rounds(keras.callbacks.Callback):
    """Writes a checkpoint after each round, keeps that of the best validation, and stops when `patience` runs out.

    Args:
        output: Directory of the run.
        patience: Number of validations without a better one after which training stops, or `None`.
        skipped: Dict to which the reader adds the records that it skips.
        monitor: Name of the metric of the validation that tells which is better: `"gap"` or `"map_at_k"`; or `"loss"`,
            which is better if it is smaller.

    Raises:
        ValueError: If `output` holds a damaged checkpoint.
    """

    def __init__(
        self,
        output: Path,
        patience: int | None,
        skipped: Mapping[tuple[str, int], str],
        monitor: Literal["gap", "loss", "map_at_k"] = "gap",
    ) -> None:
        super().__init__()
        self.output, self.patience, self.skipped, self.monitor = output, patience, skipped, monitor
        self.state: dict[str, Any] = {"rounds": 0, "weights": None, "best": None, "waited": 0, "history": []}
        if (output / STATE).exists():
            self.state = _read_state(output / STATE, monitor)

    @property
    def history(self) -> list[dict[str, float]]:
        """The metrics of each round, those before a resume included."""
        return self.state["history"]

    @property
    def has_ended(self) -> bool:
        """Whether the last `patience` validations were not better than the best one."""
        return self.patience is not None and self.state["waited"] >= self.patience

    def restore(self, model: keras.Model) -> int:
        """Loads the last checkpoint, if there is one, and returns the number of rounds that it contains."""
        model.optimizer.build(model.trainable_variables)
        if self.state["weights"]:
            _load(model, self.output / self.state["weights"])
        return self.state["rounds"]

    def load_best(self, model: keras.Model) -> None:
        """Loads the checkpoint of the best validation, or the last one. A moving average replaces the weights."""
        best = self.state["best"]
        _load(model, self.output / (best["weights"] if best else self.state["weights"]))
        model.optimizer.finalize_variable_values(model.trainable_variables)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Writes the checkpoint of a round and removes checkpoints that are no longer needed."""
        name = f"round{epoch + 1}.npz"
        metrics = {metric.replace("scores_", ""): float(value) for metric, value in (logs or {}).items()}
        state = {**self.state, "rounds": epoch + 1, "weights": name, "history": [*self.history, metrics]}
        value = metrics.get(f"val_{self.monitor}")
        if value is not None:
            best = None if state["best"] is None else state["best"][self.monitor]
            is_better = best is None or (value < best if self.monitor == "loss" else value > best)
            state["waited"] = 0 if is_better else state["waited"] + 1
            if is_better:
                state["best"] = {self.monitor: value, "weights": name}
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
    """Returns everything that a step changes. Keras's weights files lack the seed generators' state (Keras 3.15)."""
    return [*model.variables, *model.optimizer.variables]


def _load(model, path):
    variables = {f"{number}": variable for number, variable in enumerate(_variables(model))}
    try:
        values = read_npz(path, variables)
        for name, variable in variables.items():
            if values[name].shape != variable.shape or values[name].dtype.kind not in "biuf":
                raise ValueError(f"array `{name}` does not fit the model")
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None
    for name, variable in variables.items():
        variable.assign(values[name])


def _read_state(path, monitor):
    schema = {
        "rounds": int,
        "weights": (str, None),
        "best": ({monitor: float, "weights": str}, None),
        "waited": int,
        "history": ([{}], None),
    }
    state = _read(path, schema)
    state["history"] = state["history"] or []  # Runs of earlier releases have none.
    names = [state["weights"], state["best"] and state["best"]["weights"]]
    is_consistent = (
        state["rounds"] >= 0
        and state["weights"] == (f"round{state['rounds']}.npz" if state["rounds"] else None)
        and all(name is None or CHECKPOINT.fullmatch(name) for name in names)
    )
    if not is_consistent:
        raise _damaged(path, f"its round {state['rounds']} does not belong to the checkpoints {names}")
    return state


def _read(path, schema=None):
    try:
        return read_json_object(path, schema)
    except ValueError as error:
        raise _damaged(path, error) from None


def _damaged(path, reason):
    return ValueError(f"The checkpoint in `output` is damaged or missing. Start a new run. Received: {path} ({reason})")
