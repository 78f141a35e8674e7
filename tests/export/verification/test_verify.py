"""Verification finds every planted difference and refuses artifacts that it cannot compare."""

import keras
import pytest
from small_classifier import FEATURE_SIZE

from keras_netvlad.export import export_saved_model, verify
from keras_netvlad.models import VideoClassifier


def test_verification_fails_on_another_models_artefact(artefacts, model):
    other = VideoClassifier({"frames": FEATURE_SIZE}, 5, num_clusters=4, hidden_units=8)
    for report in artefacts[1]:
        failed = verify(other, report.path)
        assert not failed.ok
        assert "FAILED" in str(failed)
        assert "first at: batch 1, frames 1" in str(failed)


def test_a_saved_model_with_other_signatures_is_not_loaded(artefacts, monkeypatch):
    from keras_netvlad.export.verification import verify as module

    loaded = []
    monkeypatch.setattr(module, "Artefact", loaded.append)
    renamed = VideoClassifier({"audio": FEATURE_SIZE}, 5, num_clusters=4, hidden_units=8)
    with pytest.raises(ValueError, match=r"must be the model's"):
        verify(renamed, artefacts[0] / "classifier" / "1")
    assert loaded == []


def test_verification_fails_where_padding_leaks(tmp_path):
    frames = keras.Input((None, 3), name="frames")
    num_frames = keras.Input((), dtype="int32", name="num_frames")
    leaky = keras.layers.GlobalMaxPooling1D()(frames)  # pools the padding, too
    lengths = keras.ops.expand_dims(keras.ops.cast(num_frames, "float32"), 1)
    scores = keras.layers.Concatenate()([leaky, lengths])
    model = keras.Model({"frames": frames, "num_frames": num_frames}, {"scores": scores})
    message = r"set them to zero.*output `scores` changes if such frames of \['frames'\] hold other values"
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, tmp_path / "1")
    assert list(tmp_path.iterdir()) == []


def test_verification_refuses_other_names_and_other_things(artefacts, model, tmp_path):
    renamed = VideoClassifier({"audio": FEATURE_SIZE}, 5, num_clusters=4, hidden_units=8)
    with pytest.raises(
        ValueError, match=r"inputs of `serving_default` must be the model's, \['audio', 'num_frames'\].*\['frames'"
    ):
        verify(renamed, artefacts[0] / "model.onnx")
    with pytest.raises(FileNotFoundError, match=r"An artifact is a directory with a saved_model.pb or a file"):
        verify(model, tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x08broken")
    with pytest.raises(ValueError, match=r"cannot be loaded; export it again. Received: .*broken.onnx"):
        verify(model, tmp_path / "broken.onnx")
    with pytest.raises(ValueError, match=r"`tolerance` must be a finite number of 0 or more"):
        verify(model, artefacts[0] / "model.onnx", tolerance=float("nan"))
