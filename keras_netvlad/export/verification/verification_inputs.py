"""`make_cases`: the inputs on which an artifact is verified."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_netvlad.base.names import NUM_FRAMES
from keras_netvlad.base.quantization import LEVELS, dequantize, quantize
from keras_netvlad.data.sequence_example import serialize_example
from keras_netvlad.export.serving_signatures import (
    ACCUMULATE,
    DESCRIBE,
    EXAMPLES,
    SERVE_EXAMPLES,
    SERVE_QUANTIZED,
    frame_streams,
)
from keras_netvlad.export.signature import SERVING_DEFAULT, Signature
from keras_netvlad.export.verification.accepted_sizes import accepted_sizes
from keras_netvlad.export.verification.random_inputs import Size, draw, other_sizes

# Dict of arrays by input or output name.
Arrays = dict[str, np.ndarray]
PADDINGS = ("zeros", "first element", "NaN")
# Rows of real data per run.
REAL_BATCH = 32


@dataclass(frozen=True)
class Case:
    """One batch for one signature of an artifact, and how the model computes the expected outputs.

    Attributes:
        signature: Name of the artifact's signature.
        name: Description of the batch, for the report.
        runs: Dict from the name of a padding to inputs of the artifact. The padding must not change the outputs.
        reference: Name of the model's signature that computes the expected outputs.
        reference_inputs: Inputs of `reference`.
        known: Dict of expected outputs that `reference` does not compute.
        is_real: Whether the inputs are the user's own data.
        may_be_nan: Whether the model may compute NaN, in which case nothing is compared.
    """

    signature: str
    name: str
    runs: dict[str, Arrays]
    reference: str
    reference_inputs: Arrays
    known: Arrays = field(default_factory=dict)
    is_real: bool = False
    may_be_nan: bool = False


def make_cases(
    signatures: Mapping[str, Signature],
    data: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    names: Collection[str] | None = None,
) -> Iterator[Case]:
    """Generates batches of several sizes and lengths for every signature, and batches of the user's data.

    The sizes are those that `accepted_sizes` finds. If the model takes `num_frames`, frames beyond it hold zeros, the
    tensor's first element (TensorFlow Serving's padding) and NaN. Other models run on full lengths only. Bytes and
    records are also decoded here in NumPy, so that the model computes the expected outputs from floats. Black pictures
    and silence give real frames of zeros, whose norm differs between runtimes; one case of `serving_default` has some.

    Args:
        signatures: Dict from name to `Signature`, as `serving_signatures` returns it.
        data: Dict of real inputs by name with the batch first, or `None`.
        seed: Seed of the random inputs.
        names: Names of the signatures that the artifact offers. The default is all of `signatures`.

    Yields:
        A `Case` for every size and signature, one with zeros, then one for every 32 rows of `data`. The latter are
        cases of `serving_default`, or of the only signature of the artifact.

    Raises:
        ValueError: If the model accepts no inputs that were tried.
    """
    generator = np.random.default_rng(seed)
    default = signatures[SERVING_DEFAULT]
    names = list(signatures if names is None else names)
    sizes = accepted_sizes(default, data)
    others = [name for name in names if name != SERVING_DEFAULT]
    if not sizes and others:
        raise ValueError(
            "The check found no random inputs that the model accepts, with which it could compare the signatures "
            f"{others}; export `{SERVING_DEFAULT}` alone, to ONNX, or without the check, with `verify=False` "
            "(`--no-verify`)."
        )
    for size in sizes:
        for name in names:
            make = {SERVE_EXAMPLES: _records, ACCUMULATE: _chunk, DESCRIBE: _sums}.get(name, _frames)
            yield make(generator, signatures, name, size)
    if sizes and SERVING_DEFAULT in names:
        yield _zeros(generator, default, sizes[-1])
    if data is not None:
        num_rows = len(next(iter(data.values())))
        # A model with a fixed batch size takes batches of this size only.
        batch = next((port.shape[0] for port in default.inputs if port.shape and port.shape[0]), REAL_BATCH)
        for start in range(0, num_rows, batch):
            rows = {port.name: data[port.name][start : start + batch] for port in default.inputs}
            real = SERVING_DEFAULT if SERVING_DEFAULT in names else names[0]
            yield _real_rows(signatures, real, rows, f"real data from row {start}")


def empty_sums(accumulate: Signature, batch: int) -> Arrays:
    """Returns the sums with which a live stream starts.

    Args:
        accumulate: The signature `accumulate` of a model.
        batch: Number of videos.
    """
    return {
        port.name: np.zeros([batch, *(size or 0 for size in port.shape[1:])], port.dtype) for port in accumulate.outputs
    }


def _frames(generator: np.random.Generator, signatures: Mapping[str, Signature], name: str, size: Size) -> Case:
    """Makes frames as floats or bytes, with every padding if the model takes `num_frames`."""
    signature, default = signatures[name], signatures[SERVING_DEFAULT]
    clean = {port.name: draw(generator, port, size) for port in signature.inputs}
    title = _title(signature, size)
    if any(port.name == NUM_FRAMES and len(port.shape) == 1 for port in signature.inputs):
        clean[NUM_FRAMES] = _counts(signature, size.num_frames)
        runs = _paddings(clean, size.num_frames, {port.name for port in signature.inputs if port.has_frames})
        clean, title = runs["zeros"], f"{title}, num_frames {list(size.num_frames)}"
    else:
        runs = {"none": clean}
    return Case(name, title, runs, SERVING_DEFAULT, _as_floats(clean, default) if name == SERVE_QUANTIZED else clean)


def _zeros(generator: np.random.Generator, default: Signature, size: Size) -> Case:
    """Makes full videos, the first of which starts with a frame of zeros; pictures are black."""
    size = size._replace(num_frames=(size.frames,) * size.batch)
    inputs = {port.name: draw(generator, port, size) for port in default.inputs}
    for port in default.inputs:
        if port.has_frames:
            inputs[port.name][:1, :1] = 0
        elif port.name == NUM_FRAMES and len(port.shape) == 1:
            inputs[port.name] = _counts(default, size.num_frames)
        elif len(port.shape) > 2 and port.dtype != "string":
            inputs[port.name][:1] = 0
    title = f"{_title(default, size)}, zeros"
    return Case(SERVING_DEFAULT, title, {"none": inputs}, SERVING_DEFAULT, inputs, may_be_nan=True)


def _records(generator: np.random.Generator, signatures: Mapping[str, Signature], name: str, size: Size) -> Case:
    """Makes records of at least one frame, because an example without frames is answered with NaN."""
    default = signatures[SERVING_DEFAULT]
    lengths = tuple(min(max(length, 1), size.frames) for length in size.num_frames)
    shapes = {port.name: (size.batch, max(lengths), port.shape[2] or 0) for port in frame_streams(default)}
    values = {stream: generator.integers(0, LEVELS, shape).astype("uint8") for stream, shape in shapes.items()}
    records = [
        serialize_example({stream: rows[row, : lengths[row]] for stream, rows in values.items()})
        for row in range(size.batch)
    ]
    reference = _as_floats({**values, NUM_FRAMES: _counts(default, lengths)}, default)
    return Case(
        name,
        f"batch {size.batch}, frames {list(lengths)}",
        {"none": {EXAMPLES: np.array(records, object)}},
        SERVING_DEFAULT,
        reference,
        known={NUM_FRAMES: np.array(lengths)},
    )


def _chunk(generator: np.random.Generator, signatures: Mapping[str, Signature], name: str, size: Size) -> Case:
    """Makes a padded chunk of frames and sums that are not zero."""
    signature = signatures[name]
    clean = {port.name: np.abs(draw(generator, port, size)) for port in signature.inputs}
    clean[NUM_FRAMES] = _counts(signature, size.num_frames)
    sums = {port.name for port in signature.outputs}
    runs = _paddings(clean, size.num_frames, set(clean) - sums)
    title = f"batch {size.batch}, frames {size.frames}, num_frames {list(size.num_frames)}"
    return Case(name, title, runs, ACCUMULATE, runs["zeros"])


def _sums(generator: np.random.Generator, signatures: Mapping[str, Signature], name: str, size: Size) -> Case:
    """Makes the sums of whole videos. `describe` must compute from them what the model computes from the videos."""
    whole = _frames(generator, signatures, SERVING_DEFAULT, size)
    sums = _sums_of(signatures[ACCUMULATE], whole.reference_inputs, size.batch)
    return Case(name, whole.name, {"none": sums}, SERVING_DEFAULT, whole.reference_inputs)


def _sums_of(accumulate: Signature, videos: Arrays, batch: int) -> Arrays:
    """Returns the sums that the model computes of whole videos."""
    sums = accumulate.compute({**videos, **empty_sums(accumulate, batch)})
    return {name: np.asarray(value) for name, value in sums.items()}


def _real_rows(signatures: Mapping[str, Signature], name: str, rows: Arrays, title: str) -> Case:
    """Makes a case of a signature from rows of the user's data, which are inputs of `serving_default`."""
    batch = len(next(iter(rows.values())))
    inputs, reference, expected = rows, SERVING_DEFAULT, rows
    if name == SERVE_QUANTIZED:
        is_bytes = {port.name: port.dtype == "uint8" for port in signatures[name].inputs}
        # Padding may hold NaN, which has no byte.
        inputs = {key: quantize(np.nan_to_num(values)) if is_bytes[key] else values for key, values in rows.items()}
        expected = _as_floats(inputs, signatures[SERVING_DEFAULT])
    elif name == ACCUMULATE:
        inputs = expected = {**rows, **empty_sums(signatures[name], batch)}
        reference = ACCUMULATE
    elif name == DESCRIBE:
        inputs = _sums_of(signatures[ACCUMULATE], rows, batch)
    return Case(name, title, {"as given": inputs}, reference, expected, is_real=True)


