"""Draw the prediction of the README: ``python docs/prediction_picture.py``.

The model is that of ``benchmarks/seams.py``, the images are validation images of half-size HIT-UAV.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection

from benchmarks.common import ROOT
from benchmarks.seams import HEIGHT, WIDTH, pictures, train
from rfla_yolo import predict_scene

TILE, OVERLAP = 384, 96
ACROSS, DOWN = 4, 3  # images shown of the mosaic
COLORS = {"person": "#ffb000", "car": "#648fff", "bicycle": "#dc267f", "other-vehicle": "#40e0d0"}


def main() -> None:
    """Predict a mosaic tile by tile, and draw the part with the most objects with its boxes and tiles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="a checkpoint; that of benchmarks/seams.py where not given")
    weights = parser.parse_args().weights or train(ROOT / "runs" / "accuracy")
    mosaic = pictures(1, seed=0)[0][0]
    found = predict_scene(weights, np.ascontiguousarray(mosaic[..., ::-1]), tile=TILE, overlap=OVERLAP)
    left, top = densest(found.bbox, mosaic.shape)
    width, height = ACROSS * WIDTH, DOWN * HEIGHT
    inside = ((found.bbox[:, :2] < (left + width, top + height)) & (found.bbox[:, 2:] > (left, top))).all(1)
    shown = found.take(inside)

    figure, axis = plt.subplots(figsize=(10, 10 * height / width))
    axis.imshow(mosaic[..., ::-1], interpolation="bilinear")
    for label, (name, color) in enumerate(COLORS.items()):
        of_class = shown.bbox[shown.label == label]
        rings = [box[[0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(5, 2) for box in of_class]
        axis.add_collection(
            LineCollection(rings, colors=color, lw=0.9, label=f"{name}: {len(of_class)}"), autolim=False
        )
    axis.set(xlim=(left, left + width), ylim=(top + height, top))
    axis.set_axis_off()
    axis.legend(loc="lower right", fontsize=8, framealpha=0.8)
    figure.subplots_adjust(0, 0, 1, 1)
    path = Path(__file__).parent / "images" / "prediction.jpg"
    figure.savefig(path, dpi=96, pil_kwargs={"quality": 72, "optimize": True})
    print(f"Wrote {path}: {len(found)} objects on the mosaic of {mosaic.shape[1]} x {mosaic.shape[0]} px")


def densest(bbox: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return left and top, px, of the part that is shown: where most boxes have their centre."""
    rows, columns = shape[0] // HEIGHT, shape[1] // WIDTH
    centre = (bbox[:, :2] + bbox[:, 2:]) / 2
    edges = (np.arange(rows + 1) * HEIGHT, np.arange(columns + 1) * WIDTH)
    counts = np.histogram2d(centre[:, 1], centre[:, 0], edges)[0]
    sums = np.lib.stride_tricks.sliding_window_view(counts, (DOWN, ACROSS)).sum((2, 3))
    row, column = np.unravel_index(sums.argmax(), sums.shape)
    return int(column) * WIDTH, int(row) * HEIGHT


if __name__ == "__main__":
    main()
