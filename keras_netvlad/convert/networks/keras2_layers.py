"""`keras2_layer`: makes a layer of Keras 3 from the configuration of Keras 2. No code of the file is executed."""

import base64
import binascii
import inspect
import math
import re
from functools import partial
from typing import Any

import keras

from keras_netvlad.convert.tensor_files import listed

# Layers that compute the same in Keras 2 and 3.
LAYERS = (
    "Activation",
    "Add",
    "Average",
    "AveragePooling2D",
    "BatchNormalization",
    "Concatenate",
    "Conv1D",
    "Conv2D",
    "Conv2DTranspose",
    "Cropping2D",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "ELU",
    "Flatten",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling2D",
    "LayerNormalization",
    "LeakyReLU",
    "MaxPooling2D",
    "Maximum",
    "Multiply",
    "PReLU",
    "Permute",
    "ReLU",
    "Rescaling",
    "Reshape",
    "SeparableConv2D",
    "Softmax",
    "SpatialDropout2D",
    "Subtract",
    "UpSampling2D",
    "ZeroPadding2D",
)
# `hard_sigmoid` has another slope in Keras 3.
ACTIVATIONS = (
    "linear",
    "relu",
    "relu6",
    "elu",
    "selu",
    "gelu",
    "sigmoid",
    "tanh",
    "softmax",
    "softplus",
    "softsign",
    "swish",
    "silu",
    "exponential",
)
# Regularizers and constraints.
PENALTIES = ("L1", "L2", "L1L2", "MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm")
# Names that changed. Every weight is in the file, so initializers are left out.
RENAMED = {"alpha": "negative_slope"}
LEFT_OUT = ("batch_input_shape", "dtype", "input_dtype")
# Bytecode of `lambda a: l2_normalize(a, axis=1)` and of the same call without the keyword, up to the return; the
# function may be an attribute, as in `K.l2_normalize`.
L2_NORMALIZE = (
    # Python 2.7 and 3.5: LOAD_GLOBAL, LOAD_ATTR, LOAD_FAST, LOAD_CONST, CALL_FUNCTION.
    rb"t\x00\x00(j.\x00)*\|\x00\x00d.\x00(d.\x00\x83\x01\x01|\x83\x02\x00)S",
    # Python 3.6 to 3.10: CALL_FUNCTION_KW, or LOAD_METHOD and CALL_METHOD.
    rb"t\x00([j\xa0].)*\|\x00d.(d.\x8d\x02|[\x83\xa1]\x02)S\x00",
    # Python 3.11: RESUME, KW_NAMES, PRECALL, CALL.
    rb"\x97\x00t.\x00{10}([j\xa0].(\x00\x00)+)*\|\x00d.(\xac.)?\xa6\x02\x00\x00\xab\x02\x00{8}S\x00",
)
INTEGER = rb"[i\xe9](?=(.{4}))"


def keras2_layer(class_name: str, config: dict[str, Any]) -> keras.Layer:
    """Returns the layer of a configuration of Keras 2.

    A `Lambda` is code, which is not executed. Where its bytecode is a call of `l2_normalize` along the last axis or
    axis 1, it becomes a `UnitNormalization`.

    Args:
        class_name: Name of the class, one of `LAYERS` or `"Lambda"`.
        config: Configuration of the layer.

    Raises:
        ValueError: If the class or an option has no equivalent.
    """
    name = config.get("name")
    if class_name == "Lambda":
        return keras.layers.UnitNormalization(axis=_normalized_axis(config), name=layer_name(name))
    if class_name not in LAYERS:
        raise ValueError(
            "The layers must be those of Keras that are listed in docs/migration.md, because code in a file is not "
            f"executed; rebuild other networks and convert the NetVLAD alone with `from_arrays`. Received: {name}, a "
            f"{class_name}"
        )
    made = getattr(keras.layers, class_name)
    accepted = {*inspect.signature(made.__init__).parameters, "name", "trainable"}
    options: dict[str, Any] = {}
    unknown = []
    for key, value in config.items():
        if key in LEFT_OUT or key.endswith("_initializer"):
            continue
        key = RENAMED.get(key, key) if key not in accepted else key
        if key in accepted:
            options[key] = _option(name, key, value)
        elif value and value != 1:  # `groups` of a depthwise convolution is 1
            unknown.append(key)
    if unknown:
        raise ValueError(f"`{name}`, a {class_name}, must have options of Keras 3. Received: {listed(unknown)}")
    options["name"] = layer_name(name)
    try:
        return made(**options)
    except Exception as error:
        raise ValueError(
            f"`{name}`, a {class_name}, must have options of Keras 3. Received: {reason_of(error)}"
        ) from error


