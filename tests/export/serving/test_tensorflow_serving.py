import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_netvlad.export import Artefact, ParityError, publish
from keras_netvlad.export.saved_model import write_saved_model
from keras_netvlad.export.serving import tensorflow_serving, warmup_requests
from keras_netvlad.export.serving.model_versions import next_version
from keras_netvlad.export.serving.warmup import read_warmup
from keras_netvlad.export.serving.warmup_sizes import warmup_sizes
from keras_netvlad.export.serving_signatures import serving_signatures
from keras_netvlad.layers import NetVLAD
from keras_netvlad.models import VideoClassifier

WARMUP = os.path.join("assets.extra", "tf_serving_warmup_requests")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return VideoClassifier({"frames": 6}, 5, num_clusters=4, hidden_units=8, name="classifier")


@pytest.fixture(scope="module")
def published(model, tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    return base / "classifier" / "1", publish(model, base, metadata={"trained_on": "noise"})


def versions(base, name="classifier"):
    return sorted(path.name for path in (base / name).iterdir())


# What appears


def test_a_version_holds_all_that_a_server_reads(published):
    path, report = published
    assert report.ok
    assert report.path == str(path)
    assert sorted(file.name for file in path.iterdir()) == [
        "README.md",
        "assets",
        "assets.extra",
        "batching_params.pbtxt",
        "fingerprint.pb",
        "parity.json",
        "saved_model.pb",
        "variables",
    ]
    content = json.loads((path / "parity.json").read_text())
    assert content["parity"]["ok"] is True
    assert content["metadata"] == {"trained_on": "noise"}
    assert versions(path.parents[1]) == ["1"]


@pytest.mark.slow
def test_versions_count_up_and_foreign_names_are_passed_over(model, tmp_path):
    options = {"warmup_frames": ()}
    assert publish(model, tmp_path, **options).path == str(tmp_path / "classifier" / "1")
    (tmp_path / "classifier" / "notes").mkdir()
    (tmp_path / "classifier" / "7").mkdir()
    assert publish(model, tmp_path, **options).path == str(tmp_path / "classifier" / "8")
    assert publish(model, tmp_path, version=3, **options).path == str(tmp_path / "classifier" / "3")
    assert publish(model, tmp_path, name="other", **options).path == str(tmp_path / "other" / "1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classifier", "other"]


def test_a_file_takes_the_number_of_a_version_too(tmp_path):
    assert next_version(tmp_path) == 1
    (tmp_path / "7").touch()
    (tmp_path / "3").mkdir()
    (tmp_path / "9.partial").mkdir()
    assert next_version(tmp_path) == 8


def test_a_version_that_is_there_is_refused_and_left_alone(model, published):
    path, _ = published
    before = (path / "saved_model.pb").read_bytes()
    with pytest.raises(FileExistsError, match=r"must not exist yet.*classifier/1"):
        publish(model, path.parents[1], version=1)
    assert (path / "saved_model.pb").read_bytes() == before
    assert versions(path.parents[1]) == ["1"]


@pytest.mark.parametrize("version", [0, -1, 1.5, "2", True])
def test_versions_are_positive_integers(model, tmp_path, version):
    with pytest.raises(ValueError, match=r"`version` must be a positive integer"):
        publish(model, tmp_path, version=version)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "", "mödel", "a b"])
