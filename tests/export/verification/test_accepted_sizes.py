"""The sizes on which models are verified that do not accept every size."""

import numpy as np
import pytest

from keras_netvlad.export.port import Port
from keras_netvlad.export.signature import Signature
from keras_netvlad.export.verification.accepted_sizes import SIZES, accepted_sizes

FRAMES, COUNTS = Port("frames", (None, None, 2), "float32"), Port("num_frames", (None,), "int32", has_frames=False)
IMAGE = Port("image", (None, None, None, 3), "float32", has_frames=False)
VIDEO = Port("video", (None, None, None, None, 3), "float32")


def model_of(*ports, accepts=lambda **inputs: True, output=lambda **inputs: np.zeros(1)):
    """A signature whose model raises where `accepts` is false."""

    def compute(inputs):
        if not accepts(**inputs):
            raise RuntimeError("too small\nand more")
        return {"out": output(**inputs)}

    return Signature("serving_default", ports, (), compute)


def lengths_of(sizes):
    return [size.frames for size in sizes]


def test_a_model_that_accepts_everything_runs_on_an_empty_video_and_on_counts_out_of_range():
    sizes = accepted_sizes(model_of(FRAMES, COUNTS))
    assert sizes == tuple(size._replace(extents=(1, 1)) for size in SIZES)
    counts = [(count, size.frames) for size in sizes for count in size.num_frames]
    assert any(count == 0 for count, _ in counts)
    assert any(count < 0 for count, _ in counts)
    assert any(count > frames for count, frames in counts)
    assert any(0 < count < frames for count, frames in counts)
    assert min(lengths_of(sizes)) == 1


@pytest.mark.parametrize("least", [2, 3, 100, 512])
def test_lengths_start_at_the_smallest_that_the_model_accepts(least):
    sizes = accepted_sizes(model_of(FRAMES, COUNTS, accepts=lambda frames, num_frames: frames.shape[1] >= least))
    assert lengths_of(sizes) == [size.frames + least - 1 for size in SIZES]
    assert sizes[0].num_frames == (least,)
    assert sizes[2].num_frames == (least + 4, 0, least + 1)


def test_a_model_of_multiples_gets_multiples():
    sizes = accepted_sizes(model_of(FRAMES, COUNTS, accepts=lambda frames, num_frames: frames.shape[1] % 4 == 0))
    assert len(set(lengths_of(sizes))) > 2
    assert all(length % 4 == 0 for length in lengths_of(sizes))
    assert any(0 in size.num_frames for size in sizes)


def test_a_model_of_one_length_gets_this_length():
    sizes = accepted_sizes(model_of(FRAMES, accepts=lambda frames: frames.shape[1] == 299))
    assert set(lengths_of(sizes)) == {299}
    assert {size.batch for size in sizes} == {1, 2, 3}


def test_the_length_of_the_data_is_tried():
    signature = model_of(FRAMES, accepts=lambda frames: frames.shape[1] == 777)
    with pytest.raises(ValueError, match=r"found no inputs.*`data` \(`--data`\).*`--no-verify`\).*: too small$"):
        accepted_sizes(signature)
    assert set(lengths_of(accepted_sizes(signature, {"frames": np.zeros((2, 777, 2), "float32")}))) == {777}


def test_a_model_that_accepts_its_data_only_is_verified_on_them():
    signature = model_of(FRAMES, accepts=lambda frames: (frames == 5).all())
    assert accepted_sizes(signature, {"frames": np.full((2, 7, 2), 5.0)}) == ()
    with pytest.raises(ValueError, match=r"found no inputs that the model accepts.*Received from the model: too small"):
        accepted_sizes(signature, {"frames": np.zeros((2, 7, 2))})


def test_pictures_start_at_the_smallest_size_that_the_model_accepts():
    sizes = accepted_sizes(model_of(IMAGE, accepts=lambda image: min(image.shape[1:3]) >= 35))
    assert sizes[0].extents == (35, 35)
    assert len({size.extents for size in sizes}) == 5
    assert any(size.extents[0] != size.extents[1] for size in sizes)


def test_videos_of_pictures_need_both():
    sizes = accepted_sizes(model_of(VIDEO, accepts=lambda video: video.shape[1] >= 3 and min(video.shape[2:4]) >= 16))
    assert (sizes[0].frames, sizes[0].extents) == (3, (16, 16))
    assert lengths_of(sizes) == [size.frames + 2 for size in SIZES]


def test_counts_are_in_range_for_models_that_need_it():
    def accepts(frames, num_frames):
        return (num_frames > 0).all() and (num_frames <= frames.shape[1]).all()

    sizes = accepted_sizes(model_of(FRAMES, COUNTS, accepts=accepts))
    assert [size.num_frames for size in sizes] == [(1,), (5,), (5, 1, 2), (40, 17), (9, 1)]


def test_nan_is_no_accepted_answer():
    def mean(frames, num_frames):
        with np.errstate(invalid="ignore", divide="ignore"):
            return frames.sum(1) / num_frames[:, None] * 0

    sizes = accepted_sizes(model_of(FRAMES, COUNTS, output=mean))
    assert all(count != 0 for size in sizes for count in size.num_frames)
    with pytest.raises(ValueError, match=r"Received from the model: NaN in the output `out`"):
        accepted_sizes(model_of(FRAMES, output=lambda frames: np.array([np.nan])))


def test_floats_from_0_to_1_are_tried():
    sizes = accepted_sizes(model_of(FRAMES, accepts=lambda frames: (frames >= 0).all()))
    assert all(size.is_unit for size in sizes)


def test_a_fixed_length_and_a_fixed_batch_are_kept():
    fixed = Port("frames", (2, 50, 3), "float32")
    counts = Port("num_frames", (2,), "int32", has_frames=False)
    sizes = accepted_sizes(model_of(fixed, counts, accepts=lambda frames, num_frames: frames.shape == (2, 50, 3)))
    assert {(size.batch, size.frames, len(size.num_frames)) for size in sizes} == {(2, 50, 2)}
    assert any(0 < count < 50 for size in sizes for count in size.num_frames)
    assert any(count == 0 for size in sizes for count in size.num_frames)
