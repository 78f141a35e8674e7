"""Whole PyTorch checkpoints give the scores and descriptors of the published networks, written in torch."""

import keras
import numpy as np
import pytest

from keras_netvlad.convert import convert_model

pytestmark = pytest.mark.needs_torch
torch = pytest.importorskip("torch")

# Float32 models beside torch in float64.
TOLERANCE = 1e-5


def pictures(height=75, width=90, batch=2):
    return np.random.default_rng(3).integers(0, 256, (batch, height, width, 3)).astype("uint8")


def saved(path, module, key="state_dict", prefix=""):
    """A file as the training scripts save it: with an optimizer, counters and numbers next to the weights."""
    optimizer = torch.optim.Adam(module.parameters())
    sum(p.sum() for p in module.parameters()).backward()
    optimizer.step()
    state = {prefix + name: value for name, value in module.state_dict().items()}
    key_of_optimizer = "optimizer" if key == "state_dict" else "optimizer_state_dict"
    torch.save({"epoch": 3, key: state, "best_score": 0.5, key_of_optimizer: optimizer.state_dict()}, path)
    return path


def place_network(project, backbone, **options):
    import published_torch_networks as networks

    makers = {"vgg16": networks.vgg16, "alexnet": networks.alexnet}
    maker = makers.get(backbone) or (lambda: networks.resnet(*backbone))
    torch.manual_seed(0)
    return networks.randomized(networks.Places(project, maker(), **options), 0)


@pytest.mark.parametrize(
    ("project", "backbone", "options"),
    [
        ("nanne", "vgg16", {}),
        ("nanne", "alexnet", {"bias": True}),
        ("patch-netvlad", "vgg16", {"outputs": 4}),
        ("gmberton", (18, 3), {"outputs": 5}),
        ("gmberton", (18, 4), {}),
        ("gmberton", (101, 4), {}),
    ],
)
def test_pictures_give_the_published_descriptors(tmp_path, project, backbone, options):
    module = place_network(project, backbone, **options)
    is_gmberton = project == "gmberton"
    path = saved(
        tmp_path / ("best_model.pth" if is_gmberton else "model_best.pth.tar"),
        module,
        "model_state_dict" if is_gmberton else "state_dict",
        "module." if backbone == (18, 4) else "",
    )
    model, images = convert_model(path), pictures()
    with torch.no_grad():
        expected = module(torch.as_tensor(images)).numpy()
    received = keras.ops.convert_to_numpy(model({"images": images})["descriptor"])
    np.testing.assert_allclose(received, expected, atol=TOLERANCE)


@pytest.mark.parametrize(
    "options",
    [
        {"is_temporal": False},
        {"is_temporal": True},
        {"is_temporal": True, "inputs": 9},
        {"is_temporal": True, "has_centroids": False},
    ],
)
@pytest.mark.parametrize("length", [7, 30])
def test_windows_give_the_scores_of_soccernet(tmp_path, options, length):
    import published_torch_networks as networks

    torch.manual_seed(1)
    module = networks.Spotting(**options).double().eval()
    model = convert_model(saved(tmp_path / "model.pth.tar", module))
    frames = np.random.default_rng(0).normal(size=(2, length, options.get("inputs", 6))).astype("float32")
    with torch.no_grad():
        expected = module(torch.as_tensor(frames).double()).numpy()
    received = model({"frames": frames, "num_frames": np.full(2, length, "int32")})["scores"]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(received), expected, atol=TOLERANCE)
