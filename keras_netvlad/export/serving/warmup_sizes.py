"""`warmup_sizes`: the sizes of the requests that a server runs before it uses a model."""

import functools
import math
import re
from collections.abc import Callable, Sequence

import tensorflow as tf

from keras_netvlad.base.validation import check_integer
from keras_netvlad.export.port import Port
from keras_netvlad.export.signature import Signature

# Largest inputs of one request, counted as float32. 32 videos of 300 frames of YouTube-8M take 44 MB. A backbone needs
# about twenty times the memory of its pictures: of 96-pixel pictures, 32 x 300 took 13.4 GB, and 64 MB take 1.3 GB.
MAX_BYTES = 64 * 2**20
# Largest length that is chosen for the caller.
MAX_FRAMES = 300


def warmup_sizes(
    signature: Signature, max_batch_size: int, warmup_frames: Sequence[int] | None = None
) -> list[tuple[int, int]]:
    """Chooses the batch sizes and lengths of warm-up requests from the size of the inputs.

    Each length is requested at batch size 1 and at the largest batch size whose inputs take at most 64 MB as float32.
    The model is traced with each length, because a server does not load a version if one request fails. Tracing finds
    lengths that a layer rejects without computing anything.

    Args:
        signature: The model's signature `serving_default`.
        max_batch_size: Positive integer, largest batch size.
        warmup_frames: Lengths in frames. All axes of free size but the batch get this size. The default is two lengths:
            the smallest power of two that the model accepts, and 300 or the largest length below that the model
            accepts and that takes at most 64 MB. Empty for no requests.

    Returns:
        Sorted list of pairs `(batch size, frames)`.

    Raises:
        ValueError: If a length is not a positive integer, or the model rejects it.
    """
    if warmup_frames is None:
        lengths = _default_lengths(signature)
    else:
        lengths = [check_integer("warmup_frames", frames, 1) for frames in warmup_frames]
        for frames in lengths:
            reason = _why_not(signature, frames)
            if reason is not None:
                raise ValueError(
                    "The model must accept every length of `warmup_frames`; choose other lengths. "
                    f"Received: {frames} frames, which fail ({reason})"
                )
    batches = {
        frames: _largest(max_batch_size, functools.partial(num_bytes, signature, frames=frames)) for frames in lengths
    }
    return sorted({(batch, frames) for frames, largest in batches.items() for batch in (1, largest)})


def num_bytes(signature: Signature, batch: int, frames: int) -> int:
    """Returns the size of a request's inputs, with every element counted as at least four bytes.

    Pictures and features of type `uint8` become floats in the model.
    """
    return sum(
        math.prod(port_shape(port, batch, frames)) * max(tf.as_dtype(port.dtype).size, 4) for port in signature.inputs
    )


def port_shape(port: Port, batch: int, frames: int) -> tuple[int, ...]:
    """Returns the shape of a port with a size for every axis."""
    return tuple((batch if axis == 0 else frames) if size is None else size for axis, size in enumerate(port.shape))


def _default_lengths(signature: Signature) -> list[int]:
    if all(None not in port.shape[1:] for port in signature.inputs):
        return [1]
    longest = _largest(MAX_FRAMES, functools.partial(num_bytes, signature, 1))
    candidates = [*(2**power for power in range((longest - 1).bit_length())), longest]
    shortest = next((frames for frames in candidates if _why_not(signature, frames) is None), None)
    if shortest is None:
        raise ValueError(
            "The model must accept the warm-up requests; set `warmup_frames` to lengths that it accepts, or to () for "
            f"no warm-up. Received: a model that accepts none of {candidates} frames ({_why_not(signature, longest)})"
        )
    while longest > shortest and _why_not(signature, longest) is not None:
        longest = max(longest // 2, shortest)
    return [shortest, longest]


def _largest(limit: int, size_of: Callable[[int], int]) -> int:
    """Returns `limit` if its size is at most `MAX_BYTES`, and otherwise the largest power of two for which it is."""
    if size_of(limit) <= MAX_BYTES:
        return limit
    fitting = [2**power for power in range(limit.bit_length()) if size_of(2**power) <= MAX_BYTES]
    return max(fitting, default=1)


def _why_not(signature: Signature, frames: int) -> str | None:
    """Traces the model with one video of a length. Returns the reason if it fails."""
    specs = {port.name: tf.TensorSpec(port_shape(port, 1, frames), port.dtype) for port in signature.inputs}
    try:
        tf.function(lambda inputs: signature.compute(inputs), autograph=False).get_concrete_function(specs)
    except Exception as error:
        # Keras and TensorFlow raise exceptions of many classes. The first line of Keras names the layer, and the second
        # one the reason, in bold, with the node of the graph at its end.
        lines = [line for line in re.sub(r"\x1b\[\d*m| for '\{\{node.*", "", str(error)).splitlines() if line.strip()]
        return " ".join(lines[:2]) or type(error).__name__
    return None
