"""The examples run as they are, at small size."""

import re
import runpy
import subprocess
import sys

import numpy as np
import pytest
from make_features import CLASSES, SIZE, make_backbone
from make_labeled_videos import make_labeled_videos
from make_videos import clip
from paths import EXAMPLES
from real_weights import weights_file

from keras_netvlad.data import read_video
from keras_netvlad.layers import FrameEncoder


def run_example(directory, name, *arguments):
    finished = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments], cwd=directory, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_quickstart(tmp_path):
    printed = run_example(tmp_path, "quickstart.py", "--epochs", "2", "--output", "out")
    assert "Test accuracy: 0." in printed
    assert printed.count(" ok") == 13  # 11 outputs in five signatures, and the two of the ONNX model
    assert (tmp_path / "out" / "model.onnx").is_file()


@pytest.mark.slow
def test_long_video(tmp_path):
    printed = run_example(tmp_path, "long_video.py", "--minutes", "0.5", "--features", "32", "--clusters", "4")
    assert "750 frames (0.5 min, 0 MB) pooled to 128 numbers" in printed


@pytest.mark.slow
def test_migrate_from_tfa(tmp_path):
    printed = run_example(tmp_path, "migrate_from_tfa.py")
    assert "Saved migrated.keras, 909 parameters" in printed
    # Measured 2.7e-7.
    assert float(re.search(r"difference to the old model's: (\S+)", printed)[1]) < 5e-6


@pytest.mark.slow
def test_live_stream(tmp_path):
    printed = run_example(tmp_path, "live_stream.py", "--epochs", "1", "--utterances", "2")
    # A digit for each frame, from the first to the last.
    assert re.findall(r"speaker \d: (\d+)", printed)
    assert all(7 <= len(heard) <= 29 for heard in re.findall(r"speaker \d: (\d+)", printed))
    # Measured 1.0e-7.
    assert float(re.search(r"whole utterances: (\S+)", printed)[1]) < 2e-6


@pytest.mark.slow
def test_pictures_of_the_documentation(tmp_path):
    run_example(EXAMPLES.parent, "../docs/make_pictures.py", "--epochs", "1", "--output", str(tmp_path))
    committed = EXAMPLES.parent / "docs" / "pictures"
    drawn = {path.name for path in tmp_path.iterdir()}
    # A browser takes the pictures of a report, with `docs/make_report_picture.py`, and of the web page.
    assert drawn | {"report.png", "web.png"} == {path.name for path in committed.iterdir()}
    assert all(5_000 < path.stat().st_size < 100_000 for path in [*tmp_path.iterdir(), *committed.iterdir()])


@pytest.mark.slow
def test_quickstart_refuses_a_directory_that_is_there_before_it_trains(tmp_path):
    finished = subprocess.run(
        [sys.executable, str(EXAMPLES / "quickstart.py"), "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 2
    assert "an --output that does not exist yet" in finished.stderr


@pytest.mark.slow
def test_own_videos(tmp_path):
    make_labeled_videos(tmp_path / "videos", CLASSES, clips_per_class=6, groups_per_class=3, seconds=2, size=(64, 48))
    options = ["--backbone", make_backbone(tmp_path / "backbone.keras"), "--size", str(SIZE), "--epochs", "2"]
    printed = run_example(tmp_path, "own_videos.py", "videos", "--labels", "videos/labels.csv", *options)
    by_hand = float(re.search(r"Test accuracy by hand: (\S+)", printed)[1])
    by_train = float(re.search(r"test accuracy of netvlad +(\S+)", printed)[1])
    # Both train on the same batches from the same seed.
    assert by_hand == by_train
    assert re.search(r"videos/bikes/bikes_00.mp4: \w+ \(0\.\d+\)", printed)


@pytest.mark.slow
def test_video_from_files(tmp_path):
    printed = run_example(tmp_path, "video_from_files.py", "--size", "64", "--clusters", "4")
    assert "bikes.mp4: 10 frames, a descriptor of 5120 numbers" in printed
    assert (tmp_path / "video.onnx").is_file()


@pytest.mark.needs_torch
@pytest.mark.slow
def test_real_weights_know_what_a_clip_shows(monkeypatch):
    """The man in the car: ImageNet's classes 834 and 785, suit and seat belt, measured on five of five frames."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from video_from_files import torchvision_mobilenet

    encoder = FrameEncoder(torchvision_mobilenet(224, weights_file(), include_top=True), "torchvision")
    pictures = np.stack(list(read_video(clip("carphone_pristine"), size=224, crop_to_aspect_ratio=True)))
    assert set(np.argmax(encoder(pictures[None])[0], axis=-1)) <= {834, 785}


@pytest.mark.slow
def test_train_youtube8m(tmp_path):
    printed = run_example(tmp_path, "train_youtube8m.py", "--epochs", "12", "--output", "out")
    assert "train0000.tfrecord: 270 utterances" in printed
    assert printed.count(" ok") == 11
    # Measured 0.99 after 12 epochs, and 0.46 with the momentum of the preset; equal scores give 0.11.
    assert float(re.search(r"GAP of the saved model: (\S+)", printed)[1]) > 0.9


@pytest.mark.slow
def test_place_retrieval(tmp_path):
    printed = run_example(tmp_path, "place_retrieval.py", "--size", "64", "--clusters", "4", "--epochs", "3")
    assert "segments of 3 videos" in printed
    titles, unchanged = printed[printed.index("a copy of") :].splitlines()[1:3]
    assert titles.split() == ["NetVLAD", "NetVLAD", "trained", "mean", "mean", "trained"]
    # An unchanged segment finds itself with every pooling and any weights.
    assert unchanged.split() == ["unchanged", *["1.00"] * 8]


@pytest.mark.slow
def test_spot_cuts(tmp_path):
    printed = run_example(tmp_path, "spot_cuts.py", "--size", "32", "--shots", "8", "--epochs", "2")
    assert "training on" in printed
    assert len(re.findall(r"average mAP 0\.\d{3}", printed)) == 2
    # A spot is at a frame of the video, of which there are eight a second.
    assert all(float(time) % 0.125 == 0 for time in re.findall(r"^ +(\S+) s, score", printed, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("live_stream.py", ["--epochs", "0"], "expected --epochs of at least 1"),
        ("long_video.py", ["--minutes", "-1"], "--minutes must be above 0. Received: -1.0"),
        (
            "migrate_from_tfa.py",
            ["--output", "nowhere/x.keras"],
            "--output must be a .keras file in an existing folder",
        ),
        ("own_videos.py", ["none"], "error: `folder` must be a directory of videos. Received: none"),
        ("place_retrieval.py", ["--epochs", "0"], "--epochs must be at least 1. Received: 0"),
        ("place_retrieval.py", [str(clip("bikes"))], "expected at least two files of at least four seconds each"),
        ("quickstart.py", ["--epochs", "0"], "expected --epochs of at least 1"),
        ("spot_cuts.py", ["--shots", "1"], "--shots must be at least 2. Received: 1"),
        ("train_youtube8m.py", ["--epochs", "0"], "--epochs must be at least 1. Received: 0"),
        ("video_from_files.py", ["none.mp4"], "error: The video must be a file; check the path. Received: none.mp4"),
    ],
)
def test_wrong_arguments_are_one_sentence(tmp_path, monkeypatch, capsys, name, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    code = stopped.value.code
    said = code if isinstance(code, str) else capsys.readouterr().err
    assert isinstance(code, str) or code == 2
    assert message in said
    assert not list(tmp_path.iterdir())
