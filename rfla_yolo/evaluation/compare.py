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
LIKE = 2 / 3  # of the units: with an effective number above they are of like size
ROUNDING = 1e-6  # of the figures of resamples


@dataclass(frozen=True)
class Difference:
    """One figure of two models, 0 to 1; None where undefined, for want of objects.

    The interval is None as well where one unit alone has objects, or where the models differ alike without any unit.

    Attributes:
        first: The figure of the first model, mean over its runs.
        second: The figure of the second.
        difference: second - first.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end.
        sign: "+" where the interval is above 0, "-" below, "0" where it holds 0, "" where undefined.
        units: Effective number of units behind the figure, those with objects of its size; see `effective_units`.
    """

    first: float | None
    second: float | None
    difference: float | None
    low: float | None
    high: float | None
    sign: str
    units: float


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
        few = [name for name, d in self.figures.items() if d.difference is not None and d.units < FEW_UNITS]
        if not few:
            return None
        said = f"only {self._units}" if "AP" in few else f"only {self._behind(few)}"
        return f"{said}, fewer than {FEW_UNITS}: the intervals are wide and approximate"

    @property
    def _units(self) -> str:
        """The number of units, and what it is worth where they are unlike."""
        worth, text = self.figures["AP"].units, f"{self.units} independent units"
        return text if worth == self.units or not worth else f"{text} that are worth {worth:.1f} of like size"

    def _behind(self, names: Sequence[str]) -> str:
        return "units behind " + ", ".join(f"{name} ({self.figures[name].units:.1f})" for name in names)

    @property
    def summary(self) -> str:
        """What the intervals rest on: units, worth less where they are of unlike size, and runs."""
        fewer = [n for n, d in self.figures.items() if d.difference is not None and d.units < self.figures["AP"].units]
        return f"{self._units}, {self.runs[0]} and {self.runs[1]} runs" + (f"; {self._behind(fewer)}" if fewer else "")

    def table(self) -> str:
        """Return the differences as a text table, in points (percent)."""
        head = f"{'':>10}{'first':>9}{'second':>9}{'difference':>12}{'95 % interval':>19}"
        lines = [head]
        for name, d in self.figures.items():
            interval = f"[{percent(d.low, 2)}, {percent(d.high, 2)}]" if d.low is not None else percent(None)
            cells = f"{percent(d.first, 2):>9}{percent(d.second, 2):>9}{percent(d.difference, 2):>12}{interval:>19}"
            lines.append(f"{name:>10}{cells}  {d.sign}")
        lines.append(self.summary)
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
        ValueError: If ``groups`` is no regular expression, matches no part of a file name or empty text, if there is
            one unit only, or as `evaluate`.
        TypeError: If ``groups`` is no text, or as `evaluate`.
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
    behind = _units_behind(sides[0][0], unit_of)
    figures = {}
    for name in whole[0][0]:
        if name in without[0][0]:
            values = [np.array([run[name] for run in runs], dtype=np.float64) for runs in whole]  # None becomes NaN
            left = [np.stack([run[name] for run in runs]) for runs in without]
            figures[name] = _difference(values, left, behind.get(name, behind["AP"]))
    return Comparison(figures, (len(sides[0]), len(sides[1])), units)


def effective_units(sizes: Ints) -> float:
    """Return how many units of like size some units are worth (Kish), their number where they are of like size.

    Args:
        sizes: Size of each unit, 0 for one that says nothing, (units,).

    Example:
        >>> effective_units(np.array([10, 12, 9, 11])), effective_units(np.array([80, 10, 10]))
        (4.0, 1.5151515151515151)
    """
    worth = float(sizes.sum() ** 2 / max((sizes**2).sum(), 1))
    return float(len(sizes)) if worth >= LIKE * len(sizes) else worth


def _units_behind(matching: Matching, unit_of: Ints) -> dict[str, float]:
    """Return the effective number of units with objects by figure; "AP" stands for all that are of no size."""
    images = np.bincount(unit_of)
    behind: dict[str, float] = {}
    for a, area in enumerate(matching.areas):
        objects = np.zeros(len(images), dtype=int)
        for matches in matching.classes.values():
            objects += np.bincount(unit_of[matches.gt_image[matches.gt_counts[a]]], minlength=len(images))
        worth = effective_units(np.where(objects > 0, images, 0))
        behind |= {f"AP{area}": worth, f"AR{area}": worth} if a else {"AP": worth}
    return behind


def _compiled(groups: str | None) -> re.Pattern[str] | None:
    if groups is not None and not isinstance(groups, str):
        raise TypeError(f"groups must be a regular expression as text, not {groups!r}")
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
        key = found.groups() or (found[0],)
        if not any(key):
            raise ValueError(f"groups {groups.pattern!r} matches empty text in file name {image.get('file_name')!r}")
        keys.append(key)
    order = {key: i for i, key in enumerate(sorted(set(keys), key=str))}
    return np.array([order[key] for key in keys])


def _difference(whole: list[Floats], without: list[Floats], units: float) -> Difference:
    """Return the difference of one figure.

    Args:
        whole: The figure of each run of both models, (runs,); NaN where undefined.
        without: The same with each part of the units left out, (runs, parts).
        units: Effective number of units behind it.
    """
    means = [float(values.mean()) for values in whole]
    first, second = (None if math.isnan(mean) else mean for mean in means)
    if first is None or second is None:
        return Difference(first, second, None, None, None, "", units)
    difference = second - first
    if not all(np.isfinite(values).all() for values in without):
        return Difference(first, second, difference, None, None, "", units)
    half = half_width(whole, without, units)
    if half < ROUNDING < abs(difference):  # units that all say the same do not tell how others would differ
        return Difference(first, second, difference, None, None, "", units)
    low, high = max(difference - half, -1.0), min(difference + half, 1.0)  # figures lie between 0 and 1
    return Difference(first, second, difference, low, high, "+" if low > 0 else "-" if high < 0 else "0", units)


def half_width(whole: Sequence[Floats], without: Sequence[Floats], units: float = math.inf) -> float:
    """Return half the width of the 95 % interval of a difference of two models.

    The variance has parts: that of the units, the jackknife's of the difference of the means over the runs, and for
    each model that of its runs on these units. Each has its degrees of freedom, and the sum Satterthwaite's. How units
    and runs interact is in all parts, so it counts twice. To subtract it once would be exact in the mean, but with four
    units it is known too poorly, and the interval then covers too little.

    Args:
        whole: The figure of each run of both models, (runs,).
        without: The same with each part of the units left out, (runs, parts).
        units: Effective number of units, above 1; the degrees of freedom of the units are fewer.

    Example:
        >>> round(half_width([np.array([0.5]), np.array([0.7])], [np.array([[0.4, 0.6]]), np.array([[0.7, 0.7]])]), 4)
        1.2706
    """
    parts = without[0].shape[1]
    scale = (parts - 1) ** 2 / parts  # from the variance of what is left out to that of the figure
    variances = [scale * (without[1].mean(0) - without[0].mean(0)).var(ddof=1)]
    freedoms = [min(parts, units) - 1]
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
