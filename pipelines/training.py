"""The train loop: what every Ray Train worker runs. Resumes from the newest checkpoint of its run.

The sequence of batches, views and updates is a function of the configuration alone. With ordered reduction
the weights are the same bytes on any number of workers that divides the logical shards, and however often the
training was killed and went on: a checkpoint may be taken after any step, at a time that changes no bytes.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import lclsc
from lclsc.optimisation import learning_rate_share, parameter_groups
from pipelines import checkpoint, metrics, sampling
from pipelines.errors import StageError
from pipelines.inference import BATCH, as_tensor, build_model
from pipelines.params import TrainParams

CENTRED_STEPS = 4  # batches whose mean embedding is turned to zero before the first step
TELL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Kept frames of all videos of a split, in the order of video id and frame index."""

    images_NSS: NDArray[np.uint8]
    fov_NSS: NDArray[np.bool_]
    labels_N: NDArray[np.int64]
    patients: list[str]
    videos: list[str]

    def __len__(self) -> int:
        return len(self.labels_N)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything a worker needs; ``card`` is the model card without its calibration."""

    params: TrainParams
    card: dict[str, Any]
    train: Any  # ObjectRef of Samples: shared memory, one copy a node
    validation: Any
    channel: Any  # actor that the driver reads progress from
    checkpoint_seconds: float = 30.0  # between checkpoints; 0 is after every step


def train_worker(config: dict[str, Any]) -> None:
    """One worker of ``ray.train.torch.TorchTrainer``."""
    import ray
    import ray.train
    import ray.train.torch

    job: Job = config["job"]
    prepare_torch(job.params)
    device = ray.train.torch.get_device()
    train, validation = ray.get([job.train, job.validation])
    trainer = Trainer(job, train, validation, device)
    kept = ray.train.get_checkpoint()
    if kept is not None:
        with kept.as_directory() as folder:
            trainer.restore(Path(folder))
    for _ in trainer.steps():
        if trainer.checkpoint_is_due():
            _report(trainer)


def _report(trainer: Trainer) -> None:
    """Hand Ray a checkpoint; it asks every rank to take part, and one to bring the files."""
    import ray.train

    with tempfile.TemporaryDirectory() as folder:
        kept = None
        if trainer.world.rank == 0:
            trainer.save(Path(folder))
            kept = ray.train.Checkpoint.from_directory(folder)
        ray.train.report({"step": trainer.step}, checkpoint=kept)


def prepare_torch(params: TrainParams) -> None:
    """Fixed threads, fixed kernels, fixed initial weights."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(params.threads_per_shard)
    torch.use_deterministic_algorithms(True)
    # Nothing here reads it, and filling takes 5 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.manual_seed(params.seed)


