from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import settings
from pipelines.workspace import Workspace

ROOT = Path(__file__).parents[2]


def test_telemetry_of_every_dependency_is_off() -> None:
    code = (
        "from pipelines import settings; settings.apply()\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "from prefect.settings import get_current_settings\n"
        "from ray._common.usage.usage_lib import usage_stats_enabled\n"
        "assert is_telemetry_disabled() and not usage_stats_enabled()\n"
        "assert not get_current_settings().server.analytics_enabled\n"
    )
    clean = {name: value for name, value in os.environ.items() if name not in settings.OFFLINE and name != "CI"}
    subprocess.run([sys.executable, "-c", code], env=clean, check=True)


def test_what_the_user_has_set_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", "")
    monkeypatch.setenv("PREFECT_HOME", "")
    settings.apply(Workspace(tmp_path))
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://mlflow.example"


def test_state_is_its_owners_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "DVC_SITE_CACHE_DIR", "PREFECT_HOME"):
        monkeypatch.setenv(name, "")
    settings.apply(Workspace(tmp_path))
    assert (tmp_path / ".state").stat().st_mode & 0o077 == 0


def test_status_answers_without_the_heavy_packages() -> None:
    code = (
        "import sys; from pipelines import status; import flows.cli\n"
        "assert not {'torch', 'ray', 'prefect', 'mlflow'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("word", ["import pickle", "torch.load(", "yaml.load(", "shell=True", "joblib.load"])
def test_no_unsafe_loading_and_no_shell_strings(word: str) -> None:
    sources = [path for folder in ("lclsc", "pipelines", "flows") for path in (ROOT / folder).rglob("*.py")]
    safe = {"yaml.load("}  # ruamel's round-trip loader, which makes no objects
    found = [path.name for path in sources if word in path.read_text()]
    assert not found or (word in safe and set(found) <= {"params_file.py"})


def test_the_locked_packages_are_the_installed_ones() -> None:
    from pipelines import doctor

    findings = {finding.name: finding for finding in doctor.run(None)}
    assert findings["packages"].ok, findings["packages"].found


def test_the_prefect_server_imports() -> None:
    """A FastAPI newer than its cap breaks it in a way that only shows when the server starts."""
    subprocess.run([sys.executable, "-c", "import prefect.server.api.server"], check=True, capture_output=True)
