"""`read_json_object`: reads a JSON file that others may have changed or damaged."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The largest file that this package writes has a line for each class and output: less than 1 MB.
MAX_BYTES = 64 << 20
INT64 = range(-(2**63), 2**63)


def read_json_object(path: str | os.PathLike[str], schema: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
        path: Path of the file.
        schema: Dict from the name of a value to its type, or `None` to accept any object. A type is `str`, `bool`,
            `int`, `float` or `None`; a dict, for an object with these values; a list of one type, for a list; or a
            tuple of alternatives. A missing value counts as `None`, and is added to the result as such.
            Values without a type are not checked.

    Returns:
        The object.

    Example:

    >>> import os, tempfile
    >>> from keras_netvlad.base.json_files import read_json_object
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "state.json")
    ...     with open(path, "w") as file:
    ...         _ = file.write('{"rounds": 3}')
    ...     read_json_object(path, {"rounds": int, "best": (str, None)})
    {'rounds': 3, 'best': None}

    Raises:
        ValueError: If the file is not UTF-8, not JSON, larger than 64 MiB, or does not fit the schema. The message is
            the reason only; the caller says which file was expected.
        OSError: If the file cannot be read.
    """
    size = os.stat(path).st_size
    if size > MAX_BYTES:
        raise ValueError(f"the file has {size:,} bytes, more than {MAX_BYTES:,}")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("the file nests its values too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"the file holds a {type(content).__name__}, not an object")
    misfit = _misfit(content, schema or {}, "")
    if misfit is not None:
        raise ValueError(f"the value `{misfit}` is missing or has the wrong type")
    return content


def _misfit(value: Any, schema: Any, name: str) -> str | None:
    """Returns the name of the first value that does not fit, or `None`. Adds missing values as `None`."""
    if isinstance(schema, tuple):
        misfits = [_misfit(value, alternative, name) for alternative in schema]
        return None if None in misfits else misfits[0]
    if isinstance(schema, Mapping):
        if not isinstance(value, dict):
            return name
        misfits = [_misfit(value.setdefault(key), inner, f"{name}.{key}".lstrip(".")) for key, inner in schema.items()]
        return next((misfit for misfit in misfits if misfit is not None), None)
    if isinstance(schema, list):
        if not isinstance(value, list):
            return name
        misfits = [_misfit(item, schema[0], f"{name}[{number}]") for number, item in enumerate(value)]
        return next((misfit for misfit in misfits if misfit is not None), None)
    if schema is None:
        return None if value is None else name
    if isinstance(value, bool) or schema is bool:
        return None if isinstance(value, bool) and schema is bool else name
    if isinstance(value, int) and schema in (int, float):
        return None if value in INT64 else name
    return None if isinstance(value, schema) else name
