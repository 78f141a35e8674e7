"""`find_poolings`: the poolings of a model whose sums may be computed chunk by chunk.

A video may be cut into chunks if every frame that a pooling receives, and its mask, are computed from the same frame of
the streams alone. This file proves that from the graph: it knows the operations of Keras and of this package that
process each frame independently, and refuses all others.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_netvlad.base.names import NUM_FRAMES
from keras_netvlad.export.graph_walk import fold, node_of
from keras_netvlad.layers import ScoredVLAD
from keras_netvlad.layers.additive_pooling import AdditivePooling


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Operations and layers that compute each element from the elements at the same position, with broadcasting.
ELEMENTWISE = _names("""
    Absolute Add Cast Clip Cos Divide DivideNoNan Equal Erf Exp Expm1 Greater GreaterEqual Isfinite Isinf Isnan
    LeakyRelu Less LessEqual Log Log10 Log1p Log2 LogicalAnd LogicalNot LogicalOr LogicalXor LogSigmoid Maximum Minimum
    Multiply NanToNum Negative NotEqual OnesLike Power Reciprocal Relu Relu6 Round Rsqrt Sigmoid Sign Silu Sin Softplus
    Softsign Sqrt Square StopGradient Subtract Tanh TrueDivide Where ZerosLike
    ActivityRegularization AlphaDropout Dequantize Dropout ELU GaussianDropout GaussianNoise Identity LeakyReLU ReLU
    Rescaling SpatialDropout1D
""")
# They combine the features of a frame along the last axis, or apply a layer to each frame.
LAST_AXIS = _names("Activation ContextGating Dense Gelu Masking TimeDistributed")
# They combine the features of a frame along `axis`, or change the number of axes there.
ALONG_AXIS = _names("""
    All Any BatchNormalization Concatenate ExpandDims LayerNormalization LogSoftmax Logsumexp Max Mean Min Norm
    Normalization Normalize RMSNormalization Softmax Split Squeeze Std Sum UnitNormalization Var
