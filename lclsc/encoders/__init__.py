"""Encoders by name. Every normalisation is a GroupNorm, so that a sample's features depend neither on its batch
nor on the number of workers; filters behind the first layer are centred, see ``centred_conv``.
"""

from collections.abc import Callable

from lclsc.encoders.compact import compact
from lclsc.encoders.encoder import Encoder
from lclsc.encoders.monai_networks import densenet121, resnet
from lclsc.encoders.timm_networks import timm_network

__all__ = ["ENCODERS", "TIMM", "Encoder", "build_encoder"]

TIMM = "timm:"
_BUILDERS: dict[str, Callable[[], Encoder]] = {
    "compact": compact,
    "resnet10": lambda: resnet("resnet10"),
    "resnet18": lambda: resnet("resnet18"),
    "resnet50": lambda: resnet("resnet50"),
    "densenet121": densenet121,
}
ENCODERS = tuple(_BUILDERS)


def build_encoder(name: str) -> Encoder:
    """A fresh encoder: ``compact`` (for CPUs), one of MONAI's (14x14 cells at 224 px), or ``timm:NAME``."""
    if name.startswith(TIMM):
        return timm_network(name.removeprefix(TIMM))
    if name not in _BUILDERS:
        raise ValueError(f"encoder {name!r} is unknown: choose one of {', '.join(ENCODERS)}, or {TIMM}NAME")
    return _BUILDERS[name]()
