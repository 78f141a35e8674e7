"""`export_onnx`: a model as an ONNX file, of any size."""

import os
from pathlib import Path

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx

from keras_netvlad._version import __version__
from keras_netvlad.export.signature import forward, read_signature, weights_of
from keras_netvlad.export.staging import staged
from keras_netvlad.export.verification import checked

OPSETS = range(13, max(tf2onnx.constants.OPSET_TO_IR_VERSION) + 1)
# A file of external data is mapped by page; 64 KiB is the largest granularity in use (Windows).
PAGE_BYTES = 65536


def export_onnx(model, path, opset=18, verify=True, external_data_threshold=100_000_000):
    """Writes a model as an ONNX file, verified before it appears.

    Inputs and outputs bear the model's own names; the dynamic axes are called `batch` and `frames`. The weights
    never pass through the converter: it sees them as inputs, and they are attached to its result afterwards,
    straight from the Keras variables, so that size costs neither time nor memory.

    Args:
        model: A functional or Sequential Keras model with named inputs.
        path: Path ending in `.onnx` that does not exist yet.
        opset: Integer, ONNX operator set, 13 to 18.
        verify: Boolean, whether to run the artefact beside the model before it appears.
        external_data_threshold: Integer, bytes of weights from which they go to a second file, `<path>.data`,
            which has to stay beside the first. ONNX cannot hold 2 GB or more in one file.

    Returns:
        The `Report` of the verification, or `None` if `verify` is false.

    Example:

    >>> import os, tempfile
    >>> from keras_netvlad import VideoClassifier
    >>> from keras_netvlad.export import export_onnx
    >>> model = VideoClassifier({"frames": 8}, num_classes=3, num_clusters=2)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     report = export_onnx(model, os.path.join(directory, "model.onnx"), opset=17)
    >>> report.ok
    True

    Raises:
        ValueError, TypeError: If the opset, the path or the model is not one that can be exported.
        ParityError: If the artefact computes something else than the model. Nothing is written then.
        OSError: If the file exists or can't be written.
    """
    check_opset(opset)
    if Path(path).suffix != ".onnx":
        raise ValueError(f"`path` must end in .onnx. Received: {str(path)!r}")
    signature = read_signature(model)
    with staged(path) as stage:
        write_onnx(model, signature, stage, opset, external_data_threshold)
        return checked(model, stage, path) if verify else None


def check_opset(opset):
    """Raises if tf2onnx cannot write an opset, or not this project's graphs in it."""
    if isinstance(opset, bool) or not isinstance(opset, int) or opset not in OPSETS:
        raise ValueError(f"`opset` must be an integer from {OPSETS[0]} to {OPSETS[-1]}. Received: opset={opset!r}")


def write_onnx(model, signature, path, opset, external_data_threshold):
    """Writes the files of an ONNX model, nothing more."""
    weights = weights_of(model)
    proto = _convert(model, signature, weights, opset)
    _name_axes(proto, signature)
    # With the weights as inputs the graph is complete and small: the full check costs nothing here.
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(
            f"The model must be made of ops that opset {opset} can express; export it as a SavedModel or change the "
            f"layer. Received: {' '.join(str(error).split())}"
        ) from error
    proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    _attach_weights(proto, weights, path, external_data_threshold)
    path.write_bytes(proto.SerializeToString())


def _convert(model, signature, weights, opset):
    """The graph of a model, weights as inputs `weight_<i>`."""
    weight_specs = [
        tf.TensorSpec(weight.shape, weight.dtype, _placeholder(index)) for index, weight in enumerate(weights)
    ]
    input_specs = {port.name: tf.TensorSpec(port.shape, port.dtype, port.name) for port in signature.inputs}
    function = tf.function(lambda weights, inputs: forward(model, signature, weights, inputs), autograph=False)
    proto, _ = tf2onnx.convert.from_function(
        function,
        input_signature=[weight_specs, input_specs],
        opset=opset,
        custom_op_handlers={"SelectV2": (_write_where, [])},
    )
    proto.graph.name = model.name
    proto.producer_name, proto.producer_version = "keras_netvlad", __version__
    return proto


def _write_where(context, node, name, args):
    """Keeps `where` a `Where`: tf2onnx multiplies by the condition, and NaN times 0 is NaN."""
    node.type = "Where"


def _name_axes(proto, signature):
    for values, ports in ((proto.graph.input, signature.inputs), (proto.graph.output, signature.outputs)):
        by_name = {port.name: port for port in ports}
        for value in values:
            if value.name in by_name:
                port = by_name[value.name]
                dims = [name or size for name, size in zip(port.axis_names, port.shape, strict=True)]
                shape = onnx.helper.make_tensor_type_proto(value.type.tensor_type.elem_type, dims)
                value.type.CopyFrom(shape)
    order = [port.name for port in signature.outputs]
    outputs = sorted(proto.graph.output, key=lambda value: order.index(value.name))
    del proto.graph.output[:]
    proto.graph.output.extend(outputs)
    # The converter's own guesses (`unk__36`); inferred again from the named axes.
    del proto.graph.value_info[:]


def _attach_weights(proto, weights, path, external_data_threshold):
    """Turns the inputs `weight_<i>` into initializers named after their variables."""
    names = {}
    for index, weight in enumerate(weights):
        name = weight.path if weight.path not in names.values() else f"{weight.path}_{index}"
        names[_placeholder(index)] = name
    for node in proto.graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = names.get(name, name)
    used = {name for node in proto.graph.node for name in node.input}
    inputs = [value for value in proto.graph.input if value.name not in names]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)

    used_weights = [
        (names[_placeholder(index)], weight)
        for index, weight in enumerate(weights)
        if names[_placeholder(index)] in used
    ]
    num_bytes = sum(np.prod(weight.shape) * _onnx_type(weight)[1] for _, weight in used_weights)
    if num_bytes < external_data_threshold:
        for name, weight in used_weights:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(weight.numpy(), name))
        return
    data_path = path.with_name(f"{path.name}.data")
    with open(data_path, "wb") as file:
        for name, weight in used_weights:
            file.seek(-(-file.tell() // PAGE_BYTES) * PAGE_BYTES)
            tensor = onnx.TensorProto(
                name=name,
                dims=weight.shape,
                data_type=_onnx_type(weight)[0],
                data_location=onnx.TensorProto.EXTERNAL,
            )
            offset = file.tell()
            # The tensor's own memory: `numpy()` would copy it, 2.4 GB for a large hidden layer.
            file.write(np.asarray(tf.convert_to_tensor(weight.value)).reshape(-1).view("uint8"))
            for key, value in (("location", data_path.name), ("offset", offset), ("length", file.tell() - offset)):
                tensor.external_data.add(key=key, value=str(value))
            proto.graph.initializer.append(tensor)
        file.flush()
        os.fsync(file.fileno())


def _placeholder(index):
    return f"weight_{index}"


def _onnx_type(weight):
    """ONNX's number for a weight's dtype, and the bytes of one element."""
    dtype = tf.as_dtype(weight.dtype).as_numpy_dtype
    return onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), np.dtype(dtype).itemsize
