"""Vocabularies describe pictures and videos without training, and hold for their own backbone only."""

import importlib.util
import json
import shutil

import av
import keras
import numpy as np
import pytest
from make_videos import write_video
from token_backbones import make_token_backbone

from keras_netvlad.__main__ import main
from keras_netvlad.base.file_digest import file_digest
from keras_netvlad.data import read_video
from keras_netvlad.models import load_model
from keras_netvlad.retrieval import DescriptorIndex
from keras_netvlad.videos import Vocabulary, build_vocabulary
from keras_netvlad.videos.encoder_file import write_encoder

SIZE, CLUSTERS = 32, 3


def picture(seed):
    """Returns a smooth picture, whose colors the seed decides."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), "uint8")
    return coarse.repeat(12, axis=0).repeat(12, axis=1)


def write_picture(path, pixels):
    with av.open(str(path), "w", format="image2") as file:
        stream = file.add_stream("png")
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = "rgb24"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    for seed in range(4):
        write_picture(folder / f"place {seed}.png", picture(seed))
    (folder / "clips").mkdir()
    # 40 frames: more than one batch.
    write_video(folder / "clips" / "walk.mp4", [picture(seed // 8) for seed in range(40)], rate=1)
    return folder


def make_backbone(path, seed=0):
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Rescaling(1 / 127.5, -1), keras.layers.Conv2D(6, 8, strides=8, name="map")]
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *layers, keras.layers.GlobalAveragePooling2D()])
    model.save(path)
    return path


@pytest.fixture(scope="module")
def vocabulary(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("vocabulary")
    backbone = make_backbone(output / "backbone.keras")
    return build_vocabulary(folder, output / "v", backbone, size=SIZE, layer="map", num_clusters=CLUSTERS, seed=1)


def oracle(model, path):
    """AnyLoc's descriptor in float64 loops: unit features, the largest cosine, residuals, both normalizations."""
    encoder = next(layer for layer in model.layers if type(layer).__name__ == "FrameEncoder")
    (vlad,) = [layer for layer in model._flatten_layers() if type(layer).__name__ == "VLAD"]
    centroids = keras.ops.convert_to_numpy(vlad.centroids).astype("float64")
    frames = np.stack(list(read_video(path, 1, SIZE, crop_to_aspect_ratio=True)))
    features = keras.ops.convert_to_numpy(encoder(frames[None])).reshape(-1, centroids.shape[1]).astype("float64")
    residuals = np.zeros_like(centroids)
    for feature in features / np.linalg.norm(features, axis=1, keepdims=True):
        nearest = np.argmax(centroids @ feature / np.linalg.norm(centroids, axis=1))
        residuals[nearest] += feature - centroids[nearest]
    residuals /= np.maximum(np.linalg.norm(residuals, axis=1, keepdims=True), 1e-12)
    return residuals.ravel() / np.linalg.norm(residuals)


@pytest.mark.slow
def test_descriptors_are_those_of_anyloc_for_pictures_and_long_videos(folder, vocabulary):
    model = load_model(vocabulary.directory / "model.keras")
    for name in ("place 0.png", "clips/walk.mp4"):
        np.testing.assert_allclose(vocabulary.descriptor(folder / name), oracle(model, folder / name), atol=2e-5)


@pytest.mark.slow
def test_its_model_exports_as_a_model_of_pictures(folder, vocabulary, tmp_path):
    import onnxruntime

    sizes = ["--layout", "nhwc", "--size", f"{SIZE}x{SIZE}"]
    model = str(vocabulary.directory / "model.keras")
    assert main(["export", model, str(tmp_path / "out"), "--format", "onnx", *sizes]) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    (pixels,) = read_video(folder / "place 1.png", 1, SIZE, crop_to_aspect_ratio=True)
    (received,) = session.run(["descriptor"], {"images": pixels[None]})
    np.testing.assert_allclose(received[0], vocabulary.descriptor(folder / "place 1.png"), atol=1e-5)


@pytest.mark.slow
def test_the_provenance_is_written_down(folder, vocabulary):
    written = json.loads((vocabulary.directory / "vocabulary.json").read_text())
    expected = {"backbone": "backbone.keras", "layer": "map", "data": str(folder), "seed": 1, "num_clusters": CLUSTERS}
    expected |= {"num_files": 5, "num_frames": 44, "num_features": 44 * 16, "num_sampled": 704}
    assert {name: written[name] for name in expected} == expected
    assert len(written["backbone_digest"]) == 64


