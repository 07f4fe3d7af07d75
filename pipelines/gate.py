"""The gate: may this challenger take the champion's place?

Both packaged models are scored on the same current test patients, each in a process of its own with its own
readers; the scores are kept by weights, recipe and video. What cannot be judged refuses or waits: the gate
never passes a model for lack of numbers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from pipelines import lineage, metrics
from pipelines.errors import StageError
from pipelines.files import digest, read_json, sha256_file, write_json
from pipelines.package import child
from pipelines.package.build import training_videos
from pipelines.params import EvaluateParams, PromoteParams

COLUMNS = ["video_id", "frame_index", "predicted", "probabilities", "reject"]
ROUNDING = 1e-12
Verdict = Literal["passed", "refused", "undecided"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Contestant:
    """A packaged model and what it says about the test videos."""

    name: str
    classes: Sequence[str]
    training_videos: frozenset[str]
    scores: pd.DataFrame  # COLUMNS, kept frames only


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One condition. ``note`` is a sentence for a reader."""

    name: str
    verdict: Verdict
    value: float | None
    bound: float | None
    note: str
    interval: list[float] | None = None


@dataclass(frozen=True, kw_only=True)
class GateResult:
    verdict: Verdict
    clauses: list[Clause]
    policy: dict[str, Any]
    challenger: str
    champion: str | None

    def as_json(self) -> dict[str, Any]:
        """gate.json; ``policy_sha256`` says under which rules the verdict was reached."""
        return {"schema": "gate/1", **asdict(self), "policy_sha256": digest(self.policy)}


def contestant(name: str, package: Path, videos: Mapping[str, Path], cache: Path) -> Contestant:
    """Score a package on the test videos and read what it says about itself."""
    return Contestant(
        name=name,
        classes=list(read_json(package / "artifacts" / "model" / "model.json")["classes"]),
        training_videos=training_videos(package),
        scores=score_package(package, videos, cache),
    )


def score_package(package: Path, videos: Mapping[str, Path], cache: Path) -> pd.DataFrame:
    """Kept frames of every video as the packaged model sees them. A scored video is never scored again."""
    folder = cache / package_identity(package)
    folder.mkdir(parents=True, exist_ok=True)
    missing = {video_id: path for video_id, path in videos.items() if not (folder / f"{video_id}.json").exists()}
    if missing:
        _score(package, missing, folder)
    rows = [row for video_id in sorted(videos) for row in _rows(folder, video_id)]
    return pd.DataFrame(rows, columns=COLUMNS)


def package_identity(package: Path) -> str:
    """Names what can change a score: the weights, and the recipe (model card and every line of code)."""
    model = package / "artifacts" / "model"
    recipe = {
        "card": sha256_file(model / "model.json"),
        "code": lineage.tree_digest(package / "code"),
        "interface": sha256_file(package / "model_code.py"),
    }
    return f"{sha256_file(model / 'model.safetensors')[:16]}-{digest(recipe)[:12]}"


def decide(
    policy: PromoteParams,
    *,
    challenger: Contestant,
    champion: Contestant | None,
    test: pd.DataFrame,
    bootstrap: EvaluateParams,
) -> GateResult:
    """Judge by every clause. ``test`` lists the current test videos: video_id, patient_id, label."""
    mine = _labelled(challenger, test)
    clauses = [_unseen(challenger, champion, test), _patients(policy, mine), _floor(policy, mine)]
    if champion is not None:
        clauses.insert(1, _classes(policy, challenger, champion))
        clauses.append(_loss(policy, mine, _labelled(champion, test), challenger, champion, bootstrap))
    return GateResult(
        verdict=_worst(clauses),
        clauses=clauses,
        policy=policy.model_dump(),
        challenger=challenger.name,
        champion=None if champion is None else champion.name,
    )


def figures(one: Contestant, test: pd.DataFrame) -> dict[str, float | None]:
    """What a reader compares side by side, over the frames that this model judges."""
    frames = _labelled(one, test)
    if frames.empty:
        return {"macro_f1": None, "balanced_accuracy": None}
    matrix = metrics.confusion(list(frames.label), list(frames.predicted), _names(frames))
    return {"macro_f1": macro_f1(frames), "balanced_accuracy": float(metrics.balanced_accuracy(matrix))}


def macro_f1(frames: pd.DataFrame) -> float | None:
    """Of frames with ``label`` and ``predicted``, whatever classes either names; None without frames."""
    if frames.empty:
        return None
    value = float(metrics.macro_f1(metrics.confusion(list(frames.label), list(frames.predicted), _names(frames))))
    return value if np.isfinite(value) else None


def _unseen(challenger: Contestant, champion: Contestant | None, test: pd.DataFrame) -> Clause:
    contestants = [challenger, champion] if champion else [challenger]
    seen = {one.name: len(one.training_videos & set(test.video_id)) for one in contestants}
    leaked = [f"{name} was trained on {count} of the test videos" for name, count in seen.items() if count]
    return Clause(
        name="unseen_videos",
        verdict="refused" if leaked else "passed",
        value=float(sum(seen.values())),
        bound=0.0,
        note="; ".join(leaked) + "." if leaked else "No test video was used in training.",
    )


