"""`assign_splits`: divides labeled videos into training, validation and test."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from keras_netvlad.base.validation import check_number
from keras_netvlad.videos.labels import SPLITS, LabeledVideo, class_names

FRACTIONS = (0.7, 0.15, 0.15)


def check_fractions(fractions: Sequence[float]) -> tuple[float, ...]:
    """Checks the shares of training, validation and test.

    Raises:
        ValueError: If they are not three numbers of 0 or more with the sum 1 and something to train on.
    """
    if isinstance(fractions, str) or len(fractions) != len(SPLITS):
        raise ValueError(f"`split` must be the shares of {', '.join(SPLITS)}. Received: split={fractions!r}")
    shares = tuple(check_number("split", share, 0, 1) for share in fractions)
    if abs(sum(shares) - 1) > 1e-6 or not shares[0]:
        raise ValueError(
            f"`split` must be three shares with the sum 1, the first above 0. Received: split={tuple(fractions)}"
        )
    return shares


def assign_splits(
    videos: Sequence[LabeledVideo],
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
    earlier: Mapping[str, str] | None = None,
) -> list[LabeledVideo]:
    """Gives every video a split, so that each class is divided by the same shares and no group is divided.

    Groups are assigned one after the other, those of the rarest class first, to the split that lacks the most videos of
    that class. The result depends on the seed only. Videos that have a split keep it.

    Args:
        videos: The videos. Either all have a split, or none.
        fractions: Shares of training, validation and test, with the sum 1.
        seed: Integer, for the order of the groups.
        earlier: Dict from the name of a video to the split that it got in an earlier call. The video, and its group,
            stay there.

    Returns:
        The videos with their splits, in the order given.

    Example:

    >>> from keras_netvlad.videos.labels import read_labels
    >>> from keras_netvlad.videos.splits import assign_splits
    >>> names = [f"{label}/{number}.mp4" for label in ("cat", "dog") for number in range(10)]
    >>> videos = assign_splits(read_labels("folders", names), (0.6, 0.2, 0.2))
    >>> [sum(video.split == split and video.labels == ("cat",) for video in videos) for split in ("train", "test")]
    [6, 2]

    Raises:
        ValueError: If a class has too few groups for the splits, a class has no video to train on, or a group is in
            two splits.
    """
    fixed = {video.name: video.split for video in videos if video.split is not None}
    is_given = bool(fixed)
    groups = defaultdict(list)
    for video in videos:
        groups[video.group].append(video)
    if not is_given:
        fixed = dict(earlier or {})
        _check_counts(videos, fractions)
    splits = _splits_of_groups(groups, fixed, from_labels=is_given)
    shuffled = np.random.default_rng(seed).permutation(sorted(groups)).tolist()
    counts = {name: Counter(label for video in members for label in video.labels) for name, members in groups.items()}
    totals = Counter(label for video in videos for label in video.labels)
    have: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}  # videos of each class
    for name, split in splits.items():
        have[split] += counts[name]
    for label in sorted(totals, key=lambda label: (totals[label], label)):
        wanted = {split: totals[label] * share for split, share in zip(SPLITS, fractions, strict=True) if share}
        # Large groups come first, while every split still has room for them.
        having = sorted((name for name in shuffled if counts[name][label]), key=lambda name: -counts[name][label])
        waiting = [name for name in having if name not in splits]
        for number, name in enumerate(waiting):
            lack = {split: wanted[split] - have[split][label] for split in wanted}
            empty = [split for split in wanted if not have[split][label]]
            # The last groups of a class go to the splits that have none of it.
            choices = empty if len(waiting) - number <= len(empty) else list(wanted)
            splits[name] = max(choices, key=lambda split: lack[split])
            have[splits[name]] += counts[name]
    assigned = [dataclasses.replace(video, split=splits[video.group]) for video in videos]
    _check_classes(assigned, [] if is_given else [s for s, share in zip(SPLITS, fractions, strict=True) if share])
    return assigned


def _splits_of_groups(
    groups: Mapping[str, Sequence[LabeledVideo]], fixed: Mapping[str, str | None], from_labels: bool
) -> dict[str, str]:
    splits: dict[str, str] = {}
    for name, members in groups.items():
        found = {split for split in (fixed.get(video.name) for video in members) if split is not None}
        if len(found) > 1:
            source = "the labels" if from_labels else "the features that were extracted earlier"
            raise ValueError(
                f"All videos of a group must be in one split; correct the labels, or choose another output. Received: "
                f"group {name!r}, which {source} put into {' and '.join(sorted(found))}"
            )
        splits.update((name, split) for split in found)
    return splits


def _check_counts(videos: Sequence[LabeledVideo], fractions: Sequence[float]) -> None:
    needed = sum(share > 0 for share in fractions)
    groups = defaultdict(set)
    for video in videos:
        for label in video.labels:
            groups[label].add(video.group)
    few = [label for label in class_names(videos) if len(groups[label]) < needed]
    if few:
        unit = "videos" if all(video.group == video.name for video in videos) else "groups"
        raise ValueError(
            f"Each class needs at least {needed} {unit}, one for each split; add videos, or leave the class out. "
            f"Received: {', '.join(f'{label} with {len(groups[label])}' for label in few)}"
        )


def _check_classes(videos: Sequence[LabeledVideo], splits: Sequence[str]) -> None:
    """Raises if a class has nothing to train on, or a split with a share above 0 is empty."""
    for label in class_names(videos):
        if not any(label in video.labels for video in videos if video.split == SPLITS[0]):
            raise ValueError(
                f"Each class must have videos to train on; correct the column split. Received: none of {label!r}"
            )
    empty = [split for split in splits if not any(video.split == split for video in videos)]
    if empty:
        raise ValueError(f"Each split must get videos; add videos, or give other shares. Received: none for {empty[0]}")
