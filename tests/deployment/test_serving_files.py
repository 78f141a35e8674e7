"""The files that TensorFlow Serving reads, parsed by its own messages or by ones declared from their public fields."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from paths import ROOT
from tf_serving_rest_server import serve_rest

from keras_netvlad.export import Artefact, publish, serialize_example
from keras_netvlad.export.serving.batching_parameters import batching_parameters
from keras_netvlad.export.verification.merged_requests import merge
from keras_netvlad.layers import NetVLAD
from keras_netvlad.models import VideoClassifier

FILES = ROOT / "export" / "tf_serving"
FIELD = descriptor_pb2.FieldDescriptorProto
# Messages that tensorflow-serving-api leaves out, from session_bundle_config.proto and monitoring_config.proto of
# github.com/tensorflow/serving: name, number, type.
MESSAGES = {
    "BatchingParameters": (
        ("max_batch_size", 1, ".google.protobuf.Int64Value"),
        ("batch_timeout_micros", 2, ".google.protobuf.Int64Value"),
        ("max_enqueued_batches", 3, ".google.protobuf.Int64Value"),
        ("num_batch_threads", 4, ".google.protobuf.Int64Value"),
        ("thread_pool_name", 5, ".google.protobuf.StringValue"),
        ("allowed_batch_sizes", 6, "repeated int64"),
        ("pad_variable_length_inputs", 7, "bool"),
        ("enable_large_batch_splitting", 8, ".google.protobuf.BoolValue"),
        ("max_execution_batch_size", 9, ".google.protobuf.Int64Value"),
    ),
    "PrometheusConfig": (("enable", 1, "bool"), ("path", 2, "string")),
    "MonitoringConfig": (("prometheus_config", 1, ".serving.PrometheusConfig"),),
}
TYPES = {"bool": FIELD.TYPE_BOOL, "string": FIELD.TYPE_STRING, "repeated int64": FIELD.TYPE_INT64}


def declare_messages():
    file = descriptor_pb2.FileDescriptorProto(
        name="serving.proto", package="serving", syntax="proto3", dependency=[wrappers_pb2.DESCRIPTOR.name]
    )
    for message_name, fields in MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for name, number, kind in fields:
            field = message.field.add(name=name, number=number, type=TYPES.get(kind, FIELD.TYPE_MESSAGE))
            field.label = FIELD.LABEL_REPEATED if kind.startswith("repeated") else FIELD.LABEL_OPTIONAL
            if kind not in TYPES:
                field.type_name = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"serving.{name}")) for name in MESSAGES}


DECLARED = declare_messages()
BatchingParameters, MonitoringConfig = DECLARED["BatchingParameters"], DECLARED["MonitoringConfig"]


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
    # Requests are split between batches; the largest batch that is run is then `max_batch_size`, too.
    assert parameters.enable_large_batch_splitting.value
    assert not parameters.HasField("max_execution_batch_size")
    return parameters


@pytest.fixture(scope="module")
def model():
    return VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None, name="classifier")


@pytest.fixture(scope="module")
def published(model, tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    publish(model, base, max_batch_size=8, warmup_frames=())
    return base / "classifier" / "1"


@pytest.mark.runtimes
def test_models_config_names_the_demos_model():
    config_pb2 = pytest.importorskip(
        "tensorflow_serving.config.model_server_config_pb2",
        reason="`make runtimes` installs tensorflow-serving-api",
    )
    config = text_format.Parse((FILES / "models.config").read_text(), config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("netvlad", "/models/netvlad", "tensorflow")


@pytest.mark.runtimes
def test_the_other_choices_of_models_config_parse_too():
    config_pb2 = pytest.importorskip(
        "tensorflow_serving.config.model_server_config_pb2",
        reason="`make runtimes` installs tensorflow-serving-api",
    )
    choices = [
        line.partition("#")[2]
        for line in (FILES / "models.config").read_text().splitlines()
        if re.match(r"\s*# \w+ {", line)
    ]
    latest, specific, labels = (text_format.Parse(choice, config_pb2.ModelConfig()) for choice in choices)
    assert latest.model_version_policy.latest.num_versions == 2
    assert list(specific.model_version_policy.specific.versions) == [1]
    assert dict(labels.version_labels) == {"stable": 1}


def test_metrics_are_where_the_page_reads_them():
    config = text_format.Parse((FILES / "monitoring.config").read_text(), MonitoringConfig())
    assert config.prometheus_config.enable
    assert f":8501{config.prometheus_config.path} " in (FILES / "README.md").read_text()


def test_the_servers_batching_parameters_fit_what_is_published(model, tmp_path):
    shipped = read_batching((FILES / "batching_parameters.txt").read_text())
    publish(model, tmp_path, warmup_frames=())
    published = read_batching((tmp_path / "classifier" / "1" / "batching_params.pbtxt").read_text())
    # The server's file is for every model, and padding changes the answers of some.
    assert (shipped.pad_variable_length_inputs, published.pad_variable_length_inputs) == (False, True)
    published.pad_variable_length_inputs = False
    assert shipped == published  # in all else, a server does the same with either file


def test_every_command_of_the_page_that_batches_reads_the_files_of_the_versions():
    page = re.sub(r"[\s\\]+", " ", (FILES / "README.md").read_text())
    commands = page.split("--enable_batching --batching_parameters_file=/config/batching_parameters.txt ")[1:]
    assert len(commands) == 3
    assert all(command.startswith("--enable_per_model_batching_parameters") for command in commands)


@pytest.mark.parametrize("shape", [(None, 8), (None, None, 8)])
def test_a_model_without_a_frame_count_is_not_padded(shape, tmp_path):
    features = keras.Input(shape, name="features")
    publish(keras.Model(features, {"descriptor": NetVLAD(4)(features)}, name="plain"), tmp_path, warmup_frames=())
    parameters = read_batching((tmp_path / "plain" / "1" / "batching_params.pbtxt").read_text())
    assert not parameters.pad_variable_length_inputs


@pytest.mark.parametrize(
    ("max_batch_size", "sizes"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (24, [1, 2, 4, 8, 16, 24]), (64, [1, 2, 4, 8, 16, 32, 64])],
)
def test_batches_are_filled_up_to_powers_of_two(max_batch_size, sizes):
    parameters = read_batching(batching_parameters(max_batch_size, timeout_micros=0))
    assert parameters.max_batch_size.value == max_batch_size
    assert list(parameters.allowed_batch_sizes) == sizes
    assert parameters.batch_timeout_micros.value == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), r"`max_batch_size` must be a positive integer\. Received: max_batch_size=0"),
        ((8.0,), r"`max_batch_size` must be a positive integer\. Received: max_batch_size=8\.0"),
        ((8, 0, "yes"), r"`pads` must be True or False\. Received: pads='yes'"),
        ((8, -1), r"`timeout_micros` must be an integer of 0 or more\. Received: timeout_micros=-1"),
    ],
)
def test_parameters_that_no_server_takes_are_refused(arguments, message):
    names = ("max_batch_size", "timeout_micros", "pads")
    with pytest.raises(ValueError, match=message):
        batching_parameters(**dict(zip(names, arguments, strict=False)))


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


# What a server makes of them


def make_requests(artefact, signature, generator):
    """Requests of 1 to 3 rows and 2 to 9 frames, all of them real; the second video starts with NaN where it can."""
    requests = []
    for rows, frames in ((1, 4), (2, 9), (1, 2), (3, 7)):
        request = {}
        for name, (shape, dtype) in artefact.signatures[signature][0].items():
            sizes = [rows, frames] + [None] * len(shape)
            shape = [size or sizes[axis] for axis, size in enumerate(shape)]
            if name == "num_frames":
                request[name] = np.full(rows, frames, dtype)
            elif dtype == "string":
                videos = generator.integers(0, 256, (rows, frames, 4), "uint8")
                request[name] = np.array([serialize_example({"frames": video}) for video in videos], object)
            else:
                request[name] = (50 * generator.random(shape)).astype(dtype)
        requests.append(request)
    if requests[1].get("frames", np.zeros(1, "uint8")).dtype == "float32":
        requests[1]["frames"][0, 0, 0] = np.nan
    return requests


@pytest.mark.parametrize(
    "signature", ["serving_default", "serve_quantized", "serve_examples", "accumulate", "describe"]
)
def test_merged_requests_get_the_answers_of_lone_ones(published, signature):
    """By a copy of the server's merging; the server itself was not to be had."""
    artefact = Artefact(published)
    parameters = read_batching((published / "batching_params.pbtxt").read_text())
    requests = make_requests(artefact, signature, np.random.default_rng(0))
    assert parameters.pad_variable_length_inputs
    rows = [len(next(iter(request.values()))) for request in requests]
    num_rows, splits = sum(rows), np.cumsum(rows)[:-1]
    batch = merge(requests, next(size for size in parameters.allowed_batch_sizes if size >= num_rows) - num_rows)
    assert [len(values) for values in batch.values()] == [8] * len(batch)
    for name, values in artefact.run(batch, signature).items():
        assert len(values) == 8
        for request, merged in zip(requests, np.split(values[:num_rows], splits), strict=True):
            alone = artefact.run(request, signature)[name]
            # Measured: at most 1.5e-7 of the largest value.
            np.testing.assert_allclose(merged, alone, rtol=0, atol=2e-6 * np.nanmax(np.abs(alone)))


