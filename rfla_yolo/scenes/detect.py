"""The loop over tiles: reader thread, batches, detector."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .detections import Detections
from .windows import Window

Image = NDArray[np.uint8]
Read = Callable[[int, Window], Image | None]
Detector = Callable[[list[Image]], Sequence[Detections]]


class RowResult(NamedTuple):
    """What was found on a row of tiles.

    Attributes:
        row: Index of the row in what was passed.
        found: Detections on each tile, px of the scene, not merged yet.
        skipped: Number of tiles without a valid pixel.
    """

    row: int
    found: list[Detections]
    skipped: int


def detect_rows(
    read: Read, rows: Sequence[Sequence[Window]], detector: Detector, *, batch: int = 8, done: int = 0
) -> Generator[RowResult, None, None]:
    """Run a detector over rows of tiles, of one scene or of several, with at most some two batches of tiles in memory.

    A thread of its own reads tiles ahead, in their order and one at a time. Rows of fewer tiles than a batch and of
    one size share batches: frames that are a tile each fill them. Which tiles share one follows from all rows and from
    the tiles without a valid pixel, which are left out: a run that goes on forms the same ones as an undisturbed one.

    Args:
        read: Gives the pixels of a window of a row, by the row's index, RGB (H, W, 3), or None where no pixel is
            valid. It runs in that thread.
        rows: The tiles of each row, as from `tile_rows`, one scene after the other.
        detector: Gives the detections on each of a list of tiles, px of the tile.
        batch: Tiles that the detector gets at once.
        done: Rows at the beginning that are finished. They are detected again where they share a batch with others.

    Returns:
        The other rows in their order. What ``read`` and ``detector`` raise is raised here.

    Raises:
        ValueError: If ``batch`` is below 1, or ``detector`` does not give detections for each tile.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch!r}")
    return _rows(read, rows, detector, batch, done)


def _rows(
    read: Read, rows: Sequence[Sequence[Window]], detector: Detector, batch: int, done: int
) -> Generator[RowResult, None, None]:
    groups = [group for group in _groups(rows, batch) if group[-1] >= done]
    tiles = _read_ahead(read, (place for group in groups for place in _places(rows, group)), batch)
    try:
        for group in groups:
            of_rows: dict[int, list[Detections | None]] = {row: [] for row in group}
            places = _places(rows, group)
            for (row, _), on_tile in zip(places, _detect(tiles, [window for _, window in places], detector, batch)):
                of_rows[row].append(on_tile)
            for row in range(max(group[0], done), group[-1] + 1):
                found = [Detections.empty() if d is None else d for d in of_rows[row]]
                yield RowResult(row, found, of_rows[row].count(None))
    finally:
        tiles.close()


def _groups(rows: Sequence[Sequence[Window]], batch: int) -> Iterator[range]:
    """Yield the indices of rows that share batches: until there are tiles for one, or tiles of another size."""
    start, tiles = 0, 0
    for number, row in enumerate(rows):
        sizes = {(window.width, window.height) for window in (*rows[start], *row)}
        if number > start and (tiles >= batch or len(sizes) > 1):
            yield range(start, number)
            start, tiles = number, 0
        tiles += len(row)
    if rows:
        yield range(start, len(rows))


def _places(rows: Sequence[Sequence[Window]], group: range) -> list[tuple[int, Window]]:
    return [(row, window) for row in group for window in rows[row]]


def _read_ahead(read: Read, places: Iterable[tuple[int, Window]], number: int) -> Generator[Image | None, None, None]:
    """Yield tiles in their order, ``number`` of them read ahead."""
    ahead: deque[Future[Image | None]] = deque()
    reader = ThreadPoolExecutor(1, thread_name_prefix="reader")
    try:
        for row, window in places:
            ahead.append(reader.submit(read, row, window))
            if len(ahead) > number:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        reader.shutdown(cancel_futures=True)


def _detect(
    tiles: Iterable[Image | None], windows: Sequence[Window], detector: Detector, batch: int
) -> Iterator[Detections | None]:
    """Yield the detections on each tile in px of the scene, None for a tile without a valid pixel."""
    waiting: list[tuple[Window, Image | None]] = []
    images = 0
    for window, tile in zip(windows, tiles):
        waiting.append((window, tile))
        images += tile is not None
        if images == batch:
            yield from _of_batch(waiting, detector)
            waiting, images = [], 0
    yield from _of_batch(waiting, detector)


def _of_batch(waiting: Sequence[tuple[Window, Image | None]], detector: Detector) -> list[Detections | None]:
    images = [tile for _, tile in waiting if tile is not None]
    found = iter(_checked(detector(images), len(images)) if images else [])
    return [None if tile is None else next(found).shift(window.left, window.top) for window, tile in waiting]


def _checked(found: Sequence[Detections], number: int) -> Sequence[Detections]:
    if len(found) != number:
        raise ValueError(f"detector gave detections on {len(found)} tiles, expected {number}")
    return found
