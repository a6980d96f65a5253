"""What each setting changes in the assignment, without training: ``python benchmarks/settings.py``.

One setting at a time away from the default, on the training labels of hituav-half at 320 px with yolov8n-p2. A setting
that moves next to no anchors there cannot earn or lose anything in a training on that set.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks.common import ROOT, environment, fill, write
from benchmarks.fidelity import HEIGHT, MODELS, WIDTH, hituav
from rfla_yolo import RFLAConfig
from rfla_yolo.assign.resolve import box_area
from rfla_yolo.engine import RFLAAssigner
from tests.assign.oracle import anchors

STRIDES, TRF = MODELS["yolov8n-p2, trf x 1/2"]
GRID = [(HEIGHT // s, WIDTH // s) for s in STRIDES]
SIZES = {"below 8 px": 8.0, "8 to 16": 16.0, "16 to 32": 32.0, "above 32": float("inf")}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "`topk: [3, 0]`, no stage 2": {"topk": (3, 0)},
    "`topk: [2, 1]`": {"topk": (2, 1)},
    "`topk: [4, 1]`": {"topk": (4, 1)},
    "`topk_max: 0`": {"topk_max": 0},
    "`decay: 0.5`": {"decay": 0.5},
    "`distance: wd`": {"distance": "wd"},
    "`conflict: smallest`": {"conflict": "smallest"},
    "`conflict: last`": {"conflict": "last"},
    "`rf_scale: 1.5`": {"rf_scale": 1.5},
    "`rf_scale: 3`": {"rf_scale": 3.0},
    "`rf: trf`": {"rf": TRF},
}


def assign(images: list[Tensor], settings: dict[str, Any]) -> list[Tensor]:
    """Return the object of each anchor of every image, each (A,)."""
    config = RFLAConfig(**settings)
    fields = [s * config.scale for s in STRIDES] if config.rf == "stride" else config.rf
    assigner = RFLAAssigner(1, STRIDES, fields, config)
    return [assigner.assign(boxes[None], torch.ones(1, len(boxes), dtype=torch.bool), GRID)[0] for boxes in images]


def figures(images: list[Tensor], assigned: list[Tensor], default: list[Tensor]) -> dict[str, Any]:
    """Return the share of positives that are the default's, and by object size positives and their share inside."""
    points, _ = anchors(GRID, STRIDES)
    objects, positives, inside = torch.zeros(3, len(SIZES))
    same = either = 0
    for boxes, mine, theirs in zip(images, assigned, default):
        same += int(((mine == theirs) & (mine >= 0)).sum())
        either += int(((mine >= 0) | (theirs >= 0)).sum())
        size = torch.bucketize(box_area(boxes[None])[0].sqrt(), torch.tensor(list(SIZES.values())))
        positive = mine >= 0
        box, where = boxes[mine[positive]], points[positive]
        within = ((where > box[:, :2]) & (where < box[:, 2:])).all(-1)
        objects += torch.bincount(size, minlength=len(SIZES))
        positives += torch.bincount(size[mine[positive]], minlength=len(SIZES))
        inside += torch.bincount(size[mine[positive]], weights=within.float(), minlength=len(SIZES))
    return {
        "same": same / either,
        "positives": (positives / objects).tolist(),
        "inside": (inside / positives).tolist(),
    }


def main() -> None:
    """Assign under every variant and write."""
    images = hituav()
    default = assign(images, {})
    rows = {name: figures(images, assign(images, settings), default) for name, settings in VARIANTS.items()}
    write("settings", {**environment(0), "sizes": list(SIZES), "rows": rows})
    lines = ["| setting | positives as by default | " + " | ".join(SIZES) + " |", "|---" * (len(SIZES) + 2) + "|"]
    for name, row in rows.items():
        cells = [f"{n:.1f}, {share:.0%}" for n, share in zip(row["positives"], row["inside"])]
        lines.append(f"| {name} | {row['same']:.1%} | " + " | ".join(cells) + " |")
    fill(ROOT / "docs" / "results.md", "settings", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
