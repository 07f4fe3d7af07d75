"""A workspace and the command line, as a user has them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from micro import MICRO

LCLSC = str(Path(sys.executable).with_name("lclsc"))


class Line:
    """A workspace and the command line, as a user has them."""

    def __init__(self, root: Path, key_file: Path) -> None:
        self.root = root
        unwanted = ("MLFLOW", "PREFECT", "DVC_", "RAY_", "LCLSC_", "OMP_NUM_THREADS")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
        bin_folder = str(Path(sys.executable).parent)
        self.environment = kept | {
            "LCLSC_KEY_FILE": str(key_file),
            "PATH": os.pathsep.join([bin_folder, os.environ["PATH"]]),
        }

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        command = [LCLSC, *arguments, "--workspace", str(self.root)]
        return subprocess.Popen(command, env=self.environment, text=True, start_new_session=True, **options)

    def run(self, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        command = [LCLSC, *arguments, "--workspace", str(self.root)]
        done = subprocess.run(command, env=self.environment, text=True, capture_output=True, cwd="/", check=False)
        assert done.returncode == expect, done.stdout + done.stderr
        return done

    def json(self, *arguments: str, expect: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", expect=expect).stdout)

    def tool(self, *command: str, cwd: Path | None = None, extra: Mapping[str, str] | None = None) -> str:
        environment = self.environment | dict(extra or {})
        done = subprocess.run(
            command, cwd=cwd or self.root, env=environment, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def set_params(self, **sections: Mapping[str, Any]) -> None:
        path = self.root / "params.yaml"
        document = yaml.safe_load(path.read_text())
        for section, values in sections.items():
            document[section].update(values)
        path.write_text(yaml.safe_dump(document, sort_keys=False))

    def lock(self) -> Any:
        return yaml.safe_load((self.root / "dvc.lock").read_text())

    def outputs(self) -> dict[str, str]:
        """path -> MD5 of every output of the pipeline, as DVC recorded it."""
        return {out["path"]: out["md5"] for stage in self.lock()["stages"].values() for out in stage["outs"]}

    def copy(self, root: Path) -> Line:
        shutil.copytree(self.root, root, symlinks=True)
        return Line(root, Path(self.environment["LCLSC_KEY_FILE"]))


def micro_workspace(root: Path, key_file: Path, *options: str) -> Line:
    """A new workspace with the parameters of ``micro``; they are not committed. ``options``: of ``lclsc init``."""
    line = Line(root, key_file)
    subprocess.run([LCLSC, "init", str(root), "--preset", "cpu", *options], env=line.environment, check=True)
    line.set_params(**MICRO)
    return line


def draw_batches(folder: Path) -> None:
    """``first``: three classes of five patients; ``more``: one further patient a class."""
    for name, options in (("first", []), ("more", ["--first-patient", "5", "--patients", "1"])):
        command = [LCLSC, "synth", str(folder / name), "--preset", "micro", *options]
        subprocess.run(command, check=True, capture_output=True)
