"""Triton: its own server validates the configuration, and serves our ONNX through a model of its Python backend."""

import ast
import concurrent.futures
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
import triton_server
from paths import ROOT
from selection import slow_except

from keras_netvlad.export import Artefact, ParityError, export_onnx
from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.export.onnx import precision
from keras_netvlad.export.onnx.onnx_export import write_verified_onnx
from keras_netvlad.export.serving import triton
from keras_netvlad.export.serving.triton import _name_graph_after_weights, publish_triton
from keras_netvlad.export.serving.triton_config import triton_config
from keras_netvlad.export.serving.warmup_sizes import warmup_sizes
from keras_netvlad.export.verification import tolerance
from keras_netvlad.layers import NetVLAD
from keras_netvlad.models import VideoClassifier

CLIENT = ROOT / "export" / "triton_client.py"
FEATURE_SIZE, NUM_CLASSES = 6, 5
MAX_BATCH_SIZE = 8
LENGTHS = (4, 32)
# Measured up to 2.2e-7 over a thousand requests, outputs up to 1: the rounding of matrix products of other shapes.
TOLERANCE = 2e-6
# The server has no onnxruntime backend here; that is all it may find fault with.
NO_BACKEND = "unable to find backend library for backend 'onnxruntime'"
WHY_NOT = triton_server.why_not()


def needs_server(test):
    """Marks a test that starts Triton's server."""
    return pytest.mark.runtimes(pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)(test))


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return VideoClassifier({"frames": FEATURE_SIZE}, NUM_CLASSES, num_clusters=4, hidden_units=8, name="classifier")


def parse(text):
    model_config_pb2 = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="`make runtimes` installs tritonclient"
    )
    text_format = pytest.importorskip("google.protobuf.text_format")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def as_dict(message):
    json_format = pytest.importorskip("google.protobuf.json_format")
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


# What is written


@pytest.mark.runtimes
def test_the_configuration_says_what_the_model_takes_and_gives(model):
    signature = read_signature(model)
    config = triton_config(
        signature,
        "classifier",
        max_batch_size=16,
        preferred_batch_sizes=(4, 8),
        max_queue_delay_microseconds=500,
        sizes=warmup_sizes(signature, 16, (1, 40)),
    )
    zeros = {"zero_data": True}
    assert as_dict(parse(config)) == {
        "name": "classifier",
        "backend": "onnxruntime",
        "max_batch_size": 16,
        "input": [
            {"name": "frames", "data_type": "TYPE_FP32", "dims": ["-1", "6"]},
            {"name": "num_frames", "data_type": "TYPE_INT32", "dims": ["1"], "reshape": {}},
        ],
        "output": [
            {"name": "scores", "data_type": "TYPE_FP32", "dims": ["5"]},
            {"name": "descriptor", "data_type": "TYPE_FP32", "dims": ["24"]},
        ],
        "dynamic_batching": {"preferred_batch_size": [4, 8], "max_queue_delay_microseconds": "500"},
        "instance_group": [{"kind": "KIND_GPU", "count": 1}],
        "model_warmup": [
            {
                "name": f"batch {batch}, frames {frames}",
                "batch_size": batch,
                "inputs": {
                    "frames": {"data_type": "TYPE_FP32", "dims": [str(frames), "6"], **zeros},
                    "num_frames": {"data_type": "TYPE_INT32", "dims": ["1"], **zeros},
                },
            }
            for batch in (1, 16)
            for frames in (1, 40)
        ],
    }


@pytest.mark.runtimes
def test_the_tensorrt_variant_bounds_every_input(model):
    config = triton_config(
        read_signature(model),
        "classifier",
        tensorrt=True,
        max_batch_size=16,
        preferred_batch_sizes=(4, 8),
        sizes=((1, 1), (16, 300)),
        profile_frames=(1, 200, 300),
        engine_cache='/a "path"',
    )
    (accelerator,) = parse(config).optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert dict(accelerator.parameters) == {
        "precision_mode": "FP32",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": '/a "path"',
        "trt_profile_min_shapes": "frames:1x1x6,num_frames:1",
        "trt_profile_opt_shapes": "frames:8x200x6,num_frames:8",
        "trt_profile_max_shapes": "frames:16x300x6,num_frames:16",
    }


@pytest.mark.runtimes
def test_other_types_and_shapes_are_written_as_they_are():
    maps = keras.Input((2, 2, 3), name="maps", dtype="uint8")
    weights = keras.Input((), name="weights", dtype="float16")
    pooled = NetVLAD(2, name="descriptor")(keras.ops.cast(maps, "float32"))
    total = keras.ops.sum(pooled, axis=1) * keras.ops.cast(weights, "float32")
    model = keras.Model({"maps": maps, "weights": weights}, {"descriptor": pooled, "total": total})
    config = parse(triton_config(read_signature(model), "maps", device="cpu", sizes=((1, 1), (32, 1))))
    assert [as_dict(port) for port in [*config.input, *config.output]] == [
        {"name": "maps", "data_type": "TYPE_UINT8", "dims": ["2", "2", "3"]},
        {"name": "weights", "data_type": "TYPE_FP16", "dims": ["1"], "reshape": {}},
        {"name": "descriptor", "data_type": "TYPE_FP32", "dims": ["6"]},
        {"name": "total", "data_type": "TYPE_FP32", "dims": ["1"], "reshape": {}},
    ]
    assert [list(sample.inputs["maps"].dims) for sample in config.model_warmup] == [[2, 2, 3]] * 2
    assert as_dict(config.instance_group[0]) == {"kind": "KIND_CPU", "count": 1}


