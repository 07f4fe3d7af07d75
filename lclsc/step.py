"""One training step over logical shards: exact for any number of ranks.

Letters: B samples of one shard, N embeddings of the whole batch (two per sample), D embedding width,
S side in pixels.

Global order of embeddings: by shard; within a shard all first views, then all second views, in sample order.

Embeddings are gathered *detached*; every rank computes LCL and its gradient dL/dz over all N; each shard
then goes backward with its own slice of it and its part of the saliency losses, divided by global counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from lclsc.consistency import consistency
from lclsc.distributed import Reduction, World
from lclsc.label_contrast import label_contrast
from lclsc.model import LCLSC, Embedded
from lclsc.objective import ObjectiveSettings
from lclsc.saliency import label_map, saliency
from lclsc.shapes import shape_repr
from lclsc.topk_pool import top_k_contrast
from lclsc.views import View, ViewSettings, make_views


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardBatch:
    """One shard's samples: images in [0, 1], field-of-view masks, labels, indices that seed the views."""

    image_B1SS: Tensor
    fov_B1SS: Tensor
    labels_B: Tensor
    sample_index_B: Tensor
    __repr__ = shape_repr


@dataclass(frozen=True, kw_only=True, eq=False)
class StepResult:
    """Losses ``lcl``, ``sc``, ``tk``, ``total`` over the whole batch and how many terms each mean covers.

    ``z_ND`` and ``labels_N`` are everyone's, in global order: after the optimiser's step, give them to
    ``model.global_embeddings.update_``. A loss whose count is 0 has no value and is reported as 0.0.
    """

    losses: dict[str, float]
    counts: dict[str, int]
    z_ND: Tensor
    labels_N: Tensor
    __repr__ = shape_repr


@dataclass(frozen=True, kw_only=True, eq=False)
class _Forward:
    """One shard's forward pass with its graph: embeddings (2B, D), labels (2B,), summed losses and counts."""

    z_ND: Tensor
    labels_N: Tensor
    sc_sum: Tensor
    tk_sum: Tensor
    sc_count: Tensor
    tk_count: Tensor

    def numbers(self) -> Tensor:
        parts = (self.sc_sum, self.sc_count, self.tk_sum, self.tk_count)
        return torch.stack([part.detach().double() for part in parts])


def train_step(
    model: LCLSC,
    shards: Sequence[ShardBatch],
    settings: ObjectiveSettings,
    *,
    step: int,
    total_steps: int,
    seed: int,
    epoch: int,
    world: World,
    logical_shards: int,
    reduction: Reduction = "ordered",
    views: ViewSettings | None = None,
) -> StepResult:
    """Gradients of the whole batch's objective into ``.grad`` of its parameters, the same on all ranks.

    ``.grad`` keeps its memory from step to step: clone what you keep. ``shards`` are this rank's, in global order and
    all of one size. With ``reduction="ordered"`` and a fixed thread count the gradients are the same to the bit for
    every world size that divides ``logical_shards``.
    """
    _check_shards(shards, world, logical_shards)
    looks = views or ViewSettings()
    forwards = [_forward(model, shard, settings, looks, seed=seed, epoch=epoch) for shard in shards]
    z_ND = torch.cat(world.gather_shards([forward.z_ND.detach() for forward in forwards]))
    labels_N = torch.cat(world.gather_shards([forward.labels_N for forward in forwards]))
    numbers = torch.stack(world.gather_shards([forward.numbers() for forward in forwards])).sum(0).tolist()
    sc, tk = (total / max(count, 1) for total, count in (numbers[:2], numbers[2:]))
    lcl, anchors, z_gradient_ND = _contrast(model, z_ND, labels_N, settings)

    weight = settings.saliency_weight(step, total_steps)
    weights = (weight / max(numbers[1], 1), weight * settings.beta / max(numbers[3], 1))
    slices = z_gradient_ND.chunk(logical_shards)
    parameters = _trained(model)
    gradients = (
        _gradient(parameters, forward, slices[shard], weights)
        for shard, forward in zip(world.local_shards(logical_shards), forwards, strict=True)
    )
    world.sum_gradients(gradients, _zeroed(parameters), reduction)
    return StepResult(
        losses={"lcl": lcl, "sc": sc, "tk": tk, "total": lcl + weight * (sc + settings.beta * tk)},
        counts={"lcl": anchors, "sc": int(numbers[1]), "tk": int(numbers[3])},
        z_ND=z_ND,
        labels_N=labels_N,
    )


