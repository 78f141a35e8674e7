import math

import keras
import numpy as np
import pytest

from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.export.port import Port
from keras_netvlad.export.serving.warmup_requests import make_request
from keras_netvlad.export.serving.warmup_sizes import num_bytes, port_shape, warmup_sizes
from keras_netvlad.export.signature import Signature
from keras_netvlad.layers import NetVLAD

LIMIT = 64 * 2**20


def signature_of(*shape, dtype="float32", accepts=lambda frames: True):
    """A signature of one stream and `num_frames`, whose model runs on some lengths only."""

    def compute(values):
        frames = values["frames"].shape[1]
        if not accepts(frames):
            raise RuntimeError(f"{frames} frames\n\nare wrong\nand more lines")
        return {}

    ports = (Port("frames", (None, None, *shape), dtype), Port("num_frames", (None,), "int32"))
    return Signature("serving_default", ports, (), compute)


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((6,), "float32", [(1, 1), (1, 300), (32, 1), (32, 300)]),
        ((1152,), "float32", [(1, 1), (1, 300), (32, 1), (32, 300)]),  # YouTube-8M, 44 MB
        ((4096,), "uint8", [(1, 1), (1, 300), (8, 300), (32, 1)]),
        ((96, 96, 3), "uint8", [(1, 1), (1, 300), (2, 300), (32, 1)]),
        ((224, 224, 3), "float32", [(1, 1), (1, 64), (32, 1)]),
        ((1080, 1920, 3), "float32", [(1, 1), (1, 2), (2, 1)]),
        ((3000, 3000, 3), "float32", [(1, 1)]),  # one picture takes more than the limit
    ],
    ids=str,
)
def test_requests_take_at_most_64_megabytes(shape, dtype, expected):
    signature = signature_of(*shape, dtype=dtype)
    sizes = warmup_sizes(signature, 32)
    assert sizes == expected
    for batch, frames in sizes:
        values = make_request(signature, signature, batch, frames)
        assert values["frames"].shape == (batch, frames, *shape)
        assert values["frames"].dtype == dtype
        assert (values["num_frames"] == frames).all()
        size = 4 * (batch * frames * math.prod(shape) + batch)
        assert num_bytes(signature, batch, frames) == size
        assert size <= LIMIT or (batch, frames) == (1, 1)


def test_both_sides_of_the_limit():
    # 2**24 float32 are exactly 64 MB; `num_frames` takes 4 bytes more.
    frames_only = Signature("serving_default", signature_of(2**10).inputs[:1], (), lambda values: {})
    assert warmup_sizes(frames_only, 64, (256,)) == [(1, 256), (64, 256)]
    assert warmup_sizes(signature_of(2**10), 64, (256,)) == [(1, 256), (32, 256)]


def test_lengths_of_the_caller_are_kept_and_batches_are_reduced():
    assert warmup_sizes(signature_of(96, 96, 3), 32, (7, 2000)) == [(1, 7), (1, 2000), (32, 7)]
    assert warmup_sizes(signature_of(6), 32, ()) == []
    assert warmup_sizes(signature_of(6), 1, (5, 5)) == [(1, 5)]


@pytest.mark.parametrize(
    ("accepts", "expected"),
    [
        (lambda frames: frames >= 5, [8, 300]),
        (lambda frames: frames <= 100, [1, 75]),
        (lambda frames: frames == 16, [16]),
        (lambda frames: frames == 300, [300]),
    ],
)
def test_default_lengths_are_those_that_the_model_accepts(accepts, expected):
    sizes = warmup_sizes(signature_of(6, accepts=accepts), 1)
    assert sizes == [(1, frames) for frames in expected]


def test_a_model_that_rejects_a_length_says_so():
    with pytest.raises(ValueError, match=r"every length of `warmup_frames`.* 3 frames, .*\(3 frames are wrong\)$"):
        warmup_sizes(signature_of(6, accepts=lambda frames: frames > 4), 1, (5, 3))
    with pytest.raises(ValueError, match=r"set `warmup_frames` to lengths that it accepts, or to \(\)"):
        warmup_sizes(signature_of(6, accepts=lambda frames: False), 1)
    with pytest.raises(ValueError, match=r"`warmup_frames` must be a positive integer"):
        warmup_sizes(signature_of(6), 1, (1.5,))


def test_inputs_of_fixed_size_have_one_length():
    maps = Signature("serving_default", (Port("maps", (None, 7, 7, 512), "float32"),), (), lambda values: {})
    assert warmup_sizes(maps, 32) == [(1, 1), (32, 1)]


def test_all_free_axes_get_the_length():
    assert port_shape(Port("maps", (None, None, None, 3), "float32"), 2, 5) == (2, 5, 5, 3)


def test_a_real_model_is_traced():
    frames = keras.Input((None, 4), name="frames")
    hidden = keras.layers.Conv1D(4, 5)(frames)
    model = keras.Model({"frames": frames}, {"descriptor": NetVLAD(2)(hidden)})
    assert warmup_sizes(read_signature(model), 2) == [(1, 8), (1, 300), (2, 8), (2, 300)]
    with pytest.raises(ValueError, match=r"calling Conv1D.call\(\)\. Negative .* 5 from 4\)$"):
        warmup_sizes(read_signature(model), 2, (4,))


def test_bytes_of_pictures_count_as_the_floats_that_they_become():
    assert num_bytes(signature_of(3, dtype="uint8"), 1, 1) == 16
    assert num_bytes(signature_of(3, dtype="float64"), 1, 1) == 28
    assert np.prod(port_shape(signature_of(3).inputs[0], 2, 3)) == 18
