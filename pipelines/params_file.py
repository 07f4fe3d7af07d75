"""params.yaml as people keep it: values are changed, comments and order stay."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipelines.files import atomic_path


def write(target: Path, source: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """``source`` with the sections of ``changes`` updated, written to ``target`` (which may be the same file)."""
    yaml = YAML()  # the round-trip loader: it makes no objects
    yaml.preserve_quotes = True
    document = yaml.load(source.read_text(encoding="utf-8"))
    for section, values in changes.items():
        document[section].update(values)
    with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8") as file:
        yaml.dump(document, file)
