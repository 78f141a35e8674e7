"""`.npz` files: arrays written by NumPy are read, and a declared size takes no memory before it is checked."""

import io
import zipfile

import numpy as np
import pytest

from keras_netvlad.base.npz_files import check_npz, read_npz


def member(descr, shape, content=b"", version=b"\x01\x00"):
    """The bytes of an `.npy` file with any header."""
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + content


def archive(path, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_as_they_were_written(tmp_path, save):
    arrays = {
        "floats": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype="uint8").reshape(2, 3)),
        "texts": np.array(["a", "Möwe"]),
        "empty": np.zeros((0, 4), "float32"),
        "scalar": np.array(7),
    }
    save(tmp_path / "whole.npz", **arrays)
    assert check_npz(tmp_path / "whole.npz") == list(arrays)
    read = read_npz(tmp_path / "whole.npz")
    for name, values in arrays.items():
        np.testing.assert_array_equal(read[name], values)
        assert read[name].dtype == values.dtype
    assert list(read_npz(tmp_path / "whole.npz", ["texts"])) == ["texts"]


def test_zeros_that_compress_well_are_read(tmp_path):
    np.savez_compressed(tmp_path / "zeros.npz", frames=np.zeros((16, 300, 1152), "float32"))  # 22 MB in 21 kB
    assert read_npz(tmp_path / "zeros.npz")["frames"].nbytes == 16 * 300 * 1152 * 4


TERABYTE = (2**38,)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"a": member("<f4", TERABYTE)}, r"`a` does not have the size of its header, float32 \(274877906944,\)"),
        ({"a": member("<f4", (3,), bytes(11))}, "`a` does not have the size of its header"),
        ({"a": member("<f4", (-3,), bytes(12))}, "`a` does not have the size of its header"),
        # No bytes are needed for these, but their rows would be counted one by one.
        ({"a": member("<f4", (2**40, 0))}, "declares arrays of 4,398,046,511,104 bytes"),
        ({"a": member("<U0", TERABYTE)}, "declares arrays of"),
        ({"a": member("|O", (1,), b"pickle")}, "`a` holds Python objects"),
        ({"a": member("<f4", (1,), bytes(4), b"\x03\x00")}, r"`a` is of version \(3, 0\)"),
        ({"a": member("<U1", (2,), b"a\0\0\0\xff\xff\x11\0")}, r"`a` holds text with a character above U\+10FFFF"),
        ({"a": member(">U1", (1,), b"\0\x11\0\0")}, r"`a` holds text with a character above U\+10FFFF"),
        ({"a": b"\x93NUMPY\x01\x00\x76\x00" + b"-" * 118}, "header"),
        ({"a": b""}, "EOF"),
        ({}, "has no array `a`"),
    ],
)
def test_what_a_header_declares_is_compared_with_the_file(tmp_path, members, reason):
    archive(tmp_path / "hostile.npz", **members)
    with pytest.raises(ValueError, match=reason):
        read_npz(tmp_path / "hostile.npz", ["a"])


@pytest.mark.slow
def test_an_archive_that_expands_beyond_the_limit_is_refused(tmp_path):
    values = bytes(257 << 20)
    archive(tmp_path / "bomb.npz", zipfile.ZIP_DEFLATED, a=member("|u1", (len(values),), values))
    assert (tmp_path / "bomb.npz").stat().st_size < 1 << 20
    with pytest.raises(ValueError, match=r"the file has .* and declares arrays of 269,.* more than 268,435,456"):
        check_npz(tmp_path / "bomb.npz")


def test_a_damaged_archive_is_a_value_error_and_a_missing_one_is_not(tmp_path):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.arange(1000))
    content = bytearray(buffer.getvalue())
    content[60:80] = bytes(20)
    for damaged in (content, content[:-30], b"", b"no archive"):
        (tmp_path / "damaged.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            read_npz(tmp_path / "damaged.npz")
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "missing.npz")
