"""The model: encoder, dense head, pooled unit embedding, global embeddings. No classifier is learned.

Letters: B images, S side in pixels, C channels, D embedding width, K classes, h w map cells.
The dense head stands *before* pooling, which makes the class map an exact decomposition of the score.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, normalize, one_hot, relu

from lclsc import checks
from lclsc.centred_conv import CentredConv2d
from lclsc.encoders import Encoder
from lclsc.global_embeddings import GlobalEmbeddings
from lclsc.inference import similarity
from lclsc.saliency import class_map
from lclsc.shapes import shape_repr

MIN_NORM = 1e-6
MIN_DEVIATION = 0.02  # of a displayed image in [0, 1]: an empty frame's noise is not blown up to contrast


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """Dense and pooled embeddings of B images. ``norm_B`` is max(|pooled|, 1e-6)."""

    dense_BDhw: Tensor
    fov_Bhw: Tensor
    pooled_BD: Tensor
    norm_B: Tensor
    z_BD: Tensor
    __repr__ = shape_repr


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Cosine of every class (-inf where none was seen) and the map whose mean in the field of view it is."""

    similarity_BK: Tensor
    class_map_BKhw: Tensor
    fov_Bhw: Tensor
    __repr__ = shape_repr

    def class_map_of(self, class_B: Tensor) -> Tensor:
        """The map (B, h, w) of one class an image; ``class_B`` holds numbers of 0..K-1."""
        return self.class_map_BKhw.take_along_dim(class_B[:, None, None, None], 1).squeeze(1)


class DenseHead(nn.Module):
    """1x1 convolution, GroupNorm, ReLU, 1x1 convolution without bias; (B,C,h,w) to (B,D,h,w).

    Both convolutions are centred, see ``centred_conv``.
    """

    def __init__(self, channels: int, embedding_dim: int) -> None:
        super().__init__()
        self.mix = CentredConv2d(channels, channels, 1)
        self.norm = nn.GroupNorm(_groups(channels), channels)
        self.project = CentredConv2d(channels, embedding_dim, 1, bias=False)

    def forward(self, features_BChw: Tensor) -> Tensor:
        dense_BDhw: Tensor = self.project(self.rectified(features_BChw))
        return dense_BDhw

    def rectified(self, features_BChw: Tensor) -> Tensor:
        """What is projected: (B,C,h,w), at least 0."""
        return relu(self.norm(self.mix(features_BChw)))


