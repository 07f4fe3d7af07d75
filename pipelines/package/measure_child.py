"""Time a packaged model frame by frame, in a process that knows nothing but the package.

Run by path, never imported: ``python -I -B measure_child.py PACKAGE``. Prints JSON {latency_ms, memory_mib}.
The frame is the package's own synthetic example; both figures include MLflow's interface, as served.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import mlflow
import numpy as np

FRAMES, WARM_UPS = 60, 5


def main(package: Path) -> None:
    model = mlflow.pyfunc.load_model(str(package))
    example = model.input_example
    seconds = []
    for _ in range(WARM_UPS + FRAMES):
        started = time.perf_counter()
        model.predict(example)
        seconds.append(time.perf_counter() - started)
    latency_ms = 1000 * float(np.percentile(seconds[WARM_UPS:], 95))
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    print(json.dumps({"latency_ms": latency_ms, "memory_mib": kibibytes / 1024}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
