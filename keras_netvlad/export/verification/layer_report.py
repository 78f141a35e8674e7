"""`LayerReport`: the result of a comparison layer by layer, as a value and as a table."""

from dataclasses import dataclass

from keras_netvlad.base.text_table import text_table
from keras_netvlad.export.verification.layer_difference import LayerDifference


@dataclass(frozen=True)
class LayerReport:
    """The result of `compare_layers`. It prints as a table.

    Attributes:
        path: Path of the ONNX file.
        tolerance: Largest relative difference allowed.
        layers: Tuple of `LayerDifference`, one for each call of a layer, in the order of the model's computation.

    Example:

    >>> from keras_netvlad.export.verification.layer_difference import LayerDifference
    >>> layers = LayerDifference("netvlad", "NetVLAD", 2e-7, True), LayerDifference("scores", "Dense", 0.3, False)
    >>> print(LayerReport("model.onnx", 1e-4, layers))
    layers of model.onnx, tolerance 0.0001
    layer      class  relative   result
    netvlad  NetVLAD   2.0e-07       ok
    scores     Dense   3.0e-01  DIFFERS
    first layer that differs: scores (Dense), by 3.0e-01
    """

    path: str
    tolerance: float
    layers: tuple[LayerDifference, ...]

    @property
    def ok(self) -> bool:
        """Whether no layer differs by more than the tolerance."""
        return self.first is None

    @property
    def first(self) -> LayerDifference | None:
        """The first layer that differs by more than the tolerance, or `None`."""
        return next((layer for layer in self.layers if not layer.is_within), None)

    def __str__(self) -> str:
        rows = [("layer", "class", "relative", "result")]
        for layer in self.layers:
            relative = "-" if layer.relative is None else f"{layer.relative:.1e}"
            rows.append((layer.layer, layer.class_name, relative, layer.result))
        lines = [f"layers of {self.path}, tolerance {self.tolerance:g}", text_table(rows)]
        if self.first is not None:
            lines.append(
                f"first layer that differs: {self.first.layer} ({self.first.class_name}), by {self.first.relative:.1e}"
            )
        return "\n".join(lines)
