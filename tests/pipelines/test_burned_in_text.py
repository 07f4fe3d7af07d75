"""White text that stands still on moving tissue is found; tissue, noise and the honeycomb are not taken for it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import planted_copies as planted
from pipelines.intake.text_check import Look
from pipelines.video.frame import Frame

SOURCES = planted.sources(5, patients=1, frames=10, size_px=320)


def _letters(clip: planted.Clip) -> int:
    look = Look()
    for index, luma_HW in enumerate(clip):
        look.see(Frame(index=index, pts_seconds=index / 8, luma_HW=luma_HW))
    return look.summary()


def _stamped(clip: planted.Clip, text: str, height_px: int, opacity: float) -> planted.Clip:
    picture = Image.new("L", clip.shape[:0:-1])
    ImageDraw.Draw(picture).text((110, 150), text, font=ImageFont.load_default(size=height_px), fill=255)
    share_HW = np.asarray(picture) / 255 * opacity
    return (clip * (1 - share_HW) + 255 * share_HW).astype(np.uint8)


@pytest.mark.parametrize("number", [0, 2, 5])
def test_letters_are_found_and_tissue_has_none(number: int) -> None:
    clip = SOURCES[number].draw()
    assert _letters(clip) == 0
    for height_px, opacity in ((12, 1.0), (20, 0.8)):
        assert _letters(_stamped(clip, "JOHN DOE", height_px, opacity)) >= 4


def test_text_beside_the_field_of_view_is_not_its_business() -> None:
    clip = SOURCES[0].draw()
    corner = np.zeros_like(clip)
    corner[:, :18, :30] = _stamped(clip, "JOHN", 12, 1.0)[:, 148:166, 108:138]
    assert _letters(np.maximum(clip, np.where(clip > 0, 0, corner))) == 0


def test_two_frames_say_nothing() -> None:
    assert _letters(_stamped(SOURCES[0].draw()[:2], "JOHN DOE", 12, 1.0)) == 0
