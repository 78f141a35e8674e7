"""Models as users write them, generated with hypothesis: a description of a model, and the model built from it."""

from dataclasses import dataclass, field

import keras
import numpy as np
from hypothesis import strategies
from keras import ops

from keras_netvlad import NetVLAD
from keras_netvlad.layers import (
    SALAD,
    VLAD,
    AttentionPooling,
    ContextGating,
    Dequantize,
    FrameMask,
    GeMPooling,
    MaxPooling,
    MeanPooling,
    MeanStdPooling,
    MixtureOfExperts,
    NetFV,
    NetRVLAD,
    NeXtVLAD,
    PCAWhitening,
    ScoredVLAD,
    SoftDBoW,
)

layers = keras.layers


@keras.saving.register_keras_serializable(package="generated_models")
class RootMeanSquare(keras.Layer):
    """A pooling as a user writes it: the root of the mean square of the real frames."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs, mask=None):
        features = ops.reshape(inputs, (ops.shape(inputs)[0], -1, inputs.shape[-1]))
        if mask is None:
            weights = ops.ones_like(features[..., :1])
        else:
            weights = ops.cast(ops.expand_dims(mask, 2), features.dtype)
            features = ops.where(weights > 0, features, 0)
        total = ops.sum(weights * ops.square(features), axis=1)
        return ops.sqrt(total / ops.maximum(ops.sum(weights, axis=1), 1e-3))

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def compute_output_shape(self, input_shape):
        return input_shape[0], input_shape[-1]


@keras.saving.register_keras_serializable(package="generated_models")
class WeightedNetVLAD(NetVLAD):
    """A pooling that a user derives from one of the package: frames weigh less the longer the video is."""

    def call(self, inputs, mask=None, training=None):
        length = ops.cast(ops.shape(inputs)[1], "float32")
        return super().call(inputs, mask=mask, training=training) / ops.sqrt(length)


POOLINGS = {
    "NetVLAD": lambda: NetVLAD(2),
    "NetVLAD ghost conv": lambda: NetVLAD(2, num_ghost_clusters=1, assignment="conv", normalize_input=True),
    "NetVLAD batch norm": lambda: NetVLAD(2, assignment_batch_normalization=True, output_normalization=False),
    "NetVLAD bfloat16": lambda: NetVLAD(2, product_dtype="bfloat16"),
    "VLAD": lambda: VLAD(2),
    "NetRVLAD": lambda: NetRVLAD(2),
    "NetFV": lambda: NetFV(2),
    "NeXtVLAD": lambda: NeXtVLAD(2, groups=2),
    "ScoredVLAD": lambda: ScoredVLAD(2, 1, score_layer=layers.Dense(3)),
    "SALAD": lambda: SALAD(2, 3, hidden_units=4),
    "SoftDBoW": lambda: SoftDBoW(3),
    "MeanPooling": lambda: MeanPooling(),
    "MeanStdPooling": lambda: MeanStdPooling(),
    "MaxPooling": lambda: MaxPooling(),
    "GeMPooling": lambda: GeMPooling(),
    "AttentionPooling": lambda: AttentionPooling(2, hidden_units=3),
    "RootMeanSquare": lambda: RootMeanSquare(),
    "WeightedNetVLAD": lambda: WeightedNetVLAD(2),
}
# Poolings whose sums add up over chunks.
ADDITIVE = (
    *("NetVLAD", "NetVLAD ghost conv", "NetVLAD batch norm", "VLAD", "NetRVLAD", "NetFV", "NeXtVLAD", "SoftDBoW"),
    "ScoredVLAD",
    "GeMPooling",
)
# Layers before the pooling: those that process each frame alone, for inputs of any rank, and others.
FRAME_BY_FRAME = {
    "dense": lambda: layers.Dense(4, activation="relu"),
    "layer normalization": lambda: layers.LayerNormalization(),
    "batch normalization": lambda: layers.BatchNormalization(),
    "unit normalization": lambda: layers.UnitNormalization(),
    "dropout": lambda: layers.Dropout(0.5),
    "context gating": lambda: ContextGating(),
    "nested": lambda: keras.Sequential([layers.Dense(4), layers.LayerNormalization()]),
    "convolution of one frame": lambda: layers.Conv1D(4, 1),
}
ACROSS_FRAMES = {
    "convolution": lambda: layers.Conv1D(4, 3, padding="same"),
    "causal convolution": lambda: layers.Conv1D(4, 2, padding="causal"),
    "valid convolution": lambda: layers.Conv1D(4, 3),
    "average of two": lambda: layers.AveragePooling1D(2, padding="same", strides=1),
    "LSTM": lambda: layers.LSTM(4, return_sequences=True),
    "GRU": lambda: layers.GRU(4, return_sequences=True),
    "bidirectional LSTM": lambda: layers.Bidirectional(layers.LSTM(2, return_sequences=True)),
    "simple RNN": lambda: layers.SimpleRNN(4, return_sequences=True),
    "masking": lambda: layers.Masking(),
    "cumulative sum": lambda: Apply("cumulative sum"),
    "difference": lambda: Apply("difference"),
    "centered": lambda: Apply("centered"),
    "positions": lambda: Apply("positions"),
    "reversed": lambda: Apply("reversed"),
    "attention": lambda: SelfAttention(),
}
ON_MAPS = (
    "dense",
    "layer normalization",
    "batch normalization",
    "unit normalization",
    "dropout",
    "spatial convolution",
)
ACROSS_MAPS = ("temporal convolution",)


class Apply:
    """Operations of `keras.ops` on frames `(B, T, D)`."""

    def __init__(self, name):
        self.name = name

    def __call__(self, x):
        if self.name == "cumulative sum":
            return ops.cumsum(x, axis=1)
        if self.name == "difference":
            return x - ops.roll(x, 1, axis=1)
        if self.name == "centered":
            return x - ops.mean(x, axis=1, keepdims=True)
        if self.name == "reversed":
            return x + ops.flip(x, axis=1)
        position = ops.cumsum(ops.ones_like(x[..., :1]), axis=1)
        return x + ops.cast(ops.sin(position), x.dtype)


class SelfAttention:
    """Self-attention over time, which excludes padding if there is a mask of frames."""

    def __init__(self):
        self.layer = layers.MultiHeadAttention(2, 2)

    def __call__(self, x, mask=None):
        return x + self.layer(x, x, attention_mask=None if mask is None else ops.expand_dims(mask, 1))


@dataclass(frozen=True)
class Stream:
    """One input of features, the layers before its pooling, the mask, and the pooling."""

    kind: str = "frames"  # "frames" (T, D), "bytes" (T, D), "fixed" (6, D), "maps" (T, H, W, D), "image" (H, W, D)
    size: int = 4
    free: bool = True  # whether the height and width of maps and images are unknown
    before: tuple[str, ...] = ()
    mask: str = "none"
    pooling: str = "NetVLAD"
    clears: bool = False  # whether frames beyond num_frames are set to zero before the first layer

    @property
    def has_time(self):
        return self.kind != "image"


@dataclass(frozen=True)
class Description:
    """A model. Its `repr` is the code that makes it again."""

    streams: tuple[Stream, ...] = (Stream(),)
    num_frames: str = "none"  # or the dtype of the input
    is_shared: bool = False
    extra: str = "none"  # where an input (batch, 3) goes: "head", "gate" (of the frames), "both"
    head: str = "descriptor"
    policy: str = "float32"
    names: str = "plain"
    structure: str = "dict"
    seed: int = 0


NAMES = {
    "plain": ("frames", "audio", "flow"),
    "capitals": ("RGB", "audio_2", "X"),
    "reserved": ("_frames", "self", "class"),
    "internal": ("inputs", "weight_0", "outputs"),
    "spaces": ("video frames", "audio", "flow"),
    "alphabets": ("кадры", "音声", "flöde"),
    "slashes": ("rgb/frames", "audio", "flow"),
    "signs": ("rgb-1", "audio.x", "flow:0"),
    "count": ("frames", "audio", "flow"),  # the number of frames is not called num_frames
}
IS_ODD = ("reserved", "spaces", "alphabets", "slashes", "signs")
MASKS = {
    "none": "the pooling takes every frame",
    "frames": "FrameMask of num_frames",
    "own": "positions smaller than num_frames, in keras.ops",
    "halves": "two poolings, of the first and of the second half",
    "first": "the first three of num_frames",
    "last": "the last two of num_frames",
    "alternate": "every second of num_frames",
    "gate": "weights of single frames",
    "softmax": "weights from a softmax over the frames",
    "nonzero": "frames that are not zero",
    "input": "weights of frames as an input (batch, frames)",
    "input and frames": "the same, of num_frames",
}
NEED_NUM_FRAMES = ("frames", "own", "halves", "first", "last", "alternate", "gate", "input and frames")


@dataclass
class Built:
    """A Keras model and what each of its inputs is: "stream", "count", "weights" or "vector"."""

    model: keras.Model
    kinds: dict[str, str]
    outputs_by_frame: list[str] = field(default_factory=list)


def build(description):
    """Builds the model of a description, with random weights."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(description.policy if description.policy.startswith("mixed") else "float32")
    try:
        return _build(description)
    finally:
        keras.config.set_dtype_policy(policy)


