"""The line as a Dagster job: one op a stage, each ``dvc repro --single-item``; history in DAGSTER_HOME.

python orchestration_dagster.py WORKSPACE PYTHON [REGISTRATION]     the last also pushes and registers
"""

import subprocess
import sys

from dagster import DagsterInstance, In, Nothing, RetryPolicy, job, op

WORKSPACE, PYTHON, *REGISTRATION = sys.argv[1:]


def run(name):
    python("-m", "dvc", "repro", "--single-item", name)


def python(*arguments):
    subprocess.run([PYTHON, *arguments], cwd=WORKSPACE, check=True)


@op(retry_policy=RetryPolicy(max_retries=2, delay=5))
def extract() -> None:
    run("extract")


@op(ins={"start": In(Nothing)}, retry_policy=RetryPolicy(max_retries=2, delay=5))
def train() -> None:
    run("train")


@op(ins={"start": In(Nothing)}, retry_policy=RetryPolicy(max_retries=2, delay=5))
def evaluate() -> None:
    run("evaluate")


@op(ins={"start": In(Nothing)}, retry_policy=RetryPolicy(max_retries=2, delay=5))
def push() -> None:
    python("-m", "dvc", "push")


@op(ins={"start": In(Nothing)}, retry_policy=RetryPolicy(max_retries=2, delay=5))
def register() -> None:
    python(*REGISTRATION, WORKSPACE)


@job
def line():
    built = evaluate(start=train(start=extract()))
    if REGISTRATION:
        register(start=push(start=built))


if __name__ == "__main__":
    assert line.execute_in_process(instance=DagsterInstance.get()).success
