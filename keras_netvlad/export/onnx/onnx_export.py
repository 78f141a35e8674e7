"""`export_onnx`: a model as an ONNX file, of any size."""

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx

from keras_netvlad._version import __version__
from keras_netvlad.base.atomic_files import staged
from keras_netvlad.export.model_signature import SERVING_DEFAULT, forward, read_signature, weights_of
from keras_netvlad.export.onnx.graph_rules import name_positions, simplify
from keras_netvlad.export.onnx.precision import check_precision, reduce_precision, stored_tensor
from keras_netvlad.export.parity_file import check_metadata, write_parity
from keras_netvlad.export.verification.verify import checked, default_tolerance
from keras_netvlad.layers.frame_pooling import FramePooling
from keras_netvlad.layers.netvlad import NetVLAD

OPSETS = range(13, max(tf2onnx.constants.OPSET_TO_IR_VERSION) + 1)
# A file of external data is mapped by page; 64 KiB is the largest granularity in use (Windows).
PAGE_BYTES = 65536


def export_onnx(
    model,
    path,
    opset=18,
    verify=True,
    external_data_threshold=100_000_000,
    precision="float32",
    *,
    tolerance=None,
    data=None,
    min_agreement=None,
    metadata=None,
):
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
        precision: Of the dense kernels behind the pooling, where nearly all bytes of a video model are. `"float32"`:
            as the model has them. `"float16"`: half the size, for GPUs; a CPU widens them again and is as fast as
            with float32. `"int8"`: kernels of a million values or more, a quarter of the size and a third of the time
            at batch 1; for CPUs, to which GPU providers leave such products. Pooling, biases, activations, inputs and
            outputs stay float32; poolings with a `product_dtype` become float32.
        tolerance: As of `verify`; by default at least 2e-3 for float16 and 5e-2 for int8.
        data, min_agreement: As of `verify`: what a precision costs shows on real data.
        metadata: As of `export_saved_model`. It is kept in the file's own metadata, too, beside `precision`,
            `feature_sizes` and the largest differences measured (`parity`), and in `<path>.parity.json`.

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
        ValueError, TypeError: If the opset, the path or the model is not one that can be exported, or the model has
            nothing that the precision applies to.
        ParityError: If the artefact computes something else than the model. Nothing is written then.
        OSError: If the file exists or can't be written.
    """
    check_opset(opset)
    check_precision(precision)
    if Path(path).suffix != ".onnx":
        raise ValueError(f"`path` must end in .onnx. Received: {str(path)!r}")
    signature = read_signature(model)
    metadata = check_metadata(metadata, {SERVING_DEFAULT: signature})
    if tolerance is None:
        tolerance = default_tolerance(model, precision)
    with staged(path) as stage:
        write_onnx(model, signature, stage, opset, external_data_threshold, precision)
        report = checked(model, stage, path, tolerance, data, min_agreement) if verify else None
        _append_metadata(stage, signature, precision, metadata, report)
        write_parity(stage, report, metadata, precision)
        return report


def _append_metadata(path, signature, precision, metadata, report):
    """Adds entries to a file that is whole already: the bytes of messages that follow one another are their union."""
    feature_sizes = {port.name: port.shape[-1] for port in signature.inputs if len(port.shape) > 1}
    entries = {"precision": precision, "feature_sizes": feature_sizes, **metadata}
    if report is not None:
        entries["parity"] = {
            f"{row['signature']}:{row['output']}": row["max_relative_difference"] for row in report.as_dict()["outputs"]
        }
    proto = onnx.ModelProto()
    for key, value in entries.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        proto.metadata_props.add(key=key, value=text)
    with open(path, "ab") as file:
        file.write(proto.SerializeToString())


def check_opset(opset):
    """Raises if tf2onnx cannot write an opset, or not this project's graphs in it."""
    if isinstance(opset, bool) or not isinstance(opset, int) or opset not in OPSETS:
        raise ValueError(f"`opset` must be an integer from {OPSETS[0]} to {OPSETS[-1]}. Received: opset={opset!r}")


def write_onnx(model, signature, path, opset, external_data_threshold, precision="float32"):
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
    values = _weight_values(proto, weights)
    tensors = {placeholder: stored_tensor(*entry) for placeholder, entry in values.items()}
    if precision != "float32":
        poolings = [layer for layer in model._flatten_layers() if isinstance(layer, FramePooling)]
        pooled = {id(weight) for layer in poolings for weight in layer.weights}
        pooled = {_placeholder(index) for index, weight in enumerate(weights) if id(weight) in pooled}
        tensors |= reduce_precision(proto, values, pooled, precision)
        onnx.checker.check_model(proto, full_check=True)
        proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    _attach_weights(proto, tensors, path, external_data_threshold)
    path.write_bytes(proto.SerializeToString())