def _classes(policy: PromoteParams, challenger: Contestant, champion: Contestant) -> Clause:
    mine, theirs = set(challenger.classes), set(champion.classes)
    parts = [
        f"{word} {', '.join(sorted(names))}"
        for word, names in (("new:", mine - theirs), ("gone:", theirs - mine))
        if names
    ]
    return Clause(
        name="classes",
        verdict="passed" if not parts or policy.allow_new_classes else "refused",
        value=float(len(mine ^ theirs)),
        bound=None if policy.allow_new_classes else 0.0,
        note=f"Classes differ ({'; '.join(parts)})." if parts else "Both know the same classes.",
    )


def _patients(policy: PromoteParams, frames: pd.DataFrame) -> Clause:
    count = int(frames.patient_id.nunique())
    missing = policy.min_patients - count
    note = f"{count} unseen patients have frames that can be judged"
    return Clause(
        name="enough_patients",
        verdict="undecided" if missing > 0 else "passed",
        value=float(count),
        bound=float(policy.min_patients),
        note=f"{note}; {missing} more are needed." if missing > 0 else f"{note}.",
    )


def _floor(policy: PromoteParams, frames: pd.DataFrame) -> Clause:
    value = macro_f1(frames)
    found = "cannot be computed" if value is None else f"is {value:.3f}"
    return Clause(
        name="macro_f1",
        verdict="passed" if value is not None and value >= policy.min_macro_f1 - ROUNDING else "refused",
        value=value,
        bound=policy.min_macro_f1,
        note=f"Macro-F1 on unseen patients {found}; at least {policy.min_macro_f1:.3f} is asked.",
    )


def _loss(
    policy: PromoteParams,
    mine: pd.DataFrame,
    theirs: pd.DataFrame,
    challenger: Contestant,
    champion: Contestant,
    bootstrap: EvaluateParams,
) -> Clause:
    """Macro-F1 lost against the champion over the same videos of the classes both know."""
    shared = set(challenger.classes) & set(champion.classes)
    common = set(mine.video_id) & set(theirs.video_id)
    mine, theirs = (one[one.label.isin(shared) & one.video_id.isin(common)] for one in (mine, theirs))
    value, before = macro_f1(mine), macro_f1(theirs)
    if value is None or before is None:
        note = "The two models share no video that both can judge."
        return Clause(name="loss", verdict="refused", value=None, bound=policy.max_loss, note=note)
    interval = paired_interval(mine, theirs, bootstrap)
    lost = before - value
    return Clause(
        name="loss",
        verdict="passed" if lost <= policy.max_loss + ROUNDING else "refused",
        value=lost,
        bound=policy.max_loss,
        note=f"Macro-F1 {value:.3f} against the champion's {before:.3f} on the same "
        f"{mine.patient_id.nunique()} patients ({_span(interval, bootstrap.confidence)}); "
        f"a loss of up to {policy.max_loss:.3f} is allowed.",
        interval=interval,
    )


def paired_interval(mine: pd.DataFrame, theirs: pd.DataFrame, bootstrap: EvaluateParams) -> list[float] | None:
    """Of the macro-F1 lost: every draw resamples patients and gives both models the same ones."""
    names = _names(pd.concat([mine, theirs]))
    strata = [label for label, _ in sorted(set(zip(mine.label, mine.patient_id, strict=True)))]
    weights = metrics.patient_bootstrap(strata, draws=bootstrap.bootstrap, seed=bootstrap.seed)
    drawn = [
        metrics.macro_f1(np.einsum("bp,pij->bij", weights, metrics.patient_confusions(frames, names)))
        for frames in (theirs, mine)
    ]
    return metrics.interval(drawn[0] - drawn[1], bootstrap.confidence)


def _labelled(one: Contestant, test: pd.DataFrame) -> pd.DataFrame:
    return one.scores.merge(test[["video_id", "patient_id", "label"]], on="video_id", validate="many_to_one")


def _names(frames: pd.DataFrame) -> list[str]:
    return sorted(set(frames.label) | set(frames.predicted))


def _worst(clauses: Sequence[Clause]) -> Verdict:
    """One refusal refuses, whatever the number of patients; else one doubt leaves it open."""
    verdicts = {clause.verdict for clause in clauses}
    if "refused" in verdicts:
        return "refused"
    return "undecided" if "undecided" in verdicts else "passed"


def _span(interval: list[float] | None, confidence: float) -> str:
    if interval is None:
        return "no interval"
    return f"{confidence:.0%} interval of the loss {interval[0]:+.3f} to {interval[1]:+.3f}"


def _score(package: Path, videos: Mapping[str, Path], out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="lclsc-gate-") as name:
        request = Path(name) / "request.json"
        write_json(request, {video_id: str(path.resolve()) for video_id, path in videos.items()})
        child.run("score_child.py", package, request, out)


def _rows(folder: Path, video_id: str) -> list[dict[str, Any]]:
    path = folder / f"{video_id}.json"
    found = read_json(path)
    if "error" in found:
        path.unlink()
        raise StageError(
            "video_not_scored",
            f"A packaged model cannot read the test video {video_id[:12]}: {found['error']}",
            "Retract that video, or retrain so that the champion is a model with today's readers.",
        )
    return [{**row, "video_id": video_id, "predicted": row["class"]} for row in found["rows"]]
