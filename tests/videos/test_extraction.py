"""Extraction: the records hold the backbone's features, and nothing is done twice."""

import contextlib
import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from make_videos import clip, grey, write_video

from keras_netvlad.__main__ import main
from keras_netvlad.base import atomic_files
from keras_netvlad.data import read_video, youtube8m
from keras_netvlad.layers import Dequantize
from keras_netvlad.videos import extract_features

SIZE = 32


D = 24  # features of `backbone`


def make_backbone(path, size=SIZE, seed=0):
    """Saves a small image model with random weights, which includes its preprocessing."""
    keras.utils.set_random_seed(seed)
    convolutions = [keras.layers.Conv2D(filters, 3, strides=4, padding="same") for filters in (16, D)]
    model = keras.Sequential([keras.Input((size, size, 3)), keras.layers.Rescaling(1 / 127.5, -1), *convolutions])
    model.save(path)
    return model


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    path = tmp_path_factory.mktemp("backbone") / "backbone.keras"
    return make_backbone(path), str(path)


@pytest.fixture(scope="module")
def arguments(backbone):
    return {"backbone": backbone[1], "size": SIZE}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "videos" / "below").mkdir(parents=True)
    shutil.copy(clip("carphone_pristine"), tmp_path / "videos" / "below" / "phone.mp4")
    write_video(tmp_path / "videos" / "grey.mkv", [grey(10 * i) for i in range(20)])
    (tmp_path / "videos" / "notes.txt").write_text("no video")
    return tmp_path / "videos"


def read_record(path):
    (record,) = tf.data.TFRecordDataset(str(path))
    example = tf.train.SequenceExample.FromString(record.numpy())
    frames = [feature.bytes_list.value[0] for feature in example.feature_lists.feature_list["rgb"].feature]
    return example.context.feature["id"].bytes_list.value[0].decode(), frames


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_records_hold_the_features_and_nothing_is_done_twice(tmp_path, folder, backbone, arguments, dtype):
    seen = []
    arguments = {**arguments, "dtype": dtype, "batch_size": 3}
    results = extract_features(folder, tmp_path / "out", progress=lambda result, total: seen.append(total), **arguments)
    assert [(r.num_frames, r.error) for r in results] == [(5, None), (2, None)]
    assert seen == [2, 2]
    name, frames = read_record(tmp_path / "out" / "below" / "phone.mp4.tfrecord")
    assert name == "below/phone.mp4"
    pictures = np.stack(list(read_video(clip("carphone_pristine"), size=SIZE, crop_to_aspect_ratio=True)))
    expected = backbone[0].predict_on_batch(pictures).mean(axis=(1, 2))
    values = np.stack([np.frombuffer(frame, dtype) for frame in frames])
    assert np.quantile(np.abs(expected), 0.9) > 0.1
    if dtype == "uint8":
        # Half a level of 4 / 255.
        np.testing.assert_allclose(Dequantize()(values), np.clip(expected, -1.99, 2.007), atol=2.01 / 255)
    else:
        np.testing.assert_allclose(values, expected, rtol=2e-3, atol=1e-4)
    assert extract_features(folder, tmp_path / "out", **arguments) == []
    (tmp_path / "out" / "grey.mkv.tfrecord").unlink()
    assert [r.video.name for r in extract_features(folder, tmp_path / "out", **arguments)] == ["grey.mkv"]
    with pytest.raises(ValueError, match=r"must be made with the same settings; choose another .* \{'fps': 2.0\}"):
        extract_features(folder, tmp_path / "out", **{**arguments, "fps": 2})


def test_youtube8m_reads_what_was_extracted(tmp_path, folder, arguments):
    extract_features(folder, tmp_path / "out", **arguments)
    files = list((tmp_path / "out").rglob("*.tfrecord"))
    [(inputs, labels)] = youtube8m(files, 2, num_classes=3, feature_sizes={"rgb": D})
    assert inputs["num_frames"].numpy().tolist() == [5, 2]
    assert labels.numpy().sum() == 0
    for name, frames in zip(("below/phone.mp4", "grey.mkv"), inputs["rgb"].numpy(), strict=True):
        _, expected = read_record(tmp_path / "out" / f"{name}.tfrecord")
        assert [frame.tobytes() for frame in frames[: len(expected)]] == expected


def test_the_beginning_of_a_video(tmp_path, folder, arguments):
    results = extract_features(folder, tmp_path / "out", max_seconds=2.5, **arguments)
    assert [result.num_frames for result in results] == [3, 2]
    results = extract_features(folder, tmp_path / "all", fps=None, max_seconds=0.5, **arguments)
    assert results[1].num_frames == 5  # of 10 frames per second


