"""Imports point downwards, and each package loads only what it needs."""

import ast
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

import keras_netvlad

PACKAGE = ROOT / "keras_netvlad"
BASE = {"base", "_version"}
# What each package, or module at the top, may import of the others.
ALLOWED = {
    "base": set(),
    "_version": set(),
    "cluster_statistics": BASE,
    "layers": BASE | {"registration"},
    "metrics": BASE | {"registration"},
    "data": BASE,
    "losses": BASE | {"layers", "registration"},
    "convert": BASE | {"layers", "models"},
    "stream": BASE | {"layers"},
    "models": BASE | {"layers", "registration"},
    "callbacks": BASE | {"layers", "cluster_statistics"},
    "plot": BASE | {"cluster_statistics"},
    "retrieval": BASE | {"data"},
    "registration": {"layers", "losses", "metrics", "models"},
    "export": BASE | {"layers", "models", "data"},
    "training": BASE | {"data", "losses", "metrics", "models", "export"},
    "videos": BASE | {"cluster_statistics", "data", "layers", "metrics", "models", "retrieval", "export", "training"},
    "demo": BASE | {"data", "layers", "models", "plot", "export"},
    # Names of earlier releases.
    "extraction": {"videos"},
    "indexing": {"retrieval"},
    "usage": {"cluster_statistics"},
}
# The rooms of `export`, from the bottom to the top. A room may import those before it.
ROOMS = (
    "",
    "verification",
    "saved_model",
    "onnx",
    "litert",
    "serving",
    "model_export",
    "description",
    "inspection",
    "layer_comparison",
)
HEAVY = ("keras", "tensorflow", "onnx", "onnxruntime", "tf2onnx", "sklearn", "matplotlib", "av", "h5py", "scipy", "cv2")
# What importing a package may load of these besides what Keras itself loads.
LOADS = {name: {"onnx", "tf2onnx"} for name in ("export", "training", "demo")}
NO_KERAS = ("base", "retrieval", "cluster_statistics", "videos")


def imports_of(source):
    """Yields every module of this package that a file imports, at its top or in a function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module else []
        else:
            continue
        yield from (name.split(".")[1:] for name in names if name.split(".")[0] == "keras_netvlad")


def upward_imports(place, source):
    """Returns the imports of a module, given by its path such as `("layers", "netvlad")`, that point upwards."""
    own = place[0]
    return [
        ".".join(target)
        for target in imports_of(source)
        if target and target[0] != own and target[0] not in ALLOWED[own] and target[0] != "__version__"
    ]


def room(place):
    """The room of a module of `export`, given by its path in it; the bottom for modules that serve all rooms."""
    return ROOMS.index(place[0]) if place and place[0] in ROOMS else 0


MODULES = {
    path.relative_to(PACKAGE).with_suffix("").parts: path.read_text()
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.relative_to(PACKAGE).parts[0] not in ("__init__.py", "__main__.py", "cli")
}


def test_every_package_has_its_place():
    names = {module.name for module in pkgutil.iter_modules([str(PACKAGE)])} - {"__main__", "cli"}
    assert names == set(ALLOWED)


def test_imports_point_downwards():
    found = {".".join(place): upward_imports(place, source) for place, source in MODULES.items()}
    assert {place: names for place, names in found.items() if names} == {}


def test_rooms_of_export_import_downwards():
    for place, source in MODULES.items():
        if place[0] != "export" or place == ("export", "__init__"):
            continue
        for target in imports_of(source):
            if target[0] == "export":
                assert room(target[1:]) <= room(place[1:]), f"{'.'.join(place)} imports {'.'.join(target)}"


@pytest.mark.parametrize(
    ("place", "source", "found"),
    [
        (("layers", "netvlad"), "from keras_netvlad.models import VideoClassifier", ["models.VideoClassifier"]),
        (("data", "x"), "def f():\n    import keras_netvlad.export.serving", ["export.serving"]),
        (("retrieval", "x"), "from keras_netvlad import export", ["export"]),
        (("base", "x"), "from keras_netvlad.layers import NetVLAD\nimport numpy", ["layers.NetVLAD"]),
        (("export", "onnx", "x"), "from keras_netvlad.training import train", ["training.train"]),
        (("models", "x"), "from keras_netvlad.base.names import SCORES", []),
    ],
)
def test_a_planted_import_upwards_is_found(place, source, found):
    assert upward_imports(place, source) == found


def test_the_ground_floor_needs_numpy_and_the_standard_library_only():
    for path in (PACKAGE / "base").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            tops = {name.split(".")[0] for name in names}
            assert tops <= {"numpy", "keras_netvlad", *sys.stdlib_module_names}, path.name


def reachable(package):
    """A package and everything that its imports lead to."""
    found, waiting = set(), [package]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += ALLOWED[name]
    return found


def loaded_by(statement):
    """Which heavy packages, and which packages of ours, a fresh process has loaded after a statement."""
    program = f"{statement}; import json, sys; print(json.dumps(sorted(sys.modules)))"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    return heavy_and_own(json.loads(finished.stdout.splitlines()[-1]))


def heavy_and_own(modules):
    own = {name.split(".")[1] for name in modules if name.startswith("keras_netvlad.")}
    return set(HEAVY) & set(modules), own


@pytest.mark.parametrize("package", NO_KERAS)
def test_what_needs_no_keras_starts_without_it(package):
    heavy, own = loaded_by(f"import keras_netvlad.{package}")
    assert heavy == set()
    assert own <= {package, *BASE}


def test_a_vocabulary_needs_no_keras():
    heavy, own = loaded_by("from keras_netvlad.videos import Vocabulary")
    assert heavy == set()
    assert own <= {"videos", "retrieval", *BASE}


def test_the_index_searches_without_keras():
    statement = (
        "from keras_netvlad.retrieval import DescriptorIndex; import numpy as np; i = DescriptorIndex(); "
        "i.add(['a', 'b'], np.eye(2)); assert i.search(np.eye(2), 1)[0].tolist() == [['a'], ['b']]"
    )
    assert loaded_by(statement)[0] == set()


# Runs each statement in a copy of a process that has loaded the slow libraries once.
FORKS = """
import json, os, sys, traceback, {libraries}
for statement in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            exec(statement)
            print(json.dumps(sorted(sys.modules)), flush=True)
        except Exception:
            traceback.print_exc()
        os._exit(0)
    os.waitpid(child, 0)
