"""`Port`: the name, shape and dtype of one input or output."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Port:
    """One input or output of a signature.

    Attributes:
        name: Name of the tensor, the same in every format.
        shape: Static shape; unknown dimensions are `None`.
        dtype: Name of the dtype, such as `"float32"`.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    @property
    def axis_names(self) -> tuple[str | None, ...]:
        """Names of the unknown axes: `batch`, `frames`, then `<port>_axis<n>`. `None` for an axis of fixed size."""
        names = {0: "batch", 1: "frames"}
        return tuple(
            names.get(axis, f"{self.name}_axis{axis}") if size is None else None for axis, size in enumerate(self.shape)
        )
