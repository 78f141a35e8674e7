"""Parts that the TensorFlow 1 checkpoints of YouTube-8M models share: averages, batch normalizations, classifiers."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_netvlad.convert.arrays import BATCH_NORMALIZATION_NAMES
from keras_netvlad.convert.networks.tensors import Tensors, assign
from keras_netvlad.convert.rows import reorder_rows
from keras_netvlad.convert.tensor_files import Readers
from keras_netvlad.models.video_classifier import VideoClassifier

# Beginnings of the scopes of the poolings, by stream: `video_VLAD`, `audio_FV`.
STREAMS = {"rgb": "video", "audio": "audio"}
AVERAGE = "/ExponentialMovingAverage"
# Optimizers and the training loop store these next to the weights.
STATE = ("global_step", "beta1_power", "beta2_power")
SLOTS = ("/Adam", "/Adam_1", "/Momentum", "/RMSProp", "/RMSProp_1")
# Tensors of the two classifiers by the name of their weight: `MoeModel` and `LogisticModel`.
MIXTURE = {"gate_kernel": "gates/weights", "expert_kernel": "experts/weights", "expert_bias": "experts/biases"}
LOGISTIC = {"kernel": "fully_connected/weights", "bias": "fully_connected/biases"}


def weights_of_checkpoint(readers: Readers) -> Readers:
    """Returns the weights of a TensorFlow 1 checkpoint: moving averages if present, without the optimizer's state.

    Args:
        readers: Tensors by name. The names may start with the scope of a GPU, `tower/`.
    """
    named = {name.removeprefix("tower/"): read for name, read in readers.items()}
    averages = {name.removesuffix(AVERAGE): read for name, read in named.items() if name.endswith(AVERAGE)}
    weights = {
        name: read
        for name, read in named.items()
        if name.split("/")[-1] not in STATE and not name.endswith((AVERAGE, *SLOTS))
    }
    return {name: averages.get(name, read) for name, read in weights.items()}


def normalization_names(scope: str) -> list[str]:
    """Returns the names of the tensors of a batch normalization."""
    return [f"{scope}/{part}" for part in BATCH_NORMALIZATION_NAMES]


def assign_normalization(tensors: Tensors, layers: Sequence[keras.Layer], scope: str) -> None:
    """Assigns a batch normalization to one layer, or its parts to several layers that follow each other."""
    for part in BATCH_NORMALIZATION_NAMES:
        name = f"{scope}/{part}"
        value, variables = tensors.read_of_rank(name, 1), [getattr(layer, part) for layer in layers]
        ends = np.cumsum([variable.shape[0] for variable in variables])
        for variable, values in zip(variables, np.split(value, ends[:-1]), strict=True):
            assign(variable, values, name)


def classifier_tensors(names: Iterable[str]) -> dict[str, str]:
    """Returns the tensors of the classifier by the name of their weight: a mixture of experts, or a logistic layer."""
    return MIXTURE if any(name in MIXTURE.values() for name in names) else LOGISTIC


def read_classifier(tensors: Tensors, names: dict[str, str]) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Returns the options `num_classes` and `num_mixtures` of a classifier, and its weights by name.

    Args:
        tensors: Tensors of the checkpoint.
        names: Tensors by the name of their weight, as `classifier_tensors` returns them.
    """
    weights = {weight: tensors.read_of_rank(name, 1 if "bias" in name else 2) for weight, name in names.items()}
    if names is LOGISTIC:
        return {"num_classes": len(weights["bias"]), "num_mixtures": None}, weights
    gates, experts = weights["gate_kernel"].shape, weights["expert_kernel"].shape
    # There is one gate more than experts for each class.
    num_classes = gates[1] - experts[1]
    if num_classes < 1 or experts[1] % num_classes or not experts[1]:
        raise ValueError(
            f"`{MIXTURE['gate_kernel']}` must have one column more for each class than `{MIXTURE['expert_kernel']}`. "
            f"Received: shapes {gates} and {experts}"
        )
    return {"num_classes": num_classes, "num_mixtures": experts[1] // num_classes}, weights


def assign_classifier(model: VideoClassifier, names: dict[str, str], weights: dict[str, NDArray[np.float64]]) -> None:
    """Assigns the weights that `read_classifier` returned."""
    layer = model.get_layer("ungated_scores" if model.gate_scores else "scores")
    for weight, value in weights.items():
        assign(getattr(layer, weight), value, names[weight])


def reordered(values: NDArray[np.float64], descriptors: Sequence[Sequence[tuple[int, int]]], name: str) -> Any:
    """Returns weights with one row for each value of the joined descriptors, in the order of this package.

    Args:
        values: Array `(F, ...)`, of which the rows of each descriptor are feature-major.
        descriptors: For each stream, the numbers of clusters and of features `(K, D)` of the parts of its descriptor.
        name: Name of the tensor, for the message.

    Raises:
        ValueError: If there are more or fewer rows.
    """
    parts = [part for parts in descriptors for part in parts]
    lengths = [num_clusters * size for num_clusters, size in parts]
    if len(values) != sum(lengths):
        expected = " + ".join(str(sum(k * d for k, d in descriptor)) for descriptor in descriptors)
        raise ValueError(
            f"`{name}` must have {expected} rows, one for each value of the two descriptors. Received: shape "
            f"{values.shape}"
        )
    rows = np.split(values, np.cumsum(lengths)[:-1])
    return np.concatenate([reorder_rows(part, *sizes) for part, sizes in zip(rows, parts, strict=True)])
