"""The clients of servers that merge requests send true numbers of frames."""

import numpy as np
import pytest
from paths import EXPORT


@pytest.fixture
def clients(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPORT))
    import tf_serving_client
    import triton_client

    return tf_serving_client, triton_client


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_a_count_above_the_number_of_frames_is_limited(clients, dtype):
    tf_serving, triton = clients
    inputs = {"frames": np.zeros((3, 5, 4), "float32"), "num_frames": np.array([9, 5, 2], dtype)}
    limited = tf_serving.limit_num_frames(inputs)
    assert limited["num_frames"].tolist() == [5, 5, 2]
    assert limited["frames"] is inputs["frames"]
    assert inputs["num_frames"].tolist() == [9, 5, 2]
    model = {
        "frames": {"datatype": "FP32", "shape": [-1, -1, 4]},
        "num_frames": {"datatype": "INT32", "shape": [-1, 1]},
    }
    request = triton.prepare(inputs, model, multiple=8)
    assert request["frames"].shape == (3, 8, 4)  # padded; the counts are those before the padding
    assert request["num_frames"][:, 0].tolist() == [5, 5, 2]


def test_inputs_without_counts_are_left_as_they_are(clients):
    for inputs in (
        {"frames": np.zeros((1, 5, 4))},
        {"examples": [b"record"]},
        {"frames": np.zeros((1, 5, 4)), "num_frames": np.array([7.0])},
    ):
        assert clients[0].limit_num_frames(inputs) is inputs
