"""Mutations of files: of bytes anywhere, of JSON values, and of parts of archives and records behind checksums."""

import copy
import io
import json
import random
import zipfile
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

INTEGERS = (0, 1, -1, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, -(2**63))
VALUES = (
    *(None, True, False, 0, -1, 2**31, 2**64, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "a", "\ud800", "\x00", "../../x", "round1.npz", "é" * 50, [], [[]], {}, [None], {"": {}}, [1] * 50),
)


def mutate_bytes(content: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    """Returns the content after one to four edits."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        start = draw.randrange(len(data) + 1)
        length = draw.choice((1, 2, 4, 8, draw.randrange(64)))
        edit = draw.randrange(8)
        if edit == 0 and start < len(data):
            data[start] ^= 1 << draw.randrange(8)
        elif edit == 1 and start < len(data):
            data[start] = draw.randrange(256)
        elif edit == 2:
            data[start : start + length] = draw.randbytes(length)
        elif edit == 3:
            size = draw.choice((1, 2, 4, 8))
            number = draw.choice(INTEGERS) % (1 << 8 * size)
            data[start : start + size] = number.to_bytes(size, draw.choice(("little", "big")))
        elif edit == 4:
            del data[start : start + length]
        elif edit == 5:
            data[start:start] = data[start : start + length] * draw.choice((1, 2, 50))
        elif edit == 6:
            other = draw.choice(others)
            begin = draw.randrange(len(other) + 1)
            data[start : start + length] = other[begin : begin + length]
        else:
            del data[start:]
    return bytes(data)


def mutate_json(content: bytes, draw: random.Random) -> bytes:
    """Returns a JSON file with one to three values exchanged, removed or renamed."""
    root = json.loads(content)
    for _ in range(draw.choice((1, 1, 3))):
        places = list(_places(root))
        if not places:
            break
        parent, key = draw.choice(places)
        edit = draw.randrange(4)
        if edit == 0:
            del parent[key]
        elif edit == 1 and isinstance(parent, dict):
            parent[draw.choice(("", "x", "\ud800", str(key) * 2))] = parent.pop(key)
        elif edit == 2:
            parent[key] = draw.choice(INTEGERS)
        else:
            parent[key] = copy.deepcopy(draw.choice(VALUES))
    return json.dumps(root).encode()


def _places(value: Any) -> Any:
    """Yields `(parent, key)` of every value below a JSON value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def mutate_zip(content: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    """Returns an archive with one member mutated, with right checksums and perhaps compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(buffer, "w") as target:
        names = source.namelist()
        chosen = draw.choice(names)
        for name in names:
            member = source.read(name)
            if name == chosen:
                if name.endswith(".json") and draw.random() < 0.7:
                    member = mutate_json(member, draw)
                else:
                    member = _mutate_header(member, draw) if draw.random() < 0.3 else mutate_bytes(member, others, draw)
                name = draw.choice((name, name, name, name, "../x.npy", "x"))
            target.writestr(name, member, draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    return buffer.getvalue()


def _mutate_header(member: bytes, draw: random.Random) -> bytes:
    """Returns an `.npy` file with other numbers in its header, or any file with other digits at its beginning."""
    head, rest = bytearray(member[:128]), member[128:]
    places = [place for place, byte in enumerate(head) if chr(byte).isdigit()] or [0]
    for _ in range(draw.choice((1, 3))):
        head[draw.choice(places)] = ord(draw.choice("0123456789-*,(")) if head else 0
    if draw.random() < 0.5:
        place = draw.choice(places)
        head[place : place + 1] = str(draw.choice(INTEGERS)).encode()
        head = head[:128]
    return bytes(head) + rest


def seal(records: Sequence[bytes], path: str) -> None:
    """Writes a TFRecord file with right checksums."""
    with tf.io.TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record)
