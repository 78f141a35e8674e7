"""Training on several devices and in several processes equals training in one, also after a process was killed."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
from paths import ROOT

from keras_netvlad.export import export_model
from keras_netvlad.models import load_model

EPOCHS = 4
# Sums over videos in another order: losses and weights, measured 4e-7 after four epochs, headroom 12.
TOLERANCE = 5e-6

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="`make engines` installs JAX"),
]

# Runs `train_many_hosts.py` as a host would, but for a process that is killed once, after the second epoch.
HOST = """
import os, signal, sys
sys.path.insert(0, {examples!r})
import keras, train_many_hosts

class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2 and {marker!r} and not os.path.exists({marker!r}):
            open({marker!r}, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)

train = train_many_hosts.train
train_many_hosts.train = lambda *arguments: train(*arguments, callbacks=[Kill()])
sys.argv[1:] = {arguments!r}
train_many_hosts.main()
"""


def start(output, process, processes, port, *options, marker=""):
    arguments = ["--output", str(output), "--process", str(process), "--processes", str(processes)]
    arguments += ["--address", f"127.0.0.1:{port}", "--epochs", str(EPOCHS), *options]
    code = HOST.format(examples=str(ROOT / "examples"), marker=str(marker), arguments=arguments)
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def run(output, processes, *options):
    """Runs all processes to their end; returns what the first printed."""
    port = free_port()
    group = [start(output, process, processes, port, *options) for process in range(processes)]
    try:
        answers = [member.communicate(timeout=240) for member in group]
    finally:
        for member in group:
            member.kill()
    for member, (_, errors) in zip(group, answers, strict=True):
        assert member.returncode == 0, errors[-2000:]
    return answers[0][0]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def losses(output):
    """One for each epoch, with all digits."""
    with np.load(output / "last_epoch.npz") as file:
        return file["losses"]


def check_equal(output, expected):
    """Losses of all epochs and weights of the end are those of one process."""
    np.testing.assert_allclose(losses(output), losses(expected), rtol=0, atol=TOLERANCE)
    trained, one = load_model(output / "model.keras"), load_model(expected / "model.keras")
    for weight, other in zip(trained.weights, one.weights, strict=True):
        np.testing.assert_allclose(weight.numpy(), other.numpy(), rtol=0, atol=TOLERANCE, err_msg=weight.path)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Returns the weights that a single process trains."""
    output = tmp_path_factory.mktemp("one")
    printed = run(output, 1)
    its_losses = losses(output)
    assert len(its_losses) == EPOCHS
    assert its_losses[-1] < its_losses[0]
    assert printed_losses(printed) == [f"{loss:.4f}" for loss in its_losses]
    return output


def printed_losses(printed):
    return [line.split("loss: ")[1].split()[0] for line in printed.splitlines() if "loss: " in line]


@pytest.mark.parametrize("options", [(), ("--model-parallel",)], ids=["data parallel", "model parallel"])
def test_two_processes_are_one(reference, options, tmp_path):
    run(tmp_path, 2, *options)
    check_equal(tmp_path, reference)


@pytest.mark.parametrize("options", [(), ("--model-parallel",)], ids=["data parallel", "model parallel"])
def test_a_killed_process_changes_nothing(reference, options, tmp_path):
    port = free_port()
    marker = tmp_path / "killed"
    group = [start(tmp_path, 0, 2, port, *options), start(tmp_path, 1, 2, port, *options, marker=marker)]
    try:
        assert group[1].wait(timeout=120) == -signal.SIGKILL, group[1].communicate()[1][-2000:]
        assert len(losses(tmp_path)) == 2
    finally:
        for member in group:  # the other waits for the dead one: whoever started them ends it
            member.kill()
            member.communicate()
    assert not (tmp_path / "model.keras").exists()
    printed = run(tmp_path, 2, *options)
    assert len(printed_losses(printed)) == EPOCHS - 2  # the others were not trained again
    check_equal(tmp_path, reference)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports run on TensorFlow: `make test`")
def test_what_jax_trained_is_exported_from_tensorflow(reference, tmp_path):
    model = load_model(reference / "model.keras")
    assert all(report.ok for report in export_model(model, tmp_path / "out"))


def test_a_group_that_does_not_add_up_is_refused(tmp_path):
    member = start(tmp_path, 0, 3, free_port())
    _, errors = member.communicate(timeout=120)
    assert member.returncode == 1
    assert "--processes must divide the batch of 32 videos. Received: 3" in errors
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'examples')!r}); import train_many_hosts as t; t.train('x', 0, 2)"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert "All 2 processes must have called `keras.distribution.initialize` before training" in alone.stderr


MIRRORED = """
import keras, numpy as np, tensorflow as tf
from keras_netvlad import VideoClassifier
from keras_netvlad.data import load_japanese_vowels

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
(inputs, labels), _ = load_japanese_vowels()
data = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(30, drop_remainder=True)

def train():
    keras.utils.set_random_seed(0)
    model = VideoClassifier({"frames": 12}, 9, num_clusters=4, hidden_units=16, activation="softmax")
    model.compile(keras.optimizers.Adam(0.005), "sparse_categorical_crossentropy", jit_compile=False)
    return model.fit(data, epochs=3, verbose=0).history["loss"], model.get_weights()

losses, weights = train()
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    mirrored_losses, mirrored_weights = train()
# Measured: 1e-7 and 3e-7.
np.testing.assert_allclose(mirrored_losses, losses, atol=2e-6)
for one, two in zip(weights, mirrored_weights, strict=True):
    np.testing.assert_allclose(two, one, atol=5e-6)
print("equal")
"""


def test_mirrored_devices_are_one():
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", MIRRORED], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.stdout.strip().endswith("equal"), done.stderr[-2000:]


RAY = """
import os, signal, sys
sys.path.insert(0, {examples!r})
import ray, train_with_ray

def kill_once():
    import keras, jax
    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2 and jax.process_index() == 1 and not os.path.exists({marker!r}):
                open({marker!r}, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
    return Kill()

ray.init(
    num_cpus=2,
    include_dashboard=False,
    object_store_memory=200_000_000,
    runtime_env={{"env_vars": {{"PYTHONPATH": {paths!r}}}}},
    _node_ip_address="127.0.0.1",
)
train_with_ray.fit({output!r}, 2, {epochs}, callbacks=[kill_once])
"""


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="`make engines` installs Ray")
def test_ray_restarts_the_group(reference, tmp_path):
    marker = tmp_path / "killed"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    code = RAY.format(
        examples=str(ROOT / "examples"), marker=str(marker), paths=paths, output=str(tmp_path), epochs=EPOCHS
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert marker.exists()
    check_equal(tmp_path, reference)
