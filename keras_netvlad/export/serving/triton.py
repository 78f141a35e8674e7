"""`publish_triton`: a model as the next version in a model repository of Triton Inference Server."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import warnings
from pathlib import Path

import onnx

from keras_netvlad.base.atomic_files import staged
from keras_netvlad.base.validation import check_boolean, check_integer
from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.export.onnx.onnx_export import export_onnx
from keras_netvlad.export.serving.tensorflow_serving import check_model_name, next_version
from keras_netvlad.export.verification.report import ParityError

CONFIG = "config.pbtxt"
MODEL = "model.onnx"
DEVICES = {"gpu": "KIND_GPU", "cpu": "KIND_CPU"}
DATA_TYPES = {
    "bool": "TYPE_BOOL",
    **{f"{kind}{bits}": f"TYPE_{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"TYPE_FP{bits}" for bits in (16, 32, 64)},
    "bfloat16": "TYPE_BF16",
}


def publish_triton(
    model,
    repository,
    name=None,
    version=None,
    *,
    precision="float32",
    device="gpu",
    tensorrt=False,
    max_batch_size=32,
    preferred_batch_sizes=(),
    max_queue_delay_microseconds=2000,
    warmup_frames=(1, 300),
    profile_frames=(1, 300, 1024),
    engine_cache="/tmp/tensorrt",
    verify=True,
    **export_options,
):
    """Publishes a model as `<repository>/<name>/<version>/model.onnx` for Triton's onnxruntime backend.

    The first version brings `<repository>/<name>/config.pbtxt`. Later versions leave that file alone, also where
    somebody has edited it, and must have the inputs and outputs that it names; options that it contradicts are
    warned of.

    Everything is written and verified aside and appears by one rename. Triton takes every directory in a
    repository for a model, hidden ones, too, so aside is beside the repository, `.<repository>.<name>.*.partial`:
    both have to be on one file system. What a killed publication leaves there may be deleted.

    Args:
        model: A functional or Sequential Keras model with named inputs and the batch first.
        repository: Directory of all models; made if it does not exist.
        name: Name to serve the model by; by default its own.
        version: Positive integer that is not there yet; by default one more than the highest there.
        precision: As of `export_onnx`.
        device: `"gpu"` or `"cpu"`. Triton refuses a model for a GPU on a machine without one.
        tensorrt: Boolean, whether onnxruntime hands the graph to TensorRT, which builds an engine for it when the
            server loads it, in minutes. Needs a GPU, and `precision` `"float32"`.
        max_batch_size: Integer, rows that the server merges at most, and that a request may hold.
        preferred_batch_sizes: Integers up to `max_batch_size`; a batch of such a size does not wait to grow. The
            largest, or else `max_batch_size`, is what TensorRT's engine is tuned for.
        max_queue_delay_microseconds: Integer, how long a request may wait for others to be merged with. Only
            requests of equal length are merged: clients pad, and say in `num_frames` what is real.
        warmup_frames: Lengths that the server runs when it loads the model, in frames, each at batch size 1 and
            `max_batch_size`; empty for none.
        profile_frames: Smallest, usual and largest length that TensorRT's engine takes, in frames. It refuses others.
        engine_cache: Directory on the server in which it keeps TensorRT's engines.
        verify: Boolean, whether to run the artefact beside the model before it appears.
        **export_options: More arguments of `export_onnx`.

    Returns:
        The `Report` of the verification, whose `path` is the ONNX file's, or `None` if `verify` is false.

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
        ValueError, TypeError: If the model can't be exported or served by Triton, if its inputs or outputs are not
            those of an existing `config.pbtxt`, or if an argument is none of the above.
        ParityError: If the artefact computes something else than the model. Nothing is written then.
        FileExistsError: If the version asked for is there already.
        OSError: If the repository or the directory that it lies in can't be written.
    """
    signature = read_signature(model)
    name = check_model_name(model.name if name is None else name)
    if version is not None:
        check_integer("version", version, 1)
    if check_boolean("tensorrt", tensorrt) and precision != "float32":
        raise ValueError(
            "TensorRT has a precision of its own, `precision_mode` in its configuration; leave `precision` at "
            f"'float32'. Received: precision={precision!r}"
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
                    report = export_onnx(model, path, precision=precision, verify=verify, **export_options)
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
            # Another publisher was first meanwhile; its model's directory may be there, its number taken.
            if version is not None and os.path.lexists(target):
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def triton_config(
    signature,
    name,
    *,
    device="gpu",
    tensorrt=False,
    max_batch_size=32,
    preferred_batch_sizes=(),
    max_queue_delay_microseconds=2000,
    warmup_frames=(1, 300),
    profile_frames=(1, 300, 1024),
    engine_cache="/tmp/tensorrt",
):
    """Writes a model's `config.pbtxt`.

    Args:
        signature: A `Signature`, all of whose inputs and outputs have the batch first.
        name: String, the name of the model's directory.
        device, tensorrt, max_batch_size, preferred_batch_sizes, max_queue_delay_microseconds, warmup_frames,
            profile_frames, engine_cache: As of `publish_triton`.

    Returns:
        The text of the file.

    Raises:
        ValueError: If an argument is none of the above.
    """
    if device not in DEVICES:
        raise ValueError(f"`device` must be one of {list(DEVICES)}. Received: device={device!r}")
    if tensorrt and device != "gpu":
        raise ValueError(f"TensorRT needs `device='gpu'`. Received: device={device!r}")
    max_batch_size = check_integer("max_batch_size", max_batch_size, 1)
    preferred_batch_sizes = [check_integer("preferred_batch_sizes", size, 1) for size in preferred_batch_sizes]
    if any(size > max_batch_size for size in preferred_batch_sizes):
        raise ValueError(
            f"`preferred_batch_sizes` must not be above `max_batch_size`, {max_batch_size}. "
            f"Received: preferred_batch_sizes={preferred_batch_sizes}"
        )
    delay = check_integer("max_queue_delay_microseconds", max_queue_delay_microseconds, 0)
    warmup_frames = [check_integer("warmup_frames", frames, 1) for frames in warmup_frames]

    lines = [f'name: "{name}"', 'backend: "onnxruntime"', f"max_batch_size: {max_batch_size}", _ports(signature)]
    lines.append("dynamic_batching {")
    if preferred_batch_sizes:
        lines.append(f"  preferred_batch_size: {preferred_batch_sizes}")
    lines += [f"  max_queue_delay_microseconds: {delay}", "}"]
    lines.append(f"instance_group [ {{ kind: {DEVICES[device]} count: 1 }} ]")
    if tensorrt:
        profile = _profile(profile_frames, warmup_frames)
        batches = (1, max(preferred_batch_sizes, default=max_batch_size), max_batch_size)
        parameters = {
            # FP16 would have it compute the sums and norms in float16, where they overflow.
            "precision_mode": "FP32",
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(engine_cache),
        }
        for limit, batch, frames in zip(("min", "opt", "max"), batches, profile, strict=True):
            shapes = (f"{port.name}:{'x'.join(map(str, _shape(port, batch, frames)))}" for port in signature.inputs)
            parameters[f"trt_profile_{limit}_shapes"] = ",".join(shapes)
        lines += ["optimization { execution_accelerators { gpu_execution_accelerator [ {", '  name: "tensorrt"']
        for key, value in parameters.items():
            lines.append(f'  parameters {{ key: "{key}" value: {json.dumps(value, ensure_ascii=False)} }}')
        lines.append("} ] } }")
    for batch in sorted({1, max_batch_size}):
        for frames in warmup_frames:
            lines += ["model_warmup {", f'  name: "batch {batch}, frames {frames}"', f"  batch_size: {batch}"]
            for port in signature.inputs:
                # Zeros, for what is warmed up are shapes; Triton's random bytes are as good as sure to hold NaN.
                dims = _dims(_shape(port, batch, frames))
                value = f"{{ data_type: {DATA_TYPES[port.dtype]} dims: {dims} zero_data: true }}"
                lines.append(f'  inputs {{ key: "{port.name}" value {value} }}')
            lines.append("}")
    return "\n".join(lines) + "\n"


def _ports(signature):
    """The inputs and outputs as `config.pbtxt` has them: without the batch."""
    blocks = []
    for kind, ports in (("input", signature.inputs), ("output", signature.outputs)):
        entries = []
        for port in ports:
            if not port.shape or port.shape[0] is not None or port.dtype not in DATA_TYPES:
                raise ValueError(
                    f"Triton merges requests along the first axis: every input and output needs a first axis without a "
                    f"fixed size, and one of the types {list(DATA_TYPES)}. Received: {kind} {port.name!r} of shape "
                    f"{port.shape} and type {port.dtype}"
                )
            # Requests carry (batch, 1) for what the model takes as (batch,): `dims` must not be empty.
            reshape = " reshape { shape: [] }" if len(port.shape) == 1 else ""
            dims = _dims(port.shape)
            entries.append(f'  {{ name: "{port.name}" data_type: {DATA_TYPES[port.dtype]} dims: {dims}{reshape} }}')
        blocks.append(f"{kind} [\n" + ",\n".join(entries) + "\n]")
    return "\n".join(blocks)


def _dims(shape):
    """A shape without its batch."""
    return [-1 if size is None else size for size in shape[1:]] or [1]


def _shape(port, batch, frames):
    """A port's shape with every axis filled in."""
    if None in port.shape[2:]:
        raise ValueError(
            "Warm-up and TensorRT need the size of every axis but batch and frames; fix it in keras.Input, or publish "
            f"with `warmup_frames=()` and `tensorrt=False`. Received: input {port.name!r} of shape {port.shape}"
        )
    return tuple(size or (batch, frames)[axis] for axis, size in enumerate(port.shape))