def test_an_encoder_that_was_exchanged_is_refused(tmp_path, folder, arguments):
    extract_features(folder, tmp_path / "out", **arguments)
    with open(tmp_path / "out" / "encoder.onnx", "ab") as file:
        file.write(b"0")
    (tmp_path / "out" / "grey.mkv.tfrecord").unlink()
    with pytest.raises(
        ValueError, match=r"made with the encoder next to them; choose another `output`\. .*was changed"
    ):
        extract_features(folder, tmp_path / "out", **arguments)


def test_settings_may_change_until_there_are_features(tmp_path, folder, arguments):
    (folder / "grey.mkv").write_bytes(b"no video")
    (folder / "below" / "phone.mp4").write_bytes(b"no video")
    for fps in (1, 2):
        results = extract_features(folder, tmp_path / "out", **arguments, fps=fps)
        assert all(result.error for result in results)
        assert json.loads((tmp_path / "out" / "extraction.json").read_text())["fps"] == fps


@pytest.mark.slow
def test_two_calls_in_two_threads_do_not_disturb_each_other(tmp_path, folder):
    forms = {"uint8": {"fps": 1, "size": SIZE}, "float16": {"fps": 5, "size": 2 * SIZE}}
    results = {}

    def extract(dtype):
        path = str(tmp_path / f"{dtype}.keras")
        make_backbone(path, forms[dtype]["size"])
        results[dtype] = extract_features(folder, tmp_path / dtype, path, dtype=dtype, **forms[dtype])

    threads = [threading.Thread(target=extract, args=(dtype,)) for dtype in forms]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for dtype, lengths in {"uint8": [5, 2], "float16": [21, 10]}.items():
        assert [result.num_frames for result in results[dtype]] == lengths
        for name, length in zip(("below/phone.mp4", "grey.mkv"), lengths, strict=True):
            _, frames = read_record(tmp_path / dtype / f"{name}.tfrecord")
            assert {len(frame) for frame in frames} == {D * np.dtype(dtype).itemsize}
            assert len(frames) == length


def test_maps_are_rows_in_the_order_of_time_height_and_width(tmp_path, folder, backbone, arguments):
    results = extract_features(folder, tmp_path / "maps", pooling=None, dtype="float16", **arguments)
    assert [r.num_frames for r in results] == [5, 2]
    file = tmp_path / "maps" / "below" / "phone.mp4.tfrecord"
    maps, _ = next(iter(youtube8m(file, 1, feature_sizes={"rgb": D}, feature_dtype="float16")))
    assert maps["num_frames"].numpy().tolist() == [5 * 2 * 2]
    pictures = np.stack(list(read_video(clip("carphone_pristine"), size=SIZE, crop_to_aspect_ratio=True)))
    expected = backbone[0].predict_on_batch(pictures)
    assert expected.shape == (5, 2, 2, D)
    received = maps["rgb"][0].numpy().astype("float64").reshape(expected.shape)
    np.testing.assert_allclose(received, expected, rtol=2e-3, atol=1e-3)
    assert np.abs(np.swapaxes(expected, 1, 2) - expected).max() > 0.1  # height and width can be told apart


def test_a_backbone_that_can_not_be_made_is_one_sentence(tmp_path, folder, arguments):
    (tmp_path / "no.weights.h5").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"must make a model\. Received: backbone='MobileNet', .*Reason: "):
        extract_features(folder, tmp_path / "out", "MobileNet", str(tmp_path / "no.weights.h5"), size=SIZE)
    assert not (tmp_path / "out").exists()


def test_a_damaged_video_is_reported_and_the_others_are_extracted(tmp_path, folder, backbone, capsys):
    (folder / "broken.mp4").write_bytes(b"no video at all")
    options = ["--backbone", backbone[1], "--size", str(SIZE)]
    assert main(["extract", str(folder), str(tmp_path / "out"), *options]) == 1
    printed = capsys.readouterr()
    assert "2 videos extracted, 7 frames; 1 could not be read" in printed.out
    assert "broken.mp4 at the first frame, byte 0" in printed.err
    assert not (tmp_path / "out" / "broken.mp4.tfrecord").exists()
    (folder / "broken.mp4").unlink()
    assert main(["extract", str(folder), str(tmp_path / "out"), *options]) == 0
    assert "0 videos extracted" in capsys.readouterr().out


@pytest.mark.slow
def test_workers_share_the_videos(tmp_path, folder, arguments):
    extract_features(folder, tmp_path / "one", **arguments)
    results = extract_features(folder, tmp_path / "two", workers=2, **arguments)
    assert sorted(r.num_frames for r in results) == [2, 5]
    for name in ("grey.mkv.tfrecord", "below/phone.mp4.tfrecord"):
        assert read_record(tmp_path / "one" / name) == read_record(tmp_path / "two" / name)


