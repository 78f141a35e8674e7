"""The index of descriptors: exact answers, files, wrong input."""

import sys
import tracemalloc

import numpy as np
import pytest

from keras_netvlad.retrieval import DescriptorIndex, descriptor_index


def filled(num_descriptors=200, size=6, seed=0):
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(num_descriptors, size)).astype("float32")
    index = DescriptorIndex()
    half = num_descriptors // 3
    index.add([f"clip {n}" for n in range(half)], descriptors[:half])
    index.add([f"clip {n}" for n in range(half, num_descriptors)], descriptors[half:])
    return index, descriptors


def expected_search(queries, descriptors, k):
    """Cosine by cosine, in float64."""
    found, similarities = [], []
    for query in queries.astype("float64"):
        cosines = [query @ row / np.sqrt((query @ query) * (row @ row)) for row in descriptors.astype("float64")]
        order = sorted(range(len(cosines)), key=lambda n: -cosines[n])[:k]
        found.append([f"clip {n}" for n in order])
        similarities.append([cosines[n] for n in order])
    return found, similarities


@pytest.mark.parametrize("k", [1, 7, 200, 1000])
@pytest.mark.parametrize("parts", [(64, 65536), (3, 11)])
def test_answers_are_exact_in_any_parts(k, parts, monkeypatch):
    monkeypatch.setattr(descriptor_index, "QUERIES", parts[0])
    monkeypatch.setattr(descriptor_index, "DESCRIPTORS", parts[1])
    index, descriptors = filled()
    queries = 7 * np.random.default_rng(1).normal(size=(10, 6)).astype("float32")
    found, similarities = index.search(queries, k)
    expected_ids, expected = expected_search(queries, descriptors, k)
    assert found.tolist() == expected_ids
    # Measured 1.2e-7.
    np.testing.assert_allclose(similarities, expected, atol=1e-6)


@pytest.mark.parametrize("parts", [65536, 4])
def test_of_equal_ones_the_first_comes_first(parts, monkeypatch):
    monkeypatch.setattr(descriptor_index, "DESCRIPTORS", parts)
    index = DescriptorIndex()
    index.add([str(n) for n in range(10)], np.tile([[1.0, 0.0], [0.0, 1.0]], (5, 1)))
    found, similarities = index.search([[1.0, 0.0]], k=7)
    assert found.tolist() == [["0", "2", "4", "6", "8", "1", "3"]]
    assert similarities.tolist() == [[1, 1, 1, 1, 1, 0, 0]]


def test_zeros_are_similar_to_nothing_and_large_values_do_not_overflow():
    index = DescriptorIndex()
    index.add(["zeros", "huge"], np.array([[0.0, 0.0], [3e38, 3e38]], "float32"))
    found, similarities = index.search(np.array([[1.0, 1.0], [0.0, 0.0]]), k=2)
    assert found[0].tolist() == ["huge", "zeros"]
    np.testing.assert_allclose(similarities, [[1.0, 0.0], [0.0, 0.0]], atol=1e-6)


def test_ids_lead_to_their_descriptors():
    index, descriptors = filled()
    for n, row in enumerate(descriptors):
        # Measured 6e-8.
        np.testing.assert_allclose(index.descriptor(f"clip {n}"), row / np.linalg.norm(row), atol=1e-6)


