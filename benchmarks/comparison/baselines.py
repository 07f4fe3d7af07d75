"""What LCL-SC is compared with, in the same trainer: same encoder, head, views, batches, optimiser and steps.

Every method scores by class vectors against a pooled map, so that the class map of each is the exact
decomposition of its own score: CAM (Zhou et al. 2016, arXiv 1512.04150) and its cosine form.

Letters: N embeddings (two views an image), C channels, D embedding width, K classes, h w map cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

import lclsc
from harness import NotMeasuredError
from lclsc.model import cells_inside, pool, standardise
from lclsc.optimisation import parameter_groups
from pipelines.params import TrainParams
from pipelines.training import Job, Samples, Trainer


class Linear(lclsc.LCLSC):
    """Logits <pooled, w> + b; the map leaves the bias out, as CAM does."""

    def __init__(self, encoder: lclsc.Encoder, *, classes: int, **settings: Any) -> None:
        super().__init__(encoder, classes=classes, **settings)
        self.classifier = nn.Linear(self.width, classes)

    @property
    def width(self) -> int:
        return self.head.project.out_channels

    def features(self, image_B1SS: Tensor, fov_B1SS: Tensor) -> lclsc.Embedded:
        """What the classifier looks at."""
        return self.embed(image_B1SS, fov_B1SS)

    def forward(self, image_B1SS: Tensor, fov_B1SS: Tensor) -> lclsc.Scores:
        embedded = self.features(image_B1SS, fov_B1SS)
        return lclsc.Scores(
            similarity_BK=self.classifier(embedded.pooled_BD),
            class_map_BKhw=torch.einsum("bdhw,kd->bkhw", embedded.dense_BDhw, self.classifier.weight),
            fov_Bhw=embedded.fov_Bhw,
        )


class Probe(Linear):
    """A linear layer on what the encoder gives; the head, which served the contrast, is left out."""

    @property
    def width(self) -> int:
        return self.encoder.out_channels

    def features(self, image_B1SS: Tensor, fov_B1SS: Tensor) -> lclsc.Embedded:
        features_BChw = self.encoder(standardise(image_B1SS, fov_B1SS))
        return pool(features_BChw, cells_inside(fov_B1SS, features_BChw.shape[-2:]))


class Cosine(lclsc.LCLSC):
    """Cosines with one learned vector a class: the place of the global embeddings, filled by gradient."""

    def __init__(self, encoder: lclsc.Encoder, *, classes: int, embedding_dim: int, **settings: Any) -> None:
        super().__init__(encoder, classes=classes, embedding_dim=embedding_dim, **settings)
        self.proxies = nn.Parameter(torch.randn(classes, embedding_dim))

    def forward(self, image_B1SS: Tensor, fov_B1SS: Tensor) -> lclsc.Scores:
        embedded = self.embed(image_B1SS, fov_B1SS)
        vectors_KD = normalize(self.proxies, dim=1)
        return lclsc.Scores(
            similarity_BK=embedded.z_BD @ vectors_KD.T,
            class_map_BKhw=lclsc.class_map(embedded.dense_BDhw, vectors_KD, embedded.norm_B),
            fov_Bhw=embedded.fov_Bhw,
        )


class Baseline(Trainer):
    """The trainer with another model; its encoder and head start from the very weights that LCL-SC's start from."""

    network: type[lclsc.LCLSC]

    def __init__(self, job: Job, train: Samples, validation: Samples, device: torch.device) -> None:
        super().__init__(job, train, validation, device)
        torch.manual_seed(job.params.seed)
        self.model = self.network(
            lclsc.build_encoder(job.card["encoder"]),
            classes=len(job.card["classes"]),
            embedding_dim=job.card["embedding_dim"],
        ).to(device)
        self.centre()
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, job.params.weight_decay), lr=job.params.learning_rate, foreach=False
        )

    def after_step(self, result: lclsc.StepResult) -> None:
        """No global embedding moves."""


class Supervised(Baseline):
    """One loss of the whole batch's embeddings and labels; subclasses say which."""

    def loss(self, embedded_ND: Tensor, z_ND: Tensor, labels_N: Tensor) -> Tensor:
        raise NotImplementedError

    def compute_gradients(self, shards: Sequence[lclsc.ShardBatch], step: int) -> lclsc.StepResult:
        embedded = [self._both_views(shard) for shard in shards]
        labels_N = torch.cat([shard.labels_B.repeat(2) for shard in shards])
        pooled_ND, z_ND = (torch.cat([getattr(part, name) for part in embedded]) for name in ("pooled_BD", "z_BD"))
        loss = self.loss(pooled_ND, z_ND, labels_N)
        self.optimizer.zero_grad()
        loss.backward()
        losses = {"total": float(loss.detach())}
        return lclsc.StepResult(losses=losses, counts={"total": len(z_ND)}, z_ND=z_ND.detach(), labels_N=labels_N)

    def _both_views(self, shard: lclsc.ShardBatch) -> lclsc.Embedded:
        pair = [
            lclsc.make_views(
                shard.image_B1SS,
                shard.fov_B1SS,
                shard.sample_index_B,
                seed=self.params.seed,
                epoch=self.epoch,
                view=view,
                settings=self.views,
            )
            for view in (0, 1)
        ]
        images, masks = (torch.cat([getattr(look, name) for look in pair]) for name in ("image_B1SS", "fov_B1SS"))
        return self.model.embed(images, masks)


