"""The inputs that an artefact is verified on."""

from dataclasses import dataclass, field

import numpy as np

from keras_netvlad.base.names import NUM_FRAMES
from keras_netvlad.base.quantization import LEVELS, dequantize
from keras_netvlad.data.sequence_example import serialize_example
from keras_netvlad.export.model_signature import SERVING_DEFAULT
from keras_netvlad.export.serving_signatures import (
    ACCUMULATE,
    DESCRIBE,
    EXAMPLES,
    SERVE_EXAMPLES,
    SERVE_QUANTIZED,
    frame_streams,
)

# Batch size, frames, real frames of each video: one frame, odd sizes, an empty video, more than there are.
SIZES = (
    (1, 1, (1,)),
    (1, 7, (5,)),
    (3, 5, (5, 0, 2)),
    (2, 40, (40, 17)),
    (2, 9, (12, -1)),
)
PADDINGS = ("zeros", "first element", "NaN")
# Rows of real data that are run at a time.
REAL_BATCH = 32


@dataclass(frozen=True)
class Case:
    """One batch for one signature, and what has to come out of it.

    Attributes:
        signature: Name of the artefact's signature.
        name: What the batch is, for the report.
        runs: Dict from a padding to inputs of the artefact; the padding must not change the answer.
        reference: Name of the model's signature that computes the answer.
        reference_inputs: Its inputs.
        known: Outputs that are known beforehand, by name, beside those of the model.
        is_real: Whether these are the user's own frames.
    """

    signature: str
    name: str
    runs: dict
    reference: str
    reference_inputs: dict
    known: dict = field(default_factory=dict)
    is_real: bool = False


def make_cases(signatures, data=None, seed=0):
    """Makes batches of several sizes and lengths for every signature, and of the user's own data.

    Where the model takes `num_frames`, frames beyond it hold zeros, the tensor's first element (TensorFlow Serving's
    padding) and NaN; other models are run on full lengths only. What bytes and records mean is worked out here once
    more in NumPy: the answer is the model's own, on the floats.

    Args:
        signatures: Dict from name to `Signature`, as `serving_signatures` returns it.
        data: Dict of real inputs by name, the batch first, or `None`.
        seed: Integer, of the random inputs.
    """
    generator = np.random.default_rng(seed)
    default = signatures[SERVING_DEFAULT]
    for batch, frames, num_frames in SIZES:
        for name in signatures:
            make = {SERVE_EXAMPLES: _records, ACCUMULATE: _chunk, DESCRIBE: _sums}.get(name, _frames)
            yield make(generator, signatures, name, batch, frames, num_frames)
    if data is not None:
        num_rows = len(next(iter(data.values())))
        for start in range(0, num_rows, REAL_BATCH):
            rows = {port.name: data[port.name][start : start + REAL_BATCH] for port in default.inputs}
            yield Case(
                SERVING_DEFAULT, f"real data from row {start}", {"as given": rows}, SERVING_DEFAULT, rows, is_real=True
            )


def _frames(generator, signatures, name, batch, frames, num_frames):
    """Frames as floats or bytes, padded in every way."""
    signature, default = signatures[name], signatures[SERVING_DEFAULT]
    clean = {port.name: _draw(generator, port, batch, frames) for port in signature.inputs}
    title = f"batch {batch}, frames {frames}"
    if any(port.name == NUM_FRAMES and len(port.shape) == 1 for port in signature.inputs):
        clean[NUM_FRAMES] = _counts(signature, num_frames)
        runs = _paddings(clean, num_frames)
        clean, title = runs["zeros"], f"{title}, num_frames {list(num_frames)}"
    else:
        runs = {"none": clean}
    return Case(name, title, runs, SERVING_DEFAULT, _as_floats(clean, default) if name == SERVE_QUANTIZED else clean)