def test_a_file_holds_the_index(tmp_path):
    index, descriptors = filled()
    index.save(tmp_path / "clips.index")
    assert [path.name for path in tmp_path.iterdir()] == ["clips.index"]
    loaded = DescriptorIndex.load(tmp_path / "clips.index")
    assert loaded.ids == index.ids
    assert len(loaded) == 200
    for a, b in zip(index.search(descriptors[:5]), loaded.search(descriptors[:5]), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(loaded.descriptor("clip 7"), index.descriptor("clip 7"))
    with pytest.raises(FileExistsError, match="must not exist yet"):
        index.save(tmp_path / "clips.index")


def test_an_index_that_was_saved_while_empty_can_be_filled(tmp_path):
    index = DescriptorIndex()
    index.save(tmp_path / "empty.index")
    for empty in (index, DescriptorIndex.load(tmp_path / "empty.index")):
        assert len(empty) == 0
        empty.add(["a", "b"], np.eye(2, 4))
        assert empty.search(np.eye(1, 4), 1)[0].tolist() == [["a"]]


def test_loading_takes_little_more_memory_than_the_descriptors(tmp_path):
    descriptors = np.random.default_rng(0).normal(size=(20_000, 64)).astype("float32")
    index = DescriptorIndex()
    index.add([f"{number}" for number in range(20_000)], descriptors)
    index.save(tmp_path / "large.index")
    del index
    tracemalloc.start()
    loaded = DescriptorIndex.load(tmp_path / "large.index")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(loaded) == 20_000
    # Measured 1.95: the ids are a third of such short descriptors. It was 5.3.
    assert peak < 2.2 * descriptors.nbytes


@pytest.mark.slow
def test_what_is_no_index_is_refused(tmp_path):
    index, _ = filled()
    index.save(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(content[:-300])
    (tmp_path / "text").write_text("no index")
    (tmp_path / "nothing").write_bytes(b"")
    np.savez(tmp_path / "other.npz", frames=np.zeros(3))
    np.savez(tmp_path / "numbers.npz", ids=np.arange(3), descriptors=np.eye(3))
    np.savez(tmp_path / "names.npz", ids=np.array(["a"]), descriptors=np.array([["b"]]))
    np.savez(tmp_path / "rows.npz", ids=np.array(["a"]), descriptors=np.eye(3))
    np.savez_compressed(tmp_path / "bomb.npz", ids=np.array(["a"]), descriptors=np.zeros((1, 70 << 20), "float32"))
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in (
        "cut",
        "text",
        "nothing",
        "other.npz",
        "array.npy",
        "numbers.npz",
        "names.npz",
        "rows.npz",
        "bomb.npz",
    ):
        with pytest.raises(ValueError, match=f"`DescriptorIndex.save` wrote completely. Received: .*{name}"):
            DescriptorIndex.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        DescriptorIndex.load(tmp_path / "none")


@pytest.mark.parametrize(
    ("ids", "descriptors", "message"),
    [
        (["a"], np.ones((2, 6)), "one id for each descriptor. Received: 1 ids, 2 rows"),
        (["a", "a"], np.ones((2, 6)), "must differ .* Received: 'a'"),
        (["clip 3"], np.ones((1, 6)), "must differ .* Received: 'clip 3'"),
        (["a"], np.ones((1, 5)), r"must have 6 values, as those in the index. Received: shape \(1, 5\)"),
        (["a"], np.ones(6), r"must be an array \(number, values\). Received: shape \(6,\)"),
        (["a", "b"], [[1.0] * 6, [np.nan] * 6], "must be finite. Received: NaN or infinity in row 1"),
        (["a", "b"], [[np.inf] + [1.0] * 5, [1.0] * 6], "must be finite. Received: NaN or infinity in row 0"),
        (["a", "b"], [[1.0] * 6, [1.0] * 5 + [-np.inf]], "must be finite. Received: NaN or infinity in row 1"),
    ],
)
def test_what_can_not_be_added_is_refused_and_nothing_is_added(ids, descriptors, message):
    index, _ = filled()
    with pytest.raises(ValueError, match=message):
        index.add(ids, descriptors)
    assert len(index) == 200
    assert len(index.search(np.ones((1, 6)), 999)[0][0]) == 200


def test_wrong_searches_are_refused():
    index, _ = filled()
    with pytest.raises(TypeError, match=r"`ids` must be strings. Received: 7"):
        index.add([7], np.ones((1, 6)))
    with pytest.raises(ValueError, match="`k` must be a positive integer"):
        index.search(np.ones((1, 6)), 0)
    with pytest.raises(ValueError, match="`queries` must have 6 values"):
        index.search(np.ones((1, 7)))
    with pytest.raises(ValueError, match="The index holds nothing"):
        DescriptorIndex().search(np.ones((1, 7)))
    with pytest.raises(ValueError, match=r"ids like it are .*'clip 199'.* Received: 'clip 1999'"):
        index.descriptor("clip 1999")


def test_faiss_gives_the_same_answers(monkeypatch):
    rng = np.random.default_rng(0)
    index = DescriptorIndex()
    with pytest.raises(ValueError, match="The index holds nothing to convert"):
        index.to_faiss()
    for part in range(3):
        index.add([f"{part} {n}" for n in range(50)], rng.normal(size=(50, 24)))
    queries = rng.normal(size=(8, 24)).astype("float32")
    ids, similarities = index.search(queries, 5)
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    found, rows = index.to_faiss().search(unit, 5)
    assert np.array(index.ids)[rows].tolist() == ids.tolist()
    # Measured 1.2e-7.
    np.testing.assert_allclose(found, similarities, atol=2e-6)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_netvlad\[faiss\]'"):
        index.to_faiss()
