"""Models from pictures: the parts give the same as the whole, padding gives nothing, gradients reach everything."""

import keras
import numpy as np
import pytest
from make_videos import clip

from keras_netvlad import VideoClassifier
from keras_netvlad.layers import FrameEncoder
from keras_netvlad.models import ensemble, from_pixels, load_model

pytestmark = pytest.mark.backends


def backbone(features=6, channels=3, pooled=False, size=24):
    """Maps of 3 x 3, batch-normalized."""
    layers = [
        keras.Input((size, size, channels)),
        keras.layers.Conv2D(5, 3, strides=4, activation="relu", padding="same"),
        keras.layers.BatchNormalization(),
        keras.layers.Conv2D(features, 3, strides=2, padding="same"),
        *([keras.layers.GlobalAveragePooling2D()] if pooled else []),
    ]
    return keras.Sequential(layers)


def pictures(batch=2, frames=4, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, frames, 24, 24, channels)).astype("uint8")


def whole(pooled=False, trainable=True, **options):
    encoder = FrameEncoder(backbone(pooled=pooled), "MobileNetV2", trainable=trainable)
    classifier = VideoClassifier({"frames": 6}, num_classes=3, num_clusters=4, hidden_units=None, **options)
    return encoder, classifier, from_pixels(encoder, classifier)


def numbers(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("pooled", [False, True])
def test_frames_are_encoded_one_by_one(pooled):
    model = backbone(pooled=pooled)
    videos = pictures()
    encoded = numbers(FrameEncoder(model, "MobileNetV2")(videos))
    for video, features in zip(videos, encoded, strict=True):
        for picture, feature in zip(video, features, strict=True):
            expected = numbers(model(picture[None] / 127.5 - 1, training=False))[0]
            np.testing.assert_allclose(feature, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, [10.0, 100.0, 200.0]),
        ("MobileNetV2", [10 / 127.5 - 1, 100 / 127.5 - 1, 200 / 127.5 - 1]),
        ("ResNet50", [200 - 103.939, 100 - 116.779, 10 - 123.68]),
        ("DenseNet121", [(10 / 255 - 0.485) / 0.229, (100 / 255 - 0.456) / 0.224, (200 / 255 - 0.406) / 0.225]),
        ("torchvision", [(10 / 255 - 0.485) / 0.229, (100 / 255 - 0.456) / 0.224, (200 / 255 - 0.406) / 0.225]),
        ("EfficientNetB0", [10.0, 100.0, 200.0]),
    ],
)
def test_preprocessing_is_the_backbones_own(name, expected):
    same = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Activation("linear")])
    picture = np.broadcast_to(np.array([10, 100, 200], "uint8"), (1, 1, 2, 2, 3))
    encoded = numbers(FrameEncoder(same, name)(picture))
    np.testing.assert_allclose(encoded[0, 0, 1, 1], expected, rtol=1e-5)


@pytest.mark.parametrize("pooled", [False, True])
def test_parts_give_the_same_as_the_whole(pooled):
    encoder, classifier, model = whole(pooled)
    videos, counts = pictures(3, 4), np.array([4, 2, 0], "int32")
    together = model({"images": videos, "num_frames": counts})
    features = numbers(encoder(videos))
    positions = 1 if pooled else 9
    apart = classifier({"frames": features.reshape(3, -1, 6), "num_frames": counts * positions})
    for name in together:
        np.testing.assert_allclose(numbers(together[name]), numbers(apart[name]), atol=1e-6)
    # What NetVLAD says of the maps themselves.
    layer = classifier.get_layer("frames_netvlad")
    mask = np.arange(4) < counts[:, None]
    np.testing.assert_allclose(numbers(together["descriptor"]), numbers(layer(features, mask=mask)), atol=1e-6)


def test_padding_gives_nothing_in_inference_and_training():
    _, _, model = whole()
    counts = np.array([2, 1], "int32")
    labels = np.array([0, 2])
    model.compile("sgd", "sparse_categorical_crossentropy")
    start = model.get_weights()
    results = []
    for seed in (1, 2):
        videos = pictures(seed=seed)
        videos[:, :2] = pictures()[:, :2]
        videos[1, 1] = seed
        model.set_weights(start)
        scores = model.predict_on_batch({"images": videos, "num_frames": counts})["scores"]
        model.train_on_batch({"images": videos, "num_frames": counts}, labels)
        results.append([scores, *model.get_weights()])
    for first, second in zip(*results, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-6)
    more = {"images": pictures(), "num_frames": np.array([2**31 - 1, 4], "int32")}
    full = {"images": pictures(), "num_frames": np.array([4, 4], "int32")}
    np.testing.assert_array_equal(numbers(model(more)["scores"]), numbers(model(full)["scores"]))


@pytest.mark.parametrize("trainable", [True, False])
def test_training_reaches_every_weight_or_leaves_the_backbone(trainable):
    encoder, classifier, model = whole(trainable=trainable)
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    before = [numbers(weight).copy() for weight in encoder.backbone.weights]
    head = [numbers(weight).copy() for weight in classifier.trainable_weights]
    inputs = {"images": pictures(), "num_frames": np.array([4, 3], "int32")}
    model.train_on_batch(inputs, np.array([0, 2]))
    for weight, old in zip(encoder.backbone.weights, before, strict=True):
        is_moving = "moving" in weight.path
        assert np.array_equal(numbers(weight), old) == (is_moving or not trainable), weight.path
    for weight, old in zip(classifier.trainable_weights, head, strict=True):
        assert not np.array_equal(numbers(weight), old), weight.path


