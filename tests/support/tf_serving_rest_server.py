"""A stand-in for TensorFlow Serving's REST interface: it runs a real artefact, so that clients can be tested.

What it shows is that a client speaks the protocol as documented; it says nothing about TensorFlow Serving itself.
"""

import base64
import contextlib
import http.server
import json
import re
import threading
from pathlib import Path

import numpy as np
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2

from keras_netvlad.export import Artefact

PATH = re.compile(r"/v1/models/(?P<name>\w+)(/versions/(?P<version>\d+)|/labels/stable)?(?P<verb>:predict|/metadata)?")


@contextlib.contextmanager
def serve_rest(path):
    """Serves the SavedModel at `<name>/<version>`, labeled `stable`, on 127.0.0.1.

    Yields:
        The URL of the models, to be followed by `/<name>`, and the list of the paths that were asked for.
    """
    path = Path(path)
    artefact, metadata, asked = Artefact(path), read_metadata(path), []

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 60

        def do_GET(self):
            self.answer(None)

        def do_POST(self):
            self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"])), parse_constant=float))

        def answer(self, body):
            asked.append(self.path)
            match = PATH.fullmatch(self.path)
            if not match or match["name"] != path.parent.name or match["version"] not in (None, path.name):
                status, answer = 404, {"error": f"Servable not found for request: {self.path}"}
            elif match["verb"] is None:
                status, answer = 200, {"model_version_status": [{"version": path.name, "state": "AVAILABLE"}]}
            elif match["verb"] == "/metadata":
                status, answer = 200, metadata
            else:
                try:
                    status, answer = 200, {"outputs": predict(artefact, body)}
                except Exception as error:
                    status, answer = 400, {"error": str(error)}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/models", asked
    finally:
        server.shutdown()
        server.server_close()


def read_metadata(path):
    """Returns the answer to `/metadata`, made from the signatures as TensorFlow Serving makes it."""
    proto = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    (meta_graph,) = proto.meta_graphs
    signatures = {
        name: json_format.MessageToDict(
            signature, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        for name, signature in meta_graph.signature_def.items()
    }
    return {
        "model_spec": {"name": path.parent.name, "signature_name": "", "version": path.name},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def predict(artefact, body):
    name = body.get("signature_name") or "serving_default"
    if name not in artefact.signatures:
        raise ValueError(f'Serving signature name: "{name}" not found in signature def')
    ports = artefact.signatures[name][0]
    if set(body["inputs"]) != set(ports):
        raise ValueError(f"inputs: {sorted(body['inputs'])}; expected: {sorted(ports)}")
    outputs = artefact.run({key: read_tensor(body["inputs"][key], dtype) for key, (_, dtype) in ports.items()}, name)
    answer = {key: values.tolist() for key, values in outputs.items()}
    return answer if len(answer) > 1 else next(iter(answer.values()))


def read_tensor(values, dtype):
    if dtype == "string":
        return np.array([base64.b64decode(value["b64"], validate=True) for value in values], object)
    array = np.array(values)
    if array.dtype.kind == "f" and dtype.startswith(("int", "uint")):
        raise ValueError(f"JSON Value: {array.flat[0]} Type: Number is not of expected type: {dtype}")
    return array.astype(dtype)
