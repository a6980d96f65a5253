"""Boxes of both kinds in px: axis-aligned, left, top, right, bottom, (N, 4), or oriented, (N, 5).

Oriented boxes are centre x, centre y, width, height and angle in radians, as in `rfla_yolo.rotated`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ..rotated import corners, hulls, intersections

Boxes = NDArray[np.float64]

BEYOND = 1e-3  # px over a border that are rounding: labels have 8 digits
LARGEST = 1.01  # share of an image that Ultralytics lets the hull of an object take; it leaves out the whole image


def min_area_boxes(polygons: Iterable[NDArray[np.float64]]) -> Boxes:
    """Return the rectangles of the smallest area around polygons, by OpenCV, in the form that Ultralytics gives them.

    Args:
        polygons: Points of each, px, (K, 2).

    Returns:
        Oriented boxes, (N, 5): the width is the longer side, the angle lies in [-pi/4, 3 pi/4).

    Example:
        >>> min_area_boxes([np.array([[10, 10], [12, 10], [12, 16], [10, 16]])]).round(4).tolist()
        [[11.0, 13.0, 6.0, 2.0, 1.5708]]
    """
    found = []
    for points in polygons:
        middle = points.mean(0)  # OpenCV computes with float32: the digits are needed for the object
        (x, y), (w, h), degrees = cv2.minAreaRect((points - middle).astype(np.float32))
        angle = np.radians(degrees) + np.pi / 2 * (w < h)
        angle = (angle + np.pi / 4) % np.pi - np.pi / 4
        found.append([middle[0] + x, middle[1] + y, max(w, h), min(w, h), angle])
    return np.array(found, dtype=np.float64).reshape(-1, 5)


def areas(boxes: Boxes) -> NDArray[np.float64]:
    """Return the areas, px^2, (N,); 0 for a box that is turned inside out."""
    sides = boxes[:, 2:] - boxes[:, :2] if boxes.shape[1] == 4 else boxes[:, 2:4]
    return np.asarray(sides.clip(0).prod(1))


def move(boxes: Boxes, left: float, top: float) -> Boxes:
    """Return the boxes in the pixels of a window that begins at left, top."""
    return boxes - ([left, top, left, top] if boxes.shape[1] == 4 else [left, top, 0, 0, 0])


def cut(boxes: Boxes, window: Sequence[float]) -> tuple[Boxes, NDArray[np.float64]]:
    """Return what a window shows of boxes.

    An oriented box that reaches beyond becomes the rectangle of the smallest area around its visible part, which may
    itself reach a little beyond; where that would be larger than the window, it is made smaller around its centre
    until it fits.

    Args:
        boxes: Boxes.
        window: Left, top, right, bottom, px.

    Returns:
        The boxes, of the same kind, and the area of the visible parts, px^2, (N,).

    Raises:
        ImportError: If oriented boxes are cut and shapely is not installed.
    """
    low, high = np.array(window[:2], dtype=np.float64), np.array(window[2:], dtype=np.float64)
    if boxes.shape[1] == 4:
        inside = boxes.clip(np.tile(low, 2), np.tile(high, 2))
        return inside, areas(inside)
    hull = hulls(boxes)
    begin, end = hull[:, :2], hull[:, :2] + hull[:, 2:]
    over = ((begin < low - BEYOND) | (end > high + BEYOND)).any(1)
    boxes, visible = boxes.copy(), areas(boxes)
    outside = ((end < low + BEYOND) | (begin > high - BEYOND)).any(1)
    visible[outside] = 0
    over &= ~outside
    if over.any():
        try:
            import shapely
        except ImportError as error:
            raise ImportError(f"oriented boxes need shapely: pip install 'rfla-yolo[data]' ({error})") from None
        parts = shapely.intersection(shapely.polygons(corners(boxes[over])), shapely.box(*low, *high))
        whole = np.array([[*(low + high) / 2, *(high - low), 0.0]])
        # not shapely's: of boxes that touch but for rounding it sometimes returns one of them whole
        shared = intersections(boxes[over], np.repeat(whole, len(parts), axis=0))
        visible[over] = np.where(shared < BEYOND**2, 0, shared)
        places = np.flatnonzero(over)[visible[over] > 0]
        points = [shapely.get_coordinates(part) for part in parts[visible[over] > 0]]
        boxes[places] = min_area_boxes(points)
        fits = ((high - low) / hulls(boxes[places])[:, 2:].clip(1e-9) * LARGEST).min(1).clip(max=1)
        boxes[places, 2:4] *= fits[:, None]
    return boxes, visible
