"""The inputs that an artefact is verified on."""

from dataclasses import dataclass

import numpy as np

NUM_FRAMES = "num_frames"
# Batch size, frames, real frames of each video: one frame, odd sizes, an empty video, more than there are.
SIZES = (
    (1, 1, (1,)),
    (1, 7, (5,)),
    (3, 5, (5, 0, 2)),
    (2, 40, (40, 17)),
    (2, 9, (12, -1)),
)


@dataclass(frozen=True)
class Case:
    """One batch: clean, and padded in several ways that must not change the answer."""

    name: str
    clean_inputs: dict
    padded_inputs: dict


def make_cases(signature, seed=0):
    """Makes batches of several sizes and lengths for a signature.

    Where the model takes `num_frames`, every other input with a time axis is padded beyond it; other models are
    run on full lengths only.
    """
    generator = np.random.default_rng(seed)
    has_lengths = any(port.name == NUM_FRAMES and len(port.shape) == 1 for port in signature.inputs)
    for batch, frames, num_frames in SIZES:
        clean = {port.name: _draw(generator, port, batch, frames) for port in signature.inputs}
        if not has_lengths:
            yield Case(f"batch {batch}, frames {frames}", clean, {"none": clean})
            continue
        dtype = next(port.dtype for port in signature.inputs if port.name == NUM_FRAMES)
        clean[NUM_FRAMES] = np.array(num_frames, dtype)
        padded = {
            padding: {
                name: values if name == NUM_FRAMES else _pad(values, num_frames, padding)
                for name, values in clean.items()
            }
            for padding in ("zeros", "first element", "NaN")
        }
        name = f"batch {batch}, frames {frames}, num_frames {list(num_frames)}"
        yield Case(name, padded["zeros"], padded)


def _draw(generator, port, batch, frames):
    shape = [batch, frames] + [8] * len(port.shape)
    shape = [size if size is not None else shape[axis] for axis, size in enumerate(port.shape)]
    if "int" in port.dtype:
        return generator.integers(0, 2, shape).astype(port.dtype)
    if port.dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    return generator.normal(size=shape).astype(port.dtype)


def _pad(values, num_frames, padding):
    if values.ndim < 2:
        return values
    is_real = np.arange(values.shape[1]) < np.array(num_frames)[:, None]
    is_real = is_real.reshape(is_real.shape + (1,) * (values.ndim - 2))
    filler = {"zeros": 0, "first element": values.flat[0], "NaN": np.nan}[padding]
    if padding == "NaN" and not np.issubdtype(values.dtype, np.floating):
        filler = np.iinfo(values.dtype).max if np.issubdtype(values.dtype, np.integer) else True
    return np.where(is_real, values, np.asarray(filler, values.dtype))
