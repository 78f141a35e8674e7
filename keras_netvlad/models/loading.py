"""`load_model`: a `.keras` file, or a sentence that says why not."""

import zipfile

import keras

from keras_netvlad.base.validation import check_path


def load_model(path):
    """Loads a model from a `.keras` file in safe mode: nothing in the file is executed.

    Args:
        path: Path of a file that `model.save("name.keras")` wrote.

    Returns:
        The `keras.Model`.

    Example:

    >>> import os, tempfile
    >>> from keras_netvlad.models import VideoClassifier, load_model
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "model.keras")
    ...     VideoClassifier({"frames": 8}, num_classes=3, num_clusters=2).save(path)
    ...     load_model(path).feature_sizes
    {'frames': 8}

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If `path` is no path.
        ValueError: If it is no whole `.keras` file, or needs layers that are not registered here.
    """
    path = check_path("path", path)
    if not path.is_file():
        raise FileNotFoundError(f"The model must be a .keras file written by model.save(). Received: {path}, no file")
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ValueError(
            f"The model must be a whole .keras file written by model.save(); save it again. Received: {path}"
        )
    try:
        return keras.saving.load_model(path)
    except Exception as error:
        # Keras raises whatever the damaged part happens to break; the cause stays attached.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].removeprefix("\x1b[1m").strip()
        raise ValueError(
            "The model could not be rebuilt from its .keras file; save it again, or import what registers its "
            f"layers first. Received: {path} ({reason})"
        ) from error
