"""`completion_script`: the completion of commands, options and paths in a shell."""

import argparse
from collections.abc import Iterator

# Metavariables of arguments that are paths.
PATHS = {
    "BASE",
    "CLIP",
    "DIR",
    "FEATURES",
    "FILE",
    "FILES",
    "FOLDER",
    "HTML",
    "MODEL.keras",
    "MODEL.onnx",
    "NPZ",
    "PATH",
}
PATHS |= {"ARTIFACT", "RECORDS|INDEX", "RUN", "TXT", "VIDEO", "folders|FILE.csv"}


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Returns a script that makes a shell complete the command.

    The script holds all commands and options, so that the shell does not start Python to complete one.

    Args:
        parser: The parser of the command.
        shell: `"bash"`, `"zsh"` or `"tcsh"`.

    Raises:
        ImportError: If shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise ImportError(
            "Completion needs shtab; install it with `pip install 'keras_netvlad[completion]'`."
        ) from error
    for action in _actions(parser):
        if action.metavar in PATHS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yields the arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
