"""Same work, same record; another byte anywhere, another hash; nothing of the machine's moment inside."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tiny import ENVIRONMENT

from pipelines import lineage
from pipelines.errors import StageError

HASH = "ab" * 32


def record(**changes: Any) -> dict[str, Any]:
    inputs: dict[str, Any] = {
        "git_commit": "c" * 40,
        "dvc_lock": {"schema": "2.0", "stages": {"extract": {"cmd": "python -m pipelines.extract"}}},
        "manifest_sha256": HASH,
        "splits_sha256": HASH,
        "video_ids": {"train": ["b", "a"], "validation": ["c"], "test": ["d"]},
        "params": {"train": {"seed": 0, "learning_rate": 0.002}},
        "environment": ENVIRONMENT,
        "seeds": {"train": 0},
        "logical_shards": 4,
        "restarts": 0,
        "weights_sha256": HASH,
        "package_sha256": HASH,
        "source_tar_sha256": HASH,
        "metrics": {"macro_f1": 0.91, "saliency_iou": None},
        "previous_sha256": None,
    }
    return lineage.build(**(inputs | changes))


def test_the_order_of_inputs_changes_no_byte() -> None:
    other = record(video_ids={"test": ["d"], "validation": ["c"], "train": ["a", "b"]})
    assert lineage.to_bytes(other) == lineage.to_bytes(record())


@pytest.mark.parametrize(
    "change",
    [
        {"video_ids": {"train": ["a"], "validation": ["c"], "test": ["d"]}},
        {"video_ids": {"train": ["a", "b", "c"], "validation": [], "test": ["d"]}},
        {"metrics": {"macro_f1": 0.91}},
        {"previous_sha256": HASH},
        {"params": {}},
    ],
)
def test_every_input_is_in_the_hash(change: dict[str, Any]) -> None:
    assert lineage.sha256(record(**change)) != lineage.sha256(record())


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"git_commit": "HEAD"}, "git_commit"),
        ({"weights_sha256": "1234"}, "weights_sha256"),
        ({"metrics": {"macro_f1": "good"}}, "metrics/macro_f1"),
        ({"video_ids": {"holdout": []}}, "data/splits"),
        ({"logical_shards": 0}, "training/logical_shards"),
        ({"environment": {"hostname": "ward-7"}}, "environment"),
    ],
)
def test_what_the_schema_does_not_know_is_refused(change: dict[str, Any], where: str) -> None:
    with pytest.raises(StageError, match=where):
        record(**change)


def test_a_record_takes_no_clock_or_id() -> None:
    for stowaway in ("created_at", "run_id", "version", "host"):
        with pytest.raises(StageError, match=stowaway):
            lineage.check(record() | {stowaway: "x"})
    lineage.check(record() | {"source_tar_sha256": HASH})


def test_a_written_record_is_canonical_and_named_by_its_hash(tmp_path: Path) -> None:
    path = lineage.write(tmp_path, record())
    assert lineage.read(tmp_path) == record()
    # truth from other tools: sorted keys without spaces, and sha256sum
    assert path.read_text() == json.dumps(record(), sort_keys=True, separators=(",", ":"))
    found = subprocess.run(["sha256sum", path], capture_output=True, check=True, text=True).stdout
    assert lineage.sha256(record()) == found.split()[0]


def test_the_environment_holds_no_name_of_this_machine(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("numpy==2.4.6\n")
    found = lineage.environment(threads=2, lock=lock)
    lineage.check(record(environment=found))
    assert found["gpu"] is None
    assert str(tmp_path) not in json.dumps(found)
    assert lineage.platform_name(record()) == "Linux-x86_64 AVX2, Python 3.11.9"


def make_tree(folder: Path) -> Path:
    (folder / "code").mkdir(parents=True)
    (folder / "MLmodel").write_text("utc_time_created: now")
    (folder / "weights").write_bytes(b"\0\1")
    (folder / "code" / "MLmodel").write_text("nested, so part of the tree")
    return folder


def test_a_tree_is_its_names_and_bytes(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "a")
    before = lineage.tree_digest(tree)
    assert lineage.tree_digest(make_tree(tmp_path / "b")) == before
    for unseen in ("MLmodel", "lineage.json", "registered_model_meta", "code/__pycache__/x.pyc"):
        (tree / unseen).parent.mkdir(exist_ok=True)
        (tree / unseen).write_text("another")
    assert lineage.tree_digest(tree) == before
    (tree / "code" / "MLmodel").write_text("changed")
    assert lineage.tree_digest(tree) != before


def test_a_renamed_or_added_file_changes_the_tree(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "a")
    before = lineage.tree_digest(tree)
    (tree / "weights").rename(tree / "weights2")
    assert lineage.tree_digest(tree) != before
    (tree / "weights2").rename(tree / "weights")
    (tree / "more.py").touch()
    assert lineage.tree_digest(tree) != before


def test_a_link_in_a_package_is_refused(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "a")
    (tree / "link").symlink_to("/etc/hostname")
    with pytest.raises(StageError, match="link"):
        lineage.tree_digest(tree)


def test_a_damaged_package_is_recognised(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "a")
    lineage.write(tree, record(package_sha256=lineage.tree_digest(tree)))
    assert lineage.verify_package(tree)["package_sha256"] == lineage.tree_digest(tree)
    (tree / "weights").write_bytes(b"\0\2")
    with pytest.raises(StageError, match="registered with"):
        lineage.verify_package(tree)
