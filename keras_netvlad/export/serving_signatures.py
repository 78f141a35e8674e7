"""The signatures that a served model offers beside its own: bytes for floats, records, and live streams.

All are functions of the same Keras model and of the same weights:

- `serve_quantized`: as `serving_default`, but the streams are `uint8`, a quarter of the traffic.
- `serve_examples`: serialized `tf.train.SequenceExample`s of YouTube-8M's frame-level schema, one feature list of
  bytes a stream, parsed in the graph.
- `accumulate` and `describe`: a chunk of frames and the sums so far to new sums, and sums to the answer. The client
  keeps the sums, so a live stream of any length is served in constant memory by servers that keep nothing.
"""

import keras
import tensorflow as tf
from keras import ops

from keras_netvlad.base.names import NUM_FRAMES
from keras_netvlad.export.model_signature import (
    Port,
    Signature,
    name_outputs,
    read_signature,
    structure_inputs,
    symbolic_inputs,
)
from keras_netvlad.layers import Dequantize
from keras_netvlad.layers.cluster_pooling import ClusterPooling

SERVE_QUANTIZED, SERVE_EXAMPLES = "serve_quantized", "serve_examples"
ACCUMULATE, DESCRIBE = "accumulate", "describe"
EXAMPLES = "examples"
# Operations in front of a pooling layer that treat each frame by itself, so that chunks may be pooled one by one.
FRAME_BY_FRAME = ("BatchNormalization", "Dequantize", "ExpandDims", "FrameMask", "Where")


def serving_signatures(model):
    """Returns every signature that a model can be served with.

    `serving_default` is always there. The signatures of bytes and records need `num_frames` and streams
    `(batch, frames, features)`; those of live streams need every path from a stream to an output to go through a
    pooling layer, and nothing before the pooling layers that looks at more than one frame.

    Args:
        model: A functional or Sequential Keras model.

    Returns:
        Dict from name to `Signature`.

    Raises:
        As `read_signature`.
    """
    default = read_signature(model)
    signatures = [default]
    streams = frame_streams(default)
    if streams:
        if any(port.dtype != "uint8" for port in streams):
            signatures.append(_serve_quantized(default, streams))
        signatures.append(_serve_examples(default, streams))
        signatures += _live_stream(model, default, streams)
    return {signature.name: signature for signature in signatures}


def frame_streams(signature):
    """The inputs `(batch, frames, features)` whose real frames the input `num_frames` counts; none without it."""
    streams = tuple(
        port
        for port in signature.inputs
        if len(port.shape) == 3
        and port.shape[:2] == (None, None)
        and port.shape[2] is not None
        and (port.dtype.startswith("float") or port.dtype == "uint8")
    )
    others = [port for port in signature.inputs if port not in streams]
    counts = [port for port in others if port.name == NUM_FRAMES and len(port.shape) == 1 and "int" in port.dtype]
    return streams if len(others) == len(counts) == 1 else ()


def _serve_quantized(default, streams):
    inputs = tuple(Port(port.name, port.shape, "uint8") if port in streams else port for port in default.inputs)
    return Signature(SERVE_QUANTIZED, inputs, default.outputs, lambda values: default.compute(_floats(values, streams)))


def _serve_examples(default, streams):
    num_frames_dtype = next(port.dtype for port in default.inputs if port.name == NUM_FRAMES)

    def compute(values):
        frames, num_frames = _parse(values[EXAMPLES], streams)
        inputs = {**_floats(frames, streams), NUM_FRAMES: ops.cast(num_frames, num_frames_dtype)}
        # An example without usable frames gets no answer that could be taken for one, and its neighbours get theirs.
        outputs = {
            name: tf.where(tf.reshape(num_frames > 0, (-1,) + (1,) * (len(values.shape) - 1)), values, float("nan"))
            for name, values in default.compute(inputs).items()
        }
        return {**outputs, NUM_FRAMES: num_frames}

    outputs = (*default.outputs, Port(NUM_FRAMES, (None,), "int32"))
    return Signature(SERVE_EXAMPLES, (Port(EXAMPLES, (None,), "string"),), outputs, compute)


