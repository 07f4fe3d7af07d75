"""What the report page says, gathered from a workspace: plain data, nothing drawn yet.

Reads   manifest.csv, splits.csv, reports/{extract,train,evaluate}.json, reports/predictions.parquet
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from statistics import median
from typing import Any

import pyarrow.parquet as pq

from pipelines import manifest
from pipelines.errors import StageError
from pipelines.files import digest, read_json
from pipelines.manifest import Video
from pipelines.report.sheet import Pair, Tile
from pipelines.schemas import REASONS
from pipelines.workspace import Workspace

WAITING = "waiting"


@dataclass(frozen=True, kw_only=True)
class DataRow:
    """How much data one class, or a whole split, holds."""

    name: str
    patients: int
    videos: int
    frames: int
    kept: int
    dropped: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    total: DataRow
    classes: tuple[DataRow, ...]


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    total: DataRow
    splits: tuple[SplitFacts, ...]
    reasons: tuple[str, ...]
    domains: Mapping[str, int]  # videos
    sites: Mapping[str, int]  # videos
    waiting: tuple[str, ...]
    patients_in_two_splits: tuple[str, ...]
    scored_outside_test: tuple[str, ...]  # patients scored as unseen whom splits.csv places elsewhere
    shapes: Mapping[str, int]  # videos by the shape of their field of view
    recipe: str


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A scored frame worth showing."""

    video_id: str
    frame_index: int
    label: str
    predicted: str
    probability: float
    reject: bool

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Pick:
        """From a row of reports/predictions.parquet."""
        return cls(
            **{key: row[key] for key in ("video_id", "frame_index", "label", "predicted", "reject")},
            probability=max(row["probabilities"]),
        )

    @property
    def correct(self) -> bool:
        return self.label == self.predicted

    @property
    def caption(self) -> str:
        truth = "" if self.correct else f"truth: {self.label}\n"
        where = f"{self.video_id[:8]} · {self.frame_index}"
        return f"{self.predicted} {self.probability:.2f}\n{truth}{where}"


@dataclass(frozen=True, kw_only=True)
class PageFacts:
    """Everything on the page. A figure without a value is None, never 0."""

    name: str
    version: str
    aliases: tuple[str, ...]
    status: str
    data_version: str
    commit: str | None
    data: DataFacts
    training: Mapping[str, Any]  # reports/train.json
    evaluation: Mapping[str, Any]  # reports/evaluate.json
    gate: Mapping[str, Any] | None = None
    lineage: Mapping[str, Any] | None = None
    lineage_sha256: str | None = None
    durations: Mapping[str, float] = field(default_factory=dict)  # stage -> seconds
    tiles: tuple[Tile, ...] = ()
    pairs: tuple[Pair, ...] = ()  # champion and challenger on the same frames
    changes: Mapping[str, Any] | None = None  # diff/1 from the champion
    card: Mapping[str, str] = field(default_factory=dict)  # params.yaml: card


def gather(
    workspace: Workspace,
    *,
    registration: Mapping[str, Any],
    gate: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | None = None,
    durations: Mapping[str, float] | None = None,
    tiles: Sequence[Tile] = (),
    pairs: Sequence[Pair] = (),
    changes: Mapping[str, Any] | None = None,
    card: Mapping[str, str] | None = None,
    commit: str | None = None,
) -> PageFacts:
    """What the workspace and the registry say about one version. ``commit`` defaults to the lineage's."""
    extract, train, evaluate = (_report(workspace, stage) for stage in ("extract", "train", "evaluate"))
    found = scored(workspace)
    return PageFacts(
        name=str(registration["name"]),
        version=str(registration["version"]),
        aliases=tuple(registration.get("aliases") or ()),
        status=str(registration.get("status") or ""),
        data_version=manifest.data_version(workspace.manifest, workspace.splits),
        commit=commit or (lineage or {}).get("commit"),
        data=_data(workspace, extract, found),
        training=train,
        evaluation=evaluate,
        gate=gate,
        lineage=lineage,
        lineage_sha256=digest(lineage) if lineage else None,
        durations=dict(durations or {}),
        tiles=tuple(tiles),
        pairs=tuple(pairs),
        changes=changes,
        card=dict(card or {}),
    )


def frames_to_show(workspace: Workspace, right: int = 6, wrong: int = 6) -> list[Pick]:
    """Typical right frames of each class, then the surest mistakes; one a video, as its frames look alike."""
    picks = [Pick.of(row) for row in scored(workspace)]
    worst = sorted(
        (pick for pick in picks if not pick.correct),
        key=lambda pick: (pick.reject, -pick.probability, pick.video_id, pick.frame_index),
    )
    return _typical(picks)[:right] + _one_a_video(worst)[:wrong]


