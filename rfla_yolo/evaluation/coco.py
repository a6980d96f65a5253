"""``evaluate``: the AI-TOD figures of a file of detections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from .boxes import take
from .errors import error_breakdown
from .figures import LRP, by_size, calibration, lrp, percent
from .inputs import Inputs, Json, load_inputs
from .matching import AITOD_AREAS, AT_50, COCO_AREAS, MAX_DETS, Areas, Floats, Matching, match

TAKEN = {"25", "50", "75", *map(str, MAX_DETS)}  # AP25, ..., AR1, ... are no figures of a size
TABLE = ("AP", "AP50", "AP75", "APvt", "APt", "APs", "APm")


@dataclass(frozen=True)
class Evaluation:
    """Figures of one evaluation, 0 to 1; None where undefined (no such ground truth).

    Attributes:
        metrics: AP, AP25, AP50, AP75, AP by size (APvt, APt, APs, APm), AR1, AR100, AR1500, AR by size, and, with
            details, oLRP, oLRP_loc, oLRP_fp, oLRP_fn; means over the classes with objects.
        per_class: The same by class name, and the best score threshold of each.
        by_size: Objects, recall and false positives by area range; empty without details.
        calibration: Expected calibration error and its curve, undefined where a score is no probability; empty without
            details.
        errors: Count and cost of each kind of error by area range; empty without details.
        inputs: What was evaluated; without details its images and categories alone.
        num_objects: Objects of the ground truth that are not crowd.
        num_detections: Detections read.
        matching: The matches behind all of this; without details precision and recall alone.
    """

    metrics: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    by_size: dict[str, dict[str, float | int | None]]
    calibration: dict[str, Any]
    errors: dict[str, dict[str, dict[str, float | int]]]
    num_objects: int
    num_detections: int
    inputs: Inputs = field(compare=False, repr=False)
    matching: Matching = field(compare=False, repr=False)

    @property
    def images(self) -> list[dict[str, Any]]:
        """The images evaluated, ordered by id."""
        return self.inputs.images

    def __getitem__(self, name: str) -> float | None:
        return self.metrics[name]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON, the metrics at the top."""
        return {
            **self.metrics,
            "per_class": self.per_class,
            "by_size": self.by_size,
            "calibration": self.calibration,
            "errors": self.errors,
            "images": len(self.images),
            "objects": self.num_objects,
            "detections": self.num_detections,
        }

    def table(self, names: Sequence[str] | None = None) -> str:
        """Return figures by class as a text table, in percent."""
        names = names or [n for n in self.metrics if not n.startswith(("AR1", "AP25"))]
        rows = [("all", self.metrics)] + ([] if len(self.per_class) < 2 else list(self.per_class.items()))
        width = max(22, *(len(title) + 2 for title, _ in rows))
        lines = [f"{'Class':>{width}}" + "".join(f"{name:>10}" for name in names)]
        lines += [f"{t:>{width}}" + "".join(f"{percent(values[n], 2):>10}" for n in names) for t, values in rows]
        return "\n".join(lines)


def evaluate(
    annotations: str | Path | Json,
    predictions: str | Path | Sequence[Json],
    image_ids: Iterable[Any] | None = None,
    *,
    areas: Areas | str | Sequence[float] = "aitod",
    details: bool = True,
) -> Evaluation:
    """Evaluate detections against COCO ground truth.

    COCO's matching and averaging with up to 1500 detections per image and class and the AI-TOD size ranges. AP25 is the
    AP at IoU 0.25 (the official tool prints -1 for it, because 0.25 is not among its thresholds).

    Where objects and detections have an ``rbox``, an oriented box (centre x, centre y, width, height in px, angle in
    radians, the width along (cos, sin), y downwards), boxes are matched by the exact IoU of the two rectangles, and the
    area is width x height unless given.

    Args:
        annotations: COCO ground truth, a path or the loaded dict.
        predictions: COCO detections (image_id, category_id, bbox as xywh px or rbox, score), a path or the loaded list.
            Images are named by id or by file name.
        image_ids: Images to evaluate; all by default.
        areas: Size ranges: ``"aitod"``, ``"coco"``, borders of sqrt(area) in px (0, 8, 16, 32), or ranges of area in
            px^2 by name.
        details: Also compute oLRP, the figures by size, calibration, and the error breakdown.

    Returns:
        The figures.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If a file is no such JSON, an entry has an image, category, box or score that cannot be, or the
            areas are no such ranges.
        TypeError: If the areas are neither text, borders nor ranges of numbers.

    Example:
        >>> box = {"image_id": 1, "category_id": 1, "bbox": [4, 4, 6, 6]}
        >>> gt = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"id": 1, **box}]}
        >>> gt["categories"] = [{"id": 1, "name": "ship"}]
        >>> round(evaluate(gt, [{**box, "score": 0.9}])["APvt"], 6)
        1.0
    """
    ranges = resolve_areas(areas)
    return evaluate_inputs(load_inputs(annotations, predictions, image_ids), ranges, details)


