"""Trains one video classifier on several hosts with JAX and Keras's distribution API, one process per host.

Start the same command on each host, with the number I of the host, from 0 to N - 1:

    python examples/train_many_hosts.py --output runs/x --process I --processes N --address HOST0:12345

The example trains on the packaged Japanese Vowels. Change `read` to train on your own files. All processes share the
folder `--output`, where each epoch is saved. If a process dies, end the others and start all again; training resumes
after the last epoch. `--model-parallel` splits the hidden projection, 94 to 98% of a large model, over all devices
instead of copying it to each. `train_with_ray.py` starts and restarts the processes for you.
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
    """Saves weights, optimizer and losses of every epoch to one file, from which all processes resume.

    Keras's BackupAndRestore does not suit several processes. In every process it would write one file each, and
    processes killed between two writes would resume at different epochs. In one process alone it would wait forever for
    the other parts of a split weight.
    """

    def __init__(self, directory):
        super().__init__()
        self.path = Path(directory) / "last_epoch.npz"
        self.losses = []  # one per epoch, including those before a restart

    def restore(self, model):
        """Loads the last epoch, if there is one, and returns the number of finished epochs."""
        if self.path.exists():
            with np.load(self.path) as file:
                for index, variable in enumerate(_state(model)):
                    variable.assign(file[str(index)])
                self.losses = file["losses"].tolist()
        return len(self.losses)

    def on_epoch_end(self, epoch, logs=None):
        """Gathers the weights in every process and writes them in the first. The file is replaced in one step."""
        arrays = {str(index): gathered(variable) for index, variable in enumerate(_state(self.model))}
        self.losses.append(float(logs["loss"]))
        if jax.process_index() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            staged = self.path.with_name("writing.npz")
            np.savez(staged, losses=self.losses, **arrays)
            os.replace(staged, self.path)


def _state(model):
    """Returns everything that training changes."""
    return [*model.variables, *model.optimizer.variables]


def gathered(variable):
    """Returns a complete variable as a NumPy array. All processes must call this for a split variable."""
    if variable.value.is_fully_replicated:
        return np.asarray(variable.value)
    return multihost_utils.process_allgather(variable.value, tiled=True)


def distribute(model_parallel):
    """Defines the placement of weights and videos. Must be called before the model is made."""
    if model_parallel:
        devices = keras.distribution.list_devices()
        layout = keras.distribution.LayoutMap(
            keras.distribution.DeviceMesh((1, len(devices)), ["batch", "model"], devices)
        )
        layout[".*hidden/kernel"] = ("model", None)
        layout[".*hidden_kernel"] = ("model", None)  # its moments in the optimizer
        plan = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch", auto_shard_dataset=False)
    else:
        # The dataset is sharded already. Keras would silently shard it again.
        plan = keras.distribution.DataParallel(auto_shard_dataset=False)
    keras.distribution.set_distribution(plan)


def read(process, processes):
    """Reads the videos of one process. Every process gets the same number of batches of the same shape.

    For your own files: `youtube8m(files[process::processes], batch_size=BATCH // processes, drop_remainder=True)`.
    """
    (inputs, labels), _ = load_japanese_vowels()
    count = len(labels) // BATCH * BATCH
    part = np.arange(count).reshape(-1, processes, BATCH // processes)[:, process].ravel()
    inputs = {name: values[part] for name, values in inputs.items()}
    return tf.data.Dataset.from_tensor_slices((inputs, labels[part])).batch(BATCH // processes, drop_remainder=True)


def train(output, process=0, processes=1, epochs=5, model_parallel=False, callbacks=()):
    """Trains or resumes, and returns the losses of all epochs. Call `keras.distribution.initialize` first."""
    # Without `initialize` each process would silently train a separate model.
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
    # A model-parallel run splits the kernel, not the batch, so every process needs all videos.
    data = read(0, 1) if model_parallel else read(process, processes)
    done = save.restore(model)
    model.fit(
        data,
        initial_epoch=done,
        epochs=epochs,
        shuffle=False,  # `fit` cannot shuffle a `tf.data.Dataset`
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
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder that all processes share")
    parser.add_argument("--process", type=int, default=0, help="number of this process (default %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="number of processes (default %(default)s)")
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