def _build(description):
    keras.utils.set_random_seed(description.seed)
    names = NAMES[description.names]
    inputs, kinds, by_frame = {}, {}, []
    count = None
    if description.num_frames != "none":
        count_name = "length" if description.names == "count" else "num_frames"
        count = _input(count_name, (), description.num_frames)
        inputs[count_name], kinds[count_name] = count, "count"
    vector = None
    if description.extra != "none":
        vector = _input("meta", (3,), "float32")
        inputs["meta"], kinds["meta"] = vector, "vector"

    made = {}  # shared layers
    pooled, frame_features = [], []
    for index, stream in enumerate(description.streams):
        sides = (None, None) if stream.free else (2, 3)
        shape = {"maps": (None, *sides), "image": sides, "fixed": (6,)}.get(stream.kind, (None,))
        x = _input(names[index], (*shape, stream.size), "uint8" if stream.kind == "bytes" else "float32")
        inputs[names[index]], kinds[names[index]] = x, "stream"
        scope = (
            (lambda key, make: made.setdefault(key, make())) if description.is_shared else (lambda key, make: make())
        )
        raw = x
        if stream.kind == "bytes":
            x = Dequantize()(x)
        mask = None
        if count is not None and stream.has_time:
            mask = FrameMask()(count, raw)
        if stream.clears:
            is_real = ops.expand_dims(mask, tuple(range(2, len(x.shape))))
            x = ops.where(is_real, x, ops.zeros_like(x))
        weights = None
        if stream.mask.startswith("input"):
            weights_name = f"{'weights' if index == 0 else f'weights_{index}'}"
            weights = _input(weights_name, (6 if stream.kind == "fixed" else None,), "float32")
            inputs[weights_name], kinds[weights_name] = weights, "weights"
        for position, layer_name in enumerate(stream.before):
            key = (stream.kind in ("maps", "image"), x.shape, position, layer_name)
            layer = scope(key, lambda name=layer_name, x=x: _make_layer(name, x))
            x = layer(x, mask) if isinstance(layer, SelfAttention) else layer(x)
        if description.extra in ("gate", "both"):
            gate = layers.Dense(x.shape[-1], activation="sigmoid")(vector)
            x = x * ops.reshape(gate, (-1,) + (1,) * (len(x.shape) - 2) + (x.shape[-1],))
        if stream.has_time and stream.kind != "maps":
            frame_features.append((names[index], x))
        make_pooling = POOLINGS[stream.pooling]
        for number, chosen in enumerate(_masks(stream, x, raw, count, weights)):
            pooling = scope((stream.pooling, x.shape[-1], number), make_pooling)
            pooled.append(pooling(x) if chosen is None else pooling(x, mask=chosen))

    outputs = _head(description, pooled, vector, frame_features, by_frame)
    if description.structure == "list":
        model_inputs, model_outputs = list(inputs.values()), list(outputs.values())
    elif description.structure == "single" and len(inputs) == len(outputs) == 1:
        model_inputs, model_outputs = next(iter(inputs.values())), next(iter(outputs.values()))
    else:
        model_inputs, model_outputs = inputs, outputs
    model = keras.Model(model_inputs, model_outputs, name="my model" if description.names == "spaces" else "my_model")
    _randomize(model, description.seed)
    if description.policy in ("int8", "float8"):
        model.quantize(description.policy)
    return Built(model, kinds, by_frame)


