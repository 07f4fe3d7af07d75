"""Any convolutional network of timm, an optional package, with fresh weights and without pooling and classifier.

timm needs the torchvision that was built for the installed torch; where there is none, the error says so.
"""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from lclsc.encoders.adapt import adapt
from lclsc.encoders.encoder import Encoder

_SIDE_PX = 64  # of the image that shows what a network makes of it


def timm_network(name: str) -> Encoder:
    """``name`` as timm lists it; total stride 16 where the network lets it be chosen, else its own."""
    body = _Features(_create(name))
    adapt(body)
    try:
        with torch.no_grad():
            _, channels, height, width = body(torch.zeros(1, 1, _SIDE_PX, _SIDE_PX)).shape
    except (AssertionError, RuntimeError, ValueError) as error:  # a fixed image size, or tokens where a map should be
        raise ValueError(f"encoder 'timm:{name}' makes no feature map of any size: {error}. Choose another.") from error
    if height != width or height >= _SIDE_PX:
        raise ValueError(f"encoder 'timm:{name}' has its channels last: choose another")
    return Encoder(body, out_channels=channels, stride=_SIDE_PX // height)


class _Features(nn.Module):
    """timm's network up to its last feature map."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_B1SS: Tensor) -> Tensor:
        features_BChw: Tensor = self.network.forward_features(image_B1SS)
        return features_BChw


def _create(name: str) -> Any:
    timm = _timm()
    if name not in timm.list_models():
        near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5])
        raise ValueError(f"encoder 'timm:{name}' is unknown to timm {timm.__version__}: near it are {near or 'none'}")
    wanted = {"pretrained": False, "in_chans": 1, "num_classes": 0}
    with contextlib.suppress(TypeError, AssertionError, NotImplementedError):  # not every network lets it be chosen
        return timm.create_model(name, output_stride=16, **wanted)
    return timm.create_model(name, **wanted)


def _timm() -> Any:
    try:
        import timm
    except (ImportError, RuntimeError, OSError) as error:  # a torchvision for another torch fails in any of these
        raise ValueError(
            f"encoders named timm: need the packages timm and torchvision ({error}). Install "
            f"`lclsc[timm]` and the torchvision made for torch {torch.__version__}, or choose another encoder."
        ) from error
    return timm
