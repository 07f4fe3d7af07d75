"""params.yaml as typed models: one section a stage, unit and range at each field, nothing implied.

There are no defaults here: a key that is missing or unknown is an error in the first second, so that
the file in git says everything that shaped a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.errors import ParameterError
from pipelines.files import digest

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


def flat(sections: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as ``section.key``."""
    found: dict[str, Any] = {}
    for name, value in sections.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


class IntakeParams(Section):
    labels: list[str]
    """Allowed labels, sorted; empty until the first batch, whose labels are written here."""
    max_pixels: Count
    """Of a frame; what is larger is no endomicroscope's and may be a decompression bomb."""
    max_frames: Count
    """Of a clip."""
    max_minutes: Positive
    """Of a clip, between its first and last frame."""
    max_bytes: Count
    """Of a file, or of a folder of frames."""
    max_decode_seconds: Count
    """Processor time for decoding a clip once; the clock may show five times as much."""
    max_memory_mib: Annotated[int, Field(ge=256)]
    """Address space of the process that decodes, beyond what it starts with."""


class SplitParams(Section):
    validation: Share
    """Share of each class's patients kept for calibration."""
    test: Share
    """Share of each class's patients nobody trains on."""
    min_patients: Count
    """Classes with fewer patients wait outside training."""

    @model_validator(mode="after")
    def _leaves_patients_to_train_on(self) -> SplitParams:
        if self.validation + self.test >= 1.0:
            raise ValueError("validation + test must stay below 1")
        return self


class ExtractParams(Section):
    side_px: Annotated[int, Field(ge=32, le=512, multiple_of=8)]
    """Side of a stored frame."""
    window_low: Annotated[float, Field(ge=0, lt=50)]
    """Percentile of 16-bit levels inside the field of view that becomes black; 8-bit clips have no window."""
    window_high: Annotated[float, Field(gt=50, le=100)]
    """Percentile that becomes white."""
    min_mean: Annotated[float, Field(ge=0, le=255)]
    """Frames darker than this inside the field of view (grey levels) are not kept."""
    max_saturated: Share
    """Frames with a larger share of pixels at 250 grey levels or more are not kept."""
    min_contrast: Annotated[float, Field(ge=0, le=255)]
    """5th to 95th percentile, grey levels; below it a frame is not kept."""
    min_sharpness: Annotated[float, Field(ge=0)]
    """Variance of the Laplacian over variance of the image, unitless; below it a frame is blurred."""
    max_smear: Annotated[float, Field(ge=1)]
    """Ratio of the largest to the smallest directional gradient energy; above it a frame is motion-smeared."""
    min_change: Annotated[float, Field(ge=0, le=255)]
    """Mean absolute difference from the last new frame, grey levels; below it a frame is a duplicate. 0 keeps all."""


class ViewParams(Section):
    """Ranges of the two random views of each image; see lclsc.ViewSettings."""

    rotate_degrees: Annotated[float, Field(ge=0, le=180)]
    """Rotation drawn from -r to r."""
    flip: bool
    """Mirror half of the views."""
    zoom: Annotated[float, Field(ge=1, le=2)]
    """Magnification drawn from 1/z to z."""
    shift: Annotated[float, Field(ge=0, le=0.5)]
    """Shift in either direction, in half sides."""
    gain: Annotated[float, Field(ge=1, le=4)]
    """Brightness factor drawn from 1/g to g."""
    gamma: Annotated[float, Field(ge=1, le=4)]
    """Gamma drawn from 1/g to g."""
    noise: Annotated[float, Field(ge=0, le=1)]
    """Largest standard deviation of added noise, grey range 1."""
    blur: Annotated[float, Field(ge=0, le=1 / 3)]
    """Largest weight of a neighbour in a 3-tap blur."""


