"""Objects and detections as columns: tens of bytes a box, where COCO's dicts take hundreds.

Boxes are axis-aligned, left, top, width, height in px, (N, 4), or oriented, centre x, centre y, width, height in px and
angle in radians (`rfla_yolo.rotated`), (N, 5): ``bbox`` or ``rbox`` in the JSON. Columns 2 and 3 of both are the sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Json = Mapping[str, Any]
Columns = TypeVar("Columns", "Objects", "Detections")
COLUMNS = {"bbox": 4, "rbox": 5}  # by the name of the box in the JSON


@dataclass(frozen=True)
class Objects:
    """Ground truth.

    Attributes:
        image: Index of the image of each object, (G,).
        label: Index of its class, (G,).
        bbox: Box, (G, 4) or (G, 5).
        area: Area, px^2, (G,).
        crowd: Whether it is a region of objects that are not told apart, (G,).
    """

    image: NDArray[np.int32]
    label: NDArray[np.int32]
    bbox: NDArray[np.float64]
    area: NDArray[np.float64]
    crowd: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    def from_coco(
        cls, entries: Sequence[Json], images: Sequence[Json], categories: Sequence[Json], box: str = "bbox"
    ) -> Objects:
        """Read COCO annotations that hold ``area`` and ``iscrowd``; the box is ``bbox`` or ``rbox``."""
        area, crowd = (np.array([entry[key] for entry in entries], dtype=float) for key in ("area", "iscrowd"))
        return cls(*_columns(entries, images, categories, box), area=area, crowd=crowd != 0)


@dataclass(frozen=True)
class Detections:
    """What a model found.

    Attributes:
        image: Index of the image of each detection, (D,).
        label: Index of its class, (D,).
        bbox: Box, (D, 4) or (D, 5).
        score: Score, (D,).
    """

    image: NDArray[np.int32]
    label: NDArray[np.int32]
    bbox: NDArray[np.float64]
    score: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    def from_coco(
        cls, entries: Sequence[Json], images: Sequence[Json], categories: Sequence[Json], box: str = "bbox"
    ) -> Detections:
        """Read COCO detections; the box is ``bbox`` or ``rbox``."""
        score = np.array([entry["score"] for entry in entries], dtype=float)
        return cls(*_columns(entries, images, categories, box), score=score)


def take(columns: Columns, places: NDArray[Any]) -> Columns:
    """Return some rows, copied."""
    return type(columns)(*(getattr(columns, column.name)[places] for column in fields(columns)))


def _columns(
    entries: Sequence[Json], images: Sequence[Json], categories: Sequence[Json], box: str
) -> tuple[Any, Any, Any]:
    """Return image, label and box of COCO entries."""
    places = [{thing["id"]: i for i, thing in enumerate(things)} for things in (images, categories)]
    keys = ("image_id", "category_id")
    image, label = (
        np.fromiter((place[e[key]] for e in entries), np.int32, len(entries)) for place, key in zip(places, keys)
    )
    values = np.fromiter((value for e in entries for value in e[box]), float, COLUMNS[box] * len(entries))
    return image, label, values.reshape(-1, COLUMNS[box])
