"""The champion in an environment of its own: nothing but what its package asks for, from its requirements.txt.

There, without this repository, `mlflow.pyfunc.load_model("models:/lclsc@champion")` and `mlflow models serve` answer
what they answer here. The environment is `.peers/package-*`, made anew when the requirements change.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np

import drawn_registry
from harness import PEERS, ROOT, NotMeasuredError, Report, at_least, at_most, figure, read_options
from pipelines.registry import Registry
from pipelines.synth.write import write_video
from serving import JSON, free_port, running

CLIENT = ROOT / "benchmarks" / "peers" / "model_elsewhere.py"
URI = "models:/lclsc@champion"
OURS = {"ray", "prefect", "dvc", "lclsc"}
"""What a model must not need."""


def main() -> None:
    options = read_options(__doc__)
    report = Report("elsewhere", options)
    with tempfile.TemporaryDirectory(prefix="bench-elsewhere-") as name:
        folder = Path(name)
        store = drawn_registry.build(folder / "workspace")
        requests = _requests(folder, images=options.pick(32, quick=4))
        here = _asked(Path(sys.executable), store, folder, requests)
        try:
            python = environment(store)
            there = _asked(python, store, folder, requests)
            served = _served(python, store, folder, requests)
            packages = _packages(python)
        except NotMeasuredError as reason:
            report.add({"not_measured": {"package's own environment": str(reason)}})
            report.claim(at_least("answers compared", None, 1, "frames"))
        else:
            _report(report, here, there, served, packages)
    report.finish()


def _report(report: Report, here: Any, there: Any, served: list[Any], packages: dict[str, str]) -> None:
    report.add({"packages": packages})
    expected = here["answers"]
    report.claim(at_least("answers compared", sum(map(len, expected)), 10, "frames"))
    report.claim(at_most("load_model there: largest difference", _difference(there["answers"], expected), 0, "p"))
    report.claim(at_most("load_model there: other classes, rejects, maps", _other(there["answers"], expected), 0, ""))
    report.claim(at_most("models serve there: largest difference", _difference(served, expected), 0, "p"))
    report.claim(at_most("models serve there: other classes, rejects, maps", _other(served, expected), 0, ""))
    outside = [path for path in there["code"] if str(ROOT) in path]
    report.claim(at_most("code of this repository used there", len(outside), 0, "modules"))
    report.claim(at_most("files left in the working directory", len(there["left"]), 0, "files"))
    report.claim(at_most("of Ray, Prefect, DVC, lclsc installed there", len(OURS & set(packages)), 0, "packages"))
    report.claim(figure("packages installed there", len(packages), "packages"))


def _requests(folder: Path, images: int) -> list[dict[str, list[str]]]:
    rng = np.random.default_rng(0)
    coarse_FHW = rng.integers(30, 220, (12, 20, 20)).astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    (folder / "clips").mkdir()
    write_video(folder / "clips" / "clip.mp4", coarse_FHW, fps=8)
    pictures = [{"image": [drawn_registry.picture(seed)]} for seed in range(images)]
    return [*pictures, {"video": [str(folder / "clips" / "clip.mp4")]}]


def environment(store: Registry) -> Path:
    """The interpreter that has what the champion's package asks for, and no more."""
    champion = store.alias_version("champion")
    assert champion is not None
    wanted = store.download(champion) / "requirements.txt"
    place = PEERS / f"package-{hashlib.sha256(wanted.read_bytes()).hexdigest()[:12]}"
    python = place / "bin" / "python"
    if not (place / ".installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise NotMeasuredError(done.stderr.strip().splitlines()[-1])
        (place / ".installed").touch()
    return python


def _asked(python: Path, store: Registry, folder: Path, requests: list[Any]) -> Any:
    """load_model in an empty folder of an isolated interpreter."""
    (folder / "requests.json").write_text(json.dumps(requests))
    with tempfile.TemporaryDirectory(dir=folder) as empty:
        done = subprocess.run(
            [str(python), "-I", "-B", str(CLIENT), URI, str(folder / "requests.json")],
            cwd=empty,
            env=_plain() | drawn_registry.address(store),
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise NotMeasuredError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def _served(python: Path, store: Registry, folder: Path, requests: list[Any]) -> list[Any]:
    """`mlflow models serve` of that environment."""
    port = free_port()
    command = [str(python), "-m", "mlflow", "models", "serve", "-m", URI, "--env-manager", "local"]
    extra = drawn_registry.address(store) | {"LCLSC_SERVE_ROOT": str(folder / "clips")}
    extra["PATH"] = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    with running([*command, "--host", "127.0.0.1", "--port", str(port)], port, **extra) as url:
        answers = [
            httpx.post(
                f"{url}/invocations",
                json={"dataframe_split": {"columns": list(table), "data": [[value[0] for value in table.values()]]}},
                headers=JSON,
                timeout=120,
                trust_env=False,
            )
            for table in requests
        ]
    return [answer.raise_for_status().json()["predictions"] for answer in answers]


def _plain() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "LCLSC", "PYTHON"))}
    return kept | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def _packages(python: Path) -> dict[str, str]:
    listed = subprocess.run([str(python), "-m", "pip", "list", "--format", "json"], capture_output=True, check=True)
    return {entry["name"].lower(): entry["version"] for entry in json.loads(listed.stdout)}


def _difference(found: list[Any], expected: list[Any]) -> float:
    """Of any probability."""
    pairs = _pairs(found, expected)
    return max(
        abs(a["probabilities"][name] - b["probabilities"][name]) for a, b in pairs for name in b["probabilities"]
    )


def _other(found: list[Any], expected: list[Any]) -> int:
    names = ("frame_index", "class", "reject", "saliency")
    return sum(a[name] != b[name] for a, b in _pairs(found, expected) for name in names)


def _pairs(found: list[Any], expected: list[Any]) -> list[tuple[Any, Any]]:
    return [pair for a, b in zip(found, expected, strict=True) for pair in zip(a, b, strict=True)]


if __name__ == "__main__":
    main()
