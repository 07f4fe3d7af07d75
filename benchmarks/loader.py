"""Shuffled images a second into ready batches, beside WebDataset, Hugging Face datasets, Lance and a PNG folder.

Everybody holds the same drawn frames and ends at cropped, mirrored, normalised float batches by the same code.
Ours reads the memory-mapped file in the order that training uses (class-, patient- and video-aware), in one
process; peers read as their documentation does. Then: steps of training beside steps fed from one resident batch.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from harness import Child, InProcess, Report, at_least, contest, figure, read_options, run_race
from peers.loader_job import run_epoch
from peers.serve import Numbers
from pipelines import mapped, sampling
from pipelines import params as parameters
from pipelines.frames import Frames
from pipelines.training import Job, Samples, Trainer, prepare_torch
from pipelines.workspace import template_file

SIDE_PX, BATCH, CLIPS, CLASSES = 96, 32, 40, 4
PEERS = {"PNG folder": "png", "WebDataset": "webdataset", "Hugging Face datasets": "datasets", "Lance": "lance"}


def main() -> None:
    options = read_options(__doc__)
    report = Report("loader", options)
    with tempfile.TemporaryDirectory(prefix="bench-loader-") as name:
        folder = Path(name)
        samples = material(folder, frames=options.pick(200, quick=20))
        contestants = [
            InProcess("ours", partial(ours, samples)),
            *(
                Child(peer, f"peers/loader_{script}.py", env="loaders", arguments={"folder": name})
                for peer, script in PEERS.items()
            ),
        ]
        with contest(*contestants) as all_of_them:
            race = run_race(all_of_them, {"batch": BATCH}, rounds=options.pick(5, quick=1), options=options)
        report.add(race)
        report.claim(figure("ours", race.median("ours", "images_per_second"), "images/s"))
        for peer in PEERS:
            report.claim(at_least(f"of {peer}", race.ratio("ours", peer, "images_per_second"), 1.0, "x"))
        both = [
            InProcess("mapped", Steps(samples, resident=False)),
            InProcess("resident", Steps(samples, resident=True)),
        ]
        with contest(*both) as two:
            steps = run_race(two, {"steps": 4}, rounds=options.pick(9, quick=1), options=options)
        report.add(steps)
        speed = steps.ratio("resident", "mapped")
        report.claim(at_least("training beside one resident batch", speed, 0.98, "x"))
    report.finish()


def material(folder: Path, frames: int) -> Samples:
    """Smooth noise in a disc, for everybody in their own container."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(20, 200, (CLIPS * frames, SIDE_PX // 4, SIDE_PX // 4)).astype(np.uint8)
    inside_SS = np.hypot(*(np.mgrid[:SIDE_PX, :SIDE_PX] - SIDE_PX / 2 + 0.5)) < SIDE_PX / 2
    fine = rng.integers(0, 16, (len(coarse), SIDE_PX, SIDE_PX)).astype(np.uint8)
    images_NSS = (coarse.repeat(4, axis=1).repeat(4, axis=2) + fine) * inside_SS
    np.save(folder / "images.npy", images_NSS)
    (folder / "png").mkdir()
    (folder / "tar").mkdir()
    for start in range(0, len(images_NSS), 200):
        with tarfile.open(folder / "tar" / f"{start:06d}.tar", "w") as shard:
            for index, image_SS in enumerate(images_NSS[start : start + 200], start):
                png = io.BytesIO()
                Image.fromarray(image_SS).save(png, "PNG")
                (folder / "png" / f"{index:06d}.png").write_bytes(png.getvalue())
                member = tarfile.TarInfo(f"{index:06d}.png")
                member.size = len(png.getvalue())
                shard.addfile(member, io.BytesIO(png.getvalue()))
    clips = (
        Frames(
            frame_index_N=np.arange(frames, dtype=np.int32),
            images_NSS=images_NSS[first : first + frames],
            fov_NSS=np.broadcast_to(inside_SS, (frames, SIDE_PX, SIDE_PX)),
            keep_N=np.ones(frames, bool),
        )
        for first in range(0, len(images_NSS), frames)
    )
    pictures, views = mapped.write(folder / "samples", clips)
    videos = np.repeat(np.arange(CLIPS), frames)
    return Samples(
        images_NSS=pictures,  # type: ignore[arg-type]
        fov_NSS=views,  # type: ignore[arg-type]
        labels_N=videos % CLASSES,
        patients=[f"p{video // 2}" for video in videos],
        videos=[f"v{video}" for video in videos],
    )


def ours(samples: Samples, batch: int) -> Numbers:
    return run_epoch(partial(batches, samples, batch))


def batches(samples: Samples, batch: int) -> Iterator[torch.Tensor]:
    seed = time.time_ns() % 1000
    order = sampling.epoch_order(samples.labels_N, samples.patients, samples.videos, batch=batch, seed=seed, epoch=0)
    for indices in order:
        yield torch.from_numpy(samples.images_NSS[indices])


class Steps:
    """Some steps of one training; ``resident`` feeds every step the shards of the first."""

    def __init__(self, samples: Samples, *, resident: bool) -> None:
        params = parameters.load(template_file("params.yaml")).train
        prepare_torch(params)
        card = {
            "classes": [f"class-{number}" for number in range(CLASSES)],
            "encoder": params.encoder,
            "embedding_dim": params.embedding_dim,
            "momentum": params.momentum,
        }
        job = Job(params=params, card=card, train=None, validation=None, channel=None)
        self.trainer = Trainer(job, samples, samples, torch.device("cpu"))
        self.forward = self.trainer.steps()
        if resident:
            self._keep_batches()

    def _keep_batches(self) -> None:
        read, kept = self.trainer._batch, {}

        def same(indices: Any) -> Any:
            if len(kept) < self.trainer.params.logical_shards:
                kept[len(kept)] = read(indices)
            self.turn = getattr(self, "turn", -1) + 1
            return kept[self.turn % self.trainer.params.logical_shards]

        self.trainer._batch = same  # type: ignore[method-assign]

    def __call__(self, steps: int) -> Numbers:
        start = time.perf_counter()
        for _ in range(steps):
            next(self.forward)
        return {"seconds": time.perf_counter() - start}


if __name__ == "__main__":
    main()
