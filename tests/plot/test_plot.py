import sys

import keras
import numpy as np
import pytest

from keras_netvlad.layers import NetVLAD
from keras_netvlad.plot import plot_assignment_maps, plot_assignments, plot_cluster_usage, plot_similarity

PICTURES = {
    plot_assignments: np.ones((2, 2)) / 2,
    plot_assignment_maps: np.ones((4, 2)) / 2,
    plot_cluster_usage: np.ones((2, 2)) / 2,
    plot_similarity: np.ones((2, 2)),
}


def soft(num_frames, num_clusters, seed=0):
    rows = np.exp(2 * np.random.default_rng(seed).normal(size=(num_frames, num_clusters)))
    return rows / rows.sum(axis=1, keepdims=True)


def drawn_texts(figure):
    """Every text that a reader sees, for which the figure has to be laid out."""
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text"))]


def test_assignments_are_drawn_cluster_by_frame(tmp_path):
    assignments = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.0, 0.1, 0.9], [0.3, 0.4, 0.3]])
    figure = plot_assignments(assignments[:, ::-1])
    above, below = figure.axes[:2]
    # Ordered by the frame in which each cluster peaks: the columns reversed come back in order.
    np.testing.assert_array_equal(below.images[0].get_array(), assignments.T)
    assert [label.get_text() for label in below.get_yticklabels()] == ["2", "1", "0"]
    shared = [np.exp(-sum(p * np.log(p) for p in row if p)) for row in assignments]
    np.testing.assert_allclose(above.patches[0].get_data().values, shared)
    figure.savefig(tmp_path / "assignments.png")
    assert (tmp_path / "assignments.png").stat().st_size > 5000


def test_masked_frames_are_gray_and_ghosts_have_a_row():
    layer = NetVLAD(3, num_ghost_clusters=2)
    frames = np.random.default_rng(0).normal(size=(1, 6, 4)).astype("float32")
    assignments = np.array(layer.assign(frames, mask=np.arange(6)[None] < 4))[0]
    assignments[1] = np.nan
    figure = plot_assignments(assignments)
    rows = np.ma.filled(figure.axes[1].images[0].get_array().astype("float64"), np.nan)
    assert rows.shape == (4, 6)
    assert np.isnan(rows).all(axis=0).tolist() == [False, True, False, False, True, True]
    np.testing.assert_allclose(np.nansum(rows, axis=0)[[0, 2, 3]], 1, atol=1e-6)
    assert figure.axes[1].get_yticklabels()[-1].get_text() == "rest"
    assert "3 of 6 without assignment" in figure.axes[1].get_xlabel()


def test_frames_beyond_the_length_are_not_drawn_and_time_is_in_seconds():
    figure = plot_assignments(soft(50, 4), num_frames=20, seconds_per_frame=0.5)
    assert figure.axes[1].images[0].get_array().shape == (4, 20)
    assert figure.axes[1].get_xlim() == (-0.25, 9.75)
    assert figure.axes[1].get_xlabel() == "time (s)"


def test_of_many_clusters_the_largest_are_drawn():
    assignments = soft(30, 256)
    figure = plot_assignments(assignments, max_clusters=10)
    largest = np.sort(np.argsort(assignments.sum(axis=0))[-10:])
    assert sorted(int(label.get_text()) for label in figure.axes[1].get_yticklabels()[:10]) == largest.tolist()
    assert "10 of 256" in figure.axes[1].get_ylabel()


@pytest.mark.parametrize("num_frames", [1, 3, 300])
def test_thumbnails_are_the_frames_above_their_moment(num_frames):
    frames = np.broadcast_to(np.arange(num_frames)[:, None, None, None] / 300, (num_frames, 4, 6, 3))
    figure = plot_assignments(soft(num_frames, 5), frames=frames)
    thumbnails = [inset.images[0].get_array()[0, 0, 0] * 300 for inset in figure.axes[0].child_axes]
    expected = [0, 1, 2][:num_frames] if num_frames < 8 else [18, 56, 93, 131, 168, 206, 243, 281]
    np.testing.assert_allclose(thumbnails, expected, atol=1e-9)
    lines = [artist for artist in figure.artists if hasattr(artist, "xy2")]
    assert [line.xy2[0] for line in lines] == expected
    figure.canvas.draw()


