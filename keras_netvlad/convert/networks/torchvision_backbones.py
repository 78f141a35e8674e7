"""The backbones of torchvision, cut where PyTorch's place recognition cuts them."""

import re
from collections.abc import Iterator

import keras

from keras_netvlad.convert.networks.tensors import Tensors, assign
from keras_netvlad.convert.networks.vgg16 import VGG16_LAYERS, vgg16
from keras_netvlad.convert.tensor_files import listed

VGG16_PLACES = [place for place, (kind, _) in enumerate(VGG16_LAYERS) if kind == "conv"]
# Place in `features`, kernel size, stride and padding of each convolution.
ALEXNET = [(0, 11, 4, 2), (3, 5, 1, 2), (6, 3, 1, 1), (8, 3, 1, 1), (10, 3, 1, 1)]
# Number of convolutions of a block, and number of blocks of each stage.
RESNETS = {
    (2, (2, 2, 2, 2)): "resnet18",
    (2, (3, 4, 6, 3)): "resnet34",
    (3, (3, 4, 6, 3)): "resnet50",
    (3, (3, 4, 23, 3)): "resnet101",
    (3, (3, 8, 36, 3)): "resnet152",
}
FIRST_STAGE = 4  # behind convolution, normalization, ReLU and pooling
NORMALIZATION = ("weight", "bias", "running_mean", "running_var")
EPSILON = 1e-5