def test_a_configuration_that_is_no_text_is_one_sentence(model, tmp_path):
    publish_triton(model, tmp_path, verify=False)
    (tmp_path / "classifier" / "config.pbtxt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"^config\.pbtxt must be UTF-8 text; .*Received: .*classifier/config\.pbtxt$"):
        publish_triton(model, tmp_path, verify=False)
    assert sorted(path.name for path in (tmp_path / "classifier").iterdir()) == ["1", "config.pbtxt"]


@pytest.mark.slow
def test_versions_are_counted_and_share_the_configuration(model, tmp_path):
    repository = tmp_path / "repository"
    report = publish_triton(model, repository, max_batch_size=MAX_BATCH_SIZE)
    assert report.ok
    assert report.path == str(repository / "classifier" / "1" / "model.onnx")
    config_path = repository / "classifier" / "config.pbtxt"
    edited = "# tuned by hand\n" + config_path.read_text().replace("input [\n", "input [  # of the camera\n")
    config_path.write_text(edited)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a comment or white space is no other configuration
        publish_triton(model, repository, version=5, max_batch_size=MAX_BATCH_SIZE, verify=False)
    edited = config_path.read_text().replace("dims: [-1, 6]", "dims: [ -1,6 ]")
    config_path.write_text(edited)
    publish_triton(model, repository, version=7, max_batch_size=MAX_BATCH_SIZE)
    with pytest.warns(UserWarning, match=r"config.pbtxt was not changed; it differs"):
        assert publish_triton(model, repository, tensorrt=True).ok
    assert config_path.read_text() == edited
    assert sorted(path.name for path in config_path.parent.iterdir()) == ["1", "5", "7", "8", "config.pbtxt"]
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]
    expected = model.predict(batch(), verbose=0)
    received = Artefact(repository / "classifier" / "8" / "model.onnx").run(batch())
    np.testing.assert_allclose(received["scores"], expected["scores"], atol=TOLERANCE)


@pytest.mark.slow
def test_large_weights_lie_beside_the_model(model, tmp_path):
    publish_triton(model, tmp_path, external_data_threshold=1, opset=17)
    version = tmp_path / "classifier" / "1"
    assert {"model.onnx", "model.onnx.data"} <= {path.name for path in version.iterdir()}
    proto = onnx.load(version / "model.onnx")
    assert proto.opset_import[0].version == 17
    assert proto.ir_version <= 10  # what onnxruntime 1.19 reads, in Triton 24.10
    assert Artefact(version / "model.onnx").run(batch())["scores"].shape == (2, NUM_CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize("threshold", slow_except([1, 100_000_000], 1))
def test_weights_name_the_graph(model, tmp_path, threshold):
    """TensorRT's engines are cached by that name, and by names of nodes, which are the same for other weights."""
    export_onnx(model, tmp_path / "0" / "model.onnx", external_data_threshold=threshold)
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    shutil.copytree(tmp_path / "0", tmp_path / "2")
    file = tmp_path / "2" / ("model.onnx.data" if threshold == 1 else "model.onnx")
    weight = model.get_layer("hidden").kernel.numpy().tobytes()[:64]
    content = file.read_bytes()
    assert content.count(weight) == 1
    file.write_bytes(content.replace(weight, weight[::-1]))
    with open(tmp_path / "1" / "model.onnx", "ab") as appended:  # other metadata do not count
        appended.write(
            onnx.ModelProto(metadata_props=[onnx.StringStringEntryProto(key="a", value="b")]).SerializeToString()
        )
    names = []
    for version in "012":
        _name_graph_after_weights(tmp_path / version / "model.onnx")
        names.append(onnx.load(tmp_path / version / "model.onnx").graph.name)
    assert names[0] == names[1] != names[2]
    assert all(re.fullmatch(r"classifier_[0-9a-f]{16}", name) for name in names)
    publish_triton(model, tmp_path / "repository")
    published = onnx.load(tmp_path / "repository" / "classifier" / "1" / "model.onnx").graph.name
    assert re.fullmatch(r"classifier_[0-9a-f]{16}", published)


@pytest.mark.slow
def test_a_model_of_other_inputs_or_outputs_is_no_further_version(model, tmp_path):
    publish_triton(model, tmp_path)
    config = (tmp_path / "classifier" / "config.pbtxt").read_text()
    others = [
        VideoClassifier({"frames": FEATURE_SIZE + 1}, NUM_CLASSES, num_clusters=4, hidden_units=8),
        VideoClassifier({"frames": FEATURE_SIZE}, NUM_CLASSES, num_clusters=3, hidden_units=8),
        VideoClassifier({"rgb": FEATURE_SIZE}, NUM_CLASSES, num_clusters=4, hidden_units=8),
    ]
    for other in others:
        with pytest.raises(ValueError, match=r"All versions share config.pbtxt.*another `name`. Received: input \["):
            publish_triton(other, tmp_path, name="classifier")
    assert (tmp_path / "classifier" / "config.pbtxt").read_text() == config
    assert [path.name for path in tmp_path.glob("classifier/[0-9]*")] == ["1"]


@pytest.mark.slow
def test_what_is_there_is_left_alone(model, tmp_path):
    repository = tmp_path / "repository"
    publish_triton(model, repository, version=3)
    with pytest.raises(FileExistsError, match=r"A version must not exist yet.*classifier/3"):
        publish_triton(model, repository, version=3)
    (repository / "mine").mkdir()
    with pytest.raises(FileNotFoundError, match=r"must hold config.pbtxt; remove it or use another `name`"):
        publish_triton(model, repository, name="mine")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"must be a directory. Received: .*file"):
        publish_triton(model, tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "repository"]
    assert [path.name for path in repository.glob("classifier/[0-9]*")] == ["3"]


