"""`layer_outputs`: the values that every layer of a model returns for one batch."""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

_RECORDING = threading.RLock()


@dataclass(frozen=True)
class LayerCall:
    """A call of a layer.

    Attributes:
        path: Names of the layers around the layer, from the outermost to the innermost, and the name of the layer.
        class_name: Name of the class of the layer.
        number: Number of earlier calls of the layer, which is above 0 only for a shared layer.
    """

    path: tuple[str, ...]
    class_name: str
    number: int


def layer_outputs(model: keras.Model, compute: Callable[[], Any]) -> dict[LayerCall, list[np.ndarray]]:
    """Returns what the layers of a model return while a function runs the model.

    The layers are those of the model, and those of models inside it or inside its layers, such as the backbone of a
    `FrameEncoder`. The cell of a recurrent layer is not among them, because its number of calls depends on the batch.

    Args:
        model: The Keras model.
        compute: Function without arguments that calls the model once, eagerly.

    Returns:
        Dict from each call to the values that it returned, in the order in which the calls ended. The layers of an
        inner model come before the inner model.
    """
    outputs: dict[LayerCall, list[np.ndarray]] = {}
    calls: Counter[tuple[str, ...]] = Counter()
    around: list[keras.Layer] = []

    def record(layer: keras.Layer, call: Callable[[], Any]) -> Any:
        around.append(layer)
        try:
            result = call()
        finally:
            around.pop()
        is_of_model = bool(around) and isinstance(around[-1], keras.Model)
        if around and around[0] is model and (is_of_model or isinstance(layer, keras.Model)):
            path = (*(other.name for other in around[1:]), layer.name)
            values = [np.asarray(value) for value in keras.tree.flatten(result) if value is not None]
            outputs[LayerCall(path, type(layer).__name__, calls[path])] = values
            calls[path] += 1
        return result

    with _recorded(record):
        compute()
    return outputs


@contextlib.contextmanager
def _recorded(record: Callable[[keras.Layer, Callable[[], Any]], Any]) -> Iterator[None]:
    """Calls `record` with the layer and the call in place of every call of a layer in this thread."""
    # The lock admits one thread at a time. Otherwise a thread could take another thread's replacement of `__call__`
    # for the original and restore that.
    with _RECORDING:
        original, thread = keras.Layer.__call__, threading.get_ident()

        def recording(self: keras.Layer, *arguments: Any, **options: Any) -> Any:
            if threading.get_ident() != thread:
                return original(self, *arguments, **options)
            return record(self, lambda: original(self, *arguments, **options))

        keras.Layer.__call__ = recording
        try:
            yield
        finally:
            keras.Layer.__call__ = original
