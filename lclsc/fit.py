"""A plain training loop on one device, for any ``Dataset`` of grey images.

The pipeline's own loop (order across patients, checkpoints, many workers) is ``pipelines/training.py``; both take
their steps from ``train_step``.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lclsc import checks
from lclsc.distributed import World
from lclsc.model import LCLSC
from lclsc.objective import ObjectiveSettings
from lclsc.optimisation import learning_rate_share, parameter_groups
from lclsc.step import ShardBatch, train_step
from lclsc.views import ViewSettings

WARMUP = 0.1  # of all steps
WEIGHT_DECAY = 1e-4


def fit(
    model: LCLSC,
    dataset: Dataset[tuple[Tensor, ...]],
    *,
    epochs: int = 10,
    batch_images: int = 32,
    learning_rate: float = 2e-3,
    seed: int = 0,
    settings: ObjectiveSettings | None = None,
    views: ViewSettings | None = None,
) -> Iterator[dict[str, float]]:
    """Train epoch by epoch where the model is, as you iterate; yields each epoch's mean losses.

    ``dataset[i]`` is an image (1, S, S) in [0, 1], its class number and, optionally, its field of view (1, S, S),
    which is where that is not 0. What is left over after the last whole batch of an epoch waits for the next one.
    The model may be used after any epoch (``model.eval()``), and layers may be frozen between two. The same model,
    seed and data give the same weights. A second call goes on from what is there with a new optimiser and schedule;
    give it another seed, or its views are those of the first. ValueError for what cannot be trained on.
    """
    if epochs < 1 or batch_images < 1:
        raise ValueError(f"epochs is {epochs} and batch_images {batch_images}: both must be at least 1")
    loader = _loader(dataset, batch_images, seed)
    if not len(loader):
        raise ValueError(f"the data set has fewer images than a batch ({batch_images}): lower batch_images")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("every parameter of the model is frozen: there is nothing to train")
    settings, views = settings or ObjectiveSettings(), views or ViewSettings()
    return _epochs(model, loader, epochs, learning_rate, seed, settings, views)


def _epochs(
    model: LCLSC,
    loader: DataLoader[dict[str, Tensor]],
    epochs: int,
    learning_rate: float,
    seed: int,
    settings: ObjectiveSettings,
    views: ViewSettings,
) -> Iterator[dict[str, float]]:
    total_steps = epochs * len(loader)
    optimizer = torch.optim.AdamW(parameter_groups(model, WEIGHT_DECAY), lr=learning_rate)
    for epoch in range(epochs):
        model.train()
        sums: dict[str, float] = {}
        for position, batch in enumerate(loader):
            step = epoch * len(loader) + position
            shard = _on_device_of(model, batch)
            if not model.global_embeddings.seen.any():
                model.centre_(shard.image_B1SS, shard.fov_B1SS)
            result = train_step(
                model,
                [shard],
                settings,
                step=step,
                total_steps=total_steps,
                seed=seed,
                epoch=epoch,
                world=World(),
                logical_shards=1,
                views=views,
            )
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * learning_rate_share(step, total_steps, warmup=WARMUP)
            optimizer.step()
            model.global_embeddings.update_(result.z_ND, result.labels_N)
            sums = {name: sums.get(name, 0.0) + loss for name, loss in result.losses.items()}
        yield {name: total / len(loader) for name, total in sums.items()}


class _Numbered(Dataset[dict[str, Tensor]]):
    """Items with their index, which seeds their views."""

    def __init__(self, dataset: Dataset[tuple[Tensor, ...]]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image_1SS, label, *inside = self.dataset[index]
        inside_1SS = inside[0] if inside else torch.ones_like(image_1SS)
        return {
            "image_B1SS": image_1SS,
            "fov_B1SS": inside_1SS,
            "labels_B": torch.as_tensor(label),
            "sample_index_B": torch.tensor(index),
        }


def _loader(dataset: Dataset[tuple[Tensor, ...]], batch_images: int, seed: int) -> DataLoader[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(seed)
    return DataLoader(_Numbered(dataset), batch_images, shuffle=True, drop_last=True, generator=chance)


def _on_device_of(model: LCLSC, batch: dict[str, Tensor]) -> ShardBatch:
    """A batch as the model needs it, or ValueError."""
    image_B1SS, index_B = batch["image_B1SS"], batch["sample_index_B"]
    checks.pictures(image_B1SS, batch["fov_B1SS"])
    checks.grey_values(image_B1SS, index_B)
    labels_B = checks.class_numbers(batch["labels_B"], len(index_B), len(model.global_embeddings.seen))
    parts = {
        "image_B1SS": image_B1SS,
        "fov_B1SS": batch["fov_B1SS"] > 0,
        "labels_B": labels_B,
        "sample_index_B": index_B,
    }
    device = model.global_embeddings.vectors.device
    return ShardBatch(**{name: column.to(device) for name, column in parts.items()})