class TrainParams(Section):
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    """Of initial weights, batch order and views."""
    encoder: Annotated[str, Field(pattern=r"^(compact|resnet10|resnet18|resnet50|densenet121|timm:[a-z0-9_]+)$")]
    """Network below the dense head; compact is made for CPUs, timm: takes any network of that package."""
    embedding_dim: Count
    """Width of the embedding."""
    epochs: Count
    """Passes over the training frames."""
    batch_images: Count
    """Images a step over all logical shards; each gives two views."""
    logical_shards: Count
    """Parts a batch is always computed in, whatever the number of workers."""
    reduction: Literal["ordered", "ddp"]
    """How gradients of the shards are summed: in fixed order (same bytes on any number of workers) or by all-reduce."""
    threads_per_shard: Count
    """CPU threads of a worker; fixed, because sums depend on it."""
    precision: Literal["float32", "bfloat16"]
    """Of the encoder while it trains; bfloat16 is for GPUs. Head, losses, embeddings and inference stay in float32."""
    learning_rate: Positive
    """Peak learning rate of AdamW; linear warm-up, then a cosine to zero."""
    weight_decay: Annotated[float, Field(ge=0)]
    """Of AdamW; norms and biases do not decay."""
    warmup: Share
    """Share of steps with rising learning rate."""
    clip_norm: Positive
    """Largest norm of the whole gradient; without it the first steps collapse all embeddings into one."""
    momentum: Annotated[float, Field(ge=0, lt=1)]
    """EMA of the global embeddings, per step."""
    embeddings: Literal["ema", "recomputed"]
    """Global embeddings of the finished model: their EMA, or the mean direction of each class's training frames."""
    temperature: Positive
    """Of the label-contrastive loss."""
    class_balanced: bool
    """Divide each class's part of the loss's denominator by its number of frames in the batch."""
    global_keys: bool
    """Let the global embeddings join the keys that a frame is contrasted with."""
    saliency_weight: Annotated[float, Field(ge=0)]
    """lambda: weight of saliency consistency and its pooling term, once it has grown to it."""
    saliency_start: Share
    """Share of steps before that weight begins to grow from 0: maps mean nothing until the contrast has learnt."""
    saliency_full: Share
    """Share of steps from which it is whole; not below saliency_start."""
    consistency: Literal["mse", "l1", "cosine"]
    """How the saliency maps of two views are compared."""
    top_share: Annotated[float, Field(gt=0, le=0.5)]
    """rho: share of map cells in each of the top-K maximum and minimum pools."""
    contrast_margin: Share
    """delta: wanted difference of the two pools."""
    contrast_weight: Annotated[float, Field(ge=0)]
    """beta: weight of the pooling term inside saliency consistency."""
    views: ViewParams
    calibration: Literal["temperature", "none"]
    """Fit the softmax temperature on validation patients, or keep the loss's temperature."""
    reject_score: Annotated[float, Field(ge=-1, le=1)]
    """Cosine below which the model rejects a frame."""
    reject_margin: Annotated[float, Field(ge=0, le=2)]
    """Cosine lead over the second class below which the model rejects a frame."""

    @model_validator(mode="after")
    def _shards_are_equal(self) -> TrainParams:
        if self.batch_images % self.logical_shards:
            raise ValueError(
                f"batch_images ({self.batch_images}) must be a multiple of logical_shards ({self.logical_shards})"
            )
        return self

    @model_validator(mode="after")
    def _ramp_rises(self) -> TrainParams:
        if self.saliency_full < self.saliency_start:
            raise ValueError(
                f"saliency_full ({self.saliency_full}) must not be below saliency_start ({self.saliency_start})"
            )
        return self


class EvaluateParams(Section):
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    """Of the bootstrap, of the frames that are sampled and of what happens to them."""
    bootstrap: Annotated[int, Field(ge=100)]
    """Patient-clustered bootstrap draws behind each interval."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    """Of the intervals."""
    corruption_frames: Annotated[int, Field(ge=0)]
    """Frames of unseen patients that are corrupted in every way and severity and scored again; 0 turns it off."""
    faithfulness_frames: Annotated[int, Field(ge=0)]
    """Frames whose salient pixels are deleted, inserted and shown alone; 0 turns it off."""


class RegisterParams(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Model and experiment in MLflow."""


class SubgroupParams(Section):
    """Of each class, site and domain among the unseen patients; values, not bounds: subgroups are small."""

    min_class_f1: Share | None
    """Floor on the F1 of every class."""
    min_site_macro_f1: Share | None
    """Floor on the macro-F1 of every site."""
    min_domain_macro_f1: Share | None
    """Floor on the macro-F1 of every domain."""
    max_loss: Share | None
    """F1 (of a class) or macro-F1 (of a site or domain) that a challenger may lose against the champion there."""
    min_patients: Count
    """Of a subgroup; one below its floor with fewer leaves the gate undecided instead of refusing."""


class EnvelopeParams(Section):
    """Changes that were agreed on beforehand, as in a predetermined change control plan; empty parts allow anything."""

    sites: list[str]
    """Where training videos may come from."""
    domains: list[str]
    """Domains that training videos may have."""
    frozen: list[str]
    """Parameters that must be the champion's: `train.encoder`, or `extract.*` for all below. `ranges` go first."""
    ranges: dict[str, tuple[float, float]]
    """Parameter: [low, high], within which it may change: `train.learning_rate: [0.0005, 0.005]`."""


