"""The pages of an evaluation and of a comparison: tables, and curves over object size, recall and score."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..report import Page, subplots
from ..rotated import corners
from .coco import Evaluation
from .compare import Comparison
from .figures import percent
from .matching import AT_50, IOU_THRESHOLDS, Floats, match

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORST_IMAGES = 6
WINDOW = 128  # px of an image that the sheet of the worst images magnifies
MARKS = {"found": "#20c020", "missed": "#ff2020", "false": "#4060ff"}
SIZE_BINS = (0, 2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 1e5)  # borders of sqrt(area), px
SIZE_TITLES = [f"{a}-{b}" for a, b in pairwise(SIZE_BINS[:-1])] + [f"{SIZE_BINS[-2]}+"]


def write_page(evaluation: Evaluation, folder: str | Path, images: Mapping[Any, str | Path] | None = None) -> Path:
    """Write tables and pictures of an evaluation.

    Args:
        evaluation: An evaluation with details.
        folder: Folder of ``index.html`` and its pictures.
        images: Image files by image id; with them the page shows the worst images.

    Returns:
        Path of the page.

    Raises:
        ValueError: If the evaluation was made without details.
    """
    if not evaluation.calibration:
        raise ValueError("write_page needs an evaluation with details=True")
    page = Page(folder, "Evaluation")
    counts = f"{len(evaluation.images)} images, {evaluation.num_objects} objects"
    page.text(f"{counts}, {evaluation.num_detections} detections. Figures in percent, {percent(None)} where undefined.")
    page.heading("By class")
    rows: list[tuple[str, dict[str, Any]]] = [("all", evaluation.metrics), *evaluation.per_class.items()]
    for kind in ("AP", "AR", "oLRP"):  # one table of all would not fit the page
        names = [name for name in evaluation.metrics if name.startswith(kind)]
        page.table(["class", *names], [[title, *(percent(v[n]) for n in names)] for title, v in rows])
    page.heading("By size")
    caption = "AP, AP50 and recall (IoU 0.5) against object size, and the number of objects"
    page.figure("size", _size_figure(evaluation), caption)
    head = ["size", "objects", "recall", "best F1", "at score", "false positives an image"]
    page.table(head, [_size_row(name, row) for name, row in evaluation.by_size.items()])
    page.heading("Precision and recall")
    caption = "Precision against recall at IoU 0.5 by size, mean of the classes"
    page.figure("precision-recall", _recall_figure(evaluation), caption)
    page.heading("Errors")
    caption = "Points of AP50 that mending each kind of error would bring, by object size (as TIDE does)"
    page.figure("errors", _error_figure(evaluation), caption)
    sizes = list(evaluation.matching.areas)
    counts_by_kind = [[kind, *(row[size]["count"] for size in sizes)] for kind, row in evaluation.errors.items()]
    page.table(["number of errors", *sizes], counts_by_kind)
    page.heading("What a score means")
    if evaluation.calibration["count"] is None:
        page.text("No calibration error: scores lie outside of 0 to 1, so they are no probabilities.")
    else:
        error = percent(evaluation.calibration["ece"])
        caption = f"Precision of detections by score; expected calibration error {error}"
        page.figure("calibration", _calibration_figure(evaluation), caption)
    if images:
        page.heading("Worst images")
        threshold = evaluation.by_size["all"]["score_at_best_f1"] or 0.0
        caption = (
            f"Where most goes wrong, magnified, at score {threshold:.3f} (best F1, IoU 0.5): "
            "found in green, missed in red, false in blue"
        )
        page.figure("worst", _worst_figure(evaluation, images, threshold), caption)
    return page.write()


def write_comparison(comparison: Comparison, folder: str | Path) -> Path:
    """Write the table of a comparison and a picture of its intervals.

    Args:
        comparison: The comparison.
        folder: Folder of ``index.html`` and its picture.

    Returns:
        Path of the page.
    """
    page = Page(folder, "Comparison")
    page.text(f"Second minus first, in points, with 95 % intervals. Lower is better for oLRP. {comparison.summary}.")
    if comparison.warning:
        page.text(f"Warning: {comparison.warning}.")
    known = {name: d for name, d in comparison.figures.items() if d.low is not None and d.high is not None}
    figure, (axis,) = subplots(1, height=1.2 + 0.28 * max(len(known), 1))
    for place, difference in enumerate(known.values()):
        low, middle, high = (100 * (v or 0.0) for v in (difference.low, difference.difference, difference.high))
        color = "0.5" if difference.sign == "0" else "C0"
        axis.plot([low, high], [place, place], color=color, lw=2)
        axis.plot(middle, place, "o", color=color, ms=6)
    axis.axvline(0, color="0.3", lw=1)
    axis.set(xlabel="difference, points", yticks=range(len(known)), yticklabels=list(known))
    axis.invert_yaxis()
    page.figure("differences", figure, "Difference of each figure and its interval; gray where it holds 0")
    head = ["figure", "first", "second", "difference", "low", "high", "sign"]
    rows = [
        [name, *(percent(v, 2) for v in (d.first, d.second, d.difference, d.low, d.high)), d.sign]
        for name, d in comparison.figures.items()
    ]
    page.table(head, rows)
    return page.write()


def _size_row(name: str, row: dict[str, Any]) -> list[str]:
    score, false = row["score_at_best_f1"], row["false_positives_per_image"]
    cells = [name, str(row["objects"]), percent(row["recall"]), percent(row["best_f1"])]
    return [
        *cells,
        percent(None) if score is None else f"{score:.3f}",
        percent(None) if false is None else f"{false:.2f}",
    ]


def _size_figure(evaluation: Evaluation) -> Figure:
    """AP, AP50 and recall in fine bins of size, above the number of objects in each.

    An object on a border belongs to the bin above alone, unlike in the figures by size, whose ranges are closed.
    """
    areas = {"all": (0.0, 1e10)}
    areas |= {t: (a**2, np.nextafter(b**2, 0)) for t, (a, b) in zip(SIZE_TITLES, pairwise(map(float, SIZE_BINS)))}
    matching = match(evaluation.inputs, areas, details=False)
    columns = range(1, len(areas))
    ap = [_mean(matching.precision[AT_50:, :, :, i]) for i in columns]
    ap50 = [_mean(matching.precision[AT_50, :, :, i]) for i in columns]
    recall = [_mean(matching.recall[AT_50, :, i, -1]) for i in columns]
    sizes = [m.gt_area[m.gt_counts[0]] for m in evaluation.matching.classes.values()]
    counts = np.histogram(np.concatenate([np.zeros(0), *sizes]), np.square(SIZE_BINS))[0]
    figure, (top, bottom) = subplots(2, height=5.2, height_ratios=(3, 1), sharex=True)
    x = np.arange(len(counts))
    for name, values in (("recall", recall), ("AP50", ap50), ("AP", ap)):
        top.plot(x, 100 * np.array(values), marker="o", ms=4, label=name)
    top.set(ylabel="percent", ylim=(0, 100))
    top.legend(frameon=False)
    bottom.bar(x, counts, color="0.6")
    bottom.set(ylabel="objects", xlabel="object size: square root of the area, px", xticks=x)
    bottom.set_xticklabels(SIZE_TITLES, rotation=30)
    if counts.any():
        filled = np.flatnonzero(counts)
        bottom.set_xlim(filled[0] - 0.7, filled[-1] + 0.7)
    return figure


def _recall_figure(evaluation: Evaluation) -> Figure:
    figure, (axis,) = subplots(1)
    precision = evaluation.matching.precision[AT_50]  # (recalls, classes, A)
    for a, name in enumerate(evaluation.matching.areas):
        defined = precision[:, precision[0, :, a] > -1, a]
        if defined.size:
            axis.plot(np.linspace(0, 100, len(defined)), 100 * defined.mean(1), label=name, lw=2.5 if a == 0 else 1.3)
    axis.set(xlabel="recall, percent", ylabel="precision, percent", xlim=(0, 100), ylim=(0, 100))
    if axis.lines:
        axis.legend(frameon=False)
    return figure


def _error_figure(evaluation: Evaluation) -> Figure:
    figure, (axis,) = subplots(1)
    sizes = list(evaluation.matching.areas)
    width = 0.8 / len(sizes)
    for i, size in enumerate(sizes):
        values = [100 * row[size]["dAP50"] for row in evaluation.errors.values()]
        axis.bar(np.arange(len(values)) + (i - (len(sizes) - 1) / 2) * width, values, width, label=size)
    axis.set(ylabel="points of AP50", xticks=np.arange(len(evaluation.errors)), xticklabels=list(evaluation.errors))
    axis.legend(frameon=False)
    return figure


def _worst_figure(evaluation: Evaluation, images: Mapping[Any, str | Path], threshold: float) -> Figure:
    """The images with the most misses and false positives, each cut to where they are densest."""
    from matplotlib.image import imread

    marks = _marks(evaluation, threshold)
    wrong = {i: len(m["missed"]) + len(m["false"]) for i, m in marks.items()}
    files = {i: images[image["id"]] for i, image in enumerate(evaluation.images) if image["id"] in images}
    worst = [i for i in sorted(wrong, key=lambda i: -wrong[i]) if i in files and wrong[i]][:WORST_IMAGES]
    figure, axes = subplots((len(worst) + 1) // 2 or 1, columns=2, height=4.2 * ((len(worst) + 1) // 2 or 1))
    for axis in axes:
        axis.set_axis_off()
    for axis, i in zip(axes, worst):
        picture = imread(files[i])
        height, width = picture.shape[:2]
        left, top = _densest(np.array(marks[i]["missed"] + marks[i]["false"]).mean(1), width, height)
        axis.imshow(picture, cmap="gray", extent=(0, width, height, 0), interpolation="nearest")
        for kind, color in MARKS.items():
            for outline in marks[i][kind]:
                axis.plot(*np.append(outline, outline[:1], axis=0).T, color=color, lw=1.2)
        side = min(WINDOW, max(width, height))
        axis.set(xlim=(left, left + side), ylim=(top + side, top))
        axis.set_title(f"{Path(files[i]).name}: {wrong[i]} wrong", fontsize=8)
    return figure


def _marks(evaluation: Evaluation, threshold: float) -> dict[int, dict[str, list[Any]]]:
    """Corners to draw, (4, 2), by index of the image: objects found and missed, and false positives."""
    marks: dict[int, dict[str, list[Any]]] = defaultdict(lambda: {kind: [] for kind in MARKS})
    for m in evaluation.matching.classes.values():
        kept, hit = m.counts[0, AT_50] & (m.score >= threshold), m.hit[0, AT_50]
        for place in np.flatnonzero(kept):
            kind = "found" if hit[place] else "false"
            marks[int(m.image[place])][kind].append(_outline(m.bbox[place]))
        for g in np.flatnonzero(m.gt_counts[0] & ~(m.gt_score >= threshold)):
            marks[int(m.gt_image[g])]["missed"].append(_outline(m.gt_bbox[g]))
    return marks


def _outline(box: Floats) -> Floats:
    """Corners of an axis-aligned or oriented box, (4, 2)."""
    oriented = box if len(box) == 5 else np.array([*(box[:2] + box[2:] / 2), *box[2:], 0])
    return np.asarray(corners(oriented[None])[0])


def _densest(centers: Floats, width: int, height: int) -> tuple[float, float]:
    """Corner of the window that holds the most box centres, (N, 2)."""
    windows = (centers - WINDOW / 2).clip(0, [max(width - WINDOW, 0), max(height - WINDOW, 0)])
    inside = (np.abs(centers[None] - windows[:, None] - WINDOW / 2) <= WINDOW / 2).all(-1).sum(1)
    left, top = windows[int(inside.argmax())]
    return float(left), float(top)


def _calibration_figure(evaluation: Evaluation) -> Figure:
    """A bar for every bin of score, as high as its precision; on the diagonal a score would mean what it says."""
    figure, (top, bottom) = subplots(2, height=5.2, height_ratios=(3, 1), sharex=True)
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


def _mean(values: Floats) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")
