"""Orchestration: what a retrain with nothing to do costs, and what the flow adds to a bare ``dvc repro``.

The same micro workspace (15 one-second clips, 2 epochs) under ``lclsc retrain``, bare DVC, a plain Prefect flow and a
Dagster job with one task a stage; a first build of the latter two also pushes, and registers by a plain MLflow script.
Only ours judges what it registers, and with nothing to do still looks for a version of these inputs in the registry:
that is in its time. Every contestant has a workspace of its own and keeps its history.

    seconds         of the wall clock, from the shell
    cpu_seconds     of the command and all its children, which a busy machine changes less
"""

import functools
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from harness import InProcess, Options, Report, at_least, at_most, contest, figure, interpreter, read_options, run_race
from micro import MICRO
from peers.serve import Numbers

HERE = Path(__file__).resolve().parent
REGISTRATION = HERE / "peers" / "plain_registration.py"
LCLSC = Path(sys.executable).with_name("lclsc")
HOUR = 3600.0


def main() -> None:
    options = read_options(__doc__)
    report = Report("orchestration", options)
    with tempfile.TemporaryDirectory(prefix="lclsc-orchestration-") as folder:
        place = Path(folder)
        fresh = taken_in(place)
        _idle(report, place, fresh, options)
        _build(report, place, fresh, options)
    report.finish()


def taken_in(place: Path) -> Path:
    """A workspace after its first intake."""
    root = place / "fresh"
    _call([LCLSC, "synth", place / "phantoms", "--preset", "micro"], place)
    _call([LCLSC, "init", root, "--preset", "cpu"], place)
    path = root / "params.yaml"
    document = yaml.safe_load(path.read_text())
    for section, values in MICRO.items():
        document[section].update(values)
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    _call([LCLSC, "intake", place / "phantoms", "--workspace", root], place)
    _call([LCLSC, "status", "--refresh-code", "--workspace", root], place)
    return root


def _idle(report: Report, place: Path, fresh: Path, options: Options) -> None:
    """Everything is built; nobody has anything to do."""
    built = copy(fresh, place / "built")
    _call([LCLSC, "retrain", "--workspace", built], built)
    names = ("lclsc retrain", "dvc repro", "plain Prefect", "Dagster")
    roots = {name: copy(built, place / f"idle {name}") for name in names}
    runs = [InProcess(name, functools.partial(_timed, name=name, root=root)) for name, root in roots.items()]
    with contest(*runs) as contestants:
        race = run_race(contestants, {"work": "nothing to do"}, rounds=options.pick(7, quick=1), options=options)
    report.add(race)
    for key in ("seconds", "cpu_seconds"):
        report.claim(figure(f"a retrain with nothing to do, {key}", race.median("lclsc retrain", key), "s"))
        report.claim(figure(f"dvc repro with nothing to do, {key}", race.median("dvc repro", key), "s"))
        for peer in ("plain Prefect", "Dagster"):
            name = f"{key} of {peer} with nothing to do, over ours"
            report.claim(at_least(name, race.ratio(peer, "lclsc retrain", key), 1, "x"))


def _build(report: Report, place: Path, fresh: Path, options: Options) -> None:
    """The first build, each time from a new copy."""

    def measure(name: str) -> Numbers:
        root = copy(fresh, place / f"build {name}")
        try:
            return _timed(name=name, root=root, registration=(REGISTRATION,))
        finally:
            shutil.rmtree(root)

    names = ("lclsc retrain", "dvc repro", "plain Prefect", "Dagster")
    runs = [InProcess(name, functools.partial(lambda name, **_: measure(name), name)) for name in names]
    with contest(*runs) as contestants:
        rounds = options.pick(3, quick=1)
        race = run_race(contestants, {"work": "first build"}, rounds=rounds, warm_ups=0, options=options)
    report.add(race)
    for key in ("seconds", "cpu_seconds"):
        ours, bare = race.median("lclsc retrain", key), race.median("dvc repro", key)
        added = None if ours is None or bare is None else ours - bare
        report.claim(figure(f"added to dvc repro by the flow, registration included, {key}", added, "s"))
        share = None if added is None else 100 * added / HOUR
        report.claim(at_most(f"that, of a job of one hour, {key}", share, 1, "%"))
        for peer in ("plain Prefect", "Dagster"):
            name = f"{key} of {peer} for the first build, over ours"
            report.claim(at_least(name, race.ratio(peer, "lclsc retrain", key), 1, "x"))


def _timed(*, name: str, root: Path, registration: tuple[Path, ...] = (), **_: object) -> Numbers:
    command = _command(name, root, registration)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    _call(command, root)
    took, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": took, "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def _command(name: str, root: Path, registration: tuple[Path, ...]) -> list[object]:
    match name:
        case "lclsc retrain":
            return [LCLSC, "retrain", "--json", "--workspace", root]
        case "dvc repro":
            return [sys.executable, "-m", "dvc", "repro"]
        case "plain Prefect":
            return [sys.executable, HERE / "peers" / "orchestration_prefect.py", root, sys.executable, *registration]
        case _:
            python = interpreter("orchestration")
            return [python, HERE / "peers" / "orchestration_dagster.py", root, sys.executable, *registration]


def _call(command: list[object], root: Path) -> None:
    done = subprocess.run(
        [str(part) for part in command], cwd=root, env=_environment(root), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stdout[-800:]}{done.stderr[-800:]}")


def _environment(root: Path) -> dict[str, str]:
    """The same for all: no telemetry, stages find their Python, each history in its workspace."""
    from pipelines import settings

    home = root / ".state" / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    own = {"PREFECT_HOME": f"{root}/.state/prefect", "DVC_SITE_CACHE_DIR": f"{root}/.state/dvc-site"}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_TRACKING", "PREFECT_"))}
    key = {"LCLSC_KEY_FILE": str(HERE.parent / "pipelines" / "synth" / "published.key")}
    return (
        kept
        | settings.OFFLINE
        | settings.SAFE
        | settings.QUIET
        | own
        | key
        | {
            "PATH": path,
            "DAGSTER_HOME": str(home),
        }
    )


def copy(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target, symlinks=True))


if __name__ == "__main__":
    main()
