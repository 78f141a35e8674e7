"""Requests that a server merges, against the answers to each alone."""

import keras
import numpy as np
import pytest

from keras_netvlad.export import export_onnx, export_saved_model
from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.export.padding import can_pad
from keras_netvlad.export.verification.merged_requests import merge
from keras_netvlad.layers import FrameMask, NetVLAD

SIZE = 4


def inputs_of(shape=(None, SIZE), with_count=True):
    frames = keras.Input(shape, name="frames")
    count = keras.Input((), dtype="int32", name="num_frames")
    return (frames, count) if with_count else (frames,)


def masked(frames, count):
    return NetVLAD(2, name="pool")(frames, mask=FrameMask()(count, frames))


def with_count():
    frames, count = inputs_of()
    return keras.Model([frames, count], {"descriptor": masked(frames, count)})


def without_count():
    (frames,) = inputs_of(with_count=False)
    return keras.Model(frames, {"descriptor": NetVLAD(2, name="pool")(frames)})


def pictures_of_free_size():
    frames, count = inputs_of((None, None, None, SIZE))
    return keras.Model([frames, count], {"descriptor": masked(frames, count)})


def pictures_of_fixed_size():
    frames, count = inputs_of((None, 2, 2, SIZE))
    return keras.Model([frames, count], {"descriptor": masked(frames, count)})


def extra_input_of_free_length():
    frames, count = inputs_of()
    words = keras.Input((None,), name="words")
    total = keras.ops.sum(words, axis=1, keepdims=True)
    return keras.Model([frames, count, words], {"both": keras.layers.Concatenate()([masked(frames, count), total])})


def output_for_each_frame():
    frames, count = inputs_of()
    scores = keras.layers.Dense(2, name="scores")(frames)
    mask = keras.ops.expand_dims(FrameMask()(count, frames), -1)
    return keras.Model([frames, count], {"scores": keras.ops.where(mask, scores, 0.0)})


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (with_count, True),
        (pictures_of_fixed_size, True),
        (without_count, False),
        (pictures_of_free_size, False),
        (extra_input_of_free_length, False),
        (output_for_each_frame, False),
    ],
)
def test_padding_is_allowed_only_where_it_cannot_change_an_answer(make, expected):
    assert can_pad(read_signature(make())) is expected


def test_requests_are_merged_as_the_server_merges_them():
    short = {"frames": np.array([[[7.0], [8.0]]]), "num_frames": np.array([2])}
    long = {"frames": np.array([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]]), "num_frames": np.array([3, 1])}
    batch = merge([short, long], num_repeated=1)
    # The padding is the first element of the request's own tensor; the repeated row is the last request's first.
    assert batch["frames"][..., 0].tolist() == [[7, 8, 7], [1, 2, 3], [4, 5, 6], [1, 2, 3]]
    assert batch["num_frames"].tolist() == [2, 3, 1, 3]


def test_reports_list_merged_requests_of_every_signature(artefacts):
    for report in artefacts[1]:
        merged = [comparison for comparison in report.comparisons if "merged with" in comparison.case]
        assert all(comparison.case.startswith("merged with 2 other requests") for comparison in merged)
        signatures = {comparison.signature for comparison in report.comparisons}
        assert {comparison.signature for comparison in merged} == signatures


@pytest.mark.parametrize(("make", "num_others"), [(without_count, 0), (pictures_of_fixed_size, 2)])
def test_requests_of_different_lengths_are_merged_only_if_the_server_pads(make, num_others, tmp_path):
    report = export_onnx(make(), tmp_path / "model.onnx")
    merged = {comparison.case.partition(" and")[0] for comparison in report.comparisons if "merged" in comparison.case}
    assert merged == {f"merged with {num_others} other requests"}


def test_rows_that_change_each_other_fail_the_verification(tmp_path):
    (frames,) = inputs_of(with_count=False)
    share = keras.ops.softmax(keras.ops.mean(frames, axis=1), axis=0)  # over the videos of the batch
    message = r"or on the other videos, .* whose output `share` changes by \S+ if other requests are merged with it"
    with pytest.raises(ValueError, match=message):
        export_saved_model(keras.Model(frames, {"share": share}), tmp_path / "1")