class LCLSC(nn.Module):
    """Interpretable classifier by similarity to one global embedding per class.

    ``momentum`` is per training step. ``encoder_bfloat16`` runs the encoder under autocast while training; the
    head, the losses and the global embeddings stay in float32, and so does all of inference.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        classes: int,
        embedding_dim: int = 128,
        momentum: float = 0.95,
        encoder_bfloat16: bool = False,
    ) -> None:
        super().__init__()
        if classes < 1 or embedding_dim < 1:
            raise ValueError(f"classes is {classes} and embedding_dim {embedding_dim}: both must be at least 1")
        self.encoder = encoder
        self.head = DenseHead(encoder.out_channels, embedding_dim)
        self.global_embeddings = GlobalEmbeddings(classes=classes, embedding_dim=embedding_dim, momentum=momentum)
        self.encoder_bfloat16 = encoder_bfloat16

    def embed(self, image_B1SS: Tensor, fov_B1SS: Tensor) -> Embedded:
        """Images in [0, 1] with their field-of-view masks (bool, or 0 and 1) to embeddings.

        What lies outside a field of view does not matter, whatever it is. ValueError for other shapes or types.
        """
        checks.pictures(image_B1SS, fov_B1SS)
        device = image_B1SS.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.encoder_bfloat16 and self.training):
            features_BChw = self.encoder(standardise(image_B1SS, fov_B1SS))
        with torch.autocast(device, enabled=False):
            dense_BDhw = self.head(features_BChw.to(image_B1SS.dtype))
            return pool(dense_BDhw, cells_inside(fov_B1SS, dense_BDhw.shape[-2:]))

    @torch.no_grad()
    def centre_(self, image_B1SS: Tensor, fov_B1SS: Tensor) -> None:
        """Turn the projection away from what these images share, before the first step.

        The rectified features of all images have a large mean, so untrained embeddings point one way and label
        contrast starts beside its bad fixed point. Afterwards the mean embedding of these images is about zero.
        A start from data, as in arXiv 1511.06856 and 1602.07868; what the network can learn stays the same.
        """
        features_BChw = self.encoder(standardise(image_B1SS, fov_B1SS))
        inside_Bhw = cells_inside(fov_B1SS, features_BChw.shape[-2:])
        shared_C = pool(self.head.rectified(features_BChw), inside_Bhw).pooled_BD.mean(0)
        direction_C = normalize(shared_C - shared_C.mean(), dim=0)  # the filters are blind to the mean over channels
        weight_DC = self.head.project.weight[:, :, 0, 0]
        weight_DC -= torch.outer(weight_DC @ direction_C, direction_C)

    def forward(self, image_B1SS: Tensor, fov_B1SS: Tensor) -> Scores:
        """Scores and class maps for inference (global embedding inference, GEI)."""
        embedded = self.embed(image_B1SS, fov_B1SS)
        bank = self.global_embeddings
        return Scores(
            similarity_BK=similarity(embedded.z_BD, bank.vectors, bank.seen),
            class_map_BKhw=class_map(embedded.dense_BDhw, bank.vectors, embedded.norm_B),
            fov_Bhw=embedded.fov_Bhw,
        )


def standardise(image_B1SS: Tensor, fov_B1SS: Tensor) -> Tensor:
    """Each image to mean 0 and deviation 1 inside its field of view, 0 outside."""
    inside = fov_B1SS.to(image_B1SS.dtype)
    pixels = inside.sum((1, 2, 3), keepdim=True).clamp_min(1.0)
    seen_B1SS = image_B1SS.where(fov_B1SS > 0, 0.0)  # a product would keep what is not finite
    centred = (seen_B1SS - seen_B1SS.sum((1, 2, 3), keepdim=True) / pixels) * inside
    variance = centred.square().sum((1, 2, 3), keepdim=True) / pixels
    return centred / variance.sqrt().clamp_min(MIN_DEVIATION)


def cells_inside(fov_B1SS: Tensor, size_hw: torch.Size) -> Tensor:
    """Map cells (B,h,w), bool, at least half inside the field of view; never none: else the fullest cell."""
    area_Bn = adaptive_avg_pool2d(fov_B1SS.float(), (size_hw[0], size_hw[1])).flatten(1)
    inside_Bn = area_Bn >= 0.5
    fullest_Bn = one_hot(area_Bn.argmax(1), area_Bn.shape[1]).bool()
    none_B1 = ~inside_Bn.any(1, keepdim=True)
    return (inside_Bn | (fullest_Bn & none_B1)).reshape(-1, *size_hw)


def pool(dense_BDhw: Tensor, fov_Bhw: Tensor) -> Embedded:
    """Mean of the dense embedding over the field of view, and its direction."""
    inside_B1hw = fov_Bhw.unsqueeze(1).to(dense_BDhw.dtype)
    pooled_BD = (dense_BDhw * inside_B1hw).sum((2, 3)) / inside_B1hw.sum((2, 3))
    norm_B = torch.linalg.vector_norm(pooled_BD, dim=1).clamp_min(MIN_NORM)
    z_BD = pooled_BD / norm_B.unsqueeze(1)
    return Embedded(dense_BDhw=dense_BDhw, fov_Bhw=fov_Bhw, pooled_BD=pooled_BD, norm_B=norm_B, z_BD=z_BD)


def _groups(channels: int) -> int:
    """The most groups, up to 8, that divide the channels."""
    return next(groups for groups in range(8, 0, -1) if channels % groups == 0)