def wide():
    return VideoClassifier({"frames": 6}, 3, num_clusters=4, hidden_units=8, name="wide")


@pytest.mark.parametrize(("form", "mode"), [("float32", "FP32"), ("float16", "FP16"), ("int8-qdq", "INT8")])
def test_every_form_for_gpus_goes_to_tensorrt_in_its_mode(form, mode, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "INT8_MIN_VALUES", 1)
    publish_triton(wide(), tmp_path / "repository", tensorrt=True, precision=form, verify=False)
    config = (tmp_path / "repository" / "wide" / "config.pbtxt").read_text()
    assert f'key: "precision_mode" value: "{mode}"' in config
    assert "KIND_GPU" in config


def test_a_model_that_tensorrt_does_not_take_is_refused_in_one_sentence(tmp_path):
    model = VideoClassifier({"frames": 6}, 3, num_clusters=4, dtype="float64", name="wide")
    with pytest.raises(ValueError, match=r"publish with `tensorrt=False`. Received: \w+ of DOUBLE$"):
        publish_triton(model, tmp_path / "repository", tensorrt=True, verify=False)
    assert list(tmp_path.iterdir()) == []


def fixed_batch():
    frames = keras.Input(batch_shape=(2, None, 3), name="frames")
    return keras.Model({"frames": frames}, {"descriptor": NetVLAD(2)(frames)})


