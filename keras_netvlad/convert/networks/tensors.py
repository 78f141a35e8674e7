"""`Tensors`: the tensors of a checkpoint, each of which belongs to exactly one weight of the network."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_netvlad.convert.arrays import as_numbers
from keras_netvlad.convert.tensor_files import Readers, listed


class Tensors:
    """The tensors of a checkpoint by name.

    A converter first calls `check_names` with all tensors of the network, and then reads each of them once.

    Args:
        readers: Functions that read the tensors, by name.
        form: Description of the checkpoint, for messages.
        config: Configuration of the model, of a file of Keras 2 that has one.
        layers: Names of the tensors of each layer, of a file of Keras 2.
        largest: Number of values of its largest tensor.
    """

    def __init__(
        self,
        readers: Readers,
        form: str,
        config: dict[str, Any] | None = None,
        layers: Mapping[str, Sequence[str]] | None = None,
        largest: int = 0,
    ) -> None:
        self._readers = dict(readers)
        self.form = form
        self.config = config
        self.layers = dict(layers or {})
        self.largest = largest

    def __contains__(self, name: str) -> bool:
        return name in self._readers

    @property
    def names(self) -> Set[str]:
        """The names of the tensors that were not read yet."""
        return self._readers.keys()

    def check_names(self, expected: Iterable[str]) -> None:
        """Raises `ValueError` if the checkpoint lacks a tensor of the network or has one that the network lacks."""
        network = set(expected)
        missing, unknown = network - self.names, self.names - network
        if missing or unknown:
            parts = [f"without {listed(missing)}"] if missing else []
            parts += [f"with the unknown {listed(unknown)}"] if unknown else []
            raise ValueError(
                f"{self.form} must have each tensor of its network and no other; check that the file is complete and "
                f"that its network is the published one. Received: a file {' and '.join(parts)}"
            )

    def read(self, name: str) -> NDArray[np.float64]:
        """Returns a tensor and removes it from `names`."""
        return as_numbers(name, self._readers.pop(name)())

    def read_of_rank(self, name: str, rank: int) -> NDArray[np.float64]:
        """Returns a tensor as `read` does, or raises `ValueError` if it has another number of axes."""
        value = self.read(name)
        if value.ndim != rank:
            raise ValueError(f"`{name}` of {self.form} must have {rank} axes. Received: shape {value.shape}")
        return value


def assign(variable: keras.Variable, value: NDArray[Any], name: str) -> None:
    """Assigns a tensor of a checkpoint to a weight.

    Args:
        variable: The weight.
        value: The tensor, with its axes in the order of the weight.
        name: Name of the tensor, for the message.

    Raises:
        ValueError: If the shapes differ.
    """
    if tuple(variable.shape) != value.shape:
        raise ValueError(
            f"`{name}` must fit its network, which has the weight {variable.path} of shape {tuple(variable.shape)} "
            f"there; check that the checkpoint belongs to the published network. Received: shape {value.shape}, in the "
            "order of the axes of Keras"
        )
    variable.assign(value)
