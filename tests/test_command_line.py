"""The command line: every sub-command, the exit codes, and how mistakes of the user differ from bugs."""

import errno
import importlib
import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from small_pictures import make_places

from keras_netvlad.__main__ import main
from keras_netvlad.base.stages import LOGGER, stage
from keras_netvlad.cli import stage_lines
from keras_netvlad.data import load_japanese_vowels
from keras_netvlad.export.serving.warmup import read_warmup
from keras_netvlad.layers import NetVLAD
from keras_netvlad.models import VideoClassifier


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None, name="small").save(directory / "small.keras")
    VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None).save(directory / "other.keras")
    return directory


@pytest.fixture(autouse=True)
def no_stage_lines(monkeypatch):
    """A busy machine must not add lines to the messages that the tests compare."""
    monkeypatch.setattr(stage_lines, "SECONDS", 1e6)


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.mark.slow
def test_export_then_verify(directory, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("export", directory / "small.keras", out, "--format", "saved_model", "onnx", "--opset", "17") == 0
    printed = capsys.readouterr().out
    assert f"saved_model  {out}/small/1" in printed
    assert f"onnx  {out}/model.onnx" in printed
    assert printed.count(" ok") == 13  # 11 outputs in five signatures, and the two of the ONNX model
    assert run("verify", directory / "small.keras", out / "small" / "1", out / "model.onnx") == 0
    assert capsys.readouterr().out.count(" ok") == 13


def test_one_format_alone(directory, tmp_path):
    assert run("export", directory / "small.keras", tmp_path / "out", "--format", "onnx") == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["model.onnx", "model.onnx.parity.json"]


@pytest.mark.slow
def test_signatures_of_onnx_files(directory, tmp_path, capsys):
    small, options = directory / "small.keras", ["--format", "onnx", "--signatures"]
    assert run("export", small, tmp_path / "all", *options, "all") == 0
    names = ["accumulate.onnx", "describe.onnx", "model.onnx", "serve_quantized.onnx"]
    assert sorted(path.name for path in (tmp_path / "all").glob("*.onnx")) == names
    assert capsys.readouterr().out.count("onnx  ") == 4
    assert run("export", small, tmp_path / "live", *options, "accumulate", "describe") == 0
    assert sorted(path.name for path in (tmp_path / "live").glob("*.onnx")) == names[:2]
    capsys.readouterr()
    assert run("verify", small, tmp_path / "live" / "describe.onnx") == 0
    assert "  describe   scores " in capsys.readouterr().out
    assert run("inspect", tmp_path / "live") == 0
    printed = capsys.readouterr().out
    assert "\n  accumulate\n    <- " in printed
    assert "\n  describe\n    <- frames_first_sum  float32 (batch, 2, 4)\n" in printed


@pytest.mark.slow
def test_export_of_pictures(tmp_path, capsys):
    make_places().save(tmp_path / "places.keras")
    given = ["--format", "onnx", "--layout", "nchw", "--size", "20x28"]
    assert run("export", tmp_path / "places.keras", tmp_path / "out", *given) == 0
    assert run("verify", tmp_path / "places.keras", tmp_path / "out" / "model.onnx") == 0
    capsys.readouterr()
    assert run("inspect", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "<- images  uint8 (batch, 3, 20, 28)" in printed
    assert re.search(r"^  input_size +20x28$", printed, re.MULTILINE)


@pytest.mark.parametrize("size", ["480", "480x", "0x640", "480x640x3", "-1x5"])
def test_a_wrong_size_of_pictures_is_one_sentence(size, capsys):
    with pytest.raises(SystemExit, match="2"):
        run("export", "places.keras", "out", f"--size={size}")
    assert f"must be height and width in pixels, such as 480x640. Received: {size}" in capsys.readouterr().err


def test_long_stages_are_printed_to_standard_error(directory, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stage_lines, "SECONDS", 0.0)
    assert run("export", directory / "small.keras", tmp_path / "out", "--format", "onnx") == 0
    lines = capsys.readouterr().err.splitlines()
    stages = [f"loading {directory}/small.keras", "converting the model to ONNX", "verifying the ONNX file"]
    assert [line for line in lines if "writing" not in line] == [f"keras-netvlad export: {name} ..." for name in stages]


@pytest.mark.parametrize(
    ("server", "given", "expected"),
    [
        ("publish", [], {}),
        ("publish", ["--max-batch-size", "4"], {"max_batch_size": 4}),
        ("publish", ["--queue-delay", "0"], {"max_queue_delay_microseconds": 0}),
        ("publish", ["--warmup-frames"], {"warmup_frames": []}),
        ("publish", ["--warmup-frames", "3", "9"], {"warmup_frames": [3, 9]}),
        ("publish_triton", [], {}),
        ("publish_triton", ["--preferred-batch-sizes", "2", "4"], {"preferred_batch_sizes": [2, 4]}),
        ("publish_triton", ["--staging", "aside", "--device", "cpu"], {"staging": "aside", "device": "cpu"}),
        (
            "publish_triton",
            ["--tensorrt", "--profile-frames", "2", "5", "9", "--engine-cache", "/engines"],
            {"tensorrt": True, "profile_frames": [2, 5, 9], "engine_cache": "/engines"},
        ),
    ],
    ids=str,
)
def test_options_of_a_server_reach_the_library(directory, monkeypatch, server, given, expected):
    received = {}
    monkeypatch.setattr(f"keras_netvlad.export.{server}", lambda *arguments, **options: received.update(options))
    options = ["--server", "triton"] if server == "publish_triton" else []
    assert run("publish", directory / "small.keras", "models", *options, *given) == 0
    always = {"verify": True, "tolerance": None, "data": None, "min_agreement": None, "metadata": {}}
    assert received == {**always, **expected}


@pytest.mark.slow
def test_options_of_a_server_reach_its_files(directory, tmp_path):
    small = ["publish", directory / "small.keras"]
    options = ["--max-batch-size", "4", "--queue-delay", "700", "--warmup-frames", "3", "9"]
    assert run(*small, tmp_path / "models", *options) == 0
    version = tmp_path / "models" / "small" / "1"
    requests = read_warmup(version / "assets.extra" / "tf_serving_warmup_requests")
    shapes = [inputs["frames"].shape[:2] for name, inputs in requests if name == "serving_default"]
    assert shapes == [(1, 3), (1, 9), (4, 3), (4, 9)]
    parameters = (version / "batching_params.pbtxt").read_text()
    assert "max_batch_size { value: 4 }" in parameters
    assert "batch_timeout_micros { value: 700 }" in parameters
    (tmp_path / "staging").mkdir()
    options += ["--server", "triton", "--staging", tmp_path / "staging", "--preferred-batch-sizes", "2", "4"]
    options += ["--tensorrt", "--profile-frames", "2", "5", "9", "--engine-cache", "/engines"]
    assert run(*small, tmp_path / "repository", *options) == 0
    config = (tmp_path / "repository" / "small" / "config.pbtxt").read_text()
    for line in (
        "max_batch_size: 4",
        "preferred_batch_size: [2, 4]",
        "max_queue_delay_microseconds: 700",
        'key: "trt_engine_cache_path" value: "/engines"',
        'key: "trt_profile_opt_shapes" value: "frames:4x5x4,num_frames:4"',
        'name: "batch 4, frames 9"',
    ):
        assert line in config
    assert run(*small, tmp_path / "cold", "--warmup-frames") == 0
    assert not (tmp_path / "cold" / "small" / "1" / "assets.extra").exists()


@pytest.mark.slow
def test_publish_then_inspect(directory, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("one\ntwo\nthree\n")
    frames = np.random.default_rng(0).normal(size=(40, 6, 4))
    np.savez(tmp_path / "real.npz", frames=frames, num_frames=np.full(40, 6))
    for server in ("tensorflow-serving", "triton"):
        options = ["--server", server, "--data", tmp_path / "real.npz", "--min-agreement", "1.0"]
        options += ["--labels", tmp_path / "labels.txt", "--trained-on", "noise"]
        for version in ("1", "2"):
            assert run("publish", directory / "small.keras", tmp_path / server, *options) == 0
            printed = capsys.readouterr().out
            assert f"{tmp_path}/{server}/small/{version}" in printed
            assert "40 of 40 rows, 100.00%" in printed
        assert run("inspect", tmp_path / server) == 0
        printed = capsys.readouterr().out
        assert printed.index("small/1") < printed.index("small/2")
        assert printed.count("  trained_on  noise\n") == printed.count("  labels      3: one, two, three\n") == 2
    assert (tmp_path / "triton" / "small" / "config.pbtxt").is_file()


@pytest.mark.slow
def test_a_precision_and_its_cost(tmp_path, capsys):
    model = VideoClassifier({"frames": 64}, 10, num_clusters=64, hidden_units=300, name="wide")
    model.save(tmp_path / "wide.keras")
    sizes = {}
    for precision in ("float32", "float16", "int8"):
        out = tmp_path / precision
        assert run("export", tmp_path / "wide.keras", out, "--format", "onnx", "--precision", precision) == 0
        sizes[precision] = (out / "model.onnx").stat().st_size
    assert sizes["float16"] < 0.52 * sizes["float32"]
    assert sizes["int8"] < 0.3 * sizes["float32"]
    strict = ["--format", "onnx", "--precision", "int8", "--tolerance", "1e-6"]
    capsys.readouterr()
    assert run("export", tmp_path / "wide.keras", tmp_path / "strict", *strict) == 1
    assert "nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "strict").exists()


def test_an_artefact_of_another_model_exits_with_1(directory, tmp_path, capsys):
    assert run("export", directory / "small.keras", tmp_path / "out", "--format", "onnx") == 0
    assert run("verify", directory / "other.keras", tmp_path / "out" / "model.onnx") == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.slow
def test_verify_names_the_first_layer_that_differs(directory, tmp_path, capsys):
    path = tmp_path / "out" / "model.onnx"
    assert run("export", directory / "small.keras", tmp_path / "out", "--format", "onnx") == 0
    assert run("verify", directory / "small.keras", path, "--layers") == 0
    assert "DIFFERS" not in capsys.readouterr().out
    assert run("verify", directory / "other.keras", path, "--layers", "--tolerance", "1e-5") == 1
    printed = capsys.readouterr().out
    assert "FAILED" in printed
    assert f"layers of {path}, tolerance 1e-05\n" in printed
    assert "first layer that differs: frames_netvlad (NetVLAD), by " in printed.splitlines()[-1]


@pytest.mark.slow
def test_an_export_that_fails_parity_exits_with_1_and_writes_nothing(directory, tmp_path, capsys):
    options = ["--format", "onnx", "--tolerance", "0"]  # the rounding to float32 is larger
    assert run("export", directory / "small.keras", tmp_path / "out", *options) == 1
    assert "nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_reads_the_padding_exits_with_2_and_writes_nothing(tmp_path, capsys):
    frames = keras.Input((None, 3), name="frames")
    num_frames = keras.Input((), dtype="int32", name="num_frames")
    no_mask = NetVLAD(2)(frames)
    lengths = keras.ops.expand_dims(keras.ops.cast(num_frames, "float32"), 1)
    descriptor = keras.layers.Concatenate()([no_mask, lengths])
    keras.Model({"frames": frames, "num_frames": num_frames}, {"descriptor": descriptor}).save(tmp_path / "leaks.keras")
    assert run("export", tmp_path / "leaks.keras", tmp_path / "out", "--format", "onnx") == 2
    printed = capsys.readouterr().err
    assert "Frames beyond `num_frames` must not change the outputs" in printed
    assert len(printed.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["leaks.keras"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "absent.keras", "out"], "must be a .keras file written by model.save()"),
        (["export", "small.keras", "out", "--format", "tflite"], "`formats` must be some of"),
        (["export", "small.keras", "out", "--opset", "99"], "`opset` must be an integer from 13 to 18"),
        (
            ["export", "small.keras", "out", "--signatures", "all", "describe"],
            "`onnx_signatures` must be 'all' or some",
        ),
        (["export", "small.keras", "small.keras"], "must not exist yet"),
        (["export", "small.keras", "small.keras/out"], "must be one that can be written to"),
        (["verify", "small.keras", "absent.onnx"], "An artifact is a directory"),
        (["verify", "small.keras", "absent.onnx", "--layers"], "An artifact is a directory"),
        (["export", "small.keras", "out", "--precision", "float16"], "other precisions are for ONNX and LiteRT, with "),
        (["export", "small.keras", "out", "--format", "onnx", "--precision", "int8"], "needs a dense layer behind"),
        (["export", "small.keras", "out", "--data", "absent.npz"], "`data` must be an .npz file"),
        (["export", "small.keras", "out", "--min-agreement", "0.9"], "pass `data` as well"),
        (["export", "small.keras", "out", "--labels", "absent.txt"], "absent.txt"),
        (["publish", "small.keras", "models", "--tensorrt"], "add `--server triton`. Received: `--tensorrt`"),
        (
            ["publish", "small.keras", "models", "--staging", ".", "--device", "cpu"],
            "Received: `--device`, `--staging`",
        ),
        (
            ["publish", "small.keras", "models", "--server", "triton", "--engine-cache", "/engines"],
            "add `--tensorrt`. Received: `--engine-cache`",
        ),
        (["publish", "small.keras", "models", "--max-batch-size", "0"], "`max_batch_size` must be a positive integer"),
        (["publish", "small.keras", "models", "--warmup-frames", "0"], "`warmup_frames` must be a positive integer"),
        (
            ["publish", "small.keras", "models", "--server", "triton", "--precision", "int8"],
            "onnxruntime computes int8 products on the CPU only",
        ),
        (["publish", "small.keras", "models", "--version", "0"], "`version` must be a positive integer"),
        (["publish", "small.keras", "models", "--name", "a/b"], "must be made of letters, digits"),
        (["verify", "small.keras", "small.keras", "--tolerance", "-1"], "`tolerance` must be a finite number"),
        (["inspect", "absent"], "There must be a SavedModel, an .onnx or a .tflite file"),
        (["inspect", "small.keras"], "An artifact is a directory"),
        (["demo", "--output", "small.keras"], "must not exist yet"),
        (["demo", "--output", "demo", "--epochs", "0"], "`epochs` must be a positive integer. Received: epochs=0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_exits_with_2_and_one_line(directory, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(directory)
    before = set(directory.iterdir())
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith(f"keras-netvlad {arguments[0]}: ")
    assert len(printed.err.splitlines()) == 1
    assert set(directory.iterdir()) == before


@pytest.mark.parametrize(("module", "extra"), [("matplotlib.figure", "plot"), ("sklearn.cluster", "adapt")])
def test_a_missing_extra_is_named_before_any_work(module, extra, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    assert run("demo", "--output", tmp_path / "demo") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"pip install 'keras_netvlad[{extra}]'" in printed.err
    assert list(tmp_path.iterdir()) == []


def test_labels_in_another_encoding_are_wrong_use(directory, tmp_path, capsys):
    (tmp_path / "labels.txt").write_bytes("Möwe\nGans\nEnte".encode("latin-1"))
    labels = tmp_path / "labels.txt"
    assert run("export", directory / "small.keras", tmp_path / "out", "--labels", labels) == 2
    assert f"`--labels` must be a text file in UTF-8; convert it. Received: {labels}" in capsys.readouterr().err


@pytest.fixture
def inspect_raises(monkeypatch):
    """Plants code in `inspect_artefact`, which the command `inspect` calls."""
    from keras_netvlad.export import inspection

    def plant(function):
        monkeypatch.setattr(inspection, "find_artefacts", lambda path: [path])
        monkeypatch.setattr(inspection, "inspect_artefact", function)

    return plant


def in_package(code):
    """Compiles a function as if it were a part of the package."""
    scope = {"__name__": "keras_netvlad.export.inspection"}
    exec(compile(f"def planted(path):\n    {code}", "planted.py", "exec"), scope)
    return scope["planted"]


# None of these comes from a check: each is an expression of the package, or a library, that failed.
BUGS = {
    "a TypeError of an expression": "return None + 1",
    "a ValueError of a builtin": "return int(path)",
    "an AttributeError": "return path.no_such_method()",
    "a KeyError": "return {}[path]",
    "an IndexError": "return [][0]",
    "a wrong call": "return len()",
    "a ValueError of NumPy": "import numpy as np; return np.zeros(2) + np.zeros(3)",
    "a ValueError of Keras": "import keras; return keras.layers.Dense(-1)",
    "an error of TensorFlow": "import tensorflow as tf; return tf.reshape(tf.ones(3), (2, 2))",
    "a module that is missing": "import no_such_module",
    "a failed assertion": "assert not path, 'impossible'",
    "an unfinished function": "raise NotImplementedError('later')",
    "a second error while the first is handled": "\n    try:\n        raise ValueError(path)\n    except ValueError:\n"
    "        return None.x",
}


@pytest.mark.parametrize("code", BUGS.values(), ids=BUGS)
def test_a_bug_is_reported_as_a_bug(inspect_raises, capsys, code):
    inspect_raises(in_package(code))
    assert run("inspect", "model.onnx") == 3
    printed = capsys.readouterr().err
    assert printed.startswith("keras-netvlad inspect: internal error (")
    assert "This is a bug in keras_netvlad; please report it." in printed
    assert "--debug for the stack trace" in printed
    assert "Traceback" not in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize("before", [True, False])
def test_debug_shows_the_stack_trace_before_and_after_the_command(inspect_raises, capsys, before):
    inspect_raises(in_package("return None + 1"))
    arguments = ["--debug", "inspect", "model.onnx"] if before else ["inspect", "model.onnx", "--debug"]
    was_filtered = keras.config.is_traceback_filtering_enabled()
    try:
        assert run(*arguments) == 3
    finally:
        if was_filtered:
            keras.config.enable_traceback_filtering()
    printed = capsys.readouterr().err
    assert "Traceback (most recent call last)" in printed
    assert 'planted.py", line 2, in planted' in printed
    assert "internal error (TypeError: unsupported operand" in printed
    assert "Run the command again" not in printed


# Checks of the package, and errors of the operating system wherever they are raised.
MISTAKES = {
    "a check": ("raise ValueError('`path` must be new')", "`path` must be new"),
    "a check that says why": (
        "\n    try:\n        int(path)\n    except ValueError as e:\n        raise TypeError('no number') from e",
        "no number",
    ),
    "a missing file": ("open('/no/such/file')", "No such file or directory: '/no/such/file'"),
    "a missing file, for NumPy": ("import numpy as np; np.load('/no/such/file')", "No such file or directory"),
    "a full disk": (f"raise OSError({errno.ENOSPC}, 'No space left on device')", "No space left on device"),
    "too little memory": ("raise MemoryError('Unable to allocate 9 TiB')", "Unable to allocate 9 TiB"),
    "a missing extra": ("raise ImportError('pip install it')", "pip install it"),
}


@pytest.mark.parametrize(("code", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_of_the_user_is_one_sentence(inspect_raises, capsys, code, message):
    inspect_raises(in_package(code))
    assert run("inspect", "model.onnx") == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "internal error" not in printed
    assert len(printed.splitlines()) == 1


def test_a_check_that_runs_inside_keras_is_still_a_mistake_of_the_user(inspect_raises, capsys):
    mask = np.array([[1.0, -1.0]], "float32")
    inspect_raises(lambda path: NetVLAD(2)(np.zeros((1, 2, 3), "float32"), mask=mask))
    assert run("inspect", "model.onnx") == 2
    assert "finite weights of 0 or more" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["polish"], ["export"], ["export", "a", "b", "--opset", "new"]])
def test_arguments_that_do_not_parse_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert "usage: keras-netvlad" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "extract", "search"])
def test_the_help_of_a_command_lists_the_exit_codes(command, capsys):
    with pytest.raises(SystemExit):
        run(command, "--help")
    printed = " ".join(capsys.readouterr().out.split())
    assert "Exit codes: 0 done;" in printed
    assert "130 interrupted by Ctrl-C; 143 terminated by SIGTERM." in printed


def test_help_names_every_command_and_the_exit_codes(capsys):
    with pytest.raises(SystemExit) as caught:
        run("--help")
    assert caught.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    for command in (
        "demo",
        "export",
        "publish",
        "train",
        "verify",
        "inspect",
        "extract",
        "search",
        "vocabulary",
        "index",
    ):
        assert f" {command} " in printed
    assert "--debug" in printed
    assert "Exit codes: 0 done; 1 an artifact differs" in printed


@pytest.mark.slow
def test_the_installed_command_fails_without_a_stack_trace(tmp_path):
    command = os.path.join(os.path.dirname(sys.executable), "keras-netvlad")
    finished = subprocess.run(
        [command, "export", "absent.keras", "out"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 2
    assert "Traceback" not in finished.stderr
    assert "Received: absent.keras" in finished.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_demo_is_true(tmp_path, capsys):
    from keras_netvlad.demo import run_demo

    results = run_demo(tmp_path / "demo")
    # Measured 0.973 to 0.981 and 0.838 to 0.878 over three seeds.
    assert results["netvlad_accuracy"] >= 0.93
    assert results["mean_pooling_accuracy"] < 0.9
    assert all(report.ok for report in results["reports"])
    assert results["answers"] == {"saved_model": results["speaker"], "onnx": results["speaker"]}
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names == {"netvlad", "model.onnx", "model.onnx.parity.json", "model.keras", "assignments.png"}
    assert (tmp_path / "demo" / "netvlad" / "1" / "saved_model.pb").is_file()
    # The picture shows clusters only if they are sharp: 0.89 with `adapt`, 0.37 to 0.56 without, over three seeds.
    (inputs, _), _ = load_japanese_vowels()
    layer = keras.models.load_model(tmp_path / "demo" / "model.keras").get_layer("frames_netvlad")
    is_real = np.arange(inputs["frames"].shape[1]) < inputs["num_frames"][:, None]
    assert np.asarray(layer.assign(inputs["frames"]))[is_real].max(axis=1).mean() > 0.75
    printed = capsys.readouterr().out
    assert re.findall(r"epoch .*, test accuracy (0\.\d+)", printed) == [
        f"{results[name]:.3f}" for name in ("netvlad_accuracy", "mean_pooling_accuracy")
    ]
    listed = re.findall(r"^  (\S+)  +(?:the|a|an) ", printed.split("Files:")[1], flags=re.MULTILINE)
    assert listed == [
        str(tmp_path / "demo" / name) for name in ("model.keras", "netvlad/1", "model.onnx", "assignments.png")
    ]
    assert all(Path(path).exists() for path in listed)
    (command,) = re.findall(r"^  keras-netvlad (.+)$", printed, flags=re.MULTILINE)
    assert run(*shlex.split(command)) == 0
    assert (tmp_path / "served" / "netvlad" / "1" / "saved_model.pb").is_file()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_demo_prints_one_line_for_a_training(is_terminal, monkeypatch, capsys):
    from keras_netvlad.demo import _ProgressLine

    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    progress = _ProgressLine("mean pooling", 2)
    progress.on_train_begin()
    for epoch, accuracy in enumerate((0.5, 0.75)):
        progress.on_epoch_end(epoch, {"accuracy": accuracy})
    progress.finish(0.625)
    last = "  mean pooling  epoch 2/2, training accuracy 0.750, test accuracy 0.625, 0.0 s\n"
    live = "\r  mean pooling  epoch 1/2, training accuracy 0.500\r  mean pooling  epoch 2/2, training accuracy 0.750\r"
    assert capsys.readouterr().out == (live + last if is_terminal else last)


def test_a_module_is_imported_that_registers_layers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_layers.py").write_text(
        "import keras\n"
        "@keras.saving.register_keras_serializable('own')\n"
        "class Scale(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return x * 2.0\n"
    )
    sys.path.insert(0, str(tmp_path))
    module = importlib.import_module("own_layers")
    frames = keras.Input((None, 4), name="frames")
    keras.Model(frames, {"out": NetVLAD(2)(module.Scale()(frames))}, name="own").save("own.keras")
    keras.saving.get_custom_objects().pop("own>Scale")
    sys.modules.pop("own_layers")
    sys.path.remove(str(tmp_path))

    assert run("export", "own.keras", "out", "--format", "onnx", "--no-verify") == 2
    printed = capsys.readouterr().err
    assert "`--import MODULE`" in printed
    assert len(printed.splitlines()) == 1
    assert run("export", "own.keras", "out", "--import", "no_such_module") == 2
    assert "Received: no_such_module (ModuleNotFoundError: " in capsys.readouterr().err
    assert run("export", "own.keras", "out", "--import", "own_layers", "--format", "onnx", "--no-verify") == 0
    assert capsys.readouterr().out == "out: written, not verified\n"
    assert run("publish", "own.keras", "served", "--import", "own_layers", "--no-verify") == 0
    assert capsys.readouterr().out == "served/own: written, not verified\n"
    assert run("verify", "own.keras", "out/model.onnx", "served/own/1", "--import", "own_layers") == 0


def test_the_handlers_of_other_libraries_print_no_stages(capsys):
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    try:
        with stage_lines.stage_lines("export"), stage("writing the SavedModel"):
            pass
    finally:
        logging.getLogger().removeHandler(handler)
    assert "SavedModel" not in capsys.readouterr().err
    assert LOGGER.propagate


@pytest.mark.slow
def test_a_file_for_phones(directory, tmp_path, capsys):
    small, out = directory / "small.keras", tmp_path / "out"
    assert run("export", small, out, "--format", "litert") == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"litert  {out}/model.tflite\n")
    assert printed.count(" ok") == 8  # outputs of four signatures
    assert run("verify", small, out / "model.tflite") == 0
    assert run("inspect", out) == 0
    assert f"litert  {out}/model.tflite\n" in capsys.readouterr().out
    assert run("verify", small, out / "model.tflite", "--layers") == 2
    assert "Layers can be compared in an ONNX file" in capsys.readouterr().err
    assert run("export", small, tmp_path / "half", "--format", "litert", "--precision", "float16") == 2
    assert "`precision` must be one of ['float32', 'int8']" in capsys.readouterr().err


def test_verification_in_another_runtime(directory, tmp_path, capsys):
    small, path = directory / "small.keras", tmp_path / "out" / "model.onnx"
    assert run("export", small, tmp_path / "out", "--format", "onnx") == 0
    capsys.readouterr()
    assert run("verify", small, path, "--runtime", "onnx.reference") == 0
    assert capsys.readouterr().out.startswith(f"onnx  {path}  in onnx.reference\n")
    assert run("verify", small, path, "--runtime", "litert") == 2
    assert "`runtime` must be one that runs artifacts of the kind 'onnx'" in capsys.readouterr().err
