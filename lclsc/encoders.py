"""Encoders: grey image in, feature map out.

Letters: B images, S side in pixels, C channels, h w map cells. Every normalisation is a GroupNorm, so
that a sample's features depend neither on its batch nor on the number of workers; filters behind
the first layer are centred, see ``centred_conv``.
"""

from collections.abc import Callable

from torch import Tensor, nn

from lclsc.centred_conv import CentredConv2d


class Encoder(nn.Module):
    """A body with its two facts: ``out_channels`` (C) and ``stride`` (pixels a map cell, per side)."""

    def __init__(self, body: nn.Module, *, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = body
        self.out_channels = out_channels
        self.stride = stride

    def forward(self, image_B1SS: Tensor) -> Tensor:
        """Features (B, C, h, w) with h = w = S / stride, rounded up."""
        features_BChw: Tensor = self.body(image_B1SS)
        return features_BChw


def build_encoder(name: str) -> Encoder:
    """A fresh encoder: ``compact`` (for CPU), ``resnet10`` or ``resnet18`` (14x14 cells at 224 px)."""
    if name not in _BUILDERS:
        raise ValueError(f"encoder {name!r} is unknown: choose one of {', '.join(ENCODERS)}")
    return _BUILDERS[name]()


def _compact() -> Encoder:
    """Three stages of 24, 48 and 96 channels, stride 8: 96 px gives 12x12 cells."""
    body = nn.Sequential(
        *_convolution(1, 24, side=5, stride=2),
        *_convolution(24, 48, side=3, stride=2),
        Residual(48),
        *_convolution(48, 96, side=3, stride=2),
        Residual(96),
        Residual(96),
    )
    return Encoder(body, out_channels=96, stride=8)


class Residual(nn.Module):
    """x + ReLU(norm(3x3 convolution of x)): one convolution, so that depth stays cheap on a CPU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_convolution(channels, channels, side=3, stride=1))

    def forward(self, features_BChw: Tensor) -> Tensor:
        branch_BChw: Tensor = self.branch(features_BChw)
        return features_BChw + branch_BChw


def _convolution(inputs: int, outputs: int, *, side: int, stride: int) -> tuple[nn.Module, ...]:
    build = nn.Conv2d if inputs == 1 else CentredConv2d
    convolution = build(inputs, outputs, side, stride=stride, padding=side // 2, bias=False)
    return convolution, nn.GroupNorm(outputs // 12, outputs), nn.ReLU(inplace=True)


def _resnet(name: str) -> Encoder:
    """MONAI's 2-D ResNet without pooling and classifier, last stage at stride 1, total stride 16."""
    from monai.networks.nets import resnet as monai_resnet  # here: MONAI takes seconds to import

    build = getattr(monai_resnet, name)
    network = build(spatial_dims=2, n_input_channels=1, conv1_t_stride=2, feed_forward=False)
    _undo_stride(network.layer4[0])
    parts = ("conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4")
    body = nn.Sequential(*(getattr(network, part) for part in parts))
    _adapt(body)
    return Encoder(body, out_channels=512, stride=16)


def _undo_stride(block: nn.Module) -> None:
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)


def _adapt(module: nn.Module, *, groups: int = 32) -> None:
    """BatchNorm to GroupNorm and convolutions to centred ones, in place.

    MONAI's own ``norm`` argument reaches the stem only: its blocks keep BatchNorm (1.6.1).
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(groups, child.num_features))
        elif isinstance(child, nn.Conv2d) and child.in_channels > 1:
            setattr(module, name, _centred(child))
        else:
            _adapt(child, groups=groups)


def _centred(plain: nn.Conv2d) -> CentredConv2d:
    """The same layer with the same weights, centred when used; padded by half its side."""
    side, stride = plain.kernel_size[0], plain.stride[0]
    bias = plain.bias is not None
    centred = CentredConv2d(plain.in_channels, plain.out_channels, side, stride=stride, padding=side // 2, bias=bias)
    centred.load_state_dict(plain.state_dict())
    return centred


_BUILDERS: dict[str, Callable[[], Encoder]] = {
    "compact": _compact,
    "resnet10": lambda: _resnet("resnet10"),
    "resnet18": lambda: _resnet("resnet18"),
}
ENCODERS = tuple(_BUILDERS)
