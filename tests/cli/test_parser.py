"""The help of each command, and the completion in shells."""

import argparse
import shlex
import shutil
import subprocess
import sys

import pytest

from keras_netvlad.cli.completion import PATHS, completion_script
from keras_netvlad.cli.parser import EXAMPLES, make_parser


def commands():
    (choices,) = (action.choices for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return choices


def test_every_command_has_an_example_that_parses():
    assert set(EXAMPLES) == set(commands())
    for name, example in EXAMPLES.items():
        program, *arguments = shlex.split(example.split(">")[0])
        assert program == "keras-netvlad"
        assert make_parser().parse_args(arguments).command_name == name


def test_an_example_is_one_line_of_the_help(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    for name, command in commands().items():
        lines = command.format_help().splitlines()
        assert f"  {EXAMPLES[name]}" in lines
        assert all(len(line) <= 60 for line in lines if "bug in keras_netvlad" in line)


def test_paths_are_completed_as_files():
    metavars = {action.metavar for command in commands().values() for action in command._actions}
    assert metavars >= PATHS
    script = completion_script(make_parser(), "bash")
    assert "_keras_netvlad_export_pos_0_COMPGEN=_shtab_compgen_files" in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [("ver", "verify"), ("verify --lay", "--layers"), ("publish --server tri", "triton")],
)
def test_bash_completes_commands_options_and_choices(tmp_path, words, expected):
    (tmp_path / "script").write_text(completion_script(make_parser(), "bash"))
    typed = ["keras-netvlad", *words.split()]
    program = (
        f"source ./script; COMP_WORDS=({' '.join(typed)}); COMP_CWORD={len(typed) - 1}; COMP_LINE='{' '.join(typed)}'; "
        f"COMP_POINT=${{#COMP_LINE}}; _shtab_keras_netvlad keras-netvlad {typed[-1]} {typed[-2]} 2> /dev/null; "
        "echo ${COMPREPLY[@]}"
    )
    finished = subprocess.run(["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert finished.stdout.split() == [expected]


def test_completion_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_netvlad\[completion\]'"):
        completion_script(make_parser(), "bash")
