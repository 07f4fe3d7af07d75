"""A plain training loop on one device, for any ``Dataset`` of grey images.

The pipeline's own loop (order across patients, checkpoints, many workers) is ``pipelines/training.py``; both take
their steps from ``train_step``.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lclsc.distributed import World
from lclsc.model import LCLSC
from lclsc.objective import ObjectiveSettings
from lclsc.step import ShardBatch, train_step
from lclsc.views import ViewSettings


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
    """Train epoch by epoch where the model is; yields each epoch's mean losses. The model is ready after any of them.

    ``dataset[i]`` is an image (1, S, S) in [0, 1], its label and, optionally, its field of view (1, S, S). What is
    left over after the last whole batch of an epoch waits for the next one. Same seed, same weights.
    """
    loader = _loader(dataset, batch_images, seed)
    if not len(loader):
        raise ValueError(f"the data set has fewer images than a batch ({batch_images}): lower batch_images")
    total_steps = epochs * len(loader)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps, pct_start=0.1)
    for epoch in range(epochs):
        model.train()
        sums: dict[str, float] = {}
        for position, batch in enumerate(loader):
            shard = _on_device_of(model, batch)
            if epoch == position == 0:
                model.centre_(shard.image_B1SS, shard.fov_B1SS)
            for frozen in (one for one in model.parameters() if not one.requires_grad):
                frozen.grad = None  # the optimiser would go on by the last one
            result = train_step(
                model,
                [shard],
                settings or ObjectiveSettings(),
                step=epoch * len(loader) + position,
                total_steps=total_steps,
                seed=seed,
                epoch=epoch,
                world=World(),
                logical_shards=1,
                views=views,
            )
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
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
    device = model.global_embeddings.vectors.device
    return ShardBatch(**{name: column.to(device) for name, column in batch.items()})
