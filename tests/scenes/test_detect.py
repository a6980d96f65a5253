"""The loop over tiles: order, batches, skipped tiles, memory, and what goes wrong in the reader."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from rfla_yolo.scenes import Detections, detect_rows, tile_rows
from rfla_yolo.scenes.detections import concatenate

ROWS = tile_rows(250, 130, 50, 10)
WINDOWS = [window for row in ROWS for window in row]


@pytest.fixture
def scene():
    """Bright pixels, on black without a valid pixel to the right."""
    return (np.random.default_rng(0).random((130, 250)) > 0.98) * np.uint8(255) * (np.arange(250) < 190)


def reader(scene, windows=None):
    def read(row, window):
        if windows is not None:
            windows.append(window)
        part = scene[window.top : window.top + window.height, window.left : window.left + window.width]
        return np.repeat(part[..., None], 3, axis=2) if part.any() else None

    return read


def bright(images):
    """Find bright pixels as boxes of 1 px."""
    found = []
    for image in images:
        y, x = np.nonzero(image[..., 0])
        found.append(Detections.of(np.stack([x, y, x + 1, y + 1], 1), np.ones(len(x)), np.zeros(len(x))))
    return found


@pytest.mark.parametrize("batch", [1, 3, 5, 100])
def test_rows_hold_what_their_tiles_show(scene, batch):
    sizes = []

    def detector(images):
        sizes.append(len(images))
        return bright(images)

    results = list(detect_rows(reader(scene), ROWS, detector, batch=batch))
    assert [result.row for result in results] == list(range(len(ROWS)))
    for row, result in zip(ROWS, results):
        expected = [reader(scene)(0, window) for window in row]
        assert result.skipped == sum(image is None for image in expected) > 0
        for window, image, found in zip(row, expected, result.found):
            own = Detections.empty() if image is None else bright([image])[0].shift(window.left, window.top)
            assert np.array_equal(found.bbox, own.bbox)
    images = [len(row) - result.skipped for row, result in zip(ROWS, results)]
    together = -(-batch // len(ROWS[0]))  # rows that have the tiles for a batch
    sums = [sum(images[first : first + together]) for first in range(0, len(ROWS), together)]
    assert sizes == [min(batch, left) for number in sums for left in range(number, 0, -batch)]
    pixels = {tuple(box[:2]) for result in results for box in concatenate(result.found).bbox.astype(int).tolist()}
    assert pixels == {(x, y) for y, x in zip(*np.nonzero(scene))}


FRAMES = [tile_rows(width, 40, 50, 10)[0] for width in (50, 50, 50, 90, 30, 30, 130, 170, 50, 50)]


@pytest.mark.parametrize("done", range(len(FRAMES) + 1))
def test_rows_of_one_size_share_batches_and_one_that_goes_on_forms_the_same(done):
    """Frames of 1, 1, 1, 2, 1, 1, 3, 4, 1, 1 tiles, the fifth and sixth smaller; the second has no valid pixel."""
    calls = []

    def read(row, window):
        return None if row == 1 else np.full((window.height, window.width, 3), row, dtype=np.uint8)

    def detector(images):
        assert len({image.shape for image in images}) == 1
        calls.append([int(image[0, 0, 0]) for image in images])
        return [Detections.of([[0, 0, call, 1]], [1], [0]) for call in calls[-1]]

    results = list(detect_rows(read, FRAMES, detector, batch=4, done=done))
    expected = [[0, 2, 3, 3], [4, 5], [6, 6, 6, 7], [7, 7, 7], [8, 9]]
    first = next((i for i, call in enumerate(expected) if call[-1] >= done), len(expected))
    first -= first == 3 and done == 7  # its tiles begin in the batch before
    assert calls == expected[first:]
    assert [result.row for result in results] == list(range(done, len(FRAMES)))
    for row, found, skipped in results:
        lefts = [window.left for window in FRAMES[row]]
        assert [part.bbox.tolist() for part in found] == [[[x, 0, x + row, 1]] if row != 1 else [] for x in lefts]
        assert skipped == (row == 1)


def test_few_tiles_are_in_memory(scene):
    """The reader goes ahead of the detector by no more than two batches."""
    read, detected = [], []

    def detector(images):
        assert threading.current_thread() is threading.main_thread()
        detected.extend(images)
        assert len(read) - len(detected) <= 2 * 2 + 1
        return bright(images)

    for _ in detect_rows(reader(scene + np.uint8(1), read), ROWS, detector, batch=2):
        pass
    assert read == WINDOWS and len(detected) == len(WINDOWS)


def test_what_the_reader_raises_comes_after_the_rows_before_it(scene):
    def read(row, window):
        assert threading.current_thread() is not threading.main_thread()
        if window == ROWS[1][2]:
            raise OSError("block 7 is damaged")
        return reader(scene)(0, window)

    rows = detect_rows(read, ROWS, bright, batch=1)
    assert next(rows).row == 0
    with pytest.raises(OSError, match="block 7 is damaged"):
        next(rows)


def test_who_stops_leaves_no_thread(scene):
    before, read = threading.active_count(), []
    rows = detect_rows(reader(scene, read), ROWS, bright, batch=1)
    next(rows)
    rows.close()
    assert threading.active_count() == before and len(read) < len(WINDOWS)


def test_wrong_numbers_are_named(scene):
    with pytest.raises(ValueError, match="batch must be at least 1, not 0"):
        detect_rows(reader(scene), ROWS, bright, batch=0)
    with pytest.raises(ValueError, match="detector gave detections on 1 tiles, expected 4"):
        list(detect_rows(reader(scene), ROWS, lambda images: bright(images[:1]), batch=4))
    with pytest.raises(ValueError, match=r"score of detections has shape \(2,\), expected \(1,\)"):
        Detections.of([[0, 0, 1, 1]], [1, 1], [0])
