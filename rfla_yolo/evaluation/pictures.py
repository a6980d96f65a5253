"""The page of one evaluation: tables, and curves over object size, recall and score."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..report import Page
from .figures import percent
from .matching import AT_50, IOU_THRESHOLDS, Floats, match

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .coco import Evaluation

SIZE_BINS = (0, 2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128)  # borders of sqrt(area), px


def write_page(evaluation: Evaluation, folder: str | Path) -> Path:
    """Write tables and pictures of an evaluation.

    Args:
        evaluation: An evaluation with details.
        folder: Folder of ``index.html`` and its pictures.

    Returns:
        Path of the page.

    Raises:
        ValueError: If the evaluation was made without details.
    """
    if not evaluation.calibration:
        raise ValueError("plot needs an evaluation with details=True")
    page = Page(folder, "Evaluation")
    counts = f"{len(evaluation.images)} images, {evaluation.num_objects} objects"
    page.text(f"{counts}, {evaluation.num_detections} detections. Figures in percent; a dash where undefined.")
    page.heading("By class")
    names = list(evaluation.metrics)
    rows: list[tuple[str, dict[str, Any]]] = [("all", evaluation.metrics), *evaluation.per_class.items()]
    page.table(["class", *names], [[title, *(percent(v[n]) for n in names)] for title, v in rows])
    page.heading("By size")
    caption = "AP, AP50 and recall (IoU 0.5) against object size, and the number of objects"
    page.figure("size", _size_figure(evaluation), caption)
    head = ["size", "objects", "recall", "best F1", "at score", "false positives an image"]
    page.table(head, [_size_row(name, row) for name, row in evaluation.by_size.items()])
    page.heading("Precision and recall")
    caption = "Precision against recall at IoU 0.5 by size, mean of the classes"
    page.figure("precision-recall", _recall_figure(evaluation), caption)
    page.heading("What a score means")
    caption = f"Precision of detections by score; expected calibration error {percent(evaluation.calibration['ece'])}"
    page.figure("calibration", _calibration_figure(evaluation), caption)
    return page.write()


def _size_row(name: str, row: dict[str, Any]) -> list[str]:
    score, false = row["score_at_best_f1"], row["false_positives_per_image"]
    cells = [name, str(row["objects"]), percent(row["recall"]), percent(row["best_f1"])]
    return [*cells, "-" if score is None else f"{score:.3f}", "-" if false is None else f"{false:.2f}"]


def _size_figure(evaluation: Evaluation) -> Figure:
    """AP, AP50 and recall in fine bins of size, above the number of objects in each."""
    areas = {"all": (0.0, 1e10)} | {f"{a}-{b}": (a**2, b**2) for a, b in pairwise(SIZE_BINS)}
    matching = match(evaluation.inputs, areas, details=False)
    columns = range(1, len(areas))
    ap = [_mean(matching.precision[AT_50:, :, :, i, -1]) for i in columns]
    ap50 = [_mean(matching.precision[AT_50, :, :, i, -1]) for i in columns]
    recall = [_mean(matching.recall[AT_50, :, i, -1]) for i in columns]
    sides = np.sqrt([a["area"] for a in evaluation.inputs.annotations if not a["iscrowd"]])
    counts = np.histogram(sides, SIZE_BINS)[0]
    figure, (top, bottom) = _subplots(2, height=5.2, height_ratios=(3, 1), sharex=True)
    x = np.arange(len(counts))
    for name, values in (("recall", recall), ("AP50", ap50), ("AP", ap)):
        top.plot(x, 100 * np.array(values), marker="o", ms=4, label=name)
    top.set(ylabel="percent", ylim=(0, 100))
    top.legend(frameon=False)
    bottom.bar(x, counts, color="0.6")
    labels = [f"{a}-{b}" for a, b in pairwise(SIZE_BINS)]
    bottom.set(ylabel="objects", xlabel="object size: square root of the area, px", xticks=x, xticklabels=labels)
    return figure


def _recall_figure(evaluation: Evaluation) -> Figure:
    figure, (axis,) = _subplots(1)
    precision = evaluation.matching.precision[AT_50, :, :, :, -1]  # (recalls, classes, A)
    for a, name in enumerate(evaluation.matching.areas):
        defined = precision[:, precision[0, :, a] > -1, a]
        if defined.size:
            axis.plot(np.linspace(0, 100, len(defined)), 100 * defined.mean(1), label=name, lw=2.5 if a == 0 else 1.3)
    axis.set(xlabel="recall, percent", ylabel="precision, percent", xlim=(0, 100), ylim=(0, 100))
    axis.legend(frameon=False)
    return figure


def _calibration_figure(evaluation: Evaluation) -> Figure:
    """A bar for every bin of score, as high as its precision; on the diagonal a score would mean what it says."""
    figure, (top, bottom) = _subplots(2, height=5.2, height_ratios=(3, 1), sharex=True)
    curve = evaluation.calibration
    bins = len(curve["count"])
    left = np.arange(bins) / bins
    top.bar(left, [v or 0 for v in curve["precision"]], width=1 / bins, align="edge", ec="white", label="precision")
    top.plot([0, 1], [0, 1], color="0.3", ls="--", lw=1, label="score = precision")
    top.set(ylabel=f"precision at IoU {IOU_THRESHOLDS[AT_50]}", ylim=(0, 1))
    top.legend(frameon=False)
    bottom.bar(left, curve["count"], width=1 / bins, align="edge", color="0.6", ec="white")
    bottom.set(ylabel="detections", xlabel="score", yscale="symlog", xlim=(0, 1))
    return figure


def _subplots(rows: int, height: float = 4.2, **options: Any) -> tuple[Figure, list[Any]]:
    """Return a figure of its own, outside of pyplot's state, and its axes from top to bottom."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    ratios = {"height_ratios": options.pop("height_ratios")} if "height_ratios" in options else {}
    axes = figure.subplots(rows, 1, squeeze=False, gridspec_kw=ratios, **options)[:, 0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure, list(axes)


def _mean(values: Floats) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")
