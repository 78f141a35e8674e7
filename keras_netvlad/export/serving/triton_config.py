"""`triton_config`: the text of `config.pbtxt`, the configuration of a model on Triton Inference Server."""

import json
import os
from collections.abc import Sequence
from typing import Literal

from keras_netvlad.base.validation import check_choice, check_integer
from keras_netvlad.export.serving.warmup_sizes import port_shape
from keras_netvlad.export.signature import Signature

DEVICES = {"gpu": "KIND_GPU", "cpu": "KIND_CPU"}
# TensorRT's mode for each precision of the ONNX file. In `FP32` it refuses float16 (TensorRT#3277).
PRECISION_MODES = {"float32": "FP32", "float16": "FP16", "int8-qdq": "INT8"}
DATA_TYPES = {
    "bool": "TYPE_BOOL",
    **{f"{kind}{bits}": f"TYPE_{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"TYPE_FP{bits}" for bits in (16, 32, 64)},
    "bfloat16": "TYPE_BF16",
}


def triton_config(
    signature: Signature,
    name: str,
    *,
    device: Literal["gpu", "cpu"] = "gpu",
    tensorrt: bool = False,
    precision: str = "float32",
    max_batch_size: int = 32,
    preferred_batch_sizes: Sequence[int] = (),
    max_queue_delay_microseconds: int = 2000,
    sizes: Sequence[tuple[int, int]] = (),
    profile_frames: Sequence[int] = (1, 300, 1024),
    engine_cache: str | os.PathLike[str] = "/tmp/tensorrt",
) -> str:
    """Returns the text of a model's `config.pbtxt`.

    Args:
        signature: Signature of the model. All inputs and outputs must have the batch first.
        name: Name of the model's directory.
        device, tensorrt, precision, max_batch_size, preferred_batch_sizes, max_queue_delay_microseconds,
            profile_frames, engine_cache: See `publish_triton`.
        sizes: Batch sizes and lengths of the warm-up requests, as `warmup_sizes` returns them.

    Raises:
        ValueError: If an argument is invalid, or Triton cannot serve the signature.
    """
    check_choice("device", device, DEVICES)
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

    lines = [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {max_batch_size}",
        port_lines(signature),
        "dynamic_batching {",
    ]
    if preferred_batch_sizes:
        lines.append(f"  preferred_batch_size: {preferred_batch_sizes}")
    lines += [f"  max_queue_delay_microseconds: {delay}", "}"]
    lines.append(f"instance_group [ {{ kind: {DEVICES[device]} count: 1 }} ]")
    if tensorrt:
        profile = check_profile(profile_frames)
        lengths = sorted({frames for _, frames in sizes})
        if any(not profile[0] <= frames <= profile[-1] for frames in lengths):
            raise ValueError(
                f"`warmup_frames` must lie within `profile_frames`, {profile}, or the engine refuses them. "
                f"Received: warmup_frames={lengths}"
            )
        batches = (1, max(preferred_batch_sizes, default=max_batch_size), max_batch_size)
        lines += _tensorrt_lines(signature, batches, profile, str(engine_cache), PRECISION_MODES[precision])
    for batch, frames in sizes:
        lines += _warmup_lines(signature, batch, frames)
    return "\n".join(lines) + "\n"


def check_profile(profile_frames: Sequence[int]) -> list[int]:
    """Returns the smallest, the usual and the largest length of TensorRT's engine, or raises if they are invalid."""
    profile = [check_integer("profile_frames", frames, 1) for frames in profile_frames]
    if len(profile) != 3 or profile != sorted(profile):
        raise ValueError(
            "`profile_frames` must be the smallest, the usual and the largest length, in this order. "
            f"Received: profile_frames={profile}"
        )
    return profile


def _tensorrt_lines(
    signature: Signature, batches: Sequence[int], lengths: Sequence[int], engine_cache: str, mode: str
) -> list[str]:
    """Returns the lines that pass the graph to TensorRT, for the smallest, usual and largest batch and length."""
    for port in signature.inputs:
        if None in port.shape[2:]:
            raise ValueError(
                "TensorRT needs the size of every axis but batch and frames; fix it in keras.Input, or publish with "
                f"`tensorrt=False`. Received: input {port.name!r} of shape {port.shape}"
            )
    parameters = {
        # A model in float32 stays so: with FP16, TensorRT computes the sums and norms in float16, where they overflow.
        "precision_mode": mode,
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": engine_cache,
    }
    for limit, batch, frames in zip(("min", "opt", "max"), batches, lengths, strict=True):
        shapes = (f"{port.name}:{'x'.join(map(str, port_shape(port, batch, frames)))}" for port in signature.inputs)
        parameters[f"trt_profile_{limit}_shapes"] = ",".join(shapes)
    lines = ["optimization { execution_accelerators { gpu_execution_accelerator [ {", '  name: "tensorrt"']
    for key, value in parameters.items():
        lines.append(f'  parameters {{ key: "{key}" value: {json.dumps(value, ensure_ascii=False)} }}')
    return [*lines, "} ] } }"]


def _warmup_lines(signature: Signature, batch: int, frames: int) -> list[str]:
    """Returns the lines of a warm-up request. It holds zeros, because Triton's random bytes usually contain NaN."""
    lines = ["model_warmup {", f'  name: "batch {batch}, frames {frames}"', f"  batch_size: {batch}"]
    for port in signature.inputs:
        dims = _dims(port_shape(port, batch, frames))
        value = f"{{ data_type: {DATA_TYPES[port.dtype]} dims: {dims} zero_data: true }}"
        lines.append(f'  inputs {{ key: "{port.name}" value {value} }}')
    return [*lines, "}"]


def port_lines(signature: Signature) -> str:
    """Returns the inputs and outputs of a signature as `config.pbtxt` declares them, without the batch axis.

    Raises:
        ValueError: If a port does not have the batch first, or has a dtype that Triton does not know.
    """
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
            # `dims` must not be empty, so requests have shape (batch, 1) for the model's (batch,).
            reshape = " reshape { shape: [] }" if len(port.shape) == 1 else ""
            dims = _dims(port.shape)
            entries.append(f'  {{ name: "{port.name}" data_type: {DATA_TYPES[port.dtype]} dims: {dims}{reshape} }}')
        blocks.append(f"{kind} [\n" + ",\n".join(entries) + "\n]")
    return "\n".join(blocks)


def _dims(shape: Sequence[int | None]) -> list[int]:
    """Returns a shape without its batch axis."""
    return [-1 if size is None else size for size in shape[1:]] or [1]
