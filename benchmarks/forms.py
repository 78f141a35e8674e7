"""The forms of NetVLAD that are compared: the bare products, this layer, other packages', textbook ones.

Each is a function of a framework (a module of `benchmarks.backends`), numbers (`problem.arrays`) and a dtype that
returns a function of weights and inputs, the weights, and the inputs. All but the chain are checked against the
equations before they are timed.
"""

from functools import partial

import numpy as np

from benchmarks import backends, problem

# Measured up to 3e-7 over all forms and sizes in float32.
TOLERANCE = 1e-5
# Measured up to 7e-3 with bfloat16 inputs, factors and outputs.
BFLOAT16_TOLERANCE = 5e-2
WHATS = ("forward", "training step")


def chain(framework, given, dtype="float32"):
    """The two matrix products and nothing else."""
    return framework.chain, [framework.variable(given["kernel"], dtype)], (framework.tensor(given["frames"], dtype),)


def netvlad(framework, given, dtype="float32", masked=False):
    """This package's layer; under bfloat16 with products of bfloat16, too."""
    from keras_netvlad import NetVLAD

    layer = NetVLAD(
        len(given["centroids"]),
        product_dtype="bfloat16" if dtype == "bfloat16" else None,
        dtype=dtype if dtype == "float32" else f"mixed_{dtype}",
    )
    layer.build(given["frames"].shape)
    for name in ("kernel", "bias", "centroids"):
        getattr(layer, name).assign(given[name])
    inputs = [framework.tensor(given["frames"], dtype)]
    if masked:
        inputs.append(framework.tensor(given["mask"], "bool"))
    return *framework.layer_function(layer), tuple(inputs)


def residual_broadcast(framework, given, dtype="float32"):
    """The equation as it stands, with all residuals `(B, N, K, D)` at once; TensorFlow."""
    import tensorflow as tf

    def function(weights, frames):
        kernel, bias, centroids = weights
        assignments = tf.nn.softmax(tf.tensordot(frames, kernel, 1) + bias)
        residuals = frames[:, :, None] - centroids
        return _normalized(tf.reduce_sum(assignments[..., None] * residuals, axis=1))

    return function, _weights(framework, given), (framework.tensor(given["frames"]),)


def cluster_loop(framework, given, dtype="float32"):
    """The residuals of one cluster after the other; TensorFlow."""
    import tensorflow as tf

    def function(weights, frames):
        kernel, bias, centroids = weights
        assignments = tf.nn.softmax(tf.tensordot(frames, kernel, 1) + bias)
        sums = [
            tf.reduce_sum(assignments[..., k, None] * (frames - centroids[k]), axis=1)
            for k in range(centroids.shape[0])
        ]
        return _normalized(tf.stack(sums, axis=1))

    return function, _weights(framework, given), (framework.tensor(given["frames"]),)


def tensorflow_addons(framework, given, dtype="float32"):
    """TensorFlow Addons' layer, D-major."""
    from tensorflow_addons.layers.netvlad import NetVLAD

    layer = NetVLAD(len(given["centroids"]))
    frames = framework.tensor(given["frames"])
    layer(frames[:1])
    by_shape = {given[name].shape: given[name] for name in ("kernel", "bias")}
    for weight in layer.trainable_weights:
        value = by_shape.get(tuple(weight.shape))
        weight.assign(given["centroids"].T[None] if value is None else value)
    return (lambda weights, frames: layer(frames)), layer.trainable_weights, (frames,)


def patchnetvlad(framework, given, dtype="float32"):
    """The layer of the package `patchnetvlad`, a loop over clusters; PyTorch, features before positions."""
    import torch
    from patchnetvlad.models.netvlad import NetVLAD

    num_clusters, feature_size = given["centroids"].shape
    # As ours: no normalization of the input, and a bias.
    layer = NetVLAD(num_clusters, feature_size, normalize_input=False, vladv2=True).to(framework.DEVICE)
    with torch.no_grad():
        layer.conv.weight.copy_(framework.tensor(given["kernel"]).T[..., None, None])
        layer.conv.bias.copy_(framework.tensor(given["bias"]))
        layer.centroids.copy_(framework.tensor(given["centroids"]))
    frames = framework.tensor(np.ascontiguousarray(given["frames"].swapaxes(1, 2)))[..., None]
    return (lambda weights, frames: layer(frames)), list(layer.parameters()), (frames,)


FORMS = {
    "chain": chain,
    "NetVLAD": netvlad,
    "NetVLAD, masked": partial(netvlad, masked=True),
    "NetVLAD, bfloat16": netvlad,
    "residual broadcast": residual_broadcast,
    "cluster loop": cluster_loop,
    "TensorFlow Addons": tensorflow_addons,
    "patchnetvlad": patchnetvlad,
}


def calls(backend, shape, forms):
    """Calls to measure, `<what>/<form>`, each waiting for its result.

    Args:
        backend: `"tensorflow"`, `"xla"`, `"torch"` or `"jax"`.
        shape: B, N, D, K.
        forms: Names of forms.

    Raises:
        ValueError: If a form computes something else than the equations.
    """
    framework = backends.load(backend)
    given = problem.arrays(*shape)
    made = {}
    for form in forms:
        dtype = "bfloat16" if form == "NetVLAD, bfloat16" else "float32"
        function, weights, inputs = FORMS[form](framework, given, dtype)
        forward = framework.forward(function, weights)
        outputs = forward(*inputs)
        if form != "chain":
            check(form, framework.to_numpy(outputs[0]), given, BFLOAT16_TOLERANCE if dtype == "bfloat16" else TOLERANCE)
        gradient = framework.tensor(given["gradient"].reshape(tuple(outputs.shape)), dtype)
        step = framework.training_step(function, weights)
        framework.wait(step(gradient, *inputs))
        made[f"forward/{form}"] = partial(_waited, framework, forward, inputs)
        made[f"training step/{form}"] = partial(_waited, framework, step, (gradient, *inputs))
    return made


def check(form, output, given, tolerance=TOLERANCE):
    """Compares a form's descriptor of the first video with the equations; returns the largest relative difference."""
    expected = problem.descriptor(given, masked=form == "NetVLAD, masked")
    if form == "TensorFlow Addons":
        expected = expected.reshape(len(given["centroids"]), -1).T.reshape(-1)
    difference = float(np.max(np.abs(output - expected)) / np.max(np.abs(expected)))
    if not difference <= tolerance:
        raise ValueError(f"{form} must compute the descriptor to within {tolerance}. Received: {difference:.1e} off")
    return difference


def _waited(framework, function, inputs):
    framework.wait(function(*inputs))


def _weights(framework, given):
    return [framework.variable(given[name]) for name in ("kernel", "bias", "centroids")]


def _normalized(residuals):
    import tensorflow as tf

    residuals = tf.math.l2_normalize(residuals, axis=2)
    return tf.math.l2_normalize(tf.reshape(residuals, (residuals.shape[0], -1)), axis=1)
