"""The model card: metadata that model hubs read, and a program that runs."""

import re

import numpy as np
import pytest
import yaml

from keras_netvlad.__main__ import main
from keras_netvlad.export.model_card import MOST_CLASSES, Metric, model_card
from keras_netvlad.export.parity_file import read_parity
from keras_netvlad.models import VideoClassifier

METRICS = [
    Metric("accuracy", "netvlad", 0.75, 0.5, 1.0, 0.95),
    Metric("accuracy", "mean", 0.25, 0.0, 0.5, 0.95, is_baseline=True),
]


def front_matter(text):
    _, front, _ = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(front)


def card(is_classifier=True, **options):
    files = {"model.onnx": None}
    return model_card("videos", "It works.", "Run it.", files, library="onnx", is_classifier=is_classifier, **options)


def test_the_metadata_hold_license_task_and_metrics():
    front = front_matter(card(metadata={"labels": ["a", "b"], "license": "cc-by-4.0"}, metrics=METRICS))
    assert front["license"] == "cc-by-4.0"
    assert front["library_name"] == "onnx"
    assert front["pipeline_tag"] == "video-classification"
    assert front["metrics"] == ["accuracy"]
    (model,) = front["model-index"]
    (result,) = model["results"]
    assert result["task"] == {"type": "video-classification"}
    assert set(result["dataset"]) == {"type", "name"}
    (metric,) = result["metrics"]
    assert (metric["type"], metric["value"]) == ("accuracy", 0.75)
    assert metric["name"] == "accuracy (95% confidence: 0.500 to 1.000)"


def test_a_metric_without_an_interval_is_that_of_the_validation():
    text = card(metrics=[Metric("gap", "netvlad", 0.8125)], evaluated_on="validation", metadata={"trained_on": "songs"})
    (result,) = front_matter(text)["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "gap", "value": 0.8125, "name": "gap"}]
    assert result["dataset"]["name"] == "validation videos of songs"
    assert "## Results on validation videos\n\n| model | metric | value |\n" in text
    assert "| netvlad | gap | 0.812 |\n" in text


def test_a_model_without_classes_and_license():
    text = card(is_classifier=False)
    front = front_matter(text)
    assert (front["license"], front["pipeline_tag"]) == ("unknown", "feature-extraction")
    assert "model-index" not in front
    assert "| model.onnx | not verified |  |  |" in text


def test_any_text_of_the_user_stays_text():
    hostile = "a: |b|\n---\n# 'M\u00f6we' \U0001f426 \x85 \x7f [x](y)"
    text = card(metadata={"labels": [hostile], "trained_on": hostile, "license": hostile, "note": hostile})
    assert front_matter(text)["license"] == hostile
    assert text.count("\n# ") == 1  # the title
    assert "a: \\|b\\| --- \\# 'M\u00f6we' \U0001f426" in text
    body = text[text.index("\n# ") :]
    assert all(line.count("|") - line.count("\\|") in (0, 3, 5) for line in body.splitlines())


def test_results_and_classes_are_tables():
    labels = [f"class{number}" for number in range(MOST_CLASSES + 2)]
    text = card(metadata={"labels": labels, "seed": 3}, metrics=METRICS, data=["There were 4 videos."])
    assert "| netvlad | accuracy | 0.750 | 0.500 to 1.000 |\n| mean | accuracy | 0.250 | 0.000 to 0.500 |" in text
    assert f"{len(labels)}: class0, " in text
    assert "class99, and 2 more" in text
    assert "class100" not in text
    assert "not stated. There were 4 videos." in text
    assert "| seed | 3 |" in text


@pytest.mark.slow
@pytest.mark.parametrize(("server", "file"), [("tensorflow-serving", "saved_model.pb"), ("triton", "model.onnx")])
def test_the_program_of_a_published_card_runs(tmp_path, monkeypatch, capsys, server, file):
    monkeypatch.chdir(tmp_path)
    VideoClassifier({"frames": 4}, 3, num_clusters=2, hidden_units=None, name="small").save("small.keras")
    (tmp_path / "labels.txt").write_text("one\ntwo\nthree\n")
    options = ["--labels", "labels.txt", "--trained-on", "noise", "--license", "mit", "--server", server]
    assert main(["publish", "small.keras", "served", *options]) == 0
    version = tmp_path / "served" / "small" / "1"
    text = (version / "README.md").read_text(encoding="utf-8")
    front = front_matter(text)
    assert (front["license"], front["pipeline_tag"]) == ("mit", "video-classification")
    assert "3: one, two, three." in text
    assert "The model was trained on: noise." in text
    artifact = version if file == "saved_model.pb" else version / file
    worst = max(output["max_relative_difference"] for output in read_parity(artifact)["parity"]["outputs"])
    assert re.search(
        rf"^\| {re.escape(file.replace('_', chr(92) + '_'))} \| {worst:.1e} \| 0.0001 \|", text, re.MULTILINE
    )
    capsys.readouterr()
    monkeypatch.chdir(version)
    scope = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], scope)
    assert np.asarray(scope["outputs"]["scores"]).shape == (1, 3)
    monkeypatch.chdir(tmp_path)
    assert main(["verify", "small.keras", str(artifact)]) == 0
    assert main(["inspect", "served"]) == 0