def _profile(profile_frames, warmup_frames):
    """Checks the lengths that TensorRT's engine is built for."""
    profile = [check_integer("profile_frames", frames, 1) for frames in profile_frames]
    if len(profile) != 3 or profile != sorted(profile):
        raise ValueError(
            "`profile_frames` must be the smallest, the usual and the largest length, in this order. "
            f"Received: profile_frames={profile}"
        )
    if any(not profile[0] <= frames <= profile[-1] for frames in warmup_frames):
        raise ValueError(
            f"`warmup_frames` must lie within `profile_frames`, {profile}, or the engine refuses them. "
            f"Received: warmup_frames={warmup_frames}"
        )
    return profile


def _check_config(path, config, signature):
    """Raises if a model does not fit the configuration that is there; warns if its options are not that one's."""
    if not path.is_file():
        raise FileNotFoundError(f"A model's directory must hold {CONFIG}; remove it or use another `name`: {path}")
    existing = _bare(path.read_text(encoding="utf-8"))
    ports = _ports(signature)
    if _bare(ports) not in existing:
        raise ValueError(
            f"All versions share {CONFIG}, so the model's inputs and outputs must be the ones there; publish it under "
            f"another `name`. Received: {' '.join(ports.split())} for {path}"
        )
    if existing != _bare(config):
        warnings.warn(f"{path} was left as it is; it differs from what these options would write.", stacklevel=3)


def _bare(text):
    """A configuration without comments and white space."""
    return re.sub(r"#.*|\s+", "", text)


def _name_graph_after_weights(path):
    """Gives the graph a name that no graph of other weights has.

    onnxruntime looks TensorRT's engines up by the names of the graph and its nodes, never by the weights
    (onnxruntime#6455): without this, a new version would run on the old one's engine, and weights.
    """
    digest = hashlib.sha256()
    for file_path in (path, path.with_name(f"{path.name}.data")):
        if file_path.exists():
            with open(file_path, "rb") as file:
                while chunk := file.read(1 << 24):
                    digest.update(chunk)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.name += f"_{digest.hexdigest()[:16]}"
    path.write_bytes(proto.SerializeToString())


def _rename(source, target):
    target.parent.mkdir(exist_ok=True)
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise _exists(target) from error
        if error.errno == errno.EXDEV:
            raise OSError(
                "The repository must be on the file system of the directory that it lies in, from where versions are "
                f"renamed into it. Received: {target.parent}"
            ) from error
        raise


def _exists(target):
    return FileExistsError(f"A version must not exist yet; choose another or let it be counted. Received: {target}")
