"""Pooling before and after an anchor: NetVLAD++, lengths, masks, anchors, any pooling, exports."""

import keras
import numpy as np
import pytest
from layer_contract import BACKEND, check_layer, randomize_weights, to_numpy

from keras_netvlad import NetVLAD, VideoEncoder
from keras_netvlad.layers import FrameMask, GeMPooling, MaxPooling, MeanPooling, TemporalPooling

pytestmark = pytest.mark.backends

SIZE = 6
# Sums over all frames, of which some are zero, next to sums of a part: 2e-7 measured at worst, headroom 10.
TOLERANCE = 2e-6


def random_array(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def make(**options):
    layer = TemporalPooling(NetVLAD(3, **options), NetVLAD(2, **options))
    layer.build((None, None, SIZE))
    randomize_weights(layer)
    return layer


def parts(layer, x, anchor, end=None):
    """The equation for one video: each part cut out and pooled by itself."""
    cut = [layer.before(x[None, :anchor]), layer.after(x[None, anchor:end])]
    return np.concatenate([to_numpy(part) for part in cut], axis=1)[0]


def assert_close(received, expected):
    np.testing.assert_allclose(to_numpy(received), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("length", [0, 1, 2, 7, 30])
def test_netvlad_plus_plus_pools_both_halves_of_any_length(length):
    layer, x = make(), random_array((2, length, SIZE))
    # The published layer cuts at int(T / 2).
    assert_close(layer(x), np.stack([parts(layer, video, length // 2) for video in x]))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_middle_is_that_of_the_real_frames(weighted):
    layer, x, lengths = make(), random_array((4, 9, SIZE)), (9, 6, 1, 0)
    mask = np.arange(9) < np.array(lengths)[:, None]
    expected = np.stack([parts(layer, video, n // 2, n) for video, n in zip(x, lengths, strict=True)])
    mask = 0.5 * mask.astype("float32") if weighted else mask
    for padding in (0.0, np.nan):
        padded = np.where(mask[..., None] > 0, x, np.float32(padding))
        assert_close(layer(padded, mask=mask), expected)
    # Frames that are left out in between do not move it.
    mask[0, 2] = 0
    without = np.concatenate([to_numpy(layer.before(x[:1, [0, 1, 3]])), to_numpy(layer.after(x[:1, 4:]))], axis=1)
    assert_close(layer(x, mask=mask)[:1], without)


def test_each_video_may_have_its_own_anchor():
    layer, x = make(), random_array((4, 9, SIZE))
    anchors = np.array([0, 2, 9, 50])
    expected = np.stack([parts(layer, video, anchor) for video, anchor in zip(x, anchors, strict=True)])
    assert_close(layer(x, anchor=anchors), expected)
    mask = np.arange(9) < np.full((4, 1), 5)
    expected = np.stack([parts(layer, video, min(anchor, 5), 5) for video, anchor in zip(x, anchors, strict=True)])
    assert_close(layer(x, mask=mask, anchor=anchors), expected)


@pytest.mark.parametrize("per_position", [False, True])
def test_maps_of_videos_are_cut_in_time(per_position):
    layer, x = make(), random_array((2, 5, 2, 3, SIZE))
    mask = np.arange(5) < [[5], [3]]
    mask = np.broadcast_to(mask[..., None, None], x.shape[:-1]).copy() if per_position else mask
    expected = np.stack([parts(layer, x[0], 2), parts(layer, x[1], 1, 3)])
    assert_close(layer(x, mask=mask), expected)


def test_the_order_of_the_parts_matters_and_that_within_a_part_does_not():
    layer, x = make(), random_array((1, 8, SIZE))
    assert_close(layer(x[:, [3, 2, 1, 0, 7, 6, 5, 4]]), to_numpy(layer(x)))
    assert np.abs(to_numpy(layer(x[:, ::-1].copy())) - to_numpy(layer(x))).max() > 0.1


def test_the_copy_has_clusters_of_its_own():
    keras.utils.set_random_seed(0)
    layer = TemporalPooling(NetVLAD(3, kernel_initializer=keras.initializers.GlorotUniform(seed=1)))
    layer.build((None, None, SIZE))
    before, after = layer.before.get_weights(), layer.after.get_weights()
    for name, first, second in zip(("kernel", "bias", "centroids"), before, after, strict=True):
        assert first.shape == second.shape
        assert np.any(first != second) is np.bool_(name != "bias")


@pytest.mark.parametrize("pooling", [MeanPooling, MaxPooling, GeMPooling, keras.layers.GlobalAveragePooling1D])
def test_any_pooling_can_be_wrapped(pooling):
    layer, x = TemporalPooling(pooling()), np.abs(random_array((2, 7, SIZE)))
    assert_close(layer(x), np.stack([parts(layer, video, 3) for video in x]))


def test_the_contract_of_layers(tmp_path):
    mask = np.array([[True] * 5 + [False] * 2, [True] * 4 + [False] * 3])

    def fresh(dtype=None, **arguments):
        return TemporalPooling(NetVLAD(2, dtype=dtype), NetVLAD(3, dtype=dtype), dtype=dtype, **arguments)

    check_layer(fresh, (2, 7, SIZE), tmp_path, mask=mask)


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda: TemporalPooling("netvlad"), TypeError, r"`before` must be a Keras layer.*Received: before='netvlad'"),
        (lambda: TemporalPooling(NetVLAD(2), 5), TypeError, "`after` must be a Keras layer"),
        (lambda: TemporalPooling(keras.layers.GlobalMaxPooling1D()), ValueError, "`mask` in its `call`.*GlobalMaxPool"),
        (lambda: make()(random_array((2, 3, 4, SIZE))), ValueError, r"Received: shape \(2, 3, 4, 6\)"),
        (
            lambda: make()(random_array((2, 3, SIZE)), mask=np.ones((2, 4), bool)),
            ValueError,
            r"must have the shape \(2, 3\), one value per frame. Received: shape \(2, 4\)",
        ),
        (
            lambda: make()(random_array((2, 3, SIZE)), anchor=np.array([1])),
            ValueError,
            r"must have the shape \(2,\), one integer per video. Received: shape \(1,\)",
        ),
        (
            lambda: make()(random_array((2, 3, SIZE)), anchor=np.array([1.0, 2.0])),
            TypeError,
            "must hold integers.*Received: dtype float",
        ),
    ],
)
def test_wrong_arguments_are_refused(act, error, message):
    with pytest.raises(error, match=message):
        act()


def test_an_encoder_of_two_streams_survives_its_file(tmp_path):
    encoder = VideoEncoder({"rgb": SIZE, "audio": 4}, pooling=TemporalPooling(NetVLAD(2)))
    videos = {"rgb": random_array((2, 7, SIZE)), "audio": random_array((2, 7, 4)), "num_frames": np.array([7, 3])}
    expected = to_numpy(encoder(videos)["descriptor"])
    assert expected.shape == (2, 2 * 2 * (SIZE + 4))
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.saving.load_model(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(to_numpy(loaded(videos)["descriptor"]), expected)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="exports run on TensorFlow: `make test`")
@pytest.mark.slow
@pytest.mark.parametrize("with_anchor", [False, True])
def test_both_formats_are_the_model(with_anchor, tmp_path):
    from keras_netvlad.export import export_model
    from keras_netvlad.export.serving_signatures import serving_signatures

    frames, num_frames = keras.Input((None, SIZE), name="frames"), keras.Input((), dtype="int32", name="num_frames")
    inputs, given = {"frames": frames, "num_frames": num_frames}, {}
    if with_anchor:
        inputs["anchor"] = given["anchor"] = keras.Input((), dtype="int32", name="anchor")
    descriptor = make()(frames, mask=FrameMask()(num_frames, frames), **given)
    model = keras.Model(inputs, {"descriptor": descriptor}, name="plus_plus")
    assert "accumulate" not in serving_signatures(model)
    assert all(report.ok for report in export_model(model, tmp_path / "out"))
