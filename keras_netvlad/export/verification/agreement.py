"""`Agreement`: the share of rows for which an artifact and its model predict the same class."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """The share of rows of the user's data for which an artifact and its model predict the same top class.

    Attributes:
        output: Name of the output. The index of its largest value is the predicted class.
        same: Number of rows with the same class.
        rows: Number of rows compared.
    """

    output: str
    same: int
    rows: int

    @property
    def fraction(self) -> float:
        """Share of rows with the same class, 0 to 1."""
        return self.same / self.rows