@pytest.mark.parametrize("signature", ["serving_default", "describe"])
def test_a_request_that_is_split_between_batches_gets_the_answers_of_one_batch(published, signature):
    """With `enable_large_batch_splitting`, the server fills a batch with the first rows of a request."""
    artefact = Artefact(published)
    parameters = read_batching((published / "batching_params.pbtxt").read_text())
    first, second, third, fourth = make_requests(artefact, signature, np.random.default_rng(0))
    whole = {name: np.concatenate([fourth[name]] * 2) for name in fourth}  # 6 rows of 7 frames
    answers = []
    for part, others in ((slice(0, 5), [first, second]), (slice(5, 6), [third])):
        piece = {name: values[part] for name, values in whole.items()}
        num_rows = [len(next(iter(request.values()))) for request in (*others, piece)]
        size = next(size for size in parameters.allowed_batch_sizes if size >= sum(num_rows))
        outputs = artefact.run(merge([*others, piece], size - sum(num_rows)), signature)
        start = sum(num_rows[:-1])
        answers.append({name: values[start : sum(num_rows)] for name, values in outputs.items()})
    for name, alone in artefact.run(whole, signature).items():
        joined = np.concatenate([answer[name] for answer in answers])
        np.testing.assert_allclose(joined, alone, rtol=0, atol=2e-6 * np.nanmax(np.abs(alone)))


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
    others = ("docker", "pip install", "monitoring")  # what the stand-in has nothing to say to
    publication, *commands = [block for block in blocks_of(page, "sh") if not any(other in block for other in others)]
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
        for script in re.findall(r"(?<![\w/])(?:export|tests)/[\w/]+\.py", text):
            assert (ROOT / script).is_file(), f"{page.name}: {script}"
