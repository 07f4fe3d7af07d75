"""params.yaml as people keep it: values are changed, comments and order stay."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipelines.files import atomic_path


def write(target: Path, source: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """``source`` with the sections of ``changes`` updated, written to ``target`` (which may be the same file)."""
    document = read_document(source)
    for section, values in changes.items():
        document[section].update(values)
    write_document(target, document)


def read_document(path: Path) -> Any:
    """The file with its comments and quotes, as ruamel's round-trip loader keeps them."""
    return _yaml().load(path.read_text(encoding="utf-8"))


def write_document(target: Path, document: Any) -> None:
    with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8") as file:
        _yaml().dump(document, file)


def _yaml() -> YAML:
    yaml = YAML()  # the round-trip loader: it makes no objects
    yaml.preserve_quotes = True
    return yaml
