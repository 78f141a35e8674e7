"""`AssignmentMonitor`: logs the use of clusters after each epoch."""

import os
from typing import Any

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
from keras_netvlad.layers import SALAD, SoftDBoW
from keras_netvlad.layers.cluster_pooling import ClusterPooling


class AssignmentMonitor(keras.callbacks.Callback):
    """Logs after each epoch how the poolings of a model use their clusters on a sample of the data.

    When clusters collapse, all frames go to a few of them and the others are dead weights. The loss shows this late.
    For each pooling layer with clusters (`NetVLAD`, `VLAD`, `NetRVLAD`, `NetFV`, `SoftDBoW`, `NeXtVLAD`) the callback
    adds four numbers to the `logs` of the epoch, under `<layer>_<number>`. `History` and the callbacks that follow in
    the list (`CSVLogger`, `EarlyStopping`) find them there:

    - `usage_entropy`: the entropy of the clusters' shares in nats, from 0 for a single cluster to `log(K)` for even use
    - `assignment_entropy`: the entropy of the assignment of a frame in nats, averaged over frames; 0 if it is hard
    - `dead_clusters`: the number of clusters with less than a hundredth of an even share
    - `largest_share`: the share of the largest cluster

    With `log_dir` they are also written for TensorBoard, under `assignments/<layer>/<number>`. The model runs the
    sample eagerly in inference mode, so the state of the training does not change.

    Args:
        data: Inputs of the model without labels: an array, or a dict, list or tuple of arrays, such as
            `{"frames": ..., "num_frames": ...}`. A hundred videos are enough. Masked frames are ignored.
        log_dir: Optional path of a directory for TensorBoard: `tensorboard --logdir LOG_DIR`.
        batch_size: Integer, the number of videos to run at a time.

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
        TypeError: If `data` does not consist of arrays, or `log_dir` is not a path.
        OSError: If `log_dir` cannot be written.

    Reference:
        - [Arandjelović et al. 2016](https://arxiv.org/abs/1511.07247), equation 2 (the assignments).
    """

    def __init__(self, data: Any, log_dir: str | os.PathLike[str] | None = None, batch_size: int = 32) -> None:
        super().__init__()
        self.data, self.num_videos = _check_data(data)
        self.log_dir = None if log_dir is None else os.fspath(check_path("log_dir", log_dir))
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self._writer: Any = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Finds the model's poolings and opens the event file."""
        layers = list(dict.fromkeys(_pooling_layers(self.model)))
        names = [layer.name for layer in layers]
        if not layers:
            raise ValueError(
                "`AssignmentMonitor` needs a model with a pooling that has clusters, such as `NetVLAD`. "
                f"Received: model `{self.model.name}`, which has none"
            )
        if len(set(names)) < len(names):
            raise ValueError(
                "`AssignmentMonitor` logs each pooling under its name; give each a unique name. "
                f"Received: layers named {names}"
            )
        self._layers = layers
        if self.log_dir is not None:
            self._writer = _open_writer(self.log_dir)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Runs the sample through the model and logs the numbers."""
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
            if not len(rows):  # the training diverged, or all frames are masked
                numbers = dict.fromkeys(numbers, float("nan"))
            if logs is not None:
                logs.update({f"{layer.name}_{name}": number for name, number in numbers.items()})
            if self._writer is not None:
                _write(self._writer, f"assignments/{layer.name}", numbers, epoch)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Closes the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _assignments(self):
        """Returns the assignments `(N, K)` of the sample by the name of each layer."""
        seen: dict[str, list[np.ndarray]] = {layer.name: [] for layer in self._layers}
        restore = []
        try:
            for layer in self._layers:
                # A wrapper of `call` sees the inputs and the mask that the layer receives. A subclassed model has no
                # symbolic tensors from which a second model could be built.
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
        given = {name: value for name, value in kwargs.items() if name == "scores"}
        seen.append(counted_rows(ops.convert_to_numpy(layer.assign(inputs, mask=mask, **given))))
        return call(inputs, mask=mask, **kwargs)

    return watched_call


def _pooling_layers(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, (ClusterPooling, SoftDBoW, SALAD))]


def _check_data(data):
    arrays = tree.flatten(data)
    if not arrays or any(isinstance(array, (str, bytes)) or not hasattr(array, "shape") for array in arrays):
        raise TypeError(
            "`data` must be the model's inputs as an array, or a dict, list or tuple of arrays; take a sample from a "
            f"dataset first. Received: a {type(data).__name__}"
        )
    lengths = {len(array) if len(array.shape) else 0 for array in arrays}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(
            "`data` must hold at least one video, and the same number for each input; leave out labels. "
            f"Received: shapes {[tuple(array.shape) for array in arrays]}"
        )
    return data, lengths.pop()


def _open_writer(log_dir):
    import tensorflow as tf

    try:
        os.makedirs(log_dir, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"`log_dir` must be a writable directory. Received: log_dir={log_dir!r} ({error.strerror})"
        ) from error
    return tf.summary.create_file_writer(log_dir)


def _write(writer, prefix, numbers, epoch):
    import tensorflow as tf

    # The same record as `tf.summary.scalar` writes, which would need the package `tensorboard`.
    metadata = tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR"
    )
    with writer.as_default(step=epoch):
        for name, number in numbers.items():
            tf.summary.write(f"{prefix}/{name}", tf.constant(number, "float32"), metadata=metadata)
    writer.flush()
