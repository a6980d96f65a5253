"""``compare``: the difference of two models on the same ground truth, and its interval over images and runs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .coco import mean_figures, resolve_areas
from .figures import percent
from .inputs import Json, load_inputs
from .matching import Areas, Floats, Ints, Matching, match
from .resampling import resample

PARTS = 30  # of the units, at most, that are left out in turn
FEW_UNITS = 10


@dataclass(frozen=True)
class Difference:
    """One figure of two models, 0 to 1; None where undefined: without objects, or with objects in one unit only.

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
        units: Number of independent units: images, or groups of them.
    """

    figures: dict[str, Difference]
    runs: tuple[int, int]
    units: int

    def __getitem__(self, name: str) -> Difference:
        return self.figures[name]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            "figures": {name: vars(difference) for name, difference in self.figures.items()},
            "runs": list(self.runs),
            "units": self.units,
            "warning": self.warning,
        }

    @property
    def warning(self) -> str | None:
        """What to know before trusting an interval of few units; None where they are enough."""
        if self.units >= FEW_UNITS:
            return None
        return f"only {self.units} independent units, fewer than {FEW_UNITS}: the intervals are wide and approximate"

    def table(self) -> str:
        """Return the differences as a text table, in points (percent)."""
        head = f"{'':>10}{'first':>9}{'second':>9}{'difference':>12}{'95 % interval':>19}"
        lines = [head]
        for name, d in self.figures.items():
            interval = f"[{percent(d.low, 2)}, {percent(d.high, 2)}]" if d.low is not None else percent(None)
            cells = f"{percent(d.first, 2):>9}{percent(d.second, 2):>9}{percent(d.difference, 2):>12}{interval:>19}"
            lines.append(f"{name:>10}{cells}  {d.sign}")
        lines.append(f"{self.units} independent units, {self.runs[0]} and {self.runs[1]} runs")
        return "\n".join(lines + ([f"Warning: {self.warning}"] if self.warning else []))


def compare(
    first: str | Path | Sequence[Any],
    second: str | Path | Sequence[Any],
    annotations: str | Path | Json,
    *,
    groups: str | None = None,
    areas: Areas | str | Sequence[float] = "aitod",
) -> Comparison:
    """Compare two models, each by one or several files of detections (its seeds).

    Images are matched once. The interval is difference ± t * standard error. The units, images or groups of them, are
    left out in turn, the same for both models, to see how much the difference hangs on them (jackknife); where a model
    has several runs, their scatter counts as well. t follows from the number of both (Satterthwaite), so that the
    interval holds the difference on all that could be drawn in about 95 % of cases (benchmarks/coverage.py).

    Args:
        first: File of detections, or a list of files, one per run; loaded lists count as files.
        second: The same of the second model.
        annotations: COCO ground truth.
        groups: Regular expression on file names; images with the same match (of its groups, if it has any) are one
            unit, as frames of one video resemble each other.
        areas: Size ranges, as in `evaluate`.

    Returns:
        The differences, second minus first.

    Raises:
        ValueError: If ``groups`` is no regular expression or matches no part of a file name, if there is one unit only,
            or as `evaluate`.
    """
    ranges, pattern = resolve_areas(areas), _compiled(groups)
    sides: list[list[Matching]] = []
    for side in (first, second):
        sides.append([])
        for run in _as_runs(side):  # one after the other: what was read takes more memory than what is kept
            inputs = load_inputs(annotations, run)
            sides[-1].append(match(inputs, ranges))
    unit_of = _units(inputs.images, pattern)
    if not unit_of.any():
        found = "there is 1 image" if len(unit_of) == 1 else f"groups {groups!r} puts all images into one group"
        raise ValueError(f"{found}, two or more units are needed")
    return compare_matchings(sides, unit_of)


def compare_matchings(sides: Sequence[Sequence[Matching]], unit_of: Ints) -> Comparison:
    """Compare two models, matched already; see `compare`.

    Args:
        sides: The runs of both models.
        unit_of: Unit of each image, from 0 on, (images,).
    """
    units = int(unit_of.max()) + 1
    parts = np.random.default_rng(0).permutation(units) % min(units, PARTS)  # the same each time
    kept = (parts[:, None] != np.unique(parts)).astype(np.float32)  # (units, parts)
    whole = [[mean_figures(run) for run in runs] for runs in sides]
    without = [[resample(run, unit_of, kept) for run in runs] for runs in sides]
    figures = {}
    for name in whole[0][0]:
        if name in without[0][0]:
            values = [np.array([run[name] for run in runs], dtype=np.float64) for runs in whole]  # None becomes NaN
            figures[name] = _difference(values, [np.stack([run[name] for run in runs]) for runs in without])
    return Comparison(figures, (len(sides[0]), len(sides[1])), units)


def _compiled(groups: str | None) -> re.Pattern[str] | None:
    try:
        return None if groups is None else re.compile(groups)
    except re.error as error:
        raise ValueError(f"groups {groups!r} is no regular expression: {error}") from error


def _units(images: Sequence[Json], groups: re.Pattern[str] | None) -> Ints:
    """Return the unit of each image."""
    if groups is None:
        return np.arange(len(images))
    keys = []
    for image in images:
        found = groups.search(str(image.get("file_name", "")))
        if not found:
            raise ValueError(f"groups {groups.pattern!r} matches nothing in file name {image.get('file_name')!r}")
        keys.append(found.groups() or (found[0],))
    order = {key: i for i, key in enumerate(sorted(set(keys), key=str))}
    return np.array([order[key] for key in keys])


def _difference(whole: list[Floats], without: list[Floats]) -> Difference:
    """Return the difference of one figure.

    Args:
        whole: The figure of each run of both models, (runs,); NaN where undefined.
        without: The same with each part of the units left out, (runs, parts).
    """
    means = [float(values.mean()) for values in whole]
    first, second = (None if math.isnan(mean) else mean for mean in means)
    if first is None or second is None:
        return Difference(first, second, None, None, None, "")
    difference = second - first
    if not all(np.isfinite(values).all() for values in without):
        return Difference(first, second, difference, None, None, "")
    half = half_width(whole, without)
    low, high = difference - half, difference + half
    return Difference(first, second, difference, low, high, "+" if low > 0 else "-" if high < 0 else "0")


def half_width(whole: Sequence[Floats], without: Sequence[Floats]) -> float:
    """Return half the width of the 95 % interval of a difference of two models.

    The variance has parts: that of the units, the jackknife's of the difference of the means over the runs, and for
    each model that of its runs on these units. Each has its degrees of freedom, and the sum Satterthwaite's. How units
    and runs interact is in all parts, so it counts twice. To subtract it once would be exact in the mean, but with four
    units it is known too poorly, and the interval then covers too little.

    Args:
        whole: The figure of each run of both models, (runs,).
        without: The same with each part of the units left out, (runs, parts).

    Example:
        >>> round(half_width([np.array([0.5]), np.array([0.7])], [np.array([[0.4, 0.6]]), np.array([[0.7, 0.7]])]), 4)
        1.2706
    """
    parts = without[0].shape[1]
    scale = (parts - 1) ** 2 / parts  # from the variance of what is left out to that of the figure
    variances = [scale * (without[1].mean(0) - without[0].mean(0)).var(ddof=1)]
    freedoms = [parts - 1]
    for values in whole:
        count = len(values)
        if count > 1:
            variances.append(values.var(ddof=1) / count)
            freedoms.append(count - 1)
    total = sum(variances)
    if not total:
        return 0.0
    return _t_quantile(total**2 / sum(v**2 / f for v, f in zip(variances, freedoms))) * math.sqrt(total)


def _t_quantile(freedom: float) -> float:
    """Return what Student's t stays within in 95 % of cases.

    With t = sqrt(freedom) * tan(a) the density of a is proportional to cos(a)^(freedom - 1).
    """
    edges = np.linspace(0, np.pi / 2, 20_001)
    mass = (np.cos((edges[1:] + edges[:-1]) / 2) ** (freedom - 1)).cumsum()
    return math.sqrt(freedom) * math.tan(np.interp(0.95 * mass[-1], mass, edges[1:]))


def _as_runs(side: Any) -> list[Any]:
    """Return the runs of a side: one path, a list of paths, one loaded list of detections, or a list of such lists."""
    if isinstance(side, (str, Path, Mapping)) or not len(side) or isinstance(side[0], Mapping):
        return [side]
    return list(side)