class Trainer:
    """State of one training run: model, optimiser, where it stands, and its history."""

    def __init__(self, job: Job, train: Samples, validation: Samples, device: torch.device) -> None:
        self.params, self.card, self.channel = job.params, job.card, job.channel
        self.train, self.validation, self.device = train, validation, device
        self.world = lclsc.World.current()
        self.model = build_model(job.card, bfloat16=job.params.precision == "bfloat16").to(device)
        self.epoch = 0
        self.centre()
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, job.params.weight_decay), lr=job.params.learning_rate, foreach=False
        )
        self.objective = objective(job.params)
        self.views = lclsc.ViewSettings(**job.params.views.model_dump())
        self.position = 0  # steps taken of the epoch under way
        self.loss_sums: dict[str, float] = {}  # over those steps
        self.history: list[dict[str, float]] = []
        self.calibration: dict[str, float] = {}
        self.restarts = 0
        self.checkpoint_seconds = job.checkpoint_seconds
        self.last_checkpoint = time.monotonic()
        self._told = -math.inf

    @property
    def steps_per_epoch(self) -> int:
        return sampling.steps_per_epoch(len(self.train), self.params.batch_images)

    @property
    def total_steps(self) -> int:
        return self.params.epochs * self.steps_per_epoch

    @property
    def step(self) -> int:
        """Steps taken so far, and so the number of the next one."""
        return self.epoch * self.steps_per_epoch + self.position

    def steps(self) -> Iterator[None]:
        """Train from where it stands to the end, one step at a time; between two the state may be saved."""
        while self.epoch < self.params.epochs:
            for indices in self._order()[self.position :]:
                self._step(indices)
                if self.position == self.steps_per_epoch:
                    self._end_epoch()
                yield

    def centre(self) -> None:
        """Start the embeddings around zero; every rank looks at the same images, those of the first steps."""
        first = self._batch(self._order()[:CENTRED_STEPS].ravel())
        self.model.centre_(first.image_B1SS, first.fov_B1SS)

    def checkpoint_is_due(self) -> bool:
        """At the end, and when the clock of the first rank says so: all ranks answer alike."""
        if self.epoch == self.params.epochs:
            return True
        due = time.monotonic() - self.last_checkpoint >= self.checkpoint_seconds
        due = bool(self.world.gather_shards([torch.tensor(due, device=self.device)])[0])
        if due:
            self.last_checkpoint = time.monotonic()
        return due

    def _order(self) -> NDArray[np.int64]:
        return sampling.epoch_order(
            self.train.labels_N,
            self.train.patients,
            self.train.videos,
            batch=self.params.batch_images,
            seed=self.params.seed,
            epoch=self.epoch,
        )

    def _step(self, indices: NDArray[np.int64]) -> None:
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(self.step)
        shards = np.array_split(indices, self.params.logical_shards)
        local = [self._batch(shards[own]) for own in self.world.local_shards(self.params.logical_shards)]
        result = self.compute_gradients(local, self.step)
        _require_finite(result.losses, self.step)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.params.clip_norm, foreach=False)
        self.optimizer.step()
        self.after_step(result)
        self.loss_sums = {name: self.loss_sums.get(name, 0.0) + loss for name, loss in result.losses.items()}
        self.position += 1
        self._tell(result.losses["total"])

    def _end_epoch(self) -> None:
        means = {name: total / self.position for name, total in self.loss_sums.items()}
        self.epoch, self.position, self.loss_sums = self.epoch + 1, 0, {}
        if self.epoch == self.params.epochs:
            self.finish()
        rate = self._learning_rate(self.step - 1)
        self.history.append({"epoch": self.epoch, "learning_rate": rate} | means | self._validate())
        self._tell(means["total"], self.history[-1])

    def finish(self) -> None:
        """What follows the last step and comes before the last validation."""
        if self.params.embeddings == "recomputed":
            z_ND = self._in_order(self.train, lambda image, inside: self.model.embed(image, inside).z_BD)
            self.model.global_embeddings.recompute_(z_ND, torch.from_numpy(self.train.labels_N).to(self.device))

    def compute_gradients(self, shards: Sequence[lclsc.ShardBatch], step: int) -> lclsc.StepResult:
        """The batch's objective and its gradients in ``.grad``, the same on all ranks."""
        return lclsc.train_step(
            self.model,
            shards,
            self.objective,
            step=step,
            total_steps=self.total_steps,
            seed=self.params.seed,
            epoch=self.epoch,
            world=self.world,
            logical_shards=self.params.logical_shards,
            reduction=self.params.reduction,
            views=self.views,
        )

    def after_step(self, result: lclsc.StepResult) -> None:
        """What follows the optimiser's step: the global embeddings move."""
        self.model.global_embeddings.update_(result.z_ND, result.labels_N)

    def _batch(self, indices: NDArray[np.int64]) -> lclsc.ShardBatch:
        return lclsc.ShardBatch(
            image_B1SS=as_tensor(self.train.images_NSS[indices]).to(self.device),
            fov_B1SS=torch.from_numpy(self.train.fov_NSS[indices])[:, None].to(self.device),
            labels_B=torch.from_numpy(self.train.labels_N[indices]).to(self.device),
            sample_index_B=torch.from_numpy(indices).to(self.device),
        )

    def _learning_rate(self, step: int) -> float:
        share = learning_rate_share(step, self.total_steps, warmup=self.params.warmup)
        return self.params.learning_rate * share

    def _validate(self) -> dict[str, float]:
        """Scores of the validation patients; calibrates after the last epoch."""
        similarity_NK = self._in_order(self.validation, self.score).cpu()
        labels_N = torch.from_numpy(self.validation.labels_N)
        predicted_N = similarity_NK.argmax(1).numpy()
        size = len(self.card["classes"])
        matrix = np.zeros((size, size), dtype=np.int64)
        np.add.at(matrix, (self.validation.labels_N, predicted_N), 1)
        if self.epoch == self.params.epochs:
            self.calibration = calibrate(similarity_NK, labels_N, self.params)
        return {"validation_macro_f1": float(metrics.macro_f1(matrix))}

    def score(self, image_B1SS: torch.Tensor, inside_B1SS: torch.Tensor) -> torch.Tensor:
        """What the largest of decides the class, (B, K)."""
        similarity_BK: torch.Tensor = self.model(image_B1SS, inside_B1SS).similarity_BK
        return similarity_BK

    @torch.no_grad()
    def _in_order(
        self, samples: Samples, compute: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """``compute`` of every sample, on every rank, in order; fixed batches, shared out by rank."""
        self.model.eval()
        rounds = []
        for start in range(0, len(samples), BATCH * self.world.size):
            local = compute(*self._fixed_batch(samples, start + BATCH * self.world.rank))
            rounds.extend(self.world.gather_shards([local]))
        return torch.cat(rounds)[: len(samples)]

    def _fixed_batch(self, samples: Samples, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Filled up with the last sample, so that every rank sends the same shape."""
        wanted = np.minimum(np.arange(first, first + BATCH), len(samples) - 1)
        images = as_tensor(samples.images_NSS[wanted]).to(self.device)
        return images, torch.from_numpy(samples.fov_NSS[wanted])[:, None].to(self.device)

    def _tell(self, loss: float, metrics: Mapping[str, float] | None = None) -> None:
        """Progress for the driver; fire and forget, from one rank; steps no more often than anybody looks."""
        is_due = metrics or time.monotonic() >= self._told + TELL_SECONDS
        if self.world.rank == 0 and self.channel is not None and is_due:
            self._told = time.monotonic()
            note = f"epoch {min(self.epoch + 1, self.params.epochs)}/{self.params.epochs}  loss {loss:.3f}"
            if self.history:
                note += f"  val F1 {self.history[-1]['validation_macro_f1']:.3f}"
            self.channel.put.remote(self.step, self.total_steps, note, dict(metrics or {}))

    def save(self, folder: Path) -> None:
        progress = {
            "epoch": self.epoch,
            "position": self.position,
            "loss_sums": self.loss_sums,
            "history": self.history,
            "calibration": self.calibration,
            "restarts": self.restarts,
        }
        checkpoint.save(folder, self.model, self.optimizer, progress)

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint; that it was done is counted."""
        state = checkpoint.restore(folder, self.model, self.optimizer)
        self.epoch, self.position, self.loss_sums = state["epoch"], state["position"], state["loss_sums"]
        self.history, self.calibration = state["history"], state["calibration"]
        self.restarts = state["restarts"] + 1


def objective(params: TrainParams) -> lclsc.ObjectiveSettings:
    return lclsc.ObjectiveSettings(
        temperature=params.temperature,
        rho=params.top_share,
        delta=params.contrast_margin,
        beta=params.contrast_weight,
        lam=params.saliency_weight,
        ramp_start=params.saliency_start,
        ramp_end=params.saliency_full,
        consistency=params.consistency,
        class_balanced=params.class_balanced,
        global_keys=params.global_keys,
    )


def calibrate(similarity_NK: torch.Tensor, labels_N: torch.Tensor, params: TrainParams) -> dict[str, float]:
    """Softmax temperature of the cosines, fitted on validation patients if asked for, and what it did to the ECE."""
    before = after = params.temperature
    if params.calibration == "temperature":
        after = lclsc.calibrate_temperature(similarity_NK, labels_N)
    error = lclsc.expected_calibration_error
    return {
        "temperature": after,
        "ece_before": error(lclsc.probabilities(similarity_NK, before), labels_N),
        "ece_after": error(lclsc.probabilities(similarity_NK, after), labels_N),
    }


def _require_finite(losses: Mapping[str, float], step: int) -> None:
    if not all(math.isfinite(value) for value in losses.values()):
        raise StageError(
            "diverged",
            f"The loss is not finite at step {step}: {dict(losses)}.",
            "Lower train.learning_rate in params.yaml.",
        )


def concatenate(parts: Sequence[Samples]) -> Samples:
    return Samples(
        images_NSS=np.concatenate([part.images_NSS for part in parts]),
        fov_NSS=np.concatenate([part.fov_NSS for part in parts]),
        labels_N=np.concatenate([part.labels_N for part in parts]),
        patients=[name for part in parts for name in part.patients],
        videos=[name for part in parts for name in part.videos],
    )
