"""The figures of many resamples of one matching, images weighted by how often they were drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .figures import LRP_IOU
from .matching import AT_50, IOU_THRESHOLDS, MAX_DETS, RECALLS, ClassMatches, Floats, Ints, Matching

MAX_CELLS = 1 << 18  # detections times resamples looked at in one go
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
        parts = [_Area(matches, a, unit_of, len(draws)) for a in range(len(matching.areas))]
        step = max(MAX_CELLS // (len(units) + len(draws)), 1)
        most = (np.bincount(units, minlength=len(draws)) @ draws).max(initial=0)
        dtype = np.float32 if most < 2**24 else np.float64  # whole numbers that it holds
        blocks = [
            _figures(parts, list(matching.areas), np.ascontiguousarray(draws[:, i : i + step].T, dtype))
            for i in range(0, draws.shape[1], step)
        ]
        by_class.append({name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]})
    return {name: _nanmean(np.stack([figures[name] for figures in by_class])) for name in by_class[0]}


class _Area:
    """What the figures of one class and area range need, the same for every resample.

    Attributes:
        gts: Objects by unit, (units,).
        found: Objects found by unit and number of detections, mean over the thresholds from 0.5, (units, max_dets).
        base: Unit of every detection that counts at the highest threshold, best first.
        cases: The thresholds.
        levels: The scores of the hits at IoU 0.5, as thresholds; None where there are no hits.
    """

    def __init__(self, matches: ClassMatches, a: int, unit_of: Ints, num_units: int) -> None:
        units, thresholds = unit_of[matches.image], range(len(IOU_THRESHOLDS))
        counting = matches.counts[a, thresholds[-1]]
        places = np.flatnonzero(counting)
        self.base = units[places]
        self.gts = np.bincount(unit_of[matches.gt_image[matches.gt_counts[a]]], minlength=num_units)
        self.found = np.zeros((num_units, len(MAX_DETS)))
        self.cases = []
        self.levels = None
        for t in thresholds:
            hits, counts = np.flatnonzero(matches.hit[a, t]), matches.counts[a, t]
            changed = np.flatnonzero(counts != counting)
            change = units[changed], np.where(counts[changed], 1, -1)
            self.cases.append(_Case(units[hits], _Seen(places, changed, hits), *change))
            if t >= AT_50:
                for i, limit in enumerate(MAX_DETS):
                    mine = units[hits[matches.place[hits] < limit]]
                    self.found[:, i] += np.bincount(mine, minlength=num_units) / len(thresholds[AT_50:])
            if t == AT_50 and len(hits):
                last = np.flatnonzero(np.append(np.diff(matches.score[hits]) != 0, True))  # hit of each score
                ends = np.searchsorted(-matches.score, -matches.score[hits[last]], "right") - 1  # detection of each
                self.levels = _Levels(last, 1 - matches.iou[hits], _Seen(places, changed, ends))


class _Seen:
    """Where the weighted number of detections up to some places stands in running sums.

    Thresholds differ by few of the detections that count: those of one are summed once, of each what changes.
    """

    def __init__(self, base: Ints, changed: Ints, up_to: Ints) -> None:
        self._base, self._changed = (np.searchsorted(places, up_to, "right") for places in (base, changed))

    def read(self, base: NDArray[Any], changed: NDArray[Any]) -> NDArray[Any]:
        """Read the sums, (r, places)."""
        seen = base.take(self._base, 1)
        return seen + changed.take(self._changed, 1) if changed.shape[1] > 1 else seen


@dataclass(frozen=True)
class _Case:
    """One threshold: unit of each hit, detections seen up to it, and what changes beside the highest threshold."""

    units: Ints
    seen: _Seen
    changed: Ints
    sign: Ints


@dataclass(frozen=True)
class _Levels:
    """Score thresholds: index of the last hit of each, 1 - IoU of every hit, detections seen up to each."""

    last: Ints
    loss: Floats
    seen: _Seen


def _figures(parts: list[_Area], areas: list[str], weights: NDArray[Any]) -> dict[str, Floats]:
    """Return the figures of one class for a block of resamples, each (r,); ``weights`` are (r, units)."""
    figures: dict[str, Floats] = {}
    for a, (part, area) in enumerate(zip(parts, areas)):
        num_gts, found = weights @ part.gts.astype(float), weights @ part.found
        needed, base, precision = _needed(num_gts), _sums(weights, part.base), []
        for t, case in enumerate(part.cases):
            true, changed = weights.take(case.units, 1).cumsum(1), _sums(weights, case.changed, case.sign)
            precision.append(_average_precision(true, case.seen.read(base, changed), needed))
            if a == 0 and t == AT_50:
                figures["oLRP"] = _olrp(part.levels, weights.take(case.units, 1), true, num_gts, base, changed)
        figures |= {name: precision[t] for t, name in NAMED.items()} if a == 0 else {}
        figures[f"AP{area if a else ''}"] = np.mean(precision[AT_50:], 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            figures |= {f"AR{n}": found[:, i] / num_gts for i, n in enumerate(MAX_DETS)} if a == 0 else {}
            figures |= {f"AR{area}": found[:, -1] / num_gts} if a else {}
    return figures


def _sums(weights: NDArray[Any], units: Ints, sign: Any = 1) -> NDArray[Any]:
    """Return running sums of the weights of some detections, from 0, (r, detections + 1)."""
    sums = np.zeros((len(weights), len(units) + 1), dtype=weights.dtype)
    np.cumsum(weights.take(units, 1) * np.asarray(sign, weights.dtype), axis=1, out=sums[:, 1:])
    return sums


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
    levels: _Levels | None,
    hits: NDArray[Any],
    true: NDArray[Any],
    num_gts: Floats,
    base: NDArray[Any],
    changed: NDArray[Any],
) -> Floats:
    """Lowest LRP error over the scores of hits, as thresholds; at other scores it cannot fall, (r,)."""
    lowest = np.ones(len(true))
    if levels:
        error = (levels.loss * hits).cumsum(1).take(levels.last, 1) / (1 - LRP_IOU)
        found = true.take(levels.last, 1)
        false = levels.seen.read(base, changed) - found
        with np.errstate(invalid="ignore", divide="ignore"):
            lowest = np.minimum(((error + false + num_gts[:, None] - found) / (false + num_gts[:, None])).min(1), 1)
    return np.where(num_gts > 0, lowest, np.nan)


def _nanmean(values: Floats) -> Floats:
    """Mean over the classes where a figure is defined, NaN where none is."""
    defined = np.isfinite(values)
    return np.asarray(np.where(defined, values, 0).sum(0) / np.where(defined.any(0), defined.sum(0), np.nan))