class CrossEntropy(Supervised):
    """Cross-entropy of a linear layer on the pooled embedding."""

    network = Linear

    def loss(self, embedded_ND: Tensor, z_ND: Tensor, labels_N: Tensor) -> Tensor:
        return cross_entropy(self.model.classifier(embedded_ND), labels_N)


class CosineCrossEntropy(Supervised):
    """Cross-entropy of cosines over the temperature that LCL uses (Gidaris & Komodakis 2018)."""

    network = Cosine

    def loss(self, embedded_ND: Tensor, z_ND: Tensor, labels_N: Tensor) -> Tensor:
        return cross_entropy(z_ND @ normalize(self.model.proxies, dim=1).T / self.params.temperature, labels_N)


class Proxies(Supervised):
    """A proxy loss of pytorch-metric-learning; inference by the cosine with each class's proxy."""

    network = Cosine
    loss_name: str

    def __init__(self, job: Job, train: Samples, validation: Samples, device: torch.device) -> None:
        super().__init__(job, train, validation, device)
        try:
            from pytorch_metric_learning import losses
        except ImportError:
            raise NotMeasuredError(
                "pytorch-metric-learning is not installed: pip install --no-deps pytorch-metric-learning==2.9.0"
            ) from None
        self.proxy_loss = getattr(losses, self.loss_name)(len(job.card["classes"]), job.card["embedding_dim"])
        self.proxy_loss.proxies = self.model.proxies

    def loss(self, embedded_ND: Tensor, z_ND: Tensor, labels_N: Tensor) -> Tensor:
        value: Tensor = self.proxy_loss(z_ND, labels_N)
        return value


class ProxyAnchor(Proxies):
    """Kim et al. 2020 (arXiv 2003.13911), with the library's margin and scale."""

    loss_name = "ProxyAnchorLoss"


class ProxyNCA(Proxies):
    """Movshovitz-Attias et al. 2017 (arXiv 1703.07464), with the library's scale."""

    loss_name = "ProxyNCALoss"


class SupConProbe(Baseline):
    """SupCon (arXiv 2004.11362), then logistic regression on the frozen encoder's pooled features."""

    network = Probe

    def finish(self) -> None:
        """Fit the probe to the training frames as they are, features standardised, and fold the scale in."""
        features_NC = self._in_order(self.train, lambda image, inside: self.model.features(image, inside).pooled_BD)
        mean_C, deviation_C = features_NC.mean(0), features_NC.std(0).clamp_min(1e-6)
        scaled = ((features_NC - mean_C) / deviation_C).cpu().double().numpy()
        probe = LogisticRegression(max_iter=2000).fit(scaled, self.train.labels_N)
        weight, bias = torch.from_numpy(probe.coef_), torch.from_numpy(probe.intercept_)
        if len(weight) == 1:  # two classes: one decides for both
            weight, bias = torch.cat((-weight, weight)) / 2, torch.cat((-bias, bias)) / 2
        weight_KC = weight / deviation_C.cpu().double()
        with torch.no_grad():
            self.model.classifier.weight.copy_(weight_KC)
            self.model.classifier.bias.copy_(bias - weight_KC @ mean_C.cpu().double())


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the table; ``changes`` to the training parameters are all that differs beside the trainer."""

    name: str
    trainer: type[Trainer]
    changes: dict[str, Any] = field(default_factory=dict)

    def train_params(self, params: TrainParams) -> TrainParams:
        return params.model_copy(update=self.changes)


OURS = "LCL-SC"
METHODS = (
    Method(name="cross-entropy + CAM", trainer=CrossEntropy),
    Method(name="cosine cross-entropy", trainer=CosineCrossEntropy),
    Method(name="SupCon + linear probe", trainer=SupConProbe, changes={"saliency_weight": 0.0, "global_keys": False}),
    Method(name="ProxyAnchor", trainer=ProxyAnchor),
    Method(name="LCL", trainer=Trainer, changes={"saliency_weight": 0.0}),
    Method(name="LCL + SC without TK-MMP", trainer=Trainer, changes={"contrast_weight": 0.0}),
    Method(name=OURS, trainer=Trainer),
)
