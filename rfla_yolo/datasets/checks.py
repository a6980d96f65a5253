"""Reading YOLO label files, with messages that name file, line and value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CORNERS = 9  # columns of an oriented box: class and four corners
TOLERANCE = 0.01  # how far a normalised coordinate may lie outside the image, as in Ultralytics


def explain_label_file(path: Path, num_classes: int, keypoints: tuple[int, int] | None = None) -> str:
    """Return what is wrong with a YOLO label file, in words, or an empty string.

    Args:
        path: The label file: ``class x y width height`` or ``class`` and the corners of a polygon per line, normalised
            to the image.
        num_classes: Number of classes of the dataset.
        keypoints: How many follow the box on every line, and the numbers of each; None where there are none.

    Returns:
        ``file:line: what was found and what was expected`` for the first bad line.
    """
    return next(iter(parse_labels(path, num_classes, keypoints=keypoints)[1]), "")


def are_oriented(files: Iterable[Path]) -> bool:
    """Return whether the labels of a dataset are oriented boxes: lines of four corners, and no other polygon.

    Lines of boxes beside them make no difference here; `parse_labels` then calls them bad.
    """
    found = _columns(files)
    return CORNERS in found and not any(map(_is_polygon, found - {CORNERS}))


def have_polygons(files: Iterable[Path]) -> bool:
    """Return whether labels of a dataset that has no oriented boxes are polygons, as of segmentation."""
    return any(map(_is_polygon, _columns(files)))


def _columns(files: Iterable[Path]) -> set[int]:
    found: set[int] = set()
    for path in files:
        with suppress(OSError, UnicodeDecodeError):
            found.update(len(line.split()) for line in path.read_text(encoding="utf-8-sig").splitlines())
    return found


def _is_polygon(columns: int) -> bool:
    return columns > 6 and columns % 2 == 1


def read_labels(path: Path, num_classes: int, oriented: bool = False) -> NDArray[np.float64]:
    """Return the objects of a label file as `parse_labels` does.

    Raises:
        ValueError: If a line is bad.
    """
    rows, problems = parse_labels(path, num_classes, oriented)
    if problems:
        raise ValueError(problems[0])
    return rows


def parse_labels(
    path: Path, num_classes: int, oriented: bool = False, keypoints: tuple[int, int] | None = None
) -> tuple[NDArray[np.float64], list[str]]:
    """Read a YOLO label file.

    Args:
        path: The label file; a missing one is an image without objects.
        num_classes: Number of classes of the dataset.
        oriented: The dataset has oriented boxes (`are_oriented`).
        keypoints: How many keypoints follow a box, and the numbers of each; checked and left out.

    Returns:
        The good lines as class, centre x, centre y, width, height, normalised (polygons as their hull), (N, 5), or as
        class and four corners where they are oriented, (N, 9); and what is wrong with the others, in words.
    """
    columns = CORNERS if oriented else 5
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        lines = []
    except (OSError, UnicodeDecodeError) as error:
        return np.zeros((0, columns)), [f"{path}: cannot be read: {error}"]
    rows, problems = [], []
    found = [len(line.split()) for line in lines]
    if not keypoints and 5 in found and max(found) > 6:
        problems.append(f"{path}: mixes boxes and polygons; Ultralytics wants one kind a file")
    for number, line in enumerate(lines, start=1):
        cells = line.split()
        if oriented and cells and len(cells) != CORNERS:
            form = "9 columns (class x1 y1 x2 y2 x3 y3 x4 y4), as others of this dataset have"
            problems.append(f"{path}:{number}: expected {form}, found {len(cells)}")
        elif problem := _explain_row(cells, num_classes, keypoints):
            problems.append(f"{path}:{number}: {problem}")
        elif cells:
            label, *values = map(float, cells[:5] if keypoints else cells)
            rows.append([label, *(values if oriented or len(values) == 4 else _hull(values))])
    return np.array(rows, dtype=np.float64).reshape(-1, columns), problems


def _hull(polygon: Sequence[float]) -> list[float]:
    """Return centre x, centre y, width and height of the box around a polygon."""
    x, y = polygon[::2], polygon[1::2]
    return [(min(x) + max(x)) / 2, (min(y) + max(y)) / 2, max(x) - min(x), max(y) - min(y)]


def _explain_row(cells: list[str], num_classes: int, keypoints: tuple[int, int] | None = None) -> str:
    if not cells:
        return ""
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        return f"expected numbers, found {' '.join(cells)!r}"
    if keypoints:
        count, numbers = keypoints
        if len(values) != 5 + count * numbers:
            form = f"class x y width height, {count} keypoints of {numbers}"
            return f"expected {5 + count * numbers} columns ({form}), found {len(values)}"
        if outside := [v for i, v in enumerate(values[5:]) if i % numbers < 2 and not v <= 1 + TOLERANCE]:
            return f"keypoint coordinate {outside[0]:g} is not in 0 to 1 (normalised to the image)"
        cells, values = cells[:5], values[:5]
    if len(values) < 5 or (len(values) > 5 and len(values) % 2 == 0):
        return f"expected 5 columns (class x y width height), found {len(values)}"
    if not all(map(math.isfinite, values)):
        return f"expected finite numbers, found {' '.join(cells)!r}"
    label, *points = values
    if label != int(label) or not 0 <= label < num_classes:
        return f"class {label:g} is not one of 0 to {num_classes - 1}"
    # of a polygon Ultralytics checks the box around it alone
    outside = [v for v in (points if len(points) == 4 else _hull(points)) if not -TOLERANCE <= v <= 1 + TOLERANCE]
    if outside:
        return f"coordinate {outside[0]:g} is not in 0 to 1 (normalised to the image)"
    if len(points) == 4 and min(points[2:]) < 0:
        return f"width or height {min(points[2:]):g} is negative"
    return ""
