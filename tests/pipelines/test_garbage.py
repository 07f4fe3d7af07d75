"""The collector of a process that calls ``collect_rarely``."""

from __future__ import annotations

import subprocess
import sys

from pipelines import garbage

CODE = """
import atexit, gc
atexit.register(lambda: print(gc.get_threshold()[0], gc.get_freeze_count() > 0))  # runs last
from pipelines import garbage
garbage.collect_rarely()
"""


def test_it_collects_rarely_and_leaves_everything_alone_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(garbage.THRESHOLD), "True"]
