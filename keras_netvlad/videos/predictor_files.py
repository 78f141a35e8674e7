"""`write_predictor`: writes a directory that classifies video files without Keras and without this package."""

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_netvlad._version import __version__
from keras_netvlad.base import video_decoding
from keras_netvlad.base.atomic_files import staged
from keras_netvlad.base.file_digest import file_digest
from keras_netvlad.base.names import NUM_FRAMES, SCORES
from keras_netvlad.export import export_onnx
from keras_netvlad.export.model_card import CARD_FILE, Metric, model_card
from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.export.parity_file import Parity, read_parity
from keras_netvlad.export.serving_signatures import live_stream_obstacle
from keras_netvlad.export.verification.tolerance import default_tolerance
from keras_netvlad.models import VideoClassifier
from keras_netvlad.videos import predict, predict_options
from keras_netvlad.videos.encoder_file import EncoderFile
from keras_netvlad.videos.evaluation import CONFIDENCE
from keras_netvlad.videos.features_folder import FeaturesFolder
from keras_netvlad.videos.results import Results

PREDICTOR_FILE = "predictor.json"
SETTINGS = ("stream", "dtype", "size", "fps", "max_seconds", "pooling")
# Lengths of the videos of random frames with which the predictor is compared with the model.
PROOF_LENGTHS = (1, 7, 40)


def write_predictor(
    path: Path, model: VideoClassifier, folder: FeaturesFolder, settings: Mapping[str, Any], results: Results
) -> None:
    """Writes a predictor, verifies its ONNX files, and compares its answers with those of the model.

    Args:
        path: Directory that does not exist yet.
        model: The trained classifier. It takes the streams in the dtype of the records.
        folder: The features that it was trained on, with their encoder.
        settings: Settings of the training, which are recorded.
        results: Results on the test videos, which are recorded.

    Raises:
        ParityError: If an ONNX file does not compute what the model computes.
        ValueError: If the answers of the predictor differ from those of the model.
        FileExistsError: If the path exists.
    """
    encoder = EncoderFile(folder.encoder)
    with staged(path) as stage:
        stage.mkdir()
        shutil.copyfile(folder.encoder, stage / folder.encoder.name)
        parity = folder.encoder.with_name(f"{folder.encoder.name}.parity.json")
        if parity.is_file():
            shutil.copyfile(parity, stage / parity.name)
        metadata = {"labels": folder.labels}
        artifacts: dict[str, Parity | None] = {folder.encoder.name: read_parity(folder.encoder).get("parity")}
        report = export_onnx(model, stage / "classifier.onnx", metadata=metadata)
        artifacts["classifier.onnx"] = None if report is None else report.as_dict()
        if live_stream_obstacle(model, read_signature(model)) is None:
            for signature in ("accumulate", "describe"):
                export_onnx(model, stage / f"{signature}.onnx", signature=signature)
        for program in (predict, predict_options, video_decoding):
            source = Path(str(program.__file__))
            shutil.copyfile(source, stage / source.name)
        content = {
            "format": predict.FORMAT,
            "labels": folder.labels,
            **{name: folder.settings[name] for name in SETTINGS},
            "positions": encoder.positions,
            "task": "single_label" if folder.is_single_label else "multi_label",
            "test": {name: value.as_dict() for name, value in results.test.items()},
            "metric": results.metric,
            "training": dict(settings),
            "versions": {
                "keras_netvlad": __version__,
                **{name: version(name) for name in ("keras", "tensorflow", "onnxruntime")},
            },
            "files": {file.name: file_digest(file) for file in sorted(stage.glob("*.onnx"))},
        }
        _write(stage / PREDICTOR_FILE, content)
        _write(stage / PREDICTOR_FILE, {**content, "proof": _prove(stage, model, encoder)})
        (stage / CARD_FILE).write_text(_card(folder, settings, results, artifacts), encoding="utf-8")


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _card(
    folder: FeaturesFolder, settings: Mapping[str, Any], results: Results, artifacts: Mapping[str, Parity | None]
) -> str:
    classes = "one class" if folder.is_single_label else "any number of classes"
    # The card may be published, so it does not show paths of this machine.
    training = {key: value for key, value in settings.items() if key not in ("features", "videos")}
    trained_on = f"the folder {Path(settings['videos']).name}" if settings.get("videos") else None
    counts = ", ".join(f"{count} for {split}" for split, count in results.num_videos.items())
    metrics = [
        Metric(
            results.metric, name, value.value, value.low, value.high, CONFIDENCE, is_baseline=name != results.pooling
        )
        for name, value in results.test.items()
    ]
    return model_card(
        f"{results.pooling} video classifier",
        f"This model finds {classes} of a video file. The encoder turns its frames into features, and "
        f"`{results.pooling}` pools them.",
        "In this directory, with `pip install numpy onnxruntime av`:\n\n```sh\npython predict.py clip.mp4\n```",
        artifacts,
        library="onnx",
        is_classifier=True,
        metadata={"labels": folder.labels, "trained_on": trained_on, "training": training},
        data=[f"The number of videos was {counts}."],
        metrics=metrics,
    )


def _prove(stage: Path, model: VideoClassifier, encoder: EncoderFile) -> dict[str, Any]:
    """Compares the predictor, as a whole and as a live stream, with the Keras model on videos of random frames.

    The features are those of the same encoder, which was compared with its Keras model when it was exported.
    """
    predictor = predict.Predictor(stage)
    rng = np.random.default_rng(0)
    tolerance, largest = default_tolerance(model, "float32"), 0.0
    for length in PROOF_LENGTHS:
        frames = rng.integers(0, 256, (length, encoder.size, encoder.size, 3), "uint8")
        features = predictor.encode(frames)
        inputs = {predictor.settings["stream"]: features[None], NUM_FRAMES: np.array([len(features)], "int32")}
        expected = keras.ops.convert_to_numpy(model(inputs, training=False)[SCORES])[0]
        answers = [predictor.classify(features), *predictor.accumulated(np.array_split(features, min(length, 3)))]
        for scores in (answers[0], answers[-1]):
            difference = float(np.abs(scores - expected).max() / np.abs(expected).max())
            largest = max(largest, difference)
    if largest > tolerance:
        raise ValueError(
            "The predictor must give the answers of the model; report this as a bug. "
            f"Received: a relative difference of {largest:.1e}, above the tolerance {tolerance:.0e}"
        )
    return {"largest_relative_difference": largest, "tolerance": tolerance, "num_frames": list(PROOF_LENGTHS)}
