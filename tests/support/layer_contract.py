"""The contract of every pooling layer, checked in one call; and gradients on any backend."""

import contextlib
import inspect
import json

import keras
import numpy as np

BACKEND = keras.backend.backend()


def check_layer(make_layer, input_shape, directory, mask=None):
    """Checks a layer that pools inputs, with an optional `mask`, into one row for each video or image.

    Args:
        make_layer: Takes `**kwargs` of a Keras layer (`dtype`) and returns a fresh layer.
        input_shape: `(B, ...)`, small.
        directory: Where to write files.
        mask: Booleans that the layer takes for this input; at least one true and one false in each row.
    """
    inputs = np.random.default_rng(7).normal(size=input_shape).astype("float32")
    check_config(make_layer)
    check_shapes(make_layer, inputs)
    check_empty_maps(make_layer, inputs)
    check_file_round_trip_and_fit(make_layer, inputs, directory)
    check_mask_consumed(make_layer, inputs)
    check_gradients(make_layer, inputs, mask)
    check_dtypes(make_layer, inputs, mask)
    check_jit_compile(make_layer, inputs, mask)
    if mask is not None:
        check_mask(make_layer, inputs, mask)


def check_config(make_layer):
    layer = make_layer(name="pooling")
    config = layer.get_config()
    json.dumps(config)
    arguments = set(inspect.signature(type(layer).__init__).parameters) - {"self", "kwargs"}
    assert arguments <= set(config), f"not in the config: {arguments - set(config)}"
    assert type(layer).from_config(config).get_config() == config
    serialized = keras.saving.serialize_keras_object(layer)
    assert serialized["registered_name"] == f"keras_netvlad>{type(layer).__name__}"
    assert keras.saving.deserialize_keras_object(serialized).get_config() == config


def check_shapes(make_layer, inputs):
    layer = make_layer()
    symbolic = layer(keras.KerasTensor((None, *inputs.shape[1:]), dtype="float32"))
    weights = len(layer.weights)
    outputs = layer(inputs)
    assert len(layer.weights) == weights  # all of them exist after `build`
    assert symbolic.shape == (None, *outputs.shape[1:])
    assert tuple(layer.compute_output_shape((None, *inputs.shape[1:]))) == tuple(symbolic.shape)
    assert tuple(layer.compute_output_shape(inputs.shape)) == tuple(outputs.shape)
    assert keras.backend.standardize_dtype(outputs.dtype) == symbolic.dtype == "float32"
    feature_axis = -3 if getattr(layer, "data_format", None) == "channels_first" and inputs.ndim > 3 else -1
    any_size = [None] * inputs.ndim
    any_size[feature_axis] = inputs.shape[feature_axis]
    frames = keras.Input(batch_shape=any_size)
    model = keras.Model(frames, layer(frames))
    assert model.output_shape == symbolic.shape
    np.testing.assert_array_equal(to_numpy(model(inputs)), to_numpy(outputs))


def check_empty_maps(make_layer, inputs):
    """Maps with a side of 0 are videos without frames: each gives zeros, eagerly and with an unknown batch size."""
    layer = make_layer()
    layer.build(inputs.shape)
    randomize_weights(layer)
    is_channels_first = getattr(layer, "data_format", None) == "channels_first"
    size = inputs.shape[-3 if is_channels_first and inputs.ndim > 3 else -1]
    for positions in ((2, 0, 3), (2, 3, 0), (2, 4, 0, 3), (2, 4, 3, 0), (2, 0, 2, 3), (0, 0, 3)):
        shape = (*positions[:-2], size, *positions[-2:]) if is_channels_first else (*positions, size)
        if len(shape) == 4 and type(layer).__name__ == "TemporalPooling":  # pools videos
            continue
        maps = np.zeros(shape, "float32")
        masks = [np.ones(positions, bool), np.ones(positions, "float32")]
        masks += [np.ones(positions[:2], "float32")] if len(positions) == 4 else []
        expected = np.zeros(layer.compute_output_shape(shape), "float32")
        for mask in (None, *masks):
            np.testing.assert_array_equal(to_numpy(layer(maps, **keyword(mask))), expected)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        maps = np.zeros((2, 4, size, 0, 3) if is_channels_first else (2, 4, 0, 3, size), "float32")
        frames, keep = np.zeros((2, 0, size), "float32"), np.ones((2, 4, 0, 3), bool)
        signature = [tf.TensorSpec((None, *values.shape[1:]), values.dtype) for values in (maps, keep, frames)]
        function = tf.function(
            lambda maps, keep, frames: (layer(maps), layer(maps, mask=keep), layer(frames)), signature, autograph=False
        )
        for output in function(maps, keep, frames):
            np.testing.assert_array_equal(output, np.zeros(layer.compute_output_shape(maps.shape), "float32"))


