"""The layer beside its two bare matrix products: forward and training step, interleaved in one run.

    python benchmarks/layer.py [--seconds 10] [--sizes audio place]

A and B run in shuffled order within each round, so that a busy machine slows both; printed are medians and quartiles
of the paired ratios. The chain is `x W` and then `(x W)^T x`, nothing else; its training step adds dW.
"""

import argparse
import random
import time

import numpy as np
import tensorflow as tf

from keras_netvlad import NetVLAD

SIZES = {  # B, N, D, K
    "video256": (32, 300, 1152, 256),
    "video64": (128, 300, 1024, 64),
    "place": (8, 1200, 512, 64),
    "audio": (64, 200, 64, 16),
    "serve1": (1, 300, 1152, 256),
}


def make_pairs(num_videos, num_frames, feature_size, num_clusters):
    """The functions to compare: for forward and training step, ours, ours with a mask, and the chain."""
    generator = tf.random.Generator.from_seed(0)
    inputs = generator.normal((num_videos, num_frames, feature_size))
    mask = tf.sequence_mask(generator.uniform((num_videos,), 1, num_frames + 1, tf.int32), num_frames)
    layer = NetVLAD(num_clusters)
    layer.build(inputs.shape)
    kernel = tf.Variable(layer.kernel.value)
    output_gradient = generator.normal((num_videos, num_clusters * feature_size))
    sums_gradient = tf.reshape(output_gradient, (num_videos, num_clusters, feature_size))

    def chain():
        scores = tf.reshape(tf.matmul(tf.reshape(inputs, (-1, feature_size)), kernel), (*inputs.shape[:2], -1))
        return tf.matmul(scores, inputs, transpose_a=True)

    def step(forward, variables, gradient):
        def run():
            with tf.GradientTape() as tape:
                outputs = forward()
            # The outputs are returned, too: unused, the chain's second product would be pruned.
            return outputs, tape.gradient(outputs, variables, output_gradients=gradient)

        return run

    def pooled():
        return layer(inputs)

    def masked():
        return layer(inputs, mask=mask)

    weights = [weight.value for weight in layer.trainable_weights]
    return {
        "forward": {"chain": chain, "NetVLAD": pooled, "NetVLAD, masked": masked},
        "training step": {
            "chain": step(chain, [kernel], sums_gradient),
            "NetVLAD": step(pooled, weights, output_gradient),
            "NetVLAD, masked": step(masked, weights, output_gradient),
        },
    }


def measure(functions, seconds):
    """Times of interleaved calls, a list a function."""
    functions = {name: tf.function(function, autograph=False) for name, function in functions.items()}
    for function in functions.values():
        tf.nest.map_structure(lambda tensor: tensor.numpy(), function())
    times = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["chain"]) < 5:
        for name in random.sample(list(functions), len(functions)):
            start = time.perf_counter()
            tf.nest.map_structure(lambda tensor: tensor.numpy(), functions[name]())
            times[name].append(time.perf_counter() - start)
    return times


def main():
    """Prints one row a size and kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="measuring time for each row (default %(default)s)")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    options = parser.parse_args()
    print(f"TensorFlow {tf.__version__}, {len(tf.config.list_physical_devices('GPU'))} GPUs, float32")
    print("| size | B, N, D, K | what | chain, ms | NetVLAD / chain | masked / chain | rounds |")
    print("|---|---|---|---|---|---|---|")
    for size in options.sizes:
        for what, functions in make_pairs(*SIZES[size]).items():
            times = {name: np.array(values) for name, values in measure(functions, options.seconds).items()}
            cells = []
            for name in ("NetVLAD", "NetVLAD, masked"):
                low, median, high = np.quantile(times[name] / times["chain"], (0.25, 0.5, 0.75))
                cells.append(f"{median:.2f} ({low:.2f} to {high:.2f})")
            shape = ", ".join(str(number) for number in SIZES[size])
            milliseconds = 1e3 * np.median(times["chain"])
            print(
                f"| {size} | {shape} | {what} | {milliseconds:.1f} | {' | '.join(cells)} | {len(times['chain'])} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
