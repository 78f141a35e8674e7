"""Sends videos to TensorFlow Serving's REST interface. Needs only the standard library and NumPy.

    python tf_serving_client.py http://127.0.0.1:8501/v1/models/NAME INPUTS.npz [--output OUTPUTS.npz]
    python tf_serving_client.py http://127.0.0.1:8501/v1/models/NAME VIDEOS.tfrecord --signature serve_examples

INPUTS.npz holds one array for each input of the signature, such as `frames` (batch, frames, features) and `num_frames`
(batch,), the number of real frames of each video. VIDEOS.tfrecord holds serialized `tf.train.SequenceExample`s, as
YouTube-8M's files do. Prints the best classes of each video; `--output` writes all outputs to a file.
"""

import argparse
import base64
import http.client
import json
import struct
import sys
import urllib.error
import urllib.request
import zipfile
import zlib

import numpy as np

DTYPES = {"DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_INT32": "int32", "DT_INT64": "int64", "DT_UINT8": "uint8"}
NUM_FRAMES = "num_frames"


def predict(url, inputs, signature="serving_default", timeout=30):
    """Sends one batch.

    Args:
        url: `http://host:port/v1/models/NAME`, with `/versions/N` for one version.
        inputs: Dict from input name to array or, for inputs of bytes, to a list of bytes; the batch first. A
            `num_frames` above the number of frames is limited to it.
        signature: Name of the signature.
        timeout: Seconds to wait for an answer.

    Returns:
        Dict from output name to array.

    Raises:
        OSError: If the server cannot be reached or refuses the request. The message contains the server's answer.
        ValueError: If the URL is invalid, or the server is not TensorFlow Serving.
    """
    inputs = limit_num_frames(inputs)
    values = {name: array.tolist() if isinstance(array, np.ndarray) else array for name, array in inputs.items()}
    body = json.dumps({"signature_name": signature, "inputs": values}, default=_encode_bytes).encode()
    request = urllib.request.Request(f"{url}:predict", body, {"Content-Type": "application/json"})
    try:
        outputs = _send(request, timeout)["outputs"]
    except (KeyError, TypeError) as error:
        raise _foreign(url, error) from error
    if not isinstance(outputs, dict):  # the server leaves the name of a single output out
        (name,) = read_signature(url, signature, timeout)["outputs"]
        outputs = {name: outputs}
    return {name: np.array(values) for name, values in outputs.items()}


def limit_num_frames(inputs):
    """Limits `num_frames` to the number of frames that are sent.

    A server that merges requests pads short videos. A `num_frames` above the length of a video would then count the
    padding as real frames.

    Args:
        inputs: Dict from input name to array.

    Returns:
        The same inputs with the number of real frames of each video.
    """
    lengths = [np.shape(values)[1] for values in inputs.values() if np.ndim(values) >= 3]
    counts = np.asarray(inputs.get(NUM_FRAMES, ()))
    if not lengths or counts.dtype.kind not in "iu":
        return inputs
    return {**inputs, NUM_FRAMES: np.minimum(counts, max(lengths))}


def read_signature(url, signature="serving_default", timeout=30):
    """Reads the inputs and outputs of a signature from the server.

    Args:
        url, signature, timeout: See `predict`.

    Returns:
        A dict: `inputs` and `outputs`, each a dict from name to `(shape, dtype)` with unknown sizes -1; `version`, the
        version that answered, an integer.

    Raises:
        OSError: If the server cannot be reached or does not serve the model.
        ValueError: If the model has no such signature, the URL is invalid, or the server is not TensorFlow Serving.
    """
    try:
        answer = _send(urllib.request.Request(f"{url}/metadata"), timeout)
        signatures = answer["metadata"]["signature_def"]["signature_def"]
        found = {"version": int(answer["model_spec"]["version"])}
        for side in ("inputs", "outputs"):
            ports = signatures[signature][side] if signature in signatures else {}
            found[side] = {
                name: ([int(dim["size"]) for dim in info["tensor_shape"]["dim"]], DTYPES.get(info["dtype"]))
                for name, info in ports.items()
            }
    except (KeyError, TypeError) as error:
        raise _foreign(url, error) from error
    if signature not in signatures:
        names = sorted(name for name in signatures if not name.startswith("__"))
        raise ValueError(f"The signature must be one of the model's, {names}. Received: {signature!r}")
    return found