def test_two_streams_early_and_late():
    inputs = {"rgb": pictures(), "motion": pictures(channels=2, seed=5), "num_frames": np.array([4, 1], "int32")}
    encoders = {"rgb": FrameEncoder(backbone(), "MobileNetV2"), "motion": FrameEncoder(backbone(8, channels=2))}
    classifier = VideoClassifier({"rgb": 6, "motion": 8}, num_classes=3, num_clusters=4, hidden_units=None)
    early = from_pixels(encoders, classifier)(inputs)
    features = {name: numbers(encoders[name](inputs[name])).reshape(2, 36, -1) for name in encoders}
    apart = classifier({**features, "num_frames": np.array([36, 9], "int32")})
    np.testing.assert_allclose(numbers(early["descriptor"]), numbers(apart["descriptor"]), atol=1e-6)
    _, _, model = whole()
    _, _, other = whole(pooled=True)
    late = ensemble([model, other], weights=[2, 1])({"images": inputs["rgb"], "num_frames": inputs["num_frames"]})
    assert late["scores"].shape == (2, 3)


def test_a_saved_model_gives_the_same(tmp_path):
    _, _, model = whole()
    inputs = {"images": pictures(), "num_frames": np.array([4, 3], "int32")}
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numbers(loaded(inputs)["scores"]), numbers(model(inputs)["scores"]), atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports run on TensorFlow: `make test`")
def test_an_artefact_takes_pictures(tmp_path):
    from keras_netvlad.export import export_onnx, export_saved_model

    _, _, model = whole()
    reports = export_saved_model(model, tmp_path / "saved"), export_onnx(model, tmp_path / "model.onnx")
    for report in reports:
        assert report.ok, report
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    inputs = {"images": pictures(), "num_frames": np.array([4, 3], "int32")}
    (scores,) = session.run(["scores"], inputs)
    np.testing.assert_allclose(scores, numbers(model(inputs)["scores"]), atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports run on TensorFlow: `make test`")
def test_an_encoder_is_an_artefact_of_its_own(tmp_path):
    import onnxruntime

    from keras_netvlad.export import export_onnx

    encoder, classifier, model = whole()
    images = keras.Input((None, 24, 24, 3), dtype="uint8", name="images")
    alone = keras.Model({"images": images}, {"features": encoder(images)})
    assert export_onnx(alone, tmp_path / "encoder.onnx").ok
    assert export_onnx(classifier, tmp_path / "pooler.onnx").ok
    videos = pictures()
    (features,) = onnxruntime.InferenceSession(tmp_path / "encoder.onnx").run(["features"], {"images": videos})
    pooler = onnxruntime.InferenceSession(tmp_path / "pooler.onnx")
    counts = np.array([4, 3], "int32")
    (scores,) = pooler.run(["scores"], {"frames": features.reshape(2, -1, 6), "num_frames": counts * 9})
    expected = numbers(model({"images": videos, "num_frames": counts})["scores"])
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_a_real_clip_goes_through():
    from keras_netvlad.data import read_video

    _, _, model = whole()
    video = np.stack(list(read_video(clip("bikes"), size=24)))
    scores = model({"images": video[None], "num_frames": np.array([len(video)], "int32")})["scores"]
    assert np.isfinite(numbers(scores)).all()


def test_wrong_arguments_are_refused():
    encoder, classifier, _ = whole()
    with pytest.raises(TypeError, match=r"`backbone` must be a Keras model of pictures. Received: str"):
        FrameEncoder("MobileNetV2")
    with pytest.raises(ValueError, match=r"`backbone` must take pictures .* Received: a model from \(None, 3\)"):
        FrameEncoder(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
    for name in ("MobileNet9", 3):
        with pytest.raises(ValueError, match="`preprocessing` must be the name of a model"):
            FrameEncoder(backbone(), name)
    with pytest.raises(ValueError, match=r"`inputs` must be videos .* Received: shape \(4, 24, 24, 3\)"):
        encoder(pictures()[0])
    with pytest.raises(TypeError, match="`model` must be a VideoClassifier or VideoEncoder that takes floats"):
        from_pixels(encoder, VideoClassifier({"frames": 6}, num_classes=3, input_dtype="uint8"))
    with pytest.raises(ValueError, match=r"a FrameEncoder for each stream of \['frames'\]. Received: \['rgb'\]"):
        from_pixels({"rgb": encoder}, classifier)
    with pytest.raises(TypeError, match=r"must be FrameEncoder layers. Received: Sequential"):
        from_pixels(backbone(), classifier)
    with pytest.raises(ValueError, match=r"must return features of the model's size. Received: 7, where .* has 6"):
        from_pixels(FrameEncoder(backbone(7)), classifier)
    with pytest.raises(ValueError, match="must have a fixed picture size"):
        from_pixels(
            FrameEncoder(keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(6, 3)])), classifier
        )
    two = VideoClassifier({"rgb": 6, "motion": 6}, num_classes=3, num_clusters=4)
    with pytest.raises(ValueError, match=r"maps of equal size. Received: positions {'rgb': 9, 'motion': 1}"):
        from_pixels({"rgb": encoder, "motion": FrameEncoder(backbone(pooled=True))}, two)
