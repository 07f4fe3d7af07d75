"""The line as a plain Prefect flow: one task a stage, each ``dvc repro --single-item``.

python orchestration_prefect.py WORKSPACE PYTHON
"""

import subprocess
import sys

from prefect import flow, task

STAGES = ("extract", "train", "evaluate")


@task(retries=2, retry_delay_seconds=5, persist_result=False)
def stage(workspace: str, python: str, name: str) -> None:
    subprocess.run([python, "-m", "dvc", "repro", "--single-item", name], cwd=workspace, check=True)


@flow(name="plain", persist_result=False)
def line(workspace: str, python: str) -> None:
    for name in STAGES:
        stage(workspace, python, name)


if __name__ == "__main__":
    line(*sys.argv[1:])
