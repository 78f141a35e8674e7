"""`accepted_sizes`: sizes of batches that a model accepts, found by trial."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from keras_netvlad.base.names import NUM_FRAMES
from keras_netvlad.export.reason import reason_of
from keras_netvlad.export.signature import Signature
from keras_netvlad.export.verification.random_inputs import Size, draw, other_sizes

# A single frame, odd sizes, an empty video, and frame counts that are negative or larger than the number of frames.
SIZES = (
    Size(1, 1, (1,), (1, 1)),
    Size(1, 7, (5,), (7, 8)),
    Size(3, 5, (5, 0, 2), (5, 3)),
    Size(2, 40, (40, 17), (40, 8)),
    Size(2, 9, (12, -1), (9, 2)),
)
# Lengths and sizes to try: powers of two, then usual ones for models that accept few sizes.
POWERS = [2**power for power in range(10)]
USUAL = [*range(3, 33), 50, 60, 64, 75, 96, 100, 120, 150, 160, 180, 192, 200, 224, 240, 250, 299, 300, 384, 448]
# Pictures and videos with more positions than this are not tried.
MAX_POSITIONS = 2**18


def accepted_sizes(signature: Signature, data: Mapping[str, np.ndarray] | None = None) -> tuple[Size, ...]:
    """Finds sizes of batches that a model accepts.

    A model accepts a batch if it raises no error and computes no NaN. The sizes are `SIZES` if the model accepts
    them. Otherwise they start at the smallest accepted length and picture: a convolution needs several frames, and
    other models need a multiple of some length. Empty videos, and counts beyond the length, are replaced by counts in
    range if the model does not accept them.

    Args:
        signature: The model's signature `serving_default`.
        data: Real inputs, whose sizes are tried as well, or `None`.

    Returns:
        A tuple of sizes. It is empty if the model accepts `data`, but no random inputs.

    Raises:
        ValueError: If the model accepts no inputs.
    """
    trial = _Trial(signature)
    found = next((size for size in trial.candidates(data) if trial.accepts(size)), None)
    if found is None:
        reason = trial.reason
        if data is not None and trial.accepts_values({name: values[:1] for name, values in data.items()}):
            return ()
        raise ValueError(
            "The check found no inputs that the model accepts; pass real ones as `data` (`--data`), or export without "
            f"the check, with `verify=False` (`--no-verify`). Received from the model: {reason}"
        )
    smallest = trial.shrink(found)
    sizes = [next((one for one in trial.variants(size, smallest) if trial.accepts(one)), None) for size in SIZES]
    return tuple(dict.fromkeys(size for size in sizes if size is not None)) or (smallest,)


class _Trial:
    """Runs a model on random inputs to find out which it accepts.

    Attributes:
        reason: Why the model refused the last inputs.
    """

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.reason = ""
        ports = signature.inputs
        self.has_counts = any(port.name == NUM_FRAMES and len(port.shape) == 1 for port in ports)
        # A model with a fixed batch size takes batches of this size only.
        self.batch = next((port.shape[0] for port in ports if port.shape and port.shape[0]), None)
        lengths = [port.shape[1] for port in ports if port.has_frames and len(port.shape) > 1]
        self.is_long = None in lengths  # whether the number of frames is free
        self.length = next(iter(lengths), 1) or 1
        self.is_wide = any(None in other_sizes(port) for port in ports)  # whether other sizes are free
        self._tried: dict[Size, bool] = {}

    def accepts(self, size: Size) -> bool:
        """Returns whether the model accepts random inputs of a size. It is run once for each size."""
        if size not in self._tried:
            self._tried[size] = self._run(size)
        return self._tried[size]

    def _run(self, size: Size) -> bool:
        generator = np.random.default_rng(0)
        inputs = {port.name: draw(generator, port, size) for port in self.signature.inputs}
        if self.has_counts:
            inputs[NUM_FRAMES] = np.array(size.num_frames, inputs[NUM_FRAMES].dtype)
        return self.accepts_values(inputs)

    def accepts_values(self, inputs: Mapping[str, np.ndarray]) -> bool:
        """Returns whether the model accepts inputs."""
        try:
            outputs = self.signature.compute(inputs)
            values = {name: np.asarray(output) for name, output in outputs.items()}
        except Exception as error:
            # A model may raise exceptions of every class on inputs that are too small for it.
            self.reason = reason_of(error)
            return False
        for name, output in values.items():
            if output.dtype.kind in "fV" and np.isnan(output).any():  # NumPy's kind of bfloat16 is V
                self.reason = f"NaN in the output `{name}`"
                return False
        return True

    def candidates(self, data: Mapping[str, np.ndarray] | None) -> Iterator[Size]:
        """Yields sizes of one video with all frames real: powers of two, the size of the data, then usual ones."""
        shapes = self._grid(POWERS)
        if data is not None:
            shapes.append(self._shape_of(data))
        for frames, extents in dict.fromkeys(shapes):
            for is_unit in (False, True):
                yield self._size(1, frames, (frames,), extents, is_unit)
        for frames, extents in self._grid(USUAL):
            yield self._size(1, frames, (frames,), extents, is_unit=False)

    def shrink(self, found: Size) -> Size:
        """Returns the smallest accepted size between the last power of two that was refused and an accepted size."""

        def smallest(high: int, resized: Callable[[int], Size]) -> Size:
            low = max((power for power in (0, *POWERS) if power < high), default=0)
            while high - low > 1:
                middle = (low + high) // 2
                if self.accepts(resized(middle)):
                    high = middle
                else:
                    low = middle
            return resized(high)

        if self.is_long:
            batch, extents, is_unit = found.batch, found.extents, found.is_unit
            found = smallest(found.frames, lambda n: Size(batch, n, (n,) * batch, extents, is_unit))
        if self.is_wide and found.extents[0] == found.extents[1]:
            longest = found
            found = smallest(found.extents[0], lambda n: longest._replace(extents=(n, n)))
        return found

    def variants(self, size: Size, least: Size) -> Iterator[Size]:
        """Yields a size enlarged by the least size that the model accepts, multiples of the least size, and itself."""
        lengths: list[tuple[int, list[int]]] = [
            (least.frames - 1 + size.frames, [count + (least.frames - 1) * (count > 0) for count in size.num_frames]),
            (least.frames * size.frames, [least.frames * count for count in size.num_frames]),
        ]
        # Counts as far from the length as in `size`; 0 and less are empty videos.
        kept = [max(least.frames + count - size.frames, 1) if count > 0 else count for count in size.num_frames]
        same = least.frames, kept
        (height, width), (h, w) = least.extents, size.extents
        extents = [(height - 1 + h, width - 1 + w), (height * min(h, 2), width * min(w, 2)), least.extents]
        pairs = itertools.product(
            [*lengths, same] if self.is_long else [same], extents if self.is_wide else [least.extents]
        )
        for (frames, counts), shape in pairs:
            in_range = [min(max(count, 1), frames) for count in counts]
            for num_frames in dict.fromkeys(map(tuple, (counts, in_range, [frames] * len(counts)))):
                if frames * (shape[0] * shape[1] if self.is_wide else 1) <= MAX_POSITIONS or frames == least.frames:
                    yield self._size(size.batch, frames, num_frames, shape, least.is_unit)

    def _size(
        self, batch: int, frames: int, num_frames: Sequence[int], extents: tuple[int, int], is_unit: bool
    ) -> Size:
        """Returns a size with the model's own batch size, if it is fixed."""
        batch = self.batch or batch
        return Size(batch, frames, tuple(np.resize(num_frames, batch).tolist()), extents, is_unit)

    def _grid(self, sizes: Sequence[int]) -> list[tuple[int, tuple[int, int]]]:
        """Returns pairs of a number of frames, and height and width, from few positions to many."""
        pairs = itertools.product(sizes if self.is_long else [self.length], sizes if self.is_wide else [1])
        small = [pair for pair in pairs if pair[0] * pair[1] ** 2 <= MAX_POSITIONS]
        return [(frames, (side, side)) for frames, side in sorted(small, key=lambda pair: pair[0] * pair[1] ** 2)]

    def _shape_of(self, data: Mapping[str, np.ndarray]) -> tuple[int, tuple[int, int]]:
        """Returns the number of frames, and height and width of real inputs."""
        frames, extents = self.length, (1, 1)
        for port in self.signature.inputs:
            sizes = data[port.name].shape
            if port.has_frames and len(sizes) > 1:
                frames = sizes[1]
            others = zip(other_sizes(port), sizes[2 if port.has_frames else 1 :], strict=True)
            free = [length for size, length in others if size is None]
            if free:
                extents = (free[0], free[-1])
        return frames, extents
