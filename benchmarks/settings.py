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
from ultralytics.nn.tasks import DetectionModel

from benchmarks.common import ROOT, environment, fill, write
from benchmarks.fidelity import HEIGHT, WIDTH, hituav
from rfla_yolo import RFLAConfig
from rfla_yolo.analysis.analyze import levels_of
from rfla_yolo.analysis.assignments import Tally, assign_rfla
from rfla_yolo.analysis.figures import summarise
from rfla_yolo.engine import RFLAAssigner
from rfla_yolo.engine.analysis import Sample

SIZES = {"vt": "below 8 px", "t": "8 to 16", "s": "16 to 32", "m": "above 32"}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "`topk: [3, 0]`, no stage 2": {"topk": (3, 0)},
    "`topk: [2, 1]`": {"topk": (2, 1)},
    "`topk: [4, 1]`": {"topk": (4, 1)},
    "`topk_max: 0`": {"topk_max": 0},
    "`decay: 0.5`": {"decay": 0.5},
    "`distance: wd`": {"distance": "wd"},
    "`conflict: last`": {"conflict": "last"},
    "`rf_scale: 1.5`": {"rf_scale": 1.5},
    "`rf_scale: 3`": {"rf_scale": 3.0},
    "`rf: trf`": {"rf": "trf"},
}


def assign(model: DetectionModel, samples: list[Sample], settings: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Return the object of each anchor of all images, (A,), and the figures of the analysis by object size."""
    config = RFLAConfig(**settings)
    levels = levels_of(model, config)
    assigner = RFLAAssigner(1, levels.strides, levels.rf_sizes, config)
    tally, objects = Tally(levels), []
    for sample in samples:
        assigned = assign_rfla(sample, levels, assigner, conflicts=False)
        tally.add(sample, assigned)
        objects.append(assigned.gt)
    sizes = summarise(tally)["sizes"]
    return torch.cat(objects), {name: {key: sizes[name][key] for key in ("positives", "inside")} for name in SIZES}


def main() -> None:
    """Assign under every variant and write."""
    model = DetectionModel("yolov8n-p2.yaml", verbose=False)
    image = torch.empty(3, HEIGHT, WIDTH, dtype=torch.uint8)  # only its size matters
    samples = [Sample(boxes, torch.zeros(len(boxes), dtype=torch.long), image, "") for boxes in hituav()]
    found = {name: assign(model, samples, settings) for name, settings in VARIANTS.items()}
    default = found["default"][0]
    rows = {}
    for name, (objects, sizes) in found.items():
        same = (objects == default)[(objects >= 0) | (default >= 0)].float().mean().item()
        rows[name] = {"same": same, "sizes": sizes}
    write("settings", {**environment(0), "rows": rows})
    lines = ["| setting | positives as by default | " + " | ".join(SIZES.values()) + " |"]
    lines.append("|---" * (len(SIZES) + 2) + "|")
    for name, row in rows.items():
        cells = [f"{size['positives']:.1f}, {size['inside']:.0%}" for size in row["sizes"].values()]
        lines.append(f"| {name} | {row['same']:.1%} | " + " | ".join(cells) + " |")
    fill(ROOT / "docs" / "results.md", "settings", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
