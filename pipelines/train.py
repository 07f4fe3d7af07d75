"""Train: LCL-SC on Ray Train, resumed where a killed run stopped.

Reads   data/train.csv and the shards it names (train and validation patients; test data is out of sight)
Writes  models/model.safetensors, models/model.json, reports/train.json
Params  train
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from pipelines import checkpoint, cluster, frames, keys, mapped, progress, stage, workers
from pipelines.channel import Channel
from pipelines.errors import LclscError, OutsideSystemError, StageError
from pipelines.files import digest, read_json, sha256_file, write_bytes, write_json
from pipelines.params import Params
from pipelines.training import TELL_SECONDS, Job, Samples, train_worker
from pipelines.workspace import Workspace, private_folder

SPLITS = ("train", "validation")


def run(workspace: Workspace, params: Params) -> dict[str, Any]:
    """Train, write the model, and report its history. Deterministic in train.csv, params and code."""
    table = frames.read_table(workspace.train_table)
    classes = sorted(set(table[table.split == "train"].label))
    _require_data(table, classes)
    card = _card(params, classes, table)
    with fit(workspace, params, card, table).as_directory() as name:
        state = read_json(Path(name) / checkpoint.PROGRESS)
        write_bytes(workspace.weights, (Path(name) / checkpoint.WEIGHTS).read_bytes())
    write_json(workspace.model_card, card | {"temperature": state["calibration"]["temperature"]})
    report = _report(workspace, table, classes, state)
    happened = {"weights_sha256": report["weights_sha256"], "restarts": state["restarts"]}
    write_json(workspace.training_record, happened)  # not in the report: same inputs, same report
    return report


def fit(workspace: Workspace, params: Params, card: dict[str, Any], table: pd.DataFrame) -> Any:
    """Run Ray Train and return its last checkpoint.

    The run's name is the train key: Ray resumes by name, so a killed training goes on, and another one
    can never be mistaken for it. Ray's version joins the name because snapshots do not outlive it.
    """
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from pipelines.rendezvous import Rendezvous

    cluster.connect(workspace)
    count = workers.worker_count(params.train.logical_shards)
    name = f"{keys.train_key(workspace, workers=count)}-ray{ray.__version__}"
    storage = cluster.storage(workspace)
    require_shared(storage)
    _forget_other_runs(workspace, name)
    with _progress_channel(params) as channel, _sample_folder(cluster.samples(workspace) / name) as folder:
        train, validation = (_samples(workspace, table, card["classes"], split, folder) for split in SPLITS)
        if "://" in storage:
            train, validation = _in_memory(train), _in_memory(validation)
        job = Job(
            params=params.train,
            card=card,
            train=ray.put(train),
            validation=ray.put(validation),
            channel=channel,
            checkpoint_seconds=workers.checkpoint_seconds(),
        )
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"job": job},
            torch_config=Rendezvous(),
            scaling_config=ScalingConfig(num_workers=count, use_gpu=workers.visible_gpus() > 0),
            run_config=RunConfig(
                name=name,
                storage_path=storage,
                failure_config=FailureConfig(max_failures=2),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        )
        result = _fitted(trainer)
    return result.checkpoint


def _fitted(trainer: Any) -> Any:
    """``fit()``, with the cause that a worker raised instead of Ray's wrapping."""
    from ray.train.v2.api.exceptions import WorkerGroupError

    try:
        return trainer.fit()
    except WorkerGroupError as error:
        for failure in error.worker_failures.values():
            cause = getattr(failure, "cause", failure)
            if isinstance(cause, LclscError):
                raise cause from None
        raise OutsideSystemError(
            "ray_train", f"Training failed: {error}", "Run `lclsc retrain` again; it resumes.", transient=True
        ) from error


@contextmanager
def _progress_channel(params: Params) -> Iterator[Any]:
    """An actor that rank 0 tells how far it is, and a thread here that shows it."""
    import ray

    channel = ray.remote(num_cpus=0)(Channel).options(scheduling_strategy=cluster.here()).remote()
    stop = threading.Event()
    with progress.track("train", params.train.epochs, "steps") as tracker:
        reader = threading.Thread(target=_show, args=(channel, tracker, stop), daemon=True)
        reader.start()
        try:
            yield channel
        finally:
            stop.set()
            reader.join(timeout=10)
            ray.kill(channel)


