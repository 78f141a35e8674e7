"""`load_model`: loads a `.keras` file, or explains in one sentence why it cannot."""

import concurrent.futures
import json
import math
import os
import zipfile
from pathlib import Path
from typing import Any

import keras

from keras_netvlad.base.declared_sizes import check_declared_bytes
from keras_netvlad.base.validation import check_path
from keras_netvlad.models.declared_weights import check_declared_weights

CONFIG = "config.json"


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a model from a `.keras` file in safe mode, which executes no code from the file.

    `keras.models.load_model` also loads `.h5` files, the legacy format of Keras, and accepts files that declare layers
    or weights far larger than the file.

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
        ValueError: If the file is not a complete `.keras` file, needs layers that are not registered, or declares more
            than 256 MiB of weights and more than 100 times its own size.
    """
    file = check_path("path", path)
    if not file.is_file():
        raise FileNotFoundError(
            f"The model must be a .keras file written by model.save(). Received: {file}, which is not a file"
        )
    if file.suffix != ".keras" or not zipfile.is_zipfile(file):
        raise ValueError(
            f"The model must be a whole .keras file written by model.save(); save it again. Received: {file}"
        )
    try:
        _check_sizes(file)
        return keras.saving.load_model(file)
    except Exception as error:
        # Keras raises different exceptions depending on which part is damaged.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].removeprefix("\x1b[1m").strip()
        raise ValueError(
            "The model could not be rebuilt from its .keras file; save it again, or import the module that registers "
            f"its layers first (`--import MODULE` of the command). Received: {file} ({reason})"
        ) from error


def _check_sizes(file: Path) -> None:
    """Raises `ValueError` if the file declares far more data than it holds: as a member, an array or a layer."""
    check_declared_weights(file)
    with zipfile.ZipFile(file) as archive:
        config = json.loads(archive.read(CONFIG))
    # Keras keeps uninitialized variables and automatic names for each thread, so this thread leaves no trace.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        counted = pool.submit(_count_bytes, config)
    # A layer that needs the values of its weights when it is built cannot be counted. Loading reports all other errors.
    if counted.exception() is None:
        check_declared_bytes(file, counted.result(), "layers")


def _count_bytes(config: dict[str, Any]) -> int:
    """Returns the number of bytes of a model's weights without making them. All are counted as float32."""
    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object({**config, "compile_config": None}, safe_mode=True)
        return 4 * sum(math.prod(variable.shape) for variable in model.variables)
