"""JSON files: the schema, and every kind of damage in one sentence."""

import json

import pytest

from keras_netvlad.base import json_files
from keras_netvlad.base.json_files import read_json_object

SCHEMA = {"rounds": int, "gap": (float, None), "names": [str], "best": ({"ok": bool}, None)}
RIGHT = {"rounds": 3, "gap": 0.5, "names": ["a"], "best": {"ok": True}, "other": [1]}


@pytest.mark.parametrize("changes", [{}, {"gap": 1}, {"gap": None}, {"best": None}, {"names": []}])
def test_what_fits_is_returned(tmp_path, changes):
    path = tmp_path / "state.json"
    path.write_text(json.dumps({**RIGHT, **changes}))
    assert read_json_object(path, SCHEMA) == {**RIGHT, **changes}
    path.write_text(json.dumps({"names": [], "rounds": 1}))
    assert read_json_object(path, SCHEMA) == {"names": [], "rounds": 1, "gap": None, "best": None}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"rounds": "3"}, "rounds"),
        ({"rounds": 3.0}, "rounds"),
        ({"rounds": True}, "rounds"),
        ({"rounds": None}, "rounds"),
        ({"rounds": 2**63}, "rounds"),
        ({"gap": "0.5"}, "gap"),
        ({"gap": 10**400}, "gap"),
        ({"names": "a"}, "names"),
        ({"names": ["a", 1]}, r"names\[1\]"),
        ({"best": []}, "best"),
        ({"best": {}}, "best.ok"),
        ({"best": {"ok": 1}}, "best.ok"),
    ],
)
def test_a_value_of_another_type_is_named(tmp_path, changes, name):
    (tmp_path / "state.json").write_text(json.dumps({**RIGHT, **changes}))
    with pytest.raises(ValueError, match=rf"^the value `{name}` is missing or has the wrong type$"):
        read_json_object(tmp_path / "state.json", SCHEMA)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[1]", "holds a list, not an object"),
        (b"7", "holds a int, not an object"),
        (b'{"a": "\xff"}', "utf-8"),
        (b'{"a": ' + b"[" * 100_000, "nests its values too deeply"),
        (b'{"a": ' + b"1" * 10_000 + b"}", "digits"),
    ],
)
def test_damage_is_a_reason_of_one_line(tmp_path, content, reason):
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^[^\n]*{reason}[^\n]*$"):
        read_json_object(tmp_path / "state.json")


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "state.json").write_text('{"a": 12}')
    monkeypatch.setattr(json_files, "MAX_BYTES", 9)
    assert read_json_object(tmp_path / "state.json") == {"a": 12}
    monkeypatch.setattr(json_files, "MAX_BYTES", 8)
    with pytest.raises(ValueError, match="the file has 9 bytes, more than 8"):
        read_json_object(tmp_path / "state.json")
