"""`ScalarLogs`: the metrics of a training run for TensorBoard."""

import os
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf


class ScalarLogs(keras.callbacks.Callback):
    """Logs the metrics of each round as scalars: `train/loss`, `validation/gap` and so on.

    `keras.callbacks.TensorBoard` and `tf.summary.scalar` need the package `tensorboard`; this callback does not.

    Args:
        directory: Directory for the event files; created if it does not exist.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        super().__init__()
        self.writer = tf.summary.create_file_writer(str(directory))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Writes the metrics of an epoch."""
        # The metadata that `tf.summary.scalar` writes.
        metadata = tf.compat.v1.SummaryMetadata(
            plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR"
        )
        with self.writer.as_default(step=epoch + 1):
            for name, value in (logs or {}).items():
                name = f"validation/{name[4:]}" if name.startswith("val_") else f"train/{name}"
                tf.summary.write(name, tf.constant(value, "float32"), metadata=metadata)
        self.writer.flush()
