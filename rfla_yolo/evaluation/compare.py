"""``compare``: the difference of two models on the same ground truth, with a paired bootstrap over images or groups."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .coco import mean_figures, resolve_areas
from .figures import LRP_IOU, average_precision, percent
from .inputs import Json, load_inputs
from .matching import AT_50, IOU_THRESHOLDS, MAX_DETS, Areas, Bools, ClassMatches, Floats, Ints, Matching, match


@dataclass(frozen=True)
class Difference:
    """One figure of two models, 0 to 1; None where undefined.

    Attributes:
        first: The figure of the first model, mean over its runs.
        second: The figure of the second.
        difference: second - first.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end.
        sign: "+" where the interval is above 0, "-" below, "0" where it holds 0, "" where undefined.
    """

    first: float | None
    second: float | None
    difference: float | None
    low: float | None
    high: float | None
    sign: str


@dataclass(frozen=True)
class Comparison:
    """Differences of all figures.

    Attributes:
        figures: `Difference` by name of the figure.
        runs: Number of runs of the first and of the second model.
        units: Number of images or groups that were resampled.
        resamples: Number of resamples.
        seed: Seed of the resampling.
    """

    figures: dict[str, Difference]
    runs: tuple[int, int]
    units: int
    resamples: int
    seed: int

    def __getitem__(self, name: str) -> Difference:
        return self.figures[name]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            "figures": {name: vars(difference) for name, difference in self.figures.items()},
            "runs": list(self.runs),
            "units": self.units,
            "resamples": self.resamples,
            "seed": self.seed,
        }

    def table(self) -> str:
        """Return the differences as a text table, in points (percent)."""
        head = f"{'':>10}{'first':>9}{'second':>9}{'difference':>12}{'95 % interval':>19}"
        lines = [head]
        for name, d in self.figures.items():
            interval = f"[{percent(d.low, 2)}, {percent(d.high, 2)}]" if d.low is not None else percent(None)
            cells = f"{percent(d.first, 2):>9}{percent(d.second, 2):>9}{percent(d.difference, 2):>12}{interval:>19}"
            lines.append(f"{name:>10}{cells}  {d.sign}")
        runs = f"runs {self.runs[0]} and {self.runs[1]}"
        lines.append(f"paired bootstrap: {self.units} units, {self.resamples} resamples, seed {self.seed}, {runs}")
        return "\n".join(lines)


def compare(
    first: str | Path | Sequence[Any],
    second: str | Path | Sequence[Any],
    annotations: str | Path | Json,
    *,
    groups: str | None = None,
    areas: Areas | str | Sequence[float] = "aitod",
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two models, each by one or several files of detections (its seeds).

    Images are matched once; each resample draws images with replacement, the same for both models, and where a model
    has several runs draws runs as well. The interval holds the middle 95 % of the differences. Every figure of a
    resample is that of an evaluation of the drawn images; only the order of equal scores in two images may differ.

    Args:
        first: File of detections, or a list of files, one per run; loaded lists count as files.
        second: The same of the second model.
        annotations: COCO ground truth.
        groups: Regular expression on file names; images with the same match (of its groups, if it has any) are drawn
            together, as frames of one video resemble each other.
        areas: Size ranges, as in `evaluate`.
        resamples: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        The differences, second minus first.

    Raises:
        ValueError: If ``groups`` matches no part of a file name, or leaves one group only; or as `evaluate`.
    """
    ranges = resolve_areas(areas)
    sides: list[list[Matching]] = []
    for side in (first, second):
        inputs = [load_inputs(annotations, run) for run in _as_runs(side)]
        sides.append([match(run, ranges) for run in inputs])
    figures_of = [[mean_figures(run) for run in runs] for runs in sides]
    unit_of = _units(inputs[0].images, groups)
    units = int(unit_of.max()) + 1
    if units < 2:
        raise ValueError(f"groups {groups!r} puts all images into one group: nothing to resample")
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(units, np.full(units, 1 / units), size=resamples).T  # (units, R)
    resampled = []
    for runs in sides:
        values = [resample(run, unit_of, draws) for run in runs]
        chosen = rng.integers(len(runs), size=(len(runs), resamples))
        take = np.arange(resamples)
        resampled.append(
            {n: np.stack([v[n] for v in values])[chosen, take].mean(0) for n in values[0]}  # (R,)
        )
    names = [name for name in figures_of[0][0] if name in resampled[0]]
    figures = {name: _difference(name, figures_of, resampled[1][name] - resampled[0][name]) for name in names}
    return Comparison(figures, (len(sides[0]), len(sides[1])), units, resamples, seed)


