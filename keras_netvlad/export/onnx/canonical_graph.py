"""`sort_graph`, `remove_identities`, `merge_equal_nodes`, `name_graph`: a graph that is the same in every process.

tf2onnx and TensorFlow number names with counters that run as long as the process. These functions derive order and
names from the outputs of the graph, so that the same model always gives the same file.
"""

import re
from collections import Counter
from collections.abc import Collection

import onnx

from keras_netvlad.export.onnx.graph_view import reads, rename_reads, subgraphs

# Two nodes of these types with equal attributes give different values.
RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
# TensorFlow numbers scopes that are entered again: `pool_1` is the layer `pool`.
REPEATED_SCOPE = re.compile(r"_\d+$")


def sort_graph(graph: onnx.GraphProto) -> None:
    """Puts every node after the nodes whose results it reads, in an order that depends on the outputs only.

    Nodes and constants that no output needs are removed. The same happens in every subgraph.

    Args:
        graph: The graph, changed in place.
    """
    for node in graph.node:
        for subgraph in subgraphs(node):
            sort_graph(subgraph)
    makers = {name: node for node in graph.node for name in node.output}
    ordered: dict[str, onnx.NodeProto] = {}  # by first output
    pending = [makers[value.name] for value in reversed(graph.output) if value.name in makers]
    while pending:
        node = pending[-1]
        before = [makers[name] for name in reads(node) if name in makers]
        before = [other for other in before if other.output[0] not in ordered]
        if before:
            pending += reversed(before)
        else:
            pending.pop()
            ordered[node.output[0]] = node
    nodes = list(ordered.values())
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    used = dict.fromkeys([name for node in nodes for name in reads(node)] + [value.name for value in graph.output])
    constants = [tensors[name] for name in used if name in tensors]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)


def remove_identities(graph: onnx.GraphProto, is_main: bool = True) -> None:
    """Removes `Identity` nodes, except where an output is the same tensor as another output, an input or a constant.

    Where the converter puts these nodes depends on the order of its sets.

    Args:
        graph: The graph, changed in place.
        is_main: Boolean, whether the names of the outputs are fixed. Those of a subgraph are not.
    """
    for node in graph.node:
        for subgraph in subgraphs(node):
            remove_identities(subgraph, is_main=False)
    sources = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
    for name in sources:
        while sources[name] in sources:
            sources[name] = sources[sources[name]]
    nodes = [node for node in graph.node if node.op_type != "Identity"]
    made = {name for node in nodes for name in node.output}
    outputs = [value.name for value in graph.output]
    free = made - {name for name in outputs if name not in sources} if is_main else made
    renamed: dict[str, str] = {}  # tensors that take the name of an output
    copies: list[onnx.NodeProto] = []
    for value in graph.output:
        source = sources.get(value.name, value.name)
        if is_main and source == value.name:
            continue
        if source in free:
            free.remove(source)
            if is_main:
                renamed[source] = value.name
            else:
                value.name = source
        else:
            if not is_main:
                value.name = f"{source}/copy_{len(copies)}"
            copies.append(onnx.helper.make_node("Identity", [source], [value.name]))
    del graph.node[:]
    graph.node.extend([*nodes, *copies])
    names = {**renamed, **{name: renamed.get(source, source) for name, source in sources.items()}}
    for node in graph.node:
        rename_reads(node, names)
        node.output[:] = [renamed.get(name, name) for name in node.output]


def merge_equal_nodes(graph: onnx.GraphProto) -> None:
    """Keeps one of several nodes or constants that have the same value, the first in the order of the graph.

    tf2onnx's own merge is switched off: it keeps the first node in the order of a Python set, so two exports of a model
    would name different layers.
    Nodes with subgraphs and nodes that make an output of the graph stay.

    Args:
        graph: A sorted graph, changed in place.
    """
    names: dict[str, str] = {}
    outputs = {value.name for value in graph.output}
    constants: dict[bytes, str] = {}
    for tensor in graph.initializer:
        nameless = onnx.TensorProto()
        nameless.CopyFrom(tensor)
        nameless.ClearField("name")
        names[tensor.name] = constants.setdefault(nameless.SerializeToString(), tensor.name)
    first: dict[tuple, onnx.NodeProto] = {}
    nodes = []
    for node in graph.node:
        rename_reads(node, names)
        for subgraph in subgraphs(node):
            merge_equal_nodes(subgraph)
        if not subgraphs(node) and node.op_type not in RANDOM:
            attributes = sorted(attribute.SerializeToString() for attribute in node.attribute)
            key = (node.domain, node.op_type, *node.input, *attributes, len(node.output))
            kept = first.setdefault(key, node)
            if kept is not node and not outputs.intersection(node.output):
                names.update(zip(node.output, kept.output, strict=True))
                continue
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def name_graph(graph: onnx.GraphProto, scopes: Collection[str], reserved: Collection[str]) -> None:
    """Names nodes, tensors and constants after their layers and operators, numbered in the order of the graph.

    Inputs and outputs of the graph keep their names.

    Args:
        graph: A sorted graph, changed in place.
        scopes: Names of the layers of the model.
        reserved: Names that other tensors will get.
    """
    kept = {value.name for value in (*graph.input, *graph.output)}
    taken = {*reserved, *kept}
    numbers: Counter[str] = Counter()

    def new_name(base: str) -> str:
        name = base
        while name in taken:
            numbers[base] += 1
            name = f"{base}_{numbers[base]}"
        taken.add(name)
        return name

    def name_nodes(graph: onnx.GraphProto, names: dict[str, str]) -> None:
        for tensor in graph.initializer:
            names[tensor.name] = tensor.name = new_name("constant")
        for node in graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.name = new_name("/".join([*_layers(node.name, scopes), node.op_type]))
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    name_subgraph(attribute.g, f"{node.name}/{attribute.name}", names)
            for position, name in enumerate(node.output):
                if name and name not in kept:
                    names[name] = node.name if position == 0 else new_name(f"{node.name}/output")
            node.output[:] = [names.get(name, name) for name in node.output]

    def name_subgraph(graph: onnx.GraphProto, scope: str, outer_names: dict[str, str]) -> None:
        graph.name = scope
        names = dict(outer_names)
        for value in graph.input:
            names[value.name] = value.name = new_name(f"{scope}/input")
        name_nodes(graph, names)
        for value in graph.output:
            value.name = names.get(value.name, value.name)
        # The converter numbers unknown axes. Shape inference finds the types of the other tensors again.
        del graph.value_info[:]
        for value in (*graph.input, *graph.output):
            for dim in value.type.tensor_type.shape.dim:
                dim.ClearField("dim_param")

    name_nodes(graph, {name: name for name in kept})


def _layers(node_name: str, scopes: Collection[str]) -> list[str]:
    """Returns the layers in the name of a node, from the outermost to the innermost."""
    found = []
    for scope in node_name.split("/")[:-1]:
        layer = scope if scope in scopes else REPEATED_SCOPE.sub("", scope)
        if layer in scopes:
            found.append(layer)
    return found
