"""Names and version numbers of models in a directory that a server polls."""

import re
from pathlib import Path

MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def check_model_name(name: str) -> str:
    """Returns the name, or raises if it cannot be used in a path, a URL and the configuration of a server."""
    if not isinstance(name, str) or not MODEL_NAME.fullmatch(name):
        raise ValueError(
            "A served model's name must be made of letters, digits, `_`, `-` and `.`, and not begin with a dot; give "
            f"another `name`. Received: {name!r}"
        )
    return name


def next_version(directory: Path) -> int:
    """Returns the highest version in a model's directory plus one, or 1 if there is no version."""
    versions = [int(path.name) for path in directory.glob("*") if path.name.isdecimal()]
    return max(versions, default=0) + 1
