"""`ParityError`: raised if an artifact does not compute what its model computes."""

from keras_netvlad.export.verification.report import Report


class ParityError(Exception):
    """An artifact does not compute what its model computes.

    Args:
        report: The `Report` of the verification.

    Attributes:
        report: The same; it lists the differences.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(f"The artifact differs from the model beyond the tolerance; nothing was written.\n{report}")
        self.report = report