def read_inputs(path):
    """Reads a request from a file.

    Args:
        path: Path of an `.npz` file of arrays, or of a `.tfrecord` file of examples.

    Returns:
        Dict from input name to array; the records of a `.tfrecord` file are the input `examples`, a list of bytes.

    Raises:
        OSError: If there is no such file.
        ValueError: If the file is damaged or of another format.
    """
    try:
        if str(path).endswith(".tfrecord"):
            return {"examples": _read_records(path)}
        with np.load(path, allow_pickle=False) as arrays:
            inputs = dict(arrays)
        if any(values.dtype.kind == "S" for values in inputs.values()):
            raise ValueError("bytes in NumPy's strings lose trailing zeros; write examples to a .tfrecord file")
        return inputs
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise ValueError(
            f"The inputs must be an .npz file of arrays or a .tfrecord file of examples. Received: {path} ({error})"
        ) from error


def print_best(outputs, top=3):
    """Prints the best classes of each video; nothing where the signature returns no scores."""
    counts = outputs.get(NUM_FRAMES)  # of `serve_examples`: 0 or less where an example could not be used
    for row, scores in enumerate(outputs.get("scores", ())):
        if counts is not None and counts[row] < 1:
            print(f"video {row}: no answer, its example holds no usable frames")
            continue
        best = np.argsort(scores)[::-1][:top]
        print(f"video {row}: " + ", ".join(f"class {index} {scores[index]:.3f}" for index in best))


def _encode_bytes(value):
    return {"b64": base64.b64encode(value).decode()}


def _read_records(path):
    """The records of a TFRecord file, each behind 8 bytes of length and 4 of checksum, and before 4 of checksum."""
    records = []
    with open(path, "rb") as file:
        while header := file.read(12):
            (length,) = struct.unpack("<Q4x", header)
            body = file.read(length + 4)
            if len(body) != length + 4:
                raise ValueError(f"record {len(records)} is cut short")
            records.append(body[:length])
    return records


def _send(request, timeout):
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        words = error.read().decode(errors="replace").strip() or error.reason
        raise OSError(f"The server refused the request: {words}") from error
    except TimeoutError as error:
        raise TimeoutError(f"The server must answer within {timeout} s; allow more. Received: no answer") from error
    except urllib.error.URLError as error:
        raise OSError(
            f"The server must be reachable; see that it runs. Received: {request.full_url} ({error.reason})"
        ) from error
    except (http.client.HTTPException, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _foreign(request.full_url, error) from error


def _foreign(url, error):
    return ValueError(
        "The URL must be a model's on TensorFlow Serving, http://host:port/v1/models/NAME. "
        f"Received: {url} ({type(error).__name__}: {error})"
    )


def main():
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("inputs", help="an .npz or a .tfrecord file")
    parser.add_argument("--output", help="an .npz file to write")
    parser.add_argument("--signature", default="serving_default", help="what to ask (default %(default)s)")
    parser.add_argument("--top", type=int, default=3, help="classes to print for each video (default %(default)s)")
    parser.add_argument("--timeout", type=float, default=30, help="seconds (default %(default)s)")
    options = parser.parse_args()
    try:
        outputs = predict(options.url, read_inputs(options.inputs), options.signature, options.timeout)
        print_best(outputs, options.top)
        if options.output:
            np.savez(options.output, **outputs)
    except (OSError, ValueError) as error:
        print(f"tf_serving_client: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