def maps_of_any_size():
    maps = keras.Input((None, None, 3), name="maps")
    return keras.Model({"maps": maps}, {"descriptor": NetVLAD(2)(maps)}, name="maps")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "../up"}, r"name must be made of letters.*Received: '../up'"),
        ({"name": ".hidden"}, r"name must be made of letters.*Received: '.hidden'"),
        ({"name": ""}, r"name must be made of letters.*Received: ''"),
        ({"version": 0}, r"`version` must be a positive integer. Received: version=0"),
        ({"device": "tpu"}, r"`device` must be one of \['gpu', 'cpu'\]. Received: device='tpu'"),
        ({"device": "cpu", "tensorrt": True}, r"TensorRT needs `device='gpu'`"),
        ({"tensorrt": "FP16"}, r"`tensorrt` must be True or False"),
        ({"precision": "float8"}, r"`precision` must be.*Received: .*float8"),
        ({"max_batch_size": 0}, r"`max_batch_size` must be a positive integer"),
        ({"preferred_batch_sizes": (64,)}, r"`preferred_batch_sizes` must not be above `max_batch_size`, 32"),
        ({"max_queue_delay_microseconds": -1}, r"`max_queue_delay_microseconds` must be an integer of 0 or more"),
        ({"warmup_frames": (0,)}, r"`warmup_frames` must be a positive integer"),
        ({"tensorrt": True, "profile_frames": (1, 2)}, r"`profile_frames` must be the smallest, the usual and"),
        ({"tensorrt": True, "profile_frames": (9, 1, 9)}, r"`profile_frames` must be the smallest, the usual and"),
        ({"tensorrt": True, "warmup_frames": (2000,)}, r"`warmup_frames` must lie within `profile_frames`"),
        ({"precision": "int8"}, r"int8 products on the CPU only.*Received: precision='int8', device='gpu'"),
    ],
    ids=str,
)
def test_wrong_arguments_say_what_is_right(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        publish_triton(model, tmp_path / "repository", **options)
    assert list(tmp_path.iterdir()) == []


def test_models_that_triton_cannot_serve_say_why(tmp_path):
    with pytest.raises(ValueError, match=r"first axis without a fixed size.*Received: input 'frames' of shape \(2,"):
        publish_triton(fixed_batch(), tmp_path)
    with pytest.raises(ValueError, match=r"TensorRT needs the size of every axis.*`tensorrt=False`. Received: input"):
        publish_triton(maps_of_any_size(), tmp_path, tensorrt=True)
    assert list(tmp_path.iterdir()) == []
    assert publish_triton(maps_of_any_size(), tmp_path).ok
    assert "dims: [300, 300, 3] zero_data" in (tmp_path / "maps" / "config.pbtxt").read_text()


@pytest.mark.slow
def test_a_model_that_differs_is_not_published(model, tmp_path, monkeypatch):
    monkeypatch.setitem(tolerance.TOLERANCES, "float32", 0.0)
    monkeypatch.setattr("keras_netvlad.export.verification.comparison.ABSOLUTE_FLOOR", 0.0)
    with pytest.raises(ParityError, match=r"nothing was written") as caught:
        publish_triton(model, tmp_path / "repository")
    assert caught.value.report.path == str(tmp_path / "repository" / "classifier" / "1" / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
# The renames: weights, model, the directory aside, and last into the repository.
@pytest.mark.parametrize(("versions", "call"), [((), 1), ((), 3), ((), 4), (("1",), 4)])
def test_a_killed_publication_leaves_the_repository_as_it_was(tmp_path, call, versions):
    """Triton takes every directory in the repository for a model, hidden ones, too: none may be left there."""
    repository = tmp_path / "repository"
    repository.mkdir()
    small = VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None, name="small")
    for _ in versions:
        publish_triton(small, repository, verify=False)
    program = f"""
        import os, signal
        from keras_netvlad.export.serving.triton import publish_triton
        from keras_netvlad.models import VideoClassifier

        rename, calls = os.rename, []

        def killing(source, target):
            calls.append(target)
            if len(calls) == {call}:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(source, target)

        model = VideoClassifier({{"frames": 4}}, 3, num_clusters=2, hidden_units=None, name="small")
        os.rename = killing
        publish_triton(model, {str(repository)!r}, verify=False, external_data_threshold=1)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert {path.name for path in repository.iterdir()} == ({"small"} if versions else set())
    assert {path.name for path in repository.glob("small/*")} == ({*versions, "config.pbtxt"} if versions else set())
    assert publish_triton(small, repository).path == str(repository / "small" / str(len(versions) + 1) / "model.onnx")


@pytest.mark.slow
def test_two_publishers_at_once_get_two_versions(model, tmp_path, monkeypatch):
    """The second publishes while the first has its version ready aside."""
    reports = []

    def publish_another_before(*arguments, **options):
        monkeypatch.setattr("keras_netvlad.export.serving.triton.write_verified_onnx", write_verified_onnx)
        reports.append(publish_triton(model, tmp_path))
        return write_verified_onnx(*arguments, **options)

    for _ in range(2):  # the model's directory is new, then it is there
        monkeypatch.setattr("keras_netvlad.export.serving.triton.write_verified_onnx", publish_another_before)
        reports.append(publish_triton(model, tmp_path))
    assert [Path(report.path).parent.name for report in reports] == ["1", "2", "3", "4"]
    assert sorted(path.name for path in (tmp_path / "classifier").iterdir()) == ["1", "2", "3", "4", "config.pbtxt"]


@pytest.mark.slow
def test_a_first_version_of_a_chosen_number_joins_another_publishers(model, tmp_path, monkeypatch):
    def publish_another_before(*arguments, **options):
        monkeypatch.setattr("keras_netvlad.export.serving.triton.write_verified_onnx", write_verified_onnx)
        publish_triton(model, tmp_path, version=3)
        return write_verified_onnx(*arguments, **options)

    monkeypatch.setattr("keras_netvlad.export.serving.triton.write_verified_onnx", publish_another_before)
    publish_triton(model, tmp_path, version=5)
    monkeypatch.setattr("keras_netvlad.export.serving.triton.write_verified_onnx", publish_another_before)
    (tmp_path / "classifier" / "3").rename(tmp_path / "classifier" / "2")
    with pytest.raises(FileExistsError, match=r"A version must not exist yet.*classifier/3"):
        publish_triton(model, tmp_path, version=3)
    assert sorted(path.name for path in (tmp_path / "classifier").iterdir()) == ["2", "3", "5", "config.pbtxt"]


def shared_memory(tmp_path):
    """A directory on another file system than `tmp_path`, or `None` if this machine has none."""
    root = Path("/dev/shm")
    if not os.access(root, os.W_OK) or root.stat().st_dev == tmp_path.stat().st_dev:
        return None
    return Path(tempfile.mkdtemp(dir=root))


@pytest.fixture(params=["simulated", "real"])
def mount(request, tmp_path, monkeypatch):
    """A directory into which nothing can be renamed from outside, as a mount point is."""
    if request.param == "real":
        directory = shared_memory(tmp_path)
        if directory is None:
            pytest.skip("/dev/shm is not another file system")
        yield directory
        shutil.rmtree(directory)
        return
    directory, rename = tmp_path / "mount", os.rename
    directory.mkdir()

    def rename_within(source, target):
        if directory in Path(source).parents or directory not in Path(target).parents:
            return rename(source, target)
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "rename", rename_within)
    yield directory


def tree(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_dir())


def test_a_repository_that_is_a_mount_point_gets_whole_versions(model, mount, tmp_path, monkeypatch):
    """While bytes are copied, Triton must see no directory that is not a version, and no change of a loaded model."""
    staging, seen, copy_file = tmp_path / "staging", [], triton.copy_file
    staging.mkdir()

    def copy_and_look(source, target):
        copy_file(source, target)
        changed = (mount / "classifier").stat().st_mtime_ns if (mount / "classifier").exists() else None
        seen.append((tree(mount), changed))

    monkeypatch.setattr(triton, "copy_file", copy_and_look)
    options = {"external_data_threshold": 1, "staging": staging, "verify": False}
    publish_triton(model, mount, **options)
    assert seen == [([], None)] * 5  # graph, weights, the report, the model card and the configuration
    seen.clear()
    before = (mount / "classifier").stat().st_mtime_ns
    publish_triton(model, mount, **options)
    assert seen == [(["classifier", "classifier/1"], before)] * 4
    assert tree(mount) == ["classifier", "classifier/1", "classifier/2"]
    assert [path.name for path in mount.iterdir()] == ["classifier"]
    assert list(staging.iterdir()) == []
    for version in "12":
        assert Artefact(mount / "classifier" / version / "model.onnx").run(batch())["scores"].shape == (2, NUM_CLASSES)


def test_a_full_mount_point_is_named_and_left_as_it_was(model, mount, tmp_path, monkeypatch):
    def full(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(target))

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match=rf"must have room for the output; .* Received: {mount}.*No space left"):
        publish_triton(model, mount, staging=tmp_path, verify=False)
    assert list(mount.iterdir()) == []


def test_what_can_fail_is_found_before_the_export(model, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("the export has begun")

    monkeypatch.setattr("keras_netvlad.export.onnx.onnx_export.write_onnx", fail)
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "aside").mkdir()
    (tmp_path / "file").write_text("")
    for staging in (repository, repository / "aside", tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(NotADirectoryError, match=r"`staging` must be an existing directory outside the repository"):
            publish_triton(model, repository, staging=staging)
    writable = os.access
    for blocked, message in (
        (tmp_path, r"Versions are prepared in `staging`.* that can be written to\. Received: .*"),
        (repository, r"The repository must be a directory that can be written to\. Received: .*/repository"),
    ):
        monkeypatch.setattr(os, "access", lambda path, mode, blocked=blocked: path != blocked and writable(path, mode))
        with pytest.raises(PermissionError, match=message):
            publish_triton(model, repository)
    monkeypatch.setattr(os, "access", writable)
    with pytest.raises(PermissionError, match=r"Versions are prepared in `staging`.* Received: .*/file"):
        publish_triton(model, tmp_path / "file" / "repository")
    for options in ({"data": "absent.npz"}, {"tolerance": -1}, {"min_agreement": 0.5}, {"metadata": {"labels": 1}}):
        with pytest.raises(ValueError, match=r"`"):
            publish_triton(model, repository, **options)


def test_the_warm_up_lies_within_the_lengths_of_the_engine(model, tmp_path):
    publish_triton(model, tmp_path, tensorrt=True, profile_frames=(10, 50, 100), verify=False)
    config = (tmp_path / "classifier" / "config.pbtxt").read_text()
    assert re.findall(r'name: "batch (\d+), frames (\d+)"', config) == [
        ("1", "10"),
        ("1", "100"),
        ("32", "10"),
        ("32", "100"),
    ]


# What Triton's own server says of the configuration


@pytest.fixture(scope="module")
def published(model, tmp_path_factory):
    repository = tmp_path_factory.mktemp("published") / "repository"
    publish_triton(model, repository, "plain")
    publish_triton(model, repository, "plain_on_a_cpu", device="cpu")
    publish_triton(model, repository, "tensorrt", tensorrt=True, preferred_batch_sizes=(8, 16))
    return repository


def faults(log):
    """The server's lines of errors, but for what it says of the machine and in the end."""
    errors = [line for line in log.splitlines() if re.match(r"E\d|.*ERROR", line)]
    return [line for line in errors if not re.search(r"CudaDriverHelper|failed to load all models", line)]


@needs_server
def test_the_server_finds_no_fault_but_the_backend_that_is_not_here(published, tmp_path):
    found = faults(triton_server.load_error(published, tmp_path))
    assert all(NO_BACKEND in line for line in found), found
    assert {re.search("failed to load '(.*?)'", line)[1] for line in found} == {"plain", "plain_on_a_cpu", "tensorrt"}


@needs_server
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_batch_size: 32", "max_batch_size: 32\nmax_batch: 1", 'has no field named "max_batch"'),
        ("dims: [-1, 6]", "dims: [0, 6]", "dimension must be integer >= 1, or -1"),
        ("TYPE_FP32", "FP32", "Unknown enumeration value"),
        ("reshape { shape: [] }", "reshape { shape: [2] }", "different size for dims and reshape"),
        ("preferred_batch_size: [8, 16]", "preferred_batch_size: [64]", "preferred size must be <= max batch size"),
        ('name: "tensorrt"\nbackend', 'name: "other"\nbackend', "directory name must equal model name"),
        ('key: "precision_mode"', 'name: "precision_mode"', "has no field named"),
        ("kind: KIND_GPU", "kind: KIND_TPU", "Unknown enumeration value"),
        ("zero_data: true", "zero_data: 7", "Integer out of range"),
    ],
)
def test_the_server_does_find_faults(published, tmp_path, old, new, message):
    text = (published / "tensorrt" / "config.pbtxt").read_text()
    assert old in text
    (tmp_path / "repository" / "tensorrt" / "1").mkdir(parents=True)
    (tmp_path / "repository" / "tensorrt" / "config.pbtxt").write_text(text.replace(old, new))
    found = faults(triton_server.load_error(tmp_path / "repository", tmp_path))
    assert any(message in line for line in found), found
    assert not any(NO_BACKEND in line for line in found), found


