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
