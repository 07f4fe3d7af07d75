"""Names burned into the field of view: how many are found, and how many clips without one are suspected.

Every clip of a phantom (seed 11; the thresholds were set on other seeds) is encoded and decoded as it is, and with
one name drawn into it: random letters, height, place, strength, white or black. Every third clip has a low
signal-to-noise ratio. Found means that intake would remark on it.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from harness import Options, Report, at_most, cores, figure, read_options
from pipelines.video.burned_in_text import TextFinder
from planted_copies import FPS, Clip, Source, decoded, encoded, sources

SEED = 11
SIZES_PX = (160, 320, 576)
HEIGHTS_PX = (8, 12, 18, 28)
FRAMES = 36
LETTERS = np.array(list("ABCDEFGHIJKLMNOPRSTUVWZ"))


@dataclass(frozen=True, kw_only=True)
class Look:
    """One clip of ``size_px``: letters found in it; ``height_px`` is 0 where none were drawn."""

    size_px: int
    height_px: int
    dark: bool
    opacity: float
    found: int


def main() -> None:
    options = read_options(__doc__)
    report = Report("burned_text", options)
    sizes = options.pick(SIZES_PX, quick=SIZES_PX[1:2])
    looks = [look for size_px in sizes for look in _looks(size_px, options)]
    report.add({"case": {"clips": len(looks)}, "looks": [asdict(look) for look in looks]})
    for size_px in sizes:
        _claim(report, size_px, [look for look in looks if look.size_px == size_px])
    report.finish()


def _looks(size_px: int, options: Options) -> list[Look]:
    clips = sources(SEED, patients=options.pick(8, quick=1), frames=FRAMES, size_px=size_px)
    with ProcessPoolExecutor(cores()) as pool:
        return [look for pair in pool.map(_pair, clips) for look in pair]


def _pair(source: Source) -> list[Look]:
    """The clip without a name, and with one of each height."""
    clip, looks = source.draw(), [_look(source.size_px, source.draw(), 0, False, 0.0)]
    for number, height_px in enumerate(HEIGHTS_PX):
        rng = source.random(number)
        dark, opacity = bool(rng.integers(2)), float(rng.uniform(0.6, 1.0))
        picture_HW = _name(rng, clip.shape[1], height_px) * opacity
        level = 0.0 if dark else 255.0
        stamped = (clip * (1 - picture_HW) + level * picture_HW).astype(np.uint8)
        looks.append(_look(source.size_px, stamped, height_px, dark, opacity))
    return looks


def _look(size_px: int, clip: Clip, height_px: int, dark: bool, opacity: float) -> Look:
    finder = TextFinder()
    for frame in decoded(encoded(clip, FPS)):
        finder.see(frame)
    return Look(size_px=size_px, height_px=height_px, dark=dark, opacity=round(opacity, 2), found=finder.letters())


def _name(rng: np.random.Generator, size_px: int, height_px: int) -> np.ndarray:
    """Shares of ink, (H, W): five to ten letters in the middle half of the picture."""
    text = "".join(rng.choice(LETTERS, int(rng.integers(5, 11))))
    picture = Image.new("L", (size_px, size_px))
    place = rng.uniform(0.25, 0.45, 2) * size_px
    font = ImageFont.load_default(size=height_px / 0.7)  # capitals are 0.7 of a font's size
    ImageDraw.Draw(picture).text((place[0], place[1]), text, font=font, fill=255)
    return np.asarray(picture) / 255.0


def _claim(report: Report, size_px: int, looks: list[Look]) -> None:
    clean = [look for look in looks if not look.height_px]
    alarms = sum(look.found > 0 for look in clean) / len(clean)
    report.claim(at_most(f"clips of {size_px} px without a name, suspected", 100 * alarms, 1.0, f"% of {len(clean)}"))
    for height_px in HEIGHTS_PX:
        named = [look for look in looks if look.height_px == height_px]
        missed = sum(look.found == 0 for look in named) / len(named)
        report.claim(
            figure(f"names of {height_px} px in clips of {size_px} px, missed", 100 * missed, f"% of {len(named)}")
        )


if __name__ == "__main__":
    main()
