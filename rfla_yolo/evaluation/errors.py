"""Error breakdown in the manner of TIDE (Bolya et al., ECCV 2020), by object size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..pairs import near_pairs
from .figures import average_precision
from .matching import AT_50, Bools, Floats, Ints, Matching

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU from which a box lies on an object, and up to which it lies on none
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
CLS, LOC, BOTH, DUP, BKG = range(5)
NONE = -1


@dataclass(frozen=True)
class Flat:
    """Detections that count (N) and objects that count (M), all classes and images together."""

    label: Ints
    image: Ints
    score: Floats
    hit: Bools
    bbox: Floats
    gt_label: Ints
    gt_image: Ints
    gt_area: Floats
    gt_bbox: Floats
    gt_found: Bools


def error_breakdown(matching: Matching) -> dict[str, dict[str, dict[str, float | int]]]:
    """Return, for each kind of error and size: how many, and the AP50 that mending them would bring.

    A false positive is, in this order: *localisation*, IoU 0.1 to 0.5 with an object of its class; *classification*,
    IoU of 0.5 or more with an object of another class; *duplicate*, the same with one of its class that a better
    detection has; *background*, IoU of 0.1 or less with everything; else *both*. *Missed* is an object that is not
    found and is the object of no localisation or classification error. The size is that of the object, and the
    detection's own where there is none. Mending a kind turns its error into a hit where it is the best localisation or
    classification error of an object that is not found, removes all its other false positives, and takes missed objects
    out of the count; a class whose objects are all missed then has an AP of 0, and no AP where it has no detections.

    Where TIDE differs: classes without objects count there with an AP of 0, here they have none, as in AP50;
    detections that a crowd region takes in are errors there, not here; a duplicate has its own size there.

    Args:
        matching: Matches with details.

    Returns:
        By kind and by area range ("all" first): ``count`` and ``dAP50`` (0 to 1).
    """
    flat = _flatten(matching)
    kind, target = _kinds(flat)
    mendable = (kind == LOC) | (kind == CLS)
    blamed = np.zeros(len(flat.gt_label), dtype=bool)
    blamed[target[mendable]] = True
    missed, best = ~flat.gt_found & ~blamed, _best_of_each_target(flat, mendable, target)
    own = flat.bbox[:, 2:4].prod(1)
    area = np.where(target >= 0, flat.gt_area[target], own) if len(flat.gt_area) else own
    keep_all, count_all = np.ones(len(kind), dtype=bool), np.ones(len(missed), dtype=bool)
    base = _mean_ap50(flat, flat.label, flat.hit, keep_all, count_all)
    result: dict[str, dict[str, dict[str, float | int]]] = {}
    for number, name in enumerate(KINDS):
        result[name] = {}
        for size, (low, high) in matching.areas.items():
            if name == "missed":
                chosen = missed & (low <= flat.gt_area) & (flat.gt_area <= high)
                mended = _mean_ap50(flat, flat.label, flat.hit, keep_all, ~chosen)
            else:
                chosen = (kind == number) & (low <= area) & (area <= high)
                fixed = chosen & best
                label = np.where(fixed, flat.gt_label[target], flat.label) if fixed.any() else flat.label
                mended = _mean_ap50(flat, label, flat.hit | fixed, ~chosen | fixed, count_all)
            result[name][size] = {"count": int(chosen.sum()), "dAP50": max(mended - base, 0.0)}
    return result


def _kinds(flat: Flat) -> tuple[Ints, Ints]:
    """Return the kind of error of each detection, -1 for a hit, and the object that it is about, -1 for none."""
    false = np.flatnonzero(~flat.hit)
    boxes, image = flat.bbox[false], flat.image[false]
    crowd = np.zeros(len(flat.gt_label), dtype=bool)  # none is left
    dets, gts, iou = near_pairs(boxes, image, flat.gt_bbox, flat.gt_image, crowd, BACKGROUND)
    order = np.lexsort((gts, -iou, dets))
    dets, gts, iou = false[dets[order]], gts[order], iou[order]
    same_class = flat.label[dets] == flat.gt_label[gts]
    same, same_iou = _nearest(dets[same_class], gts[same_class], iou[same_class], len(flat.label))
    other, other_iou = _nearest(dets[~same_class], gts[~same_class], iou[~same_class], len(flat.label))
    choices = [
        (same_iou >= BACKGROUND) & (same_iou <= FOREGROUND),
        other_iou >= FOREGROUND,
        same_iou >= FOREGROUND,
        np.maximum(same_iou, other_iou) <= BACKGROUND,
    ]
    kind = np.where(flat.hit, NONE, np.select(choices, [LOC, CLS, DUP, BKG], BOTH))
    target = np.where(flat.hit, NONE, np.select(choices[:3], [same, other, same], NONE))
    return kind, target


def _nearest(dets: Ints, gts: Ints, iou: Floats, count: int) -> tuple[Ints, Floats]:
    """Return the object of the first pair of each detection and its IoU, -1 and 0 for none; pairs in order."""
    nearest, highest = np.full(count, NONE), np.zeros(count)
    found, first = np.unique(dets, return_index=True)
    nearest[found], highest[found] = gts[first], iou[first]
    return nearest, highest


def _best_of_each_target(flat: Flat, chosen: Bools, target: Ints) -> Bools:
    """Mark the best detection about each object that is not found."""
    places = np.flatnonzero(chosen)
    places = places[~flat.gt_found[target[places]]]
    places = places[np.argsort(-flat.score[places], kind="stable")]
    _, first = np.unique(target[places], return_index=True)
    marked = np.zeros(len(chosen), dtype=bool)
    marked[places[first]] = True
    return marked


def _mean_ap50(flat: Flat, label: Ints, hit: Bools, keep: Bools, gt_keep: Bools) -> float:
    """AP50, mean over the classes with objects; where none of them is kept 0, and no AP without detections."""
    values = []
    for k in np.unique(flat.gt_label):
        chosen = keep & (label == k)
        order = np.argsort(-flat.score[chosen], kind="stable")
        hits = hit[chosen][order]
        num_gts = np.array([(gt_keep & (flat.gt_label == k)).sum()], dtype=float)
        if num_gts[0]:
            places = np.flatnonzero(hits)
            true = np.arange(1, len(places) + 1, dtype=float)[:, None]
            values.append(average_precision(true, (places[:, None] + 1).astype(float), num_gts)[0])
        elif len(hits):
            values.append(0.0)
    return float(np.mean(values)) if values else 0.0


def _flatten(matching: Matching) -> Flat:
    classes = list(matching.classes.values())
    counts = [m.counts[0, AT_50] for m in classes]
    real = [m.gt_counts[0] for m in classes]

    def join(arrays: list[np.ndarray], empty: tuple[int, ...] = (0,)) -> np.ndarray:
        return np.concatenate(arrays) if arrays else np.zeros(empty)

    return Flat(
        label=join([np.full(c.sum(), k) for k, c in enumerate(counts)]).astype(int),
        image=join([m.image[c] for m, c in zip(classes, counts)]).astype(int),
        score=join([m.score[c] for m, c in zip(classes, counts)]),
        hit=join([m.hit[0, AT_50][c] for m, c in zip(classes, counts)]).astype(bool),
        bbox=join([m.bbox[c] for m, c in zip(classes, counts)], (0, 4)),
        gt_label=join([np.full(r.sum(), k) for k, r in enumerate(real)]).astype(int),
        gt_image=join([m.gt_image[r] for m, r in zip(classes, real)]).astype(int),
        gt_area=join([m.gt_area[r] for m, r in zip(classes, real)]),
        gt_bbox=join([m.gt_bbox[r] for m, r in zip(classes, real)], (0, 4)),
        gt_found=join([m.gt_found[AT_50][r] for m, r in zip(classes, real)]).astype(bool),
    )
