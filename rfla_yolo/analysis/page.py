"""The page of one analysis: verdict, tables and pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..assign import DISTANCES
from ..evaluation import percent
from ..report import Page
from .analyze import Analysis, Example
from .assignments import distances
from .figures import BINS, MANY, TRAINABLE_IOU
from .paired import WORTH
from .verdict import count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#ffb000", "#648fff", "#dc267f", "#785ef0", "#20a080")
SIZE_TITLES = {"all": "all", "vt": "2-8 px", "t": "8-16 px", "s": "16-32 px", "m": "> 32 px"}
LABELLED = 12  # anchors of an object whose score is written beside them
HOW_BETTER = (
    "Better and worse than as set are found object by object: their differences add up to more than twice the square "
    "root of the sum of their squares, so the more objects, the finer. One object more that is missed or untrainable "
    f"is worse. Reach counts from {WORTH:g} on; positives are worse where a tenth or more is lost, more of them are "
    "not better by themselves."
)


def write_page(analysis: Analysis, folder: str | Path) -> Path:
    """Write ``analysis.json``, and a page of the verdict, tables and pictures.

    Args:
        analysis: The analysis.
        folder: Folder of both; made if need be.

    Returns:
        Path of the page.
    """
    result = analysis.result
    page = Page(folder, "Assignment analysis")
    height, width = result["imgsz"]
    page.text(f"{result['model']} on {result['data']}: {result['images']} training images at {width} x {height} px.")
    page.text("Settings: " + ", ".join(f"{k}={v}" for k, v in result["settings"].items()))
    page.heading("Verdict")
    for sentence in analysis.verdict:
        page.text(sentence)
    page.heading("By object size")
    page.text(_how_tal(result))
    caption = "Without augmentation, by object size: positives per object; objects without any; objects whose "
    caption += (
        f"positives cannot reach IoU {TRAINABLE_IOU:g}; share of positives inside their object; best IoU reachable"
    )
    if result["task"] == "obb":
        page.text(
            "Oriented boxes: inside is meant between an object's own sides, and the best box is that of its own angle. "
            "Objects with a side below 2 px get no positive, because the loss leaves them out."
        )
    page.figure("sizes", _size_figure(result["assigners"], _PANELS), caption)
    _size_tables(page, result["assigners"])
    page.text("Lost: share of the wanted anchors that went to another object. Losers: objects that lost any.")
    if result["one2one"]:
        page.heading("One-to-one branch")
        page.text(_how_one_to_one(result))
        panels = {key: _PANELS[key] for key in ("missed", "inside")}
        page.figure("one2one", _size_figure(result["one2one"], panels), "The one-to-one branch, without augmentation")
        _size_tables(page, result["one2one"])
    page.heading("Positives per object")
    head = ["objects with", *(str(n) for n in range(MANY)), f"{MANY} and more"]
    rows = [
        [f"{name} {SIZE_TITLES[size]}", *figures["distribution"]]
        for name, arm in result["assigners"].items()
        for size, figures in arm["plain"]["sizes"].items()
    ]
    page.table(head, rows)
    page.heading("Levels")
    page.table(*_level_table(result))
    page.figure("fields", _field_figure(analysis), "Objects by size, and the level of a centred square object")
    page.figure("levels", _level_figure(analysis), "Share of the positives on each level, by object size")
    if analysis.examples:
        page.heading("Pictures")
        page.text(
            "Objects magnified: the object in white, receptive fields dashed, chosen anchors by level; the number at "
            "an anchor is its RFLA score."
        )
        for size, examples in analysis.examples.items():
            page.figure(f"examples-{size:g}", example_figure(analysis, examples), f"Objects near {size:g} px")
    if result["sweep"]:
        page.heading("Other settings")
        page.text("RFLA on the same images, one thing changed at a time. Sizes are those at the analysed image size.")
        page.table(*sweep_table(result), text=("share of levels, finest first", "better", "worse"))
        for row in result["sweep"]:
            if row["same"]:
                page.text(f"The same figures as {row['name']}: {', '.join(row['same'])}.")
        page.text(HOW_BETTER)
    path = page.write()
    text = json.dumps(result, indent=1, allow_nan=False)
    (path.parent / "analysis.json").write_text(text + "\n", encoding="utf-8")
    return path


_HEAD = ["objects", "positives", "missed", "untrainable", "inside", "reach", "best", "lost", "losers"]


def _size_tables(page: Page, arms: dict[str, Any]) -> None:
    """Write the figures by size, without augmentation and with."""
    for mode in ("plain", "augmented"):
        head = ["without augmentation" if mode == "plain" else "as augmented", *_HEAD]
        rows = [
            [f"{name} {SIZE_TITLES[size]}", *_cells(figures)]
            for name, arm in arms.items()
            for size, figures in arm[mode]["sizes"].items()
        ]
        page.table(head, rows)


def _cells(figures: dict[str, Any]) -> list[str]:
    objects = max(figures["objects"], 1)
    counts = [f"{figures[name]} ({_percent(figures[name] / objects)})" for name in ("missed", "untrainable")]
    quality = [_percent(figures["inside"]), _number(figures["reach"]), _number(figures["best"])]
    positives = _number(figures["positives"])
    return [str(figures["objects"]), positives, *counts, *quality, _percent(figures["lost"]), str(figures["losers"])]


def _how_tal(result: dict[str, Any]) -> str:
    border = result["settings"]["tal_from"]
    left = "" if border is None else f"; objects of {border:g} px and more it leaves to TAL (tal_from)"
    text = f"RFLA does not depend on predictions{left}."
    if border is None and "tal" not in result["assigners"]:
        return text
    if result["predictions"]:
        text += f" TAL, with its small-target rule, uses the predictions of {result['predictions']} without "
        return f"{text}augmentation."
    text += (
        " TAL, with its small-target rule, depends on predictions: here every pair of anchor and object has score 1 "
        "and the best IoU that the head can draw there, the most that TAL could do. Where more than ten pairs of an "
        "object reach the same, which of them TAL takes means nothing."
    )
    if border is not None:
        text += " So levels and distances of RFLA are those of the objects that it does not leave to TAL."
    return text


def _how_one_to_one(result: dict[str, Any]) -> str:
    text = "Each object has one positive at most, whose box is kept without suppression; everything above is of the "
    text += "one-to-many branch. RFLA matches every object with its nearest free anchor. TAL takes the best of seven "
    text += "anchors by its predictions, and an object that loses them all to others gets none."
    if "tal" in result["one2one"] and not result["predictions"]:
        text += " Without predictions it has to choose among equals, by their order."
    return text


def _level_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    levels, arms = result["levels"], result["assigners"]
    head = ["level", "stride", "field px", "sigma px", "next level from px"]
    head += ["measured sigma px"] * bool(levels["erf_sigmas"]) + [f"positives {name}" for name in arms]
    rows = []
    for i, name in enumerate(levels["names"]):
        change = levels["changes_at"][i] if i < len(levels["changes_at"]) else None
        row = [name, f"{levels['strides'][i]:g}", f"{levels['rf_sizes'][i]:g}", f"{levels['rf_sizes'][i] / 2:g}"]
        row += [percent(None) if change is None else f"{change:.1f}"]
        row += [f"{levels['erf_sigmas'][i]:g}"] if levels["erf_sigmas"] else []
        shares = [arm["plain"]["sizes"]["all"]["levels"] for arm in arms.values()]
        rows.append([*row, *(_percent(share[i] if share else None) for share in shares)])
    return head, rows


def sweep_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the sweep's table."""
    head = ["change", "missed", "untrainable", *(f"positives {SIZE_TITLES[s]}" for s in ("vt", "t", "s", "m"))]
    head += ["inside 2-8 px", "reach 2-8 px", "reach all", "share of levels, finest first", "better", "worse"]
    rows = []
    for row in result["sweep"]:
        sizes = row["sizes"]
        total = max(sizes["all"]["objects"], 1)
        cells = [_percent(sizes["all"][name] / total) for name in ("missed", "untrainable")]
        cells += [_number(sizes[s]["positives"]) for s in ("vt", "t", "s", "m")]
        cells += [_percent(sizes["vt"]["inside"]), _number(sizes["vt"]["reach"]), _number(sizes["all"]["reach"])]
        levels = " / ".join(_percent(share) for share in sizes["all"]["levels"] or [])
        rows.append([row["name"], *cells, levels, _changes(row["better"]), _changes(row["worse"])])
    return head, rows