@pytest.mark.slow
def test_after_a_worker_was_killed_the_same_call_goes_on(tmp_path, arguments):
    (tmp_path / "videos").mkdir()
    for number in range(12):
        write_video(tmp_path / "videos" / f"{number}.mkv", [grey(10 * i) for i in range(20)])
    arguments = {**arguments, "workers": 2}

    def kill_one(result, total):
        multiprocessing.active_children()[0].kill()

    with pytest.raises(RuntimeError, match=r"A worker process was killed, .* Run again .* finished videos are kept"):
        extract_features(tmp_path / "videos", tmp_path / "out", progress=kill_one, **arguments)
    kept = {path.name for path in (tmp_path / "out").glob("*.tfrecord")}
    assert 0 < len(kept) < 12
    results = extract_features(tmp_path / "videos", tmp_path / "out", **arguments)
    assert len(results) == 12 - len(kept)
    assert len(list((tmp_path / "out").glob("*.tfrecord"))) == 12


def test_an_encoder_without_settings_is_replaced_only_if_it_is_ours(tmp_path, folder, arguments):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "encoder.onnx").write_bytes(b"a model of the user")
    with pytest.raises(FileExistsError, match=r"must not exist yet; .*encoder\.onnx"):
        extract_features(folder, tmp_path / "out", **arguments)
    assert (tmp_path / "out" / "encoder.onnx").read_bytes() == b"a model of the user"
    extract_features(folder, tmp_path / "killed", **arguments)
    for path in [tmp_path / "killed" / "extraction.json", *(tmp_path / "killed").rglob("*.tfrecord")]:
        path.unlink()
    assert len(extract_features(folder, tmp_path / "killed", **arguments)) == 2


def test_a_backbone_is_known_by_its_content(tmp_path, folder, backbone, arguments):
    extract_features(folder, tmp_path / "out", **arguments)
    (tmp_path / "moved").mkdir()
    moved = shutil.copy(backbone[1], tmp_path / "moved")
    assert extract_features(folder, tmp_path / "out", **{**arguments, "backbone": moved}) == []
    make_backbone(moved, seed=1)
    with pytest.raises(ValueError, match=r"made with the same settings; .* Received: \{'backbone_digest': "):
        extract_features(folder, tmp_path / "out", **{**arguments, "backbone": moved})


def test_settings_are_kept_once_a_folder_has_features(tmp_path, folder, arguments):
    extract_features(folder, tmp_path / "out", **arguments)
    (tmp_path / "out" / "grey.mkv.tfrecord").unlink()  # The other one lies in a subdirectory.
    with pytest.raises(ValueError, match="must be made with the same settings"):
        extract_features(folder, tmp_path / "out", **{**arguments, "fps": 2})


def test_features_inside_the_folder_of_the_videos(folder, arguments):
    extract_features(folder, folder / "features", **arguments)
    shutil.copy(folder / "grey.mkv", folder / "features" / "copy.mkv")
    assert extract_features(folder, folder / "features", **arguments) == []


START = """
import signal, resource, sys
from keras_netvlad.__main__ import main

if __name__ == "__main__":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # A shell starts what runs in its background with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), -1))
    sys.exit(main(sys.argv[2:]))
"""


