"""Turns errors of Keras and TensorFlow, which have many lines, into one sentence."""

import contextlib
import re
from collections.abc import Iterator

KERAS_CALL = re.compile(r"Exception encountered when calling (?:layer ['\"]?)?([\w.]+)")
HIGHLIGHTED = re.compile(r"\x1b\[1m(.*?)\x1b\[0m", re.DOTALL)  # Keras prints the reason in bold
NAMED_ERROR = re.compile(r"^\s*(\w+(?:Error|Exception): .*)", re.MULTILINE)
LONGEST = 300


def reason_of(error: BaseException) -> str:
    """Returns the reason of an error in one line of at most 300 characters.

    Keras and TensorFlow wrap the exception of a layer into traces and lists of arguments of many lines.

    Args:
        error: A caught exception.
    """
    text = str(error)
    reasons = HIGHLIGHTED.findall(text) or NAMED_ERROR.findall(text)
    lines = text.strip().splitlines() or [type(error).__name__]
    reason = " ".join((reasons[-1] if reasons else lines[0]).split())
    layers = KERAS_CALL.findall(text)
    if reasons and layers:
        reason = f"{layers[-1].removesuffix('.call')}: {reason}"
    return reason if len(reason) <= LONGEST else f"{reason[: LONGEST - 3]}..."


@contextlib.contextmanager
def explained_tracing() -> Iterator[None]:
    """Replaces every error of the code within, which traces a model, by one that explains it.

    Raises:
        ValueError: If the code within raises any error.
    """
    try:
        yield
    except Exception as error:
        # A user's own layer may raise any exception.
        raise ValueError(
            "TensorFlow must be able to trace the model with a batch and frames of unknown size; in your own layers, "
            "use `keras.ops.shape(x)[1]` for a length and `keras.ops.cond` for a condition on a tensor. "
            f"Received: {reason_of(error)}"
        ) from error