def check_file_round_trip_and_fit(make_layer, inputs, directory):
    frames = keras.Input(inputs.shape[1:])
    layer = make_layer(name="pooling")
    layer.build(inputs.shape)
    # What has no weights of its own passes the gradient on to others.
    features = frames if layer.weights else keras.layers.Dense(inputs.shape[-1])(frames)
    model = keras.Model(frames, layer(features))
    check_same_after_reload(model, inputs, directory / "fresh.keras")
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    before = [variable.numpy() for variable in model.trainable_variables]
    targets = np.random.default_rng(8).normal(size=(len(inputs), model.output_shape[-1])).astype("float32")
    history = model.fit(inputs, targets, epochs=1, batch_size=len(inputs), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    for old, variable in zip(before, model.trainable_variables, strict=True):
        assert np.isfinite(variable.numpy()).all(), variable.path
        assert np.any(old != variable.numpy()), f"{variable.path} was not trained"
    check_same_after_reload(model, inputs, directory / "trained.keras")


def check_same_after_reload(model, inputs, path):
    model.save(path)
    reloaded = keras.saving.load_model(path)
    assert reloaded.get_layer("pooling").get_config() == model.get_layer("pooling").get_config()
    for old, new in zip(model.weights, reloaded.weights, strict=True):
        assert old.path == new.path
        np.testing.assert_array_equal(old.numpy(), new.numpy())
    np.testing.assert_array_equal(to_numpy(model(inputs)), to_numpy(reloaded(inputs)))


def check_mask_consumed(make_layer, inputs):
    """An implicit mask ends at the layer: passed on, Keras would multiply the loss by it."""
    layer = make_layer()
    assert layer.supports_masking
    assert layer.compute_mask(inputs, np.ones(inputs.shape[:2], bool)) is None
    if inputs.ndim != 3:
        return
    inputs = inputs.copy()
    inputs[:, -1] = 0.0
    frames = keras.Input(inputs.shape[1:])
    model = keras.Model(frames, layer(keras.layers.Masking()(frames)))
    # Eagerly, which spares a compilation.
    model.compile(optimizer="sgd", loss="mse", run_eagerly=True)
    targets = np.random.default_rng(8).normal(size=(len(inputs), model.output_shape[-1])).astype("float32")
    expected = np.mean((to_numpy(model(inputs)) - targets) ** 2)
    # Measured: relative difference 1.6e-7, headroom 60; a loss multiplied by the mask is off by a sixth.
    np.testing.assert_allclose(model.evaluate(inputs, targets, verbose=0), expected, rtol=1e-5)
    assert np.isfinite(model.fit(inputs, targets, verbose=0).history["loss"]).all()


def check_mask_passed_on(make_layer, inputs):
    """A layer that treats each frame by itself passes the mask of `Masking` on, whatever the policy."""
    for dtype in ("float32", "mixed_bfloat16"):
        layer = make_layer(dtype=dtype)
        assert layer.supports_masking
        frames = inputs.copy()
        frames[:, -1] = 0.0
        outputs = layer(keras.layers.Masking()(frames))
        mask = keras.ops.convert_to_numpy(outputs._keras_mask)
        np.testing.assert_array_equal(mask, np.arange(frames.shape[1]) < [[frames.shape[1] - 1]] * len(frames))


def check_gradients(make_layer, inputs, mask):
    for training in (False, True):
        layer = make_layer()
        layer.build(inputs.shape)
        randomize_weights(layer)
        _, input_gradient, weight_gradients = loss_and_gradients(layer, inputs, mask, training=training)
        assert np.isfinite(input_gradient).all()
        assert np.any(input_gradient)
        for variable, gradient in zip(layer.trainable_variables, weight_gradients, strict=True):
            assert gradient is not None, f"no gradient reaches {variable.path}"
            assert np.isfinite(gradient).all(), variable.path
            assert np.any(gradient), f"the gradient of {variable.path} is zero"


def check_dtypes(make_layer, inputs, mask):
    expected = None
    # Outputs are at most 1 in size or scale; a float16 has 11 bits and a bfloat16 8, so rounding the output costs
    # up to 2.5e-4 and 2e-3 of its largest value. Measured: 0.45 of the tolerance.
    for dtype, tolerance in (("float32", 0.0), ("mixed_float16", 1e-3), ("mixed_bfloat16", 8e-3), ("float64", 1e-5)):
        with double_precision() if dtype == "float64" else contextlib.nullcontext():
            layer = make_layer(dtype=dtype)
            layer.build(inputs.shape)
            randomize_weights(layer)
            outputs = layer(inputs, **keyword(mask))
            compute_dtype = dtype.removeprefix("mixed_")
            assert keras.backend.standardize_dtype(outputs.dtype) == compute_dtype
            symbolic = layer(keras.KerasTensor((None, *inputs.shape[1:]), dtype="float32"))
            assert symbolic.dtype == compute_dtype
            weight_dtype = "float32" if dtype.startswith("mixed_") else dtype
            assert {variable.dtype for variable in layer.trainable_variables} <= {weight_dtype}
            values = to_numpy(outputs)
            expected = values if expected is None else expected
            np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance * np.abs(expected).max())
            _, *gradients = loss_and_gradients(layer, inputs, mask)
            for gradient in (gradients[0], *gradients[1]):
                assert np.isfinite(gradient).all()