def test_maps_lie_where_their_descriptors_do():
    layer = NetVLAD(4)
    maps = np.random.default_rng(0).normal(size=(1, 3, 5, 8)).astype("float32")
    assignments = np.array(layer.assign(maps))[0]  # (15, 4)
    figure = plot_assignment_maps(assignments, np.zeros((30, 50, 3), "uint8"), map_shape=(3, 5))
    order = np.argsort(-assignments.sum(axis=0))
    for panel, cluster in zip(figure.axes[1:5], order, strict=False):
        heat = panel.images[1]
        for row in range(3):
            for column in range(5):
                assert heat.get_array()[row, column] == assignments[5 * row + column, cluster]
        assert heat.get_extent() == [-0.5, 49.5, 29.5, -0.5]  # over the whole image, whatever its size
        assert panel.get_title().startswith(f"cluster {cluster}: {100 * assignments[:, cluster].mean():.1f} %")
    as_map = plot_assignment_maps(assignments.reshape(3, 5, 4))
    np.testing.assert_array_equal(as_map.axes[0].images[0].get_array(), assignments[:, order[0]].reshape(3, 5))


def test_usage_counts_frames_that_the_mask_keeps():
    layer = NetVLAD(3)
    frames = np.random.default_rng(0).normal(size=(2, 10, 4)).astype("float32")
    assignments = np.array(layer.assign(frames, mask=np.arange(10) < [[10], [4]]))
    frames_kept = np.concatenate([assignments[0], assignments[1, :4]])
    assignments[1, 7] = np.nan
    figure = plot_cluster_usage(assignments)
    bars = [bar.get_height() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(bars, np.sort(100 * frames_kept.mean(axis=0))[::-1], rtol=1e-6)  # measured 4e-8
    assert figure.axes[0].get_title().startswith("14 frames")


def test_usage_marks_dead_and_dominant_clusters():
    shares = np.array([0.9, 0.0, 0.05, 0.0499, 0.0001, 0, 0, 0])
    figure = plot_cluster_usage(np.tile(shares, (5, 1)))
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["1 dominant", "2 neither dominant nor dead", "5 dead", "even share, 12.5 %"]
    in_use = np.exp(-sum(p * np.log(p) for p in shares if p))
    assert f"{in_use:.1f} of 8 clusters in use" in figure.axes[0].get_title()


def test_similarities_are_cosines_grouped_by_label():
    descriptors = np.random.default_rng(0).normal(size=(5, 3)) * [[1], [10], [0.1], [2], [0]]
    figure = plot_similarity(descriptors, ["b", "a", "b", "a", "b"])
    picture = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)
    order = [0, 2, 4, 1, 3]
    for row, i in enumerate(order):
        for column, j in enumerate(order):
            u, v = descriptors[i], descriptors[j]
            cosine = np.nan if 4 in (i, j) else sum(u * v) / np.sqrt(sum(u * u) * sum(v * v))
            np.testing.assert_allclose(picture[row, column], cosine, atol=1e-12)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["b", "a"]
    np.testing.assert_allclose(figure.axes[0].get_yticks(), [1, 3.5])
    assert figure.axes[0].get_xlabel() == "gray: 1 of 5 without frames or with NaN"


@pytest.mark.parametrize("count", [1, 2, 60, 300])
def test_long_labels_are_shortened_and_thinned(count):
    labels = [f"/videos/of_a_long_name/{i:04d}.mp4" for i in range(count)]
    figure = plot_similarity(np.random.default_rng(0).normal(size=(count, 8)), labels)
    texts = drawn_texts(figure)
    assert any("…" in text and "0000.mp4" in text for text in texts)
    assert max(map(len, texts)) <= 45
    assert len(figure.axes[0].get_yticks()) <= 40


@pytest.mark.parametrize("shape", [(1, 1), (1, 256), (300, 2), (300, 256)])
@pytest.mark.filterwarnings("error")
def test_any_size_is_laid_out_without_a_warning(shape):
    assignments = soft(*shape)
    for figure in (
        plot_assignments(assignments, "a long title " * 30),
        plot_cluster_usage(assignments, "a long title " * 30),
        plot_assignment_maps(assignments, map_shape=(1, shape[0]), title="a long title " * 30),
        plot_similarity(assignments, title="a long title " * 30),
    ):
        figure.canvas.draw()


