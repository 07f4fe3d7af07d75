"""How unkind the clinic is to a set of phantoms: what it changes in tissue, instrument and choice of patients.

`USUAL` changes nothing, down to the byte. `HARD` was tuned with plain cross-entropy alone, and frozen before any
contrastive method was run on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Factors of 1.0 and shares of 0.0 leave a phantom as it is."""

    noise: float = 1.0  # times the usual shot and read noise
    contrast: float = 1.0  # times the usual lift and contrast of foci
    overlap: float = 0.0  # largest share of another class's structure inside a focus
    away_gain: float = 1.0  # at the other site: times the usual gain,
    away_blur: float = 1.0  # times the usual blur of the optics,
    away_smear: float = 0.0  # and what the probe travels while one frame is scanned, of the frame's side
    split: dict[str, int] = field(default_factory=dict)  # patients a class for each split; the last takes the rest

    def split_of(self, patient: int) -> str:
        """The split that the manifest asks for, or "" where intake may choose."""
        left = patient
        for name, count in self.split.items():
            if left < count:
                return name
            left -= count
        return next(reversed(self.split), "")

    def is_away(self, patient: int) -> bool:
        """Every second test patient is filmed in vivo at a site that no training patient comes from."""
        return self.split_of(patient) == "test" and patient % 2 == 1


USUAL = Conditions()
HARD = Conditions(
    noise=1.5,
    contrast=0.9,
    overlap=0.35,
    away_gain=0.7,
    away_blur=1.5,
    away_smear=0.02,
    split={"train": 4, "validation": 2, "test": 6},
)
CONDITIONS = {"usual": USUAL, "hard": HARD}
