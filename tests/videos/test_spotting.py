"""Events in long videos: the windows, the suppression, the metric compared with its definition, and wrong inputs."""

import itertools

import numpy as np
import pytest

from keras_netvlad.videos import Spot, average_map, spot


def middles(inputs):
    """Scores a window by the frame in its middle."""
    return inputs["frames"][:, inputs["num_frames"][0] // 2]


def test_every_frame_is_the_middle_of_a_window():
    """Also the first and the last frame, where the window is filled with copies of them."""
    frames = np.random.default_rng(0).uniform(size=(23, 2))
    seen = []

    def score(inputs):
        assert inputs["num_frames"].tolist() == [6] * len(inputs["frames"])
        seen.append(inputs["frames"])
        return middles(inputs)

    spots = spot(score, {"frames": frames}, 4, window_seconds=1.5, threshold=0, distance_seconds=0, batch_size=5)
    assert spots == [Spot(row / 4, label, frames[row, label]) for row in range(23) for label in range(2)]
    windows = np.concatenate(seen)
    np.testing.assert_array_equal(windows[0], frames[[0, 0, 0, 0, 1, 2]])
    np.testing.assert_array_equal(windows[22], frames[[19, 20, 21, 22, 22, 22]])


def test_the_stride_skips_windows():
    frames = np.linspace(0, 1, 10)[:, None]
    options = {"window_seconds": 3, "threshold": 0, "distance_seconds": 0}
    assert [found.time for found in spot(middles, {"frames": frames}, 1, stride=4, **options)] == [0, 4, 8]


def test_the_best_spot_of_each_class_suppresses_what_is_near():
    frames = np.zeros((40, 2))
    frames[[10, 12, 15, 30], 0] = [0.7, 0.9, 0.8, 0.6]
    frames[13, 1] = 0.5
    options = {"fps": 2, "window_seconds": 1, "threshold": 0.5}
    # 15 is 1.5 s from 12: kept at a distance of 1.5, dropped beyond. The other class does not matter.
    assert spot(middles, {"frames": frames}, distance_seconds=1.5, **options) == [
        *(Spot(6.0, 0, 0.9), Spot(6.5, 1, 0.5), Spot(7.5, 0, 0.8), Spot(15.0, 0, 0.6))
    ]
    assert [found.time for found in spot(middles, {"frames": frames}, distance_seconds=1.6, **options)] == [
        *(6.0, 6.5, 15.0)
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"streams": np.ones((3, 2))}, "must be a dict"),
        ({"streams": {}}, "must be a dict"),
        ({"streams": {"a": np.ones((3, 2)), "b": np.ones((4, 2))}}, "of the same frames"),
        ({"streams": {"frames": np.ones((0, 2))}}, "at least one"),
        ({"streams": {"frames": np.ones(3)}}, r"at least one. Received: shapes {'frames': \(3,\)}"),
        ({"fps": 0}, "`fps` must be"),
        ({"window_seconds": -1}, "`window_seconds` must be"),
        ({"stride": 0}, "`stride` must be"),
        ({"distance_seconds": -1}, "`distance_seconds` must be"),
        ({"score": lambda inputs: np.ones(3)}, r"array \(windows, classes\) for 3 windows. Received: shape \(3,\)"),
        ({"score": lambda inputs: np.full((3, 1), np.nan)}, "NaN in 3 of 3 windows"),
    ],
)
def test_what_cannot_be_spotted_is_refused(changes, message):
    arguments = {"score": middles, "streams": {"frames": np.ones((3, 2))}, "fps": 2, "window_seconds": 1, **changes}
    with pytest.raises(ValueError, match=message):
        spot(**arguments)


def expected_map(spots, events, num_classes, tolerances):
    """The definition, event by event and threshold by threshold."""
    means = []
    for width in tolerances:
        by_class = []
        for label in range(num_classes):
            scored, total = [], 0
            for found, happened in zip(spots, events, strict=True):
                hits = set()
                mine = sorted(item for item in found if item.label == label)
                for time in sorted(time for time, other in happened if other == label):
                    total += 1
                    best = None
                    for item in mine:
                        if item not in hits and abs(item.time - time) <= width / 2:
                            best = item if best is None or item.score > best.score else best
                    hits |= {best} - {None}
                scored += [(item.score, item in hits) for item in mine]
            curve = []
            for threshold in np.linspace(0, 1, 200):
                kept = [hit for score, hit in scored if score >= threshold]
                curve.append((sum(kept) / total if total else 0, sum(kept) / len(kept) if kept else 0))
            best = [max([p for r, p in curve if r >= point / 10], default=0) for point in range(11)]
            by_class.append(sum(best) / 11)
        means.append(np.mean(by_class))
    return sum((a + b) / 2 for a, b in itertools.pairwise(means)) / (len(means) - 1)


def test_the_average_map_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    events = [[(time, int(rng.integers(3))) for time in rng.uniform(0, 600, 20)] for _ in range(3)]
    spots = [
        [
            Spot(time + rng.normal(0, 6), label, float(rng.uniform(0.2, 1)))
            for time, label in video
            if rng.uniform() < 0.8
        ]
        + [Spot(rng.uniform(0, 600), int(rng.integers(3)), float(rng.uniform(0, 0.6))) for _ in range(15)]
        for video in events
    ]
    for tolerances in (range(5, 61, 5), range(1, 6)):
        result = average_map(spots, events, 4, tolerances)  # nothing happens of the fourth class
        assert result.value == pytest.approx(expected_map(spots, events, 4, tolerances), abs=1e-12)
        assert result.by_class[3] == 0
        assert len(result.by_tolerance) == len(tolerances)
    assert 0.3 < average_map(spots, events, 4).value < 0.75  # or the test shows little


def test_a_spot_counts_within_half_the_tolerance_and_once():
    spots = [[Spot(12.5, 0, 0.9)]]
    assert average_map(spots, [[(10.0, 0)]], 1, [5]).value == 1
    assert average_map(spots, [[(9.9, 0)]], 1, [5]).value == 0
    # The first event takes the best spot. The recall is a half: 6 of 11 recalls are reached.
    assert average_map(spots, [[(12.0, 0), (13.0, 0)]], 1, [5]).value == pytest.approx(6 / 11)
    # The second event takes the second spot, though the first one is as near and better.
    both = [[Spot(12.5, 0, 0.9), Spot(12.4, 0, 0.5)]]
    assert average_map(both, [[(12.0, 0), (13.0, 0)]], 1, [5]).value == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[]], [], 1), "Received: 1 lists of spots, 0 of events"),
        (([[]], [[(1.0, 1)]], 1), "Classes of `events` must be from 0 to 0. Received: 1"),
        (([[Spot(1.0, -1, 0.5)]], [[]], 1), "Classes of `spots` must be from 0 to 0. Received: -1"),
        (([[Spot(1.0, 0, 1.5)]], [[]], 1), "apply a sigmoid to logits. Received: 1.5"),
        (([[]], [[]], 1, [5, 1]), "must be ascending numbers"),
        (([[]], [[]], 1, []), "must be ascending numbers"),
        (([[]], [[]], 0), "`num_classes` must be"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        average_map(*arguments)
