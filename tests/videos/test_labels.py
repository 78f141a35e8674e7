"""Labels come from folders or from a CSV file; what does not fit is said before anything is computed."""

import pytest

from keras_netvlad.videos.features_folder import read_videos_file, write_videos_file
from keras_netvlad.videos.labels import LabeledVideo, class_names, read_labels

NAMES = ["cat/1.mp4", "cat/2.mp4", "dog/deep/3.mp4"]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_the_top_folder_is_the_class():
    videos = read_labels("folders", NAMES)
    assert [video.labels for video in videos] == [("cat",), ("cat",), ("dog",)]
    assert [video.group for video in videos] == NAMES
    assert class_names(videos) == ["cat", "dog"]
    assert class_names(videos, ["dog", "fox"]) == ["dog", "fox", "cat"]


def test_a_csv_file_gives_labels_splits_and_groups(tmp_path):
    text = (
        "\ufeffpath,label,group,split,note\n"
        "dog/deep/3.mp4, dog ;small dog;dog,tape 1,test,x\n"
        '"cat/1.mp4",cat,tape 2,train,\n\n./cat/2.mp4,"cat; small dog",,train,\n'
    )
    videos = read_labels(write(tmp_path / "labels.csv", text), NAMES)
    assert videos == [
        LabeledVideo("cat/1.mp4", ("cat",), "tape 2", "train"),
        LabeledVideo("cat/2.mp4", ("cat", "small dog"), "cat/2.mp4", "train"),
        LabeledVideo("dog/deep/3.mp4", ("dog", "small dog"), "tape 1", "test"),
    ]
    write_videos_file(tmp_path / "videos.csv", videos)
    assert read_videos_file(tmp_path / "videos.csv") == videos
    assert read_labels(tmp_path / "videos.csv", NAMES) == videos


def test_an_empty_label_leaves_a_video_out(tmp_path):
    path = write(tmp_path / "labels.csv", "path,label\ncat/1.mp4,cat\ncat/2.mp4,\ndog/deep/3.mp4,dog\n")
    assert [video.name for video in read_labels(path, NAMES)] == ["cat/1.mp4", "dog/deep/3.mp4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path;label\n", r"must name the columns path and label, .*whose first line is 'path;label'"),
        ("", "must name the columns path and label"),
        ("path,label\ncat/1.mp4,a\n", r"Every video of the folder must have a row; .* 2 videos without a row, such as"),
        (
            "path,label\ncat/1.mp4,a\ncat/2.mp4,b\ndog/deep/3.mp4,b\nfox.mp4,b\n",
            r"Every row must name a video .* 1 rows without a video, such as fox\.mp4",
        ),
        ("path,label\ncat/1.mp4,a\ncat/1.mp4,b\n", "A video must have one row"),
        ("path,label\ncat/1.mp4,a\ncat/2.mp4,a\ndog/deep/3.mp4,a\n", r"at least two classes .* Received: \['a'\]"),
        ("path,label\ncat/1.mp4,A\ncat/2.mp4,a\ndog/deep/3.mp4,b\n", "more than upper and lower case; .* 'A' and 'a'"),
        ('path,label\ncat/1.mp4,"a\nb"\ncat/2.mp4,a\ndog/deep/3.mp4,b\n', "A label must be one line of text"),
        ("path,label,split\ncat/1.mp4,a,dev\ncat/2.mp4,a,\ndog/deep/3.mp4,b,\n", "A split must be one of .* 'dev'"),
        (
            "path,label,split\ncat/1.mp4,a,test\ncat/2.mp4,a,\ndog/deep/3.mp4,b,\n",
            "All rows must have a split, or none",
        ),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_labels(write(tmp_path / "labels.csv", text), NAMES)


def test_other_mistakes(tmp_path):
    with pytest.raises(ValueError, match=r"must lie in the folder of its class\. Received: 1 videos outside, such as"):
        read_labels("folders", [*NAMES, "alone.mp4"])
    with pytest.raises(ValueError, match=r"at least two classes to tell apart\. Received: \['cat'\], from folders"):
        read_labels("folders", NAMES[:2])
    with pytest.raises(ValueError, match=r"Classes must differ in more than upper and lower case.*, from folders$"):
        read_labels("folders", [*NAMES, "Dog/4.mp4"])
    with pytest.raises(FileNotFoundError, match="`labels` must be 'folders' or a CSV file"):
        read_labels(tmp_path / "absent.csv", NAMES)
    (tmp_path / "latin.csv").write_bytes("path,label\nä,b\n".encode("latin-1"))
    with pytest.raises(ValueError, match="`labels` must be a CSV file in UTF-8"):
        read_labels(tmp_path / "latin.csv", NAMES)
    # A value is missing, or the whole rest of the row.
    for row in ("a.mp4,cat,,a", "a.mp4", ",cat,test,a", "a.mp4,,test,a"):
        (tmp_path / "videos.csv").write_text(f"path,label,split,group\n{row}\n")
        with pytest.raises(ValueError, match="Every row must have path, label, split and group"):
            read_videos_file(tmp_path / "videos.csv")
