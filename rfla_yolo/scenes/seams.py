"""Detections on overlapping tiles to those of the scene: every object once, as if there were no tiles.

Two tiles see the same in the part that they share. That tells which of their detections are one object, whole or in
pieces, however much objects cover each other:

1. A detection within `MARGIN` of an inner border of its tile may be a piece. It is dropped where another tile has more
   of it; where none has, the object is larger than the overlap allows, and the piece stays, flagged ``cut``.
2. Between two tiles, detections of one class are matched one to one, the most alike first: alike by the IoU of their
   boxes in the shared part, among those whose boxes overlap by half of the smaller one. Dropped pieces take part, so
   that their object is not matched with another one.
3. Whole ones before pieces and those far from the inner borders of their tile first, each detection removes what it is
   matched with in the other tiles. Far from a border the model says what it says without tiles. Tiles that own what has
   its centre in their core would do as well, but lose or double what two tiles see on different sides of its edge.

Two detections of a tile are never merged: the model's own suppression has decided about them. Boxes stay as predicted.
The outcome depends on the detections and on the places of the tiles alone, not on the order in which they come.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ..pairs import MAX_PAIRS, Bools, Floats, Ints, near_pairs
from .detections import Detections, concatenate
from .windows import Window

MARGIN = 1.5  # px; boxes that end closer to a border than that may be cut by it
LEAST = 0.5  # of the smaller box: common area of two detections that may be one object
OUTWARDS = np.array([-1.0, -1.0, 1.0, 1.0])  # turns xyxy into how far a box reaches to each side


def overlap_for(largest: float) -> int:
    """Return the overlap of tiles, px, with which a tile has every object of up to ``largest`` px whole."""
    return math.floor(largest + 2 * MARGIN) + 1


def merge(windows: Sequence[Window], found: Sequence[Detections]) -> Detections:
    """Merge the detections on all tiles of a scene at once.

    Args:
        windows: The tiles, in any order; those without an object may be left out.
        found: Detections on each, px of the scene.

    Returns:
        The detections of the scene, tile by tile, tiles row by row.

    Raises:
        ValueError: If there are not as many tiles as detections on tiles.
    """
    if len(windows) != len(found):
        raise ValueError(f"found must hold detections on each of {len(windows)} tiles, not {len(found)}")
    order = sorted(range(len(windows)), key=lambda i: (windows[i].top, windows[i].left))
    return SeamMerger([[windows[i] for i in order]]).add_row([found[i] for i in order])


class SeamMerger:
    """Merges a scene row by row of tiles, keeping only what later rows may still change.

    All detections that it gives are those of `merge`.

    Args:
        rows: The tiles of each row, as from `tile_rows`; rows from the top.
        size: Width and height of the scene, px, where tiles at its border may be missing; by default what tiles cover.
    """

    def __init__(self, rows: Sequence[Sequence[Window]], size: tuple[int, int] | None = None) -> None:
        self._rows = [len(row) for row in rows]
        tops = [min((window.top for window in row), default=math.inf) for row in rows]
        self._below = [min(tops[row:], default=math.inf) for row in range(1, len(rows) + 1)]
        corners = [(w.left, w.top, w.left + w.width, w.top + w.height) for row in rows for w in row]
        self._tiles = np.array(corners, dtype=float).reshape(-1, 4)
        reach = self._tiles * OUTWARDS
        outermost = reach.max(0, initial=-math.inf) if size is None else np.array([0, 0, *size])
        self._inner = reach < outermost
        self._neighbours, self._first = _neighbours(self._tiles)
        self._row = 0
        self._pool = Detections.empty()  # what later rows may change, with its tiles, dropped pieces included
        self._tile, self._dropped = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)

    def add_row(self, found: Sequence[Detections]) -> Detections:
        """Take the detections on the next row of tiles.

        Args:
            found: Detections on each tile of the row, px of the scene.

        Returns:
            The detections of the scene that no later row can change, and that were not given before.

        Raises:
            ValueError: If there is no further row or it has another number of tiles.
        """
        if self._row == len(self._rows):
            raise ValueError(f"all {self._row} rows of tiles have been added")
        if len(found) != self._rows[self._row]:
            raise ValueError(f"row {self._row} has {self._rows[self._row]} tiles, not {len(found)}")
        before = sum(self._rows[: self._row])
        tile = np.repeat(np.arange(before, before + len(found)), [len(part) for part in found])
        new, dropped = self._mark(concatenate(found), tile)
        self._pool = concatenate([self._pool, new])
        self._tile, self._dropped = np.concatenate([self._tile, tile]), np.concatenate([self._dropped, dropped])
        self._row += 1
        return self._settle(self._below[self._row - 1])

    def finish(self) -> Detections:
        """Return what still waits for rows that do not come; nothing where all have been added."""
        self._row = len(self._rows)
        return self._settle(math.inf)

    def _settle(self, below: float) -> Detections:
        """Merge, give and forget what cannot be one object with anything that reaches below a line."""
        pool, tile, dropped = self._pool, self._tile, self._dropped
        boxes = self._clip(pool.bbox, tile)
        rank = _rank(pool, tile, self._depth(boxes, tile))
        a, b, alike = self._candidates(boxes, pool.label, tile)
        waits = boxes[:, 3] > below
        while (waits[a] != waits[b]).any():  # what may be one object with something that waits, waits too
            waits[a[waits[b]]] = True
            waits[b[waits[a]]] = True
        final = ~waits[a]
        a, b = self._match(a[final], b[final], alike[final], tile, rank)
        kept = ~dropped
        _remove(a, b, rank, kept)
        done = pool.take(np.flatnonzero(kept & ~waits))
        self._pool, self._tile, self._dropped = pool.take(waits), tile[waits], dropped[waits]
        return done

    def _clip(self, bbox: Floats, tile: Ints) -> Floats:
        """Return the part of boxes that lies in a tile each."""
        low, high = self._tiles[tile, :2], self._tiles[tile, 2:]
        return np.concatenate([bbox[:, :2].clip(low, high), bbox[:, 2:].clip(low, high)], axis=1)

    def _depth(self, boxes: Floats, tile: Ints) -> Floats:
        """Return how far boxes are from the inner borders of their tile, px."""
        gaps: Floats = np.where(self._inner[tile], (self._tiles[tile] - boxes) * OUTWARDS, math.inf)
        return gaps.min(1, initial=math.inf)

    def _mark(self, found: Detections, tile: Ints) -> tuple[Detections, Bools]:
        """Flag what a border cuts, and return which of it another tile has more of."""
        reach = self._clip(found.bbox, tile) * OUTWARDS
        ends = self._inner[tile] & (self._tiles[tile] * OUTWARDS - reach < MARGIN)
        dropped = np.zeros(len(found), dtype=bool)
        at_border = np.flatnonzero(ends.any(1))
        for part, other in self._with_neighbours(at_border, tile):
            own, others = self._tiles[tile[part]] * OUTWARDS, self._tiles[other] * OUTWARDS
            whole = ~ends[part] & (reach[part] <= others - 2 * MARGIN)  # twice: both tiles' boxes are inexact
            more = ((others >= own) | whole).all(1) & (ends[part] & (others > own)).any(1)
            dropped[part[more]] = True
        cut = (found.cut | ends.any(1)) & ~dropped
        return Detections(found.bbox, found.score, found.label, cut), dropped

    def _with_neighbours(self, rows: Ints, tile: Ints) -> Iterator[tuple[Ints, Ints]]:
        """Yield rows with each tile that overlaps theirs, some `MAX_PAIRS` at a time."""
        number = (self._first[1:] - self._first[:-1])[tile[rows]]
        chunk = number.cumsum() // MAX_PAIRS
        for i in range(int(chunk[-1]) + 1 if len(rows) else 0):
            part, n = rows[chunk == i], number[chunk == i]
            places = np.arange(n.sum()) + np.repeat(self._first[tile[part]] - (n.cumsum() - n), n)
            yield np.repeat(part, n), self._neighbours[places]

    def _candidates(self, boxes: Floats, label: Ints, tile: Ints) -> tuple[Ints, Ints, Floats]:
        """Return pairs that may be one object, the tile of the first being the earlier, and how alike they are, (P, 2).

        The first column is the IoU in the part that the two tiles share, the second that of the boxes.
        """
        parts = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros((0, 4)))]
        for rows, other in self._with_neighbours(np.arange(len(boxes)), tile):
            shared = self._clip(boxes[rows], other)
            near = np.flatnonzero((shared[:, 2:] > shared[:, :2]).all(1))
            parts.append((rows[near], other[near], shared[near]))
        row, other, shared = (np.concatenate(column) for column in zip(*parts))
        first, second = np.minimum(tile[row], other), np.maximum(tile[row], other)
        common = np.minimum(self._tiles[first, 2:], self._tiles[second, 2:])
        common -= np.maximum(self._tiles[first, :2], self._tiles[second, :2])
        upright = common[:, 1] > common[:, 0]
        shared[upright] = shared[upright][:, [1, 0, 3, 2]]  # the search goes along x
        shared[:, 2:] -= shared[:, :2]
        key = (first * len(self._tiles) + second) * (label.max(initial=0) + 1) + label[row]
        group = np.unique(key, return_inverse=True)[1].reshape(-1)
        one, two = np.flatnonzero(tile[row] < other), np.flatnonzero(tile[row] > other)
        none = np.zeros(len(two), dtype=bool)
        i, j, iou = near_pairs(shared[one], group[one], shared[two], group[two], none, least=1e-9)
        a, b = row[one[i]], row[two[j]]
        sides = np.minimum(boxes[a, 2:], boxes[b, 2:]) - np.maximum(boxes[a, :2], boxes[b, :2])
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        common_area = sides.prod(1)
        kept = common_area >= LEAST * np.minimum(area[a], area[b])
        alike = np.stack([iou, common_area / (area[a] + area[b] - common_area)], axis=1).round(9)
        return a[kept], b[kept], alike[kept]

    def _match(self, a: Ints, b: Ints, alike: Floats, tile: Ints, rank: Ints) -> tuple[Ints, Ints]:
        """Match the detections of two tiles one to one, the most alike first."""
        order = np.lexsort((rank[b], rank[a], -alike[:, 1], -alike[:, 0]))
        a, b = a[order], b[order]
        number = len(self._tiles)
        keys = zip((a * number + tile[b]).tolist(), (b * number + tile[a]).tolist())
        taken: set[int] = set()
        matched = []
        for place, (one, two) in enumerate(keys):
            if one not in taken and two not in taken:
                taken |= {one, two}
                matched.append(place)
        return a[matched], b[matched]


def _neighbours(tiles: Floats) -> tuple[Ints, Ints]:
    """Return the other tiles that overlap each, and where those of each begin, (T + 1,)."""
    boxes = np.concatenate([tiles[:, :2], tiles[:, 2:] - tiles[:, :2]], axis=1)
    group = np.zeros(len(tiles), dtype=np.int64)
    one, other, _ = near_pairs(boxes, group, boxes, group, np.zeros(len(tiles), dtype=bool), least=1e-9)
    order = np.lexsort((other, one))
    one, other = one[order], other[order]
    apart = one != other
    return other[apart], np.searchsorted(one[apart], np.arange(len(tiles) + 1))


def _rank(found: Detections, tile: Ints, depth: Floats) -> Ints:
    """Return the place of each, the best being 0: whole ones by depth, then cut ones by area."""
    best = np.where(found.cut, (found.bbox[:, 2:] - found.bbox[:, :2]).prod(1), depth)
    order = np.lexsort((*found.bbox.T, found.label, tile, -found.score, -best, found.cut))
    rank = np.empty(len(found), dtype=np.int64)
    rank[order] = np.arange(len(found))
    return rank


def _remove(a: Ints, b: Ints, rank: Ints, kept: Bools) -> None:
    """Let each kept detection, by rank, remove those that it is matched with."""
    swapped = rank[a] > rank[b]
    better, worse = np.where(swapped, b, a), np.where(swapped, a, b)
    order = np.lexsort((rank[worse], rank[better]))
    for one, other in zip(better[order].tolist(), worse[order].tolist()):
        if kept[one]:
            kept[other] = False
