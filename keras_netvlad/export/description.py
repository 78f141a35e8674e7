"""`Description`: the facts about an artifact that its files contain."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_netvlad.export.metadata import LABELS
from keras_netvlad.export.verification.artefact import Ports
from keras_netvlad.export.verification.report import format_bytes


@dataclass(frozen=True)
class Description:
    """The facts about an artifact that its files contain. It prints as a page.

    Attributes:
        path: Path of the artifact.
        kind: `"saved_model"`, `"onnx"` or `"litert"`.
        num_bytes: Size of all files.
        made_with: The program that wrote the artifact, and for ONNX the operator set.
        signatures: Dict from the name of each signature to a pair of dicts, inputs and outputs, from a name to
            `(shape, dtype)`.
        stored: Dict from a dtype to the number of stored values of this dtype: weights and constants of the graph.
        num_warmup_requests: Number of warm-up requests for TensorFlow Serving.
        parity: Content of `parity.json`. Empty if there is no such file.

    Example:

    >>> ports = {"frames": (("batch", "frames", 8), "float32")}, {"scores": (("batch", 3), "float32")}
    >>> print(Description("model.onnx", "onnx", 15460, "opset 18", {"serving_default": ports}, {"float32": 3827}))
    onnx  model.onnx
      size        15.5 kB
      stores      3,827 float32
      made with   opset 18
      serving_default
        <- frames  float32 (batch, frames, 8)
        -> scores  float32 (batch, 3)
      parity      not recorded; `keras-netvlad verify` compares with the model
    """

    path: str
    kind: str
    num_bytes: int
    made_with: str
    signatures: dict[str, tuple[Ports, Ports]]
    stored: dict[str, int]
    num_warmup_requests: int = 0
    parity: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        stored = ", ".join(f"{count:,} {dtype}" for dtype, count in self.stored.items()) or "nothing"
        lines = [
            f"{self.kind}  {self.path}",
            f"  size        {format_bytes(self.num_bytes)}",
            f"  stores      {stored}",
            f"  made with   {self.made_with}",
        ]
        if self.parity:
            lines.append(f"  made by     {self.parity.get('producer')}, {self.parity.get('created')}")
            lines.append(f"  precision   {self.parity.get('precision')}")
        metadata = {key: value for key, value in (self.parity.get("metadata") or {}).items() if value is not None}
        width = max([10, *map(len, metadata)])
        for key, value in metadata.items():
            lines.append(f"  {key:<{width}}  {_shortened(value) if key == LABELS else value}")
        if self.num_warmup_requests:
            lines.append(f"  warm-up     {self.num_warmup_requests} requests")
        for name, (inputs, outputs) in self.signatures.items():
            lines.append(f"  {name}")
            for arrow, ports in (("<-", inputs), ("->", outputs)):
                lines += [f"    {arrow} {port}  {dtype} {_axes(shape)}" for port, (shape, dtype) in ports.items()]
        return "\n".join([*lines, *self._parity_lines()])

    def _parity_lines(self) -> list[str]:
        parity = self.parity.get("parity")
        if not parity:
            return ["  parity      not recorded; `keras-netvlad verify` compares with the model"]
        lines = [
            f"  parity      {'ok' if parity['ok'] else 'FAILED'}, {parity['num_runs']} runs, tolerance "
            f"{parity['tolerance']:g}"
        ]
        for row in parity["outputs"]:
            to_float64 = row.get("max_relative_difference_to_float64")
            difference = row["max_relative_difference"]
            lines.append(
                f"    {row['signature']} {row['output']}: relative difference "
                + ("not finite" if difference is None else f"{difference:.1e}")
                + (f", to float64 {to_float64:.1e}" if to_float64 is not None else "")
            )
        agreement = parity.get("top_1_agreement")
        if agreement:
            lines.append(
                f"    top-1 agreement of {agreement['output']}: {agreement['same']} of {agreement['rows']} rows"
            )
        return lines


def _axes(shape: Sequence[int | str | None]) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"


def _shortened(labels: Sequence[str]) -> str:
    """Returns the number of labels and the first five."""
    shown = ", ".join(labels[:5])
    return f"{len(labels)}: {shown}" + (", ..." if len(labels) > 5 else "")
