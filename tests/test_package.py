"""The package as users get it: the wheel, the code in the documentation, the import."""

import doctest
import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
import types
import zipfile

import keras
import pytest
from keras.src.saving import saving_lib
from make_videos import clip
from paths import ROOT

import keras_netvlad

MODULES = ["keras_netvlad", *(m.name for m in pkgutil.walk_packages(keras_netvlad.__path__, "keras_netvlad."))]


# Their examples export, train or serve. The other tests of these modules are short.
LONG_EXAMPLES = tuple(f"keras_netvlad.{name}." for name in ("export", "training", "losses", "callbacks", "videos"))


def code_blocks(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name.startswith(LONG_EXAMPLES) else name for name in MODULES],
)
def test_examples_of_docstrings_are_true(name):
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0


def test_public_names_are_importable_and_documented():
    for name in MODULES:
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", []):
            thing = getattr(module, public)
            if public == "__version__":
                continue
            assert thing.__doc__, f"{name}.{public}"
            if not (isinstance(thing, type) and issubclass(thing, Exception)):
                assert ">>>" in thing.__doc__, f"{name}.{public} has no example"


PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if code_blocks(page)]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_code_of_a_page_runs_as_one_program(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(clip("bikes"), "video.mp4")
    program = "\n".join(code_blocks(page))
    exec(compile(program, page.name, "exec"), {"__name__": page.stem})
    # What a page says that a line prints, it prints.
    printed = capsys.readouterr().out.splitlines()
    promised = re.findall(r"^ *print\(.*\)  # (\([\d, ]+\))", program, flags=re.MULTILINE)
    assert [line for line in printed if re.fullmatch(r"\([\d, ]+\)", line)] == promised


def test_every_page_has_code_or_needs_none():
    assert {page.name for page in PAGES} == {
        *(
            "README.md",
            "artefacts.md",
            "choosing.md",
            "hub.md",
            "layer.md",
            "migration.md",
            "phones.md",
            "pictures.md",
            "places.md",
            "runtimes.md",
            "scale.md",
            "training.md",
            "video.md",
        )
    }


def test_links_of_the_documentation_lead_somewhere():
    for page in [
        path
        for folder in (".", "docs", "examples", "export", "export/tf_serving")
        for path in (ROOT / folder).glob("*.md")
    ]:
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            if not link.startswith("http"):
                assert (page.parent / link.split("#")[0]).exists(), f"{page.name}: {link}"


@pytest.mark.slow
def test_a_model_loads_from_a_hub(tmp_path, monkeypatch):
    model = keras_netvlad.VideoClassifier({"frames": 4}, num_classes=3, num_clusters=2)
    model.save(tmp_path / "copy", zipped=False)
    # Keras calls this function for `hf://` and then reads the directory.
    asked = []
    hub = types.ModuleType("huggingface_hub")
    hub.snapshot_download = lambda *args, **options: asked.append((args, options)) or str(tmp_path / "copy")
    monkeypatch.setattr(saving_lib, "huggingface_hub", hub)
    same = keras.saving.load_model("hf://user/model")
    assert "user/model" in str(asked)
    for weight, copy in zip(model.weights, same.weights, strict=True):
        assert (keras.ops.convert_to_numpy(weight) == keras.ops.convert_to_numpy(copy)).all()


@pytest.mark.slow
def test_importing_is_light():
    program = (
        "import sys, keras, keras_netvlad; "
        "print(sorted({'tf2onnx', 'onnx', 'onnxruntime', 'matplotlib', 'sklearn', 'scipy', 'av'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    # Keras itself may load some of them; what counts is what this package adds.
    alone = subprocess.run(
        [sys.executable, "-c", program.replace(", keras_netvlad", "")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert finished.stdout == alone.stdout


@pytest.mark.slow
def test_the_wheel_holds_the_library_and_nothing_else(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)],
        check=True,
        timeout=300,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "keras_netvlad",
        f"keras_netvlad-{keras_netvlad.__version__}.dist-info",
    }
    packaged = {name for name in names if name.startswith("keras_netvlad/")}
    on_disk = {str(path.relative_to(ROOT)) for path in (ROOT / "keras_netvlad").rglob("*") if path.is_file()}
    assert packaged == {name for name in on_disk if "__pycache__" not in name}
    assert {"keras_netvlad/py.typed", "keras_netvlad/data/japanese_vowels.npz"} <= packaged
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    lines = zipfile.ZipFile(wheel).read(metadata).decode().splitlines()
    for line in ("Name: keras-netvlad", "License-Expression: Apache-2.0", "Classifier: Operating System :: MacOS"):
        assert line in lines
    assert not any("Windows" in line for line in lines if line.startswith("Classifier"))