def _parse(examples, streams):
    """Bytes of each stream `(B, T, D)`, and the frames of each example: 0 if it has none, -1 if they are unusable.

    Unusable are feature lists of different lengths, and frames of another number of bytes than `D`.
    """
    _, lists, lengths = tf.io.parse_sequence_example(
        examples,
        sequence_features={
            port.name: tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True) for port in streams
        },
    )
    num_frames = tf.cast(lengths[streams[0].name], tf.int32)
    frames, is_usable = {}, tf.ones_like(num_frames, tf.bool)
    for port in streams:
        length = tf.cast(lengths[port.name], tf.int32)
        is_padding = tf.range(tf.shape(lists[port.name])[1]) >= tf.expand_dims(length, 1)
        is_whole = tf.strings.length(lists[port.name]) == port.shape[2]
        is_usable &= (length == num_frames) & tf.reduce_all(is_whole | is_padding, axis=1)
        frames[port.name] = tf.io.decode_raw(lists[port.name], tf.uint8, fixed_length=port.shape[2])
    return frames, tf.where(is_usable, num_frames, -1)


def _floats(values, streams):
    """The inputs with every stream in the dtype that the model takes."""
    dequantized = {
        port.name: Dequantize(dtype=port.dtype)(values[port.name]) for port in streams if port.dtype != "uint8"
    }
    return {**values, **dequantized}


def _live_stream(model, default, streams):
    """`accumulate` and `describe`, or nothing where the answer takes more than the sums of the streams."""
    if isinstance(model, keras.Sequential):
        return []
    poolings = [layer for layer in model.layers if isinstance(layer, ClusterPooling)]
    arguments = [keras.tree.flatten(layer.input) for layer in poolings]  # frames and mask
    ports = dict(zip(map(id, symbolic_inputs(model)), default.inputs, strict=True))
    pooled = [_stream_behind(tensors_of[0], ports, streams) for tensors_of in arguments]
    if set(pooled) != set(streams) or any(len(tensors_of) != 2 for tensors_of in arguments):
        return []
    try:
        head = keras.Model(model.input, keras.tree.flatten(arguments))
        tail = keras.Model([layer.output for layer in poolings], model.output)
    except ValueError:  # an output hangs on an input by another way
        return []

    # A stream's own name, unless several layers pool it.
    prefixes = [
        port.name if pooled.count(port) == 1 else layer.name for port, layer in zip(pooled, poolings, strict=True)
    ]
    sums = tuple(
        Port(f"{prefix}_{name}", (None, *shape[1:]), layer.sum_dtype)
        for prefix, layer, (frames, _) in zip(prefixes, poolings, arguments, strict=True)
        for name, shape in zip(("first_sum", "second_sum"), layer.compute_sums_shape(frames.shape), strict=True)
    )

    def accumulate(values):
        chunks = head(structure_inputs(model, default.inputs, values))
        added = [
            total
            for layer, frames, mask in zip(poolings, chunks[::2], chunks[1::2], strict=True)
            for total in layer.aggregate(frames, mask=mask)
        ]
        return {port.name: values[port.name] + total for port, total in zip(sums, added, strict=True)}

    def describe(values):
        totals = [values[port.name] for port in sums]
        descriptors = [
            layer.describe(first, second)
            for layer, first, second in zip(poolings, totals[::2], totals[1::2], strict=True)
        ]
        return name_outputs(default.outputs, tail(descriptors, training=False))

    return [
        Signature(ACCUMULATE, (*default.inputs, *sums), sums, accumulate),
        Signature(DESCRIBE, sums, default.outputs, describe),
    ]


def _stream_behind(tensor, ports, streams):
    """The stream that a pooling layer's frames are, or are made of frame by frame; `None` if there is no such one."""
    origins, pending = set(), [tensor]
    while pending:
        tensor = pending.pop()
        if id(tensor) in ports:
            origins.add(ports[id(tensor)])
            continue
        operation, node_index, _ = tensor._keras_history
        if type(operation).__name__ not in FRAME_BY_FRAME:
            return None
        pending += operation._inbound_nodes[node_index].input_tensors
    frames = [port for port in origins if port in streams]
    return frames[0] if len(frames) == 1 else None