def call_layer(layer: keras.Layer, x: Any, largest: int) -> Any:
    """Returns the output of a layer, which is built if it is new.

    Args:
        layer: The layer.
        x: Its input, or a list of several inputs.
        largest: Number of values of the largest tensor of the file. A layer that declares a larger weight would take
            memory before the file is found to lack it.

    Raises:
        ValueError: If the input does not fit, or the layer has a larger weight.
    """
    initializers = {name: value for name, value in vars(layer).items() if name.endswith("_initializer")}
    for name, initializer in initializers.items():
        setattr(layer, name, partial(_initialized, initializer, largest))
    try:
        return layer(x)
    except Exception as error:
        raise ValueError(
            f"The layer {layer.name} must fit its input; save the model again. Received: {reason_of(error)}"
        ) from error
    finally:
        for name, initializer in initializers.items():
            setattr(layer, name, initializer)


def reason_of(error: Exception) -> str:
    """Returns the first line of the message of an error."""
    return (str(error).strip().splitlines() or [""])[0] or type(error).__name__


def layer_name(name: Any) -> str | None:
    """Returns a name that Keras 3 takes. It has no slashes."""
    return None if name is None else str(name).replace("/", "_")


def _initialized(initializer, largest, shape, **options):
    if math.prod(shape) > largest:
        raise ValueError(f"a weight of shape {tuple(shape)}, larger than any tensor of the file")
    return initializer(shape, **options)


def _option(name, key, value):
    if isinstance(value, dict) and value.get("type") == "ndarray":  # a number, in Keras 2.2
        value = value.get("value")
    if key == "activation":
        if value not in ACTIVATIONS:
            raise ValueError(
                f"The activation of `{name}` must be one of {', '.join(ACTIVATIONS)}, which Keras 2 and 3 compute "
                f"alike. Received: {value!r}"
            )
    elif key == "axis" and isinstance(value, list) and len(value) == 1:
        return value[0]
    elif isinstance(value, dict):
        return _penalty(name, key, value)
    return value


def _penalty(name, key, value):
    """Returns a regularizer or a constraint."""
    package = keras.regularizers if key.endswith("_regularizer") else keras.constraints
    kind = value.get("class_name")
    made = getattr(package, kind, None) if kind in PENALTIES else None
    if made is None or not isinstance(value.get("config"), dict):
        raise ValueError(f"`{key}` of `{name}` must be one of {', '.join(PENALTIES)}. Received: {kind!r}")
    return made(**{option: _option(name, option, number) for option, number in value["config"].items()})


def _normalized_axis(config):
    """Returns the axis along which a `Lambda` normalizes, or raises if its code is anything else."""
    try:
        function = config["function"]
        function = function["config"]["code"] if isinstance(function, dict) else function[0]
        code = base64.b64decode(function)
    except (KeyError, IndexError, TypeError, ValueError, binascii.Error):
        code = b""
    is_call = any(re.search(pattern, code, re.DOTALL) for pattern in L2_NORMALIZE)
    is_call = is_call and b"l2_normalize" in code and b"epsilon" not in code
    axes = {int.from_bytes(found, "little", signed=True) for found in re.findall(INTEGER, code, re.DOTALL)} & {1, -1}
    if not is_call or len(axes) != 1 or config.get("arguments"):
        raise ValueError(
            "A Lambda layer must be `l2_normalize` along the last axis, because code in a file is not executed; put "
            f"a layer of Keras in its place and save the model again. Received: {config.get('name')}, another Lambda"
        )
    return axes.pop()
