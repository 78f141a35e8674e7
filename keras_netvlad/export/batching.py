"""What a server that merges requests is told: TensorFlow Serving's batching parameters."""

BATCHING = """\
# Read by tensorflow_model_server with --enable_batching --enable_per_model_batching_parameters.
max_batch_size {{ value: {max_batch_size} }}
batch_timeout_micros {{ value: {timeout_micros} }}
max_enqueued_batches {{ value: 100 }}
num_batch_threads {{ value: 4 }}
{allowed_batch_sizes}
# Requests of different lengths merge; the filler is each tensor's first element, which `num_frames` leaves out.
pad_variable_length_inputs: true
"""


def batching_parameters(max_batch_size, timeout_micros=2000):
    """Returns the text of `batching_params.pbtxt`.

    Batches are filled up to the next of a few sizes, powers of two, so that a GPU meets no size that the warm-up did
    not.

    Args:
        max_batch_size: Integer, rows of a batch at most.
        timeout_micros: Integer, how long a request waits for others, in microseconds.
    """
    sizes = []
    while not sizes or sizes[-1] * 2 < max_batch_size:
        sizes.append(sizes[-1] * 2 if sizes else 1)
    sizes += [max_batch_size] if sizes[-1] != max_batch_size else []
    return BATCHING.format(
        max_batch_size=max_batch_size,
        timeout_micros=timeout_micros,
        allowed_batch_sizes="\n".join(f"allowed_batch_sizes: {size}" for size in sizes),
    )
