"""Draw the picture of the README: ``python docs/picture.py``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from rfla_yolo import RFLAConfig
from rfla_yolo.datasets.demo import SIZE, draw_scene
from rfla_yolo.engine import RFLAAssigner

STRIDES, RF_SIZES = (4, 8, 16, 32), (8, 16, 32, 64)  # yolov8n-p2, default settings
COLORS = ("#ffb000", "#648fff", "#dc267f", "#785ef0")


def main() -> None:
    """Show objects, the anchors that RFLA gives them, and the receptive fields of one of them."""
    image, rows = draw_scene(np.random.default_rng([0, 3]), dense=True)
    boxes = torch.tensor([[x - w / 2, y - h / 2, x + w / 2, y + h / 2] for _, x, y, w, h in rows]) * SIZE
    grid = [(SIZE // s, SIZE // s) for s in STRIDES]
    mask = torch.ones(1, len(boxes), dtype=torch.bool)
    assigner = RFLAAssigner(1, STRIDES, RF_SIZES, RFLAConfig())
    assigned = assigner.assign(boxes[None].float(), mask, grid)[0].split([h * w for h, w in grid])

    figure, axes = plt.subplots(1, 2, figsize=(11, 6))
    for axis, (across, down) in zip(axes, (((0, SIZE), (0, SIZE)), ((96, 160), (40, 104)))):
        axis.imshow(image[..., ::-1], interpolation="nearest", extent=(0, SIZE, SIZE, 0))
        for x1, y1, x2, y2 in boxes.tolist():
            axis.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec="white", lw=0.9))
        for level, (stride, size, color) in enumerate(zip(STRIDES, RF_SIZES, COLORS)):
            anchors = (assigned[level].view(grid[level]) >= 0).nonzero()
            points = (anchors.flip(1) + 0.5) * stride
            label = f"P{level + 2}: field {size:g} px, {len(points)} anchors"
            axis.scatter(*points.T, s=7 if axis is axes[0] else 34, color=color, ec="black", lw=0.3, label=label)
        axis.set(xlim=across, ylim=down[::-1], xticks=[], yticks=[])
    axes[0].set_title(f"{len(boxes)} objects of 2 to 32 px, and their anchors", fontsize=11)
    axes[1].set_title("a part of it, magnified", fontsize=11)
    figure.legend(*axes[0].get_legend_handles_labels(), ncols=4, loc="lower center", frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    path = Path(__file__).parent / "images" / "assignment.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=100)
    print(f"Wrote {path}")


if __name__ == "__main__":
    main()
