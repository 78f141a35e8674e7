"""`LayerDifference`: how far the output of a layer in a file is from its output in the model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerDifference:
    """How far the output of a layer in a file is from its output in the model.

    Attributes:
        layer: Name of the layer. That of a layer of an inner model follows the names of the layers around it, as in
            `"encoder/backbone/conv"`.
        class_name: Name of its class.
        relative: Largest difference in any run, divided by the largest magnitude of the model's output in this run.
            `None` if the file has no tensor for the layer, because the converter merged it with others.
        is_within: Whether all differences are at most the tolerance. `True` if there is no tensor.
    """

    layer: str
    class_name: str
    relative: float | None
    is_within: bool

    @property
    def result(self) -> str:
        """`"ok"`, `"DIFFERS"` or `"not found"`."""
        if self.relative is None:
            return "not found"
        return "ok" if self.is_within else "DIFFERS"
