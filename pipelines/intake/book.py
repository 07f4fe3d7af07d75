"""The tables in memory while a batch is taken in: what is known, what comes new, what contradicts it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

from pipelines import identity, manifest
from pipelines.evidence import withdrawals
from pipelines.evidence.ledger_events import whole_ledger
from pipelines.intake.incoming import IncomingVideo, RowError
from pipelines.ledger import now
from pipelines.manifest import Provenance, Video
from pipelines.workspace import Workspace

CORRECTABLE = ("label", "domain", "site")
"""Columns that ``intake --update`` may change, beside a mask that is lacking. Patients and splits never move."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """A manifest row as the workspace may keep it: without raw ids and names. Empty cells claim nothing."""

    patient_id: str  # the pseudonym
    label: str
    domain: str
    site: str
    split: str
    consent: str
    source: str  # keyed hashes of path and batch, "<path>.<batch>"

    def as_json(self) -> dict[str, str]:
        return asdict(self)


class Refused(Exception):  # noqa: N818 - a row's fate, no fault of ours
    """A row that contradicts its file or the record."""

    def __init__(self, error: RowError) -> None:
        super().__init__(error.code)
        self.error = error


@dataclass
class Book:
    """What git holds, and what this batch adds to it."""

    videos: dict[str, Video]
    splits: dict[str, str]
    provenance: dict[str, Provenance]
    key: identity.Key
    held_keys: list[identity.Key]
    withdrawn: frozenset[str]
    """Patients whose consent was taken back."""
    wanted: dict[str, str] = field(default_factory=dict)
    new_videos: list[Video] = field(default_factory=list)
    corrections: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    by_source: dict[tuple[str, str], list[tuple[str, str]]] = field(default_factory=dict)
    rows: dict[str, IncomingVideo] = field(default_factory=dict)
    """The first good row of this batch that named a video."""

    @classmethod
    def open(cls, workspace: Workspace) -> Book:
        videos = {video.video_id: video for video in manifest.read_videos(workspace.manifest)}
        book = cls(
            videos=videos,
            splits=manifest.read_splits(workspace.splits),
            provenance={row.video_id: row for row in manifest.read_provenance(workspace.provenance)},
            key=identity.key_for(workspace.settings().get("key_id"), has_rows=bool(videos)),
            held_keys=identity.load_keys(),
            withdrawn=withdrawals.of(whole_ledger(workspace)).patients,
        )
        for video_id, row in book.provenance.items():
            if video_id in videos:
                book._remember_source(videos[video_id].patient_id, row.source_name_hmac, video_id)
        return book

    # --- describing ---

    def patient_id(self, raw_patient_id: str) -> str:
        """The pseudonym a known patient already has under any held key, else one under the workspace's."""
        candidates = [key.pseudonym(raw_patient_id) for key in self.held_keys]
        known = (one for one in candidates if one in self.splits or one in self.withdrawn)
        return next(known, self.key.pseudonym(raw_patient_id))

    def batch_id(self, batch: str) -> str:
        return self.key.hmac(batch, "batch")[:16]

    def describe(self, row: IncomingVideo, batch: str) -> Described:
        return Described(
            patient_id=self.patient_id(row.raw_patient_id),
            label=row.label,
            domain=row.domain,
            site=row.site,
            split=row.split,
            consent=row.consent,
            source=f"{self.key.hmac(row.path, 'source')[:32]}.{self.batch_id(batch)}",
        )

    def split_of(self, described: Described) -> str:
        """Recorded, or asked for by the sender; empty while undecided."""
        patient = described.patient_id
        return self.splits.get(patient) or self.wanted.get(patient) or described.split

    # --- contradictions ---

    def require_consent(self, row: int, described: Described) -> None:
        """Refused for a patient who was forgotten: asked before a byte of theirs is copied."""
        if described.patient_id in self.withdrawn:
            message = (
                f"patient {described.patient_id} withdrew (`lclsc forget`): nothing of theirs is taken in. "
                "Remove the row; a patient who consents anew needs a new patient_id"
            )
            raise _refused(row, "patient_id", "", "withdrawn", message)

    def require_consistent(self, row: int, described: Described, video_id: str, *, update: bool) -> None:
        """Refused where a row contradicts the ledger of splits or what is recorded of this video."""
        known = self.split_of(described)
        if described.split and described.split != known:
            raise _refused(row, "split", described.split, "split_moves", f"this patient is in {known} already")
        recorded = self.videos.get(video_id)
        if recorded is None:
            self._require_new_path(row, described, video_id)
            return
        if recorded.patient_id != described.patient_id:
            raise _refused(row, "patient_id", "", "patient_differs", self._whose(recorded))
        for column, (before, after) in self.differences(described, video_id).items():
            if not update:
                message = f"this video is recorded as {before!r}; `lclsc intake SRC --update` corrects the record"
                raise _refused(row, column, after, f"{column}_differs", message)

    def _whose(self, recorded: Video) -> str:
        """Where a video's bytes came from before, and the two ways out."""
        first = self.rows.get(recorded.video_id)
        where = f"row {first.row}, {first.path}, holds the same bytes" if first else "these bytes were taken in before"
        return (
            f"{where}: video {recorded.video_id[:12]} is recorded for another patient, {recorded.patient_id}. "
            "Remove this row or give it that patient's patient_id; if the record is wrong, "
            f"`lclsc forget {recorded.patient_id}` deletes all videos of that patient, takes none in again, "
            "and lets this row in"
        )

    def _require_new_path(self, row: int, described: Described, video_id: str) -> None:
        for batch, other in self._seen_at(described):
            if other != video_id and batch == described.source.split(".")[1]:
                message = (
                    f"this patient's file of that name was taken in as {other[:12]}; now it is {video_id[:12]}. "
                    "Another recording needs another name; restore the file if it was overwritten"
                )
                raise _refused(row, "path", "", "path_reused", message)

    def same_name_elsewhere(self, described: Described) -> list[str]:
        """Videos of this patient that came under the same path in other batches."""
        here = described.source.split(".")[1]
        return [video_id for batch, video_id in self._seen_at(described) if batch != here]

    def differences(self, described: Described, video_id: str) -> dict[str, list[str]]:
        """column -> [recorded, claimed], of columns in which the row claims something else."""
        recorded, claimed = asdict(self.videos[video_id]), described.as_json()
        return {
            column: [recorded[column], claimed[column]]
            for column in CORRECTABLE
            if claimed[column] and claimed[column] != recorded[column]
        }

    # --- changes ---

    def accept(self, video_id: str, described: Described, mask_sha256: str) -> None:
        accepted = Video(
            video_id=video_id,
            patient_id=described.patient_id,
            site=described.site or "unknown",
            domain=described.domain or "ex-vivo",
            label=described.label,
            mask_sha256=mask_sha256,
        )
        self.videos[video_id] = accepted
        self.new_videos.append(accepted)
        if described.split:
            self.wanted[described.patient_id] = described.split
        self.provenance[video_id] = Provenance(
            video_id=video_id,
            source_name_hmac=described.source,
            received_at=now(),
            label_source="incoming manifest",
            consent=described.consent,
        )
        self._remember_source(described.patient_id, described.source, video_id)

    def correct(self, video_id: str, described: Described, late_mask_sha256: str = "") -> bool:
        """Take over what the row says otherwise, and ground truth that came late; True when there is any."""
        changes = self.differences(described, video_id)
        if late_mask_sha256:
            changes["mask_sha256"] = ["", late_mask_sha256]
        if changes:
            new = {column: claimed for column, (_, claimed) in changes.items()}
            self.videos[video_id] = replace(self.videos[video_id], **new)
            self.corrections[video_id] = changes
        return bool(changes)

    def _seen_at(self, described: Described) -> list[tuple[str, str]]:
        return self.by_source.get((described.patient_id, described.source.split(".")[0]), [])

    def _remember_source(self, patient_id: str, source: str, video_id: str) -> None:
        path, _, batch = source.partition(".")
        self.by_source.setdefault((patient_id, path), []).append((batch, video_id))


def _refused(row: int, column: str, value: str, code: str, message: str) -> Refused:
    return Refused(RowError(row=row, column=column, value=value, code=code, message=message))