def test_names_that_no_server_can_bear_are_refused(model, tmp_path, name):
    model = model if name else VideoClassifier({"frames": 6}, 5, num_clusters=4, name="has space")
    with pytest.raises(ValueError, match=r"must be made of (letters, digits|the letters A to Z, digits)"):
        publish(model, tmp_path, name=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_model_that_differs_from_its_artefact_is_not_published(model, tmp_path):
    with pytest.raises(ParityError, match=r"nothing was written"):
        publish(model, tmp_path, tolerance=0.0)
    assert versions(tmp_path) == []


# Warm-up


def frames_of(record):
    """Returns the number of frames of a record."""
    return len(tf.train.SequenceExample.FromString(record).feature_lists.feature_list["frames"].feature)


def test_warm_up_requests_cover_every_signature_and_size(published):
    path, _ = published
    artefact = Artefact(path)
    requests = read_warmup(path / WARMUP)
    assert {name for name, _ in requests} == set(artefact.signatures)
    # The sums that `describe` takes have no length.
    assert len(requests) == 4 * len(artefact.signatures) - 2
    sizes = {inputs["frames"].shape[:2] for name, inputs in requests if name == "serving_default"}
    assert sizes == {(1, 1), (1, 300), (32, 1), (32, 300)}
    records = [
        [frames_of(record) for record in inputs["examples"]] for name, inputs in requests if "examples" in inputs
    ]
    assert sorted(records) == sorted([[frames] * batch for batch, frames in sizes])
    for name, inputs in requests:
        assert inputs.keys() == artefact.signatures[name][0].keys()
        for key, values in inputs.items():
            shape, dtype = artefact.signatures[name][0][key]
            assert values.dtype == ("object" if dtype == "string" else dtype)
            assert len(values) in (1, 32)
            assert all(size in (None, got) for size, got in zip(shape, values.shape, strict=True))
        if "num_frames" in inputs:  # all frames are real, so that the server runs all of the graph
            np.testing.assert_array_equal(inputs["num_frames"], inputs["frames"].shape[1])
        assert np.isfinite(
            artefact.run(inputs, name)["descriptor" if name != "accumulate" else "frames_first_sum"]
        ).all()


@pytest.mark.slow
def test_warm_up_is_small_and_may_be_left_out(model, tmp_path, published):
    # Constant tensors are stored as one value; what remains are the records of `serve_examples`.
    assert (published[0] / WARMUP).stat().st_size < 600_000
    publish(model, tmp_path, warmup_frames=())
    assert not (tmp_path / "classifier" / "1" / "assets.extra").exists()


@pytest.mark.slow
def test_a_warm_up_request_that_fails_stops_the_publication(model, tmp_path, monkeypatch):
    # A server would refuse to load the version.
    monkeypatch.setattr(warmup_requests, "make_request", lambda *_: {"frames": np.zeros((1, 2, 7), "float32")})
    with pytest.raises(ValueError, match=r"Every warm-up request must run; .* Received: `serving_default` with"):
        publish(model, tmp_path)
    assert versions(tmp_path) == []


def test_what_can_fail_is_found_before_the_export(model, tmp_path, monkeypatch):
    def fail(*arguments):
        raise AssertionError("the export has begun")

    monkeypatch.setattr(tensorflow_serving, "write_saved_model", fail)
    for options, message in (
        ({"data": "absent.npz"}, r"`data` must be an .npz file"),
        ({"tolerance": -1}, r"`tolerance` must be"),
        ({"min_agreement": 0.5}, r"pass `data` as well"),
        ({"max_batch_size": 0}, r"`max_batch_size` must be"),
        ({"max_queue_delay_microseconds": -1}, r"must be an integer of 0 or more"),
        ({"warmup_frames": (0,)}, r"`warmup_frames` must be a positive integer"),
    ):
        with pytest.raises(ValueError, match=message):
            publish(model, tmp_path, **options)
    assert list(tmp_path.iterdir()) == []
    requests = [(1, frames) for frames in range(1, 300)]
    with pytest.raises(ValueError, match=r"at most 1000 warm-up requests; leave some out. Received: 1197"):
        warmup_requests.plan_requests(serving_signatures(model), requests)


@pytest.mark.slow
def test_a_model_that_needs_several_frames_is_warmed_up_with_them(tmp_path):
    frames = keras.Input((None, 4), name="frames")
    pooled = NetVLAD(2)(keras.layers.Conv1D(4, 5)(frames))
    model = keras.Model({"frames": frames}, {"descriptor": pooled}, name="convolution")
    signatures = serving_signatures(model)
    sizes = warmup_sizes(signatures["serving_default"], 2)
    write_saved_model(model, signatures, tmp_path / "1")
    warmup_requests.warm_up(tmp_path / "1", signatures, warmup_requests.plan_requests(signatures, sizes))
    lengths = [inputs["frames"].shape for _, inputs in read_warmup(tmp_path / "1" / WARMUP)]
    assert lengths == [(1, 8, 4), (1, 300, 4), (2, 8, 4), (2, 300, 4)]


def test_a_model_without_num_frames_is_published_too(tmp_path):
    frames = keras.Input((None, 3), name="frames")
    model = keras.Model({"frames": frames}, {"descriptor": NetVLAD(2)(frames)}, name="pooling")
    assert publish(model, tmp_path).ok
    assert len(read_warmup(tmp_path / "pooling" / "1" / WARMUP)) == 4


# Many publishers, and none that lives


@pytest.mark.slow
def test_publishers_at_once_get_versions_of_their_own(model, tmp_path):
    # Threads see the same free number, for none of them has renamed yet.
    start = threading.Barrier(3)
    original, reports, errors = tensorflow_serving.next_version, [], []

    def together(directory):
        number = original(directory)
        if number == 1:
            start.wait(timeout=60)
        return number

    def run():
        try:
            reports.append(publish(model, tmp_path, warmup_frames=()))
        except Exception as error:
            errors.append(error)

    tensorflow_serving.next_version = together
    try:
        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=240)
    finally:
        tensorflow_serving.next_version = original
    assert errors == []
    assert versions(tmp_path) == ["1", "2", "3"]
    assert sorted(report.path for report in reports) == [str(tmp_path / "classifier" / name) for name in "123"]