class PromoteParams(Section):
    """The gate's policy; its hash stands in every decision. A clause whose bound is null is not asked."""

    approval: Literal["manual", "auto"]
    """auto approves what passed the gate; manual leaves a passed challenger to a person."""
    error_rate: Annotated[float, Field(gt=0, lt=0.5)]
    """How often a comparison may pass a model that does not deserve it."""
    first_macro_f1: Share
    """Plain floor for the first champion, whose few unseen patients could not carry a bound yet."""
    min_macro_f1: Share
    """Floor on the lower confidence bound of macro-F1 on unseen patients, asked beside a champion."""
    comparison: Literal["non-inferiority", "superiority"]
    """What is shown against the champion on the same unseen patients: no worse than by max_loss, or better."""
    max_loss: Share
    """Macro-F1 that the upper confidence bound of the loss must stay below: the margin of non-inferiority."""
    max_unjudged: Share
    """Share of the frames judged by the champion that a challenger may leave out; no patient may be left out whole."""
    min_patients: Count
    """Unseen patients below which the gate is undecided."""
    allow_new_classes: bool
    """May a challenger know other classes than the champion? They are then compared on shared ones."""
    max_evidence_days: Positive
    """Age beyond which a verdict of the gate approves nothing; `lclsc promote` judges again."""
    four_eyes: bool
    """Refuse an approver who trained the version."""
    subgroups: SubgroupParams
    max_ece: Share | None
    """Ceiling on the calibration error of frames."""
    min_corrupted_accuracy: Share | None
    """Floor on the accuracy of corrupted frames, see evaluate.corruption_frames."""
    min_saliency_iou: Share | None
    """Floor on the overlap of saliency maps with masks."""
    min_pointing: Share | None
    """Floor on how often a saliency map peaks inside the mask."""
    min_insertion: Share | None
    """Floor on the insertion curve's area: faithfulness, where no masks exist."""
    max_latency_ms: Positive | None
    """Ceiling on the 95th percentile of one frame's time through the packaged model, on this machine, one thread."""
    max_memory_mib: Positive | None
    """Ceiling on the memory of a process that serves the packaged model."""
    min_seeds: Annotated[int, Field(ge=2)] | None
    """Trainings that differ by train.seed alone, the version's among them, that must hold its floor and margin."""
    max_looks: Count
    """Versions judged on one set of test videos, above which the page warns: each look wears the set out."""
    envelope: EnvelopeParams

    @property
    def sha256(self) -> str:
        """Names the rules of a verdict."""
        return digest(self.model_dump(mode="json"))


class CardParams(Section):
    """What a reader must know before using the model; the gate refuses an empty part. `contact` may stay empty."""

    intended_use: str
    """For what, by whom, and for what not."""
    data: str
    """Whose videos these are, how they were labelled."""
    limits: str
    """Where the model is known or expected to fail."""
    contact: str
    """Whom to ask."""


class MonitorParams(Section):
    alpha: Annotated[float, Field(gt=0, lt=0.5)]
    """Chance of an alarm on one look when nothing changed, over all tests of all sites together."""
    window_days: Positive
    """Days up to now that are compared with the reference."""
    min_cases: Annotated[int, Field(ge=4)]
    """Cases of a site, and of the reference, below which nothing is tested."""
    on_alarm: Literal["note", "retrain"]
    """note: ledger, notice and exit code 1; retrain: the deployment `retrain` is asked to run as well."""


class Params(Section):
    intake: IntakeParams
    split: SplitParams
    extract: ExtractParams
    train: TrainParams
    evaluate: EvaluateParams
    register_: Annotated[RegisterParams, Field(alias="register")]
    promote: PromoteParams
    card: CardParams
    monitor: MonitorParams


def load(path: Path) -> Params:
    """Every section of params.yaml, checked. ParameterError names each bad key by its path."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParameterError("no_params", f"{path.name} is missing.", "Restore it with git.") from None
    except yaml.YAMLError as error:
        raise ParameterError(
            "params_syntax", f"{path.name} is not YAML: {_one_line(str(error))}", "Correct the named line."
        ) from None
    try:
        return Params.model_validate(document)
    except ValidationError as error:
        problems = "; ".join(_describe(item) for item in error.errors())
        raise ParameterError("params_invalid", f"{path.name}: {problems}.", _remedy(error)) from None


def section(path: Path, stage: str) -> dict[str, Any]:
    """One section as plain values, as DVC compares it."""
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return dict(document[stage])


def _remedy(error: ValidationError) -> str:
    """Keys that came or went are a matter of the version; values are a person's."""
    kinds = {item["type"] for item in error.errors()}
    upgrade = "If an older version made this workspace, `lclsc init DIR --upgrade` brings it up to this one."
    return f"Correct these keys. {upgrade}" if kinds & {"missing", "extra_forbidden"} else "Correct these keys."


def _describe(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    match item["type"]:
        case "missing":
            return f"{where} is missing"
        case "extra_forbidden":
            return f"{where} is unknown"
        case _:
            return f"{where} = {item['input']!r}: {item['msg']}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