""")
# They are zero where their argument is zero.
KEEPS_ZERO = _names("Cast ExpandDims Identity Relu Squeeze")
# They are zero where any argument is zero.
ZERO_OF_ANY = _names("LogicalAnd Multiply")


class CombinesFrames(Exception):
    """A model cannot be pooled chunk by chunk. The message gives the reason."""


@dataclass(frozen=True)
class PoolingCall:
    """One call of a pooling layer in the graph of a model.

    Attributes:
        layer: The pooling layer.
        frames: Its frames `(B, T, D)`, symbolic.
        mask: Its mask `(B, T)`, symbolic.
        output: Its descriptor, symbolic.
        streams: Names of the streams that the frames are computed from.
        scores: Its scores `(B, T, K + G)`, symbolic, if they are given; otherwise `None`.
    """

    layer: AdditivePooling
    frames: keras.KerasTensor
    mask: keras.KerasTensor
    output: keras.KerasTensor
    streams: frozenset[str]
    scores: keras.KerasTensor | None = None

    @property
    def arguments(self) -> dict[str, keras.KerasTensor]:
        """The arguments of `layer.aggregate` by name."""
        given = {"inputs": self.frames, "mask": self.mask, "scores": self.scores}
        return {name: tensor for name, tensor in given.items() if tensor is not None}


@dataclass(frozen=True)
class _Flow:
    """The properties of a tensor that the graph proves.

    Attributes:
        streams: Names of the streams that it is computed from. Axis 1 of the tensor is their time axis.
        is_count: Whether it is `num_frames` itself.
        excludes_padding: Whether it is zero or `False` for the frames beyond `num_frames`.
    """

    streams: frozenset[str] = frozenset()
    is_count: bool = False
    excludes_padding: bool = False


def find_poolings(
    outputs: Sequence[keras.KerasTensor], inputs: Mapping[str, keras.KerasTensor], streams: Sequence[str]
) -> list[PoolingCall]:
    """Finds the poolings that all outputs of a model are computed from.

    Args:
        outputs: Symbolic outputs of the model.
        inputs: Dict from the name of each input to its symbolic tensor. `num_frames` is one of them.
        streams: Names of the inputs `(B, T, D)` whose frames `num_frames` counts.

    Returns:
        The calls of the pooling layers, in the order in which the outputs use them.

    Raises:
        CombinesFrames: If an output depends on an input past the poolings, or if the frames or the mask of a pooling
            may depend on more than one frame.
    """
    known = {
        id(tensor): _Flow(is_count=True) if name == NUM_FRAMES else _Flow(streams=frozenset([name]))
        for name, tensor in inputs.items()
        if name == NUM_FRAMES or name in streams
    }
    names = {id(tensor): name for name, tensor in inputs.items()}
    calls: dict[int, PoolingCall] = {}
    pending, seen = list(outputs)[::-1], set()
    while pending:
        tensor = pending.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if id(tensor) in names:
            raise CombinesFrames(f"an output depends on `{names[id(tensor)]}` past the sums of the poolings")
        node = node_of(tensor)
        if isinstance(node.operation, AdditivePooling) and _name(node.operation):
            calls[id(tensor)] = _pooling_call(node, tensor, known)
        else:
            pending += node.input_tensors[::-1]
    return list(calls.values())


def _pooling_call(node: Any, output: keras.KerasTensor, known: dict[int, _Flow]) -> PoolingCall:
    layer = node.operation
    call = inspect.signature(layer.call).bind(*node.arguments.args, **node.arguments.kwargs)
    frames, mask, scores = call.arguments["inputs"], call.arguments.get("mask"), call.arguments.get("scores")
    if not isinstance(mask, keras.KerasTensor):
        raise CombinesFrames(f"`{layer.name}` has no mask that is made of `{NUM_FRAMES}`")
    flow, mask_flow = fold([frames, mask], known, _apply)
    if not mask_flow.excludes_padding or len(mask.shape) != 2:
        raise CombinesFrames(f"the mask of `{layer.name}` does not exclude the frames beyond `{NUM_FRAMES}`")
    if not flow.streams or len(frames.shape) != 3:
        raise CombinesFrames(f"`{layer.name}` does not pool frames of shape (batch, frames, features)")
    streams = flow.streams
    if isinstance(layer, ScoredVLAD):
        scored = _score_flow(layer, frames, scores, flow, known)
        if not scored.streams:
            raise CombinesFrames(f"the scores of `{layer.name}` are not computed from the frames")
        streams |= scored.streams
    return PoolingCall(layer, frames, mask, output, streams, scores)


def _score_flow(layer: ScoredVLAD, frames: Any, scores: Any, flow: _Flow, known: dict[int, _Flow]) -> _Flow:
    """Returns the flow of the scores of a layer: those given, or those that its `score_layer` computes from frames."""
    if isinstance(scores, keras.KerasTensor):
        return fold([scores], known, _apply)[0]
    if scores is not None or layer.score_layer is None:
        return _Flow()
    # A copy, because the call of a layer leaves a node in it.
    copy = type(layer.score_layer).from_config(layer.score_layer.get_config())
    features = keras.Input(batch_shape=frames.shape)
    return fold([copy(features)], {id(features): flow}, _apply)[0]


def _apply(node: Any, known: Mapping[int, _Flow]) -> list[_Flow]:
    """Returns the flow of each output of a node whose inputs are known.

    Raises:
        CombinesFrames: If the operation is not known to process each frame independently.
    """
    operation, arguments = node.operation, node.arguments
    name = _name(operation)
    tensors = node.input_tensors
    flows = [known[id(tensor)] for tensor in tensors]
    unknown = CombinesFrames(f"`{operation.name}` ({type(operation).__name__}) may combine frames before the pooling")
    if not tensors:
        raise unknown
    if name == "Cast" and flows[0].is_count and operation.dtype in ("int32", "int64"):
        return flows
    if name == "FrameMask":
        call = inspect.signature(operation.call).bind(*arguments.args, **arguments.kwargs).arguments
        if not known[id(call["num_frames"])].is_count:
            raise CombinesFrames(f"`{operation.name}` counts other frames than `{NUM_FRAMES}`")
        return [_Flow(known[id(call["frames"])].streams, excludes_padding=True)]
    if any(flow.is_count for flow in flows):
        raise CombinesFrames(f"`{operation.name}` computes with `{NUM_FRAMES}` before the pooling")
    if not _is_frame_by_frame(name, node):
        inner = _inner_graph(operation)
        if inner is None or len(inner.inputs) != 1 or len(tensors) != 1:
            raise unknown
        return fold(inner.outputs, {id(inner.inputs[0]): flows[0]}, _apply)
    streams = frozenset[str]().union(*(flow.streams for flow in flows))
    return [_Flow(streams, excludes_padding=_excludes_padding(name, node, flows))] * len(node.output_tensors)


def _is_frame_by_frame(name: str | None, node: Any) -> bool:
    operation, rank = node.operation, len(node.input_tensors[0].shape)
    activation = getattr(operation, "activation", None)
    if activation is not None and not getattr(activation, "__module__", "").startswith("keras.src.activations"):
        return False  # a function of the user's
    if name in ELEMENTWISE:
        return all(_is_aligned(value, rank) for value in keras.tree.flatten(node.arguments.args))
    if name == "Conv1D":
        is_pointwise = operation.kernel_size == operation.strides == (1,)
        return is_pointwise and operation.data_format == "channels_last"
    if name == "GetItem":
        return _keeps_frames(node.arguments.args[1], rank)
    if name in ALONG_AXIS:
        rank = len(node.output_tensors[0].shape) if name == "ExpandDims" else rank
        axes = getattr(operation, "axis", None)
        axes = [axes] if isinstance(axes, int) else axes
        is_behind = axes is not None and all(axis % rank >= 2 for axis in axes)
        return is_behind and len({len(tensor.shape) for tensor in _positional(node)}) == 1
    return name in LAST_AXIS and rank >= 3


def _is_aligned(value: Any, rank: int) -> bool:
    """Returns whether axis 1 of an argument stays the time axis when it is broadcast to a tensor of this rank."""
    shape = tuple(getattr(value, "shape", np.shape(value) if not isinstance(value, str) else ()))
    if isinstance(value, keras.KerasTensor):
        return len(shape) == rank
    return len(shape) < rank - 1 or (len(shape) <= rank and shape[1 - rank] == 1)


def _keeps_frames(key: Any, rank: int) -> bool:
    """Returns whether an index takes every frame, such as `[:, :, :8]`, `[..., :8]` and `[:, :, None]`."""
    key = key if isinstance(key, tuple) else (key,)
    if not all(part is None or part is Ellipsis or isinstance(part, (int, slice)) for part in key):
        return False
    if Ellipsis in key:
        position, num_axes = key.index(Ellipsis), sum(part is not None and part is not Ellipsis for part in key)
        key = (*key[:position], *[slice(None)] * (rank - num_axes), *key[position + 1 :])
    return all(part == slice(None) for part in key[:2])


def _excludes_padding(name: str | None, node: Any, flows: Sequence[_Flow]) -> bool:
    if name in KEEPS_ZERO:
        return flows[0].excludes_padding
    if name in ZERO_OF_ANY:
        return any(flow.excludes_padding for flow in flows)
    if name == "Where":
        otherwise = node.arguments.args[2]
        is_zero = not isinstance(otherwise, keras.KerasTensor) and not np.any(otherwise)
        return is_zero and flows[0].excludes_padding and isinstance(node.arguments.args[0], keras.KerasTensor)
    return False


def _positional(node: Any) -> list[keras.KerasTensor]:
    """Returns the tensors among the positional arguments. Keywords hold masks, which have no features."""
    return [value for value in keras.tree.flatten(node.arguments.args) if isinstance(value, keras.KerasTensor)]


def _inner_graph(operation: Any) -> Any:
    """Returns the graph of a functional or Sequential model inside the model, or `None` for anything else."""
    if type(operation) is keras.Sequential:
        return operation._functional
    return operation if _name(operation) == "Functional" else None


def _name(operation: Any) -> str | None:
    """Returns the name of the class of an operation of Keras or of this package, or `None` for a class of others."""
    is_known = type(operation).__module__.startswith(("keras.src.", "keras_netvlad.layers."))
    return type(operation).__name__ if is_known else None
