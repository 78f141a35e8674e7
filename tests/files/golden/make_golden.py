"""Writes the files of this directory: models saved by release 0.1.0, with inputs and outputs.

`tests/test_golden_files.py` loads the models with the present code and compares the outputs. The files must stay as
release 0.1.0 (commit 8bb08a4) wrote them, so run this script only with that release, in an empty directory:

    python make_golden.py DIRECTORY
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_netvlad import VideoClassifier
from keras_netvlad.layers import (
    VLAD,
    AttentionPooling,
    ContextGating,
    Dequantize,
    FrameEncoder,
    FrameMask,
    MaxPooling,
    MeanPooling,
    MeanStdPooling,
    MixtureOfExperts,
    NetFV,
    NetRVLAD,
    NetVLAD,
    NeXtVLAD,
    PCAWhitening,
    SoftDBoW,
)
from keras_netvlad.models import ensemble, from_pixels
from keras_netvlad.models.presets import PRESETS

FRAMES, IMAGES, VIDEOS = (6, 4), (3, 2, 4), (3, 2, 2, 4)
POOLINGS = {
    "netvlad": (NetVLAD(3), FRAMES),
    "netvlad_conv": (
        NetVLAD(3, 2, "conv", normalize_input=True, assignment_batch_normalization=True, use_bias=False),
        IMAGES,
    ),
    "netvlad_channels_first": (NetVLAD(3, assignment="conv", data_format="channels_first"), (4, 3, 2)),
    "netvlad_videos": (NetVLAD(3, num_ghost_clusters=1), VIDEOS),
    "netvlad_no_output_norm": (NetVLAD(3, output_normalization=False, kernel_regularizer="l2"), FRAMES),
    "netvlad_no_intra_norm": (NetVLAD(3, intra_normalization=False, centroids_initializer="ones"), FRAMES),
    "netvlad_no_norm": (NetVLAD(3, intra_normalization=False, output_normalization=False), FRAMES),
    "netvlad_bfloat16_products": (NetVLAD(3, product_dtype="bfloat16"), FRAMES),
    "netvlad_mixed_float16": (NetVLAD(3, dtype="mixed_float16"), FRAMES),
    "netvlad_bfloat16": (NetVLAD(3, dtype="bfloat16"), FRAMES),
    "netvlad_float64": (NetVLAD(3, dtype="float64"), FRAMES),
    "netrvlad": (NetRVLAD(3), FRAMES),
    "netrvlad_options": (NetRVLAD(3, 1, "conv", False, True, True, False, False), IMAGES),
    "netfv": (NetFV(3), FRAMES),
    "netfv_options": (NetFV(3, 1, assignment_batch_normalization=True, intra_normalization=False), IMAGES),
    "netfv_float64": (NetFV(3, output_normalization=False, dtype="float64"), FRAMES),
    "nextvlad": (NeXtVLAD(3, groups=2), FRAMES),
    "nextvlad_options": (NeXtVLAD(3, groups=4, expansion=3, output_normalization=False), VIDEOS),
    "soft_dbow": (SoftDBoW(5), FRAMES),
    "soft_dbow_options": (SoftDBoW(5, 2, "conv", output_normalization=False), IMAGES),
    "vlad": (VLAD(3), FRAMES),
    "vlad_options": (VLAD(3, normalize_input=True, intra_normalization=False), IMAGES),
    "max": (MaxPooling(), FRAMES),
    "mean": (MeanPooling(), FRAMES),
    "mean_images": (MeanPooling(normalize_input=True), IMAGES),
    "mean_std": (MeanStdPooling(), FRAMES),
    "attention": (AttentionPooling(), FRAMES),
    "attention_hidden": (AttentionPooling(hidden_units=3), IMAGES),
}
SIZES = {"rgb": 8, "audio": 4}
PADDED = np.array([6, 2, 0], "int32")


def main(directory):
    """Writes one `.keras` file a model and `golden.npz`."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    arrays = {}

    def keep(name, model, inputs):
        for weight in model.weights:
            if "seed_generator" not in weight.path:
                noise = rng.normal(0, 0.3, weight.shape)
                positive = "variance" in weight.path or "deviations" in weight.path
                weight.assign(1.0 + np.abs(noise) if positive else noise)
        save(name, model, inputs)

    def save(name, model, inputs):
        model.save(Path(directory, f"{name}.keras"))
        outputs = model(inputs, training=False)
        outputs = outputs if isinstance(outputs, dict) else {"output": outputs}
        for kind, values in (("inputs", inputs), ("outputs", outputs)):
            for key, value in values.items():
                value = ops.convert_to_numpy(value)
                arrays[f"{name}/{kind}/{key}"] = value.astype("float32") if value.dtype.kind == "V" else value

    for name, (layer, shape) in POOLINGS.items():
        dtype = "float64" if layer.compute_dtype == "float64" else "float32"
        frames = keras.Input(shape, name="frames", dtype=dtype)
        axis = 0 if getattr(layer, "data_format", None) == "channels_first" else len(shape) - 1
        positions = tuple(size for number, size in enumerate(shape) if number != axis)
        mask = keras.Input(positions, name="mask", dtype="bool")
        model = keras.Model({"frames": frames, "mask": mask}, layer(frames, mask=mask), name=name)
        inputs = {
            "frames": rng.normal(size=(3, *shape)).astype(dtype),
            "mask": rng.integers(0, 2, (3, *positions)).astype(bool),
        }
        inputs["mask"][2] = False
        keep(name, model, inputs)
        weights = inputs["mask"] * rng.uniform(0.5, 2, inputs["mask"].shape).astype("float32")
        results = {"unmasked": layer(inputs["frames"]), "weighted": layer(inputs["frames"], mask=weights)}
        if hasattr(layer, "assign"):
            results["assign"] = layer.assign(inputs["frames"], mask=inputs["mask"])
        if hasattr(layer, "aggregate"):
            sums = layer.aggregate(inputs["frames"], mask=inputs["mask"])
            if not isinstance(layer, NetFV):  # whose sums are around another origin since
                results.update(first_sum=sums[0], second_sum=sums[1])
            results["describe"] = layer.describe(*sums)
        arrays[f"{name}/inputs/weights"] = weights
        for key, value in results.items():
            value = ops.convert_to_numpy(value)
            arrays[f"{name}/outputs/{key}"] = value.astype("float32") if value.dtype.kind == "V" else value

    def single(name, layer, shape, dtype="float32", values=None):
        features = keras.Input(shape, name="features", dtype=dtype)
        values = rng.normal(size=(3, *shape)).astype(dtype) if values is None else values
        keep(name, keras.Model({"features": features}, layer(features), name=name), {"features": values})

    single("context_gating", ContextGating(), (8,))
    single("context_gating_options", ContextGating(False, 2), (8,))
    single("mixture_of_experts", MixtureOfExperts(4), (8,))
    single("mixture_of_experts_options", MixtureOfExperts(4, 3, dtype="mixed_bfloat16"), (8,))
    single("dequantize", Dequantize(), (6, 4), "uint8", rng.integers(0, 256, (3, 6, 4)).astype("uint8"))
    whitening = PCAWhitening(3)
    whitening.adapt(rng.normal(size=(40, 6)).astype("float32"))
    single("pca_whitening", whitening, (6,))

    frames, count = keras.Input((None, 4), name="frames"), keras.Input((), name="num_frames", dtype="int32")
    model = keras.Model({"frames": frames, "num_frames": count}, FrameMask()(count, frames), name="frame_mask")
    keep("frame_mask", model, {"frames": np.zeros((3, 6, 4), "float32"), "num_frames": PADDED})

    def backbone(pooled):
        layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, 2, "same", activation="relu")]
        layers += [keras.layers.GlobalAveragePooling2D()] if pooled else []
        return keras.Sequential(layers, name="backbone")

    single(
        "frame_encoder",
        FrameEncoder(backbone(True), preprocessing="MobileNetV2"),
        (2, 8, 8, 3),
        "uint8",
        rng.integers(0, 256, (3, 2, 8, 8, 3)).astype("uint8"),
    )

    def video(sizes, dtype="float32"):
        draw = (
            (lambda s: rng.integers(0, 256, s).astype(dtype))
            if dtype == "uint8"
            else (lambda s: rng.normal(size=s).astype(dtype))
        )
        return {**{name: draw((3, 6, size)) for name, size in sizes.items()}, "num_frames": PADDED}

    classifiers = {
        "classifier": VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=6),
        "classifier_mean": VideoClassifier({"frames": 4}, 3, pooling="mean", hidden_units=None, activation="softmax"),
        "classifier_bytes": VideoClassifier(SIZES, 3, num_clusters=2, hidden_units=5, input_dtype="uint8"),
        "classifier_mixed": VideoClassifier(SIZES, 3, {"rgb": 3, "audio": 2}, 5, dtype="mixed_bfloat16"),
        "classifier_options": VideoClassifier(
            SIZES,
            3,
            num_clusters=2,
            hidden_units=8,
            pooling_options={"rgb": {"num_ghost_clusters": 1}, "audio": {"use_bias": False}},
            dropout=0.5,
            hidden_batch_normalization=True,
            descriptor_batch_normalization=True,
            gate_features=True,
            gating_reduction=2,
            gate_scores=True,
            num_mixtures=2,
            classifier_regularizer="l2",
        ),
    }
    for preset in PRESETS:
        classifiers[f"preset_{preset}"] = VideoClassifier.from_preset(
            preset, 3, feature_sizes=SIZES, num_clusters={"rgb": 3, "audio": 2}, hidden_units=8
        )
    for name, model in classifiers.items():
        keep(
            name,
            model,
            video(
                SIZES if "rgb" in model.feature_sizes else {"frames": 4},
                "uint8" if name == "classifier_bytes" else "float32",
            ),
        )
    joined = ensemble([classifiers["classifier_options"], classifiers["classifier_mixed"]], [1, 2])
    save("ensemble", joined, video(SIZES))
    pixels = rng.integers(0, 256, (3, 5, 8, 8, 3)).astype("uint8")
    for name, encoder in {
        "pixels": FrameEncoder(backbone(True), "torchvision"),
        "pixels_maps": FrameEncoder(backbone(False)),
    }.items():
        model = from_pixels(encoder, VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None))
        keep(name, model, {"images": pixels, "num_frames": PADDED - 1})
    for mode in ("int8", "int4", "float8"):
        model = VideoClassifier({"frames": 8}, 4, num_clusters=2, hidden_units=8)
        for weight in model.weights:
            weight.assign(rng.normal(0, 0.3, weight.shape))
        model.quantize(mode)
        save(f"quantized_{mode}", model, video({"frames": 8}))
    arrays["canary"] = canary()
    np.savez_compressed(Path(directory, "golden.npz"), **arrays)


def canary():
    """Returns a product, a softmax and an inverse root: equal only if the processor rounds as the one that wrote it."""
    x = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(2, 50, 50)).astype("float32"))
    return ops.convert_to_numpy(ops.rsqrt(ops.sum(ops.square(ops.softmax(x @ x, axis=-1) @ x), axis=-1)))


if __name__ == "__main__":
    main(sys.argv[1])
