"""timm's networks: with a stand-in of its interface here, with timm itself where the peers are installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lclsc

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".peers" / "torchvision" / "bin" / "python"

STAND_IN = '''
"""What this project asks of timm: one network with a fused norm, one of tokens, one with channels last."""
import torch
from torch import nn

__version__ = "0"

class BatchNormAct2d(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

class Network(nn.Module):
    def __init__(self, name, stride):
        super().__init__()
        self.name = name
        self.body = nn.Sequential(
            nn.Conv2d(1, 24, 3, stride=stride // 2, padding=1), BatchNormAct2d(24),
            nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Conv2d(24, 48, 3, stride=2, padding=1, dilation=1),
            BatchNormAct2d(48))
    def forward_features(self, image):
        features = self.body(image)
        if self.name == "tokens":
            return features.flatten(2)
        return features.permute(0, 2, 3, 1) if self.name == "last" else features

def list_models(pattern="*"):
    return ["fixed", "free", "last", "tokens"]

def create_model(name, *, pretrained, in_chans, num_classes, output_stride=32):
    assert (pretrained, in_chans, num_classes) == (False, 1, 0)
    if name == "fixed" and output_stride != 32:
        raise TypeError("output_stride")
    return Network(name, output_stride)
'''

LOOK = """
import json, torch
from torch import nn
from lclsc import LCLSC, build_encoder
from lclsc.centred_conv import CentredConv2d
encoder = build_encoder({name!r})
embedded = LCLSC(encoder, classes=2, embedding_dim=16).embed(torch.rand(2, 1, 96, 96), torch.ones(2, 1, 96, 96))
kinds = [type(part) for part in encoder.modules()]
print(json.dumps({{
    "facts": [encoder.out_channels, encoder.stride], "map": list(embedded.dense_BDhw.shape),
    "batch_norms": sum(issubclass(kind, nn.modules.batchnorm._BatchNorm) for kind in kinds),
    "group_norms": kinds.count(nn.GroupNorm), "activations": kinds.count(nn.ReLU),
    "centred": kinds.count(CentredConv2d), "plain": kinds.count(nn.Conv2d)}}))
"""


def look(name: str, folder: Path, interpreter: Path | str = sys.executable) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join((str(folder), str(Path(lclsc.__file__).parents[1])))
    command = [str(interpreter), "-c", LOOK.format(name=name)]
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, text=True, capture_output=True, check=False)


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    (tmp_path / "timm.py").write_text(STAND_IN)
    return tmp_path


def test_norms_filters_and_stride_are_fitted_and_fused_activations_stay(stand_in: Path):
    seen = json.loads(look("timm:free", stand_in).stdout)
    assert (seen["facts"], seen["map"]) == ([48, 16], [2, 16, 6, 6])
    assert (seen["batch_norms"], seen["group_norms"], seen["activations"]) == (0, 2, 2)
    assert (seen["centred"], seen["plain"]) == (1, 2)  # the first and the depthwise one stay plain


def test_a_network_with_a_stride_of_its_own_keeps_it(stand_in: Path):
    seen = json.loads(look("timm:fixed", stand_in).stdout)
    assert (seen["facts"], seen["map"]) == ([48, 32], [2, 16, 3, 3])


@pytest.mark.parametrize(
    ("name", "why"), [("tokens", "makes no feature map"), ("last", "channels last"), ("vgg", "unknown to timm 0")]
)
def test_what_is_no_feature_map_is_refused(name: str, why: str, stand_in: Path):
    assert why in look(f"timm:{name}", stand_in).stderr


def test_without_timm_the_error_names_the_remedy(tmp_path: Path):
    (tmp_path / "timm.py").write_text("raise ImportError('No module named torchvision')")
    error = look("timm:resnet18", tmp_path).stderr
    assert "ValueError: encoders named timm: need the packages timm and torchvision" in error
    assert "lclsc[timm]" in error


@pytest.mark.skipif(not PEERS.exists(), reason="timm needs torchvision, which lives with the peers: make bench-deps")
@pytest.mark.parametrize(
    ("name", "facts"), [("resnet26d", [2048, 16]), ("efficientnet_lite0", [1280, 16]), ("densenet121", [1024, 32])]
)
def test_timm_itself_is_understood(name: str, facts: list[int], tmp_path: Path):
    done = look(f"timm:{name}", tmp_path, PEERS)
    if "No module named 'timm'" in done.stderr:
        pytest.skip("the peers were installed without timm: make bench-deps")
    seen = json.loads(done.stdout)
    assert (seen["facts"], seen["batch_norms"]) == (facts, 0)
