"""The page of a run: how much of what size was found, overviews of the scenes, and where objects are densest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..report import Page, subplots
from .detections import Detections
from .images import DamagedError
from .outputs import Output
from .source import Pixels, Source
from .windows import Window

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW = np.dtype([("scene", "<u4"), ("bbox", "<f8", 4), ("score", "<f8"), ("label", "<u4"), ("cut", "?")])
CHUNK = 100_000  # detections that are looked at at once
SIZES = {"below 8 px": 8.0, "8-16 px": 16.0, "16-32 px": 32.0, "above 32 px": np.inf}
BORDERS = np.array([0, 2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, np.inf])  # px
OVERVIEWS, OVERVIEW = 4, 1200  # scenes shown, px of their longer side
CROPS, CROP = 6, 192  # crops shown, px of their side
DOT = (255, 48, 48)  # RGB of an object on an overview
LINES = 20  # scenes named, and lines of the counts: tiles that were damaged or full
COLORS = {  # of boxes by class, in turn
    "red": "#ff3030",
    "blue": "#30c0ff",
    "yellow": "#ffd030",
    "green": "#40e040",
    "pink": "#ff60ff",
    "orange": "#ff9030",
    "violet": "#8080ff",
    "turquoise": "#40e0d0",
}


class Spool(Output):
    """Keeps the boxes of all scenes in a file.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self.scenes: list[str] = []

    def add(self, source: Source, found: Detections) -> None:
        """Write detections."""
        if source.name not in self.scenes[-1:]:
            self.scenes.append(source.name)
        rows = np.zeros(len(found), dtype=ROW)
        rows["scene"] = len(self.scenes) - 1
        for name in ("bbox", "score", "label", "cut"):
            rows[name] = getattr(found, name)
        self._file.write(rows.tobytes())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def chunks(self) -> Iterator[NDArray[Any]]:
        """Yield the detections, some at a time."""
        with self._path.open("rb") as file:
            while len(rows := np.fromfile(file, dtype=ROW, count=CHUNK)):
                yield rows


def write_page(
    folder: Path,
    spool: Spool,
    files: Mapping[str, Path],
    names: Mapping[int, str],
    text: str,
    open_source: Callable[[Path], Source],
) -> Path:
    """Write the page of a run.

    Args:
        folder: Its folder.
        spool: All detections, closed.
        files: The scenes by name.
        names: Class names by index.
        text: The counts of the run, in lines.
        open_source: Opens a scene.

    Returns:
        Path of the page.
    """
    page = Page(folder, "Detections")
    listed = [*list(files)[:LINES], *([f"... ({len(files)} scenes)"] if len(files) > LINES else [])]
    page.text(", ".join(listed))
    for line in text.splitlines()[:LINES]:
        page.text(line)
    counts, scores, by_scene = _count(spool, len(names))
    page.heading("By class and size")
    limits = np.searchsorted(BORDERS, list(SIZES.values()))
    sums = np.diff(counts.cumsum(1)[:, limits - 1], prepend=0, axis=1)
    rows = [[names[k], int(row.sum()), *row.tolist()] for k, row in enumerate(sums)]
    total = [["all", int(sums.sum()), *sums.sum(0).tolist()]] if len(names) > 1 else []
    page.table(["class", "objects", *SIZES], [*total, *rows])
    caption = "Objects by size, the square root of the area of the box, and by score"
    page.figure("histograms", _histograms(counts.sum(0), scores), caption)
    shown = [i for i in np.argsort(-by_scene, kind="stable")[:OVERVIEWS] if by_scene[i]]
    if shown:
        page.heading("Where")
        opened = {int(i): open_source(files[spool.scenes[i]]) for i in shown}
        try:
            grids, cells = _locate(spool, opened)
            for number, (i, source) in enumerate(opened.items()):
                caption = f"{spool.scenes[i]}: {by_scene[i]} objects"
                page.picture(f"overview-{number + 1}", _overview(source, grids[i]), caption)
            page.heading("Densest")
            figure = _crops(spool, opened, cells)
            classes = ", ".join(f"{names[k]} {color}" for k, color in zip(names, COLORS))
            page.figure("densest", figure, f"{CROP} x {CROP} px with the most objects, by class: {classes}")
        finally:
            for source in opened.values():
                source.close()
    return page.write()


