"""COCO's greedy matching on columns: all areas and IoU thresholds of many images at once.

faster-coco-eval, which the tests hold this against, keeps 8 bytes a detection, threshold and area range (440 bytes a
detection) and takes and returns Python objects: too much for a validation in training, in memory and in time.
"""

from __future__ import annotations

import numpy as np

from ..pairs import MAX_PAIRS, Bools, Floats, Ints


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
