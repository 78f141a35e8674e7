"""`read_litert`: reads the facts about a LiteRT file, without running it."""

import math
import struct
from collections import Counter
from pathlib import Path

from tensorflow.lite.python import schema_py_generated as schema

from keras_netvlad.export.signature import SERVING_DEFAULT
from keras_netvlad.export.verification.artefact import Ports

IDENTIFIER = b"TFL3"
DTYPES = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
MIN_RUNTIME_VERSION = b"min_runtime_version"


def read_litert(path: Path) -> tuple[str, dict[str, tuple[Ports, Ports]], dict[str, int]]:
    """Reads a LiteRT file.

    Returns:
        The program that wrote the file and the runtime that it needs, its signatures by name, and the number of stored
        values by dtype.

    Raises:
        ValueError: If the file is damaged or has another format.
    """
    content = path.read_bytes()
    try:
        if content[4:8] != IDENTIFIER:
            raise ValueError("it has another identifier")
        model = schema.Model.GetRootAs(content, 0)
        graphs = [model.Subgraphs(index) for index in range(_checked(model.SubgraphsLength(), content))]
        # Damaged offsets may make many graphs out of the same bytes.
        _checked(sum(graph.TensorsLength() for graph in graphs), content)
        signatures = {}
        for index in range(_checked(model.SignatureDefsLength(), content)):
            entry = model.SignatureDefs(index)
            graph = graphs[entry.SubgraphIndex()]
            inputs = {entry.Inputs(number) for number in range(_checked(entry.InputsLength(), content))}
            outputs = {entry.Outputs(number) for number in range(_checked(entry.OutputsLength(), content))}
            signatures[entry.SignatureKey().decode()] = (_ports(graph, inputs), _ports(graph, outputs))
        names = sorted(signatures, key=lambda name: (name != SERVING_DEFAULT, name))
        return _made_with(model, content), {name: signatures[name] for name in names}, _stored(model, graphs)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, struct.error) as error:
        # The accessors of flatbuffers follow damaged offsets until Python raises one of these.
        raise ValueError(
            f"The file must be a LiteRT model; export it again. Received: {path}, which is damaged or has another "
            "format"
        ) from error


def _checked(length: int, content: bytes) -> int:
    """Returns the length of a vector, or raises if the file cannot contain it."""
    if not 0 <= length <= len(content) // 4:
        raise ValueError("a vector is longer than the file")
    return length


def _ports(graph: schema.SubGraph, entries: set[schema.TensorMap]) -> Ports:
    ports = {}
    for entry in entries:
        tensor = graph.Tensors(entry.TensorIndex())
        sizes = tensor.ShapeSignatureAsNumpy() if tensor.ShapeSignatureLength() else tensor.ShapeAsNumpy()
        shape = tuple(None if size < 0 else int(size) for size in sizes) if tensor.ShapeLength() else ()
        ports[entry.Name().decode()] = (shape, DTYPES[tensor.Type()])
    return dict(sorted(ports.items()))


def _stored(model: schema.Model, graphs: list[schema.SubGraph]) -> dict[str, int]:
    """Counts the values of all buffers. Several tensors may share a buffer."""
    buffers = {}
    for graph in graphs:
        for index in range(graph.TensorsLength()):
            tensor = graph.Tensors(index)
            buffer = model.Buffers(tensor.Buffer())
            if buffer.DataLength() or buffer.Size():
                size = math.prod(int(size) for size in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else 1
                buffers[tensor.Buffer()] = (DTYPES[tensor.Type()], size)
    stored: Counter[str] = Counter()
    for dtype, size in buffers.values():
        stored[dtype] += size
    return dict(stored)


def _made_with(model: schema.Model, content: bytes) -> str:
    for index in range(_checked(model.MetadataLength(), content)):
        entry = model.Metadata(index)
        if entry.Name() == MIN_RUNTIME_VERSION:
            version = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes().rstrip(b"\0").decode()
            return f"TensorFlow's converter, for LiteRT or TensorFlow Lite {version} or later"
    return "an unknown converter"
