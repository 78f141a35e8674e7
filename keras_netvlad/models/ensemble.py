"""`ensemble`: joins several models into one."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_netvlad.base.names import SCORES
from keras_netvlad.models.scoring_model import ScoringModel


def ensemble(
    models: Sequence[keras.Model], weights: Sequence[float] | None = None, name: str = "ensemble"
) -> ScoringModel:
    """Joins models into one model whose scores are the weighted mean of their scores.

    The result is one Keras graph that is saved, loaded, evaluated, exported and verified like any model. Inputs of the
    same name are shared. It contains the models themselves, not copies, so training one also trains the other.

    Save the result as `.keras`. Keras cannot load operations of a functional model from `.h5`, its legacy format.

    Args:
        models: Two or more functional models with dicts of named inputs and an output `scores` `(B, C)`, such as
            `VideoClassifier`. Poolings, sizes and streams may differ; inputs of the same name must have the same shape
            and dtype. Models with the same name are renamed: all except the first get a number, because files store
            weights by name.
        weights: Positive numbers, one for each model. Only their ratios matter. By default all are equal.
        name: Name of the result.

    Returns:
        A functional `keras.Model` with the output `scores` `(B, C)`. Labels that are not a dict belong to it.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad import VideoClassifier
    >>> from keras_netvlad.models import ensemble
    >>> models = [VideoClassifier({"rgb": 8}, num_classes=3, num_clusters=clusters) for clusters in (2, 4)]
    >>> both = ensemble(models, weights=[1, 3])
    >>> video = {"rgb": np.ones((1, 5, 8), "float32"), "num_frames": np.array([5], "int32")}
    >>> first, second = (np.asarray(model(video)["scores"]) for model in models)
    >>> bool(np.allclose(both(video)["scores"], 0.25 * first + 0.75 * second, atol=1e-6))
    True

    Raises:
        ValueError: If there are fewer than two models, if a model lacks the output `scores`, if inputs or numbers of
            classes differ, or if the weights are invalid.
        TypeError: If `models` is not a list of functional models with named inputs.

    Reference:
        - [Skalic & Austin 2018](https://github.com/miha-skalic/youtube8mchallenge), `graph_ensemble.py`.
    """
    if not isinstance(models, (list, tuple)):
        raise TypeError(f"`models` must be a list of models. Received: a {type(models).__name__}")
    models = list(models)
    weights = _check(models, weights)
    inputs: dict[str, Any] = {}
    for model in models:
        for key, tensor in model.input.items():
            shared = inputs.setdefault(key, keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=key))
            if (shared.shape, shared.dtype) != (tensor.shape, tensor.dtype):
                raise ValueError(
                    "Models of an ensemble share the inputs of the same name, which must have one shape and dtype; "
                    "`with_input_dtype` changes the dtype of a VideoClassifier. "
                    f"Received: {key!r} of {shared.shape} {shared.dtype}, and of {tensor.shape} {tensor.dtype}"
                )
    _number_equal_names(models)
    # Float32 or better, as in each model.
    dtype = models[0].output[SCORES].dtype
    scores = [
        weight * model({key: inputs[key] for key in model.input})[SCORES]
        for weight, model in zip(weights, models, strict=True)
    ]
    scores = keras.layers.Add(dtype=dtype, name=SCORES)(scores)
    return ScoringModel(inputs, {SCORES: scores}, name=name)


def _check(models: list[Any], weights: Any) -> list[float]:
    """Returns the weights, divided by their sum."""
    if len(models) < 2:
        raise ValueError(f"An ensemble takes two models or more. Received: {len(models)}")
    for model in models:
        if not isinstance(model, keras.Model) or not isinstance(getattr(model, "input", None), Mapping):
            raise TypeError(
                "An ensemble is made of functional models with dicts of named inputs, such as VideoClassifier. "
                f"Received: {type(model).__name__}"
            )
        if not isinstance(model.output, Mapping) or SCORES not in model.output:
            raise ValueError(
                f"Each model of an ensemble needs an output `scores`. Received: {model.name!r}, which has none"
            )
    if len({id(model) for model in models}) < len(models):
        raise ValueError(
            "The models of an ensemble must be different; raise the weight of a model instead of repeating it. "
            "Received: a model twice"
        )
    shapes = [tuple(model.output[SCORES].shape) for model in models]
    if len(set(shapes)) > 1:
        raise ValueError(f"The models of an ensemble must score the same classes. Received: scores of shapes {shapes}")
    weights = [1] * len(models) if weights is None else list(weights)
    if len(weights) != len(models) or not all(map(_is_positive, weights)):
        raise ValueError(
            f"`weights` must be {len(models)} positive numbers, one for each model. Received: weights={weights}"
        )
    return [float(weight) / sum(weights) for weight in weights]


def _is_positive(value: Any) -> bool:
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0


def _number_equal_names(models: list[Any]) -> None:
    names = Counter(model.name for model in models)
    taken = set(names)
    for name in (name for name, count in names.items() if count > 1):
        for model in [model for model in models if model.name == name][1:]:
            number = next(n for n in range(1, len(models) + 1) if f"{name}_{n}" not in taken)
            model.name = f"{name}_{number}"
            taken.add(model.name)
