"""Tiles: all of the scene, as little overlap as asked, nothing outside."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfla_yolo.scenes import tile_rows


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.data())
def test_cover_the_scene(width, height, size, data):
    overlap = data.draw(st.integers(0, size - 1))
    rows = tile_rows(width, height, size, overlap)
    seen = np.zeros((height, width), dtype=int)
    for row in rows:
        assert len({(w.top, w.height) for w in row}) == 1
        for w in row:
            assert w.left >= 0 and w.top >= 0 and (w.width, w.height) == (min(size, width), min(size, height))
            part = seen[w.top : w.top + w.height, w.left : w.left + w.width]
            assert part.shape == (w.height, w.width)
            part += 1
        for one, other in pairwise(row):
            assert one.left < other.left and one.left + size - other.left >= overlap
    assert (seen > 0).all()
    for one, other in pairwise(rows):
        assert one[0].top < other[0].top and one[0].top + size - other[0].top >= overlap
    steps = max(-(-(width - size) // (size - overlap)), 0) + 1
    assert len(rows[0]) == steps


def test_bad_settings_are_named():
    for arguments, message in (
        ((0, 5, 5, 0), "width must be at least 1 px, not 0"),
        ((5, 5, -1, 0), "size must be at least 1 px, not -1"),
        ((5, 5, 5, 5), r"overlap must be in px, from 0 to below size \(5\), not 5"),
    ):
        with pytest.raises(ValueError, match=message):
            tile_rows(*arguments)