@needs_server
@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="tests the message of a machine without a GPU")
def test_a_model_for_a_gpu_does_not_fall_back_to_the_cpu(published, tmp_path):
    found = faults(triton_server.load_error(published, tmp_path, with_onnxruntime=True))
    assert len(found) == 2, found
    for line, name in zip(sorted(found, key=len), ("plain", "tensorrt"), strict=True):
        assert f"failed to load '{name}' version 1" in line
        assert "has kind KIND_GPU but no GPUs are available" in line


# What it serves


class Served:
    """A server that runs the published ONNX, the artefact itself, and ways to ask both."""

    def __init__(self, server, version):
        self.server = server
        self.artefact = Artefact(version / "model.onnx")
        self.grpc = pytest.importorskip("tritonclient.grpc", reason="`make runtimes` installs tritonclient")
        self.client = self.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
        self.url = f"{server.url}/v2/models/classifier"

    def inputs(self, arrays):
        """Tensors of the client; its (batch, 1) for the model's (batch,)."""
        tensors = []
        for name, values in arrays.items():
            values = values[:, np.newaxis] if values.ndim == 1 else values
            kind = {"f": "FP32", "i": "INT32", "d": "FP64"}[values.dtype.char]
            tensor = self.grpc.InferInput(name, values.shape, kind)
            tensor.set_data_from_numpy(values)
            tensors.append(tensor)
        return tensors

    def ask(self, requests):
        """Sends all requests at once; returns a dict of outputs or an error for each."""
        futures = []
        for arrays in requests:
            future = concurrent.futures.Future()
            futures.append(future)

            def answer(result, error, future=future):
                future.set_result(error or {name: result.as_numpy(name) for name in ("scores", "descriptor")})

            self.client.async_infer("classifier", self.inputs(arrays), answer, client_timeout=60)
        return [future.result(timeout=120) for future in futures]

    def largest_difference(self, requests, answers):
        """Between the server's answers and the artefact's own to unpadded requests."""
        differences = []
        for arrays, answer in zip(requests, answers, strict=True):
            assert isinstance(answer, dict), answer
            expected = self.artefact.run(arrays)
            assert {name: values.shape for name, values in answer.items()} == {
                name: values.shape for name, values in expected.items()
            }
            differences += [np.abs(answer[name] - expected[name]).max() for name in expected]
        return np.max(differences)  # NaN where there is one


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    directory = tmp_path_factory.mktemp("served")
    publish_triton(
        model,
        directory / "repository",
        device="cpu",
        max_batch_size=MAX_BATCH_SIZE,
        max_queue_delay_microseconds=200_000,
        warmup_frames=LENGTHS,
    )
    with triton_server.running(directory / "repository", directory) as server:
        served = Served(server, directory / "repository" / "classifier" / "1")
        yield served
        served.client.close()


