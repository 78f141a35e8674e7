"""`Report`: what a verification found, as a value and as a table."""

from dataclasses import dataclass, replace

import numpy as np

# Float32 rounding at scale 1: what an output that is all zeros, such as an empty video's descriptor, may be off.
ABSOLUTE_FLOOR = 1e-7


@dataclass(frozen=True)
class Comparison:
    """One output in one case.

    Attributes:
        output: Name of the output.
        case: What was run.
        absolute: Largest absolute difference; infinite where shapes differ, NaN where a value is NaN.
        relative: The same over the largest magnitude of the model's output.
    """

    output: str
    case: str
    absolute: float
    relative: float

    @classmethod
    def of(cls, output, case, expected, received):
        """Compares two arrays."""
        expected, received = (np.asarray(values).astype("float64") for values in (expected, received))
        if expected.shape != received.shape:
            return cls(output, case, float("inf"), float("inf"))
        absolute = float(np.max(np.abs(expected - received), initial=0.0))
        scale = float(np.max(np.abs(expected), initial=0.0))
        return cls(output, case, absolute, absolute / scale if scale else (absolute and absolute / ABSOLUTE_FLOOR))

    def is_within(self, tolerance):
        """Whether the difference is small enough. NaN is not."""
        return self.relative <= tolerance or self.absolute <= ABSOLUTE_FLOOR


@dataclass(frozen=True)
class Report:
    """What `verify` found; prints as a table.

    Attributes:
        path: Where the artefact is.
        kind: `"saved_model"` or `"onnx"`.
        num_bytes: Size of its files.
        load_seconds: How long loading took.
        tolerance: Largest relative difference allowed.
        comparisons: Tuple of `Comparison`, one for each output and case.

    Example:

    >>> differs = Comparison.of("scores", "batch 1, frames 7", expected=[0.5, 0.25], received=[0.5, 0.26])
    >>> report = Report("model.onnx", "onnx", num_bytes=15460, load_seconds=0.1, tolerance=1e-4, comparisons=(differs,))
    >>> print(report)
    onnx  model.onnx
      15.5 kB, loaded in 0.10 s, 1 case, tolerance 0.0001
      output  max |difference|  relative  parity
      scores          1.00e-02   2.0e-02  FAILED
        first at: batch 1, frames 7
    """

    path: str
    kind: str
    num_bytes: int
    load_seconds: float
    tolerance: float
    comparisons: tuple

    @property
    def ok(self):
        """Whether every output of every case is within the tolerance."""
        return bool(self.comparisons) and all(c.is_within(self.tolerance) for c in self.comparisons)

    def at(self, path):
        """The same report for an artefact that moved to another path."""
        return replace(self, path=str(path))

    def __str__(self):
        outputs = list(dict.fromkeys(c.output for c in self.comparisons))
        width = max(len(name) for name in [*outputs, "output"])
        num_cases = len({c.case for c in self.comparisons})
        cases = "1 case" if num_cases == 1 else f"{num_cases} cases"
        lines = [
            f"{self.kind}  {self.path}",
            f"  {_format_bytes(self.num_bytes)}, loaded in {self.load_seconds:.2f} s, {cases}, "
            f"tolerance {self.tolerance:g}",
            f"  {'output':<{width}}  max |difference|  relative  parity",
        ]
        for output in outputs:
            rows = [c for c in self.comparisons if c.output == output]
            failed = [c for c in rows if not c.is_within(self.tolerance)]
            lines.append(
                f"  {output:<{width}}  {_worst(c.absolute for c in rows):16.2e}  "
                f"{_worst(c.relative for c in rows):8.1e}  {'FAILED' if failed else 'ok'}"
            )
            lines += [f"    first at: {failed[0].case}"] if failed else []
        return "\n".join(lines)


class ParityError(Exception):
    """An artefact does not compute what its model computes; `.report` says where."""

    def __init__(self, report):
        super().__init__(f"The artefact differs from the model beyond the tolerance; nothing was written.\n{report}")
        self.report = report


def _worst(values):
    """The largest; NaN if there is one, which Python's `max` would lose."""
    return float(np.max(list(values)))


def _format_bytes(count):
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
