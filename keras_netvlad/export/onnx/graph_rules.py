"""Small rewrites of a converted graph: what training needs and inference does not.

Keras's ops carry gradients and TensorFlow folds transposes by itself; ONNX runtimes run what is written. Each rule
keeps the values, to rounding, and takes nodes away: the NetVLAD layer has 20 instead of 26.
"""

import numpy as np
import onnx


def simplify(graph, opset):
    """Applies every rule to a graph, in place, and drops what no output needs any more.

    Args:
        graph: `onnx.GraphProto`, sorted, without subgraphs that read its tensors.
        opset: Integer, the operator set it is written in.
    """
    for rule in RULES:
        rule(_View(graph), opset)
        _sort(graph)
    _drop_unused(graph)


class _View:
    """Who makes and who reads each tensor of a graph."""

    def __init__(self, graph):
        self.graph = graph
        self.makers = {output: node for node in graph.node for output in node.output}
        self.readers = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in graph.output}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}

    def of_type(self, op_type):
        return [node for node in self.graph.node if node.op_type == op_type]

    def maker(self, name, op_type):
        """The node that makes a tensor, if it is of a type."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == op_type else None

    def only_reader(self, node, op_type):
        """The one node that reads a node's result, if it is of a type and nothing else needs the result."""
        readers = self.readers.get(node.output[0], [])
        is_alone = len(readers) == 1 and node.output[0] not in self.outputs
        return readers[0] if is_alone and readers[0].op_type == op_type else None

    def without_casts(self, name):
        """The tensor that a tensor is a cast of, or itself."""
        while cast := self.maker(name, "Cast"):
            name = cast.input[0]
        return name

    def constant(self, name):
        """The values of a constant tensor, as nested lists; `None` if it is none."""
        tensor = self.constants.get(name)
        return None if tensor is None else onnx.numpy_helper.to_array(tensor).tolist()

    def is_scalar(self, name):
        """Whether a tensor is a constant of one value."""
        tensor = self.constants.get(name)
        return tensor is not None and not tensor.dims

    def add_constant(self, name, values):
        """Adds integers; returns their name."""
        self.graph.initializer.append(onnx.numpy_helper.from_array(np.array(values, "int64"), name))
        return name

    def replace(self, name, other):
        """Has all readers of a tensor read another."""
        for node in self.readers.get(name, []):
            node.input[:] = [other if read == name else read for read in node.input]

    def axes(self, node):
        """The axes that a node works on: an attribute or a constant input; `None` if they are neither."""
        for attribute in node.attribute:
            if attribute.name == "axes":
                return list(attribute.ints)
        return self.constant(node.input[1]) if len(node.input) > 1 else None


def _keeps_dims(node):
    return all(attribute.i for attribute in node.attribute if attribute.name == "keepdims")


def _sum_of_squares(view, opset):
    """`ReduceSum(x * x)` is `ReduceSumSquare(x)`: one pass, and nothing of x's size in between."""
    for square in view.of_type("Mul"):
        total = view.only_reader(square, "ReduceSum")
        axes = total and view.axes(total)
        if square.input[0] != square.input[1] or not axes or total.input[0] != square.output[0]:
            continue
        total.op_type = "ReduceSumSquare"
        total.input[0] = square.input[0]
        if opset < 18:  # its axes became an input later than those of ReduceSum
            keeps_dims = int(_keeps_dims(total))
            del total.input[1:], total.attribute[:]
            total.attribute.extend(
                onnx.helper.make_attribute(key, value) for key, value in (("axes", axes), ("keepdims", keeps_dims))
            )


def _division(view, opset):
    """`x * (1 / y)` is `x / y`."""
    for product in view.of_type("Mul"):
        for position, name in enumerate(product.input):
            inverse = view.maker(name, "Reciprocal")
            if inverse and view.only_reader(inverse, "Mul") is product:
                other = product.input[1 - position]
                product.op_type = "Div"
                product.input[:] = [other, inverse.input[0]]
                view.graph.node.remove(inverse)
                break


def _share_of_a_transpose(view, opset):
    """`transpose(a / max(sum_1 a, c))` is `b / max(sum_2 b, c)` with `b` the transpose of `a`.

    The sums then stand as the residuals need them, and `_sum_of_a_transpose` can take them over the last axis.
    """
    for transpose in view.of_type("Transpose"):
        share = view.maker(transpose.input[0], "Div")
        least = share and view.maker(share.input[1], "Max")
        column = least and view.maker(least.input[0], "Unsqueeze")
        if (
            not (column and view.only_reader(share, "Transpose") and view.only_reader(least, "Div"))
            or list(transpose.attribute[0].ints) != [0, 2, 1]
            or not view.only_reader(column, "Max")
            or view.axes(column) != [1]
            or not view.is_scalar(least.input[1])
        ):
            continue
        column.input[1] = view.add_constant(f"{column.output[0]}_axes", [2])
        # Transpose and division swap places, each under the name that the other had.
        share.input[0], transpose.input[0] = transpose.input[0], share.input[0]
        share.output[0], transpose.output[0] = transpose.output[0], share.output[0]


def _sum_of_a_transpose(view, opset):
    """`Unsqueeze(ReduceSum(a, 1), 2)` is `ReduceSum(transpose(a), 2)` with its axis kept; the transpose is there.

    onnxruntime adds up the last axis in parts and any other one by one: over 30 000 frames the descriptor is 2.5 to 15
    times nearer to float64. It takes 0.93 to 1.19 times as long, median 1.02, the most where the layer is smallest.
    """
    for total in view.of_type("ReduceSum"):
        columns = view.readers.get(total.output[0], [])
        if _keeps_dims(total) or view.axes(total) != [1] or total.output[0] in view.outputs:
            continue
        transposes = [
            node
            for node in view.readers[total.input[0]]
            if node.op_type == "Transpose" and list(node.attribute[0].ints) == [0, 2, 1]
        ]
        if not transposes or any(node.op_type != "Unsqueeze" or view.axes(node) != [2] for node in columns):
            continue
        total.input[:] = [transposes[0].output[0], view.add_constant(f"{total.output[0]}_axes", [2])]
        del total.attribute[:]
        total.attribute.append(onnx.helper.make_attribute("keepdims", 1))
        for column in columns:
            view.replace(column.output[0], total.output[0])
            view.graph.node.remove(column)


