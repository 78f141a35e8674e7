"""The inputs on which an artifact is verified."""

import numpy as np

from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.export.verification.verification_inputs import make_cases


def test_cases_pad_with_zeros_the_first_element_and_nan(model):
    cases = list(make_cases({"serving_default": read_signature(model)}))
    assert len(cases) == 5
    for case in cases:
        assert set(case.runs) == {"zeros", "first element", "NaN"}
        clean = case.reference_inputs
        is_padding = np.arange(clean["frames"].shape[1]) >= clean["num_frames"][:, None]
        for padding, inputs in case.runs.items():
            np.testing.assert_array_equal(inputs["frames"][~is_padding], clean["frames"][~is_padding])
            values = inputs["frames"][is_padding]
            assert (
                values.size == 0
                or {
                    "zeros": (values == 0).all(),
                    "first element": len(np.unique(values)) == 1 and (values != 0).all(),
                    "NaN": np.isnan(values).all(),
                }[padding]
            )