def _typical(picks: Sequence[Pick]) -> list[Pick]:
    """Right frames closest to their class's median probability, the classes taking turns."""
    by_class: dict[str, list[Pick]] = defaultdict(list)
    for pick in picks:
        if pick.correct:
            by_class[pick.label].append(pick)
    queues = [_one_a_video(_from_the_middle(by_class[label])) for label in sorted(by_class)]
    return [pick for turn in zip_longest(*queues) for pick in turn if pick is not None]


def _from_the_middle(picks: Sequence[Pick]) -> list[Pick]:
    middle = median(pick.probability for pick in picks)
    return sorted(picks, key=lambda pick: (abs(pick.probability - middle), pick.video_id, pick.frame_index))


def _one_a_video(picks: Iterable[Pick]) -> list[Pick]:
    first: dict[str, Pick] = {}
    for pick in picks:
        first.setdefault(pick.video_id, pick)
    return list(first.values())


def scored(workspace: Workspace) -> list[dict[str, Any]]:
    """Kept frames of unseen patients."""
    columns = ["video_id", "frame_index", "split", "label", "predicted", "probabilities", "reject", "keep"]
    if not workspace.predictions.exists():
        raise _missing("reports/predictions.parquet", "evaluate")
    rows: list[dict[str, Any]] = pq.read_table(workspace.predictions, columns=columns).to_pylist()
    return [row for row in rows if row["split"] == "test" and row["keep"]]


def _report(workspace: Workspace, stage: str) -> dict[str, Any]:
    path = workspace.stage_report(stage)
    if not path.exists():
        raise _missing(f"reports/{stage}.json", stage)
    return dict(read_json(path))


def _missing(what: str, stage: str) -> StageError:
    return StageError("report_input_missing", f"{what} is missing.", f"Run `dvc repro {stage}`.")


def _data(workspace: Workspace, extract: Mapping[str, Any], scored: Sequence[Mapping[str, Any]]) -> DataFacts:
    videos = manifest.read_videos(workspace.manifest)
    splits = manifest.read_splits(workspace.splits)
    done = {str(row["video_id"]): row for row in extract["per_video"]}
    groups: dict[str, list[Video]] = defaultdict(list)
    for video in videos:
        groups[splits.get(video.patient_id, WAITING)].append(video)
    total = _row("all", videos, done)
    reasons = (*REASONS, *sorted(set(total.dropped) - set(REASONS)))
    return DataFacts(
        total=total,
        splits=tuple(_split(name, groups[name], done) for name in (*manifest.SPLITS, WAITING) if groups[name]),
        reasons=tuple(name for name in reasons if total.dropped.get(name)),
        domains=_counted(video.domain for video in videos),
        sites=_counted(video.site for video in videos),
        waiting=tuple(_words(item) for item in extract.get("waiting") or ()),
        patients_in_two_splits=_in_two_splits(workspace),
        scored_outside_test=_outside_test(videos, splits, scored),
        shapes=_counted(_words(row["shape"]) for row in done.values() if row.get("shape")),
        recipe=str(extract.get("recipe") or ""),
    )


def _split(name: str, videos: Sequence[Video], done: Mapping[str, Mapping[str, Any]]) -> SplitFacts:
    labels = sorted({video.label for video in videos})
    return SplitFacts(
        total=_row(name, videos, done),
        classes=tuple(_row(label, [video for video in videos if video.label == label], done) for label in labels),
    )


def _row(name: str, videos: Sequence[Video], done: Mapping[str, Mapping[str, Any]]) -> DataRow:
    found = [done[video.video_id] for video in videos if video.video_id in done]
    dropped: Counter[str] = Counter()
    for row in found:
        dropped.update(row.get("reasons") or {})
    return DataRow(
        name=name,
        patients=len({video.patient_id for video in videos}),
        videos=len(videos),
        frames=sum(row["frames"] for row in found),
        kept=sum(row["kept"] for row in found),
        dropped=dict(sorted(dropped.items())),
    )


def _in_two_splits(workspace: Workspace) -> tuple[str, ...]:
    """Read row by row: a mapping would hide the second one."""
    places: dict[str, set[str]] = defaultdict(set)
    with workspace.splits.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            places[row["patient_id"]].add(row["split"])
    return tuple(sorted(patient for patient, found in places.items() if len(found) > 1))


def _outside_test(
    videos: Sequence[Video], splits: Mapping[str, str], scored: Sequence[Mapping[str, Any]]
) -> tuple[str, ...]:
    seen = {row["video_id"] for row in scored}
    patients = {video.patient_id for video in videos if video.video_id in seen}
    return tuple(sorted(patient for patient in patients if splits.get(patient) != "test"))


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _words(item: Any) -> str:
    if isinstance(item, Mapping):
        return ", ".join(f"{key} {value}" for key, value in item.items())
    if isinstance(item, (list, tuple)):
        return " × ".join(map(str, item))
    return str(item)
