"""Right models that an export accepts, and models that are themselves the cause of a difference."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_netvlad.export import export_onnx, export_saved_model, verify
from keras_netvlad.layers import FrameMask, NetVLAD


def model_of_everything():
    """Frames, their weights, their number and a vector; an output for the video and one for each frame."""
    keras.utils.set_random_seed(0)
    frames, weights = keras.Input((None, 6), name="frames"), keras.Input((None,), name="weights")
    num_frames, meta = keras.Input((), dtype="int32", name="num_frames"), keras.Input((4,), name="meta")
    weights_of_real = ops.where(FrameMask()(num_frames, frames), weights, 0.0)
    video = layers.Concatenate()([NetVLAD(2)(frames, mask=weights_of_real), meta])
    return keras.Model(
        {"frames": frames, "weights": weights, "num_frames": num_frames, "meta": meta},
        {"frame_scores": layers.Dense(4, name="frame_scores")(frames), "scores": layers.Dense(3, name="scores")(video)},
    )


@pytest.mark.parametrize(
    ("export", "name"),
    [(export_onnx, "model.onnx"), pytest.param(export_saved_model, "1", marks=pytest.mark.slow)],
)
def test_vectors_frame_weights_and_outputs_per_frame(export, name, tmp_path):
    model = model_of_everything()
    report = export(model, tmp_path / name)
    assert report.ok
    assert report.judge == "float64"
    assert {comparison.output for comparison in report.comparisons} == {"frame_scores", "scores"}
    assert any("padding NaN" in comparison.case for comparison in report.comparisons)
    bias = model.get_layer("frame_scores").bias
    bias.assign(bias + 1e-3)
    report = verify(model, tmp_path / name)
    failed = {comparison.output for comparison in report.comparisons if not comparison.is_within(1e-4)}
    assert failed == {"frame_scores"}


def of_three_frames():
    frames = keras.Input((None, 6), name="x")
    return keras.Model(frames, NetVLAD(2, name="out")(layers.Conv1D(4, 3)(frames))), (9, 6)


def of_pictures_of_seven_pixels():
    picture = keras.Input((None, None, 3), name="x")
    small = layers.Conv2D(4, 3, strides=2)(layers.Conv2D(4, 3, strides=2)(picture))
    return keras.Model(picture, NetVLAD(2, name="out")(small)), (33, 47, 3)


@pytest.mark.slow
@pytest.mark.parametrize("make", [of_three_frames, of_pictures_of_seven_pixels])
def test_models_that_need_more_than_one_frame_or_pixel(make, tmp_path):
    model, shape = make()
    assert export_onnx(model, tmp_path / "1.onnx").ok
    data = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    report = export_onnx(model, tmp_path / "2.onnx", data={"x": data})
    assert "real data from row 0" in {comparison.case for comparison in report.comparisons}


def test_a_model_may_divide_by_the_number_of_frames(tmp_path):
    frames, num_frames = keras.Input((None, 6), name="frames"), keras.Input((), dtype="int32", name="num_frames")
    real = ops.where(FrameMask()(num_frames, frames)[..., None], frames, 0.0)
    mean = ops.sum(real, axis=1) / ops.expand_dims(ops.cast(num_frames, "float32"), 1)  # NaN for an empty video
    report = export_onnx(keras.Model({"frames": frames, "num_frames": num_frames}, {"mean": mean}), tmp_path / "1.onnx")
    assert report.ok
    assert not any(", 0" in comparison.case or "[0" in comparison.case for comparison in report.comparisons)


@keras.saving.register_keras_serializable("accepted")
class InFloat32(layers.Layer):
    def call(self, inputs):
        return inputs / ops.cast(ops.shape(inputs)[1], "float32")  # TensorFlow divides equal dtypes only

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


def test_a_layer_that_computes_in_float32_only_has_no_float64_copy(tmp_path):
    frames = keras.Input((None, 6), name="frames")
    report = export_onnx(keras.Model(frames, {"out": NetVLAD(2)(InFloat32()(frames))}), tmp_path / "1.onnx")
    assert report.ok
    assert report.judge.startswith("the copy fails (InFloat32: ")
    assert all(comparison.to_float64 is None for comparison in report.comparisons)


@keras.saving.register_keras_serializable("accepted")
class WithState(layers.Layer):
    """A layer whose configuration lacks its state."""

    state = 0.0

    def call(self, inputs):
        return inputs + self.state


def test_a_copy_of_another_model_is_no_reference(tmp_path):
    frames = keras.Input((None, 6), name="frames")
    layer = WithState()
    layer.state = 3.0
    report = export_onnx(keras.Model(frames, {"out": layers.Dense(2)(layer(frames))}), tmp_path / "1.onnx")
    assert report.ok
    assert report.judge.startswith("a copy differs from the model by ")


def test_the_model_is_what_predict_computes(tmp_path):
    frames = keras.Input((6, 6), name="frames")
    ramp = ops.cumsum(ops.ones_like(frames[..., :1]), axis=1)
    model = keras.Model(frames, {"out": frames + ramp})
    values = np.random.default_rng(0).normal(size=(1, 6, 6)).astype("float32")
    right = values + np.arange(1, 7)[:, None]
    if np.abs(np.asarray(model(values)["out"]) - right).max() < 1:
        pytest.skip("this version of Keras does not take (1, 6, 1) for a bias of size 6 in an eager sum, as 3.15 does")
    assert export_saved_model(model, tmp_path / "1").ok


class Noise(layers.Layer):
    def __init__(self):
        super().__init__()
        self.generator = keras.random.SeedGenerator(1)

    def call(self, inputs):
        return inputs + keras.random.normal(ops.shape(inputs), seed=self.generator)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


def test_a_random_model_is_refused(tmp_path):
    frames = keras.Input((None, 6), name="frames")
    model = keras.Model(frames, {"out": Noise()(frames)})
    with pytest.raises(ValueError, match=r"remove what is random.*two results of the output `out` that differ"):
        export_saved_model(model, tmp_path / "1")


def neighbors(frames, mask):
    return NetVLAD(2)(layers.Conv1D(4, 3, padding="same")(frames), mask=mask)


def product_with_a_mask(frames, mask):
    return ops.sum(frames * ops.cast(mask, "float32")[..., None], axis=1)


def product_in_bfloat16(frames, mask):
    return layers.Dense(3, dtype="mixed_bfloat16")(product_with_a_mask(frames, mask))


def not_a_number(frames, mask):
    return NetVLAD(2)(frames, mask=mask) * float("nan")


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (neighbors, r"output `out` changes if such frames of \['frames'\] hold other values than zeros"),
        (
            product_with_a_mask,
            r"output `out` changes if such frames of \['frames'\] hold NaN \(a product of NaN and a mask is NaN\)",
        ),
        (product_in_bfloat16, r"output `out` changes if such frames of \['frames'\] hold NaN"),
        (not_a_number, r"found no inputs that the model accepts.*NaN in the output `out`"),
    ],
)
def test_the_cause_is_named_if_it_is_the_model(pool, message, tmp_path):
    frames, num_frames = keras.Input((None, 6), name="frames"), keras.Input((), dtype="int32", name="num_frames")
    out = pool(frames, FrameMask()(num_frames, frames))
    model = keras.Model({"frames": frames, "num_frames": num_frames}, {"out": out})
    with pytest.raises(ValueError, match=message):
        export_onnx(model, tmp_path / "1.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_padding_of_outputs_per_frame_is_not_compared_in_records(tmp_path):
    """Records have no input `num_frames`, so the verification takes the number of real frames from the answer."""
    frames, num_frames = keras.Input((None, 6), name="frames"), keras.Input((), dtype="int32", name="num_frames")
    history = ops.cumsum(frames, axis=1)
    scores = layers.Dense(3, name="scores")(NetVLAD(2)(history, mask=FrameMask()(num_frames, frames)))
    outputs = {"frame_scores": layers.Dense(4, name="frame_scores")(history), "scores": scores}
    report = export_saved_model(keras.Model({"frames": frames, "num_frames": num_frames}, outputs), tmp_path / "1")
    merged = {(c.signature, c.output) for c in report.comparisons if c.case.startswith("merged")}
    assert ("serve_examples", "frame_scores") in merged


def test_strings_and_tables(tmp_path):
    frames, category = keras.Input((None, 6), name="frames"), keras.Input((), dtype="string", name="category")
    index = layers.StringLookup(vocabulary=["one", "two"])(category)
    vector = layers.Embedding(3, 4)(index)
    out = layers.Concatenate()([NetVLAD(2)(frames), vector])
    model = keras.Model({"frames": frames, "category": category}, {"out": out})
    data = {"frames": np.ones((2, 3, 6)), "category": np.array(["one", "three"])}
    assert export_saved_model(model, tmp_path / "1", data=data).ok