def _check_shards(shards: Sequence[ShardBatch], world: World, logical_shards: int) -> None:
    expected = len(world.local_shards(logical_shards))
    if len(shards) != expected:
        raise ValueError(f"{len(shards)} shards given: {logical_shards} over {world.size} workers is {expected} each")
    sizes = sorted({len(shard.labels_B) for shard in shards})
    if len(sizes) != 1:
        raise ValueError(f"shards of sizes {sizes}: all must be equal, so drop or fill the last batch")


def _forward(
    model: LCLSC,
    shard: ShardBatch,
    settings: ObjectiveSettings,
    looks: ViewSettings,
    *,
    seed: int,
    epoch: int,
) -> _Forward:
    """Both views of a shard through the model in one batch, and its part of the saliency losses."""
    pair = [
        make_views(
            shard.image_B1SS,
            shard.fov_B1SS,
            shard.sample_index_B,
            seed=seed,
            epoch=epoch,
            view=view,
            settings=looks,
        )
        for view in (0, 1)
    ]
    images, masks = (torch.cat([getattr(look, name) for look in pair]) for name in ("image_B1SS", "fov_B1SS"))
    embedded = model.embed(images, masks)
    labels_N = torch.cat((shard.labels_B, shard.labels_B))
    return _with_saliency(model, embedded, labels_N, pair, settings)


def _with_saliency(
    model: LCLSC, embedded: Embedded, labels_N: Tensor, pair: Sequence[View], settings: ObjectiveSettings
) -> _Forward:
    """Sums and counts of SC (per image) and TK (per view); a class not yet seen has no map to compare."""
    bank = model.global_embeddings
    map_Nhw = label_map(embedded.dense_BDhw, bank.vectors[labels_N], embedded.norm_B)
    saliency_Nhw, evident_N = saliency(map_Nhw, embedded.fov_Bhw)
    include_N = evident_N & bank.seen[labels_N]
    first_B, second_B = include_N.chunk(2)
    sc_sum, sc_count = consistency(
        *saliency_Nhw.chunk(2),
        *embedded.fov_Bhw.chunk(2),
        *(look.affine_B33 for look in pair),
        kind=settings.consistency,
        include_B=first_B & second_B,
    )
    tk_sum, tk_count = top_k_contrast(
        saliency_Nhw, embedded.fov_Bhw, rho=settings.rho, delta=settings.delta, include_B=include_N
    )
    return _Forward(
        z_ND=embedded.z_BD,
        labels_N=labels_N,
        sc_sum=sc_sum,
        tk_sum=tk_sum,
        sc_count=sc_count,
        tk_count=tk_count,
    )


def _contrast(model: LCLSC, z_ND: Tensor, labels_N: Tensor, settings: ObjectiveSettings) -> tuple[float, int, Tensor]:
    """LCL of the whole batch, the anchors it covers, and dL/dz (N, D)."""
    leaf_ND = z_ND.clone().requires_grad_()
    keys_KD, key_labels_K = leaf_ND, labels_N
    if settings.global_keys:
        bank = model.global_embeddings
        keys_KD = torch.cat((leaf_ND, bank.vectors[bank.seen]))
        key_labels_K = torch.cat((labels_N, bank.seen.nonzero().squeeze(1)))
    total, count = label_contrast(
        leaf_ND,
        labels_N,
        keys_KD,
        key_labels_K,
        first_key=0,
        temperature=settings.temperature,
        class_balanced=settings.class_balanced,
    )
    loss = total / count.clamp_min(1)
    (gradient_ND,) = torch.autograd.grad(loss, leaf_ND)
    return float(loss.detach()), int(count), gradient_ND


def _gradient(
    parameters: Sequence[Parameter], forward: _Forward, z_gradient_ND: Tensor, weights: tuple[float, float]
) -> tuple[Tensor, ...]:
    """One shard's gradient of the objective. Weight 0 skips the saliency backward."""
    outputs, seeds = [forward.z_ND], [z_gradient_ND]
    for part, weight in zip((forward.sc_sum, forward.tk_sum), weights, strict=True):
        if weight > 0:
            outputs.append(part)
            seeds.append(torch.full_like(part, weight))
    return torch.autograd.grad(outputs, parameters, seeds, allow_unused=True, materialize_grads=True)


def _trained(model: LCLSC) -> list[Parameter]:
    """Those that learn. One frozen since the step before loses its ``.grad``: the optimiser would go on by it."""
    parameters = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameters.append(parameter)
        else:
            parameter.grad = None
    return parameters


def _zeroed(parameters: Sequence[Parameter]) -> list[Tensor]:
    """Their ``.grad``, at 0, in the memory of the step before: a network of fresh pages costs as much as a sum."""
    zeros = []
    for parameter in parameters:
        kept = parameter.grad
        parameter.grad = torch.zeros_like(parameter) if kept is None else kept.zero_()
        zeros.append(parameter.grad)
    return zeros
