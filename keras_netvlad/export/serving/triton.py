"""`publish_triton`: writes a model as the next version in a model repository of Triton Inference Server."""

import contextlib
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

from keras_netvlad.base.atomic_files import copy_file, flush, staged
from keras_netvlad.base.stages import stage
from keras_netvlad.base.validation import check_boolean, check_integer, check_path
from keras_netvlad.export.model_card import CARD_FILE, has_scores, model_card, signature_description, signature_usage
from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.export.onnx.conversion import check_opset
from keras_netvlad.export.onnx.onnx_export import write_verified_onnx
from keras_netvlad.export.onnx.precision import Precision, check_precision
from keras_netvlad.export.serving.model_versions import check_model_name, next_version
from keras_netvlad.export.serving.tensorrt_operators import tensorrt_obstacle
from keras_netvlad.export.serving.triton_config import check_profile, port_lines, triton_config
from keras_netvlad.export.serving.warmup_sizes import warmup_sizes
from keras_netvlad.export.signature import SERVING_DEFAULT, Signature
from keras_netvlad.export.verification.options import check_options
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
    precision: Precision = "float32",
    device: Literal["gpu", "cpu"] = "gpu",
    tensorrt: bool = False,
    max_batch_size: int = 32,
    preferred_batch_sizes: Sequence[int] = (),
    max_queue_delay_microseconds: int = 2000,
    warmup_frames: Sequence[int] | None = None,
    profile_frames: Sequence[int] = (1, 300, 1024),
    engine_cache: str | os.PathLike[str] = "/tmp/tensorrt",
    staging: str | os.PathLike[str] | None = None,
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
    `.<repository>.<name>.*.partial` is therefore in `staging`, which is the directory that contains the repository
    unless you choose another one. If `staging` is on another file system, as for a repository that is a mount point,
    the finished files are first copied into the repository as hidden files, which Triton ignores, and then renamed. The
    first version of a model is then visible as a directory `.<name>.*.partial` for a few milliseconds. A server that
    starts in this moment ends with an error; start it again. If the process is killed, `.*.partial` files and
    directories remain and may be deleted.

    Files and directories get the permissions that the umask of the process allows. Triton must be able to read them.

    Args:
        model: A functional or Sequential Keras model with named inputs and the batch first.
        repository: Directory of all models. It is created if it does not exist.
        name: Name under which the model is served. The default is the model's own name.
        version: Positive integer that does not exist yet. The default is the highest existing version plus one.
        precision: See `export_onnx`. With `tensorrt`, `"float16"` and `"int8-qdq"` set `precision_mode` to `FP16` and
            `INT8`. TensorRT before 11 may then compute sums and norms in float16 as well, where they overflow: compare
            the answers before you use it. `"int8"` needs `device="cpu"`, because onnxruntime computes such products on
            the CPU even if the model is on a GPU.
        device: `"gpu"` or `"cpu"`. Triton does not load a model for a GPU on a machine without one.
        tensorrt: Boolean, whether onnxruntime passes the graph to TensorRT, which builds an engine when the server
            loads the model. This takes minutes. It needs a GPU. A model is refused if a
            node is not in TensorRT's operator table.
        max_batch_size: Integer, largest number of rows that the server merges and that a request may have.
        preferred_batch_sizes: Integers up to `max_batch_size`. A batch of such a size does not wait for more requests.
            TensorRT's engine is tuned for the largest of them, or for `max_batch_size`.
        max_queue_delay_microseconds: Integer, time that a request may wait for others. Only requests of equal length
            are merged, so clients should pad frames and send the number of real frames in `num_frames`.
        warmup_frames: Lengths of the requests that the server runs when it loads the model, in frames, each at batch
            size 1 and at the largest batch size, up to `max_batch_size`, whose inputs take at most 64 MB as float32.
            The default is two lengths: the smallest power of two that the model accepts, and 300 or the largest that
            takes at most 64 MB; with TensorRT within `profile_frames`. Empty for no warm-up.
        profile_frames: Smallest, usual and largest length that TensorRT's engine accepts, in frames.
        engine_cache: Directory on the server in which TensorRT's engines are kept.
        staging: Existing directory outside the repository in which the version is prepared. The default is the
            directory that contains the repository.
        verify: Boolean, whether to compare the artifact with the model before it appears.
        opset, external_data_threshold: See `export_onnx`.
        tolerance, data, min_agreement: See `verify`.
        metadata: See `export_saved_model`. The model card, `README.md` in the version, also shows `license`, an
            identifier such as `"apache-2.0"`, and `trained_on`, the name of the training data.

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
        OSError: If the repository or `staging` cannot be written.
    """
    signature = read_signature(model)
    name = check_model_name(model.name if name is None else name)
    if version is not None:
        check_integer("version", version, 1)
    check_boolean("tensorrt", tensorrt)
    if precision == "int8" and device == "gpu":
        raise ValueError(
            "onnxruntime computes int8 products on the CPU only, so a GPU would wait for it; use precision='int8-qdq' "
            "or 'float16', or device='cpu'. Received: precision='int8', device='gpu'"
        )
    check_precision(precision)
    check_opset(opset)
    data = check_options(signature, tolerance, data, min_agreement)
    max_batch_size = check_integer("max_batch_size", max_batch_size, 1)
    with stage("tracing the model with the lengths of the warm-up"):
        sizes = warmup_sizes(signature, max_batch_size, warmup_frames)
        if tensorrt and warmup_frames is None:
            shortest, _, longest = check_profile(profile_frames)
            lengths = [min(max(frames, shortest), longest) for _, frames in sizes]
            sizes = warmup_sizes(signature, max_batch_size, lengths)
    config = triton_config(
        signature,
        name,
        device=device,
        tensorrt=tensorrt,
        precision=precision,
        max_batch_size=max_batch_size,
        preferred_batch_sizes=preferred_batch_sizes,
        max_queue_delay_microseconds=max_queue_delay_microseconds,
        sizes=sizes,
        profile_frames=profile_frames,
        engine_cache=engine_cache,
    )
    repository = Path(repository).resolve()
    directory = repository / name
    staging = _check_staging(staging, repository)
    _check_writable(repository, directory)
    while True:
        is_first = not os.path.lexists(directory)
        if not is_first:
            _check_config(directory / CONFIG, config, signature)
        target = directory / str(next_version(directory) if version is None else version)
        if os.path.lexists(target):
            raise _exists(target)
        aside = staging / f".{repository.name}.{name}.{secrets.token_hex(4)}.partial"
        try:
            with staged(aside) as prepared:
                path = prepared / target.name / MODEL
                try:
                    report = write_verified_onnx(
                        model,
                        {SERVING_DEFAULT: signature},
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
                if tensorrt:
                    _check_operators(path)
                _name_graph_after_weights(path)
                (prepared / CONFIG).write_text(config)
                card = model_card(
                    name,
                    signature_description(signature),
                    signature_usage(signature, MODEL),
                    {MODEL: None if report is None else report.as_dict()},
                    library="onnx",
                    is_classifier=has_scores(signature),
                    metadata=metadata,
                )
                path.with_name(CARD_FILE).write_text(card, encoding="utf-8")
            repository.mkdir(exist_ok=True)
            if is_first:
                _move(aside, directory, repository)
            else:
                _move(aside / target.name, target, repository)
            return None if report is None else report.at(target / MODEL)
        except FileExistsError:
            # Another publisher has created the model's directory or used the number in the meantime.
            if version is not None and os.path.lexists(target):
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _check_operators(path: Path) -> None:
    """Raises if TensorRT's parser does not take a node of an ONNX file."""
    obstacle = tensorrt_obstacle(onnx.load(path, load_external_data=False))
    if obstacle is not None:
        raise ValueError(
            "TensorRT must have every operator of the model, for its dtype; change the layer, or publish with "
            f"`tensorrt=False`. Received: {obstacle}"
        )