def start(tmp_path, output, *options, file_limit=-1):
    """Starts the command in a session of processes that can be told from all others."""
    (tmp_path / "start.py").write_text(START)
    if not (tmp_path / "backbone.keras").exists():
        make_backbone(tmp_path / "backbone.keras")
    backbone = str(tmp_path / "backbone.keras")
    arguments = ["extract", str(tmp_path / "videos"), str(output), "--backbone", backbone]
    return subprocess.Popen(
        [sys.executable, str(tmp_path / "start.py"), str(file_limit), *arguments, "--size", str(SIZE), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def processes_of_session(number):
    sessions = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            sessions[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[3])
    return [process for process, session in sessions.items() if session == number]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="lists processes in /proc")
@pytest.mark.parametrize("sent", ["SIGTERM", "SIGKILL", "SIGINT"])
def test_workers_end_with_the_process_that_started_them(tmp_path, sent):
    (tmp_path / "videos").mkdir()
    for number in range(200):
        write_video(tmp_path / "videos" / f"{number}.mkv", [grey(10 * i) for i in range(20)])
    command = start(tmp_path, tmp_path / "out", "--workers", "2")
    deadline = time.monotonic() + 300
    while not list((tmp_path / "out").glob("*.tfrecord")):
        assert command.poll() is None, command.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(processes_of_session(command.pid)) >= 3
    command.send_signal(signal.Signals[sent])
    command.communicate(timeout=60)
    assert command.returncode != 0
    deadline = time.monotonic() + 60
    while processes_of_session(command.pid):
        assert time.monotonic() < deadline, "a worker is left"
        time.sleep(0.05)
    assert len(list((tmp_path / "out").glob("*.tfrecord"))) < 200


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_files_that_do_not_fit_on_the_disk_are_one_sentence(tmp_path, folder, workers):
    # The encoder and the records of this folder fit.
    assert start(tmp_path, tmp_path / "out").wait(timeout=300) == 0
    before = sorted(path.name for path in (tmp_path / "out").rglob("*"))
    write_video(folder / "long.mkv", [grey(2 * i) for i in range(100)])
    # A limit on the size of files fails writes as a full disk does.
    command = start(tmp_path, tmp_path / "out", "--workers", workers, file_limit=200)
    _, said = command.communicate(timeout=300)
    assert command.returncode == 2, said
    (sentence,) = [line for line in said.splitlines() if "keras-netvlad extract: " in line]
    assert "The disk must have room for the output" in sentence
    assert sentence.endswith("(File too large)")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == before


def test_a_full_disk_ends_the_extraction(tmp_path, folder, backbone, monkeypatch, capsys):
    def full(path):
        if path.name.endswith(".tfrecord"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic_files, "flush", full)
    options = ["--backbone", backbone[1], "--size", str(SIZE)]
    assert main(["extract", str(folder), str(tmp_path / "out"), *options]) == 2
    message = r"disk must have room .* Received: .*phone\.mp4\.tfrecord \(No space left on device\)$"
    assert re.search(message, capsys.readouterr().err.strip())


def test_a_name_that_leaves_no_room_for_a_suffix_fails_alone(tmp_path, folder, arguments):
    shutil.copy(folder / "grey.mkv", folder / f"{'m' * 251}.mkv")
    shutil.copy(folder / "grey.mkv", folder / f"{'n' * 242}.mkv")
    results = extract_features(folder, tmp_path / "out", **arguments)
    errors = {result.video.name[0]: result.error for result in results}
    assert "name must not be longer than the file system allows" in errors.pop("m")
    assert errors == dict.fromkeys("pgn")
    assert (tmp_path / "out" / f"{'n' * 242}.mkv.tfrecord").is_file()


def test_damaged_settings_are_named(tmp_path, folder):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "extraction.json").write_text("{")
    with pytest.raises(ValueError, match=r"settings in `output` are damaged; .* Received: .*extraction\.json"):
        extract_features(folder, tmp_path / "out", "MobileNet", None, size=SIZE)


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"`backbone` must be a model of `keras\.applications`, .* does not exist"
    ):
        extract_features(tmp_path, tmp_path / "out", backbone="none.keras")
    with pytest.raises(ValueError, match=r"`pooling` must be one of \['avg', 'max', 'token', None\]"):
        extract_features(tmp_path, tmp_path / "out", pooling="none")
    with pytest.raises(ValueError, match=r"`dtype` must be one of \['uint8', 'float16'\]"):
        extract_features(tmp_path, tmp_path / "out", dtype="int8")
    with pytest.raises(ValueError, match="`workers` must be a positive integer"):
        extract_features(tmp_path, tmp_path / "out", workers=0)
    with pytest.raises(NotADirectoryError, match="`folder` must be a directory of videos"):
        extract_features(tmp_path / "none", tmp_path / "out")
    with pytest.raises(TypeError, match=r"`folder` must be a path\. Received: folder=3"):
        extract_features(3, tmp_path / "out")
    with pytest.raises(TypeError, match=r"`output` must be a path\. Received: output=None"):
        extract_features(tmp_path, None)
    with pytest.raises(TypeError, match=r"`weights` must be a path\. Received: weights=3"):
        extract_features(tmp_path, tmp_path / "out", weights=3)
    with pytest.raises(FileNotFoundError, match="`weights` must be 'imagenet', an existing file, or None"):
        extract_features(tmp_path, tmp_path / "out", weights=str(tmp_path / "none.weights.h5"))
    with pytest.raises(ValueError, match="`stream` must be a name other than 'id' and 'labels'"):
        extract_features(tmp_path, tmp_path / "out", stream="id")
    with pytest.raises(ValueError, match="`fps` must be a finite number above 0"):
        extract_features(tmp_path, tmp_path / "out", fps=0)
    with pytest.raises(ValueError, match="`max_seconds` must be a finite number above 0"):
        extract_features(tmp_path, tmp_path / "out", max_seconds=0)
    with pytest.raises(ValueError, match="`split` must be three shares with the sum 1"):
        extract_features(tmp_path, tmp_path / "out", split=(0.5, 0.1, 0.1))
    with pytest.raises(ValueError, match="`folder` must hold video files"):
        extract_features(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
