"""What the method costs: a training step beside a cross-entropy step, inference with saliency beside plain inference.

Both steps take the same two views of the same images through the same encoder and head, and the same optimiser.
The grad-cam library lives with another torch, so each side is divided by plain inference on its own.
"""

from collections.abc import Callable, Sequence
from functools import cache
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from harness import Child, InProcess, Options, Report, at_least, at_most, contest, figure, read_options, run_race
from lclsc import (
    LCLSC,
    ObjectiveSettings,
    ShardBatch,
    ViewSettings,
    World,
    build_encoder,
    make_views,
    saliency,
    similarity,
    train_step,
)
from lclsc.views import View
from peers.serve import Numbers, seconds_of

CLASSES = 4
SHARDS = 4  # as shipped in params.yaml


def images(count: int, side_px: int) -> tuple[Tensor, Tensor]:
    """Noise in [0, 1] and a round field of view, as a fibre bundle gives it."""
    generator = torch.Generator().manual_seed(0)
    centre = (2 * torch.arange(side_px) + 1) / side_px - 1
    disc = (centre[:, None] ** 2 + centre[None, :] ** 2 < 1).expand(count, 1, side_px, side_px)
    return torch.rand(count, 1, side_px, side_px, generator=generator), disc.contiguous()


@cache
def trained(encoder: str) -> LCLSC:
    """Every class has a global embedding, so that no part of the step is skipped."""
    torch.manual_seed(0)
    model = LCLSC(build_encoder(encoder), classes=CLASSES)
    model.global_embeddings.update_(torch.randn(40, 128), torch.arange(40) % CLASSES)
    return model


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=False)


# ---- training


@cache
def lclsc_step(encoder: str, side_px: int, batch: int, shards: int) -> Callable[[], None]:
    model, settings = trained(encoder), ObjectiveSettings()
    optimizer = optimizer_of(model)
    columns = (*images(batch, side_px), torch.arange(batch) % CLASSES, torch.arange(batch))
    names = ("image_B1SS", "fov_B1SS", "labels_B", "sample_index_B")
    parts = zip(*(column.chunk(shards) for column in columns), strict=True)
    whole = [ShardBatch(**dict(zip(names, part, strict=True))) for part in parts]

    def step() -> None:
        at = {"step": 60, "total_steps": 100, "seed": 0, "epoch": 0}
        result = train_step(model, whole, settings, **at, world=World(), logical_shards=shards)
        assert min(result.counts.values()) > 0
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
        optimizer.step()
        model.global_embeddings.update_(result.z_ND, result.labels_N)

    return step


@cache
def cross_entropy_step(encoder: str, side_px: int, batch: int) -> Callable[[], None]:
    """An ordinary step on the two views, the whole batch at once."""
    model, classify = trained(encoder), nn.Linear(128, CLASSES)
    both = nn.ModuleList([model, classify])
    optimizer = optimizer_of(both)
    image, inside = images(batch, side_px)
    labels = torch.arange(batch) % CLASSES

    def view(number: int) -> View:
        at = {"seed": 0, "epoch": 0, "view": number}
        return make_views(image, inside, torch.arange(batch), **at, settings=ViewSettings())

    def step() -> None:
        one, two = view(0), view(1)
        seen = model.embed(torch.cat((one.image_B1SS, two.image_B1SS)), torch.cat((one.fov_B1SS, two.fov_B1SS)))
        loss = cross_entropy(classify(seen.pooled_BD), torch.cat((labels, labels)))
        assert loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0, foreach=False)
        optimizer.step()

    return step


# ---- inference


def plainly(model: LCLSC, image: Tensor, inside: Tensor) -> Tensor:
    """The class of each image and nothing else."""
    embedded, bank = model.embed(image, inside), model.global_embeddings
    return similarity(embedded.z_BD, bank.vectors, bank.seen).argmax(1)


