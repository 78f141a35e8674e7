"""Reads the weight files of other libraries as named tensors, one at a time, without running code from a file."""

import pickle
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from keras_netvlad.base.declared_sizes import ALWAYS_ALLOWED_BYTES, MAX_EXPANSION, check_declared_bytes
from keras_netvlad.base.npz_files import check_npz
from keras_netvlad.base.npz_files import read_npz as read_npz_arrays

# In older versions a crafted file can run code in spite of `weights_only=True` (CVE-2025-32434).
OLDEST_SAFE_TORCH = (2, 6)
# Number of names in a message. A backbone has hundreds.
NUM_NAMES_LISTED = 12

Readers: TypeAlias = dict[str, Callable[[], Any]]


def read_tensors(source: Any, readers: Mapping[str, Callable[[Path], Readers] | None], expected: str) -> Readers:
    """Opens a weight file or a mapping, and returns functions that read its tensors.

    Args:
        source: Path of a file, or a mapping of names to arrays, which may be nested.
        readers: Functions of a path by the suffix of the file; `""` for all other suffixes.
        expected: Description of `source` for the message.

    Returns:
        Dict of functions without arguments by tensor name.
    """
    if isinstance(source, Mapping):
        return dict(_flattened(source))
    try:
        path = Path(source)
    except TypeError as error:
        raise TypeError(f"The weights must be {expected}. Received: {type(source).__name__}") from error
    if path.suffix == ".npz":
        return read_npz(path)
    reader = readers.get(path.suffix, readers.get(""))
    if reader is None:
        raise ValueError(f"The weights must be {expected}; convert or rename the file. Received: {path}")
    return reader(path)


def read_npz(path: Path) -> Readers:
    """Opens a NumPy archive without pickled objects."""
    check_is_file(path)
    try:
        return {name: partial(_npz_array, path, name) for name in check_npz(path)}
    except (OSError, ValueError) as error:
        raise unreadable(path, "a whole .npz file of numeric arrays", error) from error


def read_h5(path: Path) -> Readers:
    """Opens an HDF5 file and returns its datasets by path. Links to other files are not followed."""
    check_is_file(path)
    try:
        import h5py
    except ImportError as error:
        raise missing_library("h5py", "a .h5 file", "'keras_netvlad[convert]'") from error
    datasets: Readers = {}

    def visit(name: str | bytes, item: Any) -> None:
        # A virtual or external dataset would read another file of this machine.
        if isinstance(item, h5py.Dataset) and not item.external and not item.is_virtual:
            # h5py gives names that are not UTF-8 as bytes.
            text = name if isinstance(name, str) else name.decode(errors="backslashreplace")
            datasets[text] = partial(_h5_array, path, name, text)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except Exception as error:
        raise unreadable(path, "a whole HDF5 file", error) from error
    return datasets


def read_checkpoint(path: Path) -> Readers:
    """Opens a TensorFlow checkpoint, given its prefix (without `.index`) or the directory with the latest one."""
    import tensorflow as tf

    prefix = str(path).removesuffix(".index").removesuffix(".meta")
    try:
        reader = tf.train.load_checkpoint(prefix)
        names = reader.get_variable_to_shape_map()
    except Exception as error:
        expected = "the prefix of a whole TensorFlow checkpoint, such as model.ckpt-1000 of model.ckpt-1000.index"
        raise unreadable(path, expected, error) from error
    return {
        name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"): partial(_checkpoint_array, path, reader, name)
        for name in names
    }


def read_torch(path: Path) -> Readers:
    """Opens a PyTorch file of tensors. Objects that need code to be rebuilt are refused."""
    check_is_file(path)
    try:
        import torch
    except ImportError as error:
        raise missing_library("PyTorch", "a .pth file", "torch") from error
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_SAFE_TORCH:
        raise ImportError(
            "Reading a .pth file safely needs PyTorch 2.6 or newer; install it with `pip install --upgrade torch`. "
            f"Received: {torch.__version__}"
        )
    try:
        is_zip = _check_torch_zip(path)
        # Mapped into memory, the tensors cannot reach beyond the file, whatever sizes the pickle declares.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise ValueError(
            "The PyTorch file must hold tensors only, because other objects could run code when they are read; if you "
            "trust the file, load it in its own project and save `model.state_dict()` alone, or give that mapping. "
            f"Received: {path}, which holds other objects"
        ) from error
    except Exception as error:
        raise unreadable(path, "a whole file that torch.save() wrote", error) from error
    if not isinstance(content, Mapping):
        raise ValueError(
            "The PyTorch file must hold a state_dict, or a mapping with one in it; save `model.state_dict()`. "
            f"Received: {path}, which holds a {type(content).__name__}"
        )
    return dict(_flattened(content))