def batch(frames=7, num_frames=(7, 3), seed=1):
    generator = np.random.default_rng(seed)
    return {
        "frames": generator.normal(size=(len(num_frames), frames, FEATURE_SIZE)).astype("float32"),
        "num_frames": np.array(num_frames, "int32"),
    }


def video(frames, seed):
    return batch(frames, (frames,), seed)


def padded(arrays, frames, filler="zeros"):
    """A video with frames appended."""
    values = arrays["frames"]
    filler = {"zeros": 0.0, "first element": values.flat[0], "NaN": np.nan}[filler]
    widths = [(0, 0), (0, frames - values.shape[1]), (0, 0)]
    return {**arrays, "frames": np.pad(values, widths, constant_values=filler)}


@pytest.mark.runtimes
def test_warmup_runs_every_shape_before_the_model_is_ready(served):
    warmed = [(shapes["frames"], shapes["num_frames"]) for shapes in served.server.runs[:4]]
    assert warmed == [([b, frames, FEATURE_SIZE], [b]) for b in (1, MAX_BATCH_SIZE) for frames in LENGTHS]


@pytest.mark.runtimes
@pytest.mark.parametrize("filler", ["zeros", "first element", "NaN"])
def test_requests_of_different_lengths_are_merged_and_answered_as_if_alone(served, filler):
    requests = [video(frames, seed) for seed, frames in enumerate((1, 9, 16, 4, 2))]
    before = len(served.server.runs)
    answers = served.ask([padded(request, 16, filler) for request in requests])
    assert served.largest_difference(requests, answers) < TOLERANCE
    runs = [shapes["frames"] for shapes in served.server.runs[before:]]
    assert sum(size for size, _, _ in runs) == 5
    assert max(size for size, _, _ in runs) > 1


@pytest.mark.runtimes
def test_requests_that_are_not_padded_are_answered_but_not_merged(served):
    requests = [video(frames, seed) for seed, frames in enumerate((3, 5, 8))]
    before = len(served.server.runs)
    assert served.largest_difference(requests, served.ask(requests)) < TOLERANCE
    assert [shapes["frames"][0] for shapes in served.server.runs[before:]] == [1, 1, 1]


@pytest.mark.runtimes
@pytest.mark.parametrize(
    ("multiple", "most_runs"),
    # Only neighbors in the queue are merged: measured 125 to 126 runs where all have one length, 760 to 766 where four
    # lengths are mixed at random.
    [(64, 400), (16, 999)],
)
def test_a_thousand_concurrent_requests_of_mixed_lengths_get_their_own_answers(served, multiple, most_runs):
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 65, 1000)
    fillers = generator.choice(["zeros", "first element", "NaN"], 1000)
    requests = [video(frames, seed) for seed, frames in enumerate(lengths)]
    before = len(served.server.runs)
    sent = [
        padded(request, -(-frames // multiple) * multiple, filler)
        for request, frames, filler in zip(requests, lengths, fillers, strict=True)
    ]
    answers = served.ask(sent)
    difference = served.largest_difference(requests, answers)
    runs = [shapes["frames"] for shapes in served.server.runs[before:]]
    print(f"largest difference {difference:.2e}, 1000 requests in {len(runs)} runs")
    assert difference < TOLERANCE
    assert sum(size for size, _, _ in runs) == 1000
    assert len(runs) <= most_runs
    assert {frames for _, frames, _ in runs} == set(range(multiple, 65, multiple))
    # Answers that were swapped would have been seen: no two are nearly alike.
    descriptors = np.concatenate([answer["descriptor"] for answer in answers])
    nearest = [np.abs(np.delete(descriptors, row, 0) - descriptors[row]).max(1).min() for row in range(1000)]
    assert min(nearest) > 1000 * TOLERANCE


@pytest.mark.runtimes
def test_nan_in_one_video_of_a_merged_batch_stays_there(served):
    requests = [video(8, seed) for seed in range(MAX_BATCH_SIZE)]
    requests[2]["frames"][0, 3] = np.nan
    before = len(served.server.runs)
    answers = served.ask(requests)
    assert 1 not in [shapes["frames"][0] for shapes in served.server.runs[before:]]  # none was run alone
    assert np.isnan(answers.pop(2)["scores"]).all()
    requests.pop(2)
    assert served.largest_difference(requests, answers) < TOLERANCE


@pytest.mark.runtimes
def test_videos_of_no_frames_and_of_ten_thousand(served):
    requests = [batch(1, (0,)), batch(0, (0,)), video(10_000, 0), batch(5, (-3, 99))]
    assert served.largest_difference(requests, served.ask(requests)) < TOLERANCE


@pytest.mark.runtimes
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: {**arrays, "frames": arrays["frames"][..., :5]}, "unexpected shape for input 'frames'"),
        (lambda arrays: {**arrays, "frames": arrays["frames"][:, 0]}, "unexpected shape for input 'frames'"),
        (lambda arrays: {"frames": arrays["frames"]}, "expected 2 inputs but got 1 inputs"),
        (lambda arrays: {**arrays, "frames": arrays["frames"].astype("float64")}, "data-type is 'FP64'"),
        (lambda arrays: {**arrays, "num_frames": arrays["num_frames"].astype("float32")}, "data-type is 'FP32'"),
        (lambda arrays: {**arrays, "num_frames": arrays["num_frames"][:1]}, "batch size"),
        (lambda arrays: {**arrays, "audio": arrays["frames"]}, "expected 2 inputs but got 3 inputs"),
        (lambda arrays: {name: np.repeat(values, 5, 0) for name, values in arrays.items()}, "batch-size must be <= 8"),
    ],
)
def test_bad_requests_are_refused_and_the_server_goes_on(served, change, message):
    good = [batch(7, (5, 2), seed) for seed in range(2)]
    first, answer, last = served.ask([good[0], change(batch()), good[1]])
    assert message in str(answer)
    assert served.largest_difference(good, [first, last]) < TOLERANCE


