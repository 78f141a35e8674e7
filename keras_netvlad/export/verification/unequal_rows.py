"""`answers_unequal_rows`: finds out whether an artifact answers a request that it should refuse."""

from keras_netvlad.base.names import NUM_FRAMES
from keras_netvlad.export.signature import Signature
from keras_netvlad.export.verification.artefact import Artefact
from keras_netvlad.export.verification.verification_inputs import Arrays


def answers_unequal_rows(artifact: Artefact, signature: Signature, inputs: Arrays) -> bool:
    """Returns whether an artifact answers several videos with a `num_frames` of one row.

    Artifacts contain a check that fails then, but some runtimes remove it from the graph and use the number for all
    videos. A correct client never sends such a request, so this does not count as a difference from the model.

    Args:
        artifact: The artifact.
        signature: A signature of it.
        inputs: Inputs that it answers.
    """
    counts = inputs.get(NUM_FRAMES)
    if counts is None or counts.ndim != 1 or len(counts) < 2:
        return False
    try:
        artifact.run({**inputs, NUM_FRAMES: counts[:1]}, signature.name)
    except Exception:
        # Runtimes raise exceptions of many classes.
        return False
    return True
