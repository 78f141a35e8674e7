"""The benchmark of the 2018 winners' ensemble: its inputs, and that it runs."""

from unittest import mock

import numpy as np
import pytest

from benchmarks import champion


def test_uniform_levels_are_the_nearest_of_256():
    values = np.random.default_rng(0).normal(size=(300, 70)).astype("float32")
    rounded = champion.uniform_levels(values)
    levels = np.linspace(float(values.min()), float(values.max()), 256)
    assert len(np.unique(rounded)) <= 256
    expected = levels[np.abs(values[..., None].astype("float64") - levels).argmin(axis=-1)]
    np.testing.assert_allclose(rounded, expected, atol=1e-6)


@pytest.mark.slow
def test_the_loss_is_measured_on_real_frames():
    with mock.patch.multiple(champion, EPOCHS=1, MEMBERS=champion.MEMBERS[::2]):
        result = champion.measure_loss(*champion.read_vowels(), seed=0)
    assert result["float32"]["difference"] == 0
    for name in ("int8", "256 levels"):
        assert 0 < result[name]["difference"] < 0.05  # measured 2e-3 after one epoch
        assert abs(result[name]["gap"] - result["float32"]["gap"]) < 0.02
    assert champion.loss_table({"vowels": [result]}).count("\n") == 4
