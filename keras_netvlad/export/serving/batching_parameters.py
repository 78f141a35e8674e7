"""What a server that merges requests is told: TensorFlow Serving's batching parameters."""

from keras_netvlad.base.validation import check_integer

BATCHING = """\
# Read by tensorflow_model_server with --enable_batching --enable_per_model_batching_parameters. The number of threads
# is that of the server's own file, whatever stands here.
max_batch_size {{ value: {max_batch_size} }}
batch_timeout_micros {{ value: {timeout_micros} }}
max_enqueued_batches {{ value: 100 }}
num_batch_threads {{ value: 4 }}
{allowed_batch_sizes}
# Requests of different lengths merge; the filler is each tensor's first element, which `num_frames` leaves out.
pad_variable_length_inputs: true
"""


def batching_parameters(max_batch_size, timeout_micros=2000):
    """Returns the text of `batching_params.pbtxt`, a `BatchingParameters` in protobuf's text format.

    Batches are filled up to the next of a few sizes, powers of two, so that a GPU meets few shapes.

    Args:
        max_batch_size: Positive integer, rows of a batch at most. The server puts warm-up requests through the same
            queue, and does not load a version with one of more rows.
        timeout_micros: Integer of 0 or more, how long a request waits for others, in microseconds.

    Returns:
        A string.

    Example:

    >>> [line for line in batching_parameters(6).splitlines() if line.startswith("allowed")]
    ['allowed_batch_sizes: 1', 'allowed_batch_sizes: 2', 'allowed_batch_sizes: 4', 'allowed_batch_sizes: 6']

    Raises:
        ValueError: If an argument is none of the above.
    """
    max_batch_size = check_integer("max_batch_size", max_batch_size, 1)
    timeout_micros = check_integer("timeout_micros", timeout_micros, 0)
    sizes = [2**power for power in range((max_batch_size - 1).bit_length())] + [max_batch_size]
    return BATCHING.format(
        max_batch_size=max_batch_size,
        timeout_micros=timeout_micros,
        allowed_batch_sizes="\n".join(f"allowed_batch_sizes: {size}" for size in sizes),
    )
