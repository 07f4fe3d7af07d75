"""Other people's networks made fit for this method, in place: norms that know no batch, centred filters."""

import math

from torch import nn

from lclsc.centred_conv import CentredConv2d


def adapt(module: nn.Module, *, groups: int = 32) -> None:
    """BatchNorm to GroupNorm and plain convolutions behind the first layer to centred ones.

    Filters that look at one channel each stay as they are: there is nothing that their inputs share.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, _group_norm(child, groups))
        elif type(child) is nn.Conv2d and child.in_channels > 1 and child.groups == 1:
            setattr(module, name, _centred(child))
        else:
            adapt(child, groups=groups)


def undo_stride(module: nn.Module) -> None:
    """Stride 1 in every convolution of a stage."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.stride = (1, 1)


def _group_norm(norm: nn.BatchNorm2d, groups: int) -> nn.Module:
    """At most ``groups``, as many as divide the channels; what a fused norm does afterwards is kept."""
    replacement = nn.GroupNorm(math.gcd(groups, norm.num_features), norm.num_features)
    after = [part for name in ("drop", "act") if isinstance(part := getattr(norm, name, None), nn.Module)]
    return nn.Sequential(replacement, *after) if after else replacement


def _centred(plain: nn.Conv2d) -> CentredConv2d:
    """The same layer with the same weights, centred when used."""
    centred = CentredConv2d(
        plain.in_channels,
        plain.out_channels,
        plain.kernel_size,  # type: ignore[arg-type]
        stride=plain.stride,  # type: ignore[arg-type]
        padding=plain.padding,  # type: ignore[arg-type]
        dilation=plain.dilation,  # type: ignore[arg-type]
        bias=plain.bias is not None,
    )
    centred.load_state_dict(plain.state_dict())
    return centred
