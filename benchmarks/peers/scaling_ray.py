"""A training under Ray Train whose steps are timed: ``scaling_ray.py FOLDER REDUCTION WORKERS``."""

import sys
from pathlib import Path

import scaling_rank
from pipelines import cluster, params, settings, train
from pipelines.workspace import Workspace


def work(config: dict) -> None:
    """One worker, as the pipeline has it: with a channel that the driver reads progress from."""
    trainer = scaling_rank.prepared(scaling_rank.settings(config["reduction"]), config["channel"])
    scaling_rank.answer_requests(Path(config["folder"]), scaling_rank.pipeline_step(trainer))


def main(folder: Path, reduction: str, workers: int) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from pipelines.rendezvous import Rendezvous

    settings.apply()
    shipped = params.load(Path(__file__).resolve().parents[2] / "params.yaml")
    workspace = Workspace(folder)
    with cluster.runtime(workspace), train._progress_channel(shipped) as channel:
        TorchTrainer(
            work,
            train_loop_config={"folder": str(folder), "reduction": reduction, "channel": channel},
            torch_config=Rendezvous(),
            scaling_config=ScalingConfig(num_workers=workers),
            run_config=RunConfig(name="scaling", storage_path=str(folder / "ray")),
        ).fit()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
