"""`Embed` by itself, and 2,000 videos through Ray, Spark and Beam with a worker killed in the middle."""

import importlib.util
import pickle
import shutil
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from paths import ROOT

from keras_netvlad.data.sequence_example import serialize_example
from keras_netvlad.export import export_onnx
from keras_netvlad.layers import Dequantize
from keras_netvlad.models import VideoClassifier

sys.path[:0] = [str(ROOT / "export"), str(ROOT / "examples")]
SIZES = {"rgb": 16, "audio": 4}
NUM_VIDEOS = 2000


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return VideoClassifier(SIZES, 5, num_clusters=4, hidden_units=8)


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("embed") / "model.onnx"
    assert export_onnx(model, path).ok
    return path


def make_videos(count, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 40, count)
    return {name: [rng.integers(0, 256, (n, size), "uint8") for n in lengths] for name, size in SIZES.items()}


def test_descriptors_are_the_models(model, path):
    from embed import Embed

    videos = make_videos(50)
    embed = Embed(path, batch_size=16, num_threads=1)
    received = embed({name: [video.tobytes() for video in stream] for name, stream in videos.items()})
    for index in range(50):
        inputs = {name: np.asarray(Dequantize()(stream[index]))[None] for name, stream in videos.items()}
        inputs["num_frames"] = np.array([len(videos["rgb"][index])], "int32")
        expected = np.asarray(model(inputs)["descriptor"])[0]
        np.testing.assert_allclose(received[index], expected, atol=2e-6)  # measured 1.3e-7
    floats = {name: [np.asarray(Dequantize()(video)) for video in stream] for name, stream in videos.items()}
    np.testing.assert_allclose(embed(floats), received, atol=2e-6)
    np.testing.assert_allclose(Embed(path, output="scores")(videos).shape, (50, 5))
    assert embed({"rgb": [], "audio": []}).shape == (0, received.shape[1])


def test_a_video_encoder_gives_the_descriptors_of_its_classifier(model, path, tmp_path):
    from embed import Embed

    assert export_onnx(model.encoder, tmp_path / "encoder.onnx").ok
    videos = make_videos(5)
    np.testing.assert_allclose(Embed(tmp_path / "encoder.onnx")(videos), Embed(path)(videos), atol=1e-6)


def test_it_pickles_as_a_path(path):
    from embed import Embed

    videos = make_videos(3)
    embed = Embed(path, num_threads=1)
    expected = embed(videos)
    pickled = pickle.dumps(embed)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(pickle.loads(pickled)(videos), expected)


def test_it_needs_neither_keras_nor_tensorflow():
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'export')!r}); import embed; print(sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'numpy'" in modules
    assert "'keras'" not in modules
    assert "'tensorflow'" not in modules


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda videos: videos.pop("audio"), r"must have the streams \['audio', 'rgb'\]. Received: \['rgb'\]"),
        (lambda videos: videos["rgb"].pop(), r"as many videos as each other. Received: .*'rgb': 2"),
        (lambda videos: videos["rgb"].__setitem__(1, np.zeros((2, 16), int)), "or floats. Received: an array of int64"),
        (lambda videos: videos["rgb"].__setitem__(1, b"123"), "must be whole frames of 16 bytes. Received: 3 bytes"),
        (lambda videos: videos["rgb"].__setitem__(1, np.zeros((2, 5))), r"frames \(T, 16\). Received: .* \(2, 5\)"),
        (
            lambda videos: videos["rgb"].__setitem__(1, b""),
            "as many frames as each other. Received: {.*0.*} for",
        ),
    ],
)
def test_wrong_videos_are_refused(path, change, message):
    from embed import Embed

    videos = make_videos(3)
    change(videos)
    with pytest.raises(ValueError, match=message):
        Embed(path)(videos)


def test_a_model_for_bytes_takes_no_floats(model, tmp_path):
    from embed import Embed

    path = tmp_path / "bytes.onnx"
    assert export_onnx(model.with_input_dtype("uint8"), path).ok
    videos = make_videos(3)
    assert Embed(path)(videos).shape[0] == 3
    videos["rgb"][0] = videos["rgb"][0].astype("float32")
    with pytest.raises(ValueError, match=r"of stream 'rgb' must be uint8. Received: an array of float32"):
        Embed(path)(videos)
    with pytest.raises(ValueError, match=r"must be one of the model's, \['descriptor', 'scores'\]. Received: 'score'"):
        Embed(path, output="score")(videos)


