"""Records to an index by an artefact, and the command that searches in it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from selection import slow_except

from keras_netvlad import VideoClassifier, VideoEncoder
from keras_netvlad.__main__ import main
from keras_netvlad.data import write_youtube8m
from keras_netvlad.export import export_onnx
from keras_netvlad.layers import Dequantize, MeanPooling
from keras_netvlad.retrieval.index_records import index_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty clips in two files, every second one much like the one before it, and artefacts for floats and bytes."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    clips = []
    for n in range(20):
        frames = rng.integers(0, 256, (3 + n, 8)).astype("uint8")
        noisy = np.clip(frames.astype(int) + rng.integers(-9, 10, frames.shape), 0, 255).astype("uint8")
        clips += [{"id": f"clip {n}", "labels": [], "rgb": frames}, {"id": f"copy {n}", "labels": [], "rgb": noisy}]
    (folder / "below").mkdir()
    write_youtube8m(folder / "one.tfrecord", clips[:25])
    write_youtube8m(folder / "below" / "two.tfrecord", clips[25:])
    keras.utils.set_random_seed(0)
    model = VideoEncoder({"rgb": 8}, num_clusters=4, input_dtype="uint8")
    export_onnx(model, folder / "bytes.onnx", verify=False)
    export_onnx(model.with_input_dtype("float32"), folder / "floats.onnx", verify=False)
    frames = keras.Input((None, 8), name="rgb")
    export_onnx(keras.Model({"rgb": frames}, {"descriptor": MeanPooling()(frames)}), folder / "mean.onnx", verify=False)
    return folder, clips, model


@pytest.mark.parametrize("artefact", slow_except(["bytes.onnx", "floats.onnx", "mean.onnx"], "bytes.onnx"))
def test_descriptors_are_the_models(folder, artefact):
    folder, clips, model = folder
    index = index_records(folder, folder / artefact)
    assert sorted(index.ids) == sorted(clip["id"] for clip in clips)
    for clip in clips[::5]:
        frames = clip["rgb"][None]
        if artefact == "mean.onnx":
            expected = np.asarray(Dequantize()(frames))[0].mean(axis=0)
            expected /= np.linalg.norm(expected)
        else:
            expected = model.predict({"rgb": frames, "num_frames": np.array([frames.shape[1]])}, verbose=0)
            expected = expected["descriptor"][0]
        # Measured 2.4e-7.
        np.testing.assert_allclose(index.descriptor(clip["id"]), expected, atol=3e-6)


def test_records_of_float16_are_told_by_what_extract_wrote_down(folder, tmp_path):
    folder, clips, _ = folder
    floats = [{**clip, "rgb": np.asarray(Dequantize()(clip["rgb"]))} for clip in clips[:3]]
    write_youtube8m(tmp_path / "halves.tfrecord", floats, feature_dtype="float16")
    with pytest.raises(ValueError, match="as feature_dtype='float16' that is 8 features"):
        index_records(tmp_path, folder / "floats.onnx")
    named = index_records(tmp_path, folder / "floats.onnx", feature_dtype="float16")
    (tmp_path / "extraction.json").write_text('{"dtype": "float16"}')
    told = index_records(tmp_path, folder / "floats.onnx")
    bytes_ = index_records(folder, folder / "floats.onnx")
    for clip in floats:
        np.testing.assert_array_equal(told.descriptor(clip["id"]), named.descriptor(clip["id"]))
        # float16 rounds features of up to 2 by up to 5e-4; measured 2.6e-4.
        np.testing.assert_allclose(told.descriptor(clip["id"]), bytes_.descriptor(clip["id"]), atol=3e-3)
    with pytest.raises(ValueError, match="must take floats where records hold float16"):
        index_records(tmp_path, folder / "bytes.onnx")


def test_the_command_prints_the_nearest_clips_and_keeps_an_index(folder, tmp_path, capsys):
    folder, _, _ = folder
    saved = tmp_path / "clips.npz"
    options = ["--model", str(folder / "floats.onnx"), "--count", "3", "--save-index", str(saved)]
    assert main(["search", str(folder), "clip 13", *options]) == 0
    printed = capsys.readouterr().out
    lines = [line.split("  ", 1) for line in printed.strip().splitlines()]
    assert len(lines) == 3
    assert lines[0][1].strip() == "copy 13"
    assert 0.9 < float(lines[0][0]) < 0.99995
    assert "clip 13" not in printed
    assert main(["search", str(saved), "clip 13", "--count", "3"]) == 0
    assert capsys.readouterr().out == printed


def test_an_id_that_is_no_text_is_one_sentence(folder, tmp_path):
    record = tf.train.SequenceExample()
    for serialized in tf.data.TFRecordDataset(str(folder[0] / "one.tfrecord")).take(1).as_numpy_iterator():
        record.ParseFromString(serialized)
    record.context.feature["id"].bytes_list.value[0] = b"\xff"
    with tf.io.TFRecordWriter(str(tmp_path / "records.tfrecord")) as writer:
        writer.write(record.SerializeToString())
    with pytest.raises(ValueError, match=r"^The ids of records must be text in UTF-8\. Received: b'\\xff' in .+"):
        index_records(tmp_path, folder[0] / "bytes.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}", "clip 99", "--model", "{folder}/bytes.onnx"], "no descriptor of that id; ids like it are"),
        (["{folder}/none*", "clip 1", "--model", "{folder}/bytes.onnx"], "must match at least one file"),
        (["{empty}", "clip 1", "--model", "{folder}/bytes.onnx"], "The directory must hold `.tfrecord` files"),
        (["{folder}", "clip 1", "--model", "{folder}/none.onnx"], "must be an ONNX file. Received: "),
        (["{folder}", "clip 1", "--model", "{folder}/one.tfrecord"], "an ONNX file that onnxruntime loads"),
        (["{folder}", "clip 1", "--model", "{empty}/../scores.onnx"], "have an output `descriptor`. Received: "),
        (["{folder}", "clip 1", "--model", "{empty}/../wide.onnx"], "has 8 bytes, expected 9"),
        (["{folder}", "clip 1"], "Records need --run, a run of `train`, or --model"),
        (["{folder}/none.npz", "clip 1"], "An index must be a file that `--save-index` or `index` wrote. Received: "),
        (["{folder}/one.tfrecord", "clip 1"], "an index that `DescriptorIndex.save` wrote"),
        (["{folder}", "clip 1", "--model", "{folder}/bytes.onnx", "--count", "-1"], "`k` must be a positive integer"),
    ],
)
def test_wrong_use_is_one_sentence(folder, tmp_path, capsys, arguments, message):
    folder, _, _ = folder
    (tmp_path / "empty").mkdir()
    frames = keras.Input((None, 8), name="rgb")
    if "scores.onnx" in " ".join(arguments):
        export_onnx(keras.Model({"rgb": frames}, {"scores": MeanPooling()(frames)}), tmp_path / "scores.onnx")
    if "wide.onnx" in " ".join(arguments):
        wide = VideoClassifier({"rgb": 9}, num_classes=2, num_clusters=2, hidden_units=None)
        export_onnx(wide, tmp_path / "wide.onnx", verify=False)
    assert main(["search", *(a.format(folder=folder, empty=tmp_path / "empty") for a in arguments)]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
