"""Oriented boxes: corners, hulls and exact intersections.

A box is its centre x, centre y, width, height (px) and angle (radians), as Ultralytics' xywhr has it: the width lies
along (cos angle, sin angle), y downwards.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MAX_PAIRS = 1 << 16  # pairs intersected in one go; some 800 bytes each


def corners(boxes: Floats) -> Floats:
    """Return the corners of oriented boxes in the order of Ultralytics, px.

    Args:
        boxes: Oriented boxes, (N, 5).

    Returns:
        Corners, (N, 4, 2).

    Example:
        >>> corners(np.array([[10, 20, 4, 2, 0.0]]))[0].tolist()
        [[12.0, 21.0], [12.0, 19.0], [8.0, 19.0], [8.0, 21.0]]
    """
    return np.asarray(boxes[:, None, :2] + _offsets(boxes[:, 2], boxes[:, 3], boxes[:, 4]))


def hulls(boxes: Floats) -> Floats:
    """Return the axis-aligned boxes around oriented boxes.

    Args:
        boxes: Oriented boxes, (N, 5).

    Returns:
        Left, top, width, height, px, (N, 4).

    Example:
        >>> hulls(np.array([[10, 20, 4, 2, 0.0]])).tolist()
        [[8.0, 19.0, 4.0, 2.0]]
    """
    cos, sin = np.abs(np.cos(boxes[:, 4])), np.abs(np.sin(boxes[:, 4]))
    sides = np.stack((boxes[:, 2] * cos + boxes[:, 3] * sin, boxes[:, 2] * sin + boxes[:, 3] * cos), 1)
    return np.concatenate((boxes[:, :2] - sides / 2, sides), 1)


def intersections(a: Floats, b: Floats) -> Floats:
    """Return the area that each pair of oriented boxes shares, px^2.

    In the frame of b, b is |x| <= W, |y| <= H. Above x, a reaches from its lower to its upper border, so that the
    shared area is the integral of clip(upper, -H, H) - clip(lower, -H, H) over -W <= x <= W: a sum over the edges of a,
    piecewise of trapezoids. No corner, parallel or common edge is a special case.

    Args:
        a: Oriented boxes, (N, 5).
        b: Oriented boxes, (N, 5).

    Returns:
        Areas, (N,).

    Example:
        >>> box = np.array([[0, 0, 2, 2, 0.0]])
        >>> round(float(intersections(box, box + [[0, 0, 0, 0, np.pi / 4]])[0]), 6)  # an octagon
        3.313708
    """
    parts = [
        _intersections(a[start : start + MAX_PAIRS], b[start : start + MAX_PAIRS])
        for start in range(0, len(a), MAX_PAIRS)
    ]
    return np.concatenate([np.zeros(0), *parts])


def _intersections(a: Floats, b: Floats) -> Floats:
    cos, sin = np.cos(b[:, 4]), np.sin(b[:, 4])
    dx, dy = (a[:, :2] - b[:, :2]).T
    center = np.stack((dx * cos + dy * sin, dy * cos - dx * sin), 1)
    points = center[:, None] + _offsets(a[:, 2], a[:, 3], a[:, 4] - b[:, 4])  # (N, 4, 2) in the frame of b
    x, y = points[..., 0], points[..., 1]
    across, up = np.roll(x, -1, 1) - x, np.roll(y, -1, 1) - y
    half_width, half_height = b[:, 2:3] / 2, b[:, 3:4] / 2
    start = x.clip(-half_width, half_width)
    end = np.roll(x, -1, 1).clip(-half_width, half_width)
    with np.errstate(divide="ignore", invalid="ignore"):
        # where the edge passes y = -H and y = H, in its direction; x alone, so that whole px stay whole
        passed = x + np.sort((np.stack((-half_height, half_height)) - y) / up, axis=0) * across
        passed = np.where(up == 0, start, passed.clip(np.minimum(start, end), np.maximum(start, end)))
        places = np.stack((start, *passed, end))  # (4, N, 4)
        heights = np.where(across == 0, y, y + (places - x) / across * up).clip(-half_height, half_height)
    widths = places[1:] - places[:-1]
    # edges that run to the right along the one border, to the left along the other: the sum may be negative
    return np.asarray(np.abs((widths * (heights[1:] + heights[:-1]) / 2).sum((0, 2))))


def _offsets(width: Floats, height: Floats, angle: Floats) -> Floats:
    """Return the corners around the centre, (N, 4, 2)."""
    along = np.stack((np.cos(angle), np.sin(angle)), 1) * width[:, None] / 2
    aside = np.stack((-np.sin(angle), np.cos(angle)), 1) * height[:, None] / 2
    return np.stack((along + aside, along - aside, -along - aside, aside - along), 1)
