"""`publish_triton`: writes a model as the next version in a model repository of Triton Inference Server."""

import errno
import hashlib
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import onnx

from keras_netvlad.base.atomic_files import staged
from keras_netvlad.base.validation import check_boolean, check_integer
from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.export.onnx.conversion import check_opset
from keras_netvlad.export.onnx.onnx_export import write_verified_onnx
from keras_netvlad.export.onnx.precision import check_precision
from keras_netvlad.export.serving.model_versions import check_model_name, next_version
from keras_netvlad.export.serving.triton_config import port_lines, triton_config
from keras_netvlad.export.signature import Signature
from keras_netvlad.export.verification.parity_error import ParityError
from keras_netvlad.export.verification.real_data import RealData
from keras_netvlad.export.verification.report import Report

CONFIG = "config.pbtxt"
MODEL = "model.onnx"


def publish_triton(
    model: keras.Model,
    repository: str | os.PathLike[str],
    name: str | None = None,
    version: int | None = None,
    *,
    precision: Literal["float32", "float16", "int8"] = "float32",
    device: Literal["gpu", "cpu"] = "gpu",
    tensorrt: bool = False,
    max_batch_size: int = 32,
    preferred_batch_sizes: Sequence[int] = (),
    max_queue_delay_microseconds: int = 2000,
    warmup_frames: Sequence[int] = (1, 300),
    profile_frames: Sequence[int] = (1, 300, 1024),
    engine_cache: str | os.PathLike[str] = "/tmp/tensorrt",
    verify: bool = True,
    opset: int = 18,
    external_data_threshold: int = 100_000_000,
    tolerance: float | None = None,
    data: RealData | None = None,
    min_agreement: float | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Report | None:
    """Publishes a model as `<repository>/<name>/<version>/model.onnx` for Triton's onnxruntime backend.

    The first version also writes `<repository>/<name>/config.pbtxt`. Later versions do not change this file, even if it
    was edited. They must have the inputs and outputs that it names, and a warning lists the file if its options differ.

    The version is written and verified in a temporary directory and appears by one rename. Triton treats every
    directory in a repository as a model, including hidden ones. The temporary directory
    `.<repository>.<name>.*.partial` is therefore next to the repository, and both must be on one file system. If the
    process is killed, this directory remains and may be deleted.

    Args:
        model: A functional or Sequential Keras model with named inputs and the batch first.
        repository: Directory of all models. It is created if it does not exist.
        name: Name under which the model is served. The default is the model's own name.
        version: Positive integer that does not exist yet. The default is the highest existing version plus one.
        precision: See `export_onnx`.
        device: `"gpu"` or `"cpu"`. Triton does not load a model for a GPU on a machine without one.
        tensorrt: Boolean, whether onnxruntime passes the graph to TensorRT, which builds an engine when the server
            loads the model. This takes minutes. It needs a GPU and `precision="float32"`.
        max_batch_size: Integer, largest number of rows that the server merges and that a request may have.
        preferred_batch_sizes: Integers up to `max_batch_size`. A batch of such a size does not wait for more requests.
            TensorRT's engine is tuned for the largest of them, or for `max_batch_size`.
        max_queue_delay_microseconds: Integer, time that a request may wait for others. Only requests of equal length
            are merged, so clients should pad frames and send the number of real frames in `num_frames`.
        warmup_frames: Lengths of the requests that the server runs when it loads the model, in frames, each at batch
            size 1 and `max_batch_size`. Empty for no warm-up.
        profile_frames: Smallest, usual and largest length that TensorRT's engine accepts, in frames.
        engine_cache: Directory on the server in which TensorRT's engines are kept.
        verify: Boolean, whether to compare the artifact with the model before it appears.
        opset, external_data_threshold: See `export_onnx`.
        tolerance, data, min_agreement: See `verify`.
        metadata: See `export_saved_model`.

    Returns:
        The `Report` of the verification, whose `path` is the ONNX file, or `None` if `verify` is `False`.

    Example:

    >>> import os, tempfile
    >>> from keras_netvlad import VideoClassifier
    >>> from keras_netvlad.export import publish_triton
    >>> model = VideoClassifier({"frames": 8}, num_classes=3, num_clusters=2, name="classifier")
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     repository = os.path.join(directory, "repository")
    ...     reports = [publish_triton(model, repository, device="cpu") for _ in range(2)]
    ...     sorted(os.listdir(os.path.join(repository, "classifier")))
    ['1', '2', 'config.pbtxt']

    Raises:
        TypeError: If `model` is not a functional or Sequential Keras model.
        ValueError: If the model cannot be exported or served by Triton, its inputs or outputs differ from an existing
            `config.pbtxt`, or an argument is invalid.
        ParityError: If the artifact does not compute what the model computes. Nothing is written.
        FileExistsError: If `version` exists.
        OSError: If the repository or its parent directory cannot be written.
    """
    signature = read_signature(model)
    name = check_model_name(model.name if name is None else name)
    if version is not None:
        check_integer("version", version, 1)
    if check_boolean("tensorrt", tensorrt) and precision != "float32":
        raise ValueError(
            "TensorRT has its own precision, `precision_mode` in its configuration; leave `precision` at 'float32'. "
            f"Received: precision={precision!r}"
        )
    config = triton_config(
        signature,
        name,
        device=device,
        tensorrt=tensorrt,
        max_batch_size=max_batch_size,
        preferred_batch_sizes=preferred_batch_sizes,
        max_queue_delay_microseconds=max_queue_delay_microseconds,
        warmup_frames=warmup_frames,
        profile_frames=profile_frames,
        engine_cache=engine_cache,
    )
    check_precision(precision)
    check_opset(opset)
    repository = Path(repository).resolve()
    if repository.exists() and not repository.is_dir():
        raise NotADirectoryError(f"The repository must be a directory. Received: {repository}")
    directory = repository / name
    while True:
        is_first = not os.path.lexists(directory)
        if not is_first:
            _check_config(directory / CONFIG, config, signature)
        target = directory / str(next_version(directory) if version is None else version)
        if os.path.lexists(target):
            raise _exists(target)
        aside = repository.parent / f".{repository.name}.{name}.{secrets.token_hex(4)}.partial"
        try:
            with staged(aside) as stage:
                path = stage / target.name / MODEL
                try:
                    report = write_verified_onnx(
                        model,
                        signature,
                        path,
                        opset,
                        verify,
                        external_data_threshold,
                        precision,
                        tolerance=tolerance,
                        data=data,
                        min_agreement=min_agreement,
                        metadata=metadata,
                    )
                except ParityError as error:
                    raise ParityError(error.report.at(target / MODEL)) from error
                _name_graph_after_weights(path)
                (stage / CONFIG).write_text(config)
            if is_first:
                _rename(aside, directory)
            else:
                _rename(aside / target.name, target)
            return None if report is None else report.at(target / MODEL)
        except FileExistsError:
            # Another publisher has created the model's directory or used the number in the meantime.
            if version is not None and os.path.lexists(target):
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _check_config(path: Path, config: str, signature: Signature) -> None:
    """Raises if a model does not fit the existing configuration. Warns if the options differ from it."""
    if not path.is_file():
        raise FileNotFoundError(f"A model's directory must hold {CONFIG}; remove it or use another `name`: {path}")
    existing = _bare(path.read_text(encoding="utf-8"))
    ports = port_lines(signature)
    if _bare(ports) not in existing:
        raise ValueError(
            f"All versions share {CONFIG}, so the model must have the inputs and outputs of this file; publish it "
            f"under another `name`. Received: {' '.join(ports.split())} for {path}"
        )
    if existing != _bare(config):
        warnings.warn(f"{path} was left as it is; it differs from the configuration of these options.", stacklevel=3)


def _bare(text: str) -> str:
    """Returns a configuration without comments and white space."""
    return re.sub(r"#.*|\s+", "", text)


def _name_graph_after_weights(path: Path) -> None:
    """Appends a digest of graph and weights to the name of the graph.

    onnxruntime finds cached TensorRT engines by the names of the graph and its nodes, and ignores the weights
    (onnxruntime#6455). With the same name, a new version would run on the engine and the weights of the old one. The
    metadata are left out, so that the same model keeps its engine.
    """
    proto = onnx.load(path, load_external_data=False)
    digest = hashlib.sha256(proto.graph.SerializeToString(deterministic=True))
    data_path = path.with_name(f"{path.name}.data")
    if data_path.exists():
        with open(data_path, "rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
    proto.graph.name += f"_{digest.hexdigest()[:16]}"
    path.write_bytes(proto.SerializeToString())


def _rename(source: Path, target: Path) -> None:
    """Renames a directory into the repository."""
    target.parent.mkdir(exist_ok=True)
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise _exists(target) from error
        if error.errno == errno.EXDEV:
            raise OSError(
                "The repository must be on the file system of the directory that it lies in, because versions are "
                f"renamed from there. Received: {target.parent}"
            ) from error
        raise


def _exists(target: Path) -> FileExistsError:
    return FileExistsError(
        f"A version must not exist yet; choose another one, or leave `version` out. Received: {target}"
    )
