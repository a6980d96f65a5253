"""Pairs of boxes that overlap, found without looking at all pairs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .rotated import hulls, intersections

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

MAX_PAIRS = 1 << 20  # pairs of boxes looked at in one go


def near_pairs(
    bbox: Floats, group: Ints, gt_bbox: Floats, gt_group: Ints, gt_crowd: Bools, least: float
) -> tuple[Ints, Ints, Floats]:
    """Return the pairs of a detection and an object of the same group with an IoU of ``least`` (above 0) or more.

    Args:
        bbox: Boxes of the detections, axis-aligned, (D, 4), or oriented, (D, 5).
        group: Group (image and class) of each, (D,).
        gt_bbox: Boxes of the objects, (G, 4) or (G, 5).
        gt_group: Group of each, (G,).
        gt_crowd: Crowds, whose IoU is the share of the detection that lies inside, (G,).
        least: Lowest IoU.

    Returns:
        Index of the detection, ascending, index of the object, and IoU of each pair, (P,).
    """
    oriented = bbox.shape[1] == 5
    hull, gt_hull = (hulls(bbox), hulls(gt_bbox)) if oriented else (bbox, gt_bbox)
    parts = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))]
    for dets, gts in _same_columns_of_pixels(hull, group, gt_hull, gt_group):
        dets, gts, common = _overlapping(hull, gt_hull, dets, gts)
        if oriented:
            common = intersections(bbox[dets], gt_bbox[gts])
        own, gt_own = (bbox[:, 2] * bbox[:, 3])[dets], (gt_bbox[:, 2] * gt_bbox[:, 3])[gts]
        # the arithmetic of pycocotools, to the last bit; an oriented box without an area has a hull
        whole = np.where(gt_crowd[gts], own, own + gt_own - common)
        iou = np.divide(common, whole, out=np.zeros(len(whole)), where=whole > 0)
        kept = iou >= least
        parts.append((dets[kept], gts[kept], iou[kept]))
    dets, gts, iou = (np.concatenate(column) for column in zip(*parts))
    return dets, gts, iou


def _same_columns_of_pixels(bbox: Floats, group: Ints, gt_bbox: Floats, gt_group: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Yield pairs of one group that may share a column of pixels, at most `MAX_PAIRS` or one detection at a time."""
    if not len(bbox) or not len(gt_bbox):
        return
    left, width = gt_bbox[:, 0], gt_bbox[:, 2]
    widest = np.zeros(int(max(group.max(), gt_group.max())) + 1)
    np.maximum.at(widest, gt_group, width)
    lefts = np.sort(left)
    # one sorted list of whole numbers: objects by group, and from left to right in it
    key = gt_group * (len(lefts) + 1) + np.searchsorted(lefts, left)
    order = np.argsort(key, kind="stable")
    key = key[order]
    reach = bbox[:, 0] - widest[group]
    reach -= 1e-9 * (np.abs(bbox[:, 0]) + widest[group])  # for rounding
    low = np.searchsorted(key, group * (len(lefts) + 1) + np.searchsorted(lefts, reach))
    high = np.searchsorted(key, group * (len(lefts) + 1) + np.searchsorted(lefts, bbox[:, 0] + bbox[:, 2]))
    counts = (high - low).clip(0)
    dets = np.flatnonzero(counts)
    counts, low = counts[dets], low[dets]
    ends = counts.cumsum()
    start = 0
    while start < len(dets):
        before = ends[start] - counts[start]
        end = max(int(np.searchsorted(ends, before + MAX_PAIRS, "right")), start + 1)
        n, offset = counts[start:end], ends[start:end] - counts[start:end]
        places = np.arange(n.sum()) + np.repeat(low[start:end] - offset + before, n)
        yield np.repeat(dets[start:end], n), order[places]
        start = end


def _overlapping(bbox: Floats, gt_bbox: Floats, dets: Ints, gts: Ints) -> tuple[Ints, Ints, Floats]:
    """Keep the pairs of axis-aligned boxes that share an area, and return it too."""
    x, y, w, h = bbox.T
    gt_x, gt_y, gt_w, gt_h = gt_bbox.T
    width = np.minimum((x + w)[dets], (gt_x + gt_w)[gts]) - np.maximum(x[dets], gt_x[gts])
    near = np.flatnonzero(width > 0)
    dets, gts, width = dets[near], gts[near], width[near]
    height = np.minimum((y + h)[dets], (gt_y + gt_h)[gts]) - np.maximum(y[dets], gt_y[gts])
    near = np.flatnonzero(height > 0)
    return dets[near], gts[near], width[near] * height[near]