def _input(name, shape, dtype):
    return keras.Input(shape, dtype=dtype, name=name.replace("/", "_"))


def _make_layer(name, x):
    if name == "spatial convolution":
        return layers.Conv2D(4, 2, padding="same") if len(x.shape) == 4 else layers.Conv3D(4, (1, 2, 2), padding="same")
    if name == "temporal convolution":
        return layers.Conv3D(4, (3, 1, 1), padding="same")
    return (FRAME_BY_FRAME | ACROSS_FRAMES)[name]()


def _masks(stream, x, raw, count, weights):
    """Returns the masks with which a stream is pooled, one for each pooling."""
    if stream.mask == "none":
        return [None]
    if stream.mask == "input":
        return [weights]
    if stream.mask == "nonzero":
        return [ops.any(ops.not_equal(raw, 0), axis=-1)]
    if stream.mask == "softmax":
        scores = layers.Dense(1, dtype="float32")(x)
        if count is not None:
            scores = ops.where(ops.expand_dims(FrameMask()(count, x), 2), scores, -1e9)
        weights = ops.squeeze(ops.softmax(scores, axis=1), 2)
        return [weights if count is None else ops.where(FrameMask()(count, x), weights, 0.0)]
    real = FrameMask()(count, x)
    position = ops.cumsum(ops.ones_like(real, dtype="int32"), axis=1) - 1
    number = ops.expand_dims(ops.cast(count, "int32"), 1)
    if stream.mask == "frames":
        return [real]
    if stream.mask == "own":
        return [position < number]
    if stream.mask == "halves":
        first = FrameMask()(count // 2, x)
        return [first, ops.logical_and(real, ops.logical_not(first))]
    if stream.mask == "first":
        return [ops.logical_and(real, position < 3)]
    if stream.mask == "last":
        return [ops.logical_and(real, position >= number - 2)]
    if stream.mask == "alternate":
        return [ops.logical_and(real, ops.equal(position % 2, 0))]
    if stream.mask == "gate":
        gate = ops.squeeze(layers.Dense(1, activation="sigmoid", dtype="float32")(x), 2)
        return [ops.where(real, gate, 0.0)]
    return [ops.where(real, weights, 0.0)]


def _head(description, pooled, vector, frame_features, by_frame):
    if len(pooled) == 1 and description.extra not in ("head", "both") and description.head == "descriptor":
        return {
            "descriptor": pooled[0]
            if description.structure == "dict"
            else layers.Activation("linear", name="descriptor")(pooled[0])
        }
    parts = [*pooled, vector] if description.extra in ("head", "both") else pooled
    descriptor = layers.Concatenate(name="descriptor")(parts) if len(parts) > 1 else parts[0]
    if description.head == "descriptor":
        return {"descriptor": descriptor}
    scores = {
        "moe": lambda: MixtureOfExperts(3, name="scores")(descriptor),
        "whitened": lambda: layers.Dense(3, name="scores")(PCAWhitening(3)(descriptor)),
    }.get(description.head, lambda: layers.Dense(3, activation="softmax", dtype="float32", name="scores")(descriptor))()
    outputs = {"scores": scores}
    if description.head == "two":
        outputs["embedding"] = layers.Dense(2, name="embedding")(descriptor)
    if description.head == "by frame" and frame_features:
        _, x = frame_features[0]
        outputs["frame_scores"] = layers.Dense(2, name="frame_scores")(x)
        by_frame.append("frame_scores")
    return outputs


def _randomize(model, seed):
    """Moves every weight away from its initial value, so that an omitted bias or offset shows."""
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        if "float" in keras.backend.standardize_dtype(weight.dtype):
            value = np.asarray(weight.value, "float32") + generator.normal(scale=0.3, size=weight.shape)
            weight.assign(np.abs(value) + 0.2 if "variance" in weight.path or "deviations" in weight.path else value)


def _choices(*values):
    return strategies.sampled_from(values)


@strategies.composite
def descriptions(draw):
    """Descriptions of models that Keras can build."""
    number = draw(_choices(1, 1, 1, 2, 3))
    kinds = [draw(_choices(*["frames"] * 6, "bytes", "fixed", "maps", "image")) for _ in range(number)]
    has_time = any(kind != "image" for kind in kinds)
    num_frames = draw(_choices("none", "int32", "int32", "int32", "int64")) if has_time else "none"
    head = draw(_choices("scores", "descriptor", "two", "by frame", "moe", "whitened"))
    streams = tuple(draw(_streams(kind, num_frames != "none")) for kind in kinds)
    names = draw(
        _choices(
            *["plain"] * 14, "capitals", "internal", "reserved", "spaces", "alphabets", "slashes", "signs", "count"
        )
    )
    poolings = {stream.pooling for stream in streams}  # WeightedNetVLAD computes in float32 only
    return Description(
        streams=streams,
        num_frames=num_frames,
        is_shared=len(streams) > 1 and draw(strategies.booleans()),
        extra=draw(_choices("none", "none", "none", "head", "gate", "both")),
        head=head,
        policy=draw(_choices("float32", "int8") if "WeightedNetVLAD" in poolings else _policies()),
        names=names,
        structure=draw(_choices("dict", "dict", "list", "single")),
        seed=draw(strategies.integers(0, 9)),
    )


def _policies():
    return _choices(*["float32"] * 5, "mixed_bfloat16", "mixed_float16", "int8", "float8")


@strategies.composite
def _streams(draw, kind, has_count):
    on_frames = kind not in ("maps", "image")
    alone, across = (FRAME_BY_FRAME, ACROSS_FRAMES) if on_frames else (ON_MAPS, ACROSS_MAPS if kind == "maps" else ())
    before = draw(strategies.lists(_choices(*alone), max_size=2))
    if across and draw(strategies.integers(0, 2)) == 0:
        before.insert(draw(strategies.integers(0, len(before))), draw(_choices(*across)))
    if has_count:
        masks = [*NEED_NUM_FRAMES * 2, *["frames"] * 12, "softmax", "softmax", "none", "input", "nonzero"]
    else:
        masks = [*["none"] * 4, "softmax", "nonzero", "input"]
    if kind == "maps":
        masks = [name for name in masks if name not in ("gate", "softmax")]
    if kind == "image":
        masks = ["none", "nonzero"]
    if {"valid convolution"} & set(before):
        masks = [name for name in masks if not name.startswith("input") and name != "nonzero"]
    return Stream(
        kind=kind,
        size=draw(_choices(4, 6)),
        free=draw(strategies.booleans()),
        before=tuple(before),
        mask=draw(_choices(*masks)),
        pooling=draw(_choices(*POOLINGS)),
        clears=has_count and kind != "image" and bool(set(before) & set(across)) and draw(_choices(True, True, False)),
    )