def check_jit_compile(make_layer, inputs, mask):
    layer = make_layer()
    frames = keras.Input(inputs.shape[1:])
    arguments, values = frames, inputs
    if mask is None:
        outputs = layer(frames)
    else:
        keep = keras.Input(mask.shape[1:], dtype="bool")
        outputs, arguments, values = layer(frames, mask=keep), [frames, keep], [inputs, mask]
    model = keras.Model(arguments, outputs)
    randomize_weights(layer)
    model.compile(jit_compile=True)
    expected = to_numpy(layer(inputs, **keyword(mask)))
    # Measured: 1.3e-7 of the largest output on every backend, headroom 16.
    np.testing.assert_allclose(model.predict(values, verbose=0), expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def check_mask(make_layer, inputs, mask):
    layer = make_layer()
    layer.build(inputs.shape)
    randomize_weights(layer)
    channel_axis = -3 if getattr(layer, "data_format", None) == "channels_first" and inputs.ndim > 3 else -1
    positions = np.moveaxis(inputs, channel_axis, -1).shape[:-1]
    keep = np.broadcast_to(mask.reshape(mask.shape + (1,) * (len(positions) - mask.ndim)), positions)
    keep = np.expand_dims(keep, channel_axis)
    full, masked = to_numpy(layer(inputs)), to_numpy(layer(inputs, mask=mask))
    assert np.abs(full - masked).max() > 1e-3 * np.abs(full).max(), "the mask is ignored"
    for padding in (0.0, 1e4, np.nan, np.inf):
        padded = np.where(keep, inputs, np.float32(padding))
        np.testing.assert_array_equal(to_numpy(layer(padded, mask=mask)), masked)
    np.testing.assert_array_equal(to_numpy(layer(inputs, mask=np.ones_like(mask))), full)
    nothing = to_numpy(layer(inputs, mask=np.zeros_like(mask)))
    np.testing.assert_array_equal(nothing, np.zeros_like(nothing))


def randomize_weights(layer, seed=3):
    """Gives every weight of a built layer a value that matters, batch normalization's included."""
    rng = np.random.default_rng(seed)
    for variable in layer.weights:
        value = rng.normal(size=variable.shape)
        if "variance" in variable.name or "gamma" in variable.name:
            value = 0.5 + np.abs(value)
        variable.assign(value.astype(variable.dtype))


def loss_and_gradients(layer, inputs, mask=None, cotangent=None, training=False):
    """Returns `sum(cotangent * layer(inputs))`, its gradient by the inputs, and by each trainable weight.

    Args:
        layer: Built layer.
        inputs: Array.
        mask: Array or `None`.
        cotangent: Array of the output's shape; random if `None`.
        training: The layer's argument.
    """
    if cotangent is None:
        shape = layer.compute_output_shape(inputs.shape)
        cotangent = np.random.default_rng(9).normal(size=shape)
    dtype = "float64" if layer.compute_dtype == "float64" else "float32"
    inputs, cotangent = inputs.astype(dtype), cotangent.astype(dtype)

    takes_training = "training" in inspect.signature(layer.call).parameters
    arguments = {**keyword(mask), **({"training": training} if takes_training else {})}

    def loss_of(outputs):
        return keras.ops.sum(keras.ops.cast(outputs, dtype) * cotangent)

    if BACKEND == "tensorflow":
        import tensorflow as tf

        inputs = tf.constant(inputs)
        variables = [variable.value for variable in layer.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = loss_of(layer(inputs, **arguments))
        input_gradient, *weight_gradients = tape.gradient(loss, [inputs, *variables])
    elif BACKEND == "jax":
        import jax

        frozen = [variable.value for variable in layer.non_trainable_variables]

        def function(inputs, variables):
            outputs, _ = layer.stateless_call(variables, frozen, inputs, **arguments)
            return loss_of(outputs)

        variables = [variable.value for variable in layer.trainable_variables]
        loss, (input_gradient, weight_gradients) = jax.value_and_grad(function, argnums=(0, 1))(
            jax.numpy.asarray(inputs), variables
        )
    else:
        import torch

        inputs = torch.tensor(inputs, requires_grad=True)
        cotangent = torch.tensor(cotangent)
        variables = [variable.value for variable in layer.trainable_variables]
        loss = loss_of(layer(inputs, **arguments))
        input_gradient, *weight_gradients = torch.autograd.grad(loss, [inputs, *variables], allow_unused=True)
    gradients = [None if g is None else to_numpy(g) for g in (input_gradient, *weight_gradients)]
    return float(loss), gradients[0], gradients[1:]


def keyword(mask):
    """The argument `mask`, where there is one: a layer that pools nothing need not take it."""
    return {} if mask is None else {"mask": mask}


def double_precision():
    """Context in which the backend has float64; JAX alone has to be told."""
    if BACKEND != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.enable_x64(True)


def to_numpy(tensor):
    """Returns a tensor of any backend and float type as an array of float32 or float64."""
    if keras.backend.standardize_dtype(tensor.dtype) in ("float16", "bfloat16"):
        tensor = keras.ops.cast(tensor, "float32")
    return keras.ops.convert_to_numpy(tensor)
