"""`quantize_kernels`: large dense kernels of a LiteRT file in int8, for the dynamically quantized product of LiteRT.

TensorFlow's converter would quantize every weight of 1024 values or more, those of the pooling included, whose rounding
the intra-normalization magnifies. Here only the kernels behind the pooling change, as in ONNX files.
"""

import hashlib
from collections.abc import Mapping

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from keras_netvlad.export.litert.litert_file import IDENTIFIER, MIN_RUNTIME_VERSION
from keras_netvlad.export.onnx.int8_kernel import column_scale, int8_kernel
from keras_netvlad.export.onnx.weights import WeightValues

# LiteRT reads weights in place. Its processors' instructions want this alignment, which the schema declares.
ALIGNMENT = 16
# The first version of the operator whose int8 kernel has a scale for each unit, and the first TensorFlow with it.
PRODUCT_VERSION, RUNTIME_VERSION = 12, b"2.17.0"
# Files from this size on store weights outside of the flatbuffer.
MAX_BYTES = 2**31


def quantize_kernels(content: bytearray, kernels: Mapping[str, WeightValues]) -> bytes:
    """Returns the content of a LiteRT file with some dense kernels in int8.

    A kernel has one scale for each of its columns. LiteRT rounds the rows that it is multiplied with to 8 bits as well,
    with one scale for each row, so that no video depends on the others of its batch.

    Args:
        content: Content of a LiteRT file in float32.
        kernels: Dict from any name to a kernel `(rows, columns)`.

    Raises:
        ValueError: If a kernel is not in the file as a factor of a product, has values that are not finite, or the file
            is too large.
    """
    if len(content) >= MAX_BYTES:
        raise ValueError(
            "`precision` 'int8' needs a model of less than 2 GB in float32; export it to ONNX. Received: "
            f"{len(content) / 1e9:.1f} GB"
        )
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    stored = {_digest(np.ascontiguousarray(kernel.values.T, "<f4")): kernel for kernel in kernels.values()}
    sizes = {4 * kernel.values.size for kernel in kernels.values()}
    digests = {
        index: _digest(buffer.data)
        for index, buffer in enumerate(model.buffers)
        if buffer.data is not None and len(buffer.data) in sizes
    }
    found = {index: stored[digest] for index, digest in digests.items() if digest in stored}
    scales = {index: column_scale(kernel.name, kernel.values) for index, kernel in found.items()}
    code = _add_operator_code(model)
    unread = set(found)
    for graph in model.subgraphs:
        for operator in graph.operators:
            for position, tensor_index in enumerate(operator.inputs):
                index = graph.tensors[tensor_index].buffer if tensor_index >= 0 else None
                if index not in found:
                    continue
                if position != 1 or not _is_product(model, operator, code):
                    raise _unknown_use(found[index])
                _quantize_tensor(graph.tensors[tensor_index], scales[index])
                operator.opcodeIndex = code
                operator.builtinOptions.asymmetricQuantizeInputs = True
                unread.discard(index)
    missing = [kernel for kernel in kernels.values() if kernel.name not in {one.name for one in found.values()}]
    for kernel in [*missing, *(found[index] for index in unread)]:
        raise _unknown_use(kernel)
    for index, kernel in found.items():
        levels = np.concatenate(list(int8_kernel(kernel.name, kernel.values, scales[index]).blocks()))
        model.buffers[index].data = np.ascontiguousarray(levels.T).view(np.uint8).ravel()
    for entry in model.metadata:
        if entry.name == MIN_RUNTIME_VERSION:
            buffer = model.buffers[entry.buffer]
            versions = (bytes(buffer.data).rstrip(b"\0"), RUNTIME_VERSION)
            latest = max(versions, key=lambda version: [int(part) for part in version.split(b".")])
            buffer.data = np.frombuffer(latest.ljust(len(buffer.data), b"\0"), np.uint8)
    builder = _AlignedBuilder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


class _AlignedBuilder(flatbuffers.Builder):
    """Writes every array at a multiple of `ALIGNMENT`, which Python's flatbuffers does not read from the schema."""

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        self.StartVector(x.itemsize, x.size, ALIGNMENT)
        self.head = self.Head() - x.nbytes
        self.Bytes[self.Head() : self.Head() + x.nbytes] = x.tobytes()
        self.vectorNumElems = x.size
        return self.EndVector()


def _digest(values: np.ndarray) -> bytes:
    return hashlib.sha256(values.tobytes()).digest()


def _add_operator_code(model: schema.ModelT) -> int:
    """Adds the version of the product that takes int8 kernels, and returns its index."""
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = PRODUCT_VERSION
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _is_product(model: schema.ModelT, operator: schema.OperatorT, code: int) -> bool:
    builtin = model.operatorCodes[operator.opcodeIndex].builtinCode
    return operator.opcodeIndex == code or builtin == schema.BuiltinOperator.FULLY_CONNECTED


def _quantize_tensor(tensor: schema.TensorT, scale: np.ndarray) -> None:
    tensor.type = schema.TensorType.INT8
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale = scale
    tensor.quantization.zeroPoint = np.zeros(scale.shape, np.int64)
    tensor.quantization.quantizedDimension = 0


def _unknown_use(kernel: WeightValues) -> ValueError:
    return ValueError(
        "`precision` 'int8' needs kernels that the converter writes as factors of products; export with "
        f"precision='float32', or to ONNX. Received: {kernel.name!r}"
    )
