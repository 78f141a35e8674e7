"""`AdditivePooling`: the interface of poolings that can pool a video chunk by chunk."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import keras
from numpy.typing import ArrayLike

from keras_netvlad.layers.frame_pooling import Shape


@runtime_checkable
class AdditivePooling(Protocol):
    """A Keras layer that pools features through two sums, which add up over the chunks of a video.

    `ClusterPooling` and `GeMPooling` have these methods and describe them.
    """

    name: str
    sum_dtype: str
    weights: Sequence[keras.Variable]

    def aggregate(
        self, inputs: ArrayLike, mask: ArrayLike | None = None, training: bool | None = None
    ) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        """Returns the sums `(B, K, S)` and `(B, K)` of some frames."""
        ...

    def describe(self, first_sum: ArrayLike, second_sum: ArrayLike) -> keras.KerasTensor:
        """Returns the descriptor of the sums of all frames."""
        ...

    def compute_sums_shape(self, input_shape: Shape) -> tuple[Shape, Shape]:
        """Returns the shapes of the two sums for inputs of a shape."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Pools all frames."""
        ...
