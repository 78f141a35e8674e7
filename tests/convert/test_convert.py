"""`keras_netvlad.convert`: weights in each peer's own format give the peer's own numbers.

The peers' forward passes are written out here in float64, with their axes, their order and their signs.
"""

import builtins
import pickle
import re
import runpy
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest
import scipy.io
import tensorflow as tf
from paths import ROOT
from selection import slow_except

from keras_netvlad import NetVLAD
from keras_netvlad.convert import from_arrays, from_loupe, from_matlab, from_pytorch, from_tfa, reorder_rows
from keras_netvlad.convert.tensor_files import read_h5

# Small, and different, so that no exchanged axes go unnoticed.
B, N, D, K, H = 2, 6, 5, 3, 4
# Float32 layer against float64 formula, values up to 2: 5e-7 measured, headroom 4.
TOLERANCE = 2e-6


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype("float32")


FRAMES = draw(B, N, D, seed=1)
MAPS = draw(B, 2, 3, D, seed=2)  # channels last, as Keras has them
NEXT_KERNEL = draw(K * D, H, seed=3)


def softmax(x, axis):
    exponentials = np.exp(x - x.max(axis=axis, keepdims=True))
    return exponentials / exponentials.sum(axis=axis, keepdims=True)


def unit(x, axis):
    return x / np.linalg.norm(x, axis=axis, keepdims=True)


def feature_major_netvlad(x, logits, centers):
    """`(B, D * K)` of TensorFlow Addons and LOUPE: x `(B, N, D)`, logits `(B, N, K)`, centers `(1, D, K)`."""
    assignment = softmax(logits, axis=2)
    vlad = np.einsum("bnk,bnd->bdk", assignment, x) - assignment.sum(axis=1)[:, None, :] * centers
    return unit(unit(vlad, axis=1).reshape(len(x), -1), axis=1)


def torch_netvlad(x, weight, bias, centroids, normalize_input=True, sign=-1.0):
    """`(B, K * D)` of the PyTorch family: x `(B, D, H, W)`, weight `(K, D, 1, 1)`, centroids `(K, D)`."""
    x = x.reshape(*x.shape[:2], -1)
    x = unit(x, axis=1) if normalize_input else x
    logits = np.einsum("kd,bdn->bkn", weight[:, :, 0, 0], x) + (0.0 if bias is None else bias[None, :, None])
    residuals = x[:, None] + sign * centroids[None, :, :, None]  # (B, K, D, N)
    vlad = (softmax(logits, axis=1)[:, :, None] * residuals).sum(axis=3)
    return unit(unit(vlad, axis=2).reshape(len(x), -1), axis=1)


def assert_same(actual, expected):
    np.testing.assert_allclose(np.asarray(actual), expected, atol=TOLERANCE)


def assert_same_scores(layer, inputs, descriptor, feature_major=True):
    """The layer, and the Dense behind it, give the peer's scores."""
    rows = reorder_rows(NEXT_KERNEL, K, D) if feature_major else NEXT_KERNEL
    assert_same(np.asarray(layer(inputs)) @ rows, descriptor @ NEXT_KERNEL.astype("float64"))
    if feature_major:  # and would not without the reordering
        assert np.abs(np.asarray(layer(inputs)) @ NEXT_KERNEL - descriptor @ NEXT_KERNEL).max() > 0.01


def values_of(layer):
    return [np.array(weight) for weight in layer.get_weights()]


# ---------------------------------------------------------------------------------------------- TensorFlow Addons

TFA = {"cluster_centers": draw(1, D, K, seed=4), "kernel": draw(D, K, seed=5), "bias": draw(K, seed=6)}


def write_tfa(path, root="", layers=("net_vlad",), suffix=":0"):
    with h5py.File(path, "w") as file:
        for number, name in enumerate(layers):
            dense = "dense" if number == 0 else f"dense_{number}"
            group = f"{root}{name}/{name}"
            file[f"{group}/cluster_centers{suffix}"] = TFA["cluster_centers"] + number
            file[f"{group}/{dense}/kernel{suffix}"] = TFA["kernel"]
            file[f"{group}/{dense}/bias{suffix}"] = TFA["bias"]
        file[f"{root}scores/scores/kernel:0"] = NEXT_KERNEL
        file[f"{root}scores/scores/bias:0"] = np.zeros(H)
        if root:  # as Keras 2 writes a compiled model: moments under the weights' names
            for moment in "mv":
                for name in ("cluster_centers", "dense/kernel", "dense/bias"):
                    file[f"optimizer_weights/Adam/{moment}/net_vlad/{name}:0"] = np.zeros(1)
    return path


def tfa_descriptor(x=FRAMES, centers=TFA["cluster_centers"]):
    x = x.astype("float64")
    return feature_major_netvlad(x, x @ TFA["kernel"] + TFA["bias"], centers)


@pytest.mark.parametrize("root", ["", "model_weights/"])
def test_tensorflow_addons_h5_gives_the_same_scores(tmp_path, root):
    path = write_tfa(tmp_path / "weights.h5", root)
    layer = from_tfa(path, name="pooling")
    assert_same_scores(layer, FRAMES, tfa_descriptor())
    assert (layer.name, layer.assignment, layer.use_bias, layer.normalize_input) == ("pooling", "dense", True, False)
    # TensorFlow Addons regularizes its assignment, so training goes on with the same loss.
    assert float(sum(layer.losses)) == pytest.approx(1e-5 * np.sum(TFA["kernel"] ** 2), rel=1e-5)


