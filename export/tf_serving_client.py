"""Asks TensorFlow Serving's REST interface about videos; the standard library and NumPy are all it needs.

    python tf_serving_client.py http://127.0.0.1:8501/v1/models/NAME INPUTS.npz [--output OUTPUTS.npz]

INPUTS.npz holds one array for each input of the model, such as `frames` (batch, frames, features) and `num_frames`
(batch,). Prints the best classes of each video; `--output` keeps every output in full.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request

import numpy as np


def predict(url, inputs, timeout=30):
    """Sends one batch.

    Args:
        url: `http://host:port/v1/models/NAME`, with `/versions/N` for one version.
        inputs: Dict from input name to array, the batch first.
        timeout: Seconds.

    Returns:
        Dict from output name to array.

    Raises:
        OSError: If the server can't be reached or refuses; the message holds the server's own words.
    """
    body = json.dumps({"inputs": {name: np.asarray(values).tolist() for name, values in inputs.items()}}).encode()
    request = urllib.request.Request(f"{url}:predict", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            outputs = json.load(response)["outputs"]
    except urllib.error.HTTPError as error:
        raise OSError(f"The server refused the request: {error.read().decode(errors='replace')}") from error
    return {name: np.array(values) for name, values in outputs.items()}


def main():
    """Reads the inputs, asks, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("inputs", help="an .npz file")
    parser.add_argument("--output", help="an .npz file to write")
    parser.add_argument("--top", type=int, default=3, help="classes to print for each video (default %(default)s)")
    options = parser.parse_args()
    try:
        with np.load(options.inputs, allow_pickle=False) as arrays:
            outputs = predict(options.url, dict(arrays))
    except (OSError, ValueError) as error:
        print(f"tf_serving_client: {error}", file=sys.stderr)
        return 1
    for row, scores in enumerate(outputs["scores"]):
        best = np.argsort(scores)[::-1][: options.top]
        print(f"video {row}: " + ", ".join(f"class {index} {scores[index]:.3f}" for index in best))
    if options.output:
        np.savez(options.output, **outputs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
