"""The benchmarks run, at tiny sizes; no time is asserted."""

import importlib
import json
import subprocess
import sys

import numpy as np
import pytest
from paths import ROOT

from benchmarks import places, search
from keras_netvlad.layers import PCAWhitening
from keras_netvlad.metrics import RecallAtN

PARTS = (
    "layer",
    "classifier",
    "exports",
    "serving",
    "growth",
    "pooling",
    "throughput",
    "extraction",
    "places",
    "search",
)


def run(*arguments):
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=900)


def write_walks(path, number=8):
    """Writes two walks past the same colors, the second with noise, in the format of the Corridor set."""
    tf = importlib.import_module("tensorflow")
    rng = np.random.default_rng(0)
    walk = rng.integers(0, 200, (number, 6, 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    arrays = {"relevance": np.eye(number, dtype=bool)}
    for name, pictures in {"ref": walk, "query": walk + rng.integers(0, 56, walk.shape)}.items():
        files = [np.frombuffer(tf.io.encode_jpeg(picture.astype("uint8")).numpy(), "uint8") for picture in pictures]
        arrays |= {f"{name}_jpeg": np.concatenate(files), f"{name}_bytes": np.array([len(file) for file in files])}
    np.savez(path, **arrays)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    write_walks(folder / "walks.npz")
    finished = run("benchmarks", "--quick", "--output", str(folder), "--corridor", str(folder / "walks.npz"))
    assert finished.returncode == 0, finished.stderr
    return folder


@pytest.mark.slow
def test_every_part_is_measured(output):
    (path,) = (output / "results").glob("*.json")
    parts = json.loads(path.read_text())["parts"]
    assert tuple(parts) == PARTS
    assert all(part["rows"] and part["versions"]["keras"] for part in parts.values())
    rounds = parts["layer"]["rows"][0]["rounds"]
    assert {"tensorflow/chain", "tensorflow/NetVLAD", "tensorflow/NetVLAD, masked", "onnxruntime/NetVLAD"} <= set(
        rounds
    )
    assert {row["kind"] for row in parts["exports"]["rows"]} == {"onnx"}
    served = {row["name"]: row for row in parts["serving"]["rows"]}
    assert {"TensorFlow float32", "TensorFlow bfloat16", "onnxruntime int8"} <= set(served)
    assert all(row["difference"] < 1e-3 for row in served.values())  # measured up to 6e-5, of scores near 0.5
    timed = parts["serving"]["models"]["random weights"]["times"]
    assert set(timed) == {"batch 1", "batch 32"}
    names = [f"onnxruntime {kind}" for kind in ("float32", "float16", "int8", "chain")]
    assert set(names) | {"TensorFlow float32", "TensorFlow bfloat16", "TensorFlow chain"} <= set(
        timed["batch 1"]["rounds"]
    )
    assert set(parts["classifier"]["rows"][0]["rounds"]) == {
        *("input", "assignment", "aggregation", "hidden", "classifier", "optimizer")
    }
    assert {row["axis"] for row in parts["growth"]["rows"]} == {"N", "K"}
    assert [row["pooling"] for row in parts["pooling"]["rows"]] == ["netvlad", "mean"]
    names = [row["name"] for row in parts["throughput"]["rows"]]
    assert {"textbook", "youtube8m, shuffled", "step, K = 2", "from files, K = 3"} <= set(names)
    assert [set(row["rounds"]) for row in parts["extraction"]["rows"]] == [
        {"extraction", "keras", "encoder", "decoding"}
    ]
    assert "Free Spoken Digit Dataset" in parts["pooling"]["left_out"][0]
    recalls = {row["pooling"]: row["recall"] for row in parts["places"]["rows"]}
    assert set(recalls) == {*places.WITHOUT_CLUSTERS, *places.CLUSTERED, *places.RANDOM}
    assert all(0 <= first <= fifth <= tenth == 1 for first, fifth, tenth in recalls.values())  # of 8 pictures
    assert {"backbone", "mean", "NetVLAD, K = 8"} <= set(parts["places"]["rounds"])
    assert parts["search"]["recalls"]["faiss, exact"] > 0.9  # of equally near descriptors it may find others
    assert [row["number"] for row in parts["search"]["rows"]][-1] == search.QUICK["descriptors"]


def test_recalls_are_those_of_the_metric():
    """Also of equal similarities, and with items to leave out."""
    rng = np.random.default_rng(0)
    relevance = rng.choice([-1, 0, 1], (30, 25), p=[0.1, 0.8, 0.1])
    relevance[:, 0] = 1
    similarities = np.round(rng.normal(size=relevance.shape), 1)
    expected = [float(RecallAtN(n)(relevance, similarities)) for n in (1, 5, 10)]
    np.testing.assert_allclose(places.recalls(relevance, similarities), expected, atol=1e-6)


def test_whitening_in_the_span_of_the_references_is_that_of_the_descriptors():
    rng = np.random.default_rng(0)
    long = {name: rng.normal(size=(12, 300)).astype("float32") for name in ("references", "queries")}
    layer = PCAWhitening(4)
    layer.adapt(long["references"])
    expected = [np.abs(np.asarray(layer(long[name]))) for name in long]  # signs of components are arbitrary
    short = places.whitened(places.in_span(long), sizes=(4,))[4]
    np.testing.assert_allclose([np.abs(short[name]) for name in long], expected, atol=1e-4)


@pytest.mark.slow
def test_tables_and_pictures_are_written_and_the_text_is_kept(output):
    text = (output / "RESULTS.md").read_text()
    kept = [line for line in (ROOT / "benchmarks" / "RESULTS.md").read_text().splitlines() if line.startswith("## ")]
    assert [line for line in text.splitlines() if line.startswith("## ")] == kept
    for part in PARTS:
        table = text.split(f"<!-- begin {part} -->")[1].split(f"<!-- end {part} -->")[0]
        assert "|---" in table.replace(" ", "")
        picture = table.split("](")[-1].split(")")[0]
        assert (output / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_checkout_is_compared_with_another():
    finished = run("benchmarks.versions", str(ROOT), "--quick")
    assert finished.returncode == 0, finished.stderr
    assert "tiny | training step" in finished.stdout
    assert "saved_model, verified |" in finished.stdout
    assert "Import over that of Keras" in finished.stdout


@pytest.mark.slow
def test_what_is_no_checkout_is_refused(tmp_path):
    finished = run("benchmarks.versions", str(tmp_path))
    assert finished.returncode == 2
    assert "must be a checkout of this repository" in finished.stderr


@pytest.mark.slow
def test_without_a_gpu_it_says_so():
    finished = run("benchmarks.gpu", "--backends", "tensorflow")
    if finished.returncode == 0:
        pytest.skip("tests the message of a machine without a GPU")
    assert finished.returncode == 2
    assert finished.stderr == "A GPU is needed for these measurements: tensorflow finds none.\n"


@pytest.mark.needs_torch
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_the_gpu_script_runs_on_the_cpu(backend, tmp_path):
    pytest.importorskip(backend, reason="`make backends` installs it")
    finished = run(
        *("benchmarks.gpu", "--backends", backend, "--allow-cpu", "--seconds", "0", "--output", str(tmp_path))
    )
    assert finished.returncode == 0, finished.stderr
    (path,) = tmp_path.glob("gpu-*.json")
    rows = json.loads(path.read_text())["rows"]
    assert {row["precision"] for row in rows} == {"float32", "TF32", "bfloat16", "float16"}
    for row in rows:
        assert set(row["rounds"]) == {"chain", "NetVLAD"}
        # Measured 2e-7, and 2e-3 with bfloat16 inputs.
        assert row["error"] < (1e-5 if row["precision"] in ("float32", "TF32") else 2e-2)


def test_a_form_that_computes_something_else_is_refused():
    problem, forms = (importlib.import_module(f"benchmarks.{name}") for name in ("problem", "forms"))
    given = problem.arrays(2, 20, 8, 4)
    right = problem.descriptor(given)
    assert forms.check("NetVLAD", right, given) == 0
    with pytest.raises(ValueError, match="must compute the descriptor"):
        forms.check("NetVLAD", right + 1e-3, given)
    with pytest.raises(ValueError, match="must compute the descriptor"):
        forms.check("NetVLAD", np.full_like(right, np.nan), given)


def test_ratios_are_paired():
    measuring = importlib.import_module("benchmarks.measuring")
    rounds = {"ours": [2.0, 30.0, 4.0], "theirs": [1.0, 10.0, 2.0]}
    assert measuring.paired_ratio(rounds, "ours", "theirs") == (2, 2, 2.5)


def test_a_worker_that_fails_says_why():
    measuring = importlib.import_module("benchmarks.measuring")
    with measuring.Worker("one") as worker:
        with pytest.raises(RuntimeError, match="one: ModuleNotFoundError: No module named"):
            worker.make("benchmarks.absent:calls")
        assert worker.run("benchmarks.measuring:quartiles", values=[1, 2, 3]) == [1.5, 2, 2.5]


def test_peak_memory_sees_what_is_freed_again():
    measuring = importlib.import_module("benchmarks.measuring")
    with measuring.PeakMemory() as memory:
        np.ones(12_500_000)  # 100 MB
    assert 95e6 < memory.added < 120e6
