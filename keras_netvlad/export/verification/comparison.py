"""`Comparison`: the differences of one output in one run."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

# Rounding of float32 at scale 1. An output that is all zeros, such as an empty video's descriptor, may differ by this.
ABSOLUTE_FLOOR = 1e-7


@dataclass(frozen=True)
class Comparison:
    """The differences of one output of one signature in one run.

    Attributes:
        signature: Name of the signature.
        output: Name of the output.
        case: Description of the inputs.
        absolute: Largest absolute difference to the model. Infinite if shapes differ, NaN if a value is NaN.
        relative: `absolute` divided by the largest magnitude of the model's output.
        to_float64: Like `relative`, to the model's float64 copy. `None` if there is no copy.
    """

    signature: str
    output: str
    case: str
    absolute: float
    relative: float
    to_float64: float | None = None

    @classmethod
    def of(
        cls,
        signature: str,
        output: str,
        case: str,
        expected: ArrayLike,
        received: ArrayLike,
        exact: ArrayLike | None = None,
    ) -> "Comparison":
        """Compares the output of an artifact with the output of its model.

        Args:
            signature, output, case: See the attributes.
            expected: Output of the model.
            received: Output of the artifact.
            exact: Output of the model's float64 copy, or `None`.
        """
        absolute, relative = _difference(expected, received)
        to_float64 = None if exact is None else _difference(exact, received)[1]
        return cls(signature, output, case, absolute, relative, to_float64)

    def is_within(self, tolerance: float) -> bool:
        """Returns whether all differences are at most `tolerance`. NaN is not."""
        return self.is_near_model(tolerance) and (self.to_float64 is None or self.to_float64 <= tolerance)

    def is_near_model(self, tolerance: float) -> bool:
        """Returns whether the difference to the model itself is at most `tolerance`."""
        return self.relative <= tolerance or self.absolute <= ABSOLUTE_FLOOR


def _difference(expected: ArrayLike, received: ArrayLike) -> tuple[float, float]:
    """Returns the largest absolute difference, and this difference relative to the largest expected magnitude."""
    expected, received = np.asarray(expected), np.asarray(received)
    if expected.shape != received.shape:
        return float("inf"), float("inf")
    try:
        expected, received = expected.astype("float64"), received.astype("float64")
    except (ValueError, TypeError):  # strings
        difference = 0.0 if np.array_equal(expected, received) else float("inf")
        return difference, difference
    is_equal = expected == received  # also of infinities, whose difference is NaN
    with np.errstate(invalid="ignore"):
        absolute = float(np.max(np.where(is_equal, 0.0, np.abs(expected - received)), initial=0.0))
    scale = float(np.max(np.abs(expected[np.isfinite(expected)]), initial=0.0))
    return absolute, absolute / scale if scale else (absolute and absolute / ABSOLUTE_FLOOR)
