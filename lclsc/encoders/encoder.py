"""What every encoder is: grey image in, feature map out.

Letters: B images, S side in pixels, C channels, h w map cells.
"""

from torch import Tensor, nn


class Encoder(nn.Module):
    """A body with its two facts: ``out_channels`` (C) and ``stride`` (pixels a map cell, per side)."""

    def __init__(self, body: nn.Module, *, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = body
        self.out_channels = out_channels
        self.stride = stride

    def forward(self, image_B1SS: Tensor) -> Tensor:
        """Features (B, C, h, w) with h = w = S / stride; where that is no whole number, networks round either way."""
        features_BChw: Tensor = self.body(image_B1SS)
        return features_BChw
