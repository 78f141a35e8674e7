"""Published place recognition and action spotting networks in torch, at small widths.

The modules have the names and the order of torchvision and of the projects, so that `state_dict` has the published
names. torchvision itself is not needed.
"""

import torch
from torch import nn
from torch.nn import functional

VGG16 = (4, 4, "M", 6, 6, "M", 8, 8, 8, "M", 8, 8, 8, "M", 10, 10, 10, "M")
STAGES = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def vgg16():
    """`vgg16().features` without the last ReLU and pooling."""
    layers, inputs = [], 3
    for width in VGG16:
        if width == "M":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
    return nn.Sequential(*layers[:-2]), inputs


def alexnet():
    """`alexnet().features` without the last ReLU and pooling."""
    layers = [nn.Conv2d(3, 4, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(4, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 7, 3, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(7, 5, 3, padding=1)]
    return nn.Sequential(*layers), 5


class Block(nn.Module):
    """A residual block of two convolutions, or of three with four times as many outputs."""

    def __init__(self, inputs, width, stride, is_bottleneck):
        super().__init__()
        outputs = width * (4 if is_bottleneck else 1)
        sizes = [(inputs, width, 1), (width, width, 3), (width, outputs, 1)]
        if not is_bottleneck:
            sizes = [(inputs, width, 3), (width, width, 3)]
        for number, (i, o, size) in enumerate(sizes, 1):
            step = stride if number == (2 if is_bottleneck else 1) else 1
            setattr(self, f"conv{number}", nn.Conv2d(i, o, size, stride=step, padding=size // 2, bias=False))
            setattr(self, f"bn{number}", nn.BatchNorm2d(o))
        self.number = len(sizes)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        for number in range(1, self.number + 1):
            x = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x))
            x = functional.relu(x) if number < self.number else x
        return functional.relu(x + shortcut)


def resnet(depth, num_stages):
    """The first layers of a ResNet, up to conv4 or conv5 of gmberton's benchmark."""
    is_bottleneck, inputs = depth >= 50, 4
    layers = [nn.Conv2d(3, 4, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, padding=1))
    for stage, number in enumerate(STAGES[depth][:num_stages]):
        width, blocks = 4 + stage * 2, []
        for block in range(number):
            stride = 2 if stage and not block else 1
            blocks.append(Block(inputs, width, stride, is_bottleneck))
            inputs = width * (4 if is_bottleneck else 1)
        layers.append(nn.Sequential(*blocks))
    return nn.Sequential(*layers), inputs


class PlaceNetVLAD(nn.Module):
    """The NetVLAD of Nanne, Patch-NetVLAD and gmberton."""

    def __init__(self, num_clusters, size, bias=False):
        super().__init__()
        self.conv = nn.Conv2d(size, num_clusters, 1, bias=bias)
        self.centroids = nn.Parameter(torch.rand(num_clusters, size))

    def forward(self, x):
        x = functional.normalize(x, dim=1)
        assignment = functional.softmax(self.conv(x).flatten(2), dim=1)  # (B, K, N)
        residuals = x.flatten(2)[:, None] - self.centroids[None, :, :, None]  # (B, K, D, N)
        vlad = (assignment[:, :, None] * residuals).sum(-1)
        return functional.normalize(functional.normalize(vlad, dim=2).flatten(1), dim=1)


class L2Norm(nn.Module):
    def forward(self, x):
        return functional.normalize(x.flatten(1), dim=1)


class Column(nn.Module):
    """Turns a descriptor into a map of one position, as Patch-NetVLAD does before `WPCA`."""

    def forward(self, x):
        return x[:, :, None, None]


class Places(nn.Module):
    """A network of one of the projects, with their names."""

    def __init__(self, project, backbone, num_clusters=3, outputs=None, bias=False):
        super().__init__()
        features, size = backbone
        pooling = PlaceNetVLAD(num_clusters, size, bias)
        if project == "gmberton":
            linear = [] if outputs is None else [nn.Linear(num_clusters * size, outputs), L2Norm()]
            self.backbone = features
            self.aggregation = nn.Sequential(pooling, *linear) if linear else pooling
            self.steps = ["backbone", "aggregation"]
        else:
            self.encoder, self.pool = features, pooling
            self.steps = ["encoder", "pool"]
            if outputs is not None:
                self.column = Column()
                self.WPCA = nn.Sequential(nn.Conv2d(num_clusters * size, outputs, 1), nn.Identity(), L2Norm())
                self.steps += ["column", "WPCA"]

    def forward(self, images):
        """Describes `uint8` pictures `(B, H, W, 3)`."""
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = ((images.double() / 255 - mean) / deviation).permute(0, 3, 1, 2)
        for step in self.steps:
            x = getattr(self, step)(x)
        return x


def randomized(module, seed):
    """Returns a module in float64 and inference mode, whose weights and statistics are random."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and (tensor.ndim == 1 or name.endswith("centroids")):
            values = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(torch.exp(0.2 * values) if "var" in name or "bn" in name else 0.3 * values)
    return module.double().eval()


class SpottingNetVLAD(nn.Module):
    """NetVLAD, or NetRVLAD, of SoccerNet."""

    def __init__(self, num_clusters, size, has_centroids):
        super().__init__()
        self.clusters = nn.Parameter(torch.randn(size, num_clusters))
        if has_centroids:
            self.clusters2 = nn.Parameter(torch.randn(1, size, num_clusters) / size**0.5)

    def forward(self, x):
        x = functional.normalize(x, dim=2)
        assignment = functional.softmax(x @ self.clusters, dim=2)
        vlad = (assignment.transpose(1, 2) @ x).transpose(1, 2)
        if hasattr(self, "clusters2"):
            vlad = vlad - assignment.sum(1, keepdim=True) * self.clusters2
        return functional.normalize(functional.normalize(vlad, dim=1).flatten(1), dim=1)


class Spotting(nn.Module):
    """SoccerNet's model of windows of frames, NetVLAD or NetVLAD++."""

    def __init__(self, is_temporal, has_centroids=True, inputs=6, size=6, num_clusters=4, num_classes=3):
        super().__init__()
        self.feature_extractor = nn.Linear(inputs, size) if inputs != size else None
        clusters = num_clusters // 2 if is_temporal else num_clusters
        names = ["pool_layer_before", "pool_layer_after"] if is_temporal else ["pool_layer"]
        for name in names:
            setattr(self, name, SpottingNetVLAD(clusters, size, has_centroids))
        self.names = names
        self.fc = nn.Linear(size * num_clusters, num_classes + 1)

    def forward(self, x):
        x = x if self.feature_extractor is None else self.feature_extractor(x)
        middle = x.shape[1] // 2
        parts = [x] if len(self.names) == 1 else [x[:, :middle], x[:, middle:]]
        pooled = [getattr(self, name)(part) for name, part in zip(self.names, parts, strict=True)]
        return torch.sigmoid(self.fc(torch.cat(pooled, dim=1)))