@pytest.mark.filterwarnings("error")
def test_a_video_without_assignments_is_all_gray():
    for values in (np.zeros((4, 3)), np.full((4, 3), np.nan)):
        for figure in (plot_assignments(values), plot_assignment_maps(values), plot_similarity(values)):
            figure.canvas.draw()
            assert (
                np.ma.getmaskarray(np.ma.masked_invalid(figure.axes[0].images[0].get_array())).all()
                if (figure.axes[0].images)
                else np.isnan(figure.axes[1].images[0].get_array().astype("float64").filled(np.nan)).all()
            )


def test_pyplot_knows_nothing_of_the_figures():
    import matplotlib.pyplot as plt

    for picture, values in PICTURES.items():
        picture(values)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0, 3)])
def test_anything_but_one_video_is_refused(shape):
    with pytest.raises(ValueError, match=r"those of one video.*Received: shape"):
        plot_assignments(np.zeros(shape))


@pytest.mark.parametrize(
    ("picture", "arguments", "message"),
    [
        (plot_assignments, {"assignments": -np.ones((2, 2))}, r"finite and 0 or more.*values from -1 to -1"),
        (plot_assignments, {"assignments": soft(4, 2), "num_frames": 0}, r"`num_frames`.*positive.*num_frames=0"),
        (plot_assignments, {"assignments": soft(4, 2), "max_clusters": 2.5}, r"`max_clusters`.*max_clusters=2.5"),
        (plot_assignments, {"assignments": soft(4, 2), "seconds_per_frame": -1}, r"number above 0.*_frame=-1"),
        (plot_assignments, {"assignments": soft(4, 2), "frames": np.zeros((3, 2, 2, 3))}, r"each of the 4.*3 images"),
        (plot_assignments, {"assignments": soft(4, 2), "frames": np.zeros(4)}, r"`frames` must be images.*\(4,\)"),
        (plot_assignments, {"assignments": soft(4, 2), "frames": np.zeros((4, 2, 2, 4))}, r"\(height, width, 3\)"),
        (plot_assignments, {"assignments": soft(4, 2), "frames": np.full((4, 2, 2), 9.0)}, r"from 0 to 1.*from 9 to 9"),
        (plot_assignment_maps, {"assignments": soft(6, 2)}, r"`map_shape` must be given.*6 rows"),
        (plot_assignment_maps, {"assignments": soft(6, 2), "map_shape": (2, 2)}, r"has rows, 6.*map_shape=\(2, 2\)"),
        (plot_assignment_maps, {"assignments": soft(6, 2), "map_shape": 6}, r"\(height, width\).*map_shape=6"),
        (plot_assignment_maps, {"assignments": np.ones((2, 2, 2)), "map_shape": (1, 4)}, r"that of `assignments`"),
        (plot_assignment_maps, {"assignments": np.ones(4)}, r"those of one image.*\(4,\)"),
        (plot_cluster_usage, {"assignments": np.ones(4)}, r"\(\.\.\., frames, clusters\).*\(4,\)"),
        (plot_cluster_usage, {"assignments": np.zeros((4, 2))}, r"neither masked nor NaN"),
        (plot_cluster_usage, {"assignments": np.full((4, 2), np.inf)}, r"finite and 0 or more"),
        (plot_similarity, {"descriptors": np.ones(4)}, r"\(videos, features\).*\(4,\)"),
        (plot_similarity, {"descriptors": np.ones((4, 2)), "labels": [1, 2]}, r"each of the 4 videos.*2 labels"),
        (plot_similarity, {"descriptors": np.ones((4, 2)), "labels": "abcd"}, r"sequence.*'abcd'"),
    ],
)
def test_what_does_not_suit_is_refused(picture, arguments, message):
    with pytest.raises(ValueError, match=message):
        picture(**arguments)


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("values", ["frames.npy", {"a": 1}, [[1, 2], [3]]])
def test_what_is_no_array_is_refused(picture, values):
    with pytest.raises(TypeError, match=r"must be an array of numbers.*Received: a (str|dict|list)"):
        picture(values)


@pytest.mark.parametrize("picture", PICTURES)
def test_tensors_are_drawn(picture):
    picture(keras.Variable(PICTURES[picture]) * 1.0)


@pytest.mark.parametrize("picture", PICTURES)
def test_a_missing_extra_is_named(monkeypatch, picture):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_netvlad\[plot\]'"):
        picture(PICTURES[picture])
