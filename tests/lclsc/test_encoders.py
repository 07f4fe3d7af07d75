"""Encoders: their two facts, and norms that know no batch."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from lclsc import ENCODERS, build_encoder
from lclsc.encoders.compact import Residual


@pytest.mark.parametrize("name", ENCODERS)
def test_the_map_has_the_promised_channels_and_stride(name):
    encoder = build_encoder(name)
    features = encoder(torch.rand(1, 1, 96, 96))
    assert features.shape == (1, encoder.out_channels, 96 // encoder.stride, 96 // encoder.stride)


@pytest.mark.parametrize(("name", "channels"), [("resnet18", 512), ("resnet50", 2048), ("densenet121", 1024)])
def test_monai_networks_see_224_pixels_as_14_by_14_cells(name, channels):
    with torch.no_grad():
        assert build_encoder(name)(torch.rand(1, 1, 224, 224)).shape == (1, channels, 14, 14)


@pytest.mark.parametrize("name", ENCODERS)
def test_no_norm_looks_at_the_batch(name):
    norms = {type(module) for module in build_encoder(name).modules() if "Norm" in type(module).__name__}
    assert norms == {nn.GroupNorm}


@pytest.mark.parametrize("name", ["compact", "resnet10", "densenet121"])
@torch.no_grad()
def test_filters_behind_the_first_layer_ignore_what_all_inputs_share(name):
    first, *others = (module for module in build_encoder(name).modules() if isinstance(module, nn.Conv2d))
    assert first.in_channels == 1
    for convolution in others:
        features = torch.rand(1, convolution.in_channels, 12, 12)
        pair = (convolution(features)[..., 2:-2, 2:-2], convolution(features + 1.0)[..., 2:-2, 2:-2])
        torch.testing.assert_close(*pair, rtol=0, atol=1e-4)  # away from the zero padding


def test_an_unknown_name_is_refused_with_the_choices():
    with pytest.raises(
        ValueError,
        match="'vgg' is unknown: choose one of compact, resnet10, resnet18, resnet50, densenet121, or timm:NAME",
    ):
        build_encoder("vgg")


def test_monai_is_imported_only_when_one_of_its_networks_is_built():
    code = "import sys; from lclsc import build_encoder; build_encoder('compact'); assert 'monai' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_residual_block_adds_its_branch():
    block = Residual(12)
    features = torch.rand(2, 12, 5, 5)
    branch = block.branch(features)
    assert branch.max() > 0.1
    assert torch.equal(block(features), features + branch)
