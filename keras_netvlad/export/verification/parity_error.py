"""`ParityError`: raised if an artifact does not compute what its model computes."""

from dataclasses import replace

from keras_netvlad.export.verification.report import Report


class ParityError(Exception):
    """An artifact does not compute what its model computes.

    Args:
        report: The `Report` of the verification.

    Attributes:
        report: The `Report`, which lists the differences.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(f"{_cause(report)} beyond the tolerance; nothing was written.\n{report}")
        self.report = report


def _cause(report: Report) -> str:
    failed = [comparison for comparison in report.comparisons if not comparison.is_within(report.tolerance)]
    if failed and all(replace(comparison, to_float64=None).is_within(report.tolerance) for comparison in failed):
        return "The artifact equals the model, but both differ from a more exact copy of the model in float64"
    return "The artifact differs from the model"