def _counts(signature: Signature, num_frames: Sequence[int]) -> np.ndarray:
    """Returns `num_frames` in the dtype that the signature takes."""
    return np.array(num_frames, next(port.dtype for port in signature.inputs if port.name == NUM_FRAMES))


def _title(signature: Signature, size: Size) -> str:
    """Returns the description of a batch: its size, and the lengths of the axes that are free."""
    title = f"batch {size.batch}"
    ports = signature.inputs
    if any(port.has_frames and len(port.shape) > 1 for port in ports):
        title += f", frames {size.frames}"
    if any(size is None for port in ports for size in other_sizes(port)):
        title += f", size {size.extents[0]} x {size.extents[1]}"
    return title


def _paddings(inputs: Arrays, num_frames: Sequence[int], padded: Collection[str]) -> dict[str, Arrays]:
    """Returns the inputs once for every padding. `padded` names the inputs that have frames."""
    return {
        padding: {
            name: _pad(values, num_frames, padding) if name in padded and values.ndim > 1 else values
            for name, values in inputs.items()
        }
        for padding in PADDINGS
    }


def _pad(values: np.ndarray, num_frames: Sequence[int], padding: str) -> np.ndarray:
    """Replaces the frames of an input beyond `num_frames`."""
    is_real = np.arange(values.shape[1]) < np.array(num_frames)[:, None]
    is_real = is_real.reshape(is_real.shape + (1,) * (values.ndim - 2))
    filler: Any = {"zeros": 0, "first element": values.flat[0], "NaN": np.nan}[padding]
    if padding == "NaN" and not np.issubdtype(values.dtype, np.floating):
        # Other integers may be indices of a table, which has no row 2147483647.
        filler = {"uint8": LEVELS - 1, "bool": True}.get(values.dtype.name, 1)
    return np.where(is_real, values, np.asarray(filler, values.dtype))


def _as_floats(inputs: Mapping[str, np.ndarray], default: Signature) -> Arrays:
    """Returns the inputs with bytes dequantized where the model takes floats."""
    dtypes = {port.name: port.dtype for port in default.inputs}
    return {
        name: dequantize(values, dtypes[name]) if values.dtype == "uint8" and dtypes[name] != "uint8" else values
        for name, values in inputs.items()
    }
