"""Artifacts of single pictures: every format and layout is verified, and the files say how to call them."""

import json

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from published_networks import patch_netvlad_checkpoint
from small_pictures import make_places

from keras_netvlad.__main__ import main
from keras_netvlad.convert import convert_model
from keras_netvlad.export import compare_layers, export_model, export_onnx, inspect_artefact, verify
from keras_netvlad.models import picture_model


@pytest.fixture(scope="module")
def places():
    return make_places()


def metadata_of(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.mark.parametrize(
    ("options", "shape", "facts"),
    [
        ({"layout": "nhwc"}, ["batch", "images_height", "images_width", 3], ("nhwc", "any")),
        ({"layout": "nchw"}, ["batch", 3, "images_height", "images_width"], ("nchw", "any")),
        ({"size": (20, 28)}, ["batch", 20, 28, 3], ("nhwc", "20x28")),
        ({"layout": "nchw", "size": [20, 28]}, ["batch", 3, 20, 28], ("nchw", "20x28")),
    ],
)
def test_pictures_are_verified_and_described(places, options, shape, facts, tmp_path):
    path = tmp_path / "places.onnx"
    report = export_onnx(places, path, **options)
    assert report.ok
    assert len({comparison.case for comparison in report.comparisons}) >= 3
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()
    assert (port.name, port.type, port.shape) == ("images", "tensor(uint8)", shape)
    entries = session.get_modelmeta().custom_metadata_map
    assert (entries["layout"], entries["input_size"]) == facts
    assert (entries["channels"], entries["normalization"]) == ("RGB", "MobileNetV2")
    assert "feature_sizes" not in entries
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 28, 3)).astype("uint8")
    expected = np.asarray(picture_model(places)({"images": images})["descriptor"])
    given = images if facts[0] == "nhwc" else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(session.run(["descriptor"], {"images": given})[0], expected, atol=1e-6)
    printed = str(inspect_artefact(path))
    assert "  layout         n" in printed
    assert "  normalization  MobileNetV2" in printed
    assert "labels" not in printed  # there are none


@pytest.mark.slow
def test_the_digest_is_that_of_the_weights(places, tmp_path):
    names = ("nhwc", "nchw", "external", "other")
    paths = {name: tmp_path / f"{name}.onnx" for name in names}
    export_onnx(places, paths["nhwc"], layout="nhwc", verify=False)
    export_onnx(places, paths["nchw"], layout="nchw", verify=False)
    export_onnx(places, paths["external"], layout="nhwc", verify=False, external_data_threshold=1)
    export_onnx(make_places(seed=1), paths["other"], layout="nhwc", verify=False)
    digests = {name: metadata_of(path)["weights_sha256"] for name, path in paths.items()}
    assert len(digests["nhwc"]) == 64
    assert digests["nhwc"] == digests["nchw"] == digests["external"] != digests["other"]


def test_the_user_cannot_overwrite_the_facts(places, tmp_path):
    metadata = {"layout": "hwc", "weights_sha256": "0", "trained_on": "streets"}
    export_onnx(places, tmp_path / "places.onnx", layout="nchw", metadata=metadata, verify=False)
    entries = metadata_of(tmp_path / "places.onnx")
    assert (entries["layout"], entries["trained_on"], len(entries["weights_sha256"])) == ("nchw", "streets", 64)


@pytest.mark.slow
def test_every_format_is_compared_with_the_model_of_videos(places, tmp_path):
    """`verify` gets the model that the user has, and finds in the files which pictures the artifact takes."""
    formats = ["saved_model", "onnx", "litert"]
    reports = export_model(places, tmp_path / "out", formats, layout="nchw", size=(20, 28))
    assert [report.ok for report in reports] == [True, True, True]
    saved_model = tmp_path / "out" / "places" / "1"
    content = json.loads((saved_model / "parity.json").read_text(encoding="utf-8"))
    assert content["metadata"]["input_size"] == "20x28"
    for report in reports:
        assert verify(places, report.path).ok
        assert not verify(make_places(seed=1), report.path).ok
    assert compare_layers(places, tmp_path / "out" / "model.onnx").ok


@pytest.mark.slow
def test_a_converted_place_model_is_exported_in_another_layout(tmp_path):
    model, path = convert_model(patch_netvlad_checkpoint()), tmp_path / "places.onnx"
    assert export_onnx(model, path, layout="nchw", size=(32, 48)).ok
    entries = metadata_of(path)
    assert (entries["layout"], entries["input_size"], entries["channels"]) == ("nchw", "32x48", "RGB")
    assert entries["normalization"] == "torchvision"
    assert "feature_sizes" not in entries
    assert verify(model, path).ok
    assert not verify(convert_model(patch_netvlad_checkpoint(seed=1)), path).ok


@pytest.mark.parametrize(("layout", "facts"), [("nhwc", ("nhwc", "any")), ("nchw", ("nchw", "any"))])
def test_any_model_of_pictures_has_the_options(layout, facts, tmp_path):
    images = keras.Input((None, None, 3), dtype="uint8", name="images")
    values = keras.layers.GlobalAveragePooling2D(name="colors")(keras.layers.Rescaling(1 / 255)(images))
    model = keras.Model(images, values)
    assert export_onnx(model, tmp_path / "colors.onnx", layout=layout).ok
    entries = metadata_of(tmp_path / "colors.onnx")
    assert (entries["layout"], entries["input_size"]) == facts
    assert {"channels", "normalization", "feature_sizes"}.isdisjoint(entries)
    assert verify(model, tmp_path / "colors.onnx").ok


@pytest.mark.slow
def test_the_command_exports_a_converted_model_for_one_size(tmp_path, capsys):
    np.savez(tmp_path / "weights.npz", **patch_netvlad_checkpoint())
    model = str(tmp_path / "places.keras")
    assert main(["convert", str(tmp_path / "weights.npz"), model]) == 0
    out, options = tmp_path / "out", ["--layout", "nchw", "--size", "32x48"]
    assert main(["export", model, str(out), *options]) == 0
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, 32, 48]
    for artifact in (out / "model.onnx", out / "vgg16_netvlad" / "1"):
        assert main(["verify", model, str(artifact)]) == 0
    assert "images" in capsys.readouterr().out


def test_a_saved_picture_model_has_the_same_facts(places, tmp_path):
    export_onnx(picture_model(places, "nchw"), tmp_path / "places.onnx", verify=False)
    assert metadata_of(tmp_path / "places.onnx")["layout"] == "nchw"


def test_other_models_have_no_such_option(model, tmp_path):
    with pytest.raises(TypeError, match=r"`model` must be a model that `from_pixels` returned"):
        export_onnx(model, tmp_path / "model.onnx", layout="nchw")
