"""`write_web_page`: writes a folder that any web server offers as a page."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from keras_netvlad.base.atomic_files import staged
from keras_netvlad.retrieval import DescriptorIndex
from keras_netvlad.videos.predict import Predictor, predictor_directory

PAGE = Path(__file__).parent / "page"
# `export/web/package.json` asks for the same version.
RUNTIME = "onnxruntime-web@^1.30.0"
# The page loads the first three files where there is no WebGPU, otherwise the last three.
RUNTIME_FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
# The page gets what it needs to know. The path of the videos and the settings of the training stay private.
SETTINGS = ("format", "labels", "stream", "dtype", "size", "fps", "max_seconds", "positions", "task")
NPM_SECONDS = 600


def write_web_page(
    run: str | os.PathLike[str],
    output: str | os.PathLike[str],
    index: str | os.PathLike[str] | None = None,
    runtime: str | os.PathLike[str] | None = None,
) -> Path:
    """Writes a static folder with a web page that classifies videos in the browser.

    Args:
        run: Directory of a run of `train`, or a predictor.
        output: Directory to write. It must not exist, or be empty.
        index: File of a `DescriptorIndex` that was made with the run, whose nearest clips the page shows; or `None`.
        runtime: Directory of the npm package onnxruntime-web, or `None` to install it with npm for the moment.

    Returns:
        Path of the page, `index.html`.

    Example:

    >>> from keras_netvlad.videos import write_web_page
    >>> try:
    ...     write_web_page("no/such/run", "page")
    ... except FileNotFoundError as error:
    ...     print(error)
    A predictor is a directory with predictor.json, which `keras-netvlad train` writes. Received: no/such/run

    Raises:
        FileNotFoundError: If a file of the predictor or of onnxruntime-web is missing, or if there is no npm.
        FileExistsError: If the output is not empty.
        ValueError: If a file is damaged, or if the predictor has no frame rate.
        RuntimeError: If npm fails.
    """
    output = Path(output)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(
            f"The output must be a new or empty directory; choose another path or empty it. Received: {output}"
        )
    predictor = Predictor(predictor_directory(run))
    if predictor.settings["fps"] is None:
        raise ValueError("The web page needs a predictor with a frame rate. Received: one that reads every frame")
    clips = None if index is None else _read_index(index, predictor)
    with tempfile.TemporaryDirectory() as temporary:
        dist = _runtime(_install(Path(temporary)) if runtime is None else Path(runtime))
        if output.is_dir():
            output.rmdir()
        with staged(output) as stage:
            shutil.copytree(PAGE, stage)
            (stage / "runtime").mkdir()
            for name in RUNTIME_FILES:
                shutil.copyfile(dist / name, stage / "runtime" / name)
            _write_predictor(stage / "predictor", predictor, clips)
    return output / "index.html"


def _write_predictor(folder: Path, predictor: Predictor, clips: DescriptorIndex | None) -> None:
    folder.mkdir()
    settings = {name: predictor.settings[name] for name in SETTINGS}
    settings |= {"files": predictor.settings["files"], "index": None}
    if not predictor.has_live_stream:
        settings["files"] = {name: settings["files"][name] for name in ("encoder.onnx", "classifier.onnx")}
    else:
        settings["files"] = {name: digest for name, digest in settings["files"].items() if name != "classifier.onnx"}
    for name in settings["files"]:
        shutil.copyfile(predictor.directory / name, folder / name)
    if clips is not None:
        settings["index"] = clips.ids
        np.stack([clips.descriptor(name) for name in clips.ids]).astype("<f4").tofile(folder / "index.bin")
    text = json.dumps(settings, indent=1, ensure_ascii=False) + "\n"
    (folder / "predictor.json").write_text(text, encoding="utf-8")


def _read_index(path: str | os.PathLike[str], predictor: Predictor) -> DescriptorIndex:
    clips = DescriptorIndex.load(path)
    files = predictor.settings["files"]
    clips.check_source({"model": files["classifier.onnx"], "encoder": files["encoder.onnx"]})
    return clips


def _install(folder: Path) -> Path:
    """Installs onnxruntime-web in a folder and returns the directory of the package."""
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(
            "onnxruntime-web is installed with npm; install Node.js, or give `runtime`, the directory of the package. "
            "Received: no npm"
        )
    # No package needs to run a program when it is installed.
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", "--prefix", str(folder)]
    try:
        finished = subprocess.run(
            [npm, "install", *options, RUNTIME], capture_output=True, text=True, timeout=NPM_SECONDS, check=False
        )
        problem = finished.stderr.strip() if finished.returncode else None
    except subprocess.TimeoutExpired:
        problem = f"no end after {NPM_SECONDS} s"
    if problem is not None:
        raise RuntimeError(
            f"npm must be able to install {RUNTIME}; try again, or give `runtime`, the directory of the package. "
            f"Received: {' '.join(problem.split())[:500] or 'a failure without a message'}"
        )
    return folder / "node_modules" / "onnxruntime-web"


def _runtime(package: Path) -> Path:
    """Returns the directory of the files of onnxruntime-web."""
    dist = package / "dist"
    missing = [name for name in RUNTIME_FILES if not (dist / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"The runtime must be the directory of the npm package {RUNTIME}, with dist/{missing[0]}. "
            f"Received: {package}"
        )
    return dist