def has(module):
    return importlib.util.find_spec(module) is not None


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    pyarrow = pytest.importorskip("pyarrow", reason="`make engines` installs pyarrow")
    from pyarrow.parquet import write_table

    folder = tmp_path_factory.mktemp("parquet")
    videos = make_videos(NUM_VIDEOS)
    rows = {name: [video.tobytes() for video in stream] for name, stream in videos.items()}
    table = pyarrow.table({"id": [f"video{i}" for i in range(NUM_VIDEOS)], **rows})
    for part in range(4):
        write_table(table.take(np.arange(part, NUM_VIDEOS, 4)), folder / f"{part}.parquet")
    return folder


def check_answers(path, files):
    """Every id once, and the answer of this process."""
    from embed import Embed
    from pyarrow import concat_tables
    from pyarrow.parquet import read_table

    table = concat_tables([read_table(file, columns=["id", "descriptor"]) for file in files]).to_pydict()
    assert len(table["id"]) == NUM_VIDEOS
    assert set(table["id"]) == {f"video{i}" for i in range(NUM_VIDEOS)}
    expected = Embed(path, num_threads=1)(make_videos(NUM_VIDEOS))
    order = [int(name.removeprefix("video")) for name in table["id"]]
    # Measured: 6e-8, for other videos share a batch and its padding.
    np.testing.assert_allclose(np.stack(table["descriptor"]), expected[order], atol=2e-6)


@pytest.mark.slow
@pytest.mark.skipif(not has("ray"), reason="`make engines` installs Ray")
def test_ray_with_an_actor_killed(path, parquet, tmp_path):
    import ray
    from embed_with_ray import embed_videos
    from killed_once import KilledOnce
    from ray.util.annotations import RayDeprecationWarning

    paths = ":".join(str(ROOT / folder) for folder in ("examples", "export", "tests/support"))
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200_000_000,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
        _node_ip_address="127.0.0.1",
    )
    try:
        embed = KilledOnce(path, tmp_path / "killed", calls=4, num_threads=1)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RayDeprecationWarning)  # nothing that a later Ray will not have
            embed_videos(embed, parquet, tmp_path / "out", num_actors=1, batch_size=64)
    finally:
        ray.shutdown()
    assert (tmp_path / "killed").exists()
    check_answers(path, (tmp_path / "out").glob("*.parquet"))


@pytest.mark.slow
@pytest.mark.skipif(not has("pyspark") or not shutil.which("java"), reason="`make engines` installs Spark and Java")
def test_spark_with_a_worker_killed(path, parquet, tmp_path, monkeypatch):
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    from embed_with_spark import embed_videos
    from killed_once import KilledOnce
    from pyspark.sql import SparkSession

    settings = {
        "spark.ui.enabled": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
    }
    builder = SparkSession.builder.master("local[2,4]")
    for key, value in settings.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    try:
        spark.sparkContext.addPyFile(str(ROOT / "tests" / "support" / "killed_once.py"))
        embed = KilledOnce(path, tmp_path / "killed", calls=3, num_threads=1)
        embed_videos(spark, embed, parquet, tmp_path / "out", batch_size=64)
    finally:
        spark.stop()
    assert (tmp_path / "killed").exists()
    check_answers(path, (tmp_path / "out").glob("*.parquet"))


RUN_BEAM = """
import sys
sys.path[:0] = [{examples!r}, {tests!r}]
from killed_once import KilledOnce
from embed_with_beam import embed_videos
embed_videos(KilledOnce({model!r}, {marker!r}, calls=4, num_threads=1), {source!r}, {target!r})
"""


@pytest.mark.slow
@pytest.mark.skipif(not has("apache_beam"), reason="`make engines` installs Beam")
def test_beam_with_its_process_killed(path, tmp_path):
    import tensorflow as tf

    videos = make_videos(NUM_VIDEOS)
    for part in range(4):
        with tf.io.TFRecordWriter(str(tmp_path / f"{part}.tfrecord")) as writer:
            for index in range(part, NUM_VIDEOS, 4):
                record = serialize_example({name: stream[index] for name, stream in videos.items()})
                example = tf.train.SequenceExample.FromString(record)
                example.context.feature["id"].bytes_list.value.append(f"video{index}".encode())
                example.context.feature["labels"].int64_list.value.append(3)
                writer.write(example.SerializeToString())
    names = {"model": str(path), "marker": str(tmp_path / "killed"), "source": str(tmp_path / "*.tfrecord")}
    names |= {
        "target": str(tmp_path / "out"),
        "examples": str(ROOT / "examples"),
        "tests": str(ROOT / "tests" / "support"),
    }
    runs = [
        subprocess.run([sys.executable, "-c", RUN_BEAM.format(**names)], capture_output=True, text=True, timeout=300)
        for _ in range(2)
    ]
    assert runs[0].returncode == -9, runs[0].stderr[-2000:]
    assert runs[1].returncode == 0, runs[1].stderr[-2000:]
    check_answers(path, tmp_path.glob("out*.parquet"))
