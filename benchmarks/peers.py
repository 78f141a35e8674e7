"""Other packages with a NetVLAD layer, installed from the package index below `build/bench/`."""

import importlib.util
import shutil
import subprocess
import sys

from benchmarks.measuring import ROOT

FOLDER = ROOT / "build" / "bench"
# TensorFlow Addons ended with TensorFlow 2.15, whose last Python is 3.11.
ADDONS_PYTHON = "3.11"
ADDONS = ("tensorflow-cpu==2.15.1", "tensorflow-addons==0.23.0")
# Without what it requires, which is gigabytes and, by the name `faiss`, not on the index; the layer's module imports
# torch, scikit-learn and faiss.
PATCHNETVLAD = ("patchnetvlad==0.1.8", "faiss-cpu>=1.8")


class Absent(Exception):
    """A package that can't be measured here; the message says why."""


def addons_python(install):
    """The interpreter of an environment with TensorFlow Addons, made if there is none and `install` is true."""
    python = FOLDER / "addons" / "bin" / "python"
    ready = FOLDER / "addons" / "ready"
    if not ready.exists():
        found = sys.executable if sys.version.startswith(ADDONS_PYTHON) else shutil.which(f"python{ADDONS_PYTHON}")
        if not found:
            raise Absent(f"TensorFlow Addons needs Python {ADDONS_PYTHON}, which is not here")
        _check(install, "TensorFlow Addons")
        _run([found, "-m", "venv", "--clear", str(python.parent.parent)], "TensorFlow Addons")
        _run([str(python), "-m", "pip", "install", "--quiet", *ADDONS], "TensorFlow Addons")
        ready.touch()
    return python


def patchnetvlad_path(install):
    """The folder with `patchnetvlad`, to be put on the path beside an installed torch; made as the other."""
    folder = FOLDER / "patchnetvlad"
    ready = folder / "ready"
    for module in ("torch", "sklearn"):
        if importlib.util.find_spec(module) is None:
            raise Absent(f"patchnetvlad needs {module}, which is not installed")
    if not ready.exists():
        _check(install, "patchnetvlad")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(folder)]
        _run([*command, *PATCHNETVLAD], "patchnetvlad")
        ready.touch()
    return folder


def _check(install, name):
    if not install:
        raise Absent(f"{name} is not installed; a run without --quick installs it below {FOLDER.relative_to(ROOT)}")


def _run(command, name):
    finished = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    if finished.returncode:
        reason = (finished.stderr.strip().splitlines() or ["no message"])[-1]
        raise Absent(f"{name} could not be installed: {reason[:200]}")
