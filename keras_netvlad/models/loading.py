"""`load_model`: loads a `.keras` file, or explains in one sentence why it cannot."""

import os
import zipfile

import keras

from keras_netvlad.base.validation import check_path


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a model from a `.keras` file in safe mode, which executes no code from the file.

    `keras.models.load_model` also loads `.h5` files, the legacy format of Keras.

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
        FileNotFoundError: If the file does not exist.
        TypeError: If `path` is not a path.
        ValueError: If the file is not a complete `.keras` file, or needs layers that are not registered.
    """
    file = check_path("path", path)
    if not file.is_file():
        raise FileNotFoundError(f"The model must be a .keras file written by model.save(). Received: {file}, no file")
    if file.suffix != ".keras" or not zipfile.is_zipfile(file):
        raise ValueError(
            f"The model must be a whole .keras file written by model.save(); save it again. Received: {file}"
        )
    try:
        return keras.saving.load_model(file)
    except Exception as error:
        # Keras raises different exceptions depending on which part is damaged.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].removeprefix("\x1b[1m").strip()
        raise ValueError(
            "The model could not be rebuilt from its .keras file; save it again, or import the module that registers "
            f"its layers first (`--import MODULE` of the command). Received: {file} ({reason})"
        ) from error