def test_tensorflow_addons_h5_that_numbers_its_weights(tmp_path):
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers/net_vlad/vars/0"] = TFA["cluster_centers"]
        file["layers/net_vlad/fc/vars/0"], file["layers/net_vlad/fc/vars/1"] = TFA["kernel"], TFA["bias"]
        file["layers/dense/vars/0"] = NEXT_KERNEL
        file["optimizer/vars/1"] = TFA["cluster_centers"]
    assert_same_scores(from_tfa(path), FRAMES, tfa_descriptor())


def test_tensorflow_addons_checkpoint_and_get_weights_and_npz(tmp_path):
    keras_2 = tf.Module()
    keras_2.net_vlad = tf.Module()
    keras_2.net_vlad.cluster_centers = tf.Variable(TFA["cluster_centers"])
    keras_2.net_vlad.fc = tf.Module()
    keras_2.net_vlad.fc.kernel, keras_2.net_vlad.fc.bias = tf.Variable(TFA["kernel"]), tf.Variable(TFA["bias"])
    prefix = tf.train.Checkpoint(model=keras_2).write(str(tmp_path / "weights"))
    np.savez(tmp_path / "weights.npz", **TFA)
    for source in (prefix, f"{prefix}.index", list(TFA.values()), TFA, str(tmp_path / "weights.npz")):
        assert_same(from_tfa(source)(FRAMES), np.asarray(from_tfa(TFA)(FRAMES)))
    assert_same_scores(from_tfa(prefix), FRAMES, tfa_descriptor())


def test_a_layer_name_says_which_of_several(tmp_path):
    path = write_tfa(tmp_path / "weights.h5", layers=("rgb", "audio"))
    with pytest.raises(
        ValueError, match=r"hold several NetVLADs; choose one with `layer_name`, .*'audio/audio/', 'rgb/rgb/'"
    ):
        from_tfa(path)
    assert_same(from_tfa(path, layer_name="audio").centroids, TFA["cluster_centers"][0].T + 1)
    with pytest.raises(ValueError, match=r"under layer_name='video'.*Received: .*rgb/rgb/cluster_centers"):
        from_tfa(path, layer_name="video")


def test_keras_3_files_of_tensorflow_addons_lack_the_assignment(tmp_path):
    with h5py.File(tmp_path / "lost.weights.h5", "w") as file:
        file["layers/net_vlad/vars/0"] = TFA["cluster_centers"]
    with pytest.raises(ValueError, match=r"cluster_centers; save the weights as \.h5 with .*layers/net_vlad/vars/0"):
        from_tfa(tmp_path / "lost.weights.h5")
    with pytest.raises(ValueError, match=r"one kernel of its assignment; save .*Received: .*/cluster_centers"):
        from_tfa({"net_vlad/cluster_centers": TFA["cluster_centers"]})
    (tmp_path / "model.keras").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"unzip model\.weights\.h5.*Received: .*model\.keras"):
        from_tfa(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"call the layer once first.*Received: shapes \[\(1, 5, 3\)\]"):
        from_tfa([TFA["cluster_centers"]])
    with pytest.raises(ValueError, match=r"`cluster_centers` .*shape \(1, features, clusters\).*\(5, 3\)"):
        from_tfa({**TFA, "cluster_centers": TFA["cluster_centers"][0]})


def test_ports_that_add_their_centers(tmp_path):
    """A fork with `x + C` stores `-c`; read without `negated=True`, its residuals are those of other centroids."""
    path = write_tfa(tmp_path / "weights.h5")
    expected = tfa_descriptor(centers=-TFA["cluster_centers"])
    assert_same_scores(from_tfa(path, negated=True), FRAMES, expected)
    assert np.abs(np.asarray(from_tfa(path)(FRAMES)) - np.asarray(from_tfa(path, negated=True)(FRAMES))).max() > 0.01


def test_links_out_of_an_h5_file_are_not_followed(tmp_path):
    write_tfa(tmp_path / "private.h5")
    with h5py.File(tmp_path / "links.h5", "w") as file:
        file["net_vlad"] = h5py.ExternalLink("private.h5", "/net_vlad")
    with pytest.raises(ValueError, match="Received: no tensors"):
        from_tfa(tmp_path / "links.h5")
    (tmp_path / "private.bin").write_bytes(TFA["cluster_centers"].tobytes())
    with h5py.File(tmp_path / "external.h5", "w") as file:
        for name, value in TFA.items():
            external = [(str(tmp_path / "private.bin"), 0, value.nbytes)]
            file.create_dataset(f"net_vlad/{name}:0", value.shape, "float32", external=external)
    with pytest.raises(ValueError, match="Received: no tensors"):
        from_tfa(tmp_path / "external.h5")


# -------------------------------------------------------------------------------------------------- LOUPE, WILLOW

LOUPE = {"cluster_weights": draw(D, K, seed=7), "cluster_weights2": draw(1, D, K, seed=8)}
BIAS = {"cluster_biases": draw(K, seed=9)}
NORMALIZATION = {
    "cluster_bn/gamma": draw(K, seed=10),
    "cluster_bn/beta": draw(K, seed=11),
    "cluster_bn/moving_mean": draw(K, seed=12),
    "cluster_bn/moving_variance": draw(K, seed=13) ** 2 * 0.01,  # near the epsilon, which then counts
}


