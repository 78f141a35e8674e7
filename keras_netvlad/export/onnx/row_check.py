"""`check_rows`: makes a graph fail if its inputs have different numbers of rows."""

import numpy as np
import onnx

from keras_netvlad.export.serving_signatures import ACCUMULATE, DESCRIBE
from keras_netvlad.export.signature import Signature


def check_rows(graph: onnx.GraphProto, signature: Signature, opset: int) -> None:
    """Reshapes inputs of shape `(batch,)`, such as `num_frames`, to the number of rows of the first larger input.

    ONNX has no assertions, and runtimes do not compare the sizes of axes of equal name. Without this, a `num_frames` of
    one row would be used for all videos. The reshape fails unless the numbers are equal, and costs two nodes. It needs
    opset 15, whose `Shape` returns one axis.

    In the signatures of live streams all other inputs are reshaped as well: sums of one row would be added to the sums
    of every video.

    Args:
        graph: The graph, which is changed.
        signature: The signature that the graph computes.
        opset: ONNX operator set of the graph.
    """
    batched = [port for port in signature.inputs if port.shape and port.shape[0] is None]
    videos = next((port for port in batched if len(port.shape) > 1), None)
    is_live = signature.name in (ACCUMULATE, DESCRIBE)
    compared = [port for port in batched if port is not videos and (is_live or len(port.shape) == 1)]
    if opset < 15 or videos is None or not compared:
        return
    rows = f"{videos.name}_rows"
    nodes = [onnx.helper.make_node("Shape", [videos.name], [rows], name=rows, start=0, end=1)]
    for port in compared:
        checked, shape = f"{port.name}_of_{rows}", rows
        for node in graph.node:
            node.input[:] = [checked if name == port.name else name for name in node.input]
        if len(port.shape) > 1:
            # onnxruntime 1.32 replaces the rows in a `Concat` of rows and sizes by -1, which accepts any number.
            shape, is_rows, sizes = (f"{port.name}_{name}" for name in ("shape", "is_rows", "sizes"))
            values = {
                is_rows: [axis == 0 for axis in range(len(port.shape))],
                sizes: [size or 0 for size in port.shape],
            }
            for name, value in values.items():  # the size 0 keeps an axis
                array = np.array(value, bool if name == is_rows else "int64")
                graph.initializer.append(onnx.numpy_helper.from_array(array, name))
            nodes.append(onnx.helper.make_node("Where", [is_rows, rows, sizes], [shape], name=shape))
            # Shape inference does not know the values of `Where`.
            (value_info,) = [value for value in graph.input if value.name == port.name]
            graph.value_info.add(name=checked).type.CopyFrom(value_info.type)
        nodes.append(onnx.helper.make_node("Reshape", [port.name, shape], [checked], name=checked))
    others = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *others])
