"""`ScalarLogs`: figures of a training for TensorBoard."""

import keras
import tensorflow as tf


class ScalarLogs(keras.callbacks.Callback):
    """Logs of each round as scalars: `train/loss`, `validation/gap` and so on."""

    def __init__(self, directory):
        super().__init__()
        self.writer = tf.summary.create_file_writer(str(directory))

    def on_epoch_end(self, epoch, logs=None):
        """Writes the figures of an epoch."""
        # What `tf.summary.scalar` writes; that one, and Keras's callback, need the package `tensorboard`.
        metadata = tf.compat.v1.SummaryMetadata(
            plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR"
        )
        with self.writer.as_default(step=epoch + 1):
            for name, value in (logs or {}).items():
                name = f"validation/{name[4:]}" if name.startswith("val_") else f"train/{name}"
                tf.summary.write(name, tf.constant(value, "float32"), metadata=metadata)
        self.writer.flush()