HEADER = json.dumps(
    {
        "inputs": [
            {"name": "frames", "shape": [1, 2, 6], "datatype": "FP32", "parameters": {"binary_data_size": 48}},
            {"name": "num_frames", "shape": [1, 1], "datatype": "INT32", "data": [2]},
        ]
    }
).encode()


@pytest.mark.runtimes
@pytest.mark.parametrize(
    ("body", "header_bytes", "message"),
    [
        (b"\x00" * 100, 50, "failed to parse the request JSON buffer"),
        (b"{", 1, "failed to parse the request JSON buffer"),
        (b"{}", 2, "Unable to parse 'inputs'"),
        (HEADER + b"1234", len(HEADER), "expecting 44 additional bytes"),
        (HEADER + bytes(52), len(HEADER), "unexpected additional input data"),
        (HEADER, 10**9, "inference header size should be in range"),
    ],
)
def test_bytes_that_are_no_request_are_refused_and_the_server_goes_on(served, body, header_bytes, message):
    headers = {"Inference-Header-Content-Length": str(header_bytes)}
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(f"{served.url}/infer", body, headers), timeout=30)
    assert message in caught.value.read().decode()
    good = batch()
    assert served.largest_difference([good], served.ask([good])) < TOLERANCE


@needs_server
def test_a_polling_server_goes_over_to_a_new_version_without_a_gap(model, tmp_path):
    repository = tmp_path / "repository"
    options = {"device": "cpu", "max_queue_delay_microseconds": 0, "warmup_frames": LENGTHS}
    publish_triton(model, repository, **options)
    polling = ("--model-control-mode", "poll", "--repository-poll-secs", "1")
    with triton_server.running(repository, tmp_path, *polling) as server:
        served = Served(server, repository / "classifier" / "1")
        old = served.artefact.run(batch())["scores"]
        publish_triton(model, repository, "another", **options)
        publish_triton(keras.models.clone_model(model), repository, "classifier", **options)  # other weights
        new = Artefact(repository / "classifier" / "2" / "model.onnx").run(batch())["scores"]
        assert np.abs(new - old).max() > 1e-3
        is_new, end = False, time.monotonic() + 30
        while not (is_new and served.client.is_model_ready("another")):
            assert time.monotonic() < end, server.log_tail
            (answer,) = served.ask([batch()])
            assert isinstance(answer, dict), answer
            is_new = np.abs(answer["scores"] - new).max() < TOLERANCE
            assert is_new or np.abs(answer["scores"] - old).max() < TOLERANCE
        served.client.close()
    # It saw both publications whole, and no directory that is none of its models.
    assert faults(server.log) == []


# The client


