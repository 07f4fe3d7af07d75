"""One phantom video: a pure function of (seed, class, patient, video).

Every random stream is keyed by what it draws, so a patient is the same whatever other patients are made.
Arithmetic is float64 and free of BLAS: processors that differ in the last bit of a sine still round alike.
F frames, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.synth import probe, structures, tissue
from pipelines.synth.conditions import USUAL, Conditions

# The index of a class is part of every seed: append only.
CLASSES = ("glioma", "healthy", "meningioma", "metastasis")
DOMAINS = ("ex-vivo", "in-vivo")
SITES = ("site-a", "site-b", "site-c")
AWAY_SITE = "site-d"

_CODES = {"glioma": "GLI", "healthy": "HEA", "meningioma": "MEN", "metastasis": "MET"}
_STYLE, _OPTICS, _PLANE, _FRAMES = range(4)  # purposes of a random stream
_ROOM = 0.75  # how far the frame's corner can move on the plane, of its side


@dataclass(frozen=True, kw_only=True)
class PhantomVideo:
    """F frames of one label and what is known about them."""

    frames: NDArray[np.uint8]  # FHW, exactly 0 outside the field of view
    masks: NDArray[np.bool_]  # FHW, where the geometry puts the planted structure, in faulty frames too
    faults: tuple[str, ...]  # F: "diagnostic", "dark", "saturated" or "smeared"
    label: str
    domain: str


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How the hand and the brain move the probe: lengths in units of the frame's side."""

    travel: float
    jitter: float


def patient_name(label: str, patient: int) -> str:
    """A raw patient id that nobody can take for a person's."""
    return f"PHANTOM-{_CODES[label]}-{patient:04d}"


def domain_of(patient: int, video: int, conditions: Conditions = USUAL) -> str:
    """Patients alternate and so do the videos of one patient: both domains in every class."""
    return "in-vivo" if conditions.is_away(patient) else DOMAINS[(patient + video) % len(DOMAINS)]


def site_of(label: str, patient: int, conditions: Conditions = USUAL) -> str:
    return AWAY_SITE if conditions.is_away(patient) else SITES[(patient + CLASSES.index(label)) % len(SITES)]


def phantom_video(
    *,
    seed: int,
    label: str,
    patient: int,
    video: int,
    frames: int,
    size_px: int,
    conditions: Conditions = USUAL,
) -> PhantomVideo:
    """Render ``frames`` square frames of ``size_px`` with label's structure planted in them."""
    if label not in structures.DRAW:
        raise ValueError(f"There is no phantom of class {label!r}. Choose from {', '.join(CLASSES)}.")
    domain, away = domain_of(patient, video, conditions), conditions.is_away(patient)
    style_rng = _stream(seed, label, patient, 0, _STYLE)
    style = _tissue_style(style_rng, conditions)
    optics = _optics(style_rng, domain, conditions, away=away)
    bundle = probe.fibre_bundle(_stream(seed, label, patient, 0, _OPTICS), optics, size_px=size_px)
    blur_px = float(style_rng.uniform(0.0020, 0.0045)) * size_px * (1.08 if domain == "in-vivo" else 1.0)
    blur_px *= conditions.away_blur if away else 1.0
    plane = tissue.tissue_plane(
        _stream(seed, label, patient, video, _PLANE),
        _draw(label, conditions),
        style,
        side_px=int((1 + _ROOM) * size_px) + 2,
        size_px=size_px,
    )
    plane_HW = ndimage.gaussian_filter(plane.brightness, blur_px)
    rng = _stream(seed, label, patient, video, _FRAMES)
    motion = _motion(rng, domain)
    corners_F2 = probe.drift(
        rng,
        frames=frames,
        travel_px=motion.travel * size_px,
        jitter_px=motion.jitter * size_px,
        room_px=_ROOM * size_px,
    )
    faults_F = probe.faults(rng, frames=frames, first_fault=patient + video + CLASSES.index(label))
    images = [
        probe.look(rng, bundle, optics, plane_HW, corner, fault=fault)
        for corner, fault in zip(corners_F2, faults_F, strict=True)
    ]
    masks = [probe.planted(bundle, plane.mask, corner) for corner in corners_F2]
    return PhantomVideo(frames=np.stack(images), masks=np.stack(masks), faults=faults_F, label=label, domain=domain)


def _stream(seed: int, label: str, patient: int, video: int, purpose: int) -> np.random.Generator:
    """Counter-based: a stream depends on its key alone, never on how many numbers others drew."""
    key = (CLASSES.index(label), patient, video, purpose)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


def _draw(label: str, conditions: Conditions) -> structures.Draw:
    """The label's structure, in the company of the other classes' where conditions let them overlap."""
    if not conditions.overlap:
        return structures.DRAW[label]
    others = [structures.DRAW[name] for name in CLASSES if name != label]
    return tissue.mixed(structures.DRAW[label], others, largest_share=conditions.overlap)


def _tissue_style(rng: np.random.Generator, conditions: Conditions) -> tissue.TissueStyle:
    return tissue.TissueStyle(
        focus_lift=conditions.contrast * rng.uniform(0.06, 0.12),
        focus_contrast=conditions.contrast * rng.uniform(0.19, 0.24),
        background_level=rng.uniform(0.20, 0.32),
        autofluorescence=rng.uniform(0.035, 0.06),
        vessel_depth=rng.uniform(0.45, 0.75),
    )


def _optics(rng: np.random.Generator, domain: str, conditions: Conditions, *, away: bool) -> probe.Optics:
    """Spread between patients is wide, between the frames of a patient narrow, as in the clinic."""
    noisier = conditions.noise * (1.4 if domain == "in-vivo" else 1.0)
    return probe.Optics(
        centre=(0.5 + rng.uniform(-0.012, 0.012), 0.5 + rng.uniform(-0.012, 0.012)),
        radius=rng.uniform(0.455, 0.482),
        core_turn=rng.uniform(0, np.pi / 3),
        honeycomb=rng.uniform(0.25, 0.45),
        fixed_pattern=rng.uniform(0.04, 0.09),
        gain=(conditions.away_gain if away else 1.0) * rng.uniform(0.85, 1.45),
        offset=rng.uniform(0.0, 0.06),
        gamma=rng.uniform(0.85, 1.2),
        shot_noise=noisier * rng.uniform(0.035, 0.06),
        read_noise=noisier * rng.uniform(0.008, 0.016),
        smear=conditions.away_smear if away else 0.0,
    )


def _motion(rng: np.random.Generator, domain: str) -> Motion:
    if domain == "in-vivo":
        return Motion(travel=rng.uniform(0.32, 0.50), jitter=rng.uniform(0.010, 0.018))
    return Motion(travel=rng.uniform(0.14, 0.28), jitter=rng.uniform(0.002, 0.005))
