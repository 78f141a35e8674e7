"""Sends videos to Triton. Needs only the standard library and NumPy.

    python triton_client.py http://127.0.0.1:8000/v2/models/NAME INPUTS.npz [INPUTS.npz ...] [--output OUTPUTS.npz]

Each INPUTS.npz is one request and holds one array for each input of the model, such as `frames` (batch, frames,
features) and `num_frames` (batch,). Without `num_frames`, all frames are real. The requests are sent at once, padded to
common lengths (`--multiple`), because Triton merges only requests of equal shape. Prints the best classes of each
video; `--output` writes all outputs to a file.

The protocol is the KServe V2 inference protocol with Triton's binary tensors. Numbers are not converted to text, so NaN
and all bits are kept.
"""

import argparse
import concurrent.futures
import http.client
import json
import math
import sys
import urllib.error
import urllib.request
import zipfile
import zlib

import numpy as np

NUM_FRAMES = "num_frames"
HEADER = "Inference-Header-Content-Length"
DTYPES = {
    "BOOL": "?",
    **{f"{kind}{bits}": f"<{kind[0].lower()}{bits // 8}" for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
}


def read_inputs(url, timeout=30):
    """Reads the inputs of a model from the server.

    Args:
        url: `http://host:port/v2/models/NAME`, with `/versions/N` for one version.
        timeout: Seconds.

    Returns:
        Dict from input name to the server's description, with `datatype` and `shape` (unknown sizes -1).

    Raises:
        OSError: If the server cannot be reached or does not serve the model; the message holds its own words.
        ValueError: If it is not the URL of a model.
    """
    body, _ = _send(urllib.request.Request(url), timeout)
    try:
        return {description["name"]: description for description in json.loads(body)["inputs"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"The URL must be a model's, http://host:port/v2/models/NAME. Received: {url}") from error


def read_arrays(path):
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


def prepare(arrays, inputs, multiple=64):
    """Makes a request with the types and shapes of the model, padded to a length that other requests share.

    Args:
        arrays: Dict from input name to array, the batch first. A `num_frames` above the number of frames is limited to
            it.
        inputs: What the model takes, of `read_inputs`.
        multiple: Integer; frames are padded with zeros to the next multiple of it, if the model takes `num_frames`.

    Returns:
        Dict from input name to array.

    Raises:
        ValueError: If arrays are missing, unknown, or of the wrong type or shape.
    """
    arrays = dict(arrays)
    has_lengths = NUM_FRAMES in inputs
    if has_lengths and NUM_FRAMES not in arrays:
        batch, frames = next((a.shape[:2] for a in arrays.values() if a.ndim >= 2), (0, 0))
        arrays[NUM_FRAMES] = np.full(batch, frames)
    if set(arrays) != set(inputs):
        raise ValueError(f"The inputs must be the model's, {sorted(inputs)}. Received: {sorted(arrays)}")
    lengths = [values.shape[1] for values in arrays.values() if values.ndim >= 3]
    if has_lengths and lengths and arrays[NUM_FRAMES].dtype.kind in "iu":
        # A count above the length of the video would make real frames of the padding.
        arrays[NUM_FRAMES] = np.minimum(arrays[NUM_FRAMES], max(lengths))
    request = {}
    for name, description in inputs.items():
        values, kind, shape = arrays[name], description["datatype"], description["shape"]
        if kind not in DTYPES or not np.can_cast(values.dtype, DTYPES[kind], "same_kind"):
            raise ValueError(f"Input {name!r} must be of a type that becomes {kind}. Received: {values.dtype}")
        values = values.astype(DTYPES[kind])
        if len(shape) == values.ndim + 1 and shape[-1] == 1:
            values = values[..., np.newaxis]  # Triton takes (batch, 1) for a model's (batch,)
        if has_lengths and len(shape) > 2 and shape[1] == -1 and values.ndim > 1:
            padding = -values.shape[1] % multiple
            values = np.pad(values, [(0, 0), (0, padding)] + [(0, 0)] * (values.ndim - 2))
        request[name] = values
    return request


def infer(url, request, timeout=30):
    """Sends one request.

    Args:
        url: See `read_inputs`.
        request: Dict from input name to array, of `prepare`.
        timeout: Seconds.

    Returns:
        Dict from output name to array.

    Raises:
        OSError: If the server cannot be reached or refuses the request. The message contains the server's answer.
    """
    names = {np.dtype(dtype): kind for kind, dtype in DTYPES.items()}
    tensors = [np.ascontiguousarray(values) for values in request.values()]
    header = {
        "inputs": [
            {
                "name": name,
                "shape": values.shape,
                "datatype": names[values.dtype],
                "parameters": {"binary_data_size": values.nbytes},
            }
            for name, values in zip(request, tensors, strict=True)
        ],
        "parameters": {"binary_data_output": True},
    }
    encoded = json.dumps(header).encode()
    body = b"".join([encoded, *(values.tobytes() for values in tensors)])
    headers = {"Content-Type": "application/octet-stream", HEADER: str(len(encoded))}
    answer, header_bytes = _send(urllib.request.Request(f"{url}/infer", body, headers), timeout)
    outputs, position = {}, header_bytes
    for output in json.loads(answer[:header_bytes])["outputs"]:
        dtype, shape = np.dtype(DTYPES[output["datatype"]]), output["shape"]
        outputs[output["name"]] = np.frombuffer(answer, dtype, math.prod(shape), position).reshape(shape)
        position += output["parameters"]["binary_data_size"]
    return outputs


def _send(request, timeout):
    """Returns the answer's bytes, and how many of them are JSON."""
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            body = response.read()
            return body, int(response.headers.get(HEADER, len(body)))
    except urllib.error.HTTPError as error:
        words = error.read().decode(errors="replace").strip() or error.reason
        raise OSError(f"The server refused the request: {words}") from error
    except http.client.HTTPException as error:
        raise OSError(f"The server must speak HTTP. Received: {error!r}") from error


def main():
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("inputs", nargs="+", help=".npz files, each one request")
    parser.add_argument("--output", help="an .npz file to write, the requests' rows one after the other")
    parser.add_argument("--top", type=int, default=3, help="classes to print for each video (default %(default)s)")
    parser.add_argument(
        "--multiple", type=int, default=64, help="pad lengths to a multiple of it (default %(default)s)"
    )
    parser.add_argument("--timeout", type=float, default=30, help="seconds (default %(default)s)")
    options = parser.parse_args()
    if options.multiple < 1:
        parser.error(f"--multiple must be a positive integer. Received: {options.multiple}")
    try:
        inputs = read_inputs(options.url, options.timeout)
        requests = [prepare(read_arrays(path), inputs, options.multiple) for path in options.inputs]
        with concurrent.futures.ThreadPoolExecutor(max_workers=64) as pool:
            # Equal shapes one after the other: Triton merges only neighbors in its queue.
            order = sorted(range(len(requests)), key=lambda index: [a.shape[1:] for a in requests[index].values()])
            futures = {index: pool.submit(infer, options.url, requests[index], options.timeout) for index in order}
        answers = [futures[index].result() for index in range(len(requests))]
    except (OSError, ValueError) as error:
        print(f"triton_client: {error}", file=sys.stderr)
        return 1
    outputs = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    for row, scores in enumerate(outputs.get("scores", ())):
        best = np.argsort(scores)[::-1][: options.top]
        print(f"video {row}: " + ", ".join(f"class {index} {scores[index]:.3f}" for index in best))
    if options.output:
        np.savez(options.output, **outputs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
