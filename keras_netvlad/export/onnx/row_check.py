"""`check_rows`: makes a graph fail if its inputs have different numbers of rows."""

import onnx

from keras_netvlad.export.signature import Signature


def check_rows(graph: onnx.GraphProto, signature: Signature, opset: int) -> None:
    """Reshapes inputs of shape `(batch,)`, such as `num_frames`, to the number of rows of the first larger input.

    ONNX has no assertions, and runtimes do not compare the sizes of axes of equal name. Without this, a `num_frames` of
    one row would be used for all videos. The reshape fails unless the numbers are equal, and costs two nodes. It needs
    opset 15, whose `Shape` returns one axis.

    Args:
        graph: The graph, which is changed.
        signature: The model's signature `serving_default`.
        opset: ONNX operator set of the graph.
    """
    batched = [port for port in signature.inputs if port.shape and port.shape[0] is None]
    videos = next((port for port in batched if len(port.shape) > 1), None)
    counts = [port for port in batched if len(port.shape) == 1]
    if opset < 15 or videos is None or not counts:
        return
    rows = f"{videos.name}_rows"
    nodes = [onnx.helper.make_node("Shape", [videos.name], [rows], name=rows, start=0, end=1)]
    for port in counts:
        checked = f"{port.name}_of_{rows}"
        for node in graph.node:
            node.input[:] = [checked if name == port.name else name for name in node.input]
        nodes.append(onnx.helper.make_node("Reshape", [port.name, rows], [checked], name=checked))
    others = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *others])
