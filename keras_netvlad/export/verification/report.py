"""`Report`: what a verification found, as a value and as a table."""

from dataclasses import asdict, dataclass, replace

import numpy as np

# Float32 rounding at scale 1: what an output that is all zeros, such as an empty video's descriptor, may be off.
ABSOLUTE_FLOOR = 1e-7


@dataclass(frozen=True)
class Comparison:
    """One output of one signature in one run.

    Attributes:
        signature: Name of the signature.
        output: Name of the output.
        case: What was run.
        absolute: Largest absolute difference to the model; infinite where shapes differ, NaN where a value is NaN.
        relative: The same over the largest magnitude of the model's output.
        to_float64: As `relative`, to the model's copy in float64; `None` where there is none.
    """

    signature: str
    output: str
    case: str
    absolute: float
    relative: float
    to_float64: float | None = None

    @classmethod
    def of(cls, signature, output, case, expected, received, exact=None):
        """Compares arrays: the model's, the artefact's, and the float64 copy's."""
        absolute, relative = _difference(expected, received)
        return cls(
            signature, output, case, absolute, relative, None if exact is None else _difference(exact, received)[1]
        )

    def is_within(self, tolerance):
        """Whether the differences are small enough. NaN is not."""
        is_near = self.relative <= tolerance or self.absolute <= ABSOLUTE_FLOOR
        return is_near and (self.to_float64 is None or self.to_float64 <= tolerance)


@dataclass(frozen=True)
class Agreement:
    """How often artefact and model name the same class first, on the user's own data.

    Attributes:
        output: Name of the output whose largest value is the class.
        same: Rows on which they agree.
        rows: Rows compared.
    """

    output: str
    same: int
    rows: int

    @property
    def fraction(self):
        """Share of rows on which they agree, 0 to 1."""
        return self.same / self.rows


@dataclass(frozen=True)
class Report:
    """What `verify` found; prints as a table.

    Attributes:
        path: Where the artefact is.
        kind: `"saved_model"` or `"onnx"`.
        num_bytes: Size of its files.
        load_seconds: How long loading took.
        tolerance: Largest relative difference allowed.
        comparisons: Tuple of `Comparison`, one for each output and run.
        judge: `"float64"`, or why there was no copy of the model in float64 to compare with.
        agreement: `Agreement` on the user's data, or `None` without data.
        min_agreement: Fraction of rows that must agree, or `None`.

    Example:

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
    comparisons: tuple
    judge: str = "float64"
    agreement: Agreement | None = None
    min_agreement: float | None = None

    @property
    def ok(self):
        """Whether every output of every run is within the tolerance, and classes agree often enough."""
        agrees = self.min_agreement is None or (
            self.agreement is not None and self.agreement.fraction >= self.min_agreement
        )
        return bool(self.comparisons) and agrees and all(c.is_within(self.tolerance) for c in self.comparisons)

    def at(self, path):
        """The same report for an artefact that moved to another path."""
        return replace(self, path=str(path))

    def as_dict(self):
        """The figures of the table, for JSON; differences that are no number become `None`."""
        return {
            "ok": self.ok,
            "kind": self.kind,
            "num_bytes": self.num_bytes,
            "load_seconds": round(self.load_seconds, 4),
            "tolerance": self.tolerance,
            "judge": self.judge,
            "num_runs": len({(c.signature, c.case) for c in self.comparisons}),
            "outputs": [
                {
                    "signature": signature,
                    "output": output,
                    "max_absolute_difference": _finite(_worst(c.absolute for c in rows)),
                    "max_relative_difference": _finite(_worst(c.relative for c in rows)),
                    "max_relative_difference_to_float64": _finite(_worst_to_float64(rows)),
                    "ok": all(c.is_within(self.tolerance) for c in rows),
                }
                for (signature, output), rows in self._by_output().items()
            ],
            "top_1_agreement": None
            if self.agreement is None
            else {**asdict(self.agreement), "min": self.min_agreement},
        }

    def __str__(self):
        groups = self._by_output()
        widths = [max(map(len, column)) for column in zip(("signature", "output"), *groups, strict=True)]
        num_runs = len({(c.signature, c.case) for c in self.comparisons})
        runs = "1 run" if num_runs == 1 else f"{num_runs} runs"
        lines = [
            f"{self.kind}  {self.path}",
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
        if self.agreement is not None:
            minimum = "" if self.min_agreement is None else f", at least {self.min_agreement:.2%} wanted"
            lines.append(
                f"  top-1 agreement of {self.agreement.output} on real data: {self.agreement.same} of "
                f"{self.agreement.rows} rows, {self.agreement.fraction:.2%}{minimum}"
            )
        return "\n".join(lines)

    def _by_output(self):
        groups = {}
        for comparison in self.comparisons:
            groups.setdefault((comparison.signature, comparison.output), []).append(comparison)
        return groups


class ParityError(Exception):
    """An artefact does not compute what its model computes; `.report` says where."""

    def __init__(self, report):
        super().__init__(f"The artefact differs from the model beyond the tolerance; nothing was written.\n{report}")
        self.report = report


def _difference(expected, received):
    """Largest absolute difference, and the same over the largest magnitude of what was expected."""
    expected, received = (np.asarray(values).astype("float64") for values in (expected, received))
    if expected.shape != received.shape:
        return float("inf"), float("inf")
    absolute = float(np.max(np.abs(expected - received), initial=0.0))
    scale = float(np.max(np.abs(expected), initial=0.0))
    return absolute, absolute / scale if scale else (absolute and absolute / ABSOLUTE_FLOOR)


def _worst(values):
    """The largest; NaN if there is one, which Python's `max` would lose."""
    return float(np.max(list(values)))


def _worst_to_float64(rows):
    values = [row.to_float64 for row in rows if row.to_float64 is not None]
    return _worst(values) if values else None


def _finite(value):
    return value if value is not None and np.isfinite(value) else None


def format_bytes(count):
    """A size for people: three digits and a unit."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