def with_saliency(model: LCLSC, image: Tensor, inside: Tensor) -> Tensor:
    """The class of each image and where it was seen, at the image's size."""
    scores = model(image, inside)
    best_B = scores.similarity_BK.argmax(1)
    map_Bhw, _ = saliency(scores.class_map_of(best_B), scores.fov_Bhw)
    return interpolate(map_Bhw[:, None], size=image.shape[-2:], mode="bilinear", align_corners=False)


@torch.inference_mode()
def infer(*, encoder: str, side_px: int, images: int, threads: int) -> Numbers:
    """Seconds with saliency and ``plain`` seconds without, in alternation."""
    torch.set_num_threads(threads)
    model = trained(encoder).eval()
    batch = _batch(images, side_px)
    with_saliency(model, *batch)
    plain = seconds_of(lambda: plainly(model, *batch))
    return {"seconds": seconds_of(lambda: with_saliency(model, *batch)), "plain": plain}


@cache
def _batch(count: int, side_px: int) -> tuple[Tensor, Tensor]:
    return images(count, side_px)


# ---- the contests


def training(report: Report, options: Options, case: dict[str, object]) -> None:
    def timed(build: Callable[..., Callable[[], None]], **fixed: int) -> Callable[..., Numbers]:
        return lambda **given: {"seconds": seconds_of(build(**given, **fixed))}

    with contest(
        InProcess("LCL-SC", timed(lclsc_step, shards=SHARDS)),
        InProcess("LCL-SC, one shard", timed(lclsc_step, shards=1)),
        InProcess("cross-entropy", timed(cross_entropy_step)),
    ) as sides:
        race = run_race(sides, case, rounds=options.pick(25, quick=2), options=options)
    report.add(race)
    where = f"{case['encoder']} at {case['side_px']} px, {case['batch']} images"
    report.claim(
        at_most(f"LCL-SC step over cross-entropy step: {where}", race.ratio("LCL-SC", "cross-entropy"), 1.05, "x")
    )
    report.claim(figure(f"the same in one shard: {where}", race.ratio("LCL-SC, one shard", "cross-entropy"), "x"))


def inference(report: Report, options: Options, case: dict[str, object]) -> None:
    peer = Child("grad-cam", "peers/gradcam_saliency.py", env="torchvision")
    with contest(InProcess("LCL-SC", infer), peer) as sides:
        race = run_race(sides, case, rounds=options.pick(15, quick=2), options=options)
    report.add(race)
    where = f"{case['encoder']} at {case['side_px']} px, {case['images']} images"
    ours, theirs = (over_plain(race.samples[name]) for name in ("LCL-SC", "grad-cam"))
    report.claim(at_most(f"inference with saliency over plain: {where}", ours, 1.05, "x"))
    report.claim(figure(f"grad-cam over plain: {where}", theirs, "x"))
    report.claim(at_least(f"faster than grad-cam: {where}", race.ratio("grad-cam", "LCL-SC", per="plain"), 3.0, "x"))
    frozen = over_plain(race.samples["grad-cam"], "frozen")
    spared = frozen / ours if frozen and ours else None
    report.claim(figure(f"faster than grad-cam with all layers below the map frozen: {where}", spared, "x"))


def over_plain(rounds: Sequence[Numbers], key: str = "seconds") -> float | None:
    """Median over rounds, each divided by its own plain inference."""
    return median(numbers[key] / numbers["plain"] for numbers in rounds) if rounds else None


def main() -> None:
    options = read_options(__doc__)
    report = Report("step", options)
    torch.set_num_threads(1)  # as a training worker runs
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    training(report, options, {"encoder": "compact", "side_px": 96, "batch": 32})
    if not options.quick:
        training(report, options, {"encoder": "resnet18", "side_px": 96, "batch": 16})
    torch.use_deterministic_algorithms(False)
    for count in options.pick((1, 32), quick=(4,)):
        inference(report, options, {"encoder": "compact", "side_px": 96, "images": count, "threads": 1})
    if not options.quick:
        inference(report, options, {"encoder": "resnet18", "side_px": 224, "images": 4, "threads": 1})
    report.finish()


if __name__ == "__main__":
    main()
