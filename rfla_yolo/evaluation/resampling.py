"""The figures of many resamples of one matching, images weighted by how often they were drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .figures import LRP_IOU
from .matching import AT_50, IOU_THRESHOLDS, MAX_DETS, RECALLS, ClassMatches, Floats, Ints, Matching

MAX_CELLS = 1 << 22  # detections times resamples looked at in one go
NAMED = {0: "AP25", AT_50: "AP50", AT_50 + 5: "AP75"}  # thresholds with a figure of their own


def resample(matching: Matching, unit_of: Ints, draws: NDArray[Any]) -> dict[str, Floats]:
    """Return every figure for every resample.

    Args:
        matching: The matches, with details.
        unit_of: Unit of each image, (images,).
        draws: How often each unit is drawn, whole numbers from 0, (units, R).

    Returns:
        By name an array (R,), NaN where a figure is undefined.
    """
    by_class = []
    for matches in matching.classes.values():
        units = unit_of[matches.image]
        step = max(MAX_CELLS // (len(units) + len(draws)), 1)
        most = (np.bincount(units, minlength=len(draws)) @ draws).max(initial=0)
        dtype = np.float32 if most < 2**24 else np.float64  # whole numbers that it holds
        parts = [
            _figures(matches, list(matching.areas), unit_of, np.ascontiguousarray(draws[:, i : i + step].T, dtype))
            for i in range(0, draws.shape[1], step)
        ]
        by_class.append({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return {name: _nanmean(np.stack([figures[name] for figures in by_class])) for name in by_class[0]}


def _figures(matches: ClassMatches, areas: list[str], unit_of: Ints, weights: NDArray[Any]) -> dict[str, Floats]:
    """Return the figures of one class for a block of resamples, each (r,); ``weights`` are (r, units)."""
    units, num_units = unit_of[matches.image], weights.shape[1]
    figures: dict[str, Floats] = {}
    for a, area in enumerate(areas):
        suffix = area if a else ""
        gt_units = unit_of[matches.gt_image[matches.gt_counts[a]]]
        num_gts = (weights @ np.bincount(gt_units, minlength=num_units).astype(weights.dtype)).astype(float)
        needed = _needed(num_gts)
        # thresholds differ by few of the detections that count: those of one are summed, of the others what changes
        base = matches.counts[a, len(IOU_THRESHOLDS) - 1]
        total = _Sums(weights, units, np.flatnonzero(base))
        precision, found = [], np.zeros((len(IOU_THRESHOLDS), len(weights)))
        limited = np.zeros((len(IOU_THRESHOLDS), len(MAX_DETS) - 1, num_units), dtype=weights.dtype)
        for t in range(len(IOU_THRESHOLDS)):
            hits, counts = np.flatnonzero(matches.hit[a, t]), matches.counts[a, t]
            changed = np.flatnonzero(counts != base)
            change = _Sums(weights, units, changed, np.where(counts[changed], 1, -1))
            true = weights.take(units[hits], 1).cumsum(1)
            precision.append(_average_precision(true, total.up_to(hits) + change.up_to(hits), needed))
            found[t] = true[:, -1] if len(hits) else 0
            if a == 0:
                for i, limit in enumerate(MAX_DETS[:-1]):
                    limited[t, i] = np.bincount(units[hits[matches.place[hits] < limit]], minlength=num_units)
            if a == 0 and t == AT_50:
                figures["oLRP"] = _olrp(matches, hits, units, weights, true, num_gts, total, change)
        figures |= {name: precision[t] for t, name in NAMED.items()} if a == 0 else {}
        figures[f"AP{suffix}"] = np.mean(precision[AT_50:], 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            figures[f"AR{suffix or MAX_DETS[-1]}"] = found[AT_50:].mean(0) / num_gts
            if a == 0:
                for i, limit in enumerate(MAX_DETS[:-1]):
                    figures[f"AR{limit}"] = (weights @ limited[AT_50:, i].T).mean(1, dtype=float) / num_gts
    return figures


class _Sums:
    """Weighted number of some detections up to any place.

    Args:
        weights: Weight of each unit, (r, units).
        units: Unit of each detection, (D,).
        places: The detections that are summed, ascending.
        amount: What each of them is worth.
    """

    def __init__(self, weights: NDArray[Any], units: Ints, places: Ints, amount: Any = 1) -> None:
        self.places = places
        self.sums = np.zeros((len(weights), len(places) + 1), dtype=weights.dtype)
        np.cumsum(weights.take(units[places], 1) * np.asarray(amount, weights.dtype), axis=1, out=self.sums[:, 1:])

    def up_to(self, places: Ints) -> NDArray[Any]:
        """Return the sums up to and with some places, (r, places)."""
        return np.asarray(self.sums.take(np.searchsorted(self.places, places, "right"), 1))


def _needed(num_gts: Floats) -> Floats:
    """Return the least number of true positives whose recall reaches each of COCO's 101, (r, 101); NaN without any."""
    with np.errstate(invalid="ignore", divide="ignore"):
        count = np.ceil(RECALLS * num_gts[:, None])
        count -= (count - 1) / num_gts[:, None] >= RECALLS
        count += count / num_gts[:, None] < RECALLS
    return np.where(num_gts[:, None] > 0, count, np.nan)


