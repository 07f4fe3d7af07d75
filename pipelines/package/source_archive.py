"""source.tar: the project's own code, as one deterministic archive that travels with every model version.

A model outlives upgrades: `lclsc reproduce` runs the archive's code, not the installed one. The same code
gives the same bytes on every machine: sorted names, no owners, no times, one format.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from pipelines.errors import StageError
from pipelines.files import sha256_bytes, write_bytes
from pipelines.workspace import template_file

FILE = "source.tar"
PACKAGES = ("flows", "lclsc", "pipelines")
TEMPLATES = ("dvc.yaml", "params.yaml", "requirements.lock")
LEFT_OUT = {"__pycache__", "template"}  # byte code; the templates stand at the root, as in a checkout
MODE = 0o644


def write(target: Path) -> str:
    """Write the archive of the installed code; returns its SHA-256."""
    content = build()
    write_bytes(target, content)
    return sha256_bytes(content)


def build() -> bytes:
    """An uncompressed POSIX tar: compressors change their output between versions."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, path in sorted(files().items()):
            content = path.read_bytes()
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), MODE
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


def files() -> dict[str, Path]:
    """Name in the archive -> file: every package with its data files, and the templates of workspaces."""
    own = {path.relative_to(root.parent).as_posix(): path for root in map(_root, PACKAGES) for path in _below(root)}
    return own | {name: template_file(name) for name in TEMPLATES}


def unpack(archive: Path, folder: Path, *, sha256: str) -> None:
    """Unpack an archive whose bytes are the recorded ones; only plain files below ``folder`` come out."""
    content = archive.read_bytes()
    if sha256_bytes(content) != sha256:
        raise StageError(
            "source_changed",
            f"{archive.name} is not the archive that the lineage record names.",
            "Restore the version's files from a backup of the artifact store.",
        )
    with tarfile.open(fileobj=io.BytesIO(content)) as source:
        source.extractall(folder, filter="data")


def _root(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _below(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        if path.is_file() and not LEFT_OUT.intersection(path.relative_to(root).parts):
            yield path