def _changes(found: list[dict[str, Any]]) -> str:
    """Return what is better or worse in words: each figure with its sizes, and levels."""
    figures: dict[str, list[str]] = {}
    for change in found:
        figures.setdefault(change["figure"], []).append(change.get("level") or SIZE_TITLES[change["size"]])
    return "; ".join(f"{figure} {', '.join(places)}" for figure, places in figures.items()) or "nothing"


_PANELS = {
    "objects": "objects",
    "positives": "positives per object",
    "missed": "objects without positives, %",
    "untrainable": "objects that cannot be found, %",
    "inside": "positives inside their object, %",
    "reach": "best IoU that the head can draw",
}


def _size_figure(arms: dict[str, Any], panels: dict[str, str]) -> Figure:
    """Draw figures by object size, a panel each, with a line for every assigner."""
    rows = len(panels) // 2
    figure, axes = _subplots(rows, 2, height=3 * rows)
    centers = range(len(BINS) - 1)
    for axis, (key, title) in zip(axes, panels.items()):
        for i, (name, arm) in enumerate(arms.items()):
            values = [_value(row, key) for row in arm["plain"]["bins"]]
            if key == "objects":
                axis.bar(centers, values, color="0.6")
                break
            axis.plot(centers, values, marker="o", ms=4, color=f"C{i}", label=name)
        axis.set(title=title, xticks=list(centers), ylim=(0, None))
        axis.set_xticklabels(_bin_titles(), rotation=60, fontsize=7)
        axis.grid(alpha=0.3)
    axes[1].legend()
    figure.tight_layout()
    return figure


