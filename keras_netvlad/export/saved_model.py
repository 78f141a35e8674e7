"""`export_saved_model`: writes a model as a SavedModel that TensorFlow Serving loads."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_netvlad.base.atomic_files import staged
from keras_netvlad.base.full_disk_error import write_error
from keras_netvlad.base.stages import stage
from keras_netvlad.export.forward import forward, weights_of
from keras_netvlad.export.metadata import check_metadata
from keras_netvlad.export.model_signature import structure_inputs
from keras_netvlad.export.parity_file import write_parity
from keras_netvlad.export.pictures import picture_facts
from keras_netvlad.export.reason import explained_tracing, reason_of
from keras_netvlad.export.serving_signatures import serving_signatures
from keras_netvlad.export.signature import SERVING_DEFAULT, Signature
from keras_netvlad.export.verification.options import check_options
from keras_netvlad.export.verification.real_data import RealData
from keras_netvlad.export.verification.report import Report
from keras_netvlad.export.verification.staged_artifact import verify_staged


def export_saved_model(
    model: keras.Model,
    directory: str | os.PathLike[str],
    verify: bool = True,
    *,
    tolerance: float | None = None,
    data: RealData | None = None,
    min_agreement: float | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Report | None:
    """Writes a model as a TensorFlow SavedModel and verifies it before it appears.

    The signature `serving_default` has the model's own input and output names, with a dynamic batch and dynamic
    frames. A model of frame streams and `num_frames` also gets signatures for bytes (`serve_quantized`), for records
    (`serve_examples`) and for live streams (`accumulate`, `describe`). The directory contains TensorFlow ops only,
    neither Keras nor `keras_netvlad`. It stores each weight once, and the result of the verification in `parity.json`.
    `keras.layers.TFSMLayer(directory)` loads it as a Keras layer, which takes the model's inputs.

    Args:
        model: A functional or Sequential Keras model with named inputs.
        directory: Path that does not exist yet. TensorFlow Serving expects `<name>/<integer version>`.
        verify: Boolean, whether to compare the artifact with the model before it appears.
        tolerance, data, min_agreement: See `verify`.
        metadata: Dict of JSON values to store with the artifact, such as `{"labels": [...], "trained_on": "..."}`.
            `labels` must name the classes of an output.

    Returns:
        The `Report` of the verification, or `None` if `verify` is `False`.

    Example:

    >>> import os, tempfile
    >>> from keras_netvlad import VideoClassifier
    >>> from keras_netvlad.export import export_saved_model
    >>> model = VideoClassifier({"frames": 8}, num_classes=3, num_clusters=2)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     report = export_saved_model(model, os.path.join(directory, "classifier", "1"))
    >>> report.ok
    True

    Raises:
        TypeError: If `model` is not a functional or Sequential Keras model.
        ValueError: If the model cannot be exported or an argument is invalid.
        ParityError: If the artifact does not compute what the model computes. Nothing is written.
        OSError: If the directory exists or cannot be written.
    """
    return write_verified_saved_model(
        model,
        serving_signatures(model),
        directory,
        verify,
        tolerance=tolerance,
        data=data,
        min_agreement=min_agreement,
        metadata=metadata,
    )


def write_verified_saved_model(
    model: keras.Model,
    signatures: Mapping[str, Signature],
    directory: str | os.PathLike[str],
    verify: bool = True,
    *,
    tolerance: float | None = None,
    data: RealData | None = None,
    min_agreement: float | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Report | None:
    """Does the work of `export_saved_model` with signatures that the caller has computed."""
    metadata = {**check_metadata(metadata, signatures[SERVING_DEFAULT].outputs), **picture_facts(model)}
    data = check_options(signatures[SERVING_DEFAULT], tolerance, data, min_agreement)
    with staged(directory) as path:
        precision = write_saved_model(model, signatures, path)
        report = verify_staged(model, signatures, path, directory, tolerance, data, min_agreement) if verify else None
        write_parity(path, None if report is None else report.as_dict(), metadata, precision)
        return report


def write_saved_model(
    model: keras.Model, signatures: Mapping[str, Signature], path: Path, keras_endpoint: bool = True
) -> str:
    """Writes the files of a SavedModel, without verification and without `parity.json`. Returns its precision.

    `keras_endpoint` adds the function that `keras.layers.TFSMLayer` calls. The converter to LiteRT would take it for
    the only signature.
    """
    module = tf.Module()
    # Tracked as plain variables: the session loader of TensorFlow Serving finds them, and each weight is stored once.
    # Keras's own export stores each weight twice.
    module.state = [variable.value for variable in weights_of(model)]
    module.resources = _resources(model)
    try:
        with stage("writing the SavedModel"):
            traced = {name: _trace(model, signature, module.state) for name, signature in signatures.items()}
            if keras_endpoint:
                module.serve = _keras_endpoint(model, signatures[SERVING_DEFAULT], traced[SERVING_DEFAULT])
            tf.saved_model.save(module, str(path), signatures=traced)
    except AssertionError as error:  # a function uses a variable or resource that no layer owns
        raise ValueError(
            "Every variable and table that the model uses must belong to one of its layers; create them with "
            f"`add_weight`, or as attributes of a layer. Received: {reason_of(error)}"
        ) from error
    except tf.errors.OpError as error:  # TensorFlow does not raise OSError on a full disk
        raise write_error(error.message, path) from error
    return _precision(model)


def _precision(model: keras.Model) -> str:
    """Returns the dtype of weights and computations, such as `"float32"`, or `"mixed_bfloat16"` if they differ."""
    dtypes = {weight.dtype for weight in weights_of(model)}
    for layer in model._flatten_layers(include_self=False):
        if layer.weights and not isinstance(layer, keras.Model):
            dtypes |= {layer.compute_dtype, getattr(layer, "product_dtype", None)}
    floats = sorted(dtype for dtype in dtypes - {None} if "float" in dtype)
    return floats[0] if len(floats) == 1 else "_".join(["mixed", *(dtype for dtype in floats if dtype != "float32")])


def _resources(model: keras.Model) -> list[Any]:
    """Returns the resources of a model that are not weights, such as the table of a `StringLookup`."""
    return [
        resource
        for layer in model._flatten_layers()
        for resource in tf.train.TrackableView(layer).descendants()
        if isinstance(resource, tf.saved_model.experimental.TrackableResource)
    ]


def _trace(model: keras.Model, signature: Signature, state: Sequence[tf.Variable]) -> Callable[..., Any]:
    batched = [port.name for port in signature.inputs if port.shape and port.shape[0] is None]

    @tf.function(autograph=False)  # as Keras traces models
    def serve(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        if len(batched) > 1:
            # Otherwise, `num_frames` of one video would be used for all videos.
            rows = tf.stack([tf.shape(inputs[name])[0] for name in batched])
            sentence = f"The inputs {', '.join(batched)} must have the same number of rows. Received:"
            tf.debugging.Assert(tf.reduce_all(rows == rows[0]), [sentence, rows], summarize=len(batched))
        return forward(model, signature, state, inputs)

    with explained_tracing():
        return serve.get_concrete_function(
            **{port.name: tf.TensorSpec(port.shape, port.dtype, port.name) for port in signature.inputs}
        )


def _keras_endpoint(model: keras.Model, signature: Signature, traced: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function `serve`, which `keras.layers.TFSMLayer` calls. It takes and returns what the model does.

    It calls the function of `serving_default`, so that the SavedModel holds the model's graph once.
    """
    specs = {port.name: tf.TensorSpec(port.shape, port.dtype, port.name) for port in signature.inputs}
    is_single = isinstance(model, keras.Sequential) or isinstance(model.output, keras.KerasTensor)

    @tf.function(input_signature=[structure_inputs(model, signature.inputs, specs)], autograph=False)
    def serve(inputs: Any) -> Any:
        if not isinstance(inputs, dict):
            inputs = dict(zip(specs, keras.tree.flatten(inputs), strict=True))
        outputs = traced(**inputs)
        if not is_single and isinstance(model.output, dict):
            return outputs
        listed = [outputs[port.name] for port in signature.outputs]
        return listed[0] if is_single else listed

    return serve