@pytest.mark.slow
def test_the_encoder_of_another_backbone_is_refused(vocabulary, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(vocabulary.directory, copy)
    (copy / "encoder.onnx").unlink()
    write_encoder(copy / "encoder.onnx", make_backbone(tmp_path / "other.keras", 5), None, SIZE, None, "map")
    with pytest.raises(ValueError, match=r"works with its own backbone only; .*encoder\.onnx, which is damaged or of"):
        Vocabulary(copy)
    index = DescriptorIndex(vocabulary.source)
    with pytest.raises(ValueError, match="Received: another model and another encoder"):
        index.check_source({"model": "of another", "encoder": file_digest(copy / "encoder.onnx")})
    (copy / "describe.onnx").unlink()
    (copy / "encoder.onnx").write_bytes((vocabulary.directory / "encoder.onnx").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"must lie in its directory; .*describe\.onnx"):
        Vocabulary(copy)


@pytest.mark.slow
def test_a_vocabulary_with_a_third_copy_of_the_backbone_still_loads(folder, vocabulary, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(vocabulary.directory, copy)
    names = {path.name for path in copy.iterdir() if not path.name.endswith(".parity.json")}
    assert names == {"vocabulary.json", "encoder.onnx", "accumulate.onnx", "describe.onnx", "model.keras"}
    written = json.loads((copy / "vocabulary.json").read_text())
    written["files"]["pictures.onnx"] = "0" * 64
    (copy / "vocabulary.json").write_text(json.dumps(written))
    (copy / "pictures.onnx").write_bytes(b"not read")
    np.testing.assert_array_equal(
        Vocabulary(copy).descriptor(folder / "place 1.png"), vocabulary.descriptor(folder / "place 1.png")
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 2}, "format 2"),
        ({"size": 16}, "its size 16 is not that of the encoder, 32"),
        ({"fps": 0.0}, "`fps` has a wrong value"),
        ({"max_seconds": -1.0}, "`max_seconds` has a wrong value"),
        ({"layer": 3}, "the value `layer` is missing or has the wrong type"),
    ],
)
def test_a_damaged_provenance_is_refused(vocabulary, tmp_path, change, reason):
    copy = tmp_path / "copy"
    shutil.copytree(vocabulary.directory, copy, ignore=shutil.ignore_patterns("model.keras"))
    written = json.loads((copy / "vocabulary.json").read_text())
    (copy / "vocabulary.json").write_text(json.dumps({**written, **change}))
    message = f"The file must be the one that `keras-netvlad vocabulary` wrote; .*vocabulary.json \\({reason}\\)$"
    with pytest.raises(ValueError, match=message):
        Vocabulary(copy)


@pytest.mark.slow
def test_the_commands_build_index_and_search_without_training(folder, tmp_path, capsys):
    backbone = str(make_backbone(tmp_path / "backbone.keras"))
    (tmp_path / "data").mkdir()
    for path in folder.glob("*.png"):
        shutil.copyfile(path, tmp_path / "data" / path.name)
    (tmp_path / "data" / "broken.png").write_bytes(b"no picture")
    data, output, index = (str(tmp_path / name) for name in ("data", "v", "places.npz"))
    options = ["--backbone", backbone, "--layer", "map", "--size", str(SIZE), "--num-clusters", "3"]
    assert main(["vocabulary", data, output, *options]) == 1
    printed = capsys.readouterr()
    assert printed.out == ("4 files, 4 frames, 64 features, of which 64 made 3 clusters; 1 could not be read\n")
    assert "broken.png" in printed.err
    assert main(["index", data, index, "--vocabulary", output]) == 1
    assert capsys.readouterr().out == "4 files indexed; 1 could not be read\n"
    # The index knows its vocabulary, and a picture finds itself.
    assert main(["search", index, str(folder / "place 2.png"), "--count", "1"]) == 0
    assert capsys.readouterr().out == " 1.0000  place 2.png\n"
    assert main(["index", data, index, "--vocabulary", output]) == 2
    assert "must be a new file" in capsys.readouterr().err
    assert main(["search", data, "place 2.png", "--vocabulary", output]) == 2
    assert "`--vocabulary` needs an index" in capsys.readouterr().err


def test_wrong_use_is_one_sentence(tmp_path, folder):
    with pytest.raises(ValueError, match=r"`fps` must be at most 1000, or None for every frame. Received: fps=1001"):
        build_vocabulary(folder, tmp_path / "v", "MobileNet", fps=1001)
    with pytest.raises(NotADirectoryError, match="must be a directory of pictures and videos"):
        build_vocabulary(tmp_path / "absent", tmp_path / "v", "MobileNet")
    with pytest.raises(ValueError, match=r"must hold pictures or videos, such as \.jpg"):
        build_vocabulary(tmp_path, tmp_path / "v", "MobileNet")
    backbone = make_backbone(tmp_path / "backbone.keras")
    with pytest.raises(ValueError, match=r"must return a map or tokens, .* choose an earlier `layer`"):
        build_vocabulary(folder, tmp_path / "v", backbone, size=SIZE)
    assert not (tmp_path / "v").exists()
    (tmp_path / "vocabulary.json").write_text('{"format": 1}')
    with pytest.raises(ValueError, match=r"must be the one that `keras-netvlad vocabulary` wrote; .*backbone"):
        Vocabulary(tmp_path)


@pytest.mark.runtimes
@pytest.mark.skipif(importlib.util.find_spec("keras_hub") is None, reason="needs keras-hub: `make runtimes`")
def test_a_vocabulary_of_a_preset_of_dinov2(folder, tmp_path):
    import keras_hub

    keras.utils.set_random_seed(0)
    make_token_backbone("dinov2").save_to_preset(tmp_path / "preset")
    keras_hub.layers.ImageConverter(scale=1 / 127.5, offset=-1).save_to_preset(tmp_path / "preset")
    built = build_vocabulary(
        folder, tmp_path / "v", f"hub:{tmp_path / 'preset'}", size=28, layer="stage1", num_clusters=CLUSTERS
    )
    model = load_model(built.directory / "model.keras")
    (pixels,) = read_video(folder / "place 0.png", 1, 28, crop_to_aspect_ratio=True)
    expected = model({"images": pixels[None, None], "num_frames": np.array([1], "int32")})["descriptor"]
    received = built.descriptor(folder / "place 0.png")
    np.testing.assert_allclose(received, keras.ops.convert_to_numpy(expected)[0], atol=1e-4)