def _value(row: dict[str, Any], key: str) -> float:
    value = row[key]
    if value is None:
        return float("nan")
    if key in {"missed", "untrainable"}:
        return 100 * value / row["objects"] if row["objects"] else float("nan")
    return 100 * value if key == "inside" else value


def _field_figure(analysis: Analysis) -> Figure:
    figure, (axis,) = _subplots(1, 1, height=3.6)
    result = analysis.result
    names, changes = result["levels"]["names"], result["levels"]["changes_at"]
    name = next(iter(analysis.tallies))
    edges = np.geomspace(1, max(256, *(2 * side for side in changes if side)), 60)
    for mode, color in (("plain", "0.3"), ("augmented", "C0")):
        label = {"plain": "without augmentation", "augmented": "augmented"}[mode]
        side = analysis.tallies[name][mode].side
        share = np.full(len(side), 100 / max(len(side), 1))
        axis.hist(side, edges, histtype="step", color=color, label=label, weights=share)
    borders = [edges[0], *(side or np.nan for side in changes), edges[-1]]
    for i, level in enumerate(names):
        low, high = borders[i], borders[i + 1]
        if np.isfinite([low, high]).all():
            axis.axvspan(low, high, color=COLORS[i % len(COLORS)], alpha=0.2, lw=0)
            axis.text(np.sqrt(low * high), 0.97, level, transform=axis.get_xaxis_transform(), ha="center", va="top")
    axis.set(xscale="log", xlabel="square root of the area, px", ylabel="objects, %", xlim=(edges[0], edges[-1]))
    axis.legend(loc="center right", fontsize=8)
    figure.tight_layout()
    return figure


def _level_figure(analysis: Analysis) -> Figure:
    arms = analysis.result["assigners"]
    figure, axes = _subplots(1, len(arms), height=3.6)
    for axis, (name, arm) in zip(axes, arms.items()):
        bins = arm["plain"]["bins"]
        bottom = np.zeros(len(bins))
        for i, level in enumerate(analysis.result["levels"]["names"]):
            share = np.array([100 * row["levels"][i] if row["levels"] else 0.0 for row in bins])
            axis.bar(range(len(bins)), share, bottom=bottom, color=COLORS[i % len(COLORS)], label=level)
            bottom += share
        axis.set(title=name, ylabel="positives, %", xticks=range(len(bins)))
        axis.set_xticklabels(_bin_titles(), rotation=60, fontsize=7)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    return figure


