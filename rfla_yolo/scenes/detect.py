"""The loop over the tiles of a scene: reader thread, batches, detector."""

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
Read = Callable[[Window], Image | None]
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
    read: Read, rows: Sequence[Sequence[Window]], detector: Detector, *, batch: int = 8
) -> Iterator[RowResult]:
    """Run a detector over the tiles of a scene, with at most some two batches of tiles in memory.

    A thread of its own reads tiles ahead, in their order and one at a time. Batches leave out tiles without a valid
    pixel and end with their row, so that a run that goes on forms the same ones as an undisturbed one.

    Args:
        read: Gives the pixels of a window, RGB (H, W, 3), or None where no pixel is valid. It runs in that thread.
        rows: The tiles of each row, as from `tile_rows`; a run that goes on passes the rows that are left.
        detector: Gives the detections on each of a list of tiles, px of the tile.
        batch: Tiles that the detector gets at once; the last ones of a row may be fewer.

    Returns:
        The rows, each as soon as it is finished. What ``read`` and ``detector`` raise is raised here.

    Raises:
        ValueError: If ``batch`` is below 1, or ``detector`` does not give detections for each tile.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch!r}")
    return _rows(read, rows, detector, batch)


def _rows(read: Read, rows: Sequence[Sequence[Window]], detector: Detector, batch: int) -> Iterator[RowResult]:
    windows = [window for row in rows for window in row]
    tiles = _read_ahead(read, windows, batch)
    try:
        for number, row in enumerate(rows):
            of_row = list(_detect(tiles, row, detector, batch))
            yield RowResult(number, [Detections.empty() if d is None else d for d in of_row], of_row.count(None))
    finally:
        tiles.close()


def _read_ahead(read: Read, windows: Iterable[Window], number: int) -> Generator[Image | None, None, None]:
    """Yield tiles in their order, ``number`` of them read ahead."""
    ahead: deque[Future[Image | None]] = deque()
    reader = ThreadPoolExecutor(1, thread_name_prefix="reader")
    try:
        for window in windows:
            ahead.append(reader.submit(read, window))
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
