"""Which level finds the objects of each size, and how well: ``python benchmarks/levels.py RUN ...``.

A run is a folder of ``benchmarks/accuracy.py`` under ``runs/accuracy``, ``long-all-yolov8n-p2-tal-9`` for instance. On
its validation images every object looks for the anchor that scores its class highest among those whose box overlaps it
by more than half: the one that detects it. Its level shows what an assigner has taught, its IoU how well it localises.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import yaml
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

from benchmarks.accuracy import MODELS
from benchmarks.common import RESULTS, ROOT, environment, fill, write
from benchmarks.settings import SIZES
from rfla_yolo import RFLAYOLO
from rfla_yolo.analysis.figures import level_names
from rfla_yolo.assign.resolve import box_area
from rfla_yolo.engine.analysis import predictions, training_samples
from rfla_yolo.evaluation.matching import AITOD_AREAS

OVERLAP = 0.5  # with an object, from which on an anchor's box detects it


def detectors(scores: Tensor, boxes: Tensor, objects: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the anchor that detects each object, (G,), -1 where none does, and the IoU of its box, (G,).

    Args:
        scores: Class scores, (A, C).
        boxes: Boxes of the anchors, xyxy px, (A, 4).
        objects: Objects, xyxy px, (G, 4).
        labels: Their classes, (G,).
    """
    iou = box_iou(objects, boxes)
    best = scores.T[labels].masked_fill(iou <= OVERLAP, -1).max(1)
    found = best.indices.masked_fill(best.values < 0, -1)
    return found, iou.gather(1, best.indices[:, None])[:, 0]


def look(folder: Path, imgsz: int, images: int) -> dict[str, Any]:
    """Return, by size of the objects, which levels of a run's last checkpoint detect them, and at which IoU."""
    model = RFLAYOLO(folder / "train" / "weights" / "last.pt").model.float()
    strides = [float(stride) for stride in model.stride]
    ends = np.cumsum([(imgsz / stride) ** 2 for stride in strides])
    (data,) = (folder / "data").glob("*.yaml")
    content = yaml.safe_load(data.read_text(encoding="utf-8"))
    rows = []
    with tempfile.TemporaryDirectory() as place:
        swapped = Path(place) / "val.yaml"
        swapped.write_text(yaml.safe_dump({**content, "train": content["val"]}), encoding="utf-8")
        for sample in training_samples(swapped, images, augment=False, imgsz=imgsz):
            if not len(sample.boxes):
                continue
            scores, boxes = (values[0] for values in predictions(model, sample.image)["one2many"])
            anchor, iou = detectors(scores, boxes, sample.boxes, sample.labels)
            with Image.open(sample.im_file) as image:
                area = box_area(sample.boxes) * (max(image.size) / imgsz) ** 2  # px of the image
            level = np.where(anchor < 0, -1, np.searchsorted(ends, anchor, side="right"))
            rows.append(np.stack([area, level, iou], 1))
    area, level, iou = np.concatenate(rows).T
    sizes = {}
    for size in SIZES:
        low, high = AITOD_AREAS[size]
        inside = (area >= low) & (area < high)
        shares = [float((level[inside] == i).mean()) for i in range(len(strides))]
        found = inside & (level >= 0)
        sizes[size] = {"objects": int(inside.sum()), "levels": shares, "iou": float(iou[found].mean())}
    return {"levels": level_names(strides), "sizes": sizes}


def table(runs: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = ["| run | objects of | number | detected by | IoU |", "|---|---|---|---|---|"]
    for name, run in runs.items():
        for size, title in SIZES.items():
            one = run["sizes"][size]
            by = ", ".join(f"{level} {share:.0%}" for level, share in zip(run["levels"], one["levels"]))
            lines.append(f"| {name} | {title} | {one['objects']} | {by} | {one['iou']:.3f} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Look at runs and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders of runs, by name")
    parser.add_argument("--images", type=int, default=150, help="validation images, evenly picked")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "accuracy", help="folder of the runs")
    options = parser.parse_args(argv)
    runs = {}
    for name in options.runs:
        model = max((model for model in MODELS if f"-{model}-" in name), key=len, default=None)
        if model is None or not (options.work / name / "train" / "weights" / "last.pt").is_file():
            parser.error(f"{name}: no finished run of benchmarks/accuracy.py in {options.work}")
        runs[name] = look(options.work / name, MODELS[model][1], options.images)
    write("levels", {**environment(0), "images": options.images, "runs": runs})
    fill(ROOT / "docs" / "results.md", "levels", table(runs))
    print(f"Wrote {RESULTS / 'levels.json'}")


if __name__ == "__main__":
    main()
