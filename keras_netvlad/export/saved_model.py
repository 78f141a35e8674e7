"""`export_saved_model`: a model as a directory that TensorFlow Serving loads."""

import tensorflow as tf

from keras_netvlad.base.atomic_files import staged
from keras_netvlad.export.model_signature import forward, weights_of
from keras_netvlad.export.parity_file import check_metadata, write_parity
from keras_netvlad.export.serving_signatures import serving_signatures
from keras_netvlad.export.verification.verify import checked


def export_saved_model(model, directory, verify=True, *, tolerance=None, data=None, min_agreement=None, metadata=None):
    """Writes a model as a TensorFlow SavedModel, verified before it appears.

    The signature `serving_default` bears the model's own input and output names, with a dynamic batch and dynamic
    frames. A model of frame streams and `num_frames` is also served from bytes (`serve_quantized`), from records
    (`serve_examples`) and chunk by chunk (`accumulate`, `describe`). The directory holds TensorFlow ops only, no Keras
    and no `keras_netvlad`, each weight once, and `parity.json`: what was verified.

    Args:
        model: A functional or Sequential Keras model with named inputs.
        directory: Path that does not exist yet. TensorFlow Serving wants `<name>/<integer version>`.
        verify: Boolean, whether to run the artefact beside the model before it appears.
        tolerance, data, min_agreement: As of `verify`.
        metadata: Dict of JSON values to keep with the artefact, such as `{"labels": [...], "trained_on": "..."}`.
            `labels` must name the classes of an output.

    Returns:
        The `Report` of the verification, or `None` if `verify` is false.

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
        ValueError, TypeError: If the model is not one that can be exported, or an argument is none of the above.
        ParityError: If the artefact computes something else than the model. Nothing is written then.
        OSError: If the directory exists or can't be written.
    """
    signatures = serving_signatures(model)
    metadata = check_metadata(metadata, signatures)
    with staged(directory) as path:
        write_saved_model(model, signatures, path)
        report = checked(model, path, directory, tolerance, data, min_agreement) if verify else None
        write_parity(path, report, metadata)
        return report


def write_saved_model(model, signatures, path):
    """Writes the files of a SavedModel, nothing more."""
    module = tf.Module()
    # Tracked as plain variables: found by the session loader that TensorFlow Serving uses, and stored once, where
    # Keras's own export stores each weight twice.
    module.state = [variable.value for variable in weights_of(model)]
    traced = {name: _trace(model, signature, module.state) for name, signature in signatures.items()}
    try:
        tf.saved_model.save(module, str(path), signatures=traced)
    except tf.errors.OpError as error:  # a full disk is no OSError to TensorFlow
        raise OSError(f"The SavedModel could not be written. Received: {error.message}") from error


def _trace(model, signature, state):
    @tf.function
    def serve(**inputs):
        return forward(model, signature, state, inputs)

    return serve.get_concrete_function(
        **{port.name: tf.TensorSpec(port.shape, port.dtype, port.name) for port in signature.inputs}
    )
