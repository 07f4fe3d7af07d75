"""One worker of a training whose steps are timed: under Ray Train, or as a rank of torchrun.

Ranks wait for ``<folder>/<number>.request``, take that many steps together, and the first one answers in
``<number>.answer`` with seconds a step.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.nn.functional import all_gather
from torch.nn.parallel import DistributedDataParallel

import lclsc
from pipelines import params, training

FRAMES = 6400  # 200 steps an epoch: no race reaches the validation at its end
SIDE_PX = 96
CARD = {"classes": ["a", "b", "c", "d"], "encoder": "compact", "embedding_dim": 128, "momentum": 0.95}


def settings(reduction: str) -> params.TrainParams:
    """As shipped, but for the reduction."""
    shipped = params.load(Path(__file__).resolve().parents[2] / "params.yaml").train
    return shipped.model_copy(update={"reduction": reduction})


def samples() -> training.Samples:
    """Noise behind a round field of view: what the picture shows costs nothing."""
    generator = np.random.default_rng(0)
    centre = (2 * np.arange(SIDE_PX) + 1) / SIDE_PX - 1
    disc = centre[:, None] ** 2 + centre[None, :] ** 2 < 1
    return training.Samples(
        images_NSS=generator.integers(0, 256, (FRAMES, SIDE_PX, SIDE_PX), dtype=np.uint8),
        fov_NSS=np.broadcast_to(disc, (FRAMES, SIDE_PX, SIDE_PX)),
        labels_N=np.arange(FRAMES) % 4,
        patients=[f"p{index // 100}" for index in range(FRAMES)],
        videos=[f"v{index // 50}" for index in range(FRAMES)],
    )


def prepared(chosen: params.TrainParams, channel: Any = None) -> training.Trainer:
    """The pipeline's trainer, every class seen and the warm-up of the losses over."""
    training.prepare_torch(chosen)
    data = samples()
    job = training.Job(params=chosen, card=CARD, train=None, validation=None, channel=channel)
    trainer = training.Trainer(job, data, data, torch.device("cpu"))
    labels = torch.arange(40) % 4
    trainer.model.global_embeddings.update_(torch.randn(40, 128), labels)
    trainer.epoch = chosen.epochs // 2
    return trainer


def pipeline_step(trainer: training.Trainer) -> Callable[[], None]:
    """What a worker of the pipeline does for a step, the question for a checkpoint included."""
    steps = trainer.steps()

    def step() -> None:
        next(steps)
        assert not trainer.checkpoint_is_due()

    trainer.checkpoint_seconds = 1e9
    return step


def plain_step(trainer: training.Trainer) -> Callable[[], None]:
    """The same losses as one graph under DistributedDataParallel, written as one usually does it."""
    rank, size = dist.get_rank(), dist.get_world_size()
    model = DistributedDataParallel(_Objective(trainer, rank, size))
    order = iter(trainer._order())

    def step() -> None:
        indices = np.array_split(next(order), size)[rank]
        loss, z_ND, labels_N = model(trainer._batch(indices), trainer.step)
        trainer.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.params.clip_norm, foreach=False)
        trainer.optimizer.step()
        trainer.model.global_embeddings.update_(z_ND, labels_N)

    return step


class _Objective(torch.nn.Module):
    """LCL + SC + TK of this rank's part; times the number of ranks, because DDP averages gradients."""

    def __init__(self, trainer: training.Trainer, rank: int, size: int) -> None:
        super().__init__()
        self.model, self.objective, self.views = trainer.model, trainer.objective, trainer.views
        self.rank, self.size = rank, size

    def forward(self, batch: lclsc.ShardBatch, step: int) -> tuple[Tensor, Tensor, Tensor]:
        looks = [
            lclsc.make_views(
                *(batch.image_B1SS, batch.fov_B1SS, batch.sample_index_B),
                **{"seed": 0, "epoch": 0, "view": view, "settings": self.views},
            )
            for view in (0, 1)
        ]
        seen = self.model.embed(*(torch.cat([getattr(x, name) for x in looks]) for name in ("image_B1SS", "fov_B1SS")))
        labels_M = batch.labels_B.repeat(2)
        z_ND = torch.cat(all_gather(seen.z_BD)) if self.size > 1 else seen.z_BD
        labels_N = torch.cat(_everyones(labels_M, self.size))
        bank = self.model.global_embeddings
        lcl, anchors = lclsc.label_contrast(
            seen.z_BD,
            labels_M,
            torch.cat((z_ND, bank.vectors[bank.seen])),
            torch.cat((labels_N, bank.seen.nonzero().squeeze(1))),
            first_key=self.rank * len(labels_M),
            temperature=self.objective.temperature,
        )
        map_Mhw = lclsc.label_map(seen.dense_BDhw, bank.vectors[labels_M], seen.norm_B)
        saliency_Mhw, include_M = lclsc.saliency(map_Mhw, seen.fov_Bhw)
        one_B, two_B = include_M.chunk(2)
        affines = [look.affine_B33 for look in looks]
        sc, pairs = lclsc.consistency(
            *saliency_Mhw.chunk(2), *seen.fov_Bhw.chunk(2), *affines, kind="mse", include_B=one_B & two_B
        )
        tk, looked = lclsc.top_k_contrast(
            saliency_Mhw, seen.fov_Bhw, rho=self.objective.rho, delta=self.objective.delta, include_B=include_M
        )
        counts = torch.stack((anchors, pairs, looked)).double()
        if self.size > 1:
            dist.all_reduce(counts)
        anchors, pairs, looked = counts.clamp_min(1).float()
        loss = lcl / anchors + self.objective.lam * (sc / pairs + self.objective.beta * tk / looked)
        return self.size * loss, z_ND.detach(), labels_N


def _everyones(labels_M: Tensor, size: int) -> list[Tensor]:
    if size == 1:
        return [labels_M]
    gathered = [torch.empty_like(labels_M) for _ in range(size)]
    dist.all_gather(gathered, labels_M)
    return gathered


def answer_requests(folder: Path, step: Callable[[], None]) -> None:
    """Until a request for no steps."""
    number = 0
    while True:
        asked = folder / f"{number}.request"
        while not asked.exists():
            time.sleep(0.02)
        count = int(asked.read_text())
        if count == 0:
            return
        dist.barrier()
        start = time.perf_counter()
        for _ in range(count):
            step()
        dist.barrier()
        seconds = (time.perf_counter() - start) / count
        if dist.get_rank() == 0:
            draft = folder / "draft"
            draft.write_text(json.dumps({"seconds": seconds}))
            draft.rename(folder / f"{number}.answer")
        number += 1


def main(folder: Path, kind: str, reduction: str) -> None:
    """A rank of torchrun."""
    dist.init_process_group("gloo")
    trainer = prepared(settings(reduction))
    answer_requests(folder, plain_step(trainer) if kind == "plain" else pipeline_step(trainer))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(os.environ["SCALING_FOLDER"]), os.environ["SCALING_KIND"], os.environ["SCALING_REDUCTION"])