def _records(generator, signatures, name, batch, frames, num_frames):
    """Records of as many frames as are real, one at least: an example without frames gets no answer."""
    default = signatures[SERVING_DEFAULT]
    lengths = tuple(min(max(length, 1), frames) for length in num_frames)
    shapes = {port.name: (batch, max(lengths), port.shape[2]) for port in frame_streams(default)}
    values = {stream: generator.integers(0, LEVELS, shape).astype("uint8") for stream, shape in shapes.items()}
    records = [
        serialize_example({stream: rows[row, : lengths[row]] for stream, rows in values.items()})
        for row in range(batch)
    ]
    reference = _as_floats({**values, NUM_FRAMES: _counts(default, lengths)}, default)
    return Case(
        name,
        f"batch {batch}, frames {list(lengths)}",
        {"none": {EXAMPLES: np.array(records, object)}},
        SERVING_DEFAULT,
        reference,
        known={NUM_FRAMES: np.array(lengths)},
    )


def _chunk(generator, signatures, name, batch, frames, num_frames):
    """A padded chunk of frames, and sums that hold something already."""
    signature = signatures[name]
    clean = {port.name: np.abs(_draw(generator, port, batch, frames)) for port in signature.inputs}
    clean[NUM_FRAMES] = _counts(signature, num_frames)
    sums = {port.name for port in signature.outputs}
    runs = _paddings({name: values for name, values in clean.items() if name not in sums}, num_frames)
    runs = {padding: {**clean, **chunk} for padding, chunk in runs.items()}
    return Case(name, f"batch {batch}, frames {frames}, num_frames {list(num_frames)}", runs, ACCUMULATE, runs["zeros"])


def _sums(generator, signatures, name, batch, frames, num_frames):
    """The model's sums of whole videos, which must be described as the model describes the videos."""
    whole = _frames(generator, signatures, SERVING_DEFAULT, batch, frames, num_frames)
    accumulate = signatures[ACCUMULATE]
    empty = {port.name: np.zeros((batch, *port.shape[1:]), port.dtype) for port in accumulate.outputs}
    sums = {key: np.asarray(value) for key, value in accumulate.compute({**whole.reference_inputs, **empty}).items()}
    return Case(name, whole.name, {"none": sums}, SERVING_DEFAULT, whole.reference_inputs)


def _counts(signature, num_frames):
    return np.array(num_frames, next(port.dtype for port in signature.inputs if port.name == NUM_FRAMES))


def _draw(generator, port, batch, frames):
    shape = [batch, frames] + [8] * len(port.shape)
    shape = [size if size is not None else shape[axis] for axis, size in enumerate(port.shape)]
    if "int" in port.dtype:
        return generator.integers(0, LEVELS if port.dtype == "uint8" else 2, shape).astype(port.dtype)
    if port.dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    return generator.normal(size=shape).astype(port.dtype)


def _paddings(inputs, num_frames):
    return {
        padding: {
            name: values if name == NUM_FRAMES else _pad(values, num_frames, padding) for name, values in inputs.items()
        }
        for padding in PADDINGS
    }


def _pad(values, num_frames, padding):
    if values.ndim < 2:
        return values
    is_real = np.arange(values.shape[1]) < np.array(num_frames)[:, None]
    is_real = is_real.reshape(is_real.shape + (1,) * (values.ndim - 2))
    filler = {"zeros": 0, "first element": values.flat[0], "NaN": np.nan}[padding]
    if padding == "NaN" and not np.issubdtype(values.dtype, np.floating):
        filler = np.iinfo(values.dtype).max if np.issubdtype(values.dtype, np.integer) else True
    return np.where(is_real, values, np.asarray(filler, values.dtype))


def _as_floats(inputs, default):
    """Bytes as the floats that they stand for, where the model takes floats."""
    dtypes = {port.name: port.dtype for port in default.inputs}
    return {
        name: dequantize(values, dtypes[name]) if values.dtype == "uint8" and dtypes[name] != "uint8" else values
        for name, values in inputs.items()
    }