"""


def loaded_by_each(statements, libraries):
    """`loaded_by` for each of several statements, in processes that have loaded some libraries before."""
    program = [sys.executable, "-c", FORKS.format(libraries=libraries), *statements]
    finished = subprocess.run(program, capture_output=True, text=True, timeout=300, check=True)
    lines = finished.stdout.splitlines()
    assert len(lines) == len(statements), finished.stderr
    return [heavy_and_own(json.loads(line)) for line in lines]


@pytest.mark.slow
def test_each_package_loads_what_it_needs():
    packages = sorted(set(ALLOWED) - {*NO_KERAS, "extraction", "indexing", "usage"})
    statements = ["pass", *(f"import keras_netvlad.{package}" for package in packages)]
    (of_keras, _), *loaded = loaded_by_each(statements, "keras")
    for package, (heavy, own) in zip(packages, loaded, strict=True):
        assert heavy <= LOADS.get(package, set()) | of_keras, package
        # Loading Keras registers what a `.keras` file may name.
        assert own <= reachable(package) | reachable("registration"), package


REGISTERED = (
    "get = keras.saving.get_registered_object; names = ['NetVLAD', 'VideoClassifier', 'HitAtOne', "
    "'MultiSimilarityLoss']; assert all(get('keras_netvlad>' + name) for name in names); "
    "assert keras_netvlad.metrics.HitAtOne"
)


@pytest.mark.slow
def test_importing_any_part_registers_what_a_file_may_name():
    packages = ["layers", "losses", "metrics", "models", "stream", "export", "retrieval"]
    imports = ["keras_netvlad, keras", "keras, keras_netvlad", *(f"keras_netvlad.{name}, keras" for name in packages)]
    loaded_by_each([f"import {names}; {REGISTERED}" for names in imports], "tensorflow")


def test_names_of_the_package():
    for name in keras_netvlad.__all__:
        assert getattr(keras_netvlad, name) is not None
        assert name in dir(keras_netvlad)
    with pytest.raises(AttributeError, match="has no attribute 'NetVald'"):
        keras_netvlad.NetVald  # noqa: B018


def test_every_sub_package_lists_its_public_names():
    for path in PACKAGE.rglob("__init__.py"):
        names = {
            target.id
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        imports = any(isinstance(node, ast.ImportFrom) for node in ast.parse(path.read_text()).body)
        assert "__all__" in names or not imports, Path(path).relative_to(ROOT)
