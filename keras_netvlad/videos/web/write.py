"""`write_web_page`: writes a folder that any web server offers as a page."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime

from keras_netvlad.base.atomic_files import staged
from keras_netvlad.base.validation import check_choice
from keras_netvlad.retrieval import DescriptorIndex
from keras_netvlad.videos.predict import Predictor, predictor_directory
from keras_netvlad.videos.web.compact_weights import compact_weights

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
# The settings that the page needs. The path of the videos and the settings of the training stay private.
SETTINGS = ("format", "labels", "stream", "dtype", "size", "fps", "max_seconds", "positions", "task")
NPM_SECONDS = 600
# How the encoder's weights are stored, and the largest difference of its features from those in float32, as a fraction
# of the largest. Measured with MobileNetV2: 2.4e-3 and 0.1 on real frames.
WEIGHTS = {"float32": 0.0, "float16": 0.02, "int8": 0.3}


def write_web_page(
    run: str | os.PathLike[str],
    output: str | os.PathLike[str],
    index: str | os.PathLike[str] | None = None,
    runtime: str | os.PathLike[str] | None = None,
    encoder_weights: Literal["float32", "float16", "int8"] = "float32",
) -> Path:
    """Writes a static folder with a web page that classifies videos in the browser.

    Args:
        run: Directory of a run of `train`, or a predictor.
        output: Directory to write. It must not exist, or be empty.
        index: File of a `DescriptorIndex` that was made with the run, whose nearest clips the page shows; or `None`.
        runtime: Directory of the npm package onnxruntime-web, or `None` to install it with npm temporarily.
        encoder_weights: How the encoder's weights are stored. In `"float16"` and `"int8"`, a half and a quarter as many
            bytes are downloaded, and features and scores are rounded; the browser computes in float32 as before.

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
        ValueError: If a file is damaged, if the predictor has no frame rate, or if the encoder computes something else
            with such weights.
        RuntimeError: If npm fails.
    """
    check_choice("encoder_weights", encoder_weights, tuple(WEIGHTS))
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
            _write_predictor(stage / "predictor", predictor, clips, encoder_weights)
    return output / "index.html"


def _write_predictor(
    folder: Path,
    predictor: Predictor,
    clips: DescriptorIndex | None,
    encoder_weights: Literal["float32", "float16", "int8"],
) -> None:
    folder.mkdir()
    settings = {name: predictor.settings[name] for name in SETTINGS}
    settings |= {"files": predictor.settings["files"], "index": None}
    if not predictor.has_live_stream:
        settings["files"] = {name: settings["files"][name] for name in ("encoder.onnx", "classifier.onnx")}
    else:
        settings["files"] = {name: digest for name, digest in settings["files"].items() if name != "classifier.onnx"}
    for name in settings["files"]:
        shutil.copyfile(predictor.directory / name, folder / name)
    if encoder_weights != "float32":
        content = _compact_encoder(predictor, encoder_weights)
        (folder / "encoder.onnx").write_bytes(content)
        settings["files"] = {**settings["files"], "encoder.onnx": hashlib.sha256(content).hexdigest()}
    if clips is not None:
        settings["index"] = clips.ids
        np.stack([clips.descriptor(name) for name in clips.ids]).astype("<f4").tofile(folder / "index.bin")
    text = json.dumps(settings, indent=1, ensure_ascii=False) + "\n"
    (folder / "predictor.json").write_text(text, encoding="utf-8")


def _compact_encoder(predictor: Predictor, weights: Literal["float16", "int8"]) -> bytes:
    """Returns the encoder with its weights in fewer bytes, after a comparison with the encoder on pictures of noise."""
    original = (predictor.directory / "encoder.onnx").read_bytes()
    content = compact_weights(onnx.load_from_string(original), weights).SerializeToString()
    size = predictor.settings["size"]
    pictures = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), "uint8")
    expected, received = (
        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"images": pictures})[0]
        for model in (original, content)
    )
    difference, limit = np.abs(received - expected).max() / max(np.abs(expected).max(), 1e-6), WEIGHTS[weights]
    if not difference <= limit:
        raise ValueError(
            f"Weights in {weights} may change the encoder's features by at most {limit:.0%} of the largest; store them "
            f"in {'float16 or float32' if weights == 'int8' else 'float32'}. Received: {difference:.0%}"
        )
    return content


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
        problem = f"still running after {NPM_SECONDS} s"
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
