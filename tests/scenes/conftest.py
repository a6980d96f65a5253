"""Scenes with bright rectangles, and a detector that finds them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rfla_yolo.scenes import Detections

NAMES = {0: "car", 1: "ship"}


def detector(tiles: list[np.ndarray]) -> list[Detections]:
    """Find rectangles brighter than 100: cars where red is the brightest, ships elsewhere."""
    found = []
    for tile in tiles:
        _, _, stats, _ = cv2.connectedComponentsWithStats((tile.max(2) > 100).astype(np.uint8))
        x, y, w, h, _ = stats[1:].T
        colors = tile[y, x].astype(int).reshape(-1, 3)
        found.append(Detections.of(np.stack([x, y, x + w, y + h], 1), colors.max(1) / 255, colors[:, 0] < colors[:, 2]))
    return found


def rectangles(width: int, height: int, number: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture, RGB, and its rectangles, xyxy px, none of which touch."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(1, 60, (height, width, 3), dtype=np.uint8)
    taken = np.zeros((height, width), dtype=bool)
    boxes = []
    while len(boxes) < number:
        w, h = rng.integers(4, 16, 2)
        x, y = rng.integers(1, width - w - 1), rng.integers(1, height - h - 1)
        if not taken[y - 1 : y + h + 1, x - 1 : x + w + 1].any():
            taken[y : y + h, x : x + w] = True
            picture[y : y + h, x : x + w] = [(220, 50, 50), (50, 50, 180)][len(boxes) % 2]
            boxes.append((x, y, x + w, y + h))
    return picture, np.array(boxes, dtype=float)


@pytest.fixture
def write_tiff(tmp_path: Path) -> Callable[..., Path]:
    """Write an array, (H, W, bands), as a GeoTIFF."""
    rasterio = pytest.importorskip("rasterio")

    def write(pixels: np.ndarray, name: str = "scene.tif", **options: Any) -> Path:
        values = np.moveaxis(pixels, 2, 0)
        mask = options.pop("mask", None)
        profile = {"driver": "GTiff", "dtype": values.dtype, "count": len(values)}
        profile |= {"height": values.shape[1], "width": values.shape[2], **options}
        with rasterio.open(tmp_path / name, "w", **profile) as file:
            file.write(values)
            if mask is not None:
                file.write_mask(mask)
        return tmp_path / name

    return write
