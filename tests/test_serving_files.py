"""The files that TensorFlow Serving reads, parsed by its own messages or by ones declared from their public fields."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tf_serving_rest_server import serve_rest

from keras_netvlad.export import publish
from keras_netvlad.models import VideoClassifier

ROOT = Path(__file__).parents[1]
FILES = ROOT / "export" / "tf_serving"
FIELD = descriptor_pb2.FieldDescriptorProto
# BatchingParameters of tensorflow_serving/servables/tensorflow/session_bundle_config.proto, which its package leaves
# out: name, number, type.
BATCHING_FIELDS = (
    ("max_batch_size", 1, "Int64Value"),
    ("batch_timeout_micros", 2, "Int64Value"),
    ("max_enqueued_batches", 3, "Int64Value"),
    ("num_batch_threads", 4, "Int64Value"),
    ("thread_pool_name", 5, "StringValue"),
    ("allowed_batch_sizes", 6, "repeated int64"),
    ("pad_variable_length_inputs", 7, "bool"),
    ("enable_large_batch_splitting", 8, "BoolValue"),
    ("max_execution_batch_size", 9, "Int64Value"),
)


def declare_batching():
    file = descriptor_pb2.FileDescriptorProto(
        name="batching.proto", package="batching", syntax="proto3", dependency=[wrappers_pb2.DESCRIPTOR.name]
    )
    message = file.message_type.add(name="BatchingParameters")
    for name, number, kind in BATCHING_FIELDS:
        field = message.field.add(name=name, number=number, label=FIELD.LABEL_OPTIONAL)
        if kind == "bool":
            field.type = FIELD.TYPE_BOOL
        elif kind == "repeated int64":
            field.type, field.label = FIELD.TYPE_INT64, FIELD.LABEL_REPEATED
        else:
            field.type, field.type_name = FIELD.TYPE_MESSAGE, f".google.protobuf.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("batching.BatchingParameters"))


BatchingParameters = declare_batching()


def read_batching(text):
    """Parses as the server does, and checks what it checks when it loads a version."""
    parameters = text_format.Parse(text, BatchingParameters())
    sizes = list(parameters.allowed_batch_sizes)
    assert sizes
    assert sizes[0] >= 1
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == parameters.max_batch_size.value
    assert parameters.num_batch_threads.value >= 1
    assert parameters.max_enqueued_batches.value >= 1
    assert parameters.batch_timeout_micros.value >= 0
    assert parameters.pad_variable_length_inputs
    return parameters


@pytest.fixture(scope="module")
def model():
    return VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None, name="classifier")


def test_models_config_names_the_demos_model():
    config_pb2 = pytest.importorskip(
        "tensorflow_serving.config.model_server_config_pb2",
        reason="needs tensorflow-serving-api: `make runtimes`",
    )
    config = text_format.Parse((FILES / "models.config").read_text(), config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("netvlad", "/models/netvlad", "tensorflow")


def test_the_other_version_policies_of_models_config_parse_too():
    config_pb2 = pytest.importorskip(
        "tensorflow_serving.config.model_server_config_pb2",
        reason="needs tensorflow-serving-api: `make runtimes`",
    )
    policies = [
        line.partition("#")[2]
        for line in (FILES / "models.config").read_text().splitlines()
        if line.strip().startswith("# model_version_policy")
    ]
    latest, specific = (text_format.Parse(policy, config_pb2.ModelConfig()) for policy in policies)
    assert latest.model_version_policy.latest.num_versions == 2
    assert list(specific.model_version_policy.specific.versions) == [1]


def test_the_servers_batching_parameters_fit_what_is_published(model, tmp_path):
    shipped = read_batching((FILES / "batching_parameters.txt").read_text())
    publish(model, tmp_path, warmup_frames=())
    published = read_batching((tmp_path / "classifier" / "1" / "batching_params.pbtxt").read_text())
    assert shipped == published  # what a server does is the same with either file


@pytest.mark.parametrize("max_batch_size", [1, 2, 3, 24, 64, 1000])
def test_published_batching_parameters_hold_for_any_size(model, tmp_path, max_batch_size):
    publish(model, tmp_path, max_batch_size=max_batch_size, warmup_frames=())
    text = (tmp_path / "classifier" / "1" / "batching_params.pbtxt").read_text()
    parameters = read_batching(text)
    assert parameters.max_batch_size.value == max_batch_size
    assert parameters.allowed_batch_sizes[0] == 1


@pytest.mark.parametrize(
    "text",
    [
        "max_batch_size: 32",  # a wrapper message, not a number
        "pad_variable_length_inputs { value: true }",  # a number, not a wrapper message
        "max_batchsize { value: 32 }",
    ],
)
def test_the_parser_refuses_what_the_server_refuses(text):
    with pytest.raises(text_format.ParseError):
        text_format.Parse(text, BatchingParameters())


# The page


def blocks_of(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the page's requests are curl's, which is not installed")
def test_every_rest_command_of_the_page_is_answered(tmp_path, monkeypatch, capsys):
    """By the stand-in, which shows that the page and the protocol agree, and nothing of TensorFlow Serving."""
    model = VideoClassifier({"frames": 12}, 9, num_clusters=16, hidden_units=None, activation="softmax", name="netvlad")
    (tmp_path / "build" / "demo").mkdir(parents=True)
    model.save(tmp_path / "build" / "demo" / "model.keras")
    (tmp_path / "export").symlink_to(ROOT / "export")
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "no_proxy": "*"}

    def run(commands):
        finished = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands], capture_output=True, text=True, timeout=300, env=environment
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    page = FILES / "README.md"
    publication, *commands = [
        block for block in blocks_of(page, "sh") if "docker" not in block and "pip install" not in block
    ]
    run(publication)
    write, compare = blocks_of(page, "python")
    exec(compile(write, "README.md", "exec"), {})
    with serve_rest(tmp_path / "models" / "netvlad" / "1") as (url, asked):
        answers = [run(block.replace("http://127.0.0.1:8501/v1/models", url)) for block in commands]
    assert not [answer for answer in answers if '"error"' in answer]
    assert sum(path.endswith(":predict") for path in asked) > 20
    exec(compile(compare, "README.md", "exec"), {"np": np})
    differences = json.loads(capsys.readouterr().out.splitlines()[-1].replace("'", '"'))
    assert max(differences.values()) < 1e-6

    # One frame, by every way there is: as floats, as a record's and the page's bytes, and by its sums.
    predicted = [json.loads(answer)["outputs"] for answer in answers if answer.startswith('{"outputs"')]
    floats, quantized, examples, sums = predicted
    assert set(floats) == set(quantized) == set(sums) == {"scores", "descriptor"}
    np.testing.assert_allclose(sums["descriptor"], floats["descriptor"], rtol=0, atol=1e-6)
    # Measured: 0.0023, where the largest value is 0.24; a byte is a step of 4 / 255.
    np.testing.assert_allclose(quantized["descriptor"], floats["descriptor"], rtol=0, atol=0.01)
    assert examples["num_frames"] == [1]


def test_the_pages_of_the_servers_name_files_that_are_there():
    pages = [ROOT / "export" / "README.md", FILES / "README.md"]
    for page in pages:
        text = page.read_text()
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"
        for script in re.findall(r"(?:export|tests)/\w+\.py", text):
            assert (ROOT / script).is_file(), f"{page.name}: {script}"
