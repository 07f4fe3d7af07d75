"""The lineage record `lineage/1`: everything that explains a model, and nothing that merely happened to it.

Plain values in, a dictionary out, the same bytes for the same values. No clock, host, path, version number or
MLflow id is in it, so two machines that did the same work write the same record.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from pipelines.errors import StageError
from pipelines.files import canonical_json, digest, read_json, sha256_bytes, sha256_file, write_bytes, write_text
from pipelines.workspace import template_file

SCHEMA = "lineage/1"
FILE = "lineage.json"
SUMS = "SHA256SUMS"
NOT_OF_THE_TREE = frozenset({"MLmodel", FILE, "registered_model_meta"})
"""The first is covered by SHA256SUMS, which is of the tree; the record holds the hash; the last comes with loading."""


def build(
    *,
    git_commit: str,
    dvc_lock: Mapping[str, Any],
    manifest_sha256: str,
    splits_sha256: str,
    video_ids: Mapping[str, Sequence[str]],
    params: Mapping[str, Any],
    environment: Mapping[str, Any],
    seeds: Mapping[str, int],
    logical_shards: int,
    restarts: int | None,
    weights_sha256: str,
    package_sha256: str,
    source_tar_sha256: str,
    metrics: Mapping[str, float | None],
    previous_sha256: str | None,
) -> dict[str, Any]:
    """The record. ``dvc_lock`` is the parsed file; ``video_ids`` lists each split's videos."""
    record = {
        "schema": SCHEMA,
        "git_commit": git_commit,
        "dvc_lock": dict(dvc_lock),
        "data": data_section(manifest_sha256, splits_sha256, video_ids),
        "params": dict(params),
        "environment": dict(environment),
        "training": {"seeds": dict(seeds), "logical_shards": logical_shards, "restarts": restarts},
        "weights_sha256": weights_sha256,
        "package_sha256": package_sha256,
        "source_tar_sha256": source_tar_sha256,
        "metrics": dict(metrics),
        "previous_sha256": previous_sha256,
    }
    check(record)
    return record


def data_section(manifest_sha256: str, splits_sha256: str, video_ids: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Hashes of what the model saw; ``root_sha256`` covers every video of every split."""
    splits = {split: {"videos": len(ids), "sha256": digest(sorted(ids))} for split, ids in sorted(video_ids.items())}
    return {
        "manifest_sha256": manifest_sha256,
        "splits_sha256": splits_sha256,
        "splits": splits,
        "root_sha256": digest({split: entry["sha256"] for split, entry in splits.items()}),
    }


def environment(*, threads: int, gpu: str | None = None, lock: Path | None = None) -> dict[str, Any]:
    """What can change numbers without a change of code: packages, Python, platform, processor, threads."""
    return {
        "lock_sha256": sha256_file(lock or template_file("requirements.lock")),
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "cpu": cpu_capability(),
        "gpu": gpu,
        "threads": threads,
    }


def cpu_capability() -> str:
    """The vector instructions torch picks its kernels by: two machines that share it share their sums."""
    import torch

    return str(torch.backends.cpu.get_cpu_capability())


def platform_name(record: Mapping[str, Any]) -> str:
    """The machine of a record in a reader's words."""
    found = record["environment"]
    return f"{found['platform']} {found['gpu'] or found['cpu']}, Python {found['python']}"


def tree_digest(folder: Path, exclude: Collection[str] = NOT_OF_THE_TREE) -> str:
    """One hash over names and bytes of every file below ``folder``; ``exclude`` names files at its top.

    Byte code is left out because loading a model writes it; who must run only what was hashed removes it.
    """
    files = {path.relative_to(folder).as_posix(): path for path in _tree(folder)}
    return digest({name: sha256_file(path) for name, path in files.items() if name not in exclude})


def write_sums(folder: Path) -> None:
    """``SHA256SUMS`` over every file of a package, MLmodel too, so that a changed one has a name (`sha256sum -c`)."""
    files = {path.relative_to(folder).as_posix(): path for path in _tree(folder)}
    lines = [f"{sha256_file(path)}  {name}\n" for name, path in files.items() if name not in (SUMS, FILE)]
    write_text(folder / SUMS, "".join(lines))


def to_bytes(record: Mapping[str, Any]) -> bytes:
    return canonical_json(dict(record))


def sha256(record: Mapping[str, Any]) -> str:
    """The record's name in tags and in the ledger."""
    return sha256_bytes(to_bytes(record))


def write(folder: Path, record: Mapping[str, Any]) -> Path:
    """Put a valid record into a model package."""
    check(record)
    write_bytes(folder / FILE, to_bytes(record))
    return folder / FILE


def read(folder: Path) -> dict[str, Any]:
    """The record inside a model package."""
    record = dict(read_json(folder / FILE))
    check(record)
    return record


def verify_package(folder: Path) -> dict[str, Any]:
    """The record of a package whose files are the ones it names; StageError for any other."""
    record = read(folder)
    if tree_digest(folder) != record["package_sha256"] or not _is_card_listed(folder):
        raise StageError(
            "package_damaged",
            f"The package of lineage {sha256(record)[:12]} does not hold the files it was registered with.",
            "Restore the artifact store from a backup, or retrain; do not use this model.",
        )
    return record


def _is_card_listed(folder: Path) -> bool:
    """MLmodel, by which a package is loaded, is the one of SHA256SUMS. Packages of before there was one pass."""
    sums = folder / SUMS
    return not sums.exists() or f"{sha256_file(folder / 'MLmodel')}  MLmodel" in sums.read_text().splitlines()


def check(record: Mapping[str, Any]) -> None:
    """StageError naming the first key that breaks the published schema."""
    errors = sorted(_validator().iter_errors(dict(record)), key=lambda error: list(error.path))
    if errors:
        where = "/".join(str(part) for part in errors[0].path) or "the record"
        raise StageError(
            "lineage_invalid",
            f"Lineage breaks {SCHEMA} at {where}: {errors[0].message}.",
            "This is a defect of lclsc; report it with this message.",
        )


def _tree(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise StageError(
                "package_link",
                f"{path.relative_to(folder)} is a link: its bytes are not the package's.",
                "Build the package again.",
            )
        if path.is_file() and "__pycache__" not in path.relative_to(folder).parts:
            yield path


@cache
def _validator() -> Any:
    schema = read_json(Path(__file__).parent / "schemas_json" / "lineage-1.json")
    return jsonschema.Draft202012Validator(schema)
