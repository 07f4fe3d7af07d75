"""grad-cam on the same network, in its own environment: plain inference, and inference with a map of each image."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from pytorch_grad_cam import GradCAM
from torch import Tensor, nn

from lclsc.encoders import build_encoder
from lclsc.model import DenseHead, standardise
from serve import Numbers, seconds_of, serve


class Plain(nn.Module):
    """Our encoder and dense head under an ordinary classifier: mean over the map, one linear layer."""

    def __init__(self, encoder: str, classes: int) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder)
        self.head = DenseHead(self.encoder.out_channels, 128)
        self.classify = nn.Linear(128, classes)

    def forward(self, image_B1SS: Tensor) -> Tensor:
        """Logits (B, K)."""
        inside_B1SS = torch.ones_like(image_B1SS)
        dense_BDhw = self.head(self.encoder(standardise(image_B1SS, inside_B1SS)))
        logits_BK: Tensor = self.classify(dense_BDhw.mean((2, 3)))
        return logits_BK


def measure(*, encoder: str, side_px: int, images: int, threads: int) -> Numbers:
    """``seconds`` with maps as the library documents it, ``plain`` without maps, ``frozen``: see below."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = Plain(encoder, classes=4).eval()
    batch = torch.rand(images, 1, side_px, side_px)
    with torch.inference_mode():
        model(batch)
        plain = seconds_of(lambda: model(batch))
    usual = explaining(model, batch)
    model.requires_grad_(False)
    model.head.project.requires_grad_(True)  # spares the library all of its backward below the map
    return {"seconds": usual, "frozen": explaining(model, batch), "plain": plain}


def explaining(model: Plain, batch_B1SS: Tensor) -> float:
    """Seconds for the map of each image's best class."""
    with GradCAM(model=model, target_layers=[model.head.project]) as cam:
        cam(input_tensor=batch_B1SS, targets=None)
        return seconds_of(lambda: cam(input_tensor=batch_B1SS, targets=None))


if __name__ == "__main__":
    serve(measure)
