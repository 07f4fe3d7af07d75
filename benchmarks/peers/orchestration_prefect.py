"""The line as a plain Prefect flow: one task a stage, each ``dvc repro --single-item``; then push and register.

python orchestration_prefect.py WORKSPACE PYTHON [REGISTRATION]
"""

import subprocess
import sys

from prefect import flow, task

STAGES = ("extract", "train", "evaluate")


@task(retries=2, retry_delay_seconds=5, persist_result=False)
def stage(workspace: str, python: str, name: str) -> None:
    subprocess.run([python, "-m", "dvc", "repro", "--single-item", name], cwd=workspace, check=True)


@task(retries=2, retry_delay_seconds=5, persist_result=False)
def push(workspace: str, python: str) -> None:
    subprocess.run([python, "-m", "dvc", "push"], cwd=workspace, check=True)


@task(retries=2, retry_delay_seconds=5, persist_result=False)
def register(workspace: str, python: str, registration: str) -> None:
    subprocess.run([python, registration, workspace], check=True)


@flow(name="plain", persist_result=False)
def line(workspace: str, python: str, registration: str = "") -> None:
    for name in STAGES:
        stage(workspace, python, name)
    if registration:
        push(workspace, python)
        register(workspace, python, registration)


if __name__ == "__main__":
    line(*sys.argv[1:])