def _average_precision(true: NDArray[Any], seen: NDArray[Any], needed: Floats) -> Floats:
    """Return the mean over 101 recalls of the highest precision at that recall or more, (r,), NaN without objects.

    Args:
        true: True positives up to each hit, (r, hits).
        seen: Detections up to each hit, (r, hits).
        needed: Number of true positives at each recall, (r, 101).
    """
    rows, hits = true.shape
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = true / seen
    precision[seen <= 0] = 0
    best = np.zeros((rows, hits + 1), dtype=true.dtype)
    np.maximum.accumulate(precision[:, ::-1], axis=1, out=best[:, -2::-1])
    # one search for all resamples: each lies above the one before
    span = (float(true[:, -1].max()) if hits else 0.0) + 1
    offset = span * np.arange(rows)[:, None]
    wanted = np.minimum(needed, span - 0.5) + offset
    place = (
        np.searchsorted((true + offset).ravel(), wanted.ravel()).reshape(wanted.shape) - hits * np.arange(rows)[:, None]
    )
    reached = np.take_along_axis(best, place.clip(0, hits), axis=1)
    return np.where(np.isnan(needed[:, 0]), np.nan, reached.sum(1, dtype=float) / len(RECALLS))


def _olrp(
    matches: ClassMatches,
    hits: Ints,
    units: Ints,
    weights: NDArray[Any],
    true: NDArray[Any],
    num_gts: Floats,
    total: _Sums,
    change: _Sums,
) -> Floats:
    """Lowest LRP error over the scores of hits, as thresholds; at other scores it cannot fall, (r,)."""
    lowest = np.ones(len(weights))
    if len(hits):
        last = np.flatnonzero(np.append(np.diff(matches.score[hits]) != 0, True))  # hit of each score
        ends = np.searchsorted(-matches.score, -matches.score[hits[last]], "right") - 1  # detection of each score
        error = ((1 - matches.iou[hits]) * weights.take(units[hits], 1)).cumsum(1)[:, last] / (1 - LRP_IOU)
        found = true[:, last]
        false = total.up_to(ends) + change.up_to(ends) - found
        with np.errstate(invalid="ignore", divide="ignore"):
            lowest = np.minimum(((error + false + num_gts[:, None] - found) / (false + num_gts[:, None])).min(1), 1)
    return np.where(num_gts > 0, lowest, np.nan)


def _nanmean(values: Floats) -> Floats:
    """Mean over the classes where a figure is defined, NaN where none is."""
    defined = np.isfinite(values)
    return np.asarray(np.where(defined, values, 0).sum(0) / np.where(defined.any(0), defined.sum(0), np.nan))
