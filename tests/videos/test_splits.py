"""Splits divide each class alike, keep groups together, and stay when videos are added."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_netvlad.videos.labels import SPLITS, LabeledVideo
from keras_netvlad.videos.splits import assign_splits, check_fractions


def videos_of(counts, group_size=1):
    return [
        LabeledVideo(f"{label}/{n}", (label,), f"{label} {n // group_size}" if group_size > 1 else f"{label}/{n}")
        for label, count in counts.items()
        for n in range(count)
    ]


def counts_of(videos, label):
    found = Counter(video.split for video in videos if label in video.labels)
    return [found[split] for split in SPLITS]


@pytest.mark.parametrize(
    ("count", "fractions", "expected"),
    [
        (12, (0.7, 0.15, 0.15), [8, 2, 2]),
        (100, (0.7, 0.15, 0.15), [70, 15, 15]),
        (3, (0.7, 0.15, 0.15), [1, 1, 1]),
        (4, (0.7, 0.15, 0.15), [2, 1, 1]),
        (10, (0.8, 0.1, 0.1), [8, 1, 1]),
        (10, (0.8, 0.2, 0.0), [8, 2, 0]),
        (10, (0.5, 0.0, 0.5), [5, 0, 5]),
        (10, (1, 0, 0), [10, 0, 0]),
    ],
)
def test_each_class_is_divided_by_the_shares(count, fractions, expected):
    videos = assign_splits(videos_of({"a": count, "b": 40}), fractions)
    assert counts_of(videos, "a") == expected
    assert [round(40 * share) for share in fractions] == counts_of(videos, "b")


def test_the_split_depends_on_the_seed_alone():
    videos = videos_of({"a": 20, "b": 30})
    first = {video.name: video.split for video in assign_splits(videos, seed=3)}
    assert first == {video.name: video.split for video in assign_splits(videos[::-1], seed=3)}
    assert first != {video.name: video.split for video in assign_splits(videos, seed=4)}


def test_groups_stay_together_also_if_they_are_as_few_as_the_splits():
    videos = assign_splits(videos_of({"a": 12, "b": 12}, group_size=4))
    assert counts_of(videos, "a") == [4, 4, 4]
    for group in {video.group for video in videos}:
        assert len({video.split for video in videos if video.group == group}) == 1


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.lists(st.tuples(st.sets(st.sampled_from("abcd"), min_size=1), st.integers(0, 30)), min_size=30, max_size=80),
    st.integers(0, 99),
)
def test_any_videos_are_divided_near_the_shares(rows, seed):
    videos = [LabeledVideo(f"{n}", tuple(sorted(labels)), f"{group}") for n, (labels, group) in enumerate(rows)]
    few = [c for c in "abcd" if 0 < len({v.group for v in videos if c in v.labels}) < 3]
    if few:
        with pytest.raises(ValueError, match="Each class needs at least 3 groups"):
            assign_splits(videos, seed=seed)
        return
    assigned = assign_splits(videos, seed=seed)
    by_group = {}
    for video in assigned:
        assert by_group.setdefault(video.group, video.split) == video.split
    assert {video.split for video in assigned} == set(SPLITS)
    assert [video.name for video in assigned] == [video.name for video in videos]


def test_videos_that_are_added_leave_the_others_where_they_are():
    first = assign_splits(videos_of({"a": 10, "b": 10}))
    earlier = {video.name: video.split for video in first}
    second = assign_splits(videos_of({"a": 20, "b": 10, "c": 9}), earlier=earlier)
    assert {video.name: video.split for video in second if video.name in earlier} == earlier
    assert counts_of(second, "a") == [14, 3, 3]
    assert counts_of(second, "c") == [6, 2, 1] or counts_of(second, "c") == [6, 1, 2]


def test_a_new_clip_of_a_known_group_goes_to_its_split():
    videos = videos_of({"a": 12, "b": 12}, group_size=2)
    earlier = {video.name: video.split for video in assign_splits(videos) if video.name.endswith(("0", "2", "4"))}
    for video in assign_splits(videos, seed=9, earlier=earlier):
        first = f"{video.labels[0]}/{int(video.name[2:]) // 2 * 2}"
        assert earlier.get(first, video.split) == video.split


def test_what_can_not_be_divided_is_one_sentence():
    with pytest.raises(ValueError, match=r"Each class needs at least 3 videos, one for each split; .* b with 2$"):
        assign_splits(videos_of({"a": 9, "b": 2}))
    with pytest.raises(ValueError, match=r"Each class needs at least 3 groups, .* a with 2, b with 2$"):
        assign_splits(videos_of({"a": 8, "b": 8}, group_size=4))
    given_splits = [LabeledVideo("1", ("a",), "1", "train"), LabeledVideo("2", ("b",), "2", "test")]
    with pytest.raises(ValueError, match=r"must have videos to train on; correct the column split\. .* none of 'b'"):
        assign_splits(given_splits)
    torn = [LabeledVideo("1", ("a",), "g", "train"), LabeledVideo("2", ("a",), "g", "test")]
    with pytest.raises(
        ValueError, match=r"a group must be in one split; .* group 'g', which the labels put into test and"
    ):
        assign_splits(torn)
    videos = videos_of({"a": 12, "b": 12}, group_size=2)
    with pytest.raises(ValueError, match="group 'a 0', which the features that were extracted earlier put into"):
        assign_splits(videos, earlier={"a/0": "train", "a/1": "test"})


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.5, 0.2, 0.2), (0, 0.5, 0.5), (1.5, -0.5, 0), "0.8,0.1,0.1"])
def test_shares_are_checked(fractions):
    with pytest.raises(ValueError, match="`split` must be"):
        check_fractions(fractions)
