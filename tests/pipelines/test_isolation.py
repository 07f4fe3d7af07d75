"""Children that crash, hang, swell or overflow: each ends in one typed error, and the next call works."""

from __future__ import annotations

import ctypes
import math
import operator
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.errors import LclscError, OutsideSystemError, VideoError
from pipelines.video import clips
from pipelines.video.isolation import Limits, run_isolated


@pytest.mark.parametrize(
    ("function", "arguments", "limits", "code"),
    [
        (os.abort, (), {}, "decoder_crashed"),
        (ctypes.string_at, (1,), {}, "decoder_crashed"),  # SIGSEGV
        (os._exit, (3,), {}, "decoder_crashed"),
        (time.sleep, (60,), {"wall_seconds": 1}, "over_decode_time"),
        (math.factorial, (10_000_000,), {"cpu_seconds": 1}, "over_decode_time"),
        (bytearray, (2 << 30,), {}, "over_memory"),
        (sorted, ("Smith", "John"), {}, "decoder_failed"),
        (operator.mul, ("Smith", 4 << 20), {}, "over_answer"),
    ],
)
def test_what_goes_wrong_in_a_child_is_one_typed_error(
    function: Callable[..., Any], arguments: tuple[Any, ...], limits: dict[str, int], code: str
) -> None:
    with pytest.raises(VideoError) as caught:
        run_isolated(function, *arguments, limits=Limits(**limits))
    assert caught.value.code == code
    assert "Smith" not in str(caught.value)
    assert run_isolated(math.hypot, 3, 4) == 5.0


def test_a_file_that_grows_too_large_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(3 << 20))
    with pytest.raises(VideoError) as caught:
        run_isolated(shutil.copyfile, tmp_path / "large", tmp_path / "copy", limits=Limits(file_mib=1))
    assert caught.value.code == "over_output"


def test_a_missing_file_is_no_fault_of_the_clip(tmp_path: Path) -> None:
    with pytest.raises(OutsideSystemError):
        run_isolated(os.stat, tmp_path / "none")


def test_an_error_keeps_its_kind_and_words() -> None:
    with pytest.raises(LclscError) as caught:
        run_isolated(refuse, "ffv1")
    assert (type(caught.value), caught.value.as_json()) == (VideoError, refusal("ffv1").as_json())


def refusal(codec: str) -> VideoError:
    return VideoError("no_video_stream", f"No {codec} in it.", "Send another.")


def refuse(codec: str) -> None:
    raise refusal(codec)


def test_a_child_leaves_no_core_and_hears_and_says_nothing() -> None:
    core, silent = run_isolated(what_a_child_may)
    assert core == [0, 0]
    assert silent


def what_a_child_may() -> tuple[tuple[int, int], bool]:
    streams = {os.fstat(stream).st_rdev for stream in (0, 1, 2)}
    return resource.getrlimit(resource.RLIMIT_CORE), streams == {Path(os.devnull).stat().st_rdev}


@pytest.mark.parametrize(("kind", "option"), [("RLIMIT_FSIZE", "-f"), ("RLIMIT_AS", "-v"), ("RLIMIT_NOFILE", "-n")])
def test_a_limit_of_the_account_is_no_fault_of_the_clip(kind: str, option: str) -> None:
    script = (
        "import resource\nfrom pipelines.errors import LclscError\nfrom pipelines.video.isolation import run_isolated\n"
        f"resource.setrlimit(resource.{kind}, [{1 << 30 if kind == 'RLIMIT_AS' else 50}] * 2)\n"
        "try:\n    run_isolated(len, [])\n"
        "except LclscError as error:\n    print(type(error).__name__, error.code, error.cause)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.startswith(f"OutsideSystemError low_limit `ulimit -H {option}` is ")


def test_no_child_outlives_a_killed_caller(tmp_path: Path) -> None:
    script = "import time; from pipelines.video.isolation import run_isolated; run_isolated(time.sleep, 600)"
    caller = subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    family = descendants(caller.pid, 2)
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def descendants(pid: int, count: int) -> list[psutil.Process]:
    for _ in range(200):
        found = psutil.Process(pid).children(recursive=True)
        if len(found) >= count:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{len(found)} of {count} processes started")


def test_a_nursery_that_was_killed_is_replaced() -> None:
    nursery = run_isolated(os.getppid)
    os.kill(nursery, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(nursery)] if psutil.pid_exists(nursery) else [], timeout=1)
    assert run_isolated(os.getppid) != nursery


def test_a_child_costs_milliseconds() -> None:
    run_isolated(os.getpid)
    started = time.perf_counter()
    for _ in range(20):
        run_isolated(os.getpid)
    assert (time.perf_counter() - started) / 20 < 0.1


def test_the_decoders_load_no_training_framework() -> None:
    assert run_isolated(heavy_modules) == []


def heavy_modules() -> list[str]:
    assert clips.FORMATS  # imported above, with every decoder
    return sorted({"torch", "ray", "mlflow", "prefect", "dvc"} & set(sys.modules))
