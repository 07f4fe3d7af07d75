"""The train loop: what every Ray Train worker runs. Resumes from the newest checkpoint of its run.

The sequence of batches, views and updates is a function of the configuration alone. With ordered reduction
the weights are the same bytes on any number of workers that divides the logical shards.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

import lclsc
from pipelines import metrics, sampling
from pipelines.errors import StageError
from pipelines.files import read_json, write_json
from pipelines.inference import BATCH, as_tensor, build_model
from pipelines.params import TrainParams


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
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            trainer.restore(Path(folder))
    while trainer.epoch < job.params.epochs:
        trainer.run_epoch()
        with tempfile.TemporaryDirectory() as folder:
            kept = None
            if trainer.world.rank == 0:
                trainer.save(Path(folder))
                kept = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"epoch": trainer.epoch}, checkpoint=kept)


def prepare_torch(params: TrainParams) -> None:
    """Fixed threads, fixed kernels, fixed initial weights."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(params.threads_per_shard)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.manual_seed(params.seed)


class Trainer:
    """State of one training run: model, optimiser, epoch, history."""

    def __init__(self, job: Job, train: Samples, validation: Samples, device: torch.device) -> None:
        self.params, self.card, self.channel = job.params, job.card, job.channel
        self.train, self.validation, self.device = train, validation, device
        self.world = lclsc.World.current()
        self.model = build_model(job.card).to(device)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, job.params.weight_decay), lr=job.params.learning_rate, foreach=False
        )
        self.objective = objective(job.params)
        self.views = lclsc.ViewSettings(**job.params.views.model_dump())
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self.calibration: dict[str, float] = {}

    @property
    def steps_per_epoch(self) -> int:
        return sampling.steps_per_epoch(len(self.train), self.params.batch_images)

    @property
    def total_steps(self) -> int:
        return self.params.epochs * self.steps_per_epoch

    def run_epoch(self) -> None:
        order = sampling.epoch_order(
            self.train.labels_N,
            self.train.patients,
            self.train.videos,
            batch=self.params.batch_images,
            seed=self.params.seed,
            epoch=self.epoch,
        )
        self.model.train()
        losses = [self._step(position, indices) for position, indices in enumerate(order)]
        entry = {name: float(np.mean([loss[name] for loss in losses])) for name in losses[0]}
        self.epoch += 1
        self.history.append({"epoch": self.epoch, "learning_rate": self._learning_rate(-1)} | entry | self._validate())
        self._tell(self.total_steps * self.epoch // self.params.epochs, entry["total"], self.history[-1])

    def _step(self, position: int, indices: NDArray[np.int64]) -> dict[str, float]:
        step = self.epoch * self.steps_per_epoch + position
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(position)
        shards = np.array_split(indices, self.params.logical_shards)
        local = [self._batch(shards[own]) for own in self.world.local_shards(self.params.logical_shards)]
        result = self.compute_gradients(local, step)
        _require_finite(result.losses, step)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.params.clip_norm, foreach=False)
        self.optimizer.step()
        self.after_step(result)
        self._tell(step + 1, result.losses["total"])
        return result.losses

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

    def _learning_rate(self, position: int) -> float:
        """Linear warm-up, then a cosine to zero; a function of the step alone. Position -1: the last step."""
        step = self.epoch * self.steps_per_epoch + position
        warmup = max(1.0, self.params.warmup * self.total_steps)
        if step < warmup:
            return self.params.learning_rate * (step + 1) / (warmup + 1)
        done = (step - warmup) / max(1.0, self.total_steps - warmup)
        return self.params.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Scores of the validation patients in fixed batches shared out by rank; calibrates after the last epoch."""
        self.model.eval()
        similarity_NK = torch.cat(self._similarities())
        labels_N = torch.from_numpy(self.validation.labels_N)
        predicted_N = similarity_NK.argmax(1).numpy()
        size = len(self.card["classes"])
        matrix = np.zeros((size, size), dtype=np.int64)
        np.add.at(matrix, (self.validation.labels_N, predicted_N), 1)
        if self.epoch == self.params.epochs:
            self.calibration = calibrate(similarity_NK, labels_N, self.params.temperature)
        return {"validation_macro_f1": float(metrics.macro_f1(matrix))}

    def _similarities(self) -> list[torch.Tensor]:
        """Cosines (N, K) of every validation frame, on every rank, in order."""
        samples = self.validation
        padding = BATCH * self.world.size
        rounds = []
        for start in range(0, len(samples), padding):
            first = start + BATCH * self.world.rank
            rounds.append(self.world.gather_shards([self._similarity(first)]))
        flat = torch.cat([part for parts in rounds for part in parts])
        return [flat[: len(samples)].cpu()]

    def _similarity(self, first: int) -> torch.Tensor:
        """One fixed batch, filled up with its last frame so that every rank sends the same shape."""
        wanted = np.minimum(np.arange(first, first + BATCH), len(self.validation) - 1)
        images = as_tensor(self.validation.images_NSS[wanted]).to(self.device)
        inside = torch.from_numpy(self.validation.fov_NSS[wanted])[:, None].to(self.device)
        similarity: torch.Tensor = self.model(images, inside).similarity_BK
        return similarity

    def _tell(self, step: int, loss: float, metrics: Mapping[str, float] | None = None) -> None:
        """Progress for the driver; fire and forget, from one rank."""
        if self.world.rank == 0 and self.channel is not None:
            note = f"epoch {min(self.epoch + 1, self.params.epochs)}/{self.params.epochs}  loss {loss:.3f}"
            if self.history:
                note += f"  val F1 {self.history[-1]['validation_macro_f1']:.3f}"
            self.channel.put.remote(step, self.total_steps, note, dict(metrics or {}))

    def save(self, folder: Path) -> None:
        """Weights and optimiser as safetensors, the rest as JSON: no pickle."""
        save_file(_contiguous(self.model.state_dict()), folder / "model.safetensors")
        save_file(_optimizer_tensors(self.model, self.optimizer), folder / "optimizer.safetensors")
        state = {"epoch": self.epoch, "history": self.history, "calibration": self.calibration}
        write_json(folder / "progress.json", state)

    def restore(self, folder: Path) -> None:
        self.model.load_state_dict(load_file(folder / "model.safetensors", device=str(self.device)))
        _restore_optimizer(self.model, self.optimizer, load_file(folder / "optimizer.safetensors"))
        state = read_json(folder / "progress.json")
        self.epoch, self.history, self.calibration = state["epoch"], state["history"], state["calibration"]


def objective(params: TrainParams) -> lclsc.ObjectiveSettings:
    return lclsc.ObjectiveSettings(
        temperature=params.temperature,
        rho=params.top_share,
        delta=params.contrast_margin,
        beta=params.contrast_weight,
        lam=params.saliency_weight,
        consistency=params.consistency,
    )


def calibrate(similarity_NK: torch.Tensor, labels_N: torch.Tensor, default: float) -> dict[str, float]:
    """Softmax temperature of the cosines, fitted on validation patients, and what it did to the ECE."""
    temperature = lclsc.calibrate_temperature(similarity_NK, labels_N)
    error = lclsc.expected_calibration_error
    return {
        "temperature": temperature,
        "ece_before": error(lclsc.probabilities(similarity_NK, default), labels_N),
        "ece_after": error(lclsc.probabilities(similarity_NK, temperature), labels_N),
    }


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels decay; norms and biases (one dimension) do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _require_finite(losses: Mapping[str, float], step: int) -> None:
    if not all(math.isfinite(value) for value in losses.values()):
        raise StageError(
            "diverged",
            f"The loss is not finite at step {step}: {dict(losses)}.",
            "Lower train.learning_rate in params.yaml.",
        )


def _contiguous(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """AdamW's moments under the names of their parameters."""
    return {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _restore_optimizer(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> None:
    for name, parameter in model.named_parameters():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            tensor = tensors[f"{name}.{key}"]
            optimizer.state[parameter][key] = tensor if key == "step" else tensor.to(parameter.device)


def concatenate(parts: Sequence[Samples]) -> Samples:
    return Samples(
        images_NSS=np.concatenate([part.images_NSS for part in parts]),
        fov_NSS=np.concatenate([part.fov_NSS for part in parts]),
        labels_N=np.concatenate([part.labels_N for part in parts]),
        patients=[name for part in parts for name in part.patients],
        videos=[name for part in parts for name in part.videos],
    )
