"""The line as a Dagster job: one op a stage, each ``dvc repro --single-item``; history in DAGSTER_HOME.

python orchestration_dagster.py WORKSPACE PYTHON
"""

import subprocess
import sys

from dagster import DagsterInstance, In, Nothing, RetryPolicy, job, op

WORKSPACE, PYTHON = sys.argv[1:]


def run(name):
    subprocess.run([PYTHON, "-m", "dvc", "repro", "--single-item", name], cwd=WORKSPACE, check=True)


@op(retry_policy=RetryPolicy(max_retries=2, delay=5))
def extract() -> None:
    run("extract")


@op(ins={"start": In(Nothing)}, retry_policy=RetryPolicy(max_retries=2, delay=5))
def train() -> None:
    run("train")


@op(ins={"start": In(Nothing)}, retry_policy=RetryPolicy(max_retries=2, delay=5))
def evaluate() -> None:
    run("evaluate")


@job
def line():
    evaluate(start=train(start=extract()))


if __name__ == "__main__":
    assert line.execute_in_process(instance=DagsterInstance.get()).success