def evaluate_inputs(inputs: Inputs, areas: Areas = AITOD_AREAS, details: bool = True) -> Evaluation:
    """Evaluate what is loaded already; see `evaluate`."""
    matching = match(inputs, areas, details)
    names = [str(category["name"]) for category in inputs.categories]
    per_class = {name: _average_figures(matching, [i]) for i, name in enumerate(names)}
    for name, matches in matching.classes.items():
        error = lrp(matches)
        per_class[name] |= _lrp_figures([error]) | {"threshold": error.threshold}
    return Evaluation(
        metrics=mean_figures(matching, details),
        per_class=per_class,
        by_size=by_size(matching) if details else {},
        calibration=calibration(matching) if details else {},
        errors=error_breakdown(matching) if details else {},
        inputs=inputs if details else _without_boxes(inputs),
        num_objects=int((~inputs.objects.crowd).sum()),
        num_detections=len(inputs.detections),
        matching=matching,
    )


def _without_boxes(inputs: Inputs) -> Inputs:
    """Drop the boxes, so that figures kept through a training hold no memory."""
    none = np.zeros(0, dtype=int)
    return replace(inputs, objects=take(inputs.objects, none), detections=take(inputs.detections, none))


def mean_figures(matching: Matching, details: bool = True) -> dict[str, float | None]:
    """Return AP and AR, and with details oLRP, means over the classes with objects."""
    figures = _average_figures(matching, slice(None))
    return figures | _lrp_figures([lrp(m) for m in matching.classes.values()]) if details else figures


def resolve_areas(areas: Areas | str | Sequence[float]) -> Areas:
    """Return area ranges by name, "all" first.

    Raises:
        ValueError: If the borders do not ascend from 0 or more up to 1e5, the name is not known, or a range has the
            name of a figure of its own.
        TypeError: If this is no text, mapping or sequence, or holds something else than numbers.

    Example:
        >>> resolve_areas([0, 8, 32])
        {'all': (0, 10000000000.0), '0-8': (0.0, 64.0), '8-32': (64.0, 1024.0), '32+': (1024.0, 10000000000.0)}
    """
    if isinstance(areas, str):
        named = {"aitod": AITOD_AREAS, "coco": COCO_AREAS}
        if areas not in named:
            raise ValueError(f"areas must be 'aitod', 'coco' or borders in px like 0,8,16,32, not {areas!r}")
        return named[areas]
    everything = (0, 1e5**2)
    if not isinstance(areas, (Mapping, Sequence, np.ndarray)):
        raise TypeError(f"areas must be 'aitod', 'coco', borders in px or ranges by name, not {areas!r}")
    values = [v for area in areas.values() for v in _as_list(area)] if isinstance(areas, Mapping) else list(areas)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"areas must be numbers, not {value!r}")
    if isinstance(areas, Mapping):
        for name, area in areas.items():
            if str(name) in TAKEN:
                raise ValueError(f"areas must not be named like a figure, as AP50 and AR1 are; {name!r} is")
            if len(area) != 2 or not 0 <= area[0] <= area[1]:
                raise ValueError(f"areas must be ranges of area in px^2, lowest and highest; {name!r} is {area}")
        return {"all": everything, **{k: v for k, v in areas.items() if k != "all"}}
    borders = [float(border) for border in areas]
    if len(borders) < 2 or not all(a < b for a, b in pairwise([*borders, 1e5])) or not borders[0] >= 0:
        raise ValueError(f"areas must be two or more ascending borders in px, 0 or more, not {borders}")
    ranges = {f"{a:g}-{b:g}": (a**2, b**2) for a, b in pairwise(borders)}
    return {"all": everything, **ranges, f"{borders[-1]:g}+": (borders[-1] ** 2, 1e5**2)}


def _as_list(area: Any) -> list[Any]:
    if isinstance(area, str) or not isinstance(area, (Sequence, np.ndarray)):
        raise TypeError(f"areas must be ranges of area in px^2, lowest and highest, not {area!r}")
    return list(area)


def _average_figures(matching: Matching, classes: Any) -> dict[str, float | None]:
    """Read AP and AR of some classes off the arrays of COCO's accumulation."""
    precision, recall = matching.precision[:, :, classes], matching.recall[:, classes]
    coco, last = slice(AT_50, None), -1  # the thresholds from 0.5, the largest number of detections
    figures = {
        "AP": _mean(precision[coco, :, :, 0]),
        "AP25": _mean(precision[0, :, :, 0]),
        "AP50": _mean(precision[AT_50, :, :, 0]),
        "AP75": _mean(precision[AT_50 + 5, :, :, 0]),
    }
    figures |= {f"AP{s}": _mean(precision[coco, :, :, i]) for i, s in enumerate(matching.areas) if i}
    figures |= {f"AR{n}": _mean(recall[coco, :, 0, i]) for i, n in enumerate(MAX_DETS)}
    figures |= {f"AR{s}": _mean(recall[coco, :, i, last]) for i, s in enumerate(matching.areas) if i}
    return figures


def _lrp_figures(errors: Sequence[LRP]) -> dict[str, float | None]:
    """Return the means over the classes where each part is defined."""
    parts = {"oLRP": "olrp", "oLRP_loc": "loc", "oLRP_fp": "fp", "oLRP_fn": "fn"}
    values = {name: [v for e in errors if (v := getattr(e, part)) is not None] for name, part in parts.items()}
    return {name: float(np.mean(found)) if found else None for name, found in values.items()}


def _mean(values: Floats) -> float | None:
    """Mean of the defined values; COCO marks the others by -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