def write_checkpoint(path, tensors):
    """A TensorFlow 1 checkpoint, with what its optimizer leaves there."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in tensors.items():
            tf.compat.v1.get_variable(name, initializer=value)
            tf.compat.v1.get_variable(f"{name}/Adam", initializer=np.zeros_like(value))
            tf.compat.v1.get_variable(f"{name}/ExponentialMovingAverage", initializer=np.zeros_like(value))
        tf.compat.v1.get_variable("global_step", initializer=np.int64(1000))
        session.run(tf.compat.v1.global_variables_initializer())
        return tf.compat.v1.train.Saver().save(session, str(path / "model.ckpt"), global_step=1000)


def loupe_descriptor(x, tensors):
    x = x.astype("float64")
    logits = x @ tensors["cluster_weights"]
    if "cluster_biases" in tensors:
        logits = logits + tensors["cluster_biases"]
    else:  # slim.batch_norm in inference, its epsilon 0.001
        deviation = np.sqrt(tensors["cluster_bn/moving_variance"].astype("float64") + 0.001)
        logits = (logits - tensors["cluster_bn/moving_mean"]) / deviation
        logits = logits * tensors.get("cluster_bn/gamma", 1.0) + tensors.get("cluster_bn/beta", 0.0)
    return feature_major_netvlad(x, logits, tensors["cluster_weights2"])


def without(tensors, *names):
    return {name: value for name, value in tensors.items() if name not in names}


@pytest.mark.parametrize(
    ("assignment", "use_bias"),
    [
        (BIAS, True),
        (NORMALIZATION, True),
        (without(NORMALIZATION, "cluster_bn/beta"), False),
        (without(NORMALIZATION, "cluster_bn/gamma"), True),
    ],
    ids=["bias", "batch_normalization", "no_beta", "no_gamma"],
)
def test_loupe_checkpoint_gives_the_same_scores(tmp_path, assignment, use_bias):
    tensors = {**LOUPE, **assignment}
    layer = from_loupe(write_checkpoint(tmp_path, {**tensors, "hidden1_weights": NEXT_KERNEL}))
    assert_same_scores(layer, FRAMES, loupe_descriptor(FRAMES, tensors))
    assert layer.use_bias is use_bias
    assert layer.assignment_batch_normalization is ("cluster_biases" not in assignment)


def test_willow_checkpoint_with_two_streams(tmp_path):
    """One hidden layer behind two descriptors: each one's rows are reordered by themselves."""
    video, audio = {**LOUPE, **NORMALIZATION}, {name: value[..., :2] for name, value in {**LOUPE, **BIAS}.items()}
    hidden = draw(D * K + D * 2, H, seed=14)
    prefix = write_checkpoint(
        tmp_path,
        {
            **{f"tower/video_VLAD/{name}": value for name, value in video.items()},
            **{f"tower/audio_VLAD/{name}": value for name, value in audio.items()},
            "tower/hidden1_weights": hidden,
        },
    )
    with pytest.raises(ValueError, match="choose one with `scope`, one of 'tower/audio_VLAD/', 'tower/video_VLAD/'"):
        from_loupe(prefix)
    layers = [from_loupe(prefix, scope=scope) for scope in ("video_VLAD", "tower/audio_VLAD/")]
    descriptor = np.concatenate([np.asarray(layer(FRAMES)) for layer in layers], axis=1)
    rows = np.concatenate([reorder_rows(hidden[: D * K], K, D), reorder_rows(hidden[D * K :], 2, D)])
    expected = np.concatenate([loupe_descriptor(FRAMES, video), loupe_descriptor(FRAMES, audio)], axis=1) @ hidden
    assert_same(descriptor @ rows, expected)


def test_loupe_keeps_training_as_the_checkpoint_would():
    layer = from_loupe({**LOUPE, **NORMALIZATION})
    layer(FRAMES, training=True)
    moved = np.asarray(layer.batch_normalization.moving_mean) - NORMALIZATION["cluster_bn/moving_mean"]
    assert np.abs(moved).max() > 1e-4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "mixed_float16"])
def test_statistics_keep_float32_in_a_layer_of_16_bits(dtype):
    rng = np.random.default_rng(0)
    statistics = {"moving_mean": np.array([1.2345678, 2.3456789]), "moving_variance": np.array([1.1111111, 0.3333333])}
    layer = from_arrays(rng.normal(size=(3, 2)), rng.normal(size=(2, 3)), batch_normalization=statistics, dtype=dtype)
    for name, value in statistics.items():
        stored = getattr(layer.batch_normalization, name)
        assert stored.dtype == "float32"
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(stored), value.astype("float32"))


def test_a_missing_gamma_is_one_also_in_a_layer_that_had_another():
    layer = from_loupe({**LOUPE, **NORMALIZATION})
    from_loupe({**LOUPE, **without(NORMALIZATION, "cluster_bn/gamma")}, layer=layer)
    np.testing.assert_array_equal(layer.batch_normalization.gamma, np.ones(K))


