"""Trains one video classifier on several hosts: JAX, Keras's distribution API, one process a host.

On host I of N, the same command with another number:

    python examples/train_many_hosts.py --output runs/x --process I --processes N --address HOST0:12345

As it is, it trains on the packaged Japanese Vowels; `read` is where files of your own go. All processes see one shared
folder `--output`. Each epoch is saved there; when a process dies, end the others, start all again, and training goes on
from the last epoch. `--model-parallel` splits the hidden projection, 94 to 98% of a large
model, over all devices instead of copying it to each. `train_with_ray.py` starts and restarts the processes by itself.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np
import tensorflow as tf
from jax.experimental import multihost_utils

from keras_netvlad import VideoClassifier
from keras_netvlad.data import load_japanese_vowels

BATCH = 32  # of all processes together


class SaveEpochs(keras.callbacks.Callback):
    """Saves every epoch, weights, optimizer and losses, to one file that all processes resume from.

    Keras's BackupAndRestore in every process would be as many files, and processes that die between two of their writes
    would resume at different epochs; in one process alone, it would wait for the other parts of a split weight.
    """

    def __init__(self, directory):
        super().__init__()
        self.path = Path(directory) / "last_epoch.npz"
        self.losses = []  # one an epoch, those before a restart too

    def restore(self, model):
        """Loads the last epoch, if there is one; returns how many epochs are done."""
        if self.path.exists():
            with np.load(self.path) as file:
                for index, variable in enumerate(_state(model)):
                    variable.assign(file[str(index)])
                self.losses = file["losses"].tolist()
        return len(self.losses)

    def on_epoch_end(self, epoch, logs=None):
        """Gathers, in every process; writes, in the first, and whole or not at all."""
        arrays = {str(index): gathered(variable) for index, variable in enumerate(_state(self.model))}
        self.losses.append(float(logs["loss"]))
        if jax.process_index() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            staged = self.path.with_name("writing.npz")
            np.savez(staged, losses=self.losses, **arrays)
            os.replace(staged, self.path)


def _state(model):
    """All that training changes."""
    return [*model.variables, *model.optimizer.variables]


def gathered(variable):
    """The whole of a variable as a NumPy array; a split one is a call that all processes make."""
    if variable.value.is_fully_replicated:
        return np.asarray(variable.value)
    return multihost_utils.process_allgather(variable.value, tiled=True)


def distribute(model_parallel):
    """Says where weights and videos go; before the model is made."""
    if model_parallel:
        devices = keras.distribution.list_devices()
        layout = keras.distribution.LayoutMap(
            keras.distribution.DeviceMesh((1, len(devices)), ["batch", "model"], devices)
        )
        layout[".*hidden/kernel"] = ("model", None)
        layout[".*hidden_kernel"] = ("model", None)  # the optimizer's moments of it
        plan = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch", auto_shard_dataset=False)
    else:
        # Videos come sharded already; Keras would shard them again, without a word.
        plan = keras.distribution.DataParallel(auto_shard_dataset=False)
    keras.distribution.set_distribution(plan)


def read(process, processes):
    """This process's videos, in batches that are as many and as long for every process.

    With files: `youtube8m(files[process::processes], batch_size=BATCH // processes, drop_remainder=True)`.
    """
    (inputs, labels), _ = load_japanese_vowels()
    count = len(labels) // BATCH * BATCH
    part = np.arange(count).reshape(-1, processes, BATCH // processes)[:, process].ravel()
    inputs = {name: values[part] for name, values in inputs.items()}
    return tf.data.Dataset.from_tensor_slices((inputs, labels[part])).batch(BATCH // processes, drop_remainder=True)


def train(output, process=0, processes=1, epochs=5, model_parallel=False, callbacks=()):
    """Trains, or goes on; call `keras.distribution.initialize` before. Returns the losses of all epochs."""
    # Without `initialize` each process would train a model of its own, without a word.
    if jax.process_count() != processes:
        raise RuntimeError(
            f"All {processes} processes must have called `keras.distribution.initialize` before training. "
            f"Received: jax.process_count() = {jax.process_count()}"
        )
    distribute(model_parallel)
    keras.utils.set_random_seed(0)
    model = VideoClassifier({"frames": 12}, 9, num_clusters=16, hidden_units=64, activation="softmax")
    model.compile(keras.optimizers.Adam(0.005), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    save = SaveEpochs(output)
    # Where a kernel is split, every process needs all videos: the batch is not.
    data = read(0, 1) if model_parallel else read(process, processes)
    done = save.restore(model)
    model.fit(
        data,
        initial_epoch=done,
        epochs=epochs,
        shuffle=False,  # of a `tf.data.Dataset` that is its own affair
        verbose=2 * (process == 0),
        callbacks=[save, *callbacks],
    )
    weights = [gathered(variable) for variable in model.weights]
    keras.distribution.set_distribution(None)
    if process == 0:
        whole = VideoClassifier.from_config(model.get_config())
        whole.set_weights(weights)
        whole.save(Path(output) / "model.keras")  # loads on any backend, TensorFlow for export
    return save.losses


def main():
    """Trains what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder that all processes share")
    parser.add_argument("--process", type=int, default=0, help="number of this process (default %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="how many there are (default %(default)s)")
    parser.add_argument("--address", default="127.0.0.1:12345", help="host and port of process 0 (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="default %(default)s")
    parser.add_argument("--model-parallel", action="store_true", help="split the hidden projection over the devices")
    options = parser.parse_args()
    if keras.backend.backend() != "jax":
        sys.exit("Training on several hosts needs Keras's JAX backend: set KERAS_BACKEND=jax.")
    if BATCH % options.processes:
        sys.exit(f"--processes must divide the batch of {BATCH} videos. Received: {options.processes}")
    if options.processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")  # for hosts without an accelerator
        keras.distribution.initialize(options.address, options.processes, options.process)
    train(options.output, options.process, options.processes, options.epochs, options.model_parallel)


if __name__ == "__main__":
    main()
