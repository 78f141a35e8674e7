"""The report: its numbers are those of the run, it contains everything that it shows, and text stays text."""

import base64
import html
import html.parser
import io
import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from make_labeled_videos import make_labeled_videos
from make_run import make_run, write_json
from make_videos import grey, write_video

from keras_netvlad.__main__ import main
from keras_netvlad.data import read_video
from keras_netvlad.videos import write_report
from keras_netvlad.videos.report.charts import Line, line_chart, ticks
from keras_netvlad.videos.report.heatmap import png_uri
from keras_netvlad.videos.report.statistics import extremes, margins
from keras_netvlad.videos.report.thumbnails import read_pictures

VOID = {"meta", "img", "br"}
HOSTILE = "<script>alert('x')</script> & \"quotes\" \x00\ud800"
SHOWN = "<script>alert('x')</script> & \"quotes\" \ufffd\ufffd"


class Page(html.parser.HTMLParser):
    """Elements and text of a page. Fails if an element is not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.ids = [], [], []
        self._open = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self):
        return "".join(self.texts)

    def of(self, tag, **attributes):
        names = {name.rstrip("_"): value for name, value in attributes.items()}
        return [found for kind, found in self.elements if kind == tag and names.items() <= found.items()]


def page_of(run, **options):
    return Page(write_report(run, **options).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos") / "clips"
    rows = make_labeled_videos(folder, ("flower", "phone", "temple"), seconds=1, size=(96, 72))
    return folder, rows


@pytest.fixture(scope="module")
def run(tmp_path_factory, videos):
    folder = tmp_path_factory.mktemp("runs") / "run"
    arrays = make_run(folder, videos[1], frames=5, fps=5.0, videos=videos[0], seed=2)
    return folder, arrays


def test_the_numbers_are_those_of_the_run(run, videos):
    folder, arrays = run
    page = page_of(folder)
    test = arrays["split"] == "test"
    truth = arrays["labels"].argmax(axis=1)
    is_right, is_mean_right = (arrays[name].argmax(axis=1) == truth for name in ("scores", "mean_scores"))
    assert not is_right[test].all()
    assert f"NetVLAD is right on {is_right[test].mean():.1%} of {test.sum()} test clips" in page.text
    only = (is_right & ~is_mean_right)[test].sum(), (~is_right & is_mean_right)[test].sum()
    assert (
        f"Only NetVLAD is right on {only[0]} clip{'' if only[0] == 1 else 's'}, only mean pooling on {only[1]}."
        in page.text
    )
    results = json.loads((folder / "results.json").read_text())["test"]
    for result in results.values():
        assert f"{result['value']:.1%}{result['low']:.1%} to {result['high']:.1%}" in page.text
    # The confusion matrix, row by row after its header.
    table = page.text[page.text.index("given →") :]
    for number, name in enumerate(("flower", "phone", "temple")):
        row = "".join(str(((truth == number) & (arrays["scores"].argmax(axis=1) == k) & test).sum()) for k in range(3))
        assert f"{name}{row}" in table
    shares = arrays["assignments"].sum(axis=0) / arrays["assignments"].sum()
    assert f"Share of each of 12 clusters in all assignments, from {shares.max():.1%} to 0.0%" in str(page.elements)
    assert "1 is dead (less than a hundredth of an even share): 11." in page.text
    assert "backbone.onnx, float32" in page.text
    assert "3.1e-06" in page.text


def test_the_surest_and_the_most_mistaken_clips_are_shown(run):
    folder, arrays = run
    text = page_of(folder).text
    surest, mistaken = text[text.index("Surest") : text.index("clusters are in effective use")].split("Most mistaken")
    name_of_clip = r"(?:flower|phone|temple)/\w+\.mp4"
    margin = {}
    for name, split, labels, scores in zip(*(arrays[k] for k in ("ids", "split", "labels", "scores")), strict=True):
        if split == "test":
            margin[str(name)] = scores[labels > 0].min() - scores[labels == 0].max()
    assert min(margin.values()) < 0 < max(margin.values())
    order = sorted(margin, key=lambda name: -margin[name])
    assert re.findall(name_of_clip, surest) == [name for name in order if margin[name] > 0][:6]
    assert re.findall(name_of_clip, mistaken) == [name for name in order[::-1] if margin[name] <= 0][:6]


def test_neighbors_are_the_nearest_training_clips(run):
    folder, arrays = run
    page = page_of(folder)
    units = arrays["descriptors"] / np.linalg.norm(arrays["descriptors"], axis=1, keepdims=True)
    similarity = units @ units.T
    similarity[:, arrays["split"] != "train"] = -np.inf
    test = np.flatnonzero(arrays["split"] == "test")
    same = arrays["labels"][similarity.argmax(axis=1)] == arrays["labels"]
    assert (
        f"For {same.all(axis=1)[test].mean():.1%} of the test clips, the nearest training clip has its class"
        in page.text
    )
    titles = [figure["title"] for figure in page.of("figure") if "title" in figure]
    assert len(titles) == 3 * 5
    for start in range(0, 15, 5):
        query = list(arrays["ids"]).index(titles[start])
        assert arrays["split"][query] == "test"
        assert titles[start + 1 : start + 5] == arrays["ids"][np.argsort(-similarity[query])[:4]].tolist()


def test_the_clusters_of_each_class_are_named(run):
    folder, arrays = run
    of_frames = np.repeat(arrays["labels"], arrays["frames_per_clip"], axis=0).astype(float)
    largest = (of_frames.T @ arrays["assignments"]).argmax(axis=1)
    expected = ", ".join(f"{name} {n}" for name, n in zip(("flower", "phone", "temple"), largest, strict=True))
    page = page_of(folder)
    assert page.of("img", alt=f"Most used cluster of each class: {expected}.")
    rows = arrays["assignments"].astype("float64")
    shared = np.exp(-(rows * np.log(np.maximum(rows, 1e-300))).sum(axis=1).mean())
    assert f"clusters are in effective use, and {shared:.1f} share a frame on average." in page.text


def test_the_page_contains_everything_that_it_shows(run):
    folder, _ = run
    path = write_report(folder)
    assert path == folder / "report.html"
    assert path.stat().st_size < 3e6
    page = Page(path.read_text(encoding="utf-8"))
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "base"}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert attributes.get("href", "#").startswith("#")
    style = path.read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert write_report(folder).read_bytes() == path.read_bytes()


def test_the_page_is_accessible(run):
    page = page_of(run[0])
    assert page.of("html", lang="en")
    assert all(image["alt"] for image in page.of("img"))
    assert all(chart["aria-label"] for chart in page.of("div", role="img"))
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings.count(1) == 1
    assert max(np.diff(headings)) == 1
    assert all("scope" in cell for cell in page.of("th"))
    assert len(page.ids) == len(set(page.ids))
    assert {link["href"][1:] for link in page.of("a")} <= set(page.ids)
    assert len(page.of("section")) == len(page.of("a")) == 7


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(run, scheme):
    style = write_report(run[0]).read_text(encoding="utf-8").split("<style>")[1]
    found = re.findall(r"--([a-z]+): #([0-9a-f]{6});", style)
    assert len(found) == 18
    colors = dict(found[:9] if scheme == "light" else found[9:])

    def luminance(color):
        channels = np.array([int(color[n : n + 2], 16) for n in (0, 2, 4)]) / 255
        linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722] + 0.05

    for name in ("ink", "soft", "model", "mean", "right", "wrong"):
        ratio = luminance(colors[name]) / luminance(colors["paper"])
        assert max(ratio, 1 / ratio) >= 4.5, name  # the limit of WCAG 2 for text


def test_text_of_the_files_stays_text(tmp_path):
    rows = [(f"{n}{HOSTILE[:-2]}.mp4", name, f"g_{n}") for n in range(12) for name in ("a", "b")]
    rows = [(f"{name}{path}", name, group) for path, name, group in rows]
    make_run(tmp_path / "run", rows, videos='"><img src=x onerror=alert(1)>')
    labels = [HOSTILE.replace("\ud800", ""), "</style></title>"]
    (tmp_path / "run" / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for row, label in zip(results["classes"], labels, strict=True):
        row["name"] = label
    write_json(tmp_path / "run" / "results.json", results)
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    write_json(tmp_path / "run" / "settings.json", {**settings, HOSTILE: [HOSTILE]})
    page = page_of(tmp_path / "run")
    assert not page.of("script")
    assert page.of("img", src="x") == []
    assert SHOWN[:-1][:20] in page.text
    assert "</style></title>" in page.text
    assert 'The folder of the videos does not exist: "><img src=x onerror=alert(1)>.' in page.text
    assert re.search(r"[ab]\d+<script>alert\('x'\)</script> & \"quotes\" \.mp4", page.text)


def test_pictures_are_frames_of_the_clips(run, videos):
    folder, arrays = run
    images = [cv2.imdecode(np.frombuffer(image, "uint8"), cv2.IMREAD_COLOR) for image in pictures_of(folder)]
    assert {image.shape for image in images} == {(120, 160, 3)}
    # Twelve clips at most with four frames, three rows of five neighbors, and four frames for each of six clusters.
    test = (arrays["split"] == "test").sum()
    assert len(images) == 4 * test + 15 + 24
    name = arrays["ids"][0]
    expected = list(read_video(videos[0] / name, fps=5, size=(120, 160)))
    received = read_pictures(videos[0] / name, [number / 5 for number in range(len(expected))])
    assert len(received) == len(expected)
    for picture, frame in zip(received, expected, strict=True):
        decoded = cv2.imdecode(np.frombuffer(picture, "uint8"), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.abs(decoded.astype(float) - frame).mean() < 4  # 1.5 measured; other frames differ by 8 and more


def pictures_of(run):
    images = [image["src"] for image in page_of(run).of("img")]
    return [base64.b64decode(src.partition(",")[2]) for src in images if src.startswith("data:image/jpeg")]


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_pictures_are_upright(tmp_path, rotation):
    frame = grey(40)
    frame[:24, :32] = (220, 30, 30)
    path = write_video(tmp_path / "turned.mp4", [frame] * 3, rotation=rotation)
    [expected] = list(read_video(path, fps=1, size=(120, 160) if rotation % 180 == 0 else (214, 160)))
    [picture] = read_pictures(path, [0])
    decoded = cv2.imdecode(np.frombuffer(picture, "uint8"), cv2.IMREAD_COLOR)[..., ::-1]
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(float) - expected).mean() < 6


def test_a_time_stays_with_its_frame_and_the_end_with_the_last_one(tmp_path):
    levels = [20, 90, 160, 230]
    frames = [grey(120) for _ in levels]
    for frame, level in zip(frames, levels, strict=True):
        frame[:16, :16] = level  # in a corner, so that the encoder makes no key frame of it
    path = write_video(tmp_path / "steps.mp4", frames, times=[0, 500, 1500, 1600])
    pictures = read_pictures(path, [0, 0.49, 0.5, 1.45, 1.55, 1.6, 99])
    corners = [cv2.imdecode(np.frombuffer(picture, "uint8"), cv2.IMREAD_COLOR)[10:30, 10:30] for picture in pictures]
    np.testing.assert_allclose([corner.mean() for corner in corners], [20, 20, 90, 90, 160, 230, 230], atol=6)


def test_videos_that_are_not_there_are_left_out(tmp_path, run, videos):
    make_run(tmp_path / "run", videos[1], fps=5.0, videos=tmp_path / "gone")
    page = page_of(tmp_path / "run")
    assert f"The report has no pictures. The folder of the videos does not exist: {tmp_path / 'gone'}." in page.text
    assert len(page.of("img")) == len([image for image in page.of("img") if "image/png" in image["src"]]) > 0
    page = page_of(tmp_path / "run", videos=videos[0])
    assert "pictures. " not in page.text
    assert any("image/jpeg" in image["src"] for image in page.of("img"))
    (tmp_path / "empty").mkdir()
    assert "Some pictures are missing. " in page_of(tmp_path / "run", videos=tmp_path / "empty").text
    make_run(tmp_path / "unnamed", fps=None)
    assert "The run does not name the folder of its videos." in page_of(tmp_path / "unnamed").text


def test_paths_outside_the_folder_are_not_read(tmp_path, videos):
    rows = [(f"../{name}", label, group) for name, label, group in videos[1]]
    (videos[0] / "below").mkdir(exist_ok=True)
    make_run(tmp_path / "run", rows, fps=5.0, videos=videos[0] / "below")
    page = page_of(tmp_path / "run")
    assert "videos could not be read" in page.text
    assert not [image for image in page.of("img") if "image/jpeg" in image["src"]]


def test_a_run_with_several_labels(tmp_path):
    arrays = make_run(tmp_path / "run", task="multi_label")
    page = page_of(tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert f"NetVLAD reaches a GAP of {results['test']['model']['value']:.3f} on 6 test clips" in page.text
    assert "average precision" in page.text
    assert "Which class is taken for which" not in page.text
    assert (arrays["labels"].sum(axis=1) == 2).any()


def test_a_run_of_mean_pooling_has_one_model_and_no_clusters(tmp_path):
    arrays = make_run(tmp_path / "run")
    arrays["assignments"] = np.ones((len(arrays["assignments"]), 1), "float32")
    np.savez(tmp_path / "run" / "clips.npz", **arrays)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    write_json(tmp_path / "run" / "results.json", {**results, "pooling": "mean"})
    page = page_of(tmp_path / "run")
    value = results["test"]["model"]["value"]
    assert f"Mean pooling is right on {value:.1%} of 6 test clips" in page.text
    assert len(page.of("span", class_="track model")) == 1
    assert not page.of("span", class_="track mean")
    assert not page.of("path", class_="line mean")
    assert "right on 0 clips" not in page.text
    assert "The pooling of this run has no clusters." in page.text
    assert not page.of("div", class_="timeline")


def test_a_run_without_test_clips(tmp_path):
    arrays = make_run(tmp_path / "run")
    arrays["split"][arrays["split"] == "test"] = "train"
    np.savez(tmp_path / "run" / "clips.npz", **arrays)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for row in results["classes"]:
        row["model"] = row["mean"] = None
    write_json(tmp_path / "run" / "results.json", {**results, "test": None})
    page = page_of(tmp_path / "run")
    assert "This run has no test clips" in page.text
    assert "No test clip is classified correctly." in page.text
    assert "The run has no training or no test clips to compare." in page.text


@pytest.mark.slow
def test_many_classes_and_clusters_stay_readable(tmp_path):
    rows = [(f"{label}/{n}.mp4", f"class {label:02d}", f"g_{n}") for label in range(40) for n in range(6)]
    make_run(tmp_path / "run", rows, num_clusters=100, frames=500)
    path = write_report(tmp_path / "run")
    page = Page(path.read_text(encoding="utf-8"))
    assert not page.of("table", class_="matrix")
    assert len(page.of("table", class_="classes")) == 2
    assert "The table begins with the 30 classes with the lowest recall." in page.text
    assert path.stat().st_size < 1e6
    assert max(int(timeline["style"].rpartition(":")[2]) for timeline in page.of("div", class_="timeline")) == 7


def test_values_that_are_missing_or_not_finite_are_left_out(tmp_path):
    make_run(tmp_path / "run")
    epochs = [{"epoch": 1, "loss": float("nan"), "accuracy": 0.5}, {"epoch": 2, "loss": 10**400, "accuracy": None}]
    write_json(tmp_path / "run" / "history.json", {"model": epochs, "mean": []})
    page = page_of(tmp_path / "run")
    assert "The run has no validation clips." in page.text
    assert not re.search(r"\bnan\b", page.text.lower())
    for file in (tmp_path / "run" / "predictor").iterdir():
        file.unlink()
    assert "The run has no exported files with a record of their verification." in page_of(tmp_path / "run").text


FILES = ["settings.json", "labels.txt", "history.json", "results.json", "clips.npz"]


@pytest.mark.parametrize("name", FILES)
def test_missing_and_damaged_files_are_named(tmp_path, name):
    make_run(tmp_path / "run")
    path = tmp_path / "run" / name
    content = path.read_bytes()
    named = re.escape(str(path))
    if name == "labels.txt":  # Too few names are found when the results are read.
        named = rf"({named}|.*results\.json \(it lists 3 classes that are not the \d of labels\.txt)"
    sentence = rf"complete files that `keras-netvlad train` writes; .* Received: {named}"
    for damage in (content[: len(content) // 2], b"\xff\xfe{}", b""):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match=sentence):
            write_report(tmp_path / "run")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{sentence}, which does not exist"):
        write_report(tmp_path / "run")
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("name", ["predictor.json", "backbone.onnx.parity.json"])
def test_damaged_files_of_the_predictor_are_named(tmp_path, name):
    make_run(tmp_path / "run")
    (tmp_path / "run" / "predictor" / name).write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"Received: .*{re.escape(name)} \("):
        write_report(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ids": np.arange(36)}, "`ids` is an array of int64"),
        ({"scores": np.zeros((36, 2), "float32")}, r"`scores` has the shape \(36, 2\), which does not fit"),
        ({"descriptors": np.full((36, 4), np.nan)}, "`descriptors` holds NaN"),
        ({"assignments": np.ones((5, 3))}, r"`assignments` has the shape \(5, 3\)"),
        ({"split": np.array(["trial"] * 36)}, "`split` holds values other than"),
        ({"ids": np.array(["same"] * 36)}, "two clips have the same id"),
        ({"labels": np.zeros((36, 3), "uint8")}, "a clip does not have exactly one label"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, change, reason):
    arrays = make_run(tmp_path / "run")
    np.savez(tmp_path / "run" / "clips.npz", **{**arrays, **change})
    with pytest.raises(ValueError, match=rf"Received: .*clips\.npz \({reason}"):
        write_report(tmp_path / "run")


def test_results_that_do_not_fit_are_named(tmp_path):
    make_run(tmp_path / "run")
    (tmp_path / "run" / "labels.txt").write_text("cat\ndog\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"results\.json \(it lists 3 classes that are not the 2 of labels\.txt\)"):
        write_report(tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    write_json(tmp_path / "run" / "results.json", {**results, "task": "ranking"})
    with pytest.raises(ValueError, match="the value `task` is 'ranking'"):
        write_report(tmp_path / "run")


def test_wrong_arguments_are_refused(tmp_path):
    make_run(tmp_path / "run")
    with pytest.raises(TypeError, match=r"`run` must be a path\. Received: run=3"):
        write_report(3)
    with pytest.raises(NotADirectoryError, match="`run` must be the directory of a run"):
        write_report(tmp_path / "none")
    with pytest.raises(NotADirectoryError, match="`videos` must be a directory of videos"):
        write_report(tmp_path / "run", videos=tmp_path / "none")
    with pytest.raises(IsADirectoryError, match="`path` must be a file to write"):
        write_report(tmp_path / "run", tmp_path)
    with pytest.raises(NotADirectoryError, match="`path` must lie in an existing directory"):
        write_report(tmp_path / "run", tmp_path / "none" / "report.html")


def test_the_command_writes_the_report(tmp_path, run, videos, capsys):
    folder, _ = run
    assert main(["report", str(folder), "--output", str(tmp_path / "r.html"), "--videos", str(videos[0])]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/r.html\n"
    assert (tmp_path / "r.html").read_bytes() == write_report(folder).read_bytes()
    assert main(["report", str(tmp_path)]) == 2
    assert "keras-netvlad report: A run must have the complete files" in capsys.readouterr().err


def test_the_report_needs_no_keras(run):
    program = (
        "import sys; from keras_netvlad.__main__ import main; assert main(['report', sys.argv[1]]) == 0; "
        "print(sorted({'keras', 'tensorflow', 'matplotlib', 'cv2'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, str(run[0])]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert finished.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.13, 0.87), (1, 30), (5, 5), (0, 0), (-3, 2e6), (1e-7, 3e-7)])
def test_ticks_surround_the_values(low, high):
    found = ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 7
    np.testing.assert_allclose(np.diff(found), found[1] - found[0], rtol=1e-6)


def test_a_line_goes_through_its_points():
    chart = line_chart([Line("loss", [(1, 0.0), (2, 0.5), (3, 1.0)], "model")], "A chart.", "epoch")
    assert 'd="M0.00 100.00L50.00 50.00L100.00 0.00"' in chart
    assert "epoch 2\nloss 0.5" in chart


def test_margins_separate_right_from_wrong():
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1]], bool)
    scores = np.array([[0.2, 0.5, 0.3], [0.9, 0.4, 0.1], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(margins(labels, scores), [-0.3, 0.3, np.nan, np.nan])
    surest, mistaken = extremes(margins(labels, scores), np.arange(4), 5)
    assert (surest.tolist(), mistaken.tolist()) == ([1], [0])
    # Equal scores do not name a class.
    assert extremes(np.array([0.0]), np.arange(1), 5)[1].tolist() == [0]


def test_a_heat_map_holds_its_values():
    values = np.linspace(0, 1, 15).reshape(3, 5)
    content = base64.b64decode(png_uri(values).partition(",")[2])
    pixels = cv2.imdecode(np.frombuffer(content, "uint8"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_allclose(pixels[..., 3] / 255, values, atol=0.5 / 63 + 0.5 / 255)
    assert io.BytesIO(content).read(8) == b"\x89PNG\r\n\x1a\n"
