"""Motion of video files: known motion comes out, stacks stand where frames stand, and two streams become a model."""

import builtins

import cv2
import keras
import numpy as np
import pytest
from make_videos import clip, grey, write_sound, write_video

from keras_netvlad import VideoClassifier
from keras_netvlad.data import read_flow, read_video
from keras_netvlad.export import export_onnx, export_saved_model
from keras_netvlad.layers import FrameEncoder
from keras_netvlad.models import ensemble, from_pixels

# Of losslessly coded frames, so that the motion is what was written.
LOSSLESS = {"codec": "ffv1", "pixels": "bgr0"}


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """24 frames at ten a second: 3 pixels to the right and 2 up in each of the first 11, then 4 to the left."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 16), "uint8").repeat(16, 0).repeat(16, 1)
    picture = np.repeat(cv2.GaussianBlur(noise, (0, 0), 3)[..., None], 3, axis=-1)
    right, down = np.cumsum([0] + [3] * 11 + [-4] * 12), np.cumsum([0] + [-2] * 11 + [0] * 12)
    frames = [np.roll(picture, (y, x), (0, 1))[50:178, 50:210] for x, y in zip(right, down, strict=True)]
    path = tmp_path_factory.mktemp("flow") / "moving.mkv"
    return write_video(path, [np.ascontiguousarray(frame) for frame in frames], **LOSSLESS)


def motion(stack, bound=20):
    """Median motion in pixels, `(L, 2)`: to the right, downwards."""
    return (np.median(stack.astype(float), axis=(0, 1)).reshape(-1, 2) - 128) * bound / 127


def test_known_motion(moving):
    stacks = list(read_flow(moving, fps=10, stack=4))
    assert len(stacks) == 24
    assert {(stack.shape, stack.dtype.name) for stack in stacks} == {((128, 160, 8), "uint8")}
    for number, stack in enumerate(stacks):
        # Half a level is 0.08 pixels; the estimate was off by 0.06 at most.
        expected = [[3, -2] if n < 11 else [-4, 0] for n in range(min(number, 19), min(number, 19) + 4)]
        np.testing.assert_allclose(motion(stack), expected, atol=0.2)


def test_stacks_stand_where_frames_stand(moving):
    for fps in (1, 3, None):
        assert len(list(read_flow(moving, fps=fps, stack=2))) == len(list(read_video(moving, fps=fps)))
    every = list(read_flow(moving, fps=None, stack=2))
    for stack, number in zip(read_flow(moving, fps=1, stack=2), (0, 10, 20), strict=True):
        np.testing.assert_array_equal(stack, every[number])


def test_bound_and_size(moving):
    narrow = next(read_flow(moving, stack=1, bound=2))
    # 3 pixels are more than 2; 2 pixels up are the lowest level.
    np.testing.assert_array_equal(np.median(narrow, axis=(0, 1)), [255, 1])
    half = next(read_flow(moving, stack=1, size=(64, 80)))
    assert half.shape == (64, 80, 2)
    np.testing.assert_allclose(motion(half), [[1.5, -1]], atol=0.2)
    assert next(read_flow(moving, stack=1, size=64, crop_to_aspect_ratio=True)).shape == (64, 64, 2)


def test_stillness_and_videos_of_few_frames(tmp_path):
    still = write_video(tmp_path / "still.mkv", [grey(90)] * 12, **LOSSLESS)
    assert {int(level) for stack in read_flow(still, fps=5, stack=3) for level in np.unique(stack)} == {128}
    single = write_video(tmp_path / "one.mkv", [grey(90)], **LOSSLESS)
    (stack,) = read_flow(single, stack=3)
    assert stack.shape == (48, 64, 6)
    np.testing.assert_array_equal(stack, 128)


def test_a_file_that_ends_before_a_stack_does(tmp_path, moving):
    first = list(read_video(moving, fps=None))[:3]
    short = write_video(tmp_path / "short.mkv", first, **LOSSLESS)
    (stack,) = read_flow(short, stack=4)
    np.testing.assert_allclose(motion(stack), [[3, -2], [3, -2], [0, 0], [0, 0]], atol=0.2)


@pytest.fixture(scope="module")
def streams():
    """A real clip: pictures and motion, of 24 pixels."""
    rgb = np.stack(list(read_video(clip("bikes"), size=24)))
    flow = np.stack(list(read_flow(clip("bikes"), size=24, stack=10)))
    assert flow.shape == (*rgb.shape[:-1], 20)
    assert flow.std() > 1  # something moves
    return {"rgb": rgb[None], "motion": flow[None], "num_frames": np.array([len(rgb)], "int32")}


def encoder(channels):
    layers = [keras.Input((24, 24, channels)), keras.layers.Conv2D(6, 5, strides=8, padding="same")]
    return FrameEncoder(keras.Sequential(layers), "MobileNetV2")


@pytest.mark.slow
def test_two_streams_fused_early_train_and_export(tmp_path, streams):
    classifier = VideoClassifier({"rgb": 6, "motion": 6}, num_classes=3, num_clusters=4, hidden_units=None)
    model = from_pixels({"rgb": encoder(3), "motion": encoder(20)}, classifier)
    model.compile("sgd", "binary_crossentropy")
    before = [np.array(weight) for weight in model.trainable_weights]
    model.train_on_batch(streams, np.array([[1.0, 0.0, 0.0]]))
    assert all((np.array(weight) != old).any() for weight, old in zip(model.trainable_weights, before, strict=True))
    assert export_onnx(model, tmp_path / "two.onnx", data=streams).ok
    assert export_saved_model(model, tmp_path / "two", data=streams).ok


@pytest.mark.slow
def test_two_streams_fused_late_are_one_artefact(tmp_path, streams):
    options = {"num_classes": 3, "num_clusters": 4, "hidden_units": None}
    models = [
        from_pixels(
            {name: encoder(streams[name].shape[-1])}, VideoClassifier({name: 6}, **options), name=f"{name}_model"
        )
        for name in ("rgb", "motion")
    ]
    both = ensemble(models, weights=[2, 1])
    scores = [np.array(model({key: streams[key] for key in model.input})["scores"]) for model in models]
    np.testing.assert_allclose(both(streams)["scores"], (2 * scores[0] + scores[1]) / 3, atol=1e-6)
    assert export_onnx(both, tmp_path / "both.onnx", data=streams).ok


def test_wrong_use_is_one_sentence(tmp_path, moving, monkeypatch):
    for stack in (0, True, 2.5):
        with pytest.raises(ValueError, match="`stack` must be a positive integer"):
            read_flow(moving, stack=stack)
    for bound in (0, -1, float("nan"), "20"):
        with pytest.raises(ValueError, match="`bound` must be a finite number above 0"):
            read_flow(moving, bound=bound)
    with pytest.raises(FileNotFoundError, match="must be a file; check the path"):
        read_flow(tmp_path / "none.mp4")
    with pytest.raises(ValueError, match=r"at least 16 pixels .*Received: 8 x 8, in .*moving\.mkv"):
        next(read_flow(moving, size=8))
    with pytest.raises(ValueError, match="a file without video"):
        next(read_flow(write_sound(tmp_path / "sound.mp4")))
    original = builtins.__import__

    def without_opencv(name, *arguments, **options):
        if name == "cv2":
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_opencv)
    with pytest.raises(ImportError, match=r"pip install 'keras_netvlad\[flow\]'"):
        read_flow(moving)
