"""A sample of the fault matrix (``make faults``): the line is struck, done again, and is as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

import pytest
from e2e.line import Line
from faults import bases, cases, children, facts
from faults.points import Point, points
from faults.steps import STEPS

from pipelines.files import md5_bytes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(built: Line, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A champion and a further batch."""
    folder = tmp_path_factory.mktemp("bases")
    shutil.copyfile(built.environment["LCLSC_KEY_FILE"], folder / "patients.key")
    shutil.copytree(phantoms / "more", folder / "more")
    (folder / "one").mkdir()
    bases.with_origin(built.copy(folder / "one" / "w"))
    return folder


@pytest.fixture(scope="module")
def clean() -> Iterator[Executor]:
    """A process without threads: steps are forked, and what this one's threads hold would be held in them for ever."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        yield process


@pytest.mark.parametrize(
    ("step", "kind", "where"),
    [
        ("left", "all", 0.6),
        ("extract", "all", 0.4),
        ("extract", "full", 0.6),
        ("extract", "int", 0.8),
        ("record", "locks", 0.0),
    ],
)
def test_a_step_that_is_struck_is_as_if_nothing_had_happened(
    clean: Executor, folder: Path, step: str, kind: str, where: float, tmp_path: Path
) -> None:
    point = Point(number=1, step=step, kind=kind, where=where)
    outcome = clean.submit(cases.run, point, folder, tmp_path).result()
    assert outcome.struck
    assert outcome.problems == []


def test_the_matrix_has_300_points_that_their_numbers_name() -> None:
    every = points()
    assert [point.number for point in every] == list(range(300))
    assert every == points()
    assert {point.step for point in every[:30]} == set(STEPS)
    assert sum(point.step == "flow" for point in every) == 30


def test_a_cut_off_object_is_not_whole(tmp_path: Path) -> None:
    content = b"an object"
    name = md5_bytes(content)
    for remote, kept in (("storage", content), ("identified", content[:4])):
        path = tmp_path / "remotes" / remote / "files" / "md5" / name[:2] / name[2:]
        path.parent.mkdir(parents=True)
        path.write_bytes(kept)
    assert list(facts._objects(tmp_path).values()) == ["damaged", "whole"]


def test_who_outlives_a_run_is_found_and_ended(tmp_path: Path) -> None:
    assert children.of_folder(tmp_path) == []
    with subprocess.Popen(["sleep", "600"], env=os.environ | {"FAULTS": f"{tmp_path}/records"}) as process:
        (told,) = children.of_folder(tmp_path)
    assert told.startswith("sleep")
    assert process.returncode == -signal.SIGKILL
