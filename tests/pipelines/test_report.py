"""The report page: whole, self-contained, escaped, and the same bytes for the same facts."""

from __future__ import annotations

import dataclasses
import html.parser
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from lclsc.corruptions import CORRUPTIONS
from pipelines import manifest, schemas
from pipelines.errors import StageError
from pipelines.evaluation.summary import summarise
from pipelines.files import digest, sha256_bytes, write_json
from pipelines.manifest import Video
from pipelines.params import EvaluateParams
from pipelines.report import figures, pairs, sheet
from pipelines.report.facts import frames_to_show, gather, scored
from pipelines.report.page import PageFacts, build_page
from pipelines.report.sheet import Pair, Tile, png_bytes, saliency_sheet
from pipelines.workspace import Workspace

CLASSES = ["glioma", "meningioma", "metastasis", "normal"]
HOSTILE = "<script>alert(1)</script>"
SIDE_PX = 96
VOID = {"meta", "img", "br", "link", "hr", "input"}
REASONS = ("dark", "blurred", "smeared", "saturated")


# --- a workspace as three stages leave it -----------------------------------------------------------


def make_workspace(root: Path, classes: list[str] = CLASSES, masks: bool = True) -> Workspace:
    root.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(root)
    rng = np.random.default_rng(7)
    videos, splits = make_manifest(classes, rng)
    manifest.write_videos(workspace.manifest, videos)
    manifest.write_splits(workspace.splits, splits)
    extract = extract_report(videos, rng)
    kept = {row["video_id"]: row["kept"] for row in extract["per_video"]}
    rows = prediction_rows([v for v in videos if splits[v.patient_id] == "test"], kept, classes, rng, masks)
    write_json(workspace.stage_report("extract"), extract)
    write_json(workspace.stage_report("train"), train_report(classes, videos, splits))
    write_json(workspace.stage_report("evaluate"), evaluate_report(rows, videos, classes, masks))
    schemas.write_table(workspace.predictions, pa.Table.from_pylist(rows, schema=schemas.PREDICTIONS))
    return workspace