PROGRAM = """
    import os, resource, signal, sys
    from keras_netvlad.export import publish
    from keras_netvlad.models import VideoClassifier
    model = VideoClassifier({"frames": 64}, 500, num_clusters=4, name="classifier")
"""


def run(tmp_path, program, **options):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM) + textwrap.dedent(program).format(base=str(tmp_path))],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


@pytest.mark.slow
@pytest.mark.parametrize("call", ["tf.saved_model.save", "tensorflow_serving.verify_staged", "os.rename"])
def test_a_killed_publisher_leaves_no_version(model, tmp_path, call):
    killed = run(
        tmp_path,
        f"""
        import tensorflow as tf
        from keras_netvlad.export.serving import tensorflow_serving
        {call} = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)
        publish(model, {{base!r}})
        """,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert all(name.startswith(".1.") and name.endswith(".partial") for name in versions(tmp_path))
    assert publish(model, tmp_path).path == str(tmp_path / "classifier" / "1")


@pytest.mark.slow
@pytest.mark.parametrize("limit", [2_000, 500_000])
def test_a_full_disk_leaves_nothing(tmp_path, limit):
    # A limit on the size of files fails writes in the way a full disk does: in the graph, then in the weights.
    finished = run(
        tmp_path,
        f"""
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            publish(model, {{base!r}})
        except OSError as error:
            print("OSError:", error)
        """,
    )
    assert "OSError: " in finished.stdout, finished.stderr
    assert versions(tmp_path) == []


@pytest.mark.slow
def test_a_polling_reader_sees_whole_versions_only(model, tmp_path):
    # As TensorFlow Serving does: list the directory again and again, load whatever integer is there.
    stop, seen, errors = threading.Event(), set(), []

    def poll():
        while not stop.is_set():
            for path in (tmp_path / "classifier").glob("[0-9]*"):
                if path.name in seen:
                    continue
                try:
                    assert set(Artefact(path).signatures) >= {"serving_default", "describe"}
                    assert (path / WARMUP).is_file()
                    seen.add(path.name)
                except Exception as error:
                    errors.append((path, error))

    thread = threading.Thread(target=poll)
    thread.start()
    for _ in range(3):
        publish(model, tmp_path)
    stop.set()
    thread.join(timeout=120)
    assert errors == []
    assert seen <= {"1", "2", "3"}
    assert {"1", "2"} <= seen
