"""Pairs of boxes that overlap, found without looking at all pairs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

MAX_PAIRS = 1 << 20  # pairs of boxes looked at in one go


def near_pairs(
    bbox: Floats, group: Ints, gt_bbox: Floats, gt_group: Ints, gt_crowd: Bools, least: float
) -> tuple[Ints, Ints, Floats]:
    """Return the pairs of a detection and an object of the same group with an IoU of ``least`` (above 0) or more.

    Args:
        bbox: Boxes of the detections, xywh, (D, 4).
        group: Group (image and class) of each, (D,).
        gt_bbox: Boxes of the objects, (G, 4).
        gt_group: Group of each, (G,).
        gt_crowd: Crowds, whose IoU is the share of the detection that lies inside, (G,).
        least: Lowest IoU.

    Returns:
        Index of the detection, ascending, index of the object, and IoU of each pair, (P,).
    """
    parts = [
        (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)),
        *(
            _overlapping(bbox, gt_bbox, gt_crowd, dets, gts, least)
            for dets, gts in _same_columns_of_pixels(bbox, group, gt_bbox, gt_group)
        ),
    ]
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


def _overlapping(
    bbox: Floats, gt_bbox: Floats, gt_crowd: Bools, dets: Ints, gts: Ints, least: float
) -> tuple[Ints, Ints, Floats]:
    """Keep the pairs of an IoU of ``least`` or more; the arithmetic is that of pycocotools, to the last bit."""
    x, y, w, h = bbox.T
    gt_x, gt_y, gt_w, gt_h = gt_bbox.T
    width = np.minimum((x + w)[dets], (gt_x + gt_w)[gts]) - np.maximum(x[dets], gt_x[gts])
    near = np.flatnonzero(width > 0)
    dets, gts, width = dets[near], gts[near], width[near]
    height = np.minimum((y + h)[dets], (gt_y + gt_h)[gts]) - np.maximum(y[dets], gt_y[gts])
    near = np.flatnonzero(height > 0)
    dets, gts = dets[near], gts[near]
    common = width[near] * height[near]
    own = (w * h)[dets]
    iou = common / np.where(gt_crowd[gts], own, own + (gt_w * gt_h)[gts] - common)
    kept = iou >= least
    return dets[kept], gts[kept], iou[kept]