def run_client(url, *arguments):
    return subprocess.run(
        [sys.executable, str(CLIENT), url, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def requests_on_disk(tmp_path):
    """Four requests: three videos of their own lengths, and a batch."""
    requests = [video(3, 0), video(70, 1), video(9, 2), batch(12, (12, 5), 3)]
    paths = [tmp_path / f"{index}.npz" for index in range(4)]
    for path, arrays in zip(paths, requests, strict=True):
        # float64 and int64, as NumPy makes them; one without `num_frames`.
        kept = {"frames": arrays["frames"].astype("float64"), "num_frames": arrays["num_frames"].astype("int64")}
        np.savez(path, **(kept if path.stem != "0" else {"frames": kept["frames"]}))
    return requests, paths


@pytest.mark.runtimes
def test_the_client_pads_sends_and_prints(served, requests_on_disk, tmp_path):
    requests, paths = requests_on_disk
    before = len(served.server.runs)
    finished = run_client(served.url, *paths, "--output", tmp_path / "out.npz", "--multiple", "16", "--top", "2")
    assert finished.returncode == 0, finished.stderr
    expected = [served.artefact.run(request) for request in requests]
    with np.load(tmp_path / "out.npz") as received:
        for name in ("scores", "descriptor"):
            values = np.concatenate([each[name] for each in expected])
            np.testing.assert_allclose(received[name], values, atol=TOLERANCE)
            assert received[name].dtype == np.float32
    rows = np.concatenate([each["scores"] for each in expected])
    lines = finished.stdout.splitlines()
    assert len(lines) == 5
    for row, (line, scores) in enumerate(zip(lines, rows, strict=True)):
        first, second = np.argsort(scores)[::-1][:2]
        assert line == f"video {row}: class {first} {scores[first]:.3f}, class {second} {scores[second]:.3f}"
    runs = [shapes["frames"][:2] for shapes in served.server.runs[before:]]
    assert sorted({frames for _, frames in runs}) == [16, 80]
    assert sum(frames == 16 for _, frames in runs) <= 2  # three requests, merged but for where the fourth parts them


@needs_server
def test_the_page_on_triton_is_true(tmp_path, monkeypatch, capsys):
    page = (ROOT / "export" / "triton.md").read_text()
    publish, compare, tensorrt = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (config,) = re.findall(r"```protobuf\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(publish, "triton.md", "exec"), names)
    assert Path("repository/netvlad/config.pbtxt").read_text() == config
    with triton_server.running(tmp_path / "repository", tmp_path) as server:
        finished = run_client(f"{server.url}/v2/models/netvlad", "utterances.npz", "--output", "answers.npz")
    assert finished.returncode == 0, finished.stderr
    assert len(finished.stdout.splitlines()) == 5
    capsys.readouterr()
    exec(compile(compare, "triton.md", "exec"), names)
    differences = ast.literal_eval(capsys.readouterr().out)
    assert set(differences) == {"scores", "descriptor"}
    assert max(differences.values()) < TOLERANCE
    exec(compile(tensorrt, "triton.md", "exec"), names)
    assert "frames:1x1x12,num_frames:1" in Path("repository_tensorrt/netvlad/config.pbtxt").read_text()


@pytest.mark.runtimes
def test_the_client_keeps_nan(served, tmp_path):
    arrays = video(4, 0)
    arrays["frames"][0, 1, 2] = np.nan
    np.savez(tmp_path / "in.npz", **arrays)
    assert run_client(served.url, tmp_path / "in.npz", "--output", tmp_path / "out.npz").returncode == 0
    with np.load(tmp_path / "out.npz") as received:
        assert np.isnan(received["scores"]).all()


def write_wrong_inputs(directory):
    np.savez(directory / "good.npz", **batch())
    np.savez(directory / "wide.npz", frames=np.zeros((1, 3, 7)))
    np.savez(directory / "audio.npz", audio=np.zeros((1, 3, 6)))
    np.savez(directory / "text.npz", frames=np.array([[["a"]]]))
    np.savez(directory / "pickled.npz", frames=np.array([{}], dtype=object))
    np.savez(directory / "many.npz", frames=np.zeros((9, 3, 6)))
    np.save(directory / "single.npy", np.zeros(3))
    (directory / "broken.npz").write_bytes((directory / "good.npz").read_bytes()[:200])
    (directory / "empty.npz").write_bytes(b"")


@pytest.mark.runtimes
@pytest.mark.parametrize(
    ("model_path", "inputs", "message"),
    [
        ("models/classifier", "wide.npz", r"The server refused the request: .*unexpected shape for input 'frames'"),
        ("models/classifier", "many.npz", r"The server refused the request: .*batch-size must be <= 8"),
        ("models/classifier", "audio.npz", r"must be the model's, \['frames', 'num_frames'\]. Received: \['audio'"),
        ("models/classifier", "text.npz", r"Input 'frames' must be of a type that becomes FP32. Received: <U1"),
        ("models/classifier", "pickled.npz", r"must be an .npz file of plain arrays. Received: .*pickled.npz"),
        ("models/classifier", "single.npy", r"must be an .npz file of plain arrays. Received: .*single.npy"),
        ("models/classifier", "broken.npz", r"must be an .npz file of plain arrays. Received: .*broken.npz"),
        ("models/classifier", "empty.npz", r"must be an .npz file of plain arrays. Received: .*empty.npz"),
        ("models/classifier", "absent.npz", r"No such file or directory: '.*absent.npz'"),
        ("models/other", "good.npz", r"The server refused the request: .*unknown model: 'other'"),
        ("models/classifier/versions/9", "good.npz", r"The server refused the request: .*version 9"),
        ("", "good.npz", r"The URL must be a model's, http://host:port/v2/models/NAME. Received: http"),
    ],
)
def test_the_client_says_in_a_sentence_what_is_wrong(served, tmp_path, model_path, inputs, message):
    write_wrong_inputs(tmp_path)
    finished = run_client(f"{served.server.url}/v2/{model_path}".rstrip("/"), tmp_path / inputs)
    assert finished.returncode == 1
    assert re.fullmatch(rf"triton_client: .*{message}.*\n", finished.stderr)
    assert finished.stdout == ""


@pytest.mark.slow
def test_the_client_needs_a_server_and_right_options(tmp_path):
    np.savez(tmp_path / "good.npz", **batch())
    (port,) = triton_server._free_ports(1)
    finished = run_client(f"http://127.0.0.1:{port}/v2/models/classifier", tmp_path / "good.npz")
    assert finished.returncode == 1
    assert re.fullmatch(r"triton_client: .*Connection refused.*\n", finished.stderr)
    assert run_client("http://127.0.0.1:1/v2/models/classifier").returncode == 2
    assert run_client("http://127.0.0.1:1/v2/models/a", tmp_path / "good.npz", "--multiple", "0").returncode == 2
