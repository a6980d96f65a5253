"""COCO's greedy matching on columns: all areas and IoU thresholds of many images at once.

faster-coco-eval, which the tests hold this against, keeps 8 bytes a detection, threshold and area range (440 bytes a
detection) and takes and returns Python objects: too much for a validation in training, in memory and in time.
"""

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


def greedy_match(
    dets: Ints, gts: Ints, iou: Floats, gt_ignored: Bools, gt_crowd: Bools, thresholds: Floats
) -> tuple[Ints, Ints, Ints]:
    """Give each detection, best first, the object left that it overlaps most, for all areas and thresholds.

    An object that counts goes before an ignored one, the later of two equal ones before the earlier, and a crowd takes
    any number. Taken in rounds: a detection gets its first choice as soon as no better detection may still want it.

    Args:
        dets: Detection of each pair, ascending, a lower index being the better one, (P,).
        gts: Object of each pair, (P,).
        iou: IoU of each pair, (P,).
        gt_ignored: Whether an object is ignored in an area range, (A, G).
        gt_crowd: Whether it is a crowd, (G,).
        thresholds: IoU thresholds, (T,).

    Returns:
        Of each match its case (area * T + threshold), detection and object.
    """
    num_areas, num_gts = gt_ignored.shape
    num_dets = int(dets[-1]) + 1 if len(dets) else 0
    order = np.lexsort((-gts, -iou, dets))
    dets, gts, iou = dets[order], gts[order], iou[order]
    matches = [np.zeros((3, 0), dtype=np.int64)]
    step = max(MAX_PAIRS * 4 // max(len(dets) * len(thresholds), 1), 1)  # areas at a time
    for first_area in range(0, num_areas, step):
        ignored = gt_ignored[first_area : first_area + step][:, gts]  # (areas, P)
        order = np.argsort(2 * dets + ignored, axis=1, kind="stable")
        area, threshold, place = np.nonzero((iou[order] >= thresholds[:, None, None]).transpose(1, 0, 2))
        pair = order[area, place]
        case = area * len(thresholds) + threshold
        det, gt = case * num_dets + dets[pair], case * num_gts + gts[pair]
        first = np.empty(len(ignored) * len(thresholds) * num_gts, dtype=np.int64)
        taken = np.zeros(len(first), dtype=bool)
        done = np.zeros(len(ignored) * len(thresholds) * num_dets, dtype=bool)
        crowd = gt_crowd[gts[pair]]
        while len(det):
            places = np.arange(len(det))
            first[gt[::-1]] = places[::-1]  # the best detection that may still want an object: the last one stays
            won = (first[gt] == places) | crowd
            won[1:] &= det[1:] != det[:-1]  # only the first choice
            winner, prize = det[won], gt[won]
            matches.append(
                np.stack((winner // num_dets + first_area * len(thresholds), winner % num_dets, prize % num_gts))
            )
            done[winner] = True
            taken[prize[~crowd[won]]] = True
            left = np.flatnonzero(~(done[det] | taken[gt]))
            det, gt, crowd = det[left], gt[left], crowd[left]
    case, det, gt = np.concatenate(matches, axis=1)
    return case, det, gt
