"""`export_saved_model`: a model as a directory that TensorFlow Serving loads."""

import tensorflow as tf

from keras_netvlad.export.signature import forward, read_signature, weights_of
from keras_netvlad.export.staging import staged
from keras_netvlad.export.verification import checked


def export_saved_model(model, directory, verify=True):
    """Writes a model as a TensorFlow SavedModel, verified before it appears.

    The signature `serving_default` bears the model's own input and output names, with a dynamic batch and dynamic
    frames. The directory holds TensorFlow ops only, no Keras and no `keras_netvlad`, and each weight once.

    Args:
        model: A functional or Sequential Keras model with named inputs.
        directory: Path that does not exist yet. TensorFlow Serving wants `<name>/<integer version>`.
        verify: Boolean, whether to run the artefact beside the model before it appears.

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
        ValueError, TypeError: If the model is not one that can be exported.
        ParityError: If the artefact computes something else than the model. Nothing is written then.
        OSError: If the directory exists or can't be written.
    """
    signature = read_signature(model)
    with staged(directory) as path:
        write_saved_model(model, signature, path)
        return checked(model, path, directory) if verify else None


def write_saved_model(model, signature, path):
    """Writes the files of a SavedModel, nothing more."""
    module = tf.Module()
    # Tracked as plain variables: found by the session loader that TensorFlow Serving uses, and stored once, where
    # Keras's own export stores each weight twice.
    module.state = [variable.value for variable in weights_of(model)]

    @tf.function
    def serve(**inputs):
        return forward(model, signature, module.state, inputs)

    serving_default = serve.get_concrete_function(
        **{port.name: tf.TensorSpec(port.shape, port.dtype, port.name) for port in signature.inputs}
    )
    tf.saved_model.save(module, str(path), signatures={"serving_default": serving_default})
