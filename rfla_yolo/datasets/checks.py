"""Checks of YOLO label files, with messages that name file, line and value."""

from __future__ import annotations

import math
from pathlib import Path

TOLERANCE = 0.01  # how far a normalised coordinate may lie outside the image, as in Ultralytics


def explain_label_file(path: Path, num_classes: int) -> str:
    """Return what is wrong with a YOLO label file, in words, or an empty string.

    Args:
        path: The label file: ``class x y width height`` per line, normalised to the image.
        num_classes: Number of classes of the dataset.

    Returns:
        ``file:line: what was found and what was expected`` for the first bad line.
    """
    try:
        rows = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return ""  # no label file: an image without objects
    except (OSError, UnicodeDecodeError) as error:
        return f"{path}: cannot be read: {error}"
    for number, row in enumerate(rows, start=1):
        if problem := _explain_row(row.split(), num_classes):
            return f"{path}:{number}: {problem}"
    return ""


def _explain_row(cells: list[str], num_classes: int) -> str:
    if not cells:
        return ""
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        return f"expected numbers, found {' '.join(cells)!r}"
    if len(values) < 5 or (len(values) > 5 and len(values) % 2 == 0):
        return f"expected 5 columns (class x y width height), found {len(values)}"
    if not all(map(math.isfinite, values)):
        return f"expected finite numbers, found {' '.join(cells)!r}"
    label, *points = values
    if label != int(label) or not 0 <= label < num_classes:
        return f"class {label:g} is not one of 0 to {num_classes - 1}"
    outside = [v for v in points if not -TOLERANCE <= v <= 1 + TOLERANCE]
    if outside:
        return f"coordinate {outside[0]:g} is not in 0 to 1 (normalised to the image)"
    if len(points) == 4 and min(points[2:]) < 0:
        return f"width or height {min(points[2:]):g} is negative"
    return ""
