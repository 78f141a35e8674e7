"""Signals, closed pipes and terminals of the command, in processes that load neither TensorFlow nor Keras."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

# A command that writes a staged file, says so, and waits or prints.
PROGRAM = """
import os, sys, time
from pathlib import Path
from keras_netvlad.__main__ import main
from keras_netvlad.base.atomic_files import staged
from keras_netvlad.cli import commands

def search(options):
    with staged(Path(options.clips) / "model.onnx") as path:
        path.write_text("half")
{body}
    return 0

commands.search = search
sys.argv = ["keras-netvlad", "search", sys.argv[1], "id"]
sys.exit(main())
"""


def start(body, directory, **options):
    program = PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), " " * 8))
    return subprocess.Popen(
        [sys.executable, "-c", program, str(directory)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGINT, 130, "keras-netvlad search: interrupted\n"),
        (signal.SIGTERM, 143, "keras-netvlad search: terminated\n"),
    ],
)
@pytest.mark.parametrize(
    "wait",
    [
        "time.sleep(60)",
        "try:\n    time.sleep(60)\nexcept BaseException:\n    raise ImportError('a library replaced it')",
        "try:\n    time.sleep(60)\nexcept BaseException:\n    pass",
    ],
    ids=["raised", "replaced", "swallowed"],
)
def test_a_signal_gives_one_line_and_leaves_nothing(tmp_path, number, code, message, wait):
    process = start(f"print('ready', flush=True)\n{wait}\nraise SystemExit(5)", tmp_path, text=True)
    assert process.stdout.readline() == "ready\n"
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, message)
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_ends_neither_the_command_nor_its_exit_code(tmp_path):
    process = start("for number in range(20_000): print('a line of output', number)", tmp_path)
    assert process.stdout.readline() == b"a line of output 0\n"
    process.stdout.close()
    errors = process.stderr.read()
    assert (process.wait(timeout=60), errors) == (0, b"")
    assert (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_output_fits_any_terminal(tmp_path, encoding):
    body = r"print('1/3 \u2501\u2501', 'M\u00f6we', 'a\udcff'); print('M\u00f6we', file=sys.stderr)"
    process = start(body, tmp_path, env={**os.environ, "PYTHONIOENCODING": encoding})
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    if encoding == "ascii":
        assert output == rb"1/3 -- M\xf6we a\udcff" + b"\n"
        assert errors == rb"M\xf6we" + b"\n"
    else:
        assert output == "1/3 ━━ Möwe a\\udcff\n".encode()
        assert errors == "Möwe\n".encode()


def test_remarks_of_native_libraries_are_hidden_and_their_errors_are_not(tmp_path):
    remarks = [
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
        "I0000 00:00:1795810789.760267   30894 cudart_stub.cc:31] Could not find cuda drivers on your machine.",
        "2025-09-17 14:44:05.157831: I external/local_xla/xla/tsl/cuda/cudart_stub.cc:32] Could not find cuda drivers.",
        "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",
    ]
    errors = ["E0000 00:00:1758131045.203198 3722035 cuda_dnn.cc:8579] Unable to register cuDNN factory", "INFO: mine"]
    lines = "\n".join([remarks[0], errors[0], *remarks[1:], errors[1]])
    body = f"os.write(2, {lines.encode()!r}); os.write(2, b'no end'); sys.exit(sys.stderr.fileno() == 2)"
    process = start(body, tmp_path, text=True)
    assert process.communicate(timeout=60) == ("", "\n".join([*errors, ""])[:-1] + "no end")
    assert process.returncode == 0


def test_a_command_ends_after_its_last_lines_are_written(tmp_path):
    lines = b"E\n" * 30_000  # as much as a pipe holds, so that writing does not wait for the reader
    process = start(f"os.write(2, {lines[:2]!r} * {len(lines) // 2})", tmp_path)
    assert process.communicate(timeout=60)[1] == lines


def test_the_parser_starts_without_numpy():
    program = (
        "import sys; from keras_netvlad.cli.parser import make_parser; make_parser().format_help(); "
        "print({'numpy', 'keras', 'tensorflow'} & set(sys.modules))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert finished.stdout == "set()\n"
