"""`check_options`: validates the options of a verification before an artifact is written."""

import numpy as np

from keras_netvlad.base.validation import check_number
from keras_netvlad.export.signature import Signature
from keras_netvlad.export.verification.real_data import RealData, check_data


def check_options(
    signature: Signature, tolerance: float | None, data: RealData | None, min_agreement: float | None
) -> dict[str, np.ndarray] | None:
    """Validates the options of `verify`. Writing a large artifact takes minutes, so exports call this first.

    Args:
        signature: The model's signature `serving_default`.
        tolerance, data, min_agreement: See `verify`.

    Returns:
        `data` as arrays of the model's dtypes, or `None`.

    Raises:
        ValueError: If an option is invalid.
    """
    if tolerance is not None:
        check_number("tolerance", tolerance, 0)
    if min_agreement is not None:
        check_number("min_agreement", min_agreement, 0, 1)
    if data is None and min_agreement is not None:
        raise ValueError("`min_agreement` is measured on real inputs; pass `data` as well. Received: data=None")
    return None if data is None else check_data(data, signature)
