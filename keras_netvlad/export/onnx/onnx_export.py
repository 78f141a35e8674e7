"""`export_onnx`: writes a signature of a model as an ONNX file."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras

from keras_netvlad.base.atomic_files import staged
from keras_netvlad.base.stages import stage
from keras_netvlad.base.validation import check_choice
from keras_netvlad.export.forward import weights_of
from keras_netvlad.export.metadata import check_metadata
from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.export.onnx.conversion import check_opset, convert_graph, infer_types, placeholder
from keras_netvlad.export.onnx.file_metadata import SIGNATURE, WEIGHTS_DIGEST, append_metadata
from keras_netvlad.export.onnx.precision import Precision, check_precision, graph_precision, reduce_precision
from keras_netvlad.export.onnx.stored_tensor import stored_tensor
from keras_netvlad.export.onnx.weights import attach_weights, read_weights
from keras_netvlad.export.parity_file import write_parity
from keras_netvlad.export.pictures import Layout, as_pictures, picture_facts
from keras_netvlad.export.serving_signatures import (
    ACCUMULATE,
    DESCRIBE,
    ONNX_SIGNATURES,
    check_offered,
    serving_signatures,
)
from keras_netvlad.export.signature import SERVING_DEFAULT, Signature
from keras_netvlad.export.verification.options import check_options
from keras_netvlad.export.verification.real_data import RealData
from keras_netvlad.export.verification.report import Report
from keras_netvlad.export.verification.staged_artifact import verify_staged
from keras_netvlad.export.verification.tolerance import default_tolerance
from keras_netvlad.layers.frame_pooling import FramePooling


def export_onnx(
    model: keras.Model,
    path: str | os.PathLike[str],
    opset: int = 18,
    verify: bool = True,
    external_data_threshold: int = 100_000_000,
    precision: Precision = "float32",
    *,
    tolerance: float | None = None,
    data: RealData | None = None,
    min_agreement: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    signature: Literal["serving_default", "serve_quantized", "accumulate", "describe"] = "serving_default",
    layout: Layout | None = None,
    size: Sequence[int] | None = None,
) -> Report | None:
    """Writes a signature of a model as an ONNX file and verifies it before it appears.

    Inputs and outputs have the model's own names. The dynamic axes are called `batch` and `frames`. The weights are
    copied from the Keras variables into the file without passing through the converter, so that large models need
    little extra time and memory. A file contains only the weights that its signature uses.

    Args:
        model: A functional or Sequential Keras model with named inputs.
        path: Path ending in `.onnx` that does not exist yet.
        opset: Integer, ONNX operator set, 13 to 18.
        verify: Boolean, whether to compare the artifact with the model before it appears.
        external_data_threshold: Integer. Weights of this many bytes or more are written to a second file,
            `<path>.data`, which has to stay next to the first. ONNX cannot hold 2 GB or more in one file.
        precision: Precision of the dense kernels behind the pooling, which contain nearly all bytes of a video model.
            Pooling, biases, activations, inputs and outputs stay float32. One of:

            - `"float32"` keeps the model's own precision, which the metadata of the file name, such as
              `"mixed_float16"` for a model with this policy. Parts that compute in bfloat16, `product_dtype` included,
              are written in float32, because ONNX Runtime has no bfloat16 products on CPUs.
            - `"float16"`, for GPUs, halves the size. A CPU converts the kernels back and is as fast as with float32.
            - `"int8"`, for CPUs: kernels of a million values or more take a quarter of the size and a third of the
              time at batch 1. GPU providers run such products on the CPU.
            - `"int8-qdq"`, for GPUs and TensorRT, with the same size: `QuantizeLinear` and `DequantizeLinear` around
              each product. The verification runs it in float32, because the CPU's product of 8 bits saturates on some
              processors.
        tolerance: See `verify`. The default is at least 2e-3 for float16 and 5e-2 for both forms of int8.
        data, min_agreement: See `verify`. Use real data to measure how much accuracy a reduced precision costs.
        metadata: See `export_saved_model`. It is stored in `<path>.parity.json`, and in the metadata of the ONNX file
            together with `precision`, `feature_sizes`, `signature`, the largest differences (`parity`) and a digest of
            the weights (`weights_sha256`).
        signature: The function that the file computes. `"serving_default"` is the model itself. `"serve_quantized"`
            takes its streams as `uint8`. `"accumulate"` and `"describe"`, in two files, serve live streams of any
            length: `accumulate` adds a chunk of frames to the sums so far, `describe` computes the outputs from the
            sums. ONNX has one namespace for inputs and outputs, so `accumulate` takes the sums so far as
            `past.NAME` and returns the new ones as `NAME`, which are the inputs of `describe`.
        layout, size: If one is given, the file describes single pictures: the `picture_model` of a model from pixels or
            of pictures, with `layout` `"nhwc"` (the default) or `"nchw"`, and `size` (height, width) or `None` for any
            size. The preprocessing is in the graph. The metadata of the file name `layout` and `input_size`, and of a
            `PicturePreprocessing` also `channels` and `normalization`.

    Returns:
        The `Report` of the verification, or `None` if `verify` is `False`.

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
        TypeError: If `model` is not a functional or Sequential Keras model.
        ValueError: If the model cannot be exported, does not offer `signature`, has no kernel to which `precision`
            applies, or an argument is invalid.
        ParityError: If the artifact does not compute what the model computes. Nothing is written.
        OSError: If the file exists or cannot be written.
    """
    check_opset(opset)
    check_precision(precision)
    if Path(path).suffix != ".onnx":
        raise ValueError(f"`path` must end in .onnx. Received: {str(path)!r}")
    check_choice("signature", signature, ONNX_SIGNATURES)
    model = as_pictures(model, layout, size)
    if signature == ACCUMULATE and precision != "float32":
        raise ValueError(
            f"`precision` applies to dense layers behind the pooling, which `{DESCRIBE}` contains; export "
            f"`{ACCUMULATE}` with precision='float32'. Received: precision={precision!r}"
        )
    signatures: Mapping[str, Signature]
    if signature == SERVING_DEFAULT:
        signatures = {SERVING_DEFAULT: read_signature(model)}
    else:
        signatures = serving_signatures(model)
        check_offered(model, signatures, signature)
    return write_verified_onnx(
        model,
        signatures,
        path,
        opset,
        verify,
        external_data_threshold,
        precision,
        tolerance=tolerance,
        data=data,
        min_agreement=min_agreement,
        metadata=metadata,
        name=signature,
    )


def write_verified_onnx(
    model: keras.Model,
    signatures: Mapping[str, Signature],
    path: str | os.PathLike[str],
    opset: int = 18,
    verify: bool = True,
    external_data_threshold: int = 100_000_000,
    precision: str = "float32",
    *,
    tolerance: float | None = None,
    data: RealData | None = None,
    min_agreement: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    name: str = SERVING_DEFAULT,
) -> Report | None:
    """Does the work of `export_onnx` with valid arguments and signatures that the caller has computed.

    `name` is the signature to write. For `serving_default`, this signature is enough.
    """
    default = signatures[SERVING_DEFAULT]
    metadata = {**check_metadata(metadata, default.outputs), **picture_facts(model)}
    data = check_options(default, tolerance, data, min_agreement)
    if tolerance is None:
        tolerance = default_tolerance(model, precision)
    with staged(path) as stage:
        stored_precision = write_onnx(model, signatures[name], stage, opset, external_data_threshold, precision)
        report = None
        if verify:
            report = verify_staged(model, signatures, stage, path, tolerance, data, min_agreement)
        parity = None if report is None else report.as_dict()
        append_metadata(stage, default, stored_precision, metadata, parity)
        write_parity(stage, parity, metadata, stored_precision, name)
        return report


def write_onnx(
    model: keras.Model,
    signature: Signature,
    path: Path,
    opset: int,
    external_data_threshold: int,
    precision: str = "float32",
) -> str:
    """Writes the files of an ONNX model. The only metadata is the name of the signature; nothing is verified.

    Returns:
        `precision`; or the model's own precision, as `graph_precision` names it, if `precision` is `"float32"`.
    """
    weights = weights_of(model)
    with stage("converting the model to ONNX"):
        proto = convert_graph(model, signature, weights, opset)
    values = read_weights(proto, weights)
    tensors = {name: stored_tensor(*weight) for name, weight in values.items()}
    if precision == "float32":
        precision = graph_precision(proto, values)
    else:
        tensors |= reduce_precision(proto, values, pooling_weights(model), precision)
        proto = infer_types(proto)
    with stage("writing the weights of the ONNX file"):
        digest = attach_weights(proto, tensors, path, external_data_threshold)
        proto.metadata_props.add(key=SIGNATURE, value=signature.name)
        proto.metadata_props.add(key=WEIGHTS_DIGEST, value=digest)
        path.write_bytes(proto.SerializeToString())
    return precision


def pooling_weights(model: keras.Model) -> set[str]:
    """Returns the names of the inputs of a converted graph that stand for weights of pooling layers."""
    poolings = [layer for layer in model._flatten_layers() if isinstance(layer, FramePooling)]
    ids = {id(weight) for layer in poolings for weight in layer.weights}
    return {placeholder(index) for index, weight in enumerate(weights_of(model)) if id(weight) in ids}
