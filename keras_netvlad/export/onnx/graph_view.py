"""`GraphView`: looks up the producer and the readers of each tensor of an ONNX graph."""

from collections.abc import Mapping

import numpy as np
import onnx


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Returns the graphs in the attributes of a node, such as the body of a `Loop`."""
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def reads(node: onnx.NodeProto) -> list[str]:
    """Returns the tensors that a node takes and those that its subgraphs take from the graph around them."""
    names = [name for name in node.input if name]
    for graph in subgraphs(node):
        own = _defined_names(graph)
        inside = [name for inner in graph.node for name in reads(inner)]
        inside += [value.name for value in graph.output]
        names += [name for name in inside if name not in own]
    return names


def rename_reads(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Makes a node and its subgraphs read other tensors.

    Args:
        node: The node, changed in place.
        names: Dict from old to new names. A subgraph that defines an old name keeps it.
    """
    node.input[:] = [names.get(name, name) for name in node.input]
    for graph in subgraphs(node):
        own = _defined_names(graph)
        outer_names = {name: new for name, new in names.items() if name not in own}
        for inner in graph.node:
            rename_reads(inner, outer_names)
        for value in graph.output:
            value.name = outer_names.get(value.name, value.name)


def _defined_names(graph: onnx.GraphProto) -> set[str]:
    """Returns the names of the inputs, constants and results of a graph."""
    names = {value.name for value in (*graph.input, *graph.initializer)}
    return names | {name for node in graph.node for name in node.output}


class GraphView:
    """Looks up the producer and the readers of each tensor of a graph.

    A view describes the graph at the time when it is made. Make a new one after changing the graph.

    Args:
        graph: The graph.

    Attributes:
        graph: The graph.
        makers: Dict from the name of a tensor to the node that produces it.
        readers: Dict from the name of a tensor to the nodes that read it, themselves or in their subgraphs.
        outputs: Names of the graph's outputs.
        constants: Dict from the name of each initializer to the initializer.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.makers = {output: node for node in graph.node for output in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in reads(node):
                self.readers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in graph.output}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}

    def of_type(self, op_type: str) -> list[onnx.NodeProto]:
        """Returns all nodes of a type."""
        return [node for node in self.graph.node if node.op_type == op_type]

    def maker(self, name: str, op_type: str) -> onnx.NodeProto | None:
        """Returns the node that produces a tensor, or `None` if the node has another type."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == op_type else None

    def only_reader(self, node: onnx.NodeProto, op_type: str) -> onnx.NodeProto | None:
        """Returns the only reader of a node's result, or `None` if it has another type or is not the only one."""
        readers = self.readers.get(node.output[0], [])
        is_alone = len(readers) == 1 and node.output[0] not in self.outputs
        return readers[0] if is_alone and readers[0].op_type == op_type else None

    def without_casts(self, name: str) -> str:
        """Returns the tensor before all casts."""
        while cast := self.maker(name, "Cast"):
            name = cast.input[0]
        return name

    def constant(self, name: str) -> list | None:
        """Returns the values of a constant tensor as nested lists, or `None` if the tensor is not constant."""
        tensor = self.constants.get(name)
        return None if tensor is None else onnx.numpy_helper.to_array(tensor).tolist()

    def is_scalar(self, name: str) -> bool:
        """Returns whether a tensor is a constant scalar."""
        tensor = self.constants.get(name)
        return tensor is not None and not tensor.dims

    def add_constant(self, name: str, values: list[int]) -> str:
        """Adds a constant tensor of int64 to the graph. Returns its name."""
        self.graph.initializer.append(onnx.numpy_helper.from_array(np.array(values, "int64"), name))
        return name

    def replace(self, name: str, other: str) -> None:
        """Makes all readers of the tensor `name` read the tensor `other`."""
        for node in self.readers.get(name, []):
            rename_reads(node, {name: other})

    def axes(self, node: onnx.NodeProto) -> list[int] | None:
        """Returns the axes of a node, from its attribute or a constant input, or `None` if it has neither."""
        for attribute in node.attribute:
            if attribute.name == "axes":
                return list(attribute.ints)
        return self.constant(node.input[1]) if len(node.input) > 1 else None