class TorchvisionBackbone:
    """A backbone whose tensors have the names of torchvision's layers in an `nn.Sequential`.

    VGG16 and AlexNet end with their last convolution, before its ReLU. A ResNet ends with its third or fourth stage.

    Args:
        tensors: Tensors of the checkpoint. Their names determine the network, their shapes its widths.
        prefix: Prefix of the names, such as `"encoder."`.

    Attributes:
        name: Name of the network, such as `"resnet18"`.
        expected: Names of all tensors that the network has.

    Raises:
        ValueError: If the names are those of another network.
    """

    def __init__(self, tensors: Tensors, prefix: str) -> None:
        self._tensors, self._prefix = tensors, prefix
        names = [name.removeprefix(prefix) for name in tensors.names if name.startswith(prefix)]
        places = {int(name.split(".")[0]) for name in names if name.split(".")[0].isdigit()}
        last = max(places, default=-1)
        self._block = 0  # number of convolutions of a block
        self._stages: tuple[int, ...] = ()  # number of blocks of each stage
        if any(".conv" in name for name in names):
            self.name = self._find_resnet(names)
            self.expected = [prefix + name for name in self._resnet_names()]
            return
        found = {VGG16_PLACES[-1]: ("vgg16", VGG16_PLACES), ALEXNET[-1][0]: ("alexnet", [c[0] for c in ALEXNET])}
        if last not in found:
            raise self._unknown(names)
        self.name, convolutions = found[last]
        self.expected = [f"{prefix}{place}.{part}" for place in convolutions for part in ("weight", "bias")]

    def build(self) -> keras.Model:
        """Reads the tensors and returns a functional model from `(B, H, W, 3)` to maps `(B, H', W', D)`."""
        if self.name == "vgg16":
            return vgg16(None, [self._kernel_and_bias(place) for place in VGG16_PLACES])
        pictures = keras.Input((None, None, 3), name="pictures")
        maps = self._alexnet(pictures) if self.name == "alexnet" else self._resnet(pictures)
        return keras.Model(pictures, maps, name=self.name)

    def _alexnet(self, x):
        for place, size, stride, padding in ALEXNET:
            kernel, bias = self._kernel_and_bias(place)
            x = _convolution(x, kernel, bias, f"{self._prefix}{place}", f"conv{place}", size, stride, padding)
            if place != ALEXNET[-1][0]:
                x = keras.layers.ReLU(name=f"relu{place}")(x)
            if place < 6:
                x = keras.layers.MaxPooling2D(3, 2, name=f"pool{place}")(x)
        return x

    def _resnet(self, x):
        x = self._normalized(x, "0", "1", 7, 2, 3)
        x = keras.layers.ReLU(name="relu")(x)
        # Zeros are as good as minus infinity here, because no value is below zero.
        x = keras.layers.MaxPooling2D(3, 2, name="pool")(keras.layers.ZeroPadding2D(1, name="pool_padding")(x))
        for stage, number in enumerate(self._stages):
            for block in range(number):
                x = self._residual(x, f"{FIRST_STAGE + stage}.{block}", 2 if stage and not block else 1)
        return x

    def _residual(self, x, name, stride):
        """Adds a block. The stride of a bottleneck is in its second convolution, as in torchvision."""
        shortcut = x
        if f"{self._prefix}{name}.downsample.0.weight" in self._tensors:
            shortcut = self._normalized(x, f"{name}.downsample.0", f"{name}.downsample.1", 1, stride, 0)
        sizes = (3, 3) if self._block == 2 else (1, 3, 1)
        for number, size in enumerate(sizes, 1):
            strided = number == (1 if self._block == 2 else 2)
            x = self._normalized(
                x, f"{name}.conv{number}", f"{name}.bn{number}", size, stride if strided else 1, size // 2
            )
            if number < len(sizes):
                x = keras.layers.ReLU(name=_layer_name(f"{name}.relu{number}"))(x)
        x = keras.layers.Add(name=_layer_name(f"{name}.add"))([x, shortcut])
        return keras.layers.ReLU(name=_layer_name(f"{name}.relu"))(x)

    def _normalized(self, x, convolution, normalization, size, stride, padding):
        """Adds a convolution without bias and its batch normalization."""
        kernel = self._tensors.read_of_rank(f"{self._prefix}{convolution}.weight", 4).transpose(2, 3, 1, 0)
        tensor_name = f"{self._prefix}{convolution}"
        x = _convolution(x, kernel, None, tensor_name, f"conv_{_layer_name(convolution)}", size, stride, padding)
        layer = keras.layers.BatchNormalization(epsilon=EPSILON, name=f"bn_{_layer_name(normalization)}")
        x = layer(x)
        variables = (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
        for part, variable in zip(NORMALIZATION, variables, strict=True):
            name = f"{self._prefix}{normalization}.{part}"
            assign(variable, self._tensors.read(name), name)
        return x

    def _kernel_and_bias(self, place):
        name = f"{self._prefix}{place}"
        kernel = self._tensors.read_of_rank(f"{name}.weight", 4).transpose(2, 3, 1, 0)
        return kernel, self._tensors.read(f"{name}.bias")

    def _find_resnet(self, names):
        """Returns the name of the ResNet, and sets its kind of block and its stages."""
        self._block = 3 if any(".conv3." in name for name in names) else 2
        blocks = {tuple(map(int, found.groups())) for name in names if (found := re.match(r"(\d+)\.(\d+)\.", name))}
        stages = sorted({stage for stage, _ in blocks})
        self._stages = tuple(sum(stage == other for other, _ in blocks) for stage in stages)
        for (block, numbers), name in RESNETS.items():
            if block == self._block and len(stages) in (3, 4) and numbers[: len(stages)] == self._stages:
                return name
        raise self._unknown(names)

    def _resnet_names(self) -> Iterator[str]:
        yield "0.weight"
        yield from (f"1.{part}" for part in NORMALIZATION)
        for stage, number in enumerate(self._stages):
            for block in range(number):
                name = f"{FIRST_STAGE + stage}.{block}"
                for layer in range(1, self._block + 1):
                    yield f"{name}.conv{layer}.weight"
                    yield from (f"{name}.bn{layer}.{part}" for part in NORMALIZATION)
                # The first stage of a ResNet of two convolutions has as many channels as its input.
                if not block and (stage or self._block == 3):
                    yield f"{name}.downsample.0.weight"
                    yield from (f"{name}.downsample.1.{part}" for part in NORMALIZATION)

    def _unknown(self, names):
        networks = ["VGG16", "AlexNet", *(name.replace("resnet", "ResNet-") for name in RESNETS.values())]
        return ValueError(
            f"The backbone must be torchvision's {', '.join(networks[:-1])} or {networks[-1]}, without its last "
            f"layers; convert the NetVLAD alone with `from_pytorch` otherwise. Received: {listed(names)}"
        )


def _convolution(x, kernel, bias, tensor_name, name, size, stride, padding):
    """Adds a convolution with PyTorch's padding, which is the same on all sides."""
    if padding and (stride > 1 or 2 * padding != size - 1):
        x = keras.layers.ZeroPadding2D(padding, name=f"{name}_padding")(x)
        padding = 0
    layer = keras.layers.Conv2D(
        kernel.shape[-1], size, stride, "same" if padding else "valid", use_bias=bias is not None, name=name
    )
    x = layer(x)
    assign(layer.kernel, kernel, f"{tensor_name}.weight")
    if bias is not None:
        assign(layer.bias, bias, f"{tensor_name}.bias")
    return x


def _layer_name(name):
    return name.replace(".", "_")