def make_manifest(classes: list[str], rng: np.random.Generator) -> tuple[list[Video], dict[str, str]]:
    videos, splits = [], {}
    for number, label in enumerate(classes):
        for place in range(9 if number else 12):
            patient = "k1-" + sha256_bytes(f"{number}/{place}".encode())[:16].upper()
            splits[patient] = ("train", "train", "test", "train", "validation", "test")[place % 6]
            for clip in range(int(rng.integers(1, 4))):
                videos.append(
                    Video(
                        video_id=sha256_bytes(f"{label}/{place}/{clip}".encode()),
                        patient_id=patient,
                        site=("north", "harbour", "hill")[place // 2 % 3],
                        domain="in-vivo" if place % 4 == 0 else "ex-vivo",
                        label=label,
                        mask_sha256="",
                    )
                )
    return videos, splits


def extract_report(videos: list[Video], rng: np.random.Generator) -> dict[str, Any]:
    rows = []
    for video in videos:
        frames = int(rng.integers(40, 90))
        reasons = {name: int(rng.integers(0, 8)) for name in REASONS}
        kept = frames - sum(reasons.values())
        rows.append({"video_id": video.video_id, "frames": frames, "kept": kept, "shape": "disc", "reasons": reasons})
    return {
        "recipe": "5f0c2a9d11e8",
        "decoder": "libavcodec 61.19.101",
        "videos": len(rows),
        "frames": sum(row["frames"] for row in rows),
        "kept": sum(row["kept"] for row in rows),
        "dropped": {name: sum(row["reasons"][name] for row in rows) for name in REASONS},
        "per_video": rows,
        "waiting": [{"label": "schwannoma", "patients": 2}],
    }


def train_report(classes: list[str], videos: list[Video], splits: dict[str, str]) -> dict[str, Any]:
    history = [
        {
            "epoch": epoch,
            "learning_rate": 0.002,
            "lcl": 3.1 * 0.86**epoch + 1.0,
            "sc": None if epoch == 1 else 0.9 * 0.9**epoch,
            "tk": 0.7 * 0.88**epoch + 0.1,
            "total": 4.4 * 0.87**epoch + 1.2,
            "validation_macro_f1": 0.93 - 0.7 * 0.7**epoch,
            "validation_ece": 0.05 + 0.2 * 0.8**epoch,
        }
        for epoch in range(1, 13)
    ]
    return {
        "history": history,
        "calibration": {"temperature": 0.083, "ece_before": 0.121, "ece_after": 0.048},
        "classes": classes,
        "frames": {"train": 2310, "validation": 640},
        "patients": {split: sum(s == split for s in splits.values()) for split in ("train", "validation")},
        "steps": 864,
    }


def prediction_rows(
    videos: list[Video], kept: dict[str, int], classes: list[str], rng: np.random.Generator, masks: bool
) -> list[dict[str, Any]]:
    rows = []
    for video in sorted(videos, key=lambda v: v.video_id):
        skill = 0.3 if video.patient_id[-1] in "4D" else 0.93
        other = classes[(classes.index(video.label) + 1) % len(classes)]
        for index in range(kept[video.video_id]):
            target = video.label if rng.random() < skill else str(rng.choice([other, other, *classes]))
            logits = rng.normal(0, 0.8, len(classes)) + 3.0 * (np.array(classes) == target)
            shares = np.exp(logits) / np.exp(logits).sum()
            rows.append(
                {
                    "video_id": video.video_id,
                    "frame_index": index,
                    "split": "test",
                    "label": video.label,
                    "predicted": classes[int(shares.argmax())],
                    "probabilities": shares.astype(np.float32).tolist(),
                    "score": 0.6,
                    "reject": bool(shares.max() < 0.4),
                    "keep": True,
                    "saliency_iou": 0.7 if masks else None,
                    "pointing": 1.0 if masks else None,
                    "saliency_auc": 0.9 if masks else None,
                    "deletion": 0.31 if index == 0 else None,
                    "insertion": 0.74 if index == 0 else None,
                    "average_drop": 0.2 if index == 0 else None,
                    "confidence_increase": 0.0 if index == 0 else None,
                }
            )
    return rows


def evaluate_report(
    rows: list[dict[str, Any]],
    videos: list[Video],
    classes: list[str],
    masks: bool,
) -> dict[str, Any]:
    known = pd.DataFrame(
        [{"video_id": v.video_id, "patient_id": v.patient_id, "site": v.site, "domain": v.domain} for v in videos]
    )
    predictions = pa.Table.from_pylist(rows, schema=schemas.PREDICTIONS).to_pandas().merge(known, on="video_id")
    params = EvaluateParams(seed=0, bootstrap=100, confidence=0.95, corruption_frames=0, faithfulness_frames=0)
    found = summarise(predictions, classes, params)
    names = ("macro_f1", "balanced_accuracy", "auroc", "ece", "saliency_iou", "pointing")
    values = dict(zip(names, (0.871, 0.884, 0.962, 0.041, 0.702, 0.948), strict=True))
    if not masks:
        values |= {"saliency_iou": None, "pointing": None}
    return found | {
        "metrics": found["metrics"] | values | {"coverage": 0.793, "rejected": 0.031, "corrupted_accuracy": 0.588},
        "intervals": found["intervals"]
        | {k: [v - 0.062, min(1.0, v + 0.047)] for k, v in values.items() if v is not None and k != "ece"},
        "robustness": robustness(),
    }


def robustness() -> dict[str, Any]:
    kinds = {
        kind: {
            "unit": corruption.unit,
            "levels": list(corruption.levels),
            "accuracy": [0.9 - 0.02 * k - 0.1 * s for s in range(5)],
        }
        for k, (kind, corruption) in enumerate(CORRUPTIONS.items())
    }
    return {
        "frames": 48,
        "clean": 0.917,
        "mean": 0.63,
        "interval": [0.5, 0.7],
        "severities": [1, 2, 3, 4, 5],
        "kinds": kinds,
    }


REGISTRATION = {"name": "lclsc", "version": "7", "aliases": ["challenger"], "status": "registered"}
GATE = {
    "verdict": "passed",
    "clauses": [
        {"name": "macro_f1 floor", "verdict": "passed", "value": 0.871, "bound": 0.8, "note": ""},
        {
            "name": "loss against the champion",
            "verdict": "passed",
            "value": -0.014,
            "bound": 0.02,
            "note": "interval of the paired difference by patient: −0.031 to 0.006",
        },
        {
            "name": "unseen patients",
            "verdict": "passed",
            "value": 13,
            "bound": 8,
            "note": "",
        },
        {
            "name": "recall of every class",
            "verdict": "passed",
            "value": 0.69,
            "bound": 0.65,
            "note": "metastasis",
        },
    ],
    "champion": {
        "version": "6",
        "metrics": {
            "macro_f1": 0.857,
            "balanced_accuracy": 0.869,
            "ece": 0.052,
            "saliency_iou": 0.711,
            "pointing": None,
        },
        "intervals": {"macro_f1": [0.79, 0.91], "balanced_accuracy": [0.802, 0.911], "ece": [0.031, 0.083]},
        "reliability": [
            {"confidence": 0.6, "accuracy": 0.5, "count": 40},
            {"confidence": 0.9, "accuracy": 0.8, "count": 90},
        ],
        "confusion": {"classes": ["glioma", "meningioma"], "matrix": [[50, 12], [9, 59]]},
    },
    "challenger": {
        "version": "7",
        "metrics": {
            "macro_f1": 0.871,
            "balanced_accuracy": 0.884,
            "ece": 0.041,
            "saliency_iou": 0.702,
            "pointing": 0.95,
        },
        "intervals": {"macro_f1": [0.81, 0.92]},
        "reliability": [
            {"confidence": 0.6, "accuracy": 0.6, "count": 30},
            {"confidence": 0.9, "accuracy": 0.9, "count": 100},
        ],
        "confusion": {"classes": ["glioma", "meningioma"], "matrix": [[55, 7], [8, 60]]},
    },
    "subgroups": [
        {
            "kind": "class",
            "name": "glioma",
            "patients": 6,
            "frames": 62,
            "value": 0.88,
            "champion": 0.83,
            "lost": -0.05,
            "interval": [0.813, 0.931],
            "champion_interval": [0.744, 0.902],
        },
        {"kind": "site", "name": "B", "patients": 4, "frames": 40, "value": 0.71, "champion": 0.82, "lost": 0.11},
        {
            "kind": "domain",
            "name": "in-vivo",
            "patients": 3,
            "frames": 9,
            "value": None,
            "champion": None,
            "lost": None,
        },
    ],
    "influence": {
        "verdict": "passed",
        "patients": [
            {"patient_id": f"k1-patient{n}", "macro_f1": 0.87, "lost": -0.02 + 0.01 * n, "verdict": verdict}
            for n, verdict in enumerate(["passed", "passed", None, "undecided"])
        ],
    },
    "looks": {"test_sha256": "0" * 64, "count": 21, "most": 20, "warning": True},
}
CHANGES = {
    "from": {"name": "version 6"},
    "videos": {"added": ["a" * 64, "b" * 64], "removed": [], "changed": {}},
    "patients": {"added": ["k-1"], "removed": [], "moved": {}},
    "params": [{"key": "train.epochs", "from": 10, "to": 12}],
    "environment": [],
    "code": [{"key": "train", "from": "0" * 64, "to": "1" * 64}],
}
CARD = {"intended_use": "Research only.", "data": "Two sites.", "limits": "Other sites.", "contact": ""}
LINEAGE = {
    "schema": "lineage/1",
    "commit": "9f2c41d07be8a3355d0c7e1f2a4b6c8d9e0f1a2b",
    "videos_root": sha256_bytes(b"videos"),
    "manifest_sha256": sha256_bytes(b"manifest"),
    "splits_sha256": sha256_bytes(b"splits"),
    "weights_sha256": sha256_bytes(b"weights"),
    "source_tar_sha256": sha256_bytes(b"source"),
    "previous": None,
    "params": {"train": {"seed": 0, "epochs": 12, "learning_rate": 0.002}, "evaluate": {"bootstrap": 1000}},
    "environment": {"python": "3.11.2", "platform": "linux-x86_64", "device": "cpu", "threads": 1},
    "dvc_lock": {stage: {"md5": sha256_bytes(stage.encode())[:32]} for stage in ("extract", "train", "evaluate")},
}
DURATIONS = {"extract": 48.2, "train": 431.0, "evaluate": 37.5, "register": 6.1}


def disc(seed: int, mask: bool = True, correct: bool | None = True, caption: str = "glioma 0.97") -> Tile:
    """A textured disc with a bright structure, a map that roughly finds it, and its outline."""
    rng = np.random.default_rng(seed)
    y_SS, x_SS = np.mgrid[:SIDE_PX, :SIDE_PX] / SIDE_PX - 0.5
    fov_SS = np.hypot(x_SS, y_SS) < 0.47
    waves_SS = sum(np.sin(2 * np.pi * (a * x_SS + b * y_SS) + c) for a, b, c in rng.normal(0, 5, (9, 3)))
    cx, cy = rng.uniform(-0.2, 0.2, 2)
    blob_SS = np.exp(-((x_SS - cx) ** 2 + (y_SS - cy) ** 2) / 0.012)
    grey_SS = 90 + 14 * waves_SS + 70 * blob_SS + rng.normal(0, 9, fov_SS.shape)
    drift = 0.02 if correct else 0.2
    map_SS = np.exp(-((x_SS - cx - drift) ** 2 + (y_SS - cy) ** 2) / 0.018) * fov_SS
    image_SS = (np.clip(grey_SS, 0, 255) * fov_SS).astype(np.uint8)
    return Tile(image_SS, map_SS, fov_SS, caption, correct, (blob_SS > 0.45) if mask else None)


def make_tiles(workspace: Workspace, masks: bool = True) -> list[Tile]:
    return [disc(seed, masks, pick.correct, pick.caption) for seed, pick in enumerate(frames_to_show(workspace))]


def full_page(root: Path) -> tuple[Workspace, PageFacts]:
    workspace = make_workspace(root)
    facts = gather(
        workspace,
        registration=REGISTRATION,
        gate=GATE,
        lineage=LINEAGE,
        durations=DURATIONS,
        tiles=make_tiles(workspace),
        pairs=[
            Pair("gained", disc(31, correct=False, caption="meningioma 0.91\ntruth: glioma\nab · 3"), disc(31)),
            Pair("lost", disc(32), disc(32, correct=False, caption="meningioma 0.71\ntruth: glioma\ncd · 4")),
        ],
        changes=CHANGES,
        card=CARD,
    )
    return workspace, facts


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, PageFacts, str]:
    workspace, facts = full_page(tmp_path_factory.mktemp("report"))
    return workspace, facts, build_page(facts)


