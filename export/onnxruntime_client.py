"""Runs an ONNX model on videos, on a GPU if there is one. Needs only onnxruntime and NumPy.

    python onnxruntime_client.py MODEL.onnx INPUTS.npz [--output OUTPUTS.npz] [--require-gpu]

INPUTS.npz holds one array for each input of the model, such as `frames` (batch, frames, features) and `num_frames`
(batch,). Prints the best classes of each video; `--output` writes all outputs to a file. Prints to stderr how many
nodes of the model each provider runs, because onnxruntime falls back to the CPU silently if its GPU provider fails.
"""

import argparse
import collections
import contextlib
import re
import sys
import zipfile
import zlib

import numpy as np
import onnxruntime

GPU = "CUDAExecutionProvider"
PRODUCT = re.compile("Conv|Gemm|MatMul")  # with what onnxruntime makes of them: `FusedGemm`, `MatMulIntegerToFloat`
DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    **{f"tensor({name})": name for name in ("bool", "int32", "int64", "uint8")},
}


def open_model(path, require_gpu=False):
    """Loads a model, on the GPU if onnxruntime can use one.

    Args:
        path: Path of an `.onnx` file. Its `.data` file, if any, must be next to it.
        require_gpu: Boolean, whether to raise if matrix products would run elsewhere.

    Returns:
        An `onnxruntime.InferenceSession`, and a dict from each provider to the number of nodes that it runs (empty
        before onnxruntime 1.24, which does not tell).

    Raises:
        OSError: If the file cannot be loaded.
        ValueError: If a GPU is required and not used.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised as well
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if GPU in onnxruntime.get_available_providers():
        # Without this, CUDA from a package index is not found. Its messages belong to stderr.
        with contextlib.redirect_stdout(sys.stderr):
            onnxruntime.preload_dlls()
    providers = [name for name in (GPU, "CPUExecutionProvider") if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no class in common but this one
        raise OSError(f"The model must be an ONNX file, whole and readable. Received: {path} ({error})") from error
    placed = _nodes_and_providers(session)
    # The option `session.disable_cpu_ep_fallback` refuses any node on the CPU, where onnxruntime also keeps lengths
    # (`Shape` and its consumers) if the GPU works: onnxruntime#17930.
    computing = {provider for provider, op_type in placed if PRODUCT.search(op_type)} or {session.get_providers()[0]}
    if require_gpu and computing != {GPU}:
        raise ValueError(
            f"The matrix products must run on {GPU}; install onnxruntime-gpu with its CUDA and cuDNN, or leave "
            f"--require-gpu out. Received: {', '.join(sorted(computing))}"
        )
    return session, dict(collections.Counter(provider for provider, _ in placed))


def _nodes_and_providers(session):
    """Pairs of provider and node type, one a node; for an onnxruntime before 1.24, which does not tell, none."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    return [
        (part.ep_name, node.op_type)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]


def predict(session, inputs):
    """Runs one batch.

    Args:
        session: As returned by `open_model`.
        inputs: Dict from input name to array, the batch first.

    Returns:
        Dict from output name to array.

    Raises:
        ValueError: If an input is missing, too many, or of another type or shape than the model's.
    """
    expected = {value.name: value for value in session.get_inputs()}
    if set(inputs) != set(expected):
        raise ValueError(f"The inputs must be the model's, {sorted(expected)}. Received: {sorted(inputs)}")
    sizes, feeds = {}, {}
    for name, value in expected.items():
        array, dtype = inputs[name], DTYPES.get(value.type)
        if dtype is None or not np.can_cast(array.dtype, dtype, "same_kind"):
            raise ValueError(f"Input {name!r} must be of a type that becomes {value.type}. Received: {array.dtype}")
        # Inputs share their named axes, so the first array says how long an axis is.
        if len(array.shape) == len(value.shape):
            for size, received in zip(value.shape, array.shape, strict=True):
                if isinstance(size, str):
                    sizes.setdefault(size, received)
        shape = [sizes.get(size, size) for size in value.shape]
        if len(array.shape) != len(shape) or any(
            isinstance(size, int) and size != received for size, received in zip(shape, array.shape, strict=True)
        ):
            raise ValueError(f"Input {name!r} must be of shape {tuple(shape)}. Received: {array.shape}")
        feeds[name] = array.astype(dtype)
        if array.dtype.kind in "iu" and not np.array_equal(feeds[name], array):
            raise ValueError(
                f"Input {name!r} must hold numbers that fit {dtype}. Received: {array.min()} to {array.max()}"
            )
    names = [value.name for value in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:  # as above
        raise ValueError(f"The model must be one that onnxruntime can run. Received: {error}") from error


def read_inputs(path):
    """Reads an `.npz` file.

    Args:
        path: The file's path.

    Returns:
        Dict from name to array.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is not an .npz file of plain arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"The inputs must be an .npz file of plain arrays. Received: {path} ({error})") from error


def print_best(outputs, top=3):
    """Prints the best classes of each video; nothing where the model returns no scores."""
    for row, scores in enumerate(outputs.get("scores", ())):
        best = np.argsort(scores)[::-1][:top]
        print(f"video {row}: " + ", ".join(f"class {index} {scores[index]:.3f}" for index in best))


def main():
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="an .onnx file")
    parser.add_argument("inputs", help="an .npz file")
    parser.add_argument("--output", help="an .npz file to write")
    parser.add_argument("--top", type=int, default=3, help="classes to print for each video (default %(default)s)")
    parser.add_argument("--require-gpu", action="store_true", help="fail unless the GPU computes")
    options = parser.parse_args()
    try:
        inputs = read_inputs(options.inputs)
        session, placed = open_model(options.model, options.require_gpu)
        counts = ", ".join(f"{provider}: {count} nodes" for provider, count in placed.items())
        print(counts or f"{session.get_providers()[0]}: all nodes that it can run", file=sys.stderr)
        outputs = predict(session, inputs)
        print_best(outputs, options.top)
        if options.output:
            np.savez(options.output, **outputs)
    except (OSError, ValueError) as error:
        print(f"onnxruntime_client: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
