"""`Signature`: one function of a model that an artifact offers by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_netvlad.export.port import Port

SERVING_DEFAULT = "serving_default"


@dataclass(frozen=True)
class Signature:
    """One function of a model that an artifact offers by name.

    Attributes:
        name: Name of the signature.
        inputs: The inputs, in the order of the model.
        outputs: The outputs, in the order of the model.
        compute: Function that runs the Keras model: from a dict of tensors by input name to a dict by output name.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    compute: Callable[[Mapping[str, Any]], dict[str, Any]] = field(repr=False)