def resample(matching: Matching, unit_of: Ints, draws: NDArray[Any]) -> dict[str, Floats]:
    """Return every figure for every resample.

    Only the places of hits matter for the interpolated precision, so the work is one matrix product per class, size and
    threshold: detections of each unit up to each hit, times how often the unit was drawn.

    Args:
        matching: The matches.
        unit_of: Unit of each image, (images,).
        draws: How often each unit is drawn, (units, R).

    Returns:
        By name an array (R,), NaN where a figure is undefined.
    """
    draws = draws.astype(np.float32)  # enough for counts, and half the memory
    columns: dict[str, list[Floats]] = {}

    def add(name: str, values: Floats) -> None:
        columns.setdefault(name, []).append(values)

    for matches in matching.classes.values():
        for a, area in enumerate(matching.areas):
            num_gts = _per_unit(unit_of[matches.gt_image[matches.gt_counts[a]]], draws)  # (R,)
            suffix = "" if a == 0 else area
            for t in range(len(IOU_THRESHOLDS)):
                curve = _curve(matches, a, t, unit_of, draws)
                precision = np.where(num_gts > 0, average_precision(curve.true, curve.all, num_gts), np.nan)
                if t >= AT_50:
                    add(f"AP{suffix}", precision)
                if a == 0 and t in (0, AT_50, AT_50 + 5):
                    add({0: "AP25", AT_50: "AP50", AT_50 + 5: "AP75"}[t], precision)
                if a == 0 and t == AT_50:
                    add("oLRP", _olrp(matches, num_gts, unit_of, draws))
                if t < AT_50:
                    continue
                for limit in MAX_DETS if a == 0 else MAX_DETS[-1:]:
                    hits = matches.hit[a, t] & (matches.place < limit)
                    found = _per_unit(unit_of[matches.image[hits]], draws)
                    with np.errstate(invalid="ignore", divide="ignore"):
                        add(f"AR{suffix or limit}", found / num_gts)
    with np.errstate(invalid="ignore"):
        return {name: _nanmean(np.stack(values)) for name, values in columns.items()}


@dataclass(frozen=True)
class _Curve:
    """Weighted true positives and detections up to every hit, each (hits, R)."""

    true: Floats
    all: Floats


def _curve(matches: ClassMatches, a: int, t: int, unit_of: Ints, draws: NDArray[Any]) -> _Curve:
    counts, hits = matches.counts[a, t], matches.hit[a, t]
    units, hit = unit_of[matches.image[counts]], hits[counts]
    num_hits = int(hit.sum())
    before = np.concatenate(([0], hit.cumsum()[:-1])) if len(hit) else np.zeros(0, dtype=int)  # hits above each one
    up_to = np.zeros((num_hits, len(draws)), dtype=np.float32)
    inside = before < num_hits  # what comes after the last hit changes nothing
    np.add.at(up_to, (before[inside], units[inside]), 1)
    return _Curve(true=draws[units[hit]].cumsum(0), all=up_to.cumsum(0) @ draws)


def _olrp(matches: ClassMatches, num_gts: Floats, unit_of: Ints, draws: NDArray[Any]) -> Floats:
    """Lowest LRP error over the scores of hits, as thresholds; at other scores it cannot fall, (R,)."""
    counts = matches.counts[0, AT_50]
    units, scores, hit = unit_of[matches.image[counts]], matches.score[counts], matches.hit[0, AT_50][counts]
    levels = np.unique(-scores[hit])
    if not len(levels):
        return np.where(num_gts > 0, 1.0, np.nan)
    level = np.searchsorted(levels, -scores)  # the first threshold that keeps a detection
    kept = level < len(levels)

    def up_to(chosen: Bools, amount: Floats | int = 1) -> Floats:
        """Weighted sum over the chosen detections of each level's score or more, (levels, R)."""
        table = np.zeros((len(levels), len(draws)), dtype=np.float32)
        np.add.at(table, (level[chosen], units[chosen]), amount)
        return np.asarray(table.cumsum(0) @ draws)

    loc = up_to(hit, 1 - matches.iou[counts][hit]) / (1 - LRP_IOU)
    true, false = up_to(hit), up_to(kept & ~hit)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = (loc + false + num_gts - true) / (false + num_gts)
    return np.where(num_gts > 0, np.minimum(error.min(0), 1.0), np.nan)


def _per_unit(units: Ints, draws: NDArray[Any]) -> Floats:
    """Return the weighted count of things in units, (R,)."""
    return np.asarray(np.bincount(units, minlength=len(draws)) @ draws, dtype=np.float64)


def _units(images: Sequence[Json], groups: str | None) -> Ints:
    """Return the unit of each image."""
    if groups is None:
        return np.arange(len(images))
    keys = []
    for image in images:
        found = re.search(groups, str(image.get("file_name", "")))
        if not found:
            raise ValueError(f"groups {groups!r} matches nothing in file name {image.get('file_name')!r}")
        keys.append(found.groups() or (found[0],))
    order = {key: i for i, key in enumerate(sorted(set(keys), key=str))}
    return np.array([order[key] for key in keys])


def _difference(name: str, figures_of: list[list[dict[str, float | None]]], resampled: Floats) -> Difference:
    means: list[float | None] = []
    for runs in figures_of:
        values = [run[name] for run in runs]
        known = [v for v in values if v is not None]
        means.append(float(np.mean(known)) if len(known) == len(values) else None)
    defined = resampled[np.isfinite(resampled)]
    if means[0] is None or means[1] is None or not len(defined):
        return Difference(means[0], means[1], None, None, None, "")
    low, high = (float(v) for v in np.percentile(defined, (2.5, 97.5)))
    sign = "+" if low > 0 else "-" if high < 0 else "0"
    return Difference(means[0], means[1], means[1] - means[0], low, high, sign)


def _as_runs(side: Any) -> list[Any]:
    """Return the runs of a side: one path, a list of paths, one loaded list of detections, or a list of such lists."""
    if isinstance(side, (str, Path, Mapping)) or not len(side) or isinstance(side[0], Mapping):
        return [side]
    return list(side)


def _nanmean(values: Floats) -> Floats:
    """Mean over the classes where a figure is defined, NaN where none is."""
    defined = np.isfinite(values)
    return np.asarray(np.where(defined, values, 0).sum(0) / np.where(defined.any(0), defined.sum(0), np.nan))
