"""The inputs on which an artifact is verified."""

import numpy as np

from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.export.port import Port
from keras_netvlad.export.signature import Signature
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


def test_extra_inputs_are_not_padded_and_frame_weights_are_not_negative():
    ports = (
        Port("frames", (None, None, 2), "float32"),
        Port("weights", (None, None), "float32"),
        Port("meta", (None, 4), "float32", has_frames=False),
        Port("num_frames", (None,), "int32", has_frames=False),
    )
    signature = Signature("serving_default", ports, (), lambda inputs: {})
    weights = []
    for case in make_cases({"serving_default": signature}):
        real = np.arange(case.reference_inputs["frames"].shape[1]) < case.reference_inputs["num_frames"][:, None]
        for padding, inputs in case.runs.items():
            assert np.isfinite(inputs["meta"]).all()
            np.testing.assert_array_equal(inputs["meta"], case.reference_inputs["meta"])
            assert inputs["meta"].any()
            if padding == "NaN":
                assert np.isnan(inputs["frames"][~real]).all()
                assert np.isnan(inputs["weights"][~real]).all()
            weights.append(inputs["weights"][real])
    weights = np.concatenate(weights)
    assert (weights >= 0).all()
    assert (weights == 0).any()
    assert (weights > 0.5).any()
