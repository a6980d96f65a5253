"""Where the tiles of a scene lie."""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """A rectangle of a scene, px."""

    left: int
    top: int
    width: int
    height: int


def tile_rows(width: int, height: int, size: int, overlap: int) -> list[list[Window]]:
    """Cover a scene with overlapping tiles, row by row.

    The last tile of an axis is shifted back to the border, so all tiles are whole where the scene is as large as one.

    Args:
        width: Width of the scene, px.
        height: Its height, px.
        size: Side of a tile, px.
        overlap: Overlap of neighbouring tiles, px; that of the last two of an axis may be larger.

    Returns:
        The tiles of each row from left to right, rows from the top.

    Raises:
        ValueError: If a side is below 1 or ``overlap`` is not in 0 to below ``size``.
    """
    for name, value in (("width", width), ("height", height), ("size", size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1 px, not {value!r}")
    if not 0 <= overlap < size:
        raise ValueError(f"overlap must be in px, from 0 to below size ({size}), not {overlap!r}")
    columns, rows = (_axis(length, size, size - overlap) for length in (width, height))
    return [[Window(left, top, w, h) for left, w in columns] for top, h in rows]


def _axis(length: int, size: int, step: int) -> list[tuple[int, int]]:
    """Return start and length of the tiles along an axis."""
    if length <= size:
        return [(0, length)]
    return [(min(start, length - size), size) for start in range(0, length - size + step, step)]