@pytest.mark.needs_torch
def test_loupe_checkpoints_of_other_pooling_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cluster_weights and cluster_weights2; .*Received: .*cluster_weights"):
        from_loupe(without({**LOUPE, **BIAS}, "cluster_weights2"))  # NetRVLAD
    with pytest.raises(ValueError, match=r"must be of a NetVLAD; a NetFV .*Received: covar_weights"):
        from_loupe({**LOUPE, **BIAS, "covar_weights": draw(D, K)})
    with pytest.raises(ValueError, match="either cluster_biases or cluster_bn/moving_mean"):
        from_loupe(LOUPE)
    with pytest.raises(ValueError, match=r"must be a dict of moving_mean, moving_variance .*Received: .*'gamma'"):
        from_loupe({**LOUPE, **without(NORMALIZATION, "cluster_bn/moving_mean")})
    with pytest.raises(ValueError, match="prefix of a whole TensorFlow checkpoint"):
        from_loupe(tmp_path / "nothing.ckpt")


# --------------------------------------------------------------------------------------------------- PyTorch ports

TORCH = {"conv.weight": draw(K, D, 1, 1, seed=15), "centroids": draw(K, D, seed=16)}
CHANNELS_FIRST = MAPS.transpose(0, 3, 1, 2).astype("float64")


def save_torch(path, content):
    torch = pytest.importorskip("torch", reason="`make backends` installs torch")

    def as_tensors(value):
        if isinstance(value, dict):
            return {name: as_tensors(item) for name, item in value.items()}
        return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value

    torch.save(as_tensors(content), path)
    return path


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("prefix", ["", "pool.", "module.aggregation.0."])
def test_pytorch_state_dict_gives_the_same_scores(tmp_path, prefix, wrapped):
    """Nanne, Patch-NetVLAD, gmberton: cluster-major, so the rows behind stay where they are."""
    content = {prefix + name: value for name, value in TORCH.items()} | {"encoder.0.weight": draw(2, 2)}
    if wrapped:
        content = {"epoch": 3, "state_dict": content, "optimizer": {"state": {0: {"step": 1.0}}, "param_groups": []}}
    layer = from_pytorch(save_torch(tmp_path / "checkpoint.pth", content), data_format="channels_last")
    expected = torch_netvlad(CHANNELS_FIRST, TORCH["conv.weight"], None, TORCH["centroids"])
    assert_same_scores(layer, MAPS, expected, feature_major=False)
    assert (layer.assignment, layer.use_bias, layer.normalize_input) == ("conv", False, True)


def test_pytorch_maps_may_stay_channels_first():
    layer = from_pytorch(TORCH, data_format="channels_first")
    assert_same(layer(CHANNELS_FIRST), torch_netvlad(CHANNELS_FIRST, TORCH["conv.weight"], None, TORCH["centroids"]))


def test_lyakaap_bias_is_taken_as_stored(tmp_path):
    """Its bias is `-alpha ||c||` where `-alpha ||c||^2` was meant; the network was trained with it."""
    alpha, centroids = 4.0, TORCH["centroids"]
    bias = -alpha * np.linalg.norm(centroids, axis=1)
    stored = {"conv.weight": 2 * alpha * centroids[:, :, None, None], "conv.bias": bias, "centroids": centroids}
    layer = from_pytorch(save_torch(tmp_path / "lyakaap.pth", stored), data_format="channels_last")
    np.testing.assert_array_equal(layer.bias, bias)
    expected = torch_netvlad(CHANNELS_FIRST, stored["conv.weight"], bias, centroids)
    assert_same_scores(layer, MAPS, expected, feature_major=False)
    corrected = torch_netvlad(CHANNELS_FIRST, stored["conv.weight"], -alpha * np.sum(centroids**2, axis=1), centroids)
    assert np.abs(expected - corrected).max() > 0.01


def test_pytorch_residual_with_plus_and_without_input_normalization():
    layer = from_pytorch(TORCH, negated=True, normalize_input=False, data_format="channels_last")
    stored = TORCH["conv.weight"], None, TORCH["centroids"]
    assert_same(layer(MAPS), torch_netvlad(CHANNELS_FIRST, *stored, normalize_input=False, sign=1.0))


def test_gmberton_tokens_have_a_dense_assignment():
    layer = from_pytorch({**TORCH, "conv.weight": TORCH["conv.weight"][..., 0]})
    expected = torch_netvlad(FRAMES.transpose(0, 2, 1)[..., None], TORCH["conv.weight"], None, TORCH["centroids"])
    assert_same(layer(FRAMES), expected)
    assert layer.assignment == "dense"


@pytest.mark.parametrize("bias", [None, draw(K, seed=17)], ids=["no_bias", "bias"])
def test_hloc_gives_the_same_scores(tmp_path, bias):
    """Centers `(D, K)` and a feature-major descriptor; its whitening is a Linear, `(H, D * K)`."""
    weight, centers = draw(K, D, 1, seed=18), draw(D, K, seed=19)
    stored = {"netvlad.score_proj.weight": weight, "netvlad.centers": centers, "whiten.weight": NEXT_KERNEL.T}
    stored |= {} if bias is None else {"netvlad.score_proj.bias": bias}
    x = unit(FRAMES.transpose(0, 2, 1).astype("float64"), axis=1)  # (B, D, N)
    logits = np.einsum("kd,bdn->bkn", weight[..., 0], x) + (0.0 if bias is None else bias[None, :, None])
    residuals = x[:, :, None] - centers[None, :, :, None]  # (B, D, K, N)
    vlad = unit((softmax(logits, axis=1)[:, None] * residuals).sum(axis=3), axis=1)
    layer = from_pytorch(save_torch(tmp_path / "hloc.pth", stored))
    assert_same_scores(layer, FRAMES, unit(vlad.reshape(B, -1), axis=1))


