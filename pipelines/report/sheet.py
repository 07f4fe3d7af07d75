"""Sheets of frames with what the model looked at: the report's pictures and `lclsc predict --sheet`.

S: side of a frame in pixels; L: side as drawn.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipelines.report.paint import INK, MUTED, OUTSIDE, PAPER, TEXT_PX, blend, colours, fit, font, grey, pixels, resized

SIDE_PX = 160
BORDER_PX = 3
GAP_PX = 14
MARGIN_PX = 22
LINE_PX = 16
MIN_WIDTH_PX = 620
MAX_CAPTION_LINES = 4

CONTOUR = (72, 229, 255)
STATE = {True: (31, 122, 77), False: (197, 48, 48), None: (154, 164, 175)}
SIGN = {True: "✓ ", False: "✕ ", None: ""}


@dataclass(frozen=True, eq=False)
class Tile:
    """One frame and its saliency; ``correct`` is None where the truth is unknown."""

    image_SS: NDArray[np.uint8]
    saliency_SS: NDArray[np.floating]
    fov_SS: NDArray[np.bool_]
    caption: str
    correct: bool | None = None
    mask_SS: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        shapes = {self.image_SS.shape, self.saliency_SS.shape, self.fov_SS.shape}
        if self.mask_SS is not None:
            shapes.add(self.mask_SS.shape)
        if len(shapes) != 1:
            raise ValueError(f"image, saliency, fov and mask differ in shape: {sorted(shapes)}; give one shape.")

    def __repr__(self) -> str:
        return f"Tile({self.image_SS.shape}, {self.caption!r}, correct={self.correct})"


@dataclass(frozen=True, eq=False)
class Pair:
    """One frame as the champion (``before``) and the challenger (``after``) see it."""

    change: str  # pairs.GAINED, LOST or SAME
    before: Tile
    after: Tile


def saliency_sheet(tiles: Sequence[Tile], columns: int = 6, title: str = "") -> Image.Image:
    """Each frame above its overlay, ``columns`` a row, with captions and a legend."""
    if columns < 1:
        raise ValueError(f"columns = {columns}; it must be at least 1.")
    pictures = [tile_picture(tile) for tile in tiles]
    cell_w, picture_h = (SIDE_PX + 2 * BORDER_PX, 2 * SIDE_PX + 3 * BORDER_PX)
    captions = [_wrap(SIGN[tile.correct] + tile.caption, cell_w) for tile in tiles]
    cell_h = picture_h + 6 + LINE_PX * max(map(len, captions), default=0)
    columns = max(1, min(columns, len(tiles)))
    width = max(MIN_WIDTH_PX, 2 * MARGIN_PX + columns * (cell_w + GAP_PX) - GAP_PX)
    top = MARGIN_PX + (34 if title else 0)
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (width, top + rows * (cell_h + GAP_PX) + 26 + MARGIN_PX), PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((MARGIN_PX, MARGIN_PX - 4), title, INK, font(18, bold=True))
    for place, (tile, picture, lines) in enumerate(zip(tiles, pictures, captions, strict=True)):
        x = MARGIN_PX + place % columns * (cell_w + GAP_PX)
        y = top + place // columns * (cell_h + GAP_PX)
        sheet.paste(picture, (x, y))
        _write(pen, (x, y + picture_h + 5), lines, STATE[tile.correct] if tile.correct is not None else INK)
    _legend(sheet, MARGIN_PX, sheet.height - MARGIN_PX - 18, tiles)
    return sheet


def tile_picture(tile: Tile) -> Image.Image:
    """The frame above its overlay, inside a border that says right, wrong or unknown."""
    size = (SIDE_PX + 2 * BORDER_PX, 2 * SIDE_PX + 3 * BORDER_PX)
    picture = Image.new("RGB", size, STATE[tile.correct])
    fov_LL = resized(tile.fov_SS, SIDE_PX) > 0.5
    frame_LL3 = grey(tile.image_SS, SIDE_PX)
    picture.paste(pixels(frame_LL3, fov_LL), (BORDER_PX, BORDER_PX))
    overlay_LL3 = blend(frame_LL3, resized(tile.saliency_SS, SIDE_PX), fov_LL)
    if tile.mask_SS is not None:
        overlay_LL3[_outline(resized(tile.mask_SS, SIDE_PX) > 0.5)] = CONTOUR
    picture.paste(pixels(overlay_LL3, fov_LL), (BORDER_PX, SIDE_PX + 2 * BORDER_PX))
    return picture


def png_bytes(image: Image.Image) -> bytes:
    """PNG without any metadata: same pixels, same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _outline(mask_LL: NDArray[np.bool_]) -> NDArray[np.bool_]:
    padded = np.pad(mask_LL, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask_LL & ~inside


def _legend(sheet: Image.Image, x: int, y: int, tiles: Sequence[Tile]) -> None:
    pen = ImageDraw.Draw(sheet)
    bar_10_120 = np.tile(np.linspace(0, 1, 120), (10, 1))
    x = _note(pen, x, y, "Above: frame. Below: evidence  low ")
    sheet.paste(Image.fromarray(colours(bar_10_120).round().astype(np.uint8)), (x, y + 3))
    x = _note(pen, x + 126, y, "high") + 22
    if any(tile.mask_SS is not None for tile in tiles):
        pen.rectangle((x, y + 3, x + 12, y + 12), outline=CONTOUR, fill=OUTSIDE)
        x = _note(pen, x + 19, y, "ground truth") + 22
    for state, word in ((True, "right"), (False, "wrong")):
        if any(tile.correct is state for tile in tiles):
            pen.rectangle((x, y + 3, x + 12, y + 12), fill=STATE[state])
            x = _note(pen, x + 19, y, word) + 22


def _note(pen: ImageDraw.ImageDraw, x: int, y: int, text: str) -> int:
    pen.text((x, y), text, MUTED, font(TEXT_PX))
    return x + round(font(TEXT_PX).getlength(text))


def _write(pen: ImageDraw.ImageDraw, at: tuple[int, int], lines: Sequence[str], colour: tuple[int, int, int]) -> None:
    for number, line in enumerate(lines):
        pen.text((at[0], at[1] + number * LINE_PX), line, MUTED if number else colour, font(TEXT_PX))


def _wrap(text: str, width_px: int) -> list[str]:
    """Lines that fit, broken at spaces where there are any; at most a few, the last cut short."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            joined = f"{line} {word}".strip()
            if line and font(TEXT_PX).getlength(joined) > width_px:
                lines.append(fit(line, width_px))
                joined = word
            line = joined
        lines.append(fit(line, width_px))
    if len(lines) > MAX_CAPTION_LINES:
        lines[MAX_CAPTION_LINES - 1 :] = [fit(lines[MAX_CAPTION_LINES - 1] + " …", width_px)]
    return lines
