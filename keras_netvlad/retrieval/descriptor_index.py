"""`DescriptorIndex`: stores descriptors and finds the nearest ones."""

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_netvlad.base.atomic_files import staged
from keras_netvlad.base.npz_files import check_npz, read_npz
from keras_netvlad.base.validation import check_integer, check_path

# Vectors shorter than 1e-12 are treated as zero, as in PyTorch's `normalize`.
SQUARED_EPSILON = 1e-24
# Number of queries and descriptors compared at once, which needs 16 MB for the similarities.
QUERIES, DESCRIPTORS = 64, 65536
# Number of descriptors normalized at once, which bounds the memory of the intermediate float64 values.
NORMALIZED_AT_ONCE = 1024


class DescriptorIndex:
    """Stores descriptors with ids, and searches them exactly by cosine similarity.

    Each query is compared with every descriptor, block by block, so that memory holds little more than the descriptors
    in float32. `add` normalizes the descriptors. A descriptor of zeros has the similarity 0 to all others.

    Args:
        source: Dict of strings that tell what made the descriptors, such as the digests of the model and of the encoder
            of the frames; or `None`. It is saved with the index.

    Attributes:
        source: The dict, empty if it was `None`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.retrieval import DescriptorIndex
    >>> index = DescriptorIndex()
    >>> index.add(["north", "east"], np.array([[0.0, 2.0], [1.0, 0.0]]))
    >>> ids, similarities = index.search(np.array([[0.6, 0.8]]), k=2)
    >>> ids.tolist(), np.round(similarities, 2).tolist()
    ([['north', 'east']], [[0.800000011920929, 0.6000000238418579]])
    """

    def __init__(self, source: Mapping[str, str] | None = None) -> None:
        self.source = dict(source or {})
        self._ids: list[str] = []
        self._numbers: dict[str, int] = {}
        self._parts: list[NDArray[np.float32]] = []

    def __len__(self) -> int:
        """Returns the number of descriptors."""
        return len(self._numbers)

    @property
    def ids(self) -> list[str]:
        """The ids in the order in which they were added."""
        return list(self._ids)

    def add(self, ids: Iterable[str], descriptors: ArrayLike) -> None:
        """Adds descriptors. If an error is raised, nothing is added.

        Args:
            ids: A string for each descriptor. It must not be in the index already.
            descriptors: Array `(S, F)` of finite numbers.

        Raises:
            TypeError: If an id is not a string.
            ValueError: If ids are repeated or too few or too many, or if descriptors are not finite or have another
                shape or size than earlier ones.
        """
        self._add(list(ids), self._normalized("descriptors", descriptors))

    def _add(self, ids: list[str], rows: NDArray[np.float32]) -> None:
        """Adds rows that are normalized already."""
        for name in ids:
            if not isinstance(name, str):
                raise TypeError(f"`ids` must be strings. Received: {name!r}")
        if len(ids) != len(rows):
            raise ValueError(f"There must be one id for each descriptor. Received: {len(ids)} ids, {len(rows)} rows")
        numbers = dict(zip(ids, range(len(self), len(self) + len(ids)), strict=True))
        twice = [name for name in ids if name in self._numbers]
        if twice or len(numbers) < len(ids):
            name = twice[0] if twice else next(name for number, name in enumerate(ids) if name in ids[:number])
            raise ValueError(f"`ids` must differ from each other and from those in the index. Received: {name!r}")
        self._numbers.update(numbers)
        self._ids.extend(ids)
        self._parts.append(rows)

    def search(self, queries: ArrayLike, k: int = 10) -> tuple[NDArray[np.str_], NDArray[np.float32]]:
        """Finds the nearest descriptors of each query.

        Args:
            queries: Array `(Q, F)` of finite numbers.
            k: Integer, the number of descriptors to find. Fewer are returned if the index has fewer.

        Returns:
            `(ids, similarities)`: an array of strings `(Q, k)`, and cosine similarities `(Q, k)` in float32, the
            largest first. Of equal similarities, the descriptor that was added first comes first.

        Raises:
            ValueError: If the index is empty, or if queries are not finite or have another shape or size than the
                descriptors.
        """
        k = check_integer("k", k, 1)
        if not len(self):
            raise ValueError("The index holds nothing to search; `add` descriptors to it first.")
        rows, database = self._normalized("queries", queries), self._joined()
        k = min(k, len(database))
        found, similarities = np.empty((len(rows), k), "int64"), np.empty((len(rows), k), "float32")
        for start in range(0, len(rows), QUERIES):
            part = slice(start, start + QUERIES)
            found[part], similarities[part] = _nearest(rows[part], database, k)
        ids = np.array([[self._ids[number] for number in row] for row in found], str)
        return ids.reshape(found.shape), similarities

    def descriptor(self, name: str) -> NDArray[np.float32]:
        """Returns the normalized descriptor `(F,)` of an id.

        Raises:
            ValueError: If the index does not have the id.
        """
        if name not in self._numbers:
            alike = difflib.get_close_matches(str(name), self._numbers, 3, 0.0)
            raise ValueError(f"The index has no descriptor of that id; ids like it are {alike}. Received: {name!r}")
        return self._joined()[self._numbers[name]]

    def check_source(self, source: Mapping[str, str]) -> None:
        """Checks that queries come from the model and the encoder that made the descriptors.

        Args:
            source: Dict with the values of the queries. Names that the index does not have are not compared.

        Raises:
            ValueError: If a value differs, because similarities to other descriptors are meaningless.
        """
        different = [name for name, value in source.items() if self.source.get(name, value) != value]
        if different:
            raise ValueError(
                "The clip must be encoded by the model and encoder of the index; use the same run, or make a new "
                f"index. Received: another {' and another '.join(different)}"
            )

    def to_faiss(self) -> Any:
        """Returns the descriptors as an exact index of faiss, to search on a GPU or to build approximate indexes.

        Needs faiss: `pip install 'keras_netvlad[faiss]'`. On a CPU, exact search in faiss is faster than `search` only
        for single queries of short descriptors.

        Returns:
            A `faiss.IndexFlatIP` with a copy of the descriptors; row `i` is `ids[i]`. Queries must have unit length.

        Raises:
            ValueError: If the index is empty.
            ImportError: If faiss is not installed.
        """
        if not len(self):
            raise ValueError("The index holds nothing to convert; `add` descriptors to it first.")
        try:
            import faiss
        except ImportError as error:
            raise ImportError(
                "The index needs faiss, which is not installed. Install it with `pip install 'keras_netvlad[faiss]'`."
            ) from error
        index = faiss.IndexFlatIP(self._joined().shape[1])
        index.add(self._joined())
        return index

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the index to an `.npz` file, which appears only when it is complete.

        Raises:
            FileExistsError: If `path` exists.
        """
        with staged(check_path("path", path)) as target, open(target, "wb") as file:
            source = np.array(json.dumps(self.source))
            np.savez(file, ids=np.array(self.ids, dtype=str), descriptors=self._joined(), source=source)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "DescriptorIndex":
        """Reads an index that `save` wrote.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the file is not an index or is damaged.
        """
        file, index = check_path("path", path), cls()
        try:
            names = check_npz(file)
            arrays = read_npz(file, {"ids", "descriptors", *({"source"} & set(names))})
            ids, descriptors = arrays["ids"], arrays["descriptors"]
            index.source = _source(arrays.get("source"))
            if ids.ndim != 1 or (ids.dtype.kind != "U" and len(ids)):
                raise ValueError(f"`ids` is an array of shape {ids.shape} of {ids.dtype}")
            if len(ids):
                index._add(ids.tolist(), index._normalized("descriptors", descriptors, copy=False))
        except ValueError as error:
            raise ValueError(
                f"The file must be an index that `DescriptorIndex.save` wrote completely. Received: {path} ({error})"
            ) from error
        return index

    def _joined(self) -> NDArray[np.float32]:
        if not self._parts:
            return np.empty((0, 0), "float32")
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0]

    def _normalized(self, name: str, descriptors: ArrayLike, copy: bool = True) -> NDArray[np.float32]:
        """Returns descriptors in float32 at unit length. Without `copy`, an array of float32 is changed in place."""
        values = np.asarray(descriptors)
        if values.dtype.kind not in "biuf":
            raise ValueError(f"`{name}` must be numbers. Received: dtype {values.dtype}")
        if values.ndim != 2 or not values.shape[1]:
            raise ValueError(f"`{name}` must be an array (number, values). Received: shape {values.shape}")
        if len(self) and values.shape[1] != self._parts[0].shape[1]:
            raise ValueError(
                f"`{name}` must have {self._parts[0].shape[1]} values, as those in the index. "
                f"Received: shape {values.shape}"
            )
        rows = values.astype("float32", copy=copy)
        for start in range(0, len(rows), NORMALIZED_AT_ONCE):
            part = rows[start : start + NORMALIZED_AT_ONCE]
            is_finite = np.isfinite(part).all(axis=1)
            if not is_finite.all():
                raise ValueError(
                    f"`{name}` must be finite. Received: NaN or infinity in row {start + is_finite.argmin()}"
                )
            squared = np.einsum("ij,ij->i", part, part, dtype="float64")[:, None]
            part[:] = part * (squared > SQUARED_EPSILON) / np.sqrt(np.maximum(squared, SQUARED_EPSILON))
        return rows


def _source(stored: NDArray[Any] | None) -> dict[str, str]:
    """Returns the source of a file; indexes of earlier releases have none."""
    if stored is None:
        return {}
    source = json.loads(str(stored)) if stored.ndim == 0 and stored.dtype.kind == "U" else None
    if not isinstance(source, dict) or not all(isinstance(value, str) for value in source.values()):
        raise ValueError("`source` is not a JSON object of strings")
    return source


def _nearest(
    queries: NDArray[np.float32], database: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Returns the row numbers and similarities `(Q, k)` of the nearest rows to a few queries, the nearest first."""
    numbers, best = np.empty((len(queries), 0), "int64"), np.empty((len(queries), 0), "float32")
    for start in range(0, len(database), DESCRIPTORS):
        part = database[start : start + DESCRIPTORS]
        best = np.concatenate([best, queries @ part.T], axis=1)
        added = np.broadcast_to(np.arange(start, start + len(part)), (len(queries), len(part)))
        numbers = np.concatenate([numbers, added], axis=1)
        order = np.stack([_largest(row, min(k, len(row))) for row in best])
        best, numbers = np.take_along_axis(best, order, axis=1), np.take_along_axis(numbers, order, axis=1)
    return numbers, best


def _largest(row: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Returns the positions of the `k` largest values, the largest first. Of equal values the first comes first."""
    candidates = np.flatnonzero(row >= np.partition(row, -k)[-k])
    return candidates[np.argsort(-row[candidates], kind="stable")[:k]]