def test_a_prefix_says_which_of_several():
    both = {f"{scope}.{name}": value for scope in ("student.pool", "teacher.pool") for name, value in TORCH.items()}
    both["teacher.pool.centroids"] = TORCH["centroids"] + 1
    with pytest.raises(ValueError, match=r"choose one with `prefix`, one of 'student\.pool\.', 'teacher\.pool\.'"):
        from_pytorch(both)
    with pytest.raises(ValueError, match=r"several NetVLADs under prefix='pool'"):
        from_pytorch(both, prefix="pool")
    for prefix in ("teacher.pool", "teacher.pool."):
        assert_same(from_pytorch(both, prefix=prefix).centroids, TORCH["centroids"] + 1)
    with pytest.raises(
        ValueError,
        match=r"conv\.weight and centroids or score_proj\.weight and centers under prefix='x'.*Received: student\.pool",
    ):
        from_pytorch(both, prefix="x")


@pytest.mark.needs_torch
def test_pytorch_half_precision_is_read():
    torch = pytest.importorskip("torch", reason="`make backends` installs torch")
    state = {name: torch.from_numpy(value).bfloat16().requires_grad_() for name, value in TORCH.items()}
    np.testing.assert_allclose(from_pytorch(state).centroids, TORCH["centroids"], rtol=2**-8)


