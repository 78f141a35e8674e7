"""`check_metadata`: validates the facts that a user stores with an artifact."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from keras_netvlad.export.port import Port

LABELS = "labels"


def check_metadata(metadata: Mapping[str, Any] | None, outputs: Sequence[Port]) -> dict[str, Any]:
    """Returns the metadata as a new dict, or raises if JSON cannot hold it.

    Args:
        metadata: Dict from names to JSON values, or `None`. The entry `"labels"` is optional and names the classes.
        outputs: Outputs of the model. The labels must fit the size of one of them.

    Raises:
        ValueError: If `metadata` is not such a dict, or the labels are not one string per class.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(key, str) for key in metadata):
        raise ValueError(f"`metadata` must be a dict with strings for keys. Received: metadata={metadata!r}")
    try:
        json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`metadata` must hold values that JSON can hold. Received: {error}") from error
    labels = metadata.get(LABELS)
    if labels is not None:
        sizes = {port.shape[-1] for port in outputs if len(port.shape) == 2}
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ValueError(f"`metadata['labels']` must be a list of strings. Received: {type(labels).__name__}")
        if len(labels) not in sizes:
            raise ValueError(
                f"`metadata['labels']` must name every class of an output, whose sizes are {sorted(map(str, sizes))}. "
                f"Received: {len(labels)} labels"
            )
    return dict(metadata)
