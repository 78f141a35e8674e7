"""`batching_parameters`: batching parameters for TensorFlow Serving."""

from keras_netvlad.base.validation import check_boolean, check_integer

BATCHING = """\
# Read by tensorflow_model_server with --enable_batching --enable_per_model_batching_parameters. The server takes the
# number of threads from its own file, not from this one.
max_batch_size {{ value: {max_batch_size} }}
batch_timeout_micros {{ value: {timeout_micros} }}
max_enqueued_batches {{ value: 100 }}
num_batch_threads {{ value: 4 }}
{allowed_batch_sizes}
# A request that does not fit into the rest of a batch is split, so that batches are full.
enable_large_batch_splitting {{ value: true }}
{padding}
"""
PADDED = """\
# Requests of different lengths are merged. The padding is each tensor's first element, which `num_frames` excludes.
# Clients must send the true number of frames: a larger number would count the padding.
pad_variable_length_inputs: true"""
NOT_PADDED = """\
# Only requests of equal shape are merged, because padding would change the answers of this model.
pad_variable_length_inputs: false"""


def batching_parameters(max_batch_size: int, timeout_micros: int = 2000, *, pads: bool = False) -> str:
    """Returns the text of `batching_params.pbtxt`, a `BatchingParameters` in protobuf's text format.

    The server fills batches up to the next power of two, so that a GPU runs few shapes.

    Args:
        max_batch_size: Positive integer, largest number of rows in a batch. Warm-up requests use the same queue: the
            server does not load a version whose warm-up requests have more rows.
        timeout_micros: Integer of 0 or more. Time that a request waits for others, in microseconds.
        pads: Boolean, whether the server pads requests of different lengths to merge them. It must be `False` unless
            padding cannot change an answer of the model; see `can_pad`.

    Returns:
        The text of the file.

    Example:

    >>> from keras_netvlad.export.serving.batching_parameters import batching_parameters
    >>> [line for line in batching_parameters(6).splitlines() if line.startswith("allowed")]
    ['allowed_batch_sizes: 1', 'allowed_batch_sizes: 2', 'allowed_batch_sizes: 4', 'allowed_batch_sizes: 6']

    Raises:
        ValueError: If an argument is invalid.
    """
    max_batch_size = check_integer("max_batch_size", max_batch_size, 1)
    timeout_micros = check_integer("timeout_micros", timeout_micros, 0)
    check_boolean("pads", pads)
    sizes = [2**power for power in range((max_batch_size - 1).bit_length())] + [max_batch_size]
    return BATCHING.format(
        max_batch_size=max_batch_size,
        timeout_micros=timeout_micros,
        allowed_batch_sizes="\n".join(f"allowed_batch_sizes: {size}" for size in sizes),
        padding=PADDED if pads else NOT_PADDED,
    )