def _convert(model, signature, weights, opset):
    """The graph of a model, weights as inputs `weight_<i>`."""
    weight_specs = [
        tf.TensorSpec(weight.shape, weight.dtype, _placeholder(index)) for index, weight in enumerate(weights)
    ]
    input_specs = {port.name: tf.TensorSpec(port.shape, port.dtype, port.name) for port in signature.inputs}
    function = tf.function(lambda weights, inputs: forward(model, signature, weights, inputs), autograph=False)
    with _float32_products(model):
        proto, _ = tf2onnx.convert.from_function(
            function,
            input_signature=[weight_specs, input_specs],
            opset=opset,
            custom_op_handlers={"SelectV2": (_write_where, []), "Less": (_write_as_it_is, [])},
        )
    simplify(proto.graph, opset)
    proto.graph.name = model.name
    proto.producer_name, proto.producer_version = "keras_netvlad", __version__
    return proto


@contextlib.contextmanager
def _float32_products(model):
    """Makes every `NetVLAD` multiply in float32: onnxruntime has no products of bfloat16 for CPUs."""
    poolings = [layer for layer in model._flatten_layers() if isinstance(layer, NetVLAD)]
    dtypes = [layer.product_dtype for layer in poolings]
    try:
        for layer in poolings:
            layer.product_dtype = None
        yield
    finally:
        for layer, dtype in zip(poolings, dtypes, strict=True):
            layer.product_dtype = dtype


def _write_where(context, node, name, args):
    """Keeps `where` a `Where`: tf2onnx multiplies by the condition, and NaN times 0 is NaN."""
    node.type = "Where"


def _write_as_it_is(context, node, name, args):
    """Compares integers as integers: tf2onnx casts both sides to float."""


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
    name_positions(proto.graph)


def _weight_values(proto, weights):
    """Dict from each input `weight_<i>` to the weight's name, values and dtype."""
    declared = {value.name: value.type.tensor_type.elem_type for value in proto.graph.input}
    values = {}
    for index, weight in enumerate(weights):
        taken = {name for name, _, _ in values.values()}
        name = weight.path if weight.path not in taken else f"{weight.path}_{index}"
        # The graph's dtype: the converter writes bfloat16 as float16. The tensor's own memory: `numpy()` would copy it,
        # 2.4 GB for a large hidden layer.
        dtype = onnx.helper.tensor_dtype_to_np_dtype(declared[_placeholder(index)])
        values[_placeholder(index)] = name, np.asarray(tf.convert_to_tensor(weight.value)), dtype
    return values


def _attach_weights(proto, tensors, path, external_data_threshold):
    """Turns the inputs that stand for weights into initializers named after their variables."""
    names = {placeholder: tensor.name for placeholder, tensor in tensors.items()}
    for node in proto.graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = names.get(name, name)
    used = {name for node in proto.graph.node for name in node.input}
    inputs = [value for value in proto.graph.input if value.name not in names]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)

    tensors = [tensor for tensor in tensors.values() if tensor.name in used]
    protos = [
        onnx.TensorProto(
            name=tensor.name, dims=tensor.shape, data_type=onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype)
        )
        for tensor in tensors
    ]
    if sum(tensor.num_bytes for tensor in tensors) < external_data_threshold:
        for tensor, entry in zip(tensors, protos, strict=True):
            entry.raw_data = b"".join(block.tobytes() for block in tensor.blocks())
        proto.graph.initializer.extend(protos)
        return
    data_path = path.with_name(f"{path.name}.data")
    with open(data_path, "wb") as file:
        for tensor, entry in zip(tensors, protos, strict=True):
            file.seek(-(-file.tell() // PAGE_BYTES) * PAGE_BYTES)
            offset = file.tell()
            for block in tensor.blocks():
                file.write(block.reshape(-1).view("uint8"))
            entry.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", data_path.name), ("offset", offset), ("length", file.tell() - offset)):
                entry.external_data.add(key=key, value=str(value))
        file.flush()
        os.fsync(file.fileno())
    proto.graph.initializer.extend(protos)


def _placeholder(index):
    return f"weight_{index}"