def _count(spool: Spool, classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of objects by class and size, by twentieth of score, and by scene."""
    bins = len(BORDERS) - 1
    counts = np.zeros(classes * bins, dtype=np.int64)
    scores, by_scene = np.zeros(20, dtype=np.int64), np.zeros(len(spool.scenes), dtype=np.int64)
    for rows in spool.chunks():
        side = np.sqrt((rows["bbox"][:, 2:] - rows["bbox"][:, :2]).prod(1))
        size = np.searchsorted(BORDERS, side, side="right") - 1
        counts += np.bincount(rows["label"] * bins + size, minlength=len(counts))
        scores += np.bincount((rows["score"] * 20).astype(int).clip(0, 19), minlength=20)
        by_scene += np.bincount(rows["scene"], minlength=len(by_scene))
    return counts.reshape(classes, bins), scores, by_scene


def _locate(
    spool: Spool, opened: Mapping[int, Source]
) -> tuple[dict[int, NDArray[np.int64]], list[tuple[int, int, int]]]:
    """Return the objects of each pixel of the overviews, and the cells with the most: scene, left, top."""
    sizes = {i: (source.height, source.width) for i, source in opened.items()}
    factor = {i: min(1.0, OVERVIEW / max(size)) for i, size in sizes.items()}
    grids = {i: np.zeros([max(round(s * factor[i]), 1) for s in size], dtype=np.int64) for i, size in sizes.items()}
    dense = {i: np.zeros([-(-s // CROP) for s in size], dtype=np.int64) for i, size in sizes.items()}
    for rows in spool.chunks():
        for i in opened:
            x, y = (rows["bbox"][:, :2] + rows["bbox"][:, 2:])[rows["scene"] == i].T / 2
            for grid, scale in ((grids[i], factor[i]), (dense[i], 1 / CROP)):
                row, column = ((v * scale).astype(int).clip(0, n - 1) for v, n in zip((y, x), grid.shape))
                np.add.at(grid, (row, column), 1)
    cells = [(-int(n), i, *divmod(place, dense[i].shape[1])) for i in opened for place, n in _most(dense[i])]
    return grids, [(i, column * CROP, row * CROP) for _, i, row, column in sorted(cells)[:CROPS]]


def _most(grid: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return places and numbers of the fullest cells."""
    order = np.argsort(-grid.ravel(), kind="stable")[:CROPS]
    return [(int(place), int(grid.ravel()[place])) for place in order if grid.ravel()[place]]


def _histograms(sizes: NDArray[np.int64], scores: NDArray[np.int64]) -> Figure:
    figure, (left, right) = subplots(1, 2, height=3.2)
    left.bar(np.arange(len(sizes)), sizes, color="0.5")
    titles = [f"{a:g}-{b:g}" for a, b in pairwise(BORDERS[:-1])] + [f"{BORDERS[-2]:g}+"]
    left.set(xlabel="size, px", ylabel="objects", xticks=np.arange(len(sizes)))
    left.set_xticklabels(titles, rotation=60, fontsize=7)
    right.bar(np.arange(len(scores)) / len(scores), scores, width=1 / len(scores), align="edge", color="0.5", ec="w")
    right.set(xlabel="score", xlim=(0, 1))
    return figure


def _overview(source: Source, grid: NDArray[np.int64]) -> Pixels:
    """Return the scene shrunk, a cross on each of its pixels that holds an object's centre."""
    pixels = source.overview(OVERVIEW)
    crosses = cv2.dilate((grid > 0).astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    pixels[crosses > 0] = DOT
    return pixels


def _crops(spool: Spool, opened: Mapping[int, Source], cells: list[tuple[int, int, int]]) -> Figure:
    """The cells with their boxes, magnified."""
    from matplotlib.collections import LineCollection

    found: dict[tuple[int, int, int], list[tuple[int, NDArray[np.float64]]]] = {cell: [] for cell in cells}
    for rows in spool.chunks():
        for scene, left, top in cells:
            inside = (rows["scene"] == scene) & (rows["bbox"][:, 2:] > (left, top)).all(1)
            inside &= (rows["bbox"][:, :2] < (left + CROP, top + CROP)).all(1)
            found[scene, left, top] += [(int(row["label"]), row["bbox"].copy()) for row in rows[inside]]
    height, colors = (len(cells) + 1) // 2, list(COLORS.values())
    figure, axes = subplots(height, 2, height=4.2 * height)
    for axis in axes:
        axis.set_axis_off()
    for axis, (scene, left, top) in zip(axes, cells):
        source = opened[scene]
        window = Window(left, top, min(CROP, source.width - left), min(CROP, source.height - top))
        with suppress(DamagedError):
            picture = source.read(window)
            if picture is not None:
                edges = (left, left + window.width, top + window.height, top)
                axis.imshow(picture, extent=edges, interpolation="nearest")
        corners = [bbox[[0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(5, 2) for _, bbox in found[scene, left, top]]
        lines = LineCollection(
            corners, colors=[colors[label % len(colors)] for label, _ in found[scene, left, top]], lw=1
        )
        axis.add_collection(lines, autolim=False)
        axis.set(xlim=(left, left + CROP), ylim=(top + CROP, top))
        axis.set_title(f"{spool.scenes[scene]}: {len(found[scene, left, top])} objects at {left}, {top}", fontsize=8)
    return figure
