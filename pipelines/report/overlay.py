"""`lclsc predict --overlay`: the clip beside its saliency, and below both what the model says of this frame and so far.

No name of a file stands in the picture: it may be a patient's. L: side of a frame as drawn; K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipelines.inference import VideoPrediction
from pipelines.report.paint import INK, MUTED, PAPER, blend, colours, fit, font, grey, pixels, resized

SIDE_PX = 400
GAP_PX = 12
WIDTH_PX = 2 * SIDE_PX + 3 * GAP_PX
ROW_PX = 22
HEAD_PX = 84
BAR_PX = 220
TEXT_PX, HEAD_TEXT_PX = 14, 24

BAR, QUIET = (31, 97, 141), (206, 212, 218)
REJECTED, UNJUDGED = (197, 48, 48), (154, 106, 0)


@dataclass(frozen=True)
class Running:
    """What the frames judged so far say together, as evaluation pools them."""

    name: str | None
    share: float
    frames: int


def frames(
    classes: Sequence[str], found: VideoPrediction, version: str, on_frame: Callable[[], None] = lambda: None
) -> Iterator[NDArray[np.uint8]]:
    """One picture (H, W, 3) a frame of the clip, with even sides."""
    total_K = np.zeros(len(classes))
    judged = 0
    for n in range(len(found.frame_index_N)):
        if found.keep_N[n]:
            total_K += found.prediction.probabilities_NK[n]
            judged += 1
        best = int(total_K.argmax())
        running = Running(classes[best], float(total_K[best] / judged), judged) if judged else Running(None, 0.0, 0)
        yield np.asarray(picture(classes, found, n, running, version))
        on_frame()


def picture(classes: Sequence[str], found: VideoPrediction, n: int, running: Running, version: str) -> Image.Image:
    """Frame ``n`` beside its saliency, above the strip."""
    height = 2 * GAP_PX + SIDE_PX + HEAD_PX + ROW_PX * len(classes) + 2 * ROW_PX
    sheet = Image.new("RGB", (WIDTH_PX, height + height % 2), PAPER)
    fov_LL = resized(found.fov_NSS[n], SIDE_PX) > 0.5
    frame_LL3 = grey(found.images_NSS[n], SIDE_PX)
    sheet.paste(pixels(frame_LL3, fov_LL), (GAP_PX, GAP_PX))
    # A frame that is not judged has no evidence to show.
    saliency_LL = resized(found.prediction.saliency_NSS[n], SIDE_PX) * float(found.keep_N[n])
    overlay_LL3 = blend(frame_LL3, saliency_LL, fov_LL)
    sheet.paste(pixels(overlay_LL3, fov_LL), (2 * GAP_PX + SIDE_PX, GAP_PX))
    top = 2 * GAP_PX + SIDE_PX
    _head(sheet, top, classes, found, n, running)
    _bars(sheet, top + HEAD_PX, classes, found, n)
    _foot(sheet, sheet.height - ROW_PX - GAP_PX // 2, found, n, version)
    return sheet


def _head(sheet: Image.Image, y: int, classes: Sequence[str], found: VideoPrediction, n: int, running: Running) -> None:
    """This frame on the left, the clip so far on the right."""
    prediction = found.prediction
    best = int(prediction.predicted_N[n])
    state, colour = _state(found, n)
    _text(sheet, GAP_PX, y, "this frame", MUTED)
    name = classes[best] if found.keep_N[n] else "–"
    _text(sheet, GAP_PX, y + 18, name, MUTED if state else INK, size_px=HEAD_TEXT_PX, bold=True)
    figures = f"probability {prediction.probabilities_NK[n, best]:.2f}   score {prediction.score_N[n]:.2f}   "
    x = _text(sheet, GAP_PX, y + 52, figures if found.keep_N[n] else "", INK)
    _text(sheet, x, y + 52, state, colour, bold=True)
    right = 2 * GAP_PX + SIDE_PX
    _text(sheet, right, y, "the clip so far", MUTED)
    _text(sheet, right, y + 18, running.name or "–", INK, size_px=HEAD_TEXT_PX, bold=True)
    judged = f"mean probability {running.share:.2f} over {running.frames} judged frames"
    _text(sheet, right, y + 52, judged if running.frames else "no frame judged yet", INK)


def _state(found: VideoPrediction, n: int) -> tuple[str, tuple[int, int, int]]:
    if not found.keep_N[n]:
        return "not fit to be judged", UNJUDGED
    return ("rejected", REJECTED) if found.prediction.reject_N[n] else ("", INK)


def _bars(sheet: Image.Image, y: int, classes: Sequence[str], found: VideoPrediction, n: int) -> None:
    """A bar for every class, the predicted one in colour; the map's legend beside them."""
    pen = ImageDraw.Draw(sheet)
    best = int(found.prediction.predicted_N[n])
    for k, name in enumerate(classes):
        row = y + k * ROW_PX
        judged = bool(found.keep_N[n])
        share = float(found.prediction.probabilities_NK[n, k]) if judged else 0.0
        _text(sheet, GAP_PX, row, fit(name, SIDE_PX - BAR_PX - 60), INK)
        x = SIDE_PX - BAR_PX - 40
        pen.rectangle((x, row + 4, x + BAR_PX, row + 14), outline=QUIET)
        if share > 0:
            pen.rectangle((x, row + 4, x + round(BAR_PX * share), row + 14), fill=BAR if k == best else QUIET)
        _text(sheet, x + BAR_PX + 8, row, f"{share:.2f}" if judged else "–", INK if k == best and judged else MUTED)
    legend_12_W = np.tile(np.linspace(0, 1, BAR_PX), (12, 1))
    x = _text(sheet, 2 * GAP_PX + SIDE_PX, y, "evidence in this frame: low ", MUTED)
    sheet.paste(Image.fromarray(colours(legend_12_W).round().astype(np.uint8)).resize((120, 12)), (x, y + 3))
    _text(sheet, x + 126, y, "high", MUTED)


def _foot(sheet: Image.Image, y: int, found: VideoPrediction, n: int, version: str) -> None:
    seconds = found.pts_seconds_N[n] - found.pts_seconds_N[0]
    _text(sheet, GAP_PX, y, f"{seconds:.2f} s   frame {found.frame_index_N[n]}", MUTED)
    note = f"model version {version}. Research use only."
    _text(sheet, WIDTH_PX - GAP_PX - round(font(TEXT_PX).getlength(note)), y, note, MUTED)


def _text(
    sheet: Image.Image,
    x: int,
    y: int,
    text: str,
    colour: tuple[int, int, int],
    *,
    size_px: int = TEXT_PX,
    bold: bool = False,
) -> int:
    """Returns where it ends."""
    ImageDraw.Draw(sheet).text((x, y), text, colour, font(size_px, bold))
    return x + round(font(size_px, bold).getlength(text))
