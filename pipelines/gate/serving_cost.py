"""What one frame costs through a packaged model: measured here and now, kept out of everything DVC tracks."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.gate.evidence import Served
from pipelines.package import child


def measure(package: Path) -> Served:
    """In a process of its own, on one thread, frame by frame, as a probe delivers them."""
    return Served(**json.loads(child.run("measure_child.py", package)))
