"""Detections of a tile or a scene, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Detections:
    """What was found in a tile or a scene.

    Attributes:
        bbox: Boxes, xyxy px of the scene or, inside of a tile, of the tile, (N, 4).
        score: Scores, (N,).
        label: Indices of the classes, (N,).
        cut: Whether the border of a tile cuts the box, and no tile has the object whole, (N,).
    """

    bbox: NDArray[np.float64]
    score: NDArray[np.float64]
    label: NDArray[np.int64]
    cut: NDArray[np.bool_]

    def __post_init__(self) -> None:
        number = len(self.bbox)
        shapes = {"bbox": (number, 4), "score": (number,), "label": (number,), "cut": (number,)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} of detections has shape {getattr(self, name).shape}, expected {shape}")

    @classmethod
    def of(cls, bbox: ArrayLike, score: ArrayLike, label: ArrayLike, cut: ArrayLike | None = None) -> Detections:
        """Make detections of anything that numpy makes arrays of, whole (not cut) by default."""
        scores = np.asarray(score, dtype=np.float64).reshape(-1)
        return cls(
            np.asarray(bbox, dtype=np.float64).reshape(-1, 4),
            scores,
            np.asarray(label, dtype=np.int64).reshape(-1),
            np.zeros(len(scores), dtype=bool) if cut is None else np.asarray(cut, dtype=bool).reshape(-1),
        )

    @classmethod
    def empty(cls) -> Detections:
        """Return no detections."""
        return cls.of([], [], [])

    def __len__(self) -> int:
        return len(self.score)

    def take(self, places: NDArray[Any]) -> Detections:
        """Return some rows, by index or mask, copied."""
        return Detections(*(getattr(self, column.name)[places] for column in fields(self)))

    def shift(self, left: float, top: float) -> Detections:
        """Move the boxes, px: from a tile at (left, top) to the scene."""
        return Detections(self.bbox + np.array([left, top, left, top]), self.score, self.label, self.cut)


def concatenate(parts: Sequence[Detections]) -> Detections:
    """Join detections, in their order."""
    parts = [Detections.empty(), *parts]
    return Detections(
        *(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(Detections))
    )
