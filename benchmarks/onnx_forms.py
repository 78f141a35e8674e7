"""The layer and the bare matrix products in onnxruntime."""

import os
import tempfile
from functools import partial

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from benchmarks import forms, problem


def calls(shape, forms):
    """Calls to measure, as `forms.calls`; forward only.

    Args:
        shape: B, N, D, K.
        forms: Some of `"chain"`, `"NetVLAD"`, `"NetVLAD, masked"`.
    """
    given = problem.arrays(*shape)
    return {f"forward/{form}": _call(form, given) for form in forms}


def _call(form, given):
    if form == "chain":
        session = onnxruntime.InferenceSession(chain([given["kernel"]]))
    else:
        session = _layer(given, masked=form == "NetVLAD, masked")
    names = [value.name for value in session.get_inputs()]
    values = {"frames": given["frames"], "num_frames": given["lengths"]}
    run = partial(session.run, None, {name: values[name] for name in names})
    if form != "chain":
        forms.check(form, run()[0][0], given)
    return run


def chain(kernels, name="frames"):
    """A serialized model of `x W`, `(x W)^T x`, and a product with every further kernel, weights inside.

    Args:
        kernels: Arrays, the first `(D, K)`, the others in the order of their use on the flattened sums.
        name: Name of the input.
    """
    nodes = [
        helper.make_node("MatMul", [name, "kernel_0"], ["scores"]),
        helper.make_node("Transpose", ["scores"], ["transposed"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["transposed", name], ["sums"]),
    ]
    weights = [onnx.numpy_helper.from_array(kernel, f"kernel_{index}") for index, kernel in enumerate(kernels)]
    last = "sums"
    if kernels[1:]:
        weights.append(onnx.numpy_helper.from_array(np.array([-1, len(kernels[1])]), "flat_shape"))
        nodes.append(helper.make_node("Reshape", [last, "flat_shape"], ["flat"]))
        last = "flat"
    for index in range(1, len(kernels)):
        nodes.append(helper.make_node("MatMul", [last, f"kernel_{index}"], [f"product_{index}"]))
        last = f"product_{index}"
    feature_size, num_clusters = kernels[0].shape
    shape = ["batch", kernels[-1].shape[1]] if kernels[1:] else ["batch", num_clusters, feature_size]
    frames = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "frames", feature_size])
    output = helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "chain", [frames], [output], weights)
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def _layer(given, masked):
    import keras

    from keras_netvlad import NetVLAD
    from keras_netvlad.export import export_onnx
    from keras_netvlad.layers import FrameMask

    layer = NetVLAD(len(given["centroids"]), name="descriptor")
    inputs = {"frames": keras.Input((None, given["frames"].shape[2]), name="frames")}
    mask = None
    if masked:
        inputs["num_frames"] = keras.Input((), name="num_frames", dtype="int32")
        mask = FrameMask()(inputs["num_frames"], inputs["frames"])
    model = keras.Model(inputs, {"descriptor": layer(inputs["frames"], mask=mask)})
    for name in ("kernel", "bias", "centroids"):
        getattr(layer, name).assign(given[name])
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "layer.onnx")
        export_onnx(model, path, verify=False)
        return onnxruntime.InferenceSession(path)