class Malicious:
    """A crafted file that calls a function of its choice on `pickle.load`."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.needs_torch
def test_code_in_a_pytorch_file_is_refused_and_not_run(tmp_path):
    torch = pytest.importorskip("torch", reason="`make backends` installs torch")
    trace = tmp_path / "trace"
    message = "must hold tensors only.*could run code.*save `model.state_dict\\(\\)` alone.*Received: .*other objects"
    torch.save({**TORCH, "x": Malicious(trace)}, tmp_path / "new.pth")
    torch.save({**TORCH, "x": Malicious(trace)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Malicious(trace), protocol=2))
    assert not trace.exists()
    for name in ("new.pth", "old.pth", "raw.pth"):
        with pytest.raises(ValueError, match=message):
            from_pytorch(tmp_path / name)
        assert not trace.exists()
    # The files are armed.
    pickle.loads((tmp_path / "raw.pth").read_bytes()).close()
    assert trace.exists()


@pytest.mark.slow
def test_arrays_that_declare_more_than_their_file_holds_are_refused_before_memory_is_taken(tmp_path):
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        for name, value in TFA.items():
            file[name] = value
        del file["cluster_centers"]
        file.create_dataset("cluster_centers", (1, 10**6, 10**6), "float32", chunks=True)  # no values are stored
    with pytest.raises(ValueError, match=r"weights.h5 \(the file has .* declares `cluster_centers` of 4,000,"):
        from_tfa(tmp_path / "weights.h5")
    np.savez_compressed(tmp_path / "weights.npz", **{**TFA, "cluster_centers": np.zeros((1, 1 << 13, 1 << 13))})
    with pytest.raises(ValueError, match=r"Received: .*weights.npz \(the file has .* declares arrays of 536,"):
        from_tfa(tmp_path / "weights.npz")


@pytest.mark.needs_torch
def test_a_torch_tensor_that_repeats_one_number_takes_no_memory(tmp_path):
    import torch

    huge = torch.zeros(1).expand(8, 10**9, 1, 1)
    torch.save({"conv.weight": huge, "centroids": torch.zeros(8, 10)}, tmp_path / "huge.pth")
    with pytest.raises(ValueError, match=r"must store their numbers; .* shape \(8, 1000000000, 1, 1\) with 4 "):
        from_pytorch(tmp_path / "huge.pth")


@pytest.mark.needs_torch
def test_a_compressed_torch_file_is_refused(tmp_path):
    path = save_torch(tmp_path / "whole.pth", TORCH)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "zip.pth", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(ValueError, match=r"Received: .*zip.pth \(the file is a compressed ZIP archive"):
        from_pytorch(tmp_path / "zip.pth")


def test_code_in_an_npz_file_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "trace"
    np.savez(tmp_path / "weights.npz", **{**TFA, "bias": np.array([Malicious(trace)], dtype=object)})
    with pytest.raises(ValueError, match=r"weights.npz \(`bias` holds Python objects, which are not read"):
        from_tfa(tmp_path / "weights.npz")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Malicious(trace)))
    with pytest.raises(ValueError, match=r"whole \.npz file of numeric arrays"):
        from_pytorch(tmp_path / "pickle.npz")
    assert not trace.exists()


@pytest.mark.needs_torch
def test_an_unsafe_pytorch_is_refused(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="`make backends` installs torch")
    path = save_torch(tmp_path / "weights.pth", TORCH)
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(ImportError, match=r"needs PyTorch 2\.6 or newer.*Received: 2\.5\.1"):
        from_pytorch(path)


@pytest.mark.needs_torch
def test_pytorch_files_of_something_else(tmp_path):
    torch = pytest.importorskip("torch", reason="`make backends` installs torch")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"must hold a state_dict.*Received: .*list\.pth, which holds a list"):
        from_pytorch(tmp_path / "list.pth")
    (tmp_path / "cut.pth").write_bytes(save_torch(tmp_path / "whole.pth", TORCH).read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cut\.pth"):
        from_pytorch(tmp_path / "cut.pth")
    with pytest.raises(ValueError, match=r"a convolution over single positions; .*Received: shape \(3, 5, 3, 3\)"):
        from_pytorch({**TORCH, "conv.weight": draw(K, D, 3, 3)})
    with pytest.raises(TypeError, match=r"must be a file of torch\.save\(\).*Received: int"):
        from_pytorch(3)


# --------------------------------------------------------------------------------------------------------- MATLAB

MATLAB_KERNEL, MATLAB_CENTERS, MATLAB_BIAS = draw(D, K, seed=20), draw(D, K, seed=21), draw(1, K, seed=22)


def write_matlab(path, weights, normalizations=("preL2", "vlad:intranorm"), core="vlad:core"):
    cell = np.empty((1, len(weights)), dtype=object)
    for index, weight in enumerate(weights):
        cell[0, index] = weight
    layers = [{"name": "conv5_3", "type": "conv", "weights": cell[:, :1]}, {"name": "relu", "type": "relu"}]
    layers += [{"name": "preL2", "type": "normalize"}] * ("preL2" in normalizations)
    layers += [{"name": core, "type": "custom", "K": float(K), "D": float(D), "weights": cell}]
    layers += [{"name": "vlad:intranorm", "type": "normalize"}] * ("vlad:intranorm" in normalizations)
    layers += [{"name": "postL2", "type": "custom"}]
    cells = np.empty((1, len(layers)), dtype=object)
    for index, layer in enumerate(layers):
        cells[0, index] = layer
    scipy.io.savemat(path, {"net": {"layers": cells, "meta": {"epoch": 1.0}}})
    return path


def matlab_descriptor(maps, bias, normalize_input=True, intra=True):
    """Adds its stored centers, `(D, K)`, and flattens `(1, K, D)` column by column: feature-major."""
    x = maps.reshape(B, -1, D).astype("float64")
    x = x / np.sqrt((x**2).sum(axis=2, keepdims=True) + 1e-12) if normalize_input else x
    assignment = softmax(x @ MATLAB_KERNEL + (0.0 if bias is None else bias), axis=2)
    y = np.zeros((B, K, D))
    for k in range(K):
        y[:, k] = (assignment[:, :, k, None] * (x + MATLAB_CENTERS[:, k])).sum(axis=1)
    y = unit(y, axis=2) if intra else y
    return unit(np.stack([item.ravel(order="F") for item in y]), axis=1)


@pytest.mark.parametrize("shaped", slow_except([False, True], True), ids=["(D, K)", "(1, 1, D, K)"])
@pytest.mark.parametrize("bias", [None, MATLAB_BIAS], ids=["v1", "v2"])
def test_matlab_struct_gives_the_same_scores(tmp_path, bias, shaped):
    """Centroids are stored negated, the assignment is not."""
    kernel, centers = (w.reshape(1, 1, D, K) if shaped else w for w in (MATLAB_KERNEL, MATLAB_CENTERS))
    weights = [kernel, centers] if bias is None else [kernel, bias, centers]
    layer = from_matlab(write_matlab(tmp_path / "net.mat", weights), data_format="channels_last")
    assert_same_scores(layer, MAPS, matlab_descriptor(MAPS, bias))
    assert_same_scores(from_matlab(weights, data_format="channels_last"), MAPS, matlab_descriptor(MAPS, bias))
    np.testing.assert_array_equal(layer.centroids, -MATLAB_CENTERS.T)
    np.testing.assert_array_equal(layer.kernel, MATLAB_KERNEL[None, None])
    assert (layer.assignment, layer.use_bias) == ("conv", bias is not None)


@pytest.mark.slow
def test_matlab_normalizations_are_those_of_the_network(tmp_path):
    path = write_matlab(tmp_path / "net.mat", [MATLAB_KERNEL, MATLAB_CENTERS], normalizations=())
    expected = matlab_descriptor(MAPS, None, normalize_input=False, intra=False)
    assert_same_scores(from_matlab(path, data_format="channels_last"), MAPS, expected)
    given = from_matlab(path, normalize_input=True, intra_normalization=True, data_format="channels_last")
    assert_same_scores(given, MAPS, matlab_descriptor(MAPS, None))
    layer = NetVLAD(K, use_bias=False)
    with pytest.raises(ValueError, match=r"intra_normalization=False; .*Received: intra_normalization=True"):
        from_matlab(path, layer=layer)


@pytest.mark.slow
def test_matlab_files_that_cannot_be_read(tmp_path):
    h5py.File(tmp_path / "new.mat", "w", userblock_size=512).close()
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    with open(tmp_path / "new.mat", "r+b") as file:
        file.write(header)
    with pytest.raises(ValueError, match=r"version 7 or older.*'-v7'.*Received: .*new\.mat, of version 7\.3"):
        from_matlab(tmp_path / "new.mat")
    (tmp_path / "cut.mat").write_bytes(b"MATLAB")
    with pytest.raises(ValueError, match=r"a complete \.mat file"):
        from_matlab(tmp_path / "cut.mat")
    scipy.io.savemat(tmp_path / "other.mat", {"clsts": MATLAB_CENTERS})
    with pytest.raises(ValueError, match=r"a network `net` with a field `layers`; .*which holds clsts"):
        from_matlab(tmp_path / "other.mat")
    path = write_matlab(tmp_path / "pool.mat", [MATLAB_KERNEL], core="max:core")
    with pytest.raises(ValueError, match=r"one VLAD layer .*cellfun.*Received: 0 such among the layers conv5_3, relu"):
        from_matlab(path)
    two = np.empty(2, object)
    two[:] = [{"name": f"vlad:core{n}", "weights": np.array([MATLAB_KERNEL, MATLAB_CENTERS])} for n in range(2)]
    scipy.io.savemat(tmp_path / "two.mat", {"net": {"layers": two}})
    with pytest.raises(ValueError, match=r"one VLAD layer .*Received: 2 such among the layers vlad:core0, vlad:core1"):
        from_matlab(tmp_path / "two.mat")
    with pytest.raises(ValueError, match=r"\[W, -C\] \(v1\) or \[W, b, -C\] \(v2\).*Received: 1 weights"):
        from_matlab([MATLAB_KERNEL])
    with pytest.raises(ValueError, match=r"`W` must be of shape \(features, clusters\).*\(5,\)"):
        from_matlab([MATLAB_KERNEL[:, 0], MATLAB_CENTERS])
    with pytest.raises(TypeError, match=r"a \.mat file or a list of arrays. Received: int"):
        from_matlab(3)


# ------------------------------------------------------------------------------------- arrays, given layers, rows


def test_reorder_rows_is_the_transposition_of_the_flatten():
    blocks = draw(2, K, D)
    feature_major = blocks.transpose(0, 2, 1).reshape(2, -1)
    np.testing.assert_array_equal(reorder_rows(feature_major[0], K, D), blocks[0].ravel())
    assert_same(blocks.reshape(2, -1) @ reorder_rows(NEXT_KERNEL, K, D), feature_major @ NEXT_KERNEL)
    assert reorder_rows(NEXT_KERNEL, K, D).dtype == NEXT_KERNEL.dtype
    with pytest.raises(ValueError, match=r"5 \* 3 = 15 values .*transpose.*Received: shape \(4, 15\)"):
        reorder_rows(NEXT_KERNEL.T, K, D)
    with pytest.raises(ValueError, match="`num_clusters` must be a positive integer"):
        reorder_rows(NEXT_KERNEL, 0, D)


def test_a_port_without_intra_normalization_says_so():
    layer = from_tfa(TFA, intra_normalization=False, output_normalization=False)
    x = FRAMES.astype("float64")
    assignment = softmax(x @ TFA["kernel"] + TFA["bias"], axis=2)
    residuals = x[:, :, None] - TFA["cluster_centers"][0].T  # (B, N, K, D)
    # Sums of 6 frames, not unit vectors: 1e-6 measured, headroom 10.
    np.testing.assert_allclose(layer(FRAMES), (assignment[..., None] * residuals).sum(axis=1).reshape(B, -1), atol=1e-5)


@pytest.mark.parametrize("assignment", ["dense", "conv"])
@pytest.mark.parametrize("built", [False, True])
def test_a_given_layer_gets_the_weights(assignment, built):
    layer = NetVLAD(K, assignment=assignment, name="mine")
    if built:
        layer(FRAMES)
    assert from_tfa(TFA, layer=layer) is layer
    assert_same_scores(layer, FRAMES, tfa_descriptor())


def test_a_converted_layer_saves_and_trains(tmp_path):
    inputs = keras.Input((None, D))
    outputs = keras.layers.Dense(H, name="scores")(from_tfa(TFA)(inputs))
    model = keras.Model(inputs, outputs)
    model.get_layer("scores").set_weights([reorder_rows(NEXT_KERNEL, K, D), np.zeros(H)])
    assert_same(model(FRAMES), tfa_descriptor() @ NEXT_KERNEL.astype("float64"))
    model.save(tmp_path / "model.keras")
    assert_same(keras.saving.load_model(tmp_path / "model.keras")(FRAMES), np.asarray(model(FRAMES)))
    model.compile("sgd", "mse")
    assert np.isfinite(model.fit(FRAMES, draw(B, H), verbose=0).history["loss"][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_clusters": 4}, "options of the weights, num_clusters=3; .*Received: num_clusters=4"),
        ({"use_bias": False}, "use_bias=True.*Received: use_bias=False"),
        ({"normalize_input": True}, "normalize_input=False.*Received: normalize_input=True"),
        ({"intra_normalization": False}, "intra_normalization=True.*Received: intra_normalization=False"),
        ({"output_normalization": False}, "output_normalization=True.*Received: output_normalization=False"),
        ({"num_ghost_clusters": 1}, "num_ghost_clusters=0.*Received: num_ghost_clusters=1"),
        ({"assignment_batch_normalization": True}, "assignment_batch_normalization=False.*Received: .*=True"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_layer_with_other_options_is_refused_and_unchanged(options, message):
    layer = NetVLAD(**{"num_clusters": K, **options})
    with pytest.raises(ValueError, match=message):
        from_tfa(TFA, layer=layer)
    assert not layer.built
    layer(FRAMES)
    before = values_of(layer)
    with pytest.raises(ValueError, match=message):
        from_tfa(TFA, layer=layer)
    for left, right in zip(values_of(layer), before, strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_layer_of_another_feature_size_or_kind_is_refused():
    layer = NetVLAD(K)
    layer.build((None, None, D + 1))
    with pytest.raises(ValueError, match=r"features of size 5; .*Received: a layer built for size 6"):
        from_tfa(TFA, layer=layer)
    with pytest.raises(TypeError, match=r"`layer` must be a keras_netvlad\.NetVLAD.*Received: Dense"):
        from_tfa(TFA, layer=keras.layers.Dense(3))
    with pytest.raises(ValueError, match=r"Options are for a new layer; .*Received: name"):
        from_tfa(TFA, layer=NetVLAD(K), name="pooling")
    with pytest.raises(ValueError, match=r"The weights themselves decide .*Received: num_clusters"):
        from_tfa(TFA, num_clusters=K)


ARRAYS = {"kernel": draw(D, K), "centroids": draw(K, D)}


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"centroids": draw(1, K, D)}, ValueError, r"`centroids` must be of shape \(clusters, features\).*\(1, 3, 5\)"),
        ({"kernel": draw(K, D)}, ValueError, r"must be of shape \(5, 3\) or \(1, 1, 5, 3\) .*shape \(3, 5\)"),
        ({"bias": draw(1, K)}, ValueError, r"`bias` must be of shape \(3,\), .*shape \(1, 3\)"),
        ({"bias": np.full(K, np.nan)}, ValueError, "`bias` must be finite; .*Received: 3 values"),
        ({"kernel": np.full((D, K), "a")}, TypeError, "`kernel` must hold real numbers; .*Received: dtype str"),
        ({"batch_normalization": {"mean": 0}}, ValueError, r"dict of moving_mean.*Received: \['mean'\]"),
        (
            {"batch_normalization": {"moving_mean": draw(K), "moving_variance": -np.ones(K)}},
            ValueError,
            r"moving variance must not be negative.*from -1\.0",
        ),
        (
            {"bias": draw(K), "batch_normalization": {"moving_mean": draw(K), "moving_variance": np.ones(K)}},
            ValueError,
            "biased or batch-normalized, not both",
        ),
        ({"negated": "yes"}, ValueError, "`negated` must be True or False"),
        ({"normalize_input": 1}, ValueError, "`normalize_input` must be True or False"),
        ({"kernel": draw(D, K) * 1e9, "dtype": "float16"}, ValueError, "must fit the layer's float16 variables"),
    ],
)
def test_arrays_that_are_no_netvlad_are_refused_in_one_sentence(arrays, error, message):
    with pytest.raises(error, match=message) as caught:
        from_arrays(**{**ARRAYS, **arrays})
    assert "\n" not in str(caught.value)
    assert len(re.findall(r"Received:", str(caught.value))) == 1


def test_files_that_are_not_there_or_damaged(tmp_path):
    for reader, name in ((from_tfa, "a.h5"), (from_pytorch, "a.pth"), (from_matlab, "a.mat"), (from_loupe, "a.npz")):
        with pytest.raises(FileNotFoundError, match=f"check the path. Received: .*{name}, no file"):
            reader(tmp_path / name)
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF")
    with pytest.raises(ValueError, match="a whole HDF5 file; copy or save the file again"):
        from_tfa(tmp_path / "cut.h5")


@pytest.mark.parametrize(
    ("library", "reader", "name", "install"),
    [
        ("h5py", from_tfa, "a.h5", r"pip install 'keras_netvlad\[convert\]'"),
        ("scipy", from_matlab, "a.mat", r"pip install 'keras_netvlad\[convert\]'"),
        ("torch", from_pytorch, "a.pth", "pip install torch"),
    ],
)
def test_an_absent_library_is_named_with_its_extra(tmp_path, monkeypatch, library, reader, name, install):
    (tmp_path / name).touch()
    real_import = builtins.__import__

    def failing_import(module, *arguments, **keywords):
        if module.split(".")[0] == library:
            raise ImportError(module)
        return real_import(module, *arguments, **keywords)

    for module in [m for m in sys.modules if m == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", failing_import)
    with pytest.raises(ImportError, match=f"which is not installed. Install it with `{install}`"):
        reader(tmp_path / name)


def test_long_lists_of_names_are_cut():
    with pytest.raises(ValueError, match=r"Received: encoder\.0, .* and 8 more$"):
        from_pytorch({f"encoder.{index}": draw(1) for index in range(20)})


def test_code_of_the_migration_guide_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "migration.md").read_text(), flags=re.DOTALL)
    assert blocks
    exec(compile("\n".join(blocks), "migration.md", "exec"), {"__name__": "guide"})


@pytest.mark.parametrize("given", [False, True])
def test_the_example_migrates_with_the_same_scores(tmp_path, monkeypatch, capsys, given):
    example = ROOT / "examples" / "migrate_from_tfa.py"
    monkeypatch.chdir(tmp_path)
    arguments = ["--weights", str(write_tfa(tmp_path / "weights.h5"))] if given else []
    monkeypatch.setattr(sys, "argv", [str(example), *arguments])
    runpy.run_path(str(example), run_name="__main__")
    difference = re.search(r"largest difference to the old model's: (\S+)", capsys.readouterr().out)[1]
    assert float(difference) < TOLERANCE
    assert (tmp_path / "migrated.keras").is_file()


def test_names_in_hdf5_files_that_are_no_text_are_read(tmp_path):
    with h5py.File(tmp_path / "bytes.h5", "w") as file:
        file.create_dataset(b"kernel\xff", data=[1.0, 2.0])
    ((name, read),) = read_h5(tmp_path / "bytes.h5").items()
    assert name == r"kernel\xff"
    assert read().tolist() == [1.0, 2.0]