def _check_config(path: Path, config: str, signature: Signature) -> None:
    """Raises if a model does not fit the existing configuration. Warns if the options differ from it."""
    if not path.is_file():
        raise FileNotFoundError(f"A model's directory must hold {CONFIG}; remove it or use another `name`: {path}")
    try:
        existing = _bare(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{CONFIG} must be UTF-8 text; restore it or use another `name`. Received: {path}") from error
    ports = port_lines(signature)
    if _bare(ports) not in existing:
        raise ValueError(
            f"All versions share {CONFIG}, so the model must have the inputs and outputs of this file; publish it "
            f"under another `name`. Received: {' '.join(ports.split())} for {path}"
        )
    if existing != _bare(config):
        warnings.warn(f"{path} was not changed; it differs from the configuration of these options.", stacklevel=3)


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


def _check_staging(staging: str | os.PathLike[str] | None, repository: Path) -> Path:
    """Returns the directory in which versions are prepared, or raises if it is not a usable one."""
    path = repository.parent if staging is None else check_path("staging", staging).resolve()
    if staging is None:
        with contextlib.suppress(OSError):  # the next check says what is wrong
            path.mkdir(parents=True, exist_ok=True)
    elif not path.is_dir() or path.is_relative_to(repository):
        raise NotADirectoryError(
            "`staging` must be an existing directory outside the repository, because Triton treats every directory in "
            f"the repository as a model. Received: staging={str(staging)!r}, repository {repository}"
        )
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(
            "Versions are prepared in `staging`, by default the directory that contains the repository; choose a "
            f"directory that can be written to. Received: {path}"
        )
    return path


def _check_writable(*directories: Path) -> None:
    """Raises if one of the directories exists and cannot be written to."""
    for path in directories:
        if os.path.lexists(path) and not path.is_dir():
            raise NotADirectoryError(f"The repository, and each model in it, must be a directory. Received: {path}")
        if path.exists() and not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(f"The repository must be a directory that can be written to. Received: {path}")


def _move(source: Path, target: Path, repository: Path) -> None:
    """Moves a directory into the repository so that it appears there complete."""
    try:
        _rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with stage(f"copying the version into {repository}"):
            _copy(source, target, repository)


def _copy(source: Path, target: Path, repository: Path) -> None:
    """Copies a directory to a repository on another file system so that it appears there complete.

    Copying takes time, and Triton must not find a partial version. It treats every directory in the repository as a
    model and reloads a model if anything in its directory changes, but it ignores files in the repository itself.
    """
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    copies: dict[Path, Path] = {}
    try:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                copies[path] = repository / f".{target.name}.{secrets.token_hex(4)}.partial"
                copy_file(path, copies[path])
        for path, copy in copies.items():
            moved = partial / path.relative_to(source)
            moved.parent.mkdir(parents=True, exist_ok=True)
            os.rename(copy, moved)
        for path in (partial, *partial.rglob("*")):
            flush(path)
        _rename(partial, target)
    finally:
        for copy in copies.values():
            copy.unlink(missing_ok=True)
        shutil.rmtree(partial, ignore_errors=True)


def _rename(source: Path, target: Path) -> None:
    """Renames a directory, or raises `FileExistsError` if the target exists."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise _exists(target) from error
        raise
    flush(target.parent)


def _exists(target: Path) -> FileExistsError:
    return FileExistsError(
        f"A version must not exist yet; choose another one, or leave `version` out. Received: {target}"
    )
