"""`can_pad`: whether a server may pad requests of different lengths to merge them."""

from keras_netvlad.base.names import NUM_FRAMES
from keras_netvlad.export.signature import Signature


def can_pad(signature: Signature) -> bool:
    """Returns whether padding cannot change an answer of a model.

    This holds if the model takes `num_frames`, if the only axis of its inputs without a fixed size, besides the batch,
    is the time axis of frames `(batch, frames, ...)`, which `num_frames` excludes, and if the outputs have a fixed
    size. The height of a picture, the length of another input and an output for each frame are not covered.

    Args:
        signature: The model's signature `serving_default`.
    """
    has_count = any(
        port.name == NUM_FRAMES and len(port.shape) == 1 and "int" in port.dtype for port in signature.inputs
    )
    return (
        has_count
        and all(None not in port.shape[1:2] or len(port.shape) >= 3 for port in signature.inputs)
        and all(None not in port.shape[2:] for port in signature.inputs)
        and all(None not in port.shape[1:] for port in signature.outputs)
    )
