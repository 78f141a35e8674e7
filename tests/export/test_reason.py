"""The one line that is left of other libraries' errors."""

import keras
import numpy as np
import pytest

from keras_netvlad.export.reason import explained_tracing, reason_of


class Failing(keras.layers.Layer):
    def call(self, inputs):
        raise RuntimeError("two\nlines")


def test_the_layer_and_the_reason_are_left_of_an_error_of_keras():
    with pytest.raises(RuntimeError) as caught:
        Failing()(np.zeros(1))
    assert len(str(caught.value).splitlines()) > 3
    assert reason_of(caught.value) == "Failing: two lines"


def test_the_first_line_is_left_of_other_errors():
    assert reason_of(ValueError("first\nsecond")) == "first"
    assert reason_of(ValueError()) == "ValueError"
    assert reason_of(ValueError("in user code:\n\n    File x\n\n    TypeError: a reason\n")) == "TypeError: a reason"
    assert len(reason_of(ValueError("x" * 1000))) == 300


def test_an_error_while_tracing_becomes_a_sentence():
    message = r"able to trace the model.*Received: an op is missing$"
    with pytest.raises(ValueError, match=message), explained_tracing():
        raise NotImplementedError("an op is missing\nstack")