def _constant_shape(view, opset):
    """`Reshape(x, [batch of x, ...])` takes the batch by 0, "as it is"; and `Flatten(x)` is one such.

    tract loads no graph whose shapes are computed (0.23).
    """
    for flatten in view.of_type("Flatten"):
        if all(attribute.i == 1 for attribute in flatten.attribute):
            flatten.op_type = "Reshape"
            del flatten.attribute[:]
            flatten.input.append(_shape_constant(view, flatten, [0, -1]))
    for reshape in view.of_type("Reshape"):
        concat = view.maker(view.without_casts(reshape.input[1]), "Concat")
        if concat is None or reshape.attribute or not _is_batch_of(view, concat.input[0], reshape.input[0]):
            continue
        rest = [view.constant(name) for name in concat.input[1:]]
        if None not in rest:
            reshape.input[1] = _shape_constant(view, reshape, [0, *(size for sizes in rest for size in sizes)])
    _drop_unused(view.graph)


def _shape_constant(view, node, sizes):
    return view.add_constant(f"{node.output[0]}_shape", sizes)


def _is_batch_of(view, name, tensor):
    """Whether a tensor is the first element of another's shape."""
    part = view.maker(name, "Slice")
    if part is None or [view.constant(bound) for bound in part.input[1:3]] != [[0], [1]]:
        return False
    name = view.without_casts(part.input[0])
    # Where a tensor was transposed, the converter permutes the shape that it had before.
    permuted = view.maker(name, "Gather")
    if permuted is not None and (view.constant(permuted.input[1]) or [None])[0] == 0:
        name = view.without_casts(permuted.input[0])
    shape = view.maker(name, "Shape")
    return shape is not None and _before_transposes(view, shape.input[0]) == _before_transposes(view, tensor)


def _before_transposes(view, name):
    """The tensor behind transposes that leave the batch where it is."""
    while (node := view.maker(name, "Transpose")) and [list(order.ints[:1]) for order in node.attribute] == [[0]]:
        name = node.input[0]
    return name


def _length_of_an_axis(view, opset):
    """`Squeeze(Slice(Cast(Shape(x)), i, i + 1))` is one element of the shape: `Cast(Squeeze(Shape(x, i, i + 1)))`."""
    if opset < 15:  # `Shape` took no part of a shape before
        return
    for part in view.of_type("Slice"):
        cast, scalar = view.maker(part.input[0], "Cast"), view.only_reader(part, "Squeeze")
        shape = cast and view.only_reader(cast, "Slice") and view.maker(cast.input[0], "Shape")
        bounds = [view.constants.get(name) for name in part.input[1:]]
        if not (shape and scalar and all(bounds) and view.only_reader(shape, "Cast")) or shape.attribute:
            continue
        (start,), (end,), *_ = (onnx.numpy_helper.to_array(bound).tolist() for bound in bounds)
        if not 0 <= start == end - 1:
            continue
        shape.attribute.extend(
            onnx.helper.make_attribute(key, value) for key, value in (("start", start), ("end", end))
        )
        # Squeeze before Cast, each under the name that the other had.
        result = scalar.output[0]
        scalar.input[0], scalar.output[0] = shape.output[0], part.output[0]
        cast.input[0], cast.output[0] = part.output[0], result
        view.graph.node.remove(part)


def name_positions(graph):
    """Names the length of every `Range` over a named axis after that axis, which shape inference cannot.

    Args:
        graph: `onnx.GraphProto` whose inputs have their axes named.
    """
    view = _View(graph)
    inputs = {value.name: value.type.tensor_type.shape.dim for value in graph.input}
    for positions in view.of_type("Range"):
        cast = view.maker(positions.input[1], "Cast")
        scalar = cast and view.maker(cast.input[0], "Squeeze")
        shape = scalar and view.maker(scalar.input[0], "Shape")
        if shape and shape.attribute and shape.input[0] in inputs:
            start = next(attribute.i for attribute in shape.attribute if attribute.name == "start")
            dtype = next(attribute.i for attribute in cast.attribute if attribute.name == "to")
            axis = inputs[shape.input[0]][start].dim_param
            graph.value_info.append(onnx.helper.make_tensor_value_info(positions.output[0], dtype, [axis or None]))


def _drop_unused(graph):
    """Drops nodes and constants that nothing reads any more."""
    outputs = {value.name for value in graph.output}
    used = outputs | {name for node in graph.node for name in node.input}
    while unused := [node for node in graph.node if not used.intersection(node.output)]:
        for node in unused:
            graph.node.remove(node)
        used = outputs | {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _sort(graph):
    """Puts every node behind those whose results it reads."""
    made = {value.name for value in (*graph.input, *graph.initializer)} | {""}
    waiting, ordered = list(graph.node), []
    while waiting:
        ready = next(node for node in waiting if made.issuperset(node.input))
        waiting.remove(ready)
        ordered.append(ready)
        made.update(ready.output)
    del graph.node[:]
    graph.node.extend(ordered)


RULES = (
    _sum_of_squares,
    _division,
    _share_of_a_transpose,
    _sum_of_a_transpose,
    _constant_shape,
    _length_of_an_axis,
)