def example_figure(analysis: Analysis, examples: Sequence[Example]) -> Figure:
    """Draw objects beside each other, with the anchors of each assigner in a row of its own."""
    names = list(analysis.tallies)
    figure, axes = _subplots(len(names), len(examples), height=4.4 * len(names), width=4.4)
    for place, axis in enumerate(axes):
        _draw(axis, analysis, examples[place % len(examples)], names[place // len(examples)])
    figure.tight_layout()
    return figure


def _draw(axis: Any, analysis: Analysis, example: Example, name: str) -> None:
    from matplotlib.patheffects import withStroke

    sample, levels = example.sample, analysis.levels
    box = sample.boxes[example.number]
    centers, sizes, angles = _parts(sample.boxes)
    center, size = centers[example.number], sizes[example.number]
    side = float(size.prod().sqrt())
    chosen = (example.assigned[name].gt == example.number).nonzero().squeeze(1)
    points, level = (values[chosen] for values in levels.anchors(sample.image.shape[1:]))
    far = float((points - center).abs().max()) if len(points) else 0.0
    half = max(0.8 * float(size.max()), 1.15 * far, 12.0)
    height, width = sample.image.shape[1:]
    picture = sample.image.permute(1, 2, 0).numpy()
    axis.imshow(picture, extent=(0, width, height, 0), interpolation="nearest")
    for number, (place, sides, angle) in enumerate(zip(centers.tolist(), sizes.tolist(), angles.tolist())):
        axis.add_patch(_rectangle(place, sides, "white", 1.6 if number == example.number else 0.6, angle=angle))
    scores = _scores(analysis, box, points, level)
    for i, level_name in enumerate(analysis.result["levels"]["names"]):
        here = level == i
        color = COLORS[i % len(COLORS)]
        if not bool(here.any()):
            continue
        axis.scatter(*points[here].T.numpy(), s=36, color=color, ec="black", lw=0.6, label=level_name, zorder=3)
        best = points[here][scores[here].argmax()].tolist()
        axis.add_patch(_rectangle(best, [levels.rf_sizes[i]] * 2, color, 1.2, "--"))
    if name == "rfla" and len(points) <= LABELLED:
        for (px, py), score in zip(points.tolist(), scores.tolist()):
            axis.annotate(
                f"{score:.2f}",
                (px, py),
                (4, 4),
                textcoords="offset points",
                fontsize=8,
                color="white",
                path_effects=[withStroke(linewidth=2, foreground="black")],  # for bright pixels
            )
    cx, cy = center.tolist()
    axis.set(xlim=(cx - half, cx + half), ylim=(cy + half, cy - half), xticks=[], yticks=[])
    axis.set_title(f"{name}: object of {side:.1f} px, {count(len(points), 'positive')}", fontsize=9)
    if len(points):
        axis.legend(fontsize=7, loc="lower right")


def _scores(analysis: Analysis, box: torch.Tensor, points: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """Return the receptive field score of one object and some anchors, (N,)."""
    before, after = distances(box.expand(len(points), -1), points)
    (dx, dy), (width, height) = ((after - before) / 2).unbind(-1), (after + before).unbind(-1)
    rf = torch.tensor(analysis.levels.rf_sizes)[level]
    return DISTANCES[analysis.config.distance](dx, dy, width, height, rf)


def _parts(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return centres, px, (N, 2), sides, px, (N, 2), and angles, radians, (N,), of boxes of either kind."""
    if boxes.shape[-1] == 5:
        return boxes[:, :2], boxes[:, 2:4], boxes[:, 4]
    return (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2], torch.zeros(len(boxes))


def _rectangle(
    center: Sequence[float], sides: Sequence[float], color: str, line: float, style: str = "-", angle: float = 0.0
) -> Any:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    dark = [withStroke(linewidth=line + 1.2, foreground="black")]  # for bright pixels
    corner = (center[0] - sides[0] / 2, center[1] - sides[1] / 2)
    turned = {"angle": np.degrees(angle), "rotation_point": "center"}
    return Rectangle(corner, *sides, **turned, fill=False, ec=color, lw=line, ls=style, path_effects=dark)


def _subplots(rows: int, columns: int, height: float, width: float = 9.0) -> tuple[Figure, Sequence[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(width, 4.4 * columns), height))
    return figure, list(np.ravel(figure.subplots(rows, columns, squeeze=False)))


def _bin_titles() -> list[str]:
    return [f"{low:g}-{high:g}" if np.isfinite(high) else f"> {low:g}" for low, high in pairwise(BINS)]


def _percent(value: float | None) -> str:
    return percent(value) if value is None else f"{percent(value)} %"


def _number(value: float | None) -> str:
    return percent(None) if value is None else f"{value:.2f}"
