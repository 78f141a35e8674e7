"""`AssignmentMonitor`: how clusters are used, epoch by epoch."""

import os

import keras
import numpy as np
from keras import ops, tree

from keras_netvlad.base.validation import check_integer, check_path
from keras_netvlad.cluster_statistics import (
    assignment_entropy,
    cluster_shares,
    counted_rows,
    dead_clusters,
    usage_entropy,
)
from keras_netvlad.layers import SoftDBoW
from keras_netvlad.layers.cluster_pooling import ClusterPooling


class AssignmentMonitor(keras.callbacks.Callback):
    """Logs after each epoch how a model's poolings use their clusters on a sample of the data.

    A clustering that collapses can't be seen in the loss until late: all frames go to a few clusters, the others are
    dead weights. For each pooling layer with clusters (`NetVLAD`, `VLAD`, `NetRVLAD`, `NetFV`, `SoftDBoW`, `NeXtVLAD`)
    four numbers are added to the epoch's `logs`, under `<layer>_<number>`, where `History` finds them, and callbacks
    that stand behind this one in the list (`CSVLogger`, `EarlyStopping`):

    - `usage_entropy`: of the clusters' shares, in nats; from 0, one cluster takes all, to `log(K)`, all take alike
    - `assignment_entropy`: of each frame's assignment, the mean over frames, in nats; 0 is a hard assignment
    - `dead_clusters`: how many clusters have less than a hundredth of an even share
    - `largest_share`: that of the largest cluster

    With `log_dir` they are written for TensorBoard, too, under `assignments/<layer>/<number>`. The model works as in
    inference; the sample runs through it as it is, without `fit`'s compiled step, and nothing of training changes.

    Args:
        data: Inputs of the model, without labels: an array, or a dict, list or tuple of arrays, such as
            `{"frames": ..., "num_frames": ...}`. A hundred videos say enough. Frames that a mask leaves out
            don't count.
        log_dir: Optional path of a directory for TensorBoard: `tensorboard --logdir LOG_DIR`.
        batch_size: Integer, videos to run at a time.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad import VideoClassifier
    >>> from keras_netvlad.callbacks import AssignmentMonitor
    >>> x = {"frames": np.random.default_rng(0).normal(size=(8, 20, 12)), "num_frames": np.full(8, 15)}
    >>> model = VideoClassifier({"frames": 12}, num_classes=2, num_clusters=4, hidden_units=None)
    >>> model.compile("sgd", "binary_crossentropy")
    >>> history = model.fit(x, np.eye(2)[np.arange(8) % 2], verbose=0, callbacks=[AssignmentMonitor(x)])
    >>> bool(1.0 < history.history["frames_netvlad_usage_entropy"][0] <= np.log(4))
    True

    Raises:
        ValueError: If `data` holds no videos or inputs of different lengths, if the model has no pooling with clusters,
            if two of them have the same name, or if the sample does not reach one of them.
        TypeError: If `data` is something else than arrays, or `log_dir` no path.
        OSError: If `log_dir` can't be written.

    Reference:
        - [Arandjelović et al. 2016](https://arxiv.org/abs/1511.07247), equation 2, whose assignments these are.
    """

    def __init__(self, data, log_dir=None, batch_size=32):
        super().__init__()
        self.data, self.num_videos = _check_data(data)
        self.log_dir = None if log_dir is None else os.fspath(check_path("log_dir", log_dir))
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self._writer = None

    def on_train_begin(self, logs=None):
        """Finds the model's poolings and opens the event file."""
        layers = list(dict.fromkeys(_pooling_layers(self.model)))
        names = [layer.name for layer in layers]
        if not layers:
            raise ValueError(
                "`AssignmentMonitor` needs a model with a pooling that has clusters, such as `NetVLAD`. "
                f"Received: model `{self.model.name}` without any"
            )
        if len(set(names)) < len(names):
            raise ValueError(
                "`AssignmentMonitor` logs each pooling under its name; give each a name of its own. "
                f"Received: layers named {names}"
            )
        self._layers = layers
        if self.log_dir is not None:
            self._writer = _open_writer(self.log_dir)

    def on_epoch_end(self, epoch, logs=None):
        """Runs the sample through the model, and logs."""
        assignments = self._assignments()
        for layer in self._layers:
            rows = assignments[layer.name]
            shares = cluster_shares(rows)
            numbers = {
                "usage_entropy": usage_entropy(rows),
                "assignment_entropy": assignment_entropy(rows),
                "dead_clusters": float(dead_clusters(shares).sum()),
                "largest_share": float(shares.max()),
            }
            if not len(rows):  # diverged, or the mask leaves nothing: no numbers, rather than wrong ones
                numbers = dict.fromkeys(numbers, float("nan"))
            if logs is not None:
                logs.update({f"{layer.name}_{name}": number for name, number in numbers.items()})
            if self._writer is not None:
                _write(self._writer, f"assignments/{layer.name}", numbers, epoch)

    def on_train_end(self, logs=None):
        """Closes the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _assignments(self):
        """The rows `(N, K)` that each layer assigns of the sample, by the layer's name."""
        seen = {layer.name: [] for layer in self._layers}
        restore = []
        try:
            for layer in self._layers:
                # The inputs and the mask are those that the model calls the layer with. A second model, from the inputs
                # of the model to those of the layer, cannot be made from a subclassed model.
                vars(layer)["call"] = _watched_call(layer, seen[layer.name])
                restore.append(layer)
            for start in range(0, self.num_videos, self.batch_size):
                end = start + self.batch_size
                self.model(tree.map_structure(lambda array, a=start, b=end: array[a:b], self.data), training=False)
        finally:
            for layer in restore:
                del vars(layer)["call"]
        unseen = [name for name, rows in seen.items() if not rows]
        if unseen:
            raise ValueError(
                "`AssignmentMonitor` needs a sample that the model passes to each of its poolings. "
                f"Received: nothing at {unseen}"
            )
        return {name: np.concatenate(rows) for name, rows in seen.items()}


def _watched_call(layer, seen):
    call = layer.call

    def watched_call(inputs, mask=None, **kwargs):
        seen.append(counted_rows(ops.convert_to_numpy(layer.assign(inputs, mask=mask))))
        return call(inputs, mask=mask, **kwargs)

    return watched_call


def _pooling_layers(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, (ClusterPooling, SoftDBoW))]


def _check_data(data):
    arrays = tree.flatten(data)
    if not arrays or any(isinstance(array, (str, bytes)) or not hasattr(array, "shape") for array in arrays):
        raise TypeError(
            "`data` must be the model's inputs as an array, or a dict, list or tuple of arrays; take a sample out of a "
            f"dataset first. Received: a {type(data).__name__}"
        )
    lengths = {len(array) if len(array.shape) else 0 for array in arrays}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(
            "`data` must hold at least one video, and as many of each input; leave labels out. "
            f"Received: shapes {[tuple(array.shape) for array in arrays]}"
        )
    return data, lengths.pop()


def _open_writer(log_dir):
    import tensorflow as tf

    try:
        os.makedirs(log_dir, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"`log_dir` must be a directory that can be written. Received: log_dir={log_dir!r} ({error.strerror})"
        ) from error
    return tf.summary.create_file_writer(log_dir)


def _write(writer, prefix, numbers, epoch):
    import tensorflow as tf

    # What `tf.summary.scalar` writes; that one needs the package `tensorboard` here, where only the reader does.
    metadata = tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR"
    )
    with writer.as_default(step=epoch):
        for name, number in numbers.items():
            tf.summary.write(f"{prefix}/{name}", tf.constant(number, "float32"), metadata=metadata)
    writer.flush()
