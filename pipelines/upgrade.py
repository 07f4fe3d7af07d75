"""Bring an older workspace to this version: keys, stages and ignore rules it lacks. Values and comments stay.

Writes  params.yaml, dvc.yaml, prefect.yaml, .gitignore

Nothing is committed: whoever asked looks at ``git diff`` and commits, and a scheduled retrain waits for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from ruamel.yaml.comments import CommentedMap

from pipelines import params_file, versioning
from pipelines.files import write_bytes, write_text
from pipelines.workspace import Workspace, template_file


@dataclass(frozen=True)
class Change:
    """One thing that was changed, and in which file."""

    file: str
    what: str


def run(workspace: Workspace) -> list[Change]:
    """What was changed; empty where the workspace is up to date. The caller holds the workspace."""
    return [*_params(workspace), *_shipped(workspace), *_ignored(workspace)]


def _params(workspace: Workspace) -> list[Change]:
    shipped, own = params_file.read_document(template_file("params.yaml")), params_file.read_document(workspace.params)
    changes = [Change("params.yaml", what) for what in _align(own, shipped, ())]
    if changes:
        params_file.write_document(workspace.params, own)
    return changes


def _align(own: CommentedMap, shipped: CommentedMap, above: tuple[str, ...]) -> Iterator[str]:
    """Give ``own`` the keys it lacks, at their places and with their comments; drop those nobody reads."""
    for key in [key for key in own if key not in shipped]:
        yield f"{'.'.join((*above, key))} is no longer used: removed (was {own[key]!r})"
        del own[key]
    for position, key in enumerate(shipped):
        if key not in own:
            own.insert(min(position, len(own)), key, deepcopy(shipped[key]))
            if key in shipped.ca.items:
                own.ca.items[key] = deepcopy(shipped.ca.items[key])
            yield f"{'.'.join((*above, key))} added: {_shown(shipped[key])}"
        elif shipped[key] and isinstance(shipped[key], CommentedMap) and isinstance(own[key], CommentedMap):
            yield from _align(own[key], shipped[key], (*above, key))


def _shown(value: Any) -> str:
    return ", ".join(f"{key} {_shown(item)}" for key, item in value.items()) if isinstance(value, dict) else str(value)


def _shipped(workspace: Workspace) -> Iterator[Change]:
    """dvc.yaml is the shipped one always; prefect.yaml is the workspace's own once it has one."""
    shipped = template_file("dvc.yaml").read_bytes()
    if workspace.dvc_yaml.read_bytes() != shipped:
        write_bytes(workspace.dvc_yaml, shipped)
        yield Change("dvc.yaml", "the stages of this version")
    own = workspace.root / "prefect.yaml"
    if not own.exists():
        write_bytes(own, template_file("prefect.yaml").read_bytes())
        yield Change("prefect.yaml", "when the flows run")


def _ignored(workspace: Workspace) -> Iterator[Change]:
    path = workspace.root / ".gitignore"
    lines = path.read_text().splitlines() if path.exists() else []
    missing = [line for line in versioning.GITIGNORE.splitlines() if line not in lines]
    if missing:
        write_text(path, "\n".join([*lines, *missing]) + "\n")
        yield Change(".gitignore", f"{' '.join(missing)} added")
