"""Which clips are copies of one another: many blobs alike, and all of them placed by one and the same transform.

One alike blob proves nothing: tissue of one class looks alike. A copy has many that agree on which way it was
turned, how much it was scaled and how far it was shifted, at many places of the picture.

N blobs of a new clip, M blobs of all earlier ones, P pairs of the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import spatial

from pipelines.video import fingerprint
from pipelines.video.fingerprint import Blobs

TURNS = 8
CHUNKS = 3
CHUNK_BITS = fingerprint.WORD_BITS // CHUNKS
HINT_BITS = 10  # words of a hint may differ in so many; of 54, two patches of other tissue differ in about 27
MOST_WRONG_BITS = 10  # where the transform puts the one on the other; more, and chance joins in
MOST_HINTS = 48
REACH_OF_VOTES = np.array([0.4, 0.12, 0.12])  # octaves, sides of the field of view
AXES = np.array([1.0, 1.0, 0.1], np.float32)  # a disagreement of an octave counts as a tenth of a side
REACHES = (0.08, 0.04, 0.03)
PLACES = 5  # side of the grid in which places are counted
MIN_PLACES = 8
MIN_PAIRS = 12
PAIRS_AT_ONCE = 1 << 21
COMPARED_AT_ONCE = 1 << 31  # blobs of one clip times blobs of another; about one in a hundred is a pair to look at


@dataclass(frozen=True, kw_only=True)
class Match:
    """A clip that this one is a copy of, or the other way round."""

    video_id: str
    pairs: int  # blobs that agree
    places: int  # of the picture that they cover


@dataclass(frozen=True, kw_only=True)
class Transform:
    """How the picture of one clip lies in that of another: turned, then scaled and shifted about its centre."""

    turn: int  # 0 to 7, as fingerprint.turned counts them
    octave: float
    shift: tuple[float, float]
    pairs: int

    def of(self, blobs: Blobs) -> NDArray[np.float32]:
        """Where the clip's blobs, turned already, would lie: N x (x, y, log2 scale)."""
        at_N2 = np.column_stack([blobs["x"], blobs["y"]]) - 0.5
        at_N2 = at_N2 * 2**self.octave + np.array(self.shift)
        return np.column_stack([at_N2, np.log2(blobs["scale"]) + self.octave]).astype(np.float32)


@dataclass
class Index:
    """Every earlier clip's blobs, to be asked for those that differ in few bits.

    A word is cut into chunks; words that differ in fewer bits than there are chunks share one, and most that
    differ in a few more do as well. Each chunk has a sorted table. What that finds is a hint of a transform;
    the hint is then tested on all blobs of the two clips.
    """

    names: list[str] = field(default_factory=list)
    waiting: list[Blobs] = field(default_factory=list)
    shelves: list[_Shelf] = field(default_factory=list)

    def add(self, video_id: str, blobs: Blobs) -> None:
        self.names.append(video_id)
        self.waiting.append(blobs)

    def find(self, blobs: Blobs) -> list[Match]:
        """Copies among the clips added so far, the surest first."""
        if not len(blobs):
            return []
        self._shelve()
        hints = [(hint, clip, shelf) for shelf in self.shelves for clip, hint in shelf.hints(blobs)]
        hints.sort(key=lambda item: (-item[0].pairs, item[1]))
        found = []
        for hint, clip, shelf in hints[:MOST_HINTS]:
            pairs, places = support(blobs, shelf.rows_of(clip), hint)
            if pairs >= MIN_PAIRS and places >= MIN_PLACES:
                found.append(Match(video_id=self.names[clip], pairs=pairs, places=places))
        return sorted(found, key=lambda match: (-match.pairs, match.video_id))

    def _shelve(self) -> None:
        """Clips that came since the last question get a shelf; shelves of one size are merged, as in a counter."""
        if not sum(len(blobs) for blobs in self.waiting):
            return
        first = len(self.names) - len(self.waiting)
        clip_M = np.repeat(np.arange(first, len(self.names)), [len(rows) for rows in self.waiting])
        rows_M, self.waiting = np.concatenate(self.waiting), []
        while self.shelves and len(self.shelves[-1].rows_M) <= len(rows_M):
            last = self.shelves.pop()
            rows_M, clip_M = np.concatenate([last.rows_M, rows_M]), np.concatenate([last.clip_M, clip_M])
        self.shelves.append(_Shelf(rows_M, clip_M.astype(np.int32)))


