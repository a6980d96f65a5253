"""Figures read off a matching: oLRP, sizes, calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .matching import AT_50, RECALLS, ClassMatches, Floats, Matching

LRP_IOU = 0.5
CALIBRATION_BINS = 15


@dataclass(frozen=True)
class LRP:
    """Optimal localisation recall precision error of one class (Oksuz et al., TPAMI 2021), IoU 0.5; 0 is perfect.

    Attributes:
        olrp: The error at the best score threshold.
        loc: Mean of 1 - IoU of the true positives there.
        fp: Share of false positives among the detections there, 1 - precision.
        fn: Share of objects missed there, 1 - recall.
        threshold: The best score threshold.
    """

    olrp: float | None
    loc: float | None
    fp: float | None
    fn: float | None
    threshold: float | None


def lrp(matches: ClassMatches) -> LRP:
    """Return oLRP and its parts; all None without objects, an error of 1 without detections.

    LRP(s) = (sum over true positives of (1 - IoU) / (1 - 0.5) + FP + FN) / (TP + FP + FN), over detections of score s
    and more; oLRP is its minimum over s.
    """
    num_gts = int(matches.gt_counts[0].sum())
    if not num_gts:
        return LRP(None, None, None, None, None)
    counts = matches.counts[0, AT_50]
    hit, scores, ious = matches.hit[0, AT_50][counts], matches.score[counts], matches.iou[counts]
    if not len(hit):
        return LRP(1.0, None, None, None, None)
    tp, fp = hit.cumsum(), (~hit).cumsum()
    loc = ((1 - ious) * hit).cumsum()
    error = (loc / (1 - LRP_IOU) + fp + num_gts - tp) / (fp + num_gts)
    ends = threshold_ends(scores)
    best = int(ends[error[ends].argmin()])
    found = int(tp[best])
    return LRP(
        olrp=float(error[best]),
        loc=float(loc[best] / found) if found else None,
        fp=float(fp[best] / (tp[best] + fp[best])),
        fn=float(1 - tp[best] / num_gts),
        threshold=float(scores[best]),
    )


def by_size(matching: Matching) -> dict[str, dict[str, float | int | None]]:
    """Return, for every area range: objects, recall at IoU 0.5, and false positives an image at the best F1.

    Classes are pooled: one score threshold for all, the one of the highest F1 of the range.
    """
    result: dict[str, dict[str, float | int | None]] = {}
    for a, name in enumerate(matching.areas):
        hits, scores = pooled(matching, a)
        num_gts = sum(int(m.gt_counts[a].sum()) for m in matching.classes.values())
        row: dict[str, float | int | None] = {"objects": num_gts, "recall": None, "best_f1": None}
        row |= {"score_at_best_f1": None, "false_positives_per_image": None}
        if num_gts:
            row["recall"] = float(hits.sum() / num_gts)
        if num_gts and len(hits):
            tp, fp = hits.cumsum(), (~hits).cumsum()
            f1 = 2 * tp / (tp + fp + num_gts)
            ends = threshold_ends(scores)
            best = int(ends[f1[ends].argmax()])
            row["best_f1"], row["score_at_best_f1"] = float(f1[best]), float(scores[best])
            row["false_positives_per_image"] = float(fp[best] / matching.num_images)
        result[name] = row
    return result


def calibration(matching: Matching, bins: int = CALIBRATION_BINS) -> dict[str, Any]:
    """Return the expected calibration error of the scores at IoU 0.5, and the curve behind it.

    ECE = sum over bins of (detections in the bin / all detections) * |precision - mean score|, bins of equal width.

    Args:
        matching: The matching.
        bins: Number of bins between 0 and 1.

    Returns:
        ``ece`` (None without detections), and by bin ``count``, ``score`` and ``precision`` (None where empty). All
        are None where a score lies outside of 0 to 1, as percent and logits do: it is no probability.
    """
    hits, scores = pooled(matching, 0)
    if ((scores < 0) | (scores > 1)).any():
        return dict.fromkeys(("ece", "count", "score", "precision"))
    place = (scores * bins).astype(int).clip(0, bins - 1)
    count = np.bincount(place, minlength=bins)
    mean_score = np.bincount(place, scores, bins) / np.maximum(count, 1)
    precision = np.bincount(place, hits, bins) / np.maximum(count, 1)
    error = float((count * np.abs(precision - mean_score)).sum() / count.sum()) if count.sum() else None
    return {
        "ece": error,
        "count": count.tolist(),
        "score": _or_none(mean_score, count),
        "precision": _or_none(precision, count),
    }


def average_precision(true: Floats, detections: Floats, num_gts: Floats) -> Floats:
    """Return the mean over 101 recalls of the highest precision at that recall or more, as COCO reads it.

    Args:
        true: True positives up to each hit, (hits, R); R resamples, or 1.
        detections: Detections up to each hit, (hits, R).
        num_gts: Number of objects, (R,).

    Returns:
        Average precision, (R,); meaningless where there is no object.
    """
    if not len(true):
        return np.zeros(len(num_gts))
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(detections > 0, true / detections, 0)
        recall = true.astype(np.float64) / num_gts
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    reached = (np.nan_to_num(recall) * 100).astype(np.int64)  # recalls reached, but for rounding
    reached += RECALLS[np.minimum(reached + 1, 100)] <= recall
    reached -= RECALLS[reached.clip(0, 100)] > recall
    points = np.diff(np.minimum(reached, 100) + 1, axis=0, prepend=0)  # of the 101, those first reached here
    return np.asarray((envelope * points).sum(0) / 101)


def pooled(matching: Matching, area: int) -> tuple[np.ndarray, Floats]:
    """Return hit (at IoU 0.5) and score of the detections that count, all classes together, best first."""
    parts = [
        (m.hit[area, AT_50][m.counts[area, AT_50]], m.score[m.counts[area, AT_50]]) for m in matching.classes.values()
    ]
    hits, scores = (np.concatenate(column) for column in zip(*parts)) if parts else (np.zeros(0, bool), np.zeros(0))
    order = np.argsort(-scores, kind="mergesort")
    return hits[order], scores[order]


def threshold_ends(scores: Floats) -> np.ndarray:
    """Return the last place of each score; a threshold keeps all detections of a score or none.

    Example:
        >>> threshold_ends(np.array([0.9, 0.5, 0.5, 0.1]))
        array([0, 2, 3])
    """
    return np.flatnonzero(np.append(scores[1:] != scores[:-1], True))


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as text in percent, n/a where it is undefined: a dash looks like a minus.

    Example:
        >>> percent(0.1234), percent(None)
        ('12.3', 'n/a')
    """
    return "n/a" if value is None else f"{100 * value:.{digits}f}"


def _or_none(values: Floats, count: np.ndarray) -> list[float | None]:
    return [float(v) if n else None for v, n in zip(values, count)]
