"""Runs Triton's own server on the loopback interface, for tests.

The binary comes with NVIDIA's package nvidia-pytriton (`make runtimes`), which holds the Python backend and no other.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

TRITON = Path(sys.prefix) / "triton"
WHEEL = TRITON / "pytriton" / "tritonserver"
STUB = (
    WHEEL / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}" / "triton_python_backend_stub"
)
ONNXRUNTIME_BACKEND = Path(__file__).with_name("triton_onnxruntime_backend.py")
START_SECONDS, STOP_SECONDS = 60, 20


def why_not():
    """Returns why the server can't run here, or an empty string."""
    if not STUB.is_file():
        return f"no Triton server for Python {sys.version_info.major}.{sys.version_info.minor}; `make runtimes`"
    # Without its arguments it ends at once, with 1. Where it can't start, a model's loading would never end.
    if subprocess.run([STUB], capture_output=True, timeout=STOP_SECONDS).returncode == 127:
        return "Triton's Python backend needs Python's shared library (on Debian, the package libpython3)"
    return ""


@dataclass(frozen=True)
class Server:
    """A running server: where it listens, and what it has written so far."""

    http_port: int
    grpc_port: int
    directory: Path

    @property
    def url(self):
        """The root of its HTTP interface."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def log(self):
        """All that it has written."""
        return (self.directory / "triton.log").read_text(errors="replace")

    @property
    def log_tail(self):
        """The end of it, without the tables of options."""
        return "\n".join([line for line in self.log.splitlines() if not line.startswith(("|", "+"))][-40:])

    @property
    def runs(self):
        """The requests that its onnxruntime backend has run, as dicts of shapes by input name."""
        return [json.loads(line) for line in (self.directory / "runs").read_text().splitlines()]


@contextlib.contextmanager
def running(repository, directory, *arguments):
    """Serves a model repository until the block ends, with a stand-in for the onnxruntime backend.

    Args:
        repository: The model repository.
        directory: Directory that exists, for the log and the backends.
        *arguments: More of the server's own arguments.

    Yields:
        A `Server` whose models are all loaded.

    Raises:
        RuntimeError: If it does not come up; the message holds the end of its log.
    """
    with _process(repository, directory, arguments, True) as (process, server):
        end = time.monotonic() + START_SECONDS
        while not _is_ready(server):
            if process.poll() is not None or time.monotonic() > end:
                state = "did not become ready" if process.poll() is None else f"exited with {process.returncode}"
                raise RuntimeError(f"Triton {state}; the end of its log:\n{server.log_tail}")
            time.sleep(0.05)
        yield server


def load_error(repository, directory, with_onnxruntime=False):
    """Lets the server load a repository that it must refuse, with or without the stand-in for its onnxruntime backend.

    Returns:
        What the server wrote.
    """
    with _process(repository, directory, ["--exit-on-error", "true"], with_onnxruntime) as (process, server):
        try:
            process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"Triton refused nothing; the end of its log:\n{server.log_tail}") from None
        return server.log


@contextlib.contextmanager
def _process(repository, directory, arguments, with_onnxruntime):
    directory = Path(directory)
    # The Python backend wants its interpreter beside it; the wheel keeps one for each Python elsewhere.
    shutil.copytree(WHEEL / "backends" / "python", directory / "backends" / "python")
    shutil.copy(STUB, directory / "backends" / "python")
    if with_onnxruntime:
        (directory / "backends" / "onnxruntime").mkdir()
        shutil.copy(ONNXRUNTIME_BACKEND, directory / "backends" / "onnxruntime" / "model.py")
    server = Server(*_free_ports(2), directory)
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(TRITON / "nvidia_pytriton.libs"),
        "SITE_PACKAGES": sysconfig.get_path("purelib"),
        "RUNS": str(directory / "runs"),
    }
    with open(directory / "triton.log", "w") as log:
        process = subprocess.Popen(
            [
                str(WHEEL / "bin" / "tritonserver"),
                *("--model-repository", str(repository)),
                *("--backend-directory", str(directory / "backends")),
                *("--http-address", "127.0.0.1", "--http-port", str(server.http_port)),
                *("--grpc-address", "127.0.0.1", "--grpc-port", str(server.grpc_port)),
                *("--allow-metrics", "false", "--disable-auto-complete-config"),
                *arguments,
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        yield process, server
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _is_ready(server):
    try:
        with urllib.request.urlopen(f"{server.url}/v2/health/ready", timeout=2) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False
