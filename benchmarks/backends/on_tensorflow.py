"""TensorFlow, compiled with `tf.function`."""

import tensorflow as tf


def device_name():
    """Name of the GPU, or None."""
    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else None


def allow_tf32(allowed):
    """Whether products of float32 tensors may round their factors to 10 bits."""
    tf.config.experimental.enable_tensor_float_32_execution(allowed)


def tensor(array, dtype="float32"):
    """An array on the device."""
    return tf.cast(tf.constant(array), dtype)


def variable(array, dtype="float32"):
    """An array to take a gradient for."""
    return tf.Variable(tensor(array, dtype))


def chain(weights, frames):
    """The two matrix products, `x W` and `(x W)^T x`."""
    (kernel,) = weights
    scores = tf.matmul(tf.reshape(frames, (-1, frames.shape[-1])), kernel)
    return tf.matmul(tf.reshape(scores, (*frames.shape[:2], -1)), frames, transpose_a=True)


def layer_function(layer):
    """A Keras layer as a function of weights and inputs, and its weights."""

    def function(weights, *inputs):
        return layer(inputs[0], mask=inputs[1] if len(inputs) > 1 else None)

    return function, [weight.value for weight in layer.trainable_weights]


def forward(function, weights):
    """`function` compiled."""

    @tf.function(autograph=False)
    def run(*inputs):
        return function(weights, *inputs)

    return run


def training_step(function, weights):
    """A function of the outputs' gradient and the inputs that returns the outputs and the weights' gradients.

    The outputs are returned, too: unused, the last product would be pruned.
    """

    @tf.function(autograph=False)
    def run(gradient, *inputs):
        with tf.GradientTape() as tape:
            outputs = function(weights, *inputs)
        return outputs, tape.gradient(outputs, weights, output_gradients=gradient)

    return run


def wait(outputs):
    """Returns when the outputs are there."""
    tf.test.experimental.sync_devices()


def to_numpy(values):
    """A tensor as a float32 array."""
    return tf.cast(values, "float32").numpy()


def added_bytes(call):
    """What a call adds to the memory in use at its highest, by TensorFlow's own count.

    Its allocator keeps what is freed, so resident memory shows the first call only: there both agreed to within 5% at
    the large sizes.
    """
    tf.config.experimental.reset_memory_stats("CPU:0")
    before = tf.config.experimental.get_memory_info("CPU:0")["current"]
    call()
    return tf.config.experimental.get_memory_info("CPU:0")["peak"] - before
