"""`DescriptorIndex`: the descriptors of a database, and the nearest of them."""

import difflib
import zipfile
from pathlib import Path

import numpy as np

from keras_netvlad.base.atomic_files import staged
from keras_netvlad.base.validation import check_integer

# Vectors shorter than 1e-12 count as zero, as in PyTorch's `normalize`.
SQUARED_EPSILON = 1e-24
# Queries and descriptors compared at a time: 16 MB of similarities.
QUERIES, DESCRIPTORS = 64, 65536


class DescriptorIndex:
    """Descriptors with ids, searched exactly by cosine similarity.

    Every query is compared with every descriptor, in parts, so that memory holds the descriptors, in float32, and
    little else. Descriptors are normalized when they come in; one of zeros is similar to nothing.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.retrieval import DescriptorIndex
    >>> index = DescriptorIndex()
    >>> index.add(["north", "east"], np.array([[0.0, 2.0], [1.0, 0.0]]))
    >>> ids, similarities = index.search(np.array([[0.6, 0.8]]), k=2)
    >>> ids.tolist(), np.round(similarities, 2).tolist()
    ([['north', 'east']], [[0.800000011920929, 0.6000000238418579]])
    """

    def __init__(self):
        self._ids, self._numbers, self._parts = [], {}, []

    def __len__(self):
        """Returns the number of descriptors."""
        return len(self._numbers)

    @property
    def ids(self):
        """Ids in the order in which they were added, a list."""
        return list(self._ids)

    def add(self, ids, descriptors):
        """Adds descriptors. On an error nothing is added.

        Args:
            ids: A string for each descriptor, none of which is in the index already.
            descriptors: Array `(S, F)`, finite.

        Raises:
            TypeError: If an id is no string.
            ValueError: On ids that are there already or of another number, on descriptors of another shape or size than
                those before, or of NaN or infinity.
        """
        ids = list(ids)
        for name in ids:
            if not isinstance(name, str):
                raise TypeError(f"`ids` must be strings. Received: {name!r}")
        rows = self._normalized("descriptors", descriptors)
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

    def search(self, queries, k=10):
        """Finds the nearest descriptors of each query.

        Args:
            queries: Array `(Q, F)`, finite.
            k: Integer, how many to find, or all if there are fewer.

        Returns:
            Ids `(Q, k)`, an array of strings, and cosine similarities `(Q, k)`, float32, the largest first. Where they
            are equal, what was added first comes first.

        Raises:
            ValueError: On queries of another shape or size than the descriptors, or of NaN or infinity; or if the index
                is empty.
        """
        k = check_integer("k", k, 1)
        if not len(self):
            raise ValueError("The index holds nothing to search; `add` descriptors to it first.")
        queries, database = self._normalized("queries", queries), self._joined()
        k = min(k, len(database))
        found, similarities = np.empty((len(queries), k), "int64"), np.empty((len(queries), k), "float32")
        for start in range(0, len(queries), QUERIES):
            part = slice(start, start + QUERIES)
            found[part], similarities[part] = _nearest(queries[part], database, k)
        return np.array([[self._ids[number] for number in row] for row in found], str).reshape(
            found.shape
        ), similarities

    def descriptor(self, name):
        """Returns the descriptor `(F,)` of an id, normalized.

        Raises:
            ValueError: If there is none.
        """
        if name not in self._numbers:
            alike = difflib.get_close_matches(str(name), self._numbers, 3, 0.0)
            raise ValueError(f"The index has no descriptor of that id; ids like it are {alike}. Received: {name!r}")
        return self._joined()[self._numbers[name]]

    def to_faiss(self):
        """Returns the descriptors as faiss's exact index, for what faiss adds: a GPU, or indexes that approximate.

        Needs faiss: `pip install 'keras_netvlad[faiss]'`. On a processor its exact search is no faster than `search`,
        other than for single queries of few values.

        Returns:
            A `faiss.IndexFlatIP` of a copy of the descriptors; row `i` is `ids[i]`. Queries have to be of unit length.

        Raises:
            ValueError: If the index is empty.
            ImportError: If faiss is not installed.
        """
        if not len(self):
            raise ValueError("The index holds nothing to hand over; `add` descriptors to it first.")
        try:
            import faiss
        except ImportError as error:
            raise ImportError(
                "The index needs faiss, which is not installed. Install it with `pip install 'keras_netvlad[faiss]'`."
            ) from error
        index = faiss.IndexFlatIP(self._joined().shape[1])
        index.add(self._joined())
        return index

    def save(self, path):
        """Writes the index to an `.npz` file, which appears whole or not at all.

        Raises:
            FileExistsError: If `path` exists.
        """
        with staged(path) as target, open(target, "wb") as file:
            np.savez(file, ids=np.array(self.ids, dtype=str), descriptors=self._joined())

    @classmethod
    def load(cls, path):
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no index, or damaged.
        """
        index = cls()
        try:
            with np.load(Path(path), allow_pickle=False) as arrays:
                ids, descriptors = arrays["ids"].tolist(), arrays["descriptors"]
            if ids:
                index.add(ids, descriptors)
        except (ValueError, TypeError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"The file must be an index that `DescriptorIndex.save` wrote, whole. Received: {path} ({error})"
            ) from error
        return index

    def _joined(self):
        if len(self._parts) != 1:
            self._parts = [np.concatenate(self._parts) if self._parts else np.empty((0, 0), "float32")]
        return self._parts[0]

    def _normalized(self, name, values):
        values = np.asarray(values)
        if values.ndim != 2 or not values.shape[1]:
            raise ValueError(f"`{name}` must be an array (number, values). Received: shape {values.shape}")
        if len(self) and values.shape[1] != self._parts[0].shape[1]:
            raise ValueError(
                f"`{name}` must have {self._parts[0].shape[1]} values, as those in the index. "
                f"Received: shape {values.shape}"
            )
        values = values.astype("float32")
        if not np.isfinite(values).all():
            raise ValueError(
                f"`{name}` must be finite. Received: NaN or infinity in row {np.isfinite(values).all(axis=1).argmin()}"
            )
        squared = np.einsum("ij,ij->i", values, values, dtype="float64")[:, None]
        return (values * (squared > SQUARED_EPSILON) / np.sqrt(np.maximum(squared, SQUARED_EPSILON))).astype("float32")


def _nearest(queries, database, k):
    """Numbers and similarities `(Q, k)` of the nearest rows of a database to a few queries, nearest first."""
    numbers, best = np.empty((len(queries), 0), "int64"), np.empty((len(queries), 0), "float32")
    for start in range(0, len(database), DESCRIPTORS):
        part = database[start : start + DESCRIPTORS]
        best = np.concatenate([best, queries @ part.T], axis=1)
        added = np.broadcast_to(np.arange(start, start + len(part)), (len(queries), len(part)))
        numbers = np.concatenate([numbers, added], axis=1)
        order = np.stack([_largest(row, min(k, len(row))) for row in best])
        best, numbers = np.take_along_axis(best, order, axis=1), np.take_along_axis(numbers, order, axis=1)
    return numbers, best


def _largest(row, k):
    """Positions of the `k` largest values, the largest first, and of equal ones the first."""
    candidates = np.flatnonzero(row >= np.partition(row, -k)[-k])
    return candidates[np.argsort(-row[candidates], kind="stable")[:k]]