def find_scope(
    names: Collection[str],
    families: Sequence[tuple[str, ...]],
    separator: str,
    scope: str | None,
    argument: str,
    remedy: str = "rename them and use `from_arrays`",
) -> tuple[str, tuple[str, ...]]:
    """Finds the only NetVLAD among named tensors.

    Args:
        names: Names of all tensors.
        families: Tuples of names that a NetVLAD of the library must have, one tuple for each kind.
        separator: Separator between the parts of a name.
        scope: The prefix from the user, complete or its last parts; or `None` to search for it.
        argument: Name of that argument, for the message.
        remedy: Advice for the message if nothing is found.

    Returns:
        The prefix, which is empty or ends in the separator, and the tuple of the names found under it.
    """
    found = sorted(
        (name.removesuffix(family[0]), family)
        for family in families
        for name in names
        if name == family[0] or name.endswith(separator + family[0])
    )
    found = [(prefix, family) for prefix, family in found if all(prefix + name in names for name in family)]
    where = ""
    if scope is not None:
        where = f" under {argument}={scope!r}"
        end = str(scope).strip(separator)
        end = end + separator if end else ""
        exact = [pair for pair in found if pair[0] == end]
        found = exact or [pair for pair in found if end and pair[0].endswith(separator + end)]
    if not found:
        required = " or ".join(" and ".join(family) for family in families)
        raise ValueError(f"The weights must have tensors {required}{where}; {remedy}. Received: {listed(names)}")
    if len(found) > 1:
        raise ValueError(
            f"The weights hold several NetVLADs{where}; choose one with `{argument}`, one of "
            f"{', '.join(repr(prefix) for prefix, _ in found)}. Received: {argument}={scope!r}"
        )
    return found[0]


def listed(names: Iterable[Any]) -> str:
    """Returns the names for a message, at most the first few."""
    ordered = sorted(str(name) for name in names)
    rest = len(ordered) - NUM_NAMES_LISTED
    shown = ", ".join(ordered[:NUM_NAMES_LISTED]) or "no tensors"
    return f"{shown} and {rest} more" if rest > 0 else shown


def check_is_file(path: Path) -> None:
    """Raises if the file does not exist."""
    if not path.is_file():
        raise FileNotFoundError(f"The weights must be in a file; check the path. Received: {path}, no file")


def unreadable(path: Path, expected: str, error: Exception) -> ValueError:
    """Returns the error for a damaged or foreign file."""
    reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
    return ValueError(f"The weights must be {expected}; copy or save the file again. Received: {path} ({reason})")


def missing_library(library: str, what: str, to_install: str) -> ImportError:
    """Returns the error for an optional dependency that is not installed."""
    return ImportError(
        f"Reading {what} needs {library}, which is not installed. Install it with `pip install {to_install}`."
    )


def _flattened(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yields the tensors of nested mappings, such as `{"state_dict": {"pool.centroids": ...}}`, by dotted names."""
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        elif hasattr(value, "shape"):
            yield f"{prefix}{name}", partial(_array, value)


def _array(value: Any) -> Any:
    if hasattr(value, "detach"):  # PyTorch; NumPy has no bfloat16
        # A view of one stored number can have any shape.
        stored = value.untyped_storage().nbytes()
        if 8 * value.numel() > max(ALWAYS_ALLOWED_BYTES, MAX_EXPANSION * stored):
            raise ValueError(
                "The tensors must store their numbers; save `tensor.contiguous()`. "
                f"Received: shape {tuple(value.shape)} with {stored} stored bytes"
            )
        value = value.detach().cpu().double()
    return np.asarray(value)


def _check_torch_zip(path: Path) -> bool:
    """Returns whether a PyTorch file is a ZIP archive (PyTorch 1.6 and newer), and checks the sizes of its members."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("the file is a compressed ZIP archive, which torch.save() does not write")
        check_declared_bytes(path, sum(member.file_size for member in archive.infolist()), "tensors")
    return True


def _npz_array(path: Path, name: str) -> Any:
    try:
        return read_npz_arrays(path, [name])[name]
    except (OSError, ValueError) as error:
        raise unreadable(path, f"an archive whose `{name}` is a numeric array", error) from error


def _checkpoint_array(path: Path, reader: Any, name: str) -> Any:
    try:
        return reader.get_tensor(name)
    except Exception as error:  # TensorFlow raises OpError, IndexError or RuntimeError, depending on the damage.
        raise unreadable(path, f"a whole TensorFlow checkpoint with a tensor `{name}`", error) from error


def _h5_array(path: Path, name: str | bytes, text: str) -> Any:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            dataset = file[name]
            # A dataset without a single stored value reads as zeros of its declared shape.
            check_declared_bytes(path, dataset.size * max(dataset.dtype.itemsize, 1), f"`{text}`")
            return dataset[()]
    except Exception as error:
        raise unreadable(path, f"a whole HDF5 file whose `{text}` is a numeric array", error) from error