@dataclass
class _Shelf:
    """Blobs of many clips, clip after clip, and the sorted tables of their words' chunks."""

    rows_M: Blobs
    clip_M: NDArray[np.int32]

    def __post_init__(self) -> None:
        keys = [_chunk(self.rows_M["word"], number) for number in range(CHUNKS)]
        self.order = [np.argsort(key, kind="stable").astype(np.int32) for key in keys]
        self.keys = [key[order] for key, order in zip(keys, self.order, strict=True)]

    def rows_of(self, clip: int) -> Blobs:
        first, end = np.searchsorted(self.clip_M, [clip, clip + 1])
        return self.rows_M[first:end]

    def hints(self, blobs: Blobs) -> list[tuple[int, Transform]]:
        """For each clip with alike words, the transform that most of them agree on."""
        best: dict[int, Transform] = {}
        for turn in range(TURNS):
            query = fingerprint.turned(blobs, turn)
            query_P, row_P = self._alike(query["word"])
            votes_P3 = _votes(query[query_P], self.rows_M[row_P])
            self._count(turn, self.clip_M[row_P], votes_P3, best)
        return sorted(best.items())

    def _count(
        self, turn: int, clip_P: NDArray[np.int32], votes_P3: NDArray[np.float64], best: dict[int, Transform]
    ) -> None:
        """Puts each clip's fullest cell of votes in ``best``, if it beats what is there."""
        for offset in (0.0, 0.5):
            cells = np.column_stack([clip_P, np.floor(votes_P3 / REACH_OF_VOTES + offset).astype(np.int64)])
            for clip, count, middle in _fullest(cells, votes_P3):
                if clip not in best or count > best[clip].pairs:
                    octave, *shift = (float(value) for value in middle)
                    best[clip] = Transform(turn=turn, octave=octave, shift=(shift[0], shift[1]), pairs=count)

    def _alike(self, words_N: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(blob of the new clip, row here) of pairs of words that differ in few bits; each pair once."""
        codes = np.unique(np.concatenate([pair for number in range(CHUNKS) for pair in self._sharing(words_N, number)]))
        return np.divmod(codes, len(self.rows_M))

    def _sharing(self, words_N: NDArray[np.uint64], number: int) -> Iterator[NDArray[np.int64]]:
        """Pairs that share a chunk and differ in few bits elsewhere, as query * M + row."""
        wanted = _chunk(words_N, number)
        left = np.searchsorted(self.keys[number], wanted, "left")
        counts = np.searchsorted(self.keys[number], wanted, "right") - left
        ends = np.cumsum(counts)
        start = 0
        while start < len(wanted):
            stop = max(start + 1, int(np.searchsorted(ends, (ends[start - 1] if start else 0) + PAIRS_AT_ONCE)))
            yield self._close(words_N, number, left, counts, slice(start, stop))
            start = stop

    def _close(
        self, words_N: NDArray[np.uint64], number: int, left: NDArray[np.int64], counts: NDArray[np.int64], part: slice
    ) -> NDArray[np.int64]:
        many = counts[part]
        query = np.repeat(np.arange(part.start, part.start + len(many)), many)
        within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        row = self.order[number][np.repeat(left[part], many) + within].astype(np.int64)
        wrong = np.bitwise_count(words_N[query] ^ self.rows_M["word"][row])
        close = wrong <= HINT_BITS
        return np.asarray(query[close] * len(self.rows_M) + row[close])


def support(blobs: Blobs, rows_M: Blobs, hint: Transform) -> tuple[int, int]:
    """Pairs that lie where the transform says and look alike, and the places of the picture they cover.

    The transform is fitted anew, from rough to close; a chance hint dissolves on the way.
    """
    query = fingerprint.turned(blobs, hint.turn)
    there_M3 = np.column_stack([rows_M["x"], rows_M["y"], np.log2(rows_M["scale"])]).astype(np.float32)
    tree = spatial.cKDTree(there_M3 * AXES)
    for reach in REACHES:
        here_N3 = hint.of(query)
        here_P, there_P = np.concatenate(list(_alike(query, here_N3, rows_M, tree, reach)), axis=1)
        if not len(here_P):
            return 0, 0
        hint = _fitted(hint, here_N3[here_P], there_M3[there_P])
    return len(here_P), max(_places(query[here_P]), _places(rows_M[there_P]))


def _alike(
    query: Blobs, here_N3: NDArray[np.float32], rows_M: Blobs, tree: spatial.cKDTree, reach: float
) -> Iterator[NDArray[np.intp]]:
    """(2, P): blobs of the query and rows that are near and look alike. In parts: of long clips most are only near."""
    step = max(1, COMPARED_AT_ONCE // len(rows_M))
    for start in range(0, len(query), step):
        part = spatial.cKDTree(here_N3[start : start + step] * AXES)
        near = part.sparse_distance_matrix(tree, reach, p=np.inf, output_type="ndarray")
        here_P, there_P = near["i"] + start, near["j"]
        wrong_P = np.bitwise_count(query["word"][here_P] ^ rows_M["word"][there_P])
        yield np.stack([here_P, there_P])[:, wrong_P <= MOST_WRONG_BITS]


def _places(blobs_P: Blobs) -> int:
    """Cells of a coarse grid that hold a blob. Counted in both pictures: a crop fills its own."""
    cells = np.floor(blobs_P["x"] * PLACES).astype(int) * PLACES + np.floor(blobs_P["y"] * PLACES).astype(int)
    return len(np.unique(cells))


def _fitted(hint: Transform, here_P3: NDArray[np.float32], there_P3: NDArray[np.float32]) -> Transform:
    """Least squares of scale and shift on top of the hint's."""
    centre = np.array(hint.shift, np.float32)
    here_P2, there_P2 = here_P3[:, :2] - centre, there_P3[:, :2]
    mean_here, mean_there = here_P2.mean(axis=0), there_P2.mean(axis=0)
    spread = float(((here_P2 - mean_here) ** 2).sum())
    stretch = float(((here_P2 - mean_here) * (there_P2 - mean_there)).sum()) / spread if spread > 0 else 1.0
    stretch = min(max(stretch, 0.8), 1.25)
    shift = mean_there - stretch * mean_here
    return Transform(
        turn=hint.turn,
        octave=hint.octave + float(np.log2(stretch)),
        shift=(float(shift[0]), float(shift[1])),
        pairs=len(here_P3),
    )


def _votes(here_P: Blobs, there_P: Blobs) -> NDArray[np.float64]:
    """The transform that each pair alone would mean: P x (octave, where the picture's centre goes)."""
    stretch_P = there_P["scale"] / here_P["scale"].astype(np.float64)
    shift_x = there_P["x"] - (here_P["x"] - 0.5) * stretch_P
    shift_y = there_P["y"] - (here_P["y"] - 0.5) * stretch_P
    return np.column_stack([np.log2(stretch_P), shift_x, shift_y])


def _fullest(
    cells_P4: NDArray[np.int64], votes_P3: NDArray[np.float64]
) -> Iterator[tuple[int, int, NDArray[np.float64]]]:
    """(clip, votes, their mean) of the fullest cell of each clip; the clip is the first column."""
    cells, cell_P, counts = np.unique(cells_P4, axis=0, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(cell_P.ravel(), votes_P3[:, axis], len(cells)) for axis in range(3)], axis=1)
    order = np.lexsort((-counts, cells[:, 0]))
    _, first = np.unique(cells[order, 0], return_index=True)
    for cell in order[first]:
        yield int(cells[cell, 0]), int(counts[cell]), sums[cell] / counts[cell]


def _chunk(words: NDArray[np.uint64], number: int) -> NDArray[np.uint32]:
    """Every third bit, from ``number`` on: each chunk holds waves of all lengths."""
    chunk = np.zeros(len(words), np.uint32)
    for place in range(CHUNK_BITS):
        bit = (words >> np.uint64(place * CHUNKS + number)) & np.uint64(1)
        chunk |= (bit << np.uint64(place)).astype(np.uint32)
    return chunk
