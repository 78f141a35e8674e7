"""`Report`: the result of a verification, as a value and as a table."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from keras_netvlad.export.parity_file import OutputParity, Parity, TopAgreement
from keras_netvlad.export.verification.agreement import Agreement
from keras_netvlad.export.verification.comparison import Comparison


@dataclass(frozen=True)
class Report:
    """The result of `verify`. It prints as a table.

    Attributes:
        path: Path of the artifact.
        kind: `"saved_model"`, `"onnx"` or `"litert"`.
        num_bytes: Size of its files.
        load_seconds: Time that loading took.
        tolerance: Largest relative difference allowed.
        comparisons: Tuple of `Comparison`, one for each output and run.
        judge: `"float64"` if the artifact was also compared with a float64 copy of the model. Otherwise the reason why
            there is no copy.
        agreement: `Agreement` on the user's data, or `None` without data.
        min_agreement: Fraction of rows that must agree, or `None`.
        no_live_stream: The reason why a model of streams and `num_frames` has no signatures for live streams, if all
            signatures were to be written, as to a SavedModel. Otherwise `None`.
        runtime: Name of the runtime that the user chose, or `None`.
        answers_unequal_rows: Whether the chosen runtime answers several videos with a `num_frames` of one row, which
            artifacts refuse.

    Example:

    >>> from keras_netvlad.export.verification.comparison import Comparison
    >>> differs = Comparison.of("serving_default", "scores", "batch 1", expected=[0.5, 0.25], received=[0.5, 0.26])
    >>> print(Report("model.onnx", "onnx", 15460, load_seconds=0.1, tolerance=1e-4, comparisons=(differs,)))
    onnx  model.onnx
      15.5 kB, loaded in 0.10 s, 1 run, tolerance 0.0001
      signature        output  max |difference|  relative  to float64  parity
      serving_default  scores          1.00e-02   2.0e-02           -  FAILED
        first at: batch 1
    """

    path: str
    kind: str
    num_bytes: int
    load_seconds: float
    tolerance: float
    comparisons: tuple[Comparison, ...]
    judge: str = "float64"
    agreement: Agreement | None = None
    min_agreement: float | None = None
    no_live_stream: str | None = None
    runtime: str | None = None
    answers_unequal_rows: bool = False

    @property
    def ok(self) -> bool:
        """Whether every output of every run is within the tolerance and enough rows agree."""
        agrees = self.min_agreement is None or (
            self.agreement is not None and self.agreement.fraction >= self.min_agreement
        )
        return bool(self.comparisons) and agrees and all(c.is_within(self.tolerance) for c in self.comparisons)

    def at(self, path: str | os.PathLike[str]) -> "Report":
        """Returns the same report for an artifact that was moved to `path`."""
        return replace(self, path=str(path))

    def as_dict(self) -> Parity:
        """Returns the numbers of the table for JSON. Differences that are not finite become `None`."""
        outputs: list[OutputParity] = [
            {
                "signature": signature,
                "output": output,
                "max_absolute_difference": _finite(_worst(c.absolute for c in rows)),
                "max_relative_difference": _finite(_worst(c.relative for c in rows)),
                "max_relative_difference_to_float64": _finite(_worst_to_float64(rows)),
                "ok": all(c.is_within(self.tolerance) for c in rows),
            }
            for (signature, output), rows in self._by_output().items()
        ]
        agreement: TopAgreement | None = None
        if self.agreement is not None:
            agreement = {
                "output": self.agreement.output,
                "same": self.agreement.same,
                "rows": self.agreement.rows,
                "min": self.min_agreement,
            }
        return {
            "ok": self.ok,
            "kind": self.kind,
            "num_bytes": self.num_bytes,
            "load_seconds": round(self.load_seconds, 4),
            "tolerance": self.tolerance,
            "judge": self.judge,
            "num_runs": self._num_runs(),
            "outputs": outputs,
            "top_1_agreement": agreement,
        }

    def __str__(self) -> str:
        groups = self._by_output()
        widths = [max(map(len, column)) for column in zip(("signature", "output"), *groups, strict=True)]
        num_runs = self._num_runs()
        runs = "1 run" if num_runs == 1 else f"{num_runs} runs"
        lines = [
            f"{self.kind}  {self.path}" + (f"  in {self.runtime}" if self.runtime else ""),
            f"  {format_bytes(self.num_bytes)}, loaded in {self.load_seconds:.2f} s, {runs}, "
            f"tolerance {self.tolerance:g}",
            f"  {'signature':<{widths[0]}}  {'output':<{widths[1]}}  max |difference|  relative  to float64  parity",
        ]
        for (signature, output), rows in groups.items():
            failed = [c for c in rows if not c.is_within(self.tolerance)]
            to_float64 = _worst_to_float64(rows)
            lines.append(
                f"  {signature:<{widths[0]}}  {output:<{widths[1]}}  {_worst(c.absolute for c in rows):16.2e}  "
                f"{_worst(c.relative for c in rows):8.1e}  {'-' if to_float64 is None else f'{to_float64:.1e}':>10}  "
                f"{'FAILED' if failed else 'ok'}"
            )
            lines += [f"    first at: {failed[0].case}"] if failed else []
        if self.judge != "float64":
            lines.append(f"  no copy in float64 to compare with: {self.judge}")
        if self.no_live_stream is not None:
            lines.append(f"  no signatures for live streams: {self.no_live_stream}")
        if self.answers_unequal_rows:
            lines.append(
                f"  {self.runtime} uses a `num_frames` of one row for all videos, which the artifact should refuse: "
                "always send one number for each video"
            )
        if self.agreement is not None:
            minimum = "" if self.min_agreement is None else f", at least {self.min_agreement:.2%} required"
            lines.append(
                f"  top-1 agreement of {self.agreement.output} on real data: {self.agreement.same} of "
                f"{self.agreement.rows} rows, {self.agreement.fraction:.2%}{minimum}"
            )
        return "\n".join(lines)

    def _num_runs(self) -> int:
        return len({(c.signature, c.case) for c in self.comparisons})

    def _by_output(self) -> dict[tuple[str, str], list[Comparison]]:
        groups: dict[tuple[str, str], list[Comparison]] = {}
        for comparison in self.comparisons:
            groups.setdefault((comparison.signature, comparison.output), []).append(comparison)
        return groups


def _worst(values: Iterable[float]) -> float:
    """Returns the largest value, or NaN if there is one. Python's `max` would lose NaN."""
    return float(np.max(list(values)))


def _worst_to_float64(rows: Sequence[Comparison]) -> float | None:
    values = [row.to_float64 for row in rows if row.to_float64 is not None]
    return _worst(values) if values else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def format_bytes(count: float) -> str:
    """Returns a size with three digits and a unit, such as `"15.5 kB"`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