class Outline(html.parser.HTMLParser):
    """Every element in order; an AssertionError where one is closed that is not open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.seen if tag == name]


# --- the page ----------------------------------------------------------------------------------------


def test_the_page_is_balanced_html_without_repeated_ids(rendered: tuple[Workspace, PageFacts, str]) -> None:
    outline = Outline(rendered[2])
    ids = [attrs["id"] for _, attrs in outline.seen if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert outline.tags("html")[0]["lang"] == "en"
    assert len(outline.tags("h1")) == 1


def test_the_page_asks_for_nothing_outside_itself(rendered: tuple[Workspace, PageFacts, str]) -> None:
    page = rendered[2]
    assert not re.search(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    outline = Outline(page)
    assert not outline.tags("script")
    assert not outline.tags("link")
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in outline.tags("img"))
    for _, attrs in outline.seen:
        assert str(attrs.get("href", "#")).startswith("#")


def test_pictures_say_what_they_show_and_tables_have_headers(
    rendered: tuple[Workspace, PageFacts, str],
) -> None:
    outline = Outline(rendered[2])
    assert all(image["alt"] for image in outline.tags("img"))
    drawings = outline.tags("svg")
    assert len(drawings) == 6 + 6
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in drawings)
    assert all(header.get("scope") in {"col", "row", "rowgroup"} for header in outline.tags("th"))
    assert len(outline.tags("caption")) == len(outline.tags("table"))


def test_same_facts_give_the_same_bytes(tmp_path: Path, rendered: tuple[Workspace, PageFacts, str]) -> None:
    _, again = full_page(tmp_path / "elsewhere")
    assert build_page(again) == rendered[2]


def test_the_page_shows_the_key_figures_and_the_lineage_hash(
    rendered: tuple[Workspace, PageFacts, str],
) -> None:
    text = " ".join(Outline(rendered[2]).text)
    for expected in ("0.871", "0.809 – 0.918", "0.884", "0.702", "0.948", "0.041", "0.793", digest(LINEAGE)):
        assert expected in text
    assert rendered[1].data_version in text
    assert "9f2c41d07b" in text
    assert "Gate passed" in text
    assert "7 min 11 s" in text


def test_every_figure_of_the_evaluation_has_its_place(rendered: tuple[Workspace, PageFacts, str]) -> None:
    evaluation, page = rendered[1].evaluation, rendered[2]
    for figure in ("macro_f1", "balanced_accuracy", "auroc", "ece"):
        for prefix in ("", "video_", "patient_"):
            assert f"<td>{evaluation['metrics'][prefix + figure]:.3f}</td>" in page
    for title in ("Insertion AUC", "Deletion AUC", "Average drop", "Saliency AUC", "Area under risk and coverage"):
        assert page.count(f'<th scope="row">{title}</th>') == 1
    table = page[page.index('<caption class="hidden">Results by domain and site</caption>') :].split("</table>")[0]
    for group in evaluation["subgroups"]["domain"] + evaluation["subgroups"]["site"]:
        row = table[table.index(f'<th scope="row">{group["name"]}</th>') :].split("</tr>")[0]
        assert f"<td>{group['macro_f1']:.3f}</td>" in row


def test_the_worst_corruption_comes_first_and_worse_cells_are_redder(
    rendered: tuple[Workspace, PageFacts, str],
) -> None:
    table = rendered[2][rendered[2].index('<table class="heat">') :].split("</table>")[0]
    names = re.findall(r'<th scope="row">(\w[\w ]+) <', table)
    assert names == [
        kind.replace("fov", "field of view").replace("_", " ").capitalize() for kind in reversed(CORRUPTIONS)
    ]
    cells = re.findall(r'style="background:#(..)(..)(..)">([0-9.]+)<', table)
    assert len(cells) == 40
    paleness = {float(value): int(green, 16) for _, green, _, value in cells}
    assert [paleness[value] for value in sorted(paleness)] == sorted(paleness.values())


def test_without_corrupted_frames_there_is_no_robustness_section(rendered: tuple[Workspace, PageFacts, str]) -> None:
    facts = rendered[1]
    page = build_page(dataclasses.replace(facts, evaluation={**facts.evaluation, "robustness": None}))
    assert "Robustness" not in page
    Outline(page)


def test_a_better_calibration_is_green_although_its_figure_fell(
    rendered: tuple[Workspace, PageFacts, str],
) -> None:
    assert re.search(r'class="good">−0\.011', rendered[2])
    assert re.search(r'class="bad">−0\.009', rendered[2])  # saliency IoU


def test_champion_and_challenger_stand_side_by_side(rendered: tuple[Workspace, PageFacts, str]) -> None:
    text = " ".join(Outline(rendered[2]).text)
    for words in (
        "0.790 – 0.910",
        "0.810 – 0.920",
        "Champion · version 6",
        "21 versions judged on these test videos; the policy warns above 20.",
        "2 videos added; 1 patient added",
        "train.epochs",
        "Gained: the champion was wrong",
        "Lost: the champion was right",
        "Research only.",
    ):
        assert words in text, words
    for interval in ("0.802 – 0.911", "0.031 – 0.083", "0.744 – 0.902", "0.813 – 0.931"):
        assert interval in rendered[2]
    rivals = rendered[2][rendered[2].index("the greatest loss first") :]
    assert rivals.index(">B<") < rivals.index(">glioma<") < rivals.index(">in-vivo<"), "who lost most comes first"


def test_a_patient_who_decides_alone_is_named_and_one_who_does_not_is_not(
    tmp_path: Path, rendered: tuple[Workspace, PageFacts, str]
) -> None:
    assert "One patient alone decides" in rendered[2]
    assert "Without k1-patient3 it is undecided." in rendered[2]
    assert "Without 1 of 4 it cannot be told" in rendered[2]
    calm = {"verdict": "passed", "patients": [row | {"verdict": "passed"} for row in GATE["influence"]["patients"]]}  # type: ignore[index]
    page = build_page(dataclasses.replace(rendered[1], gate=GATE | {"influence": calm}))
    assert "No patient decides alone" in page
    assert "k1-patient" not in page


def test_an_empty_part_of_the_model_card_is_red(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    page = build_page(gather(workspace, registration=REGISTRATION, gate=GATE, card=CARD | {"limits": " "}))
    assert '<dd class="bad"><span aria-hidden="true">✕</span> missing: the gate refuses it</dd>' in page


def test_pairs_show_what_changed_surest_mistakes_first_and_one_a_video(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    champion = pd.DataFrame(
        [
            {
                "video_id": row["video_id"],
                "frame_index": row["frame_index"],
                "predicted": row["label"] if row["predicted"] != row["label"] else "another",
                "probabilities": {"another": 0.5 + number / 1000, "x": 0.1},
                "reject": False,
            }
            for number, row in enumerate(scored(workspace))
        ]
    )
    found = pairs.picks(workspace, champion)
    assert found["same"] == []
    for change, before_right in (("gained", False), ("lost", True)):
        group = found[change]
        assert 1 <= len(group) <= pairs.MOST[change]
        assert all((before.correct, after.correct) == (before_right, not before_right) for before, after in group)
        assert len({before.video_id for before, _ in group}) == len(group)
    surest = [before.probability for before, _ in found["gained"]]
    assert surest == sorted(surest, reverse=True)


def test_a_hostile_label_stays_text(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, [HOSTILE, "$x^{$ & co"])
    gate = GATE | {"clauses": [{"name": HOSTILE, "verdict": HOSTILE, "value": HOSTILE, "bound": None, "note": HOSTILE}]}
    facts = gather(
        workspace,
        registration=REGISTRATION | {"name": HOSTILE, "aliases": [HOSTILE]},
        gate=gate,
        lineage={HOSTILE: HOSTILE, "nested": {HOSTILE: [1, HOSTILE]}},
        tiles=[disc(0, caption=HOSTILE)],
    )
    page = build_page(facts)
    assert HOSTILE not in page
    assert not Outline(page).tags("script")
    assert any(HOSTILE in text for text in Outline(page).text)


def test_what_is_missing_is_a_dash_and_never_zero(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, masks=False)
    facts = gather(workspace, registration={"name": "lclsc", "version": "1"}, tiles=make_tiles(workspace, False))
    page = build_page(facts)
    text = " ".join(Outline(page).text)
    assert re.search(r"Saliency IoU</span><strong>–</strong>", page)
    assert "Not gated" in text
    assert "The gate has not looked at this version." in text
    assert "No lineage record" in text


def test_a_workspace_with_one_class_and_no_champion_has_a_page(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, ["glioma"])
    gate = GATE | {"verdict": "undecided", "champion": None}
    page = build_page(gather(workspace, registration=REGISTRATION, gate=gate))
    text = " ".join(Outline(page).text)
    assert "Gate undecided" in text
    assert "There is no other champion" in text
    assert "No frames were drawn" in text


def test_a_patient_without_a_kept_frame_is_neither_right_nor_wrong(
    rendered: tuple[Workspace, PageFacts, str],
) -> None:
    facts = rendered[1]
    first, *others = facts.evaluation["per_patient"]
    silent = first | {"patient_id": "k1-SILENT", "kept": 0, "accuracy": None, "predicted": None}
    page = build_page(dataclasses.replace(facts, evaluation={**facts.evaluation, "per_patient": [silent, *others]}))
    row = page[page.index("k1-SILENT") :].split("</tr>")[0]
    assert row.count("–") == 2
    assert "✕" not in row
    assert "✓" not in row


def test_a_patient_in_two_splits_is_named_on_the_page(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    patient = next(iter(manifest.read_splits(workspace.splits)))
    with workspace.splits.open("a") as file:
        file.write(f"{patient},test\n")
    facts = gather(workspace, registration=REGISTRATION)
    assert facts.data.patients_in_two_splits == (patient,)
    assert "patients stand in two splits" in build_page(facts)


def test_a_scored_patient_outside_the_test_split_is_found(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    splits = manifest.read_splits(workspace.splits)
    patient = next(name for name, split in splits.items() if split == "test")
    manifest.write_splits(workspace.splits, splits | {patient: "train"})
    assert gather(workspace, registration=REGISTRATION).data.scored_outside_test == (patient,)


def test_counts_of_splits_add_up_to_the_whole(rendered: tuple[Workspace, PageFacts, str]) -> None:
    data = rendered[1].data
    for name in ("patients", "videos", "frames", "kept"):
        assert sum(getattr(split.total, name) for split in data.splits) == getattr(data.total, name)
    assert data.total.frames == data.total.kept + sum(data.total.dropped.values())


def test_a_missing_stage_report_names_its_remedy(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    workspace.stage_report("evaluate").unlink()
    with pytest.raises(StageError, match="dvc repro evaluate"):
        gather(workspace, registration=REGISTRATION)


def test_frames_to_show_repeat_no_video_and_put_the_surest_mistake_first(
    rendered: tuple[Workspace, PageFacts, str],
) -> None:
    picks = frames_to_show(rendered[0], right=8, wrong=5)
    right, wrong = [p for p in picks if p.correct], [p for p in picks if not p.correct]
    assert (len(right), len(wrong)) == (8, 5)
    assert {pick.label for pick in right} == set(CLASSES)
    for group in (right, wrong):
        assert len({pick.video_id for pick in group}) == len(group)
    sure = [pick.probability for pick in wrong if not pick.reject]
    assert sure == sorted(sure, reverse=True)


# --- figures and sheet -------------------------------------------------------------------------------


def test_a_figure_leaves_global_matplotlib_settings_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    assert figures.confusion_matrix(["a", "b"], [[3, 1], [0, 0]]) == figures.confusion_matrix(
        ["a", "b"], [[3, 1], [0, 0]]
    )
    assert dict(matplotlib.rcParams) == before


def test_the_risk_curve_says_in_words_what_it_draws() -> None:
    curve = [{"coverage": 0.5, "risk": 0.1}, {"coverage": 1.0, "risk": 0.25}]
    drawn = figures.risk_coverage(curve, {"coverage": 0.8, "risk": 0.125})
    assert "0.100 wrong among the surest half, 0.250 among all" in drawn
    assert "answers 0.80 with 0.125 wrong" in drawn
    assert "reject" not in figures.risk_coverage(curve, {"coverage": 0.0, "risk": None})
    Outline(figures.risk_coverage([{"coverage": 1.0, "risk": 0.0}], {"coverage": 1.0, "risk": 0.0}))


def test_curves_skip_epochs_without_a_value() -> None:
    nothing = {"epoch": 1, "lcl": None, "sc": None, "tk": None, "total": None}
    assert "nan" not in figures.loss_curves([nothing, nothing | {"epoch": 2, "total": 1.5}]).lower()
    Outline(figures.validation_curves([nothing]))


def test_a_sheet_is_the_same_bytes_twice_and_carries_no_metadata() -> None:
    tiles = [disc(seed, correct=(True, False, None)[seed % 3]) for seed in range(8)]
    first, again = (png_bytes(saliency_sheet(tiles, columns=6, title="video 3f9a12bc")) for _ in range(2))
    assert first == again
    assert not re.search(rb"tEXt|iTXt|zTXt|tIME", first)


def test_a_sheet_takes_any_number_of_tiles_and_any_caption() -> None:
    for tiles in ([], [disc(1, mask=False, correct=None, caption="")], [disc(2, caption="x" * 400)] * 3):
        assert saliency_sheet(tiles, columns=6).width >= sheet.MIN_WIDTH_PX


def test_an_overlay_without_evidence_is_the_bare_frame() -> None:
    tile = dataclasses.replace(disc(3, mask=False), saliency_SS=np.zeros((SIDE_PX, SIDE_PX)))
    picture = np.asarray(sheet.tile_picture(tile))
    half = sheet.SIDE_PX + sheet.BORDER_PX
    above, below = picture[3:half], picture[half + 3 : -3]
    assert np.array_equal(above, below)


def test_saliency_outside_the_field_of_view_is_not_drawn() -> None:
    tile = dataclasses.replace(disc(4, mask=False), saliency_SS=np.ones((SIDE_PX, SIDE_PX)))
    picture = np.asarray(sheet.tile_picture(tile))
    assert tuple(picture[sheet.SIDE_PX + 2 * sheet.BORDER_PX + 1, 4]) == sheet.OUTSIDE


def test_a_tile_of_unequal_shapes_is_refused() -> None:
    good = disc(5)
    with pytest.raises(ValueError, match="differ in shape"):
        dataclasses.replace(good, saliency_SS=np.zeros((7, 7)))


# --- a real browser ----------------------------------------------------------------------------------


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None and "chromium" in os.environ.get("LCLSC_REQUIRE", "").split(","):
        pytest.fail("LCLSC_REQUIRE names chromium and there is none on the PATH")
    return found or pytest.skip("no Chromium on the PATH: the page is not opened in a browser")


def test_a_browser_shows_tables_and_pictures(tmp_path: Path, rendered: tuple[Workspace, PageFacts, str]) -> None:
    path = tmp_path / "report.html"
    path.write_text(rendered[2], encoding="utf-8")
    command = [chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    outline = Outline(done.stdout)
    assert len(outline.tags("table")) >= 13
    assert len(outline.tags("img")) == len(rendered[1].tiles) + 2 * len(rendered[1].pairs)
    assert len(outline.tags("svg")) == 6 + 6, "of them six of the decision"
    assert "Content Security Policy" not in done.stderr


def test_a_saved_sheet_opens_as_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    path.write_bytes(png_bytes(saliency_sheet([disc(6)])))
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
