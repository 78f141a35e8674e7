"""The C++ program of export/cpp, compiled and run on pictures of two sizes."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from paths import EXPORT
from small_pictures import make_places

from keras_netvlad.export import export_onnx
from keras_netvlad.models import picture_model

# Python's package of ONNX Runtime holds the library; no package of pip or npm holds the headers.
INCLUDE = Path(os.environ.get("ONNXRUNTIME_INCLUDE", "/usr/include/onnxruntime"))
COMPILER = shutil.which("g++")

pytestmark = [
    pytest.mark.runtimes,
    pytest.mark.skipif(
        COMPILER is None or not (INCLUDE / "onnxruntime_c_api.h").is_file(),
        reason="needs g++, and ONNXRUNTIME_INCLUDE=directory of onnxruntime_c_api.h from a release of ONNX Runtime",
    ),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    directory = tmp_path_factory.mktemp("program")
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.1.*")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (directory / name).symlink_to(library)
    options = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{INCLUDE}", f"-L{directory}", f"-Wl,-rpath,{directory}"]
    command = [COMPILER, EXPORT / "cpp" / "describe.cpp", "-o", directory / "describe", *options, "-lonnxruntime"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    return directory / "describe"


@pytest.fixture(scope="module")
def places():
    return make_places()


def run(program, *arguments):
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)


def write_ppm(path, image):
    height, width, _ = image.shape
    path.write_bytes(b"P6\n%d %d\n255\n" % (width, height) + image.tobytes())


@pytest.mark.parametrize("size", [(24, 24), (33, 50)])
def test_descriptors_equal_keras(program, places, size, tmp_path):
    export_onnx(places, tmp_path / "places.onnx", layout="nhwc", verify=False)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype("uint8")
    write_ppm(tmp_path / "picture.ppm", image)
    finished = run(program, tmp_path / "places.onnx", tmp_path / "picture.ppm")
    assert finished.returncode == 0, finished.stderr
    digest, *values = finished.stdout.splitlines()
    metadata = onnxruntime.InferenceSession(tmp_path / "places.onnx").get_modelmeta().custom_metadata_map
    assert digest == f"# weights_sha256 {metadata['weights_sha256']}"
    expected = np.asarray(picture_model(places)({"images": image[None]})["descriptor"])[0]
    np.testing.assert_allclose([float(value) for value in values], expected, atol=1e-6)


def test_wrong_files_are_one_sentence(program, places, tmp_path):
    export_onnx(places, tmp_path / "nchw.onnx", layout="nchw", verify=False)
    export_onnx(places, tmp_path / "nhwc.onnx", layout="nhwc", verify=False)
    (tmp_path / "half.ppm").write_bytes(b"P6\n24 24\n255\nhalf")
    (tmp_path / "text.ppm").write_bytes(b"P3\n1 1\n255\n0 0 0\n")
    for model, picture, message in (
        ("nchw", "half", "The model must take RGB pictures of layout nhwc. Received: layout 'nchw'"),
        ("nhwc", "half", "The picture must be a complete PPM file."),
        ("nhwc", "text", "The picture must be a binary PPM of 8 bits"),
        ("nothing", "text", "Load model from"),
    ):
        finished = run(program, tmp_path / f"{model}.onnx", tmp_path / f"{picture}.ppm")
        assert (finished.returncode, finished.stdout) == (1, "")
        assert finished.stderr.startswith(f"describe: {message}")
        assert finished.stderr.count("\n") == 1
    assert run(program).stderr == "usage: describe MODEL.onnx PICTURE.ppm\n"
