"""From features with labels to a run with results, a predictor and its answers."""

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
import yaml
from make_features import CLASSES, D, make_features
from make_videos import grey, write_video

from keras_netvlad.__main__ import main
from keras_netvlad.base.json_files import read_json_object
from keras_netvlad.base.npz_files import read_npz
from keras_netvlad.models import load_model
from keras_netvlad.retrieval import DescriptorIndex
from keras_netvlad.videos import Predictor, Results, train
from keras_netvlad.videos.evaluation import Estimate
from keras_netvlad.videos.features_folder import FeaturesFolder, write_videos_file

OPTIONS = {"num_clusters": 3, "epochs": 3, "batch_size": 4, "verbose": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def features(folder):
    return make_features(folder)


@pytest.fixture(scope="module")
def results(folder, features):
    return train(features, folder / "run", **OPTIONS)


@pytest.fixture(scope="module")
def run(folder, results):
    return folder / "run"


def test_the_features_are_split_by_class_and_group(features):
    read = FeaturesFolder(features)
    assert read.labels == list(CLASSES)
    assert read.is_single_label
    groups = {}
    for split, count in (("train", 6), ("validation", 6), ("test", 6)):
        videos = read.split(split)
        assert [video.labels[0] for video in videos] == [name for name in CLASSES for _ in range(count // 3)]
        for video in videos:
            assert groups.setdefault(video.group, split) == split
            example = tf.train.SequenceExample.FromString(
                next(iter(tf.data.TFRecordDataset(str(read.record(video))))).numpy()
            )
            assert example.context.feature["labels"].int64_list.value == [read.labels.index(video.labels[0])]
            assert example.context.feature["id"].bytes_list.value == [video.name.encode()]


@pytest.mark.slow
def test_results_are_those_of_the_saved_model(run, features, results):
    read = FeaturesFolder(features)
    model = load_model(run / "model.keras")
    clips = read_npz(run / "clips.npz")
    assert sorted(clips["ids"].tolist()) == sorted(video.name for video in read.videos)
    for name, split in (("train", "train"), ("test", "test")):
        rows = np.flatnonzero(clips["split"] == split)
        assert len(rows) == len(read.split(name))
    hits = []
    for video in read.split("test"):
        record = next(iter(tf.data.TFRecordDataset(str(read.record(video))))).numpy()
        frames = tf.train.SequenceExample.FromString(record).feature_lists.feature_list["rgb"].feature
        values = np.stack([np.frombuffer(frame.bytes_list.value[0], "uint8") for frame in frames])
        floats = keras.ops.convert_to_numpy(
            model.with_input_dtype("uint8")({"rgb": values[None], "num_frames": np.array([len(values)], "int32")})[
                "scores"
            ]
        )[0]
        row = clips["ids"].tolist().index(video.name)
        np.testing.assert_allclose(clips["scores"][row], floats, atol=1e-6)
        assert clips["frames_per_clip"][row] == len(values) == 4
        hits.append(read.labels[floats.argmax()] == video.labels[0])
    assert results.test["netvlad"].value == pytest.approx(np.mean(hits))
    stored = read_json_object(run / "results.json")
    assert stored == json.loads(json.dumps(results.as_dict()))
    assert stored["num_videos"] == {"train": 6, "validation": 6, "test": 6}
    assert set(stored["test"]) == {"model", "mean"}
    np.testing.assert_allclose(clips["assignments"].sum(axis=1), 1, atol=1e-5)
    assert clips["assignments"].shape == (clips["frames_per_clip"].sum(), 3)
    history = read_json_object(run / "history.json")
    assert [len(epochs) for epochs in history.values()] == [3, 3]
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= set(history["model"][0])


def test_the_predictor_answers_as_the_model_for_the_video_files(run, features, folder):
    predictor = Predictor(run / "predictor")
    clips = read_npz(run / "clips.npz")
    for row, name in enumerate(clips["ids"].tolist()):
        answer = predictor.predict(folder / "videos" / name)
        np.testing.assert_allclose(answer.scores, clips["scores"][row], atol=1e-5)
        assert answer.second == 2.0
    running = list(predictor.running_answers(folder / "videos" / name, every=0.7))
    assert [answer.second for answer in running] == [1.0, 2.0]
    np.testing.assert_allclose(running[-1].scores, answer.scores, atol=1e-5)
    proof = read_json_object(run / "predictor" / "predictor.json")["proof"]
    assert proof["largest_relative_difference"] < proof["tolerance"] == 1e-4


def test_the_card_of_a_predictor_names_results_and_files_but_no_path(run, results, folder):
    text = (run / "predictor" / "README.md").read_text(encoding="utf-8")
    accuracy = yaml.safe_load(text.split("---")[1])["model-index"][0]["results"][0]["metrics"][0]
    assert accuracy["value"] == round(results.test["netvlad"].value, 4)
    interval = results.test["mean"]
    assert f"| mean | accuracy | {interval.value:.3f} | {interval.low:.3f} to {interval.high:.3f} |" in text
    assert "6 for train, 6 for validation, 6 for test" in text
    assert f"{len(CLASSES)}: {', '.join(CLASSES)}." in text
    assert "| classifier.onnx | " in text
    assert str(folder) not in text


def test_the_program_runs_without_this_package(run, folder, tmp_path):
    shutil.copytree(run / "predictor", tmp_path / "alone")
    clip = str(next((folder / "videos" / "temple").glob("*.mp4")))
    program = (
        "import runpy, sys; sys.modules['keras_netvlad'] = sys.modules['keras'] = sys.modules['tensorflow'] = None;"
        f"sys.path.insert(0, {str(tmp_path / 'alone')!r}); sys.argv = ['predict.py', {clip!r}, '--top', '2'];"
        f"runpy.run_path({str(tmp_path / 'alone' / 'predict.py')!r}, run_name='__main__')"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    scores = Predictor(run / "predictor").predict(clip).scores
    best = np.argsort(-scores)[:2]
    expected = [clip, *(f"  {scores[index]:.3f}  {CLASSES[index]}" for index in best)]
    assert finished.stdout.splitlines() == expected


def test_the_command_writes_answers_and_goes_on_where_it_was_killed(run, folder, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    table, lines = tmp_path / "answers.csv", tmp_path / "answers.jsonl"
    arguments = ["predict", str(run), str(folder / "videos"), str(tmp_path / "*.mp4"), "--top", "2"]
    arguments += ["--csv", str(table), "--json", str(lines)]
    assert main(arguments) == 1
    assert "19 videos; 1 could not be read" in capsys.readouterr().err
    complete = {path: path.read_text() for path in (table, lines)}
    assert len(complete[table].splitlines()) == 1 + 2 * 18
    assert complete[table].startswith("video,second,label,score\n")
    first = json.loads(complete[lines].splitlines()[0])
    assert sorted(first) == ["label", "score", "second", "video"]
    for path, content in complete.items():
        lines_before = content.splitlines(keepends=True)
        first_row = len(lines_before) - 2 * 18  # behind the header of the table
        # Of the sixth video, the first row is complete and the second is cut off.
        path.write_text("".join(lines_before[: first_row + 11]) + lines_before[first_row + 11][:9])
    assert main(arguments) == 1
    for path, content in complete.items():
        assert sorted(path.read_text().splitlines()) == sorted(content.splitlines())
    table.write_text("path,label\n")
    assert main(arguments) == 2
    assert "must hold answers of this command" in capsys.readouterr().err


def test_the_command_prints_running_answers(run, folder, capsys):
    clip = str(next((folder / "videos" / "bikes").glob("*.mp4")))
    assert main(["predict", str(run / "predictor"), clip, "--every", "1", "--top", "1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == clip
    assert [line.split()[:2] for line in printed[1:]] == [["1.0", "s"], ["2.0", "s"]]
    for options, message in (
        (["--top", "0"], "`--top` must be a positive integer"),
        (["--every", "0"], "`--every` must be a number of seconds above 0"),
        (["--csv", str(run / "model.keras")], "must hold answers of this command"),
    ):
        assert main(["predict", str(run), clip, *options]) == 2
        assert message in capsys.readouterr().err
    assert main(["predict", str(run), "absent.mp4"]) == 2
    assert "A video must be a file, a folder of videos or a pattern. Received: absent.mp4" in capsys.readouterr().err


def test_a_clip_finds_itself_and_an_index_knows_what_made_it(run, features, folder, tmp_path, capsys):
    clip, name = str(folder / "videos" / "temple" / "temple_02.mp4"), "temple/temple_02.mp4"
    index = tmp_path / "clips.npz"
    arguments = ["search", str(features), clip, "--run", str(run), "--save-index", str(index)]
    assert main(arguments) == 0
    first, second = (line.split() for line in capsys.readouterr().out.splitlines()[:2])
    assert first == ["1.0000", name]
    assert float(second[0]) < 0.9999
    # The saved index remembers the run; an id needs no run.
    assert main(["search", str(index), clip, "--count", "1"]) == 0
    assert capsys.readouterr().out.split() == first
    assert main(["search", str(index), name, "--count", "1"]) == 0
    assert capsys.readouterr().out.split() == second
    loaded = DescriptorIndex.load(index)
    files = read_json_object(run / "predictor" / "predictor.json")["files"]
    assert loaded.source == {
        "model": files["classifier.onnx"],
        "encoder": files["encoder.onnx"],
        "run": str(run),
    }
    np.testing.assert_allclose(Predictor(run / "predictor").descriptor(clip), loaded.descriptor(name), atol=1e-6)
    foreign = DescriptorIndex({**loaded.source, "model": "another"})
    foreign.add(["a"], np.ones((1, 3 * D)))
    foreign.save(tmp_path / "foreign.npz")
    assert main(["search", str(tmp_path / "foreign.npz"), clip]) == 2
    message = "must be encoded by the model and encoder of the index; use the same run, or make a new index. "
    assert message + "Received: another model" in capsys.readouterr().err
    homeless = DescriptorIndex()
    homeless.add(["a"], np.ones((1, 3 * D)))
    homeless.save(tmp_path / "homeless.npz")
    assert main(["search", str(tmp_path / "homeless.npz"), clip]) == 2
    assert "A video file needs --run, the run of `train` that made the index" in capsys.readouterr().err
    assert main(["search", str(index), "absent.mp4"]) == 2
    assert "The index has no descriptor of that id" in capsys.readouterr().err
    assert main(["search", str(features), clip]) == 2
    assert "Records need --run" in capsys.readouterr().err
    assert main(["search", str(features), clip, "--run", str(run), "--model", "x.onnx"]) == 2
    assert "give `--run` or `--model`" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["encoder.onnx", "classifier.onnx", "accumulate.onnx", "describe.onnx"])
def test_a_predictor_with_another_file_or_none_is_refused(run, tmp_path, name):
    directory = shutil.copytree(run / "predictor", tmp_path / "predictor")
    model = onnx.load(directory / name)
    model.doc_string = "another"
    onnx.save(model, directory / name)
    with pytest.raises(ValueError, match=rf"belong together; copy the predictor again\. Received: .*{name}, which is"):
        Predictor(directory)
    (directory / name).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"must lie in its directory; copy it again\. .*{name}, which is missing"
    ):
        Predictor(directory)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": 2}', '{"format": 1, "labels": "a"}', "\xff"]
)
def test_damaged_settings_of_a_predictor_are_named(tmp_path, text):
    (tmp_path / "predictor.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"must be the file that `keras-netvlad train` wrote; .*predictor\.json"):
        Predictor(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("labels", ["a"]),
        ("labels", [1, 2, 3]),
        ("size", 16),
        ("size", True),
        ("positions", 2),
        ("stream", "audio"),
        ("dtype", "float16"),
        ("dtype", "int8"),
        ("files", []),
        ("fps", 1e-300),
        ("fps", 1e9),
        ("fps", "2"),
        ("max_seconds", -1.0),
    ],
)
def test_settings_that_do_not_fit_the_predictor_are_named(run, tmp_path, name, value):
    directory = shutil.copytree(run / "predictor", tmp_path / "predictor")
    settings = read_json_object(directory / "predictor.json")
    (directory / "predictor.json").write_text(json.dumps({**settings, name: value}))
    with pytest.raises(ValueError, match=rf"copy the predictor again\. Received: .*predictor\.json.*`{name}`"):
        Predictor(directory)


def test_a_predictor_reads_at_most_the_seconds_that_it_is_told(run, folder, tmp_path):
    directory = shutil.copytree(run / "predictor", tmp_path / "predictor")
    settings = read_json_object(directory / "predictor.json")
    clip = next((folder / "videos" / "temple").glob("*.mp4"))
    for seconds, read in ((1.0, 1.0), (1e300, 2.0)):
        (directory / "predictor.json").write_text(json.dumps({**settings, "max_seconds": seconds}))
        assert Predictor(directory).predict(clip).second == read


@pytest.mark.slow
def test_a_killed_run_resumes_with_the_same_weights(folder, features, run):
    """The run is stopped after each of its parts, and while it writes its results."""

    class Killed(BaseException):
        pass

    stops = {
        "the second epoch": ("keras_netvlad.training.run_directory.Rounds", "on_epoch_end", 2),
        "the baseline": ("keras_netvlad.training.run_directory.Rounds", "on_epoch_end", 3),
        "the predictor": ("keras_netvlad.videos.training", "write_predictor", 1),
    }
    output = folder / "killed"
    for owner, name, call in stops.values():
        module, _, attribute = owner.rpartition(".")
        target = sys.modules.get(owner) or getattr(sys.modules[module], attribute)
        original, calls = getattr(target, name), []

        def stop(*arguments, original=original, calls=calls, call=call, **options):
            calls.append(1)
            if len(calls) == call:
                raise Killed
            return original(*arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(target, name, stop)
            with pytest.raises(Killed):
                train(features, output, **OPTIONS)
        assert not (output / "predictor").exists()
    train(features, output, **OPTIONS)
    one, other = (load_model(path / "model.keras").get_weights() for path in (run, output))
    for weight, same in zip(one, other, strict=True):
        np.testing.assert_array_equal(weight, same)
    assert (output / "history.json").read_text() == (run / "history.json").read_text()


def test_wrong_runs_are_one_sentence(folder, features, run, tmp_path):
    with pytest.raises(ValueError, match=r"The run in `output` has ended; choose another"):
        train(features, run, **OPTIONS)
    with pytest.raises(FileNotFoundError, match=r"`features` must be a directory that `keras-netvlad extract --labels"):
        train(tmp_path, tmp_path / "run")
    with pytest.raises(ValueError, match=r"`pooling` must be one of"):
        train(features, tmp_path / "run", pooling="vlad")
    with pytest.raises(ValueError, match=r"`dropout` must be a number from 0 to below 1"):
        train(features, tmp_path / "run", dropout=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="`output` must be a new directory or one of a run"):
        train(features, tmp_path / "other")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_with_other_features_is_refused(features, folder, tmp_path):
    copy = shutil.copytree(features, tmp_path / "features")
    output = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keras_netvlad.videos.training.write_predictor", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(copy, output, **{**OPTIONS, "epochs": 1})
    read = FeaturesFolder(copy)
    read.record(read.split("train")[0]).unlink()
    with pytest.raises(ValueError, match=r"A run resumes with the settings it was started with; .*features was"):
        train(copy, output, **{**OPTIONS, "epochs": 1})
    (copy / "encoder.onnx").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"`encoder\.onnx` must be the encoder that made the features"):
        train(copy, tmp_path / "other")


@pytest.mark.slow
def test_several_classes_per_video_are_sigmoids_measured_by_gap(folder, features, tmp_path):
    copy = shutil.copytree(features, tmp_path / "features")
    read = FeaturesFolder(copy)
    first = read.split("train")[0]
    record = read.record(first)
    example = tf.train.SequenceExample.FromString(next(iter(tf.data.TFRecordDataset(str(record)))).numpy())
    example.context.feature["labels"].int64_list.value[:] = [0, 2]
    with tf.io.TFRecordWriter(str(record)) as writer:
        writer.write(example.SerializeToString())
    videos = [
        type(video)(video.name, (CLASSES[0], CLASSES[2]), video.group, video.split) if video == first else video
        for video in read.videos
    ]
    write_videos_file(copy / "videos.csv", videos)
    results = train(copy, tmp_path / "run", hidden_units=8, ema_momentum=0.9, mixed_precision=True, **OPTIONS)
    assert not results.is_single_label
    assert results.metric == "gap"
    assert "test GAP of netvlad" in str(results)
    assert 0 <= results.test["netvlad"].low <= results.test["netvlad"].value <= results.test["netvlad"].high <= 1
    clips = read_npz(tmp_path / "run" / "clips.npz")
    name = clips["ids"][0]
    scores = Predictor(tmp_path / "run" / "predictor").predict(folder / "videos" / name).scores
    np.testing.assert_allclose(scores, clips["scores"][0], rtol=5e-2)  # the model computes in bfloat16
    with pytest.raises(ValueError, match="`class_weights` need one class per video"):
        train(copy, tmp_path / "weighted", class_weights=True, **OPTIONS)


def test_class_weights_have_the_mean_1(features):
    from keras_netvlad.videos.encoder_file import EncoderFile
    from keras_netvlad.videos.training import _Reader

    read = FeaturesFolder(features)
    dropped = [video for video in read.split("train") if video.labels[0] == "bikes"][:1]
    read.videos = [video for video in read.videos if video not in dropped]
    reader = _Reader(read, {"batch_size": 5}, EncoderFile(read.encoder))
    assert (reader.feature_size, reader.positions) == (D, 1)
    [(_, labels, weights)] = reader.weighted(reader.read("train"))
    np.testing.assert_allclose(np.mean(weights), 1, rtol=1e-6)
    per_class = labels.numpy().T @ weights.numpy()
    np.testing.assert_allclose(per_class, per_class[0], rtol=1e-6)


@pytest.mark.slow
def test_videos_that_are_added_are_extracted_alone(folder, tmp_path):
    features = make_features(tmp_path, labels="folders")
    before = {video.name: video.split for video in FeaturesFolder(features).videos}
    write_video(tmp_path / "videos" / "flower" / "new.mp4", [grey(i) for i in range(20)])
    (tmp_path / "videos" / "zebra").mkdir()
    for number in range(3):
        write_video(tmp_path / "videos" / "zebra" / f"{number}.mp4", [grey(i) for i in range(20)])
    arguments = ["extract", str(tmp_path / "videos"), str(features), "--labels", "folders", "--fps", "2"]
    arguments += ["--backbone", str(tmp_path / "backbone.keras"), "--size", "32", "--split", "0.4,0.3,0.3"]
    assert main(arguments) == 0
    read = FeaturesFolder(features)
    assert len(read.videos) == len(before) + 4
    assert {video.name: video.split for video in read.videos if video.name in before} == before
    assert read.labels == [*CLASSES, "zebra"]
    # A label that was changed would not be that of the record.
    (tmp_path / "videos" / "zebra" / "0.mp4").rename(tmp_path / "videos" / "flower" / "1.mp4")
    rows = [f"{video.name},{video.labels[0]}" for video in read.videos if video.name != "zebra/0.mp4"]
    rows = [row.replace("flower/new.mp4,flower", "flower/new.mp4,zebra") for row in rows] + ["flower/1.mp4,flower"]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    arguments[arguments.index("folders")] = str(tmp_path / "labels.csv")
    assert main(arguments) == 2


def test_the_command_tells_the_two_kinds_of_training_apart(tmp_path, capsys):
    output = ["--output", str(tmp_path / "run")]
    for arguments, message in (
        ([], "Received: neither"),
        (["features", "--train", "a.tfrecord"], "Received: both"),
        (["features", "--preset", "nextvlad"], "for a preset, with --train; leave them out. Received: `--preset`"),
        (["--train", "a.tfrecord", "--dropout", "0.1"], "for your own FEATURES; leave them out. Received: `--dropout`"),
    ):
        assert main(["train", *arguments, *output]) == 2
        assert message in capsys.readouterr().err


def test_a_run_of_mean_pooling_has_its_result_under_both_names():
    counts = {"train": 4, "validation": 0, "test": 2}
    rows = [{"name": "cat", **counts, "mean": 0.5}]
    stored = Results("mean", True, {"mean": Estimate(0.5, 0.25, 0.75)}, counts, rows).as_dict()
    assert stored["test"]["model"] == stored["test"]["mean"] == {"value": 0.5, "low": 0.25, "high": 0.75}
    assert stored["classes"] == [{"name": "cat", **counts, "model": 0.5, "mean": 0.5}]
