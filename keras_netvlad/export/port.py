"""`Port`: the name, shape and dtype of one input or output."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Port:
    """One input or output of a signature.

    Attributes:
        name: Name of the tensor, the same in every format.
        shape: Static shape; unknown dimensions are `None`.
        dtype: Name of the dtype, such as `"float32"`.
        has_frames: Whether axis 1 counts the frames of a video. `False` for pictures, for vectors of a fixed size and
            for outputs whose length differs from the number of frames.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    has_frames: bool = True

    @property
    def axis_names(self) -> tuple[str | None, ...]:
        """Names of the unknown axes, and `None` for each axis of fixed size.

        The names are `batch`, `frames`, `<port>_height` and `<port>_width`, and `<port>_axis<n>` for other axes.
        """
        names = {0: "batch"}
        if self.has_frames:
            names[1] = "frames"
        if len(self.shape) == 5 or (len(self.shape) == 4 and not self.has_frames):
            is_channels_first = self.shape[-1] is None and self.shape[-3] is not None
            height = len(self.shape) - (2 if is_channels_first else 3)
            names |= {height: f"{self.name}_height", height + 1: f"{self.name}_width"}
        return tuple(
            names.get(axis, f"{self.name}_axis{axis}") if size is None else None for axis, size in enumerate(self.shape)
        )