def _show(channel: Any, tracker: progress.Tracker, stop: threading.Event) -> None:
    import ray

    while True:
        last = stop.wait(TELL_SECONDS)
        for step, total, note, metrics in ray.get(channel.take.remote()):
            tracker.retitle(total, "steps")
            tracker.update(step, note, metrics)
        if last:
            return


@contextmanager
def _sample_folder(folder: Path) -> Iterator[Path]:
    """Holds the mapped frames while a training lasts.

    What a killed training left is swept first: patients' frames must not linger.
    """
    shutil.rmtree(folder, ignore_errors=True)
    private_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _samples(workspace: Workspace, table: pd.DataFrame, classes: list[str], split: str, folder: Path) -> Samples:
    """Kept frames of a split's videos, in the table's order (video id), from verified shards into a mapped file."""
    rows = frames.rows(table[(table.split == split) & (table.kept > 0)])
    clips = (frames.read_shard(workspace.frames / row["shard"], row["shard_sha256"]).kept() for row in rows)
    pictures, views = mapped.write(folder / split, clips)
    return Samples(
        images_NSS=cast(Any, pictures),
        fov_NSS=cast(Any, views),
        labels_N=np.repeat(np.array([classes.index(row["label"]) for row in rows]), [row["kept"] for row in rows]),
        patients=[row["patient_id"] for row in rows for _ in range(row["kept"])],
        videos=[row["video_id"] for row in rows for _ in range(row["kept"])],
    )


def _in_memory(samples: Samples) -> Samples:
    """For nodes that share no file system: Ray carries the frames to them."""
    return replace(samples, images_NSS=samples.images_NSS[:], fov_NSS=samples.fov_NSS[:])


def _card(params: Params, classes: list[str], table: pd.DataFrame) -> dict[str, Any]:
    """What inference must know about a model, besides its weights and calibration."""
    train = params.train
    return {
        "format": "model/1",
        "method": "lcl-sc",
        "classes": classes,
        "encoder": train.encoder,
        "embedding_dim": train.embedding_dim,
        "momentum": train.momentum,
        "reject": {"score": train.reject_score, "margin": train.reject_margin},
        "extract": params.extract.model_dump(),
        "recipe": Path(table.shard.iloc[0]).stem.rsplit("-", 1)[1],
    }


def _report(workspace: Workspace, table: pd.DataFrame, classes: list[str], state: dict[str, Any]) -> dict[str, Any]:
    groups = table.groupby("split")
    return {
        "classes": classes,
        "history": state["history"],
        "calibration": state["calibration"],
        "videos": groups.video_id.nunique().to_dict(),
        "patients": groups.patient_id.nunique().to_dict(),
        "frames": {split: int(count) for split, count in groups.kept.sum().items()},
        "video_ids": {split: digest(sorted(group.video_id)) for split, group in groups},
        "weights_sha256": sha256_file(workspace.weights),
    }


def _require_data(table: pd.DataFrame, classes: list[str]) -> None:
    """LCL needs two classes to tell apart; calibration needs frames that nothing was fitted to."""
    kept = table[table.kept > 0].groupby("split").kept.sum()
    if len(classes) < 2:
        raise StageError(
            "too_few_classes",
            f"There are {len(classes)} classes with enough patients to train on; at least 2 are needed.",
            "Take in more patients, or lower split.min_patients in params.yaml.",
        )
    for split in ("train", "validation"):
        if not kept.get(split, 0):
            raise StageError(
                f"no_{split}_frames",
                f"No kept frame belongs to the split {split}.",
                "Take in more patients, or look at reports/extract.json: why were frames dropped?",
            )


def require_shared(storage: str, blind_nodes: Callable[[Path], list[str]] = cluster.blind_nodes) -> None:
    """Every node must reach it: told before it trains, and not as a training that cannot go on."""
    if "://" in storage:
        return
    Path(storage).mkdir(parents=True, exist_ok=True)
    blind = blind_nodes(Path(storage))
    if blind:
        raise OutsideSystemError(
            "storage_not_shared",
            f"{len(blind)} nodes of the Ray cluster do not see {storage}: {', '.join(blind)}.",
            "Set LCLSC_STORAGE to a folder that all nodes mount, or to an address such as s3://bucket/checkpoints.",
        )


def _forget_other_runs(workspace: Workspace, name: str) -> None:
    """Checkpoints of superseded trainings: patients' data must not linger in state."""
    folder = workspace.state / "ray"
    for other in folder.iterdir() if folder.exists() else ():
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)


if __name__ == "__main__":
    stage.main("train")
