"""A small encoder for CPUs: three stages of 24, 48 and 96 channels."""

from torch import Tensor, nn

from lclsc.centred_conv import CentredConv2d
from lclsc.encoders.encoder import Encoder


def compact() -> Encoder:
    """Stride 8: 96 px gives 12x12 cells."""
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
