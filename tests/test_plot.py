import sys

import numpy as np
import pytest

from keras_netvlad.plot import plot_assignments


def test_assignments_are_drawn_cluster_by_frame(tmp_path):
    assignments = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.0, 0.1, 0.9], [0.3, 0.4, 0.3]])
    figure = plot_assignments(assignments[:, ::-1])
    below = figure.axes[1]
    # Ordered by the frame in which each cluster peaks: the columns reversed come back in order.
    np.testing.assert_array_equal(below.images[0].get_array(), assignments.T)
    assert [label.get_text() for label in below.get_yticklabels()] == ["2", "1", "0"]
    figure.savefig(tmp_path / "assignments.png")
    assert (tmp_path / "assignments.png").stat().st_size > 5000


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0, 3)])
def test_anything_but_one_video_is_refused(shape):
    with pytest.raises(ValueError, match=r"those of one video.*Received: shape"):
        plot_assignments(np.zeros(shape))


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_netvlad\[plot\]'"):
        plot_assignments(np.ones((2, 2)) / 2)
