"""How many anchors ``conflict="last"`` assigns as the reference implementation: ``python benchmarks/fidelity.py``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.common import ROOT, environment, fill, write
from rfla_yolo import rfla_assign
from tests.assign.oracle import dense_assign, reference_fields

WIDTH, HEIGHT = 320, 256
MODELS = {
    "yolov8n-p2, trf x 1/2": ((4, 8, 16, 32), (11.5, 47.5, 119.5, 199.5)),
    "yolov8n, trf x 1/2": ((8, 16, 32), (47.5, 119.5, 199.5)),
    "yolov8n-p2, trf x 1/3": ((4, 8, 16, 32), (23 / 3, 95 / 3, 239 / 3, 399 / 3)),
    "yolov8n-p2, 2 x stride": ((4, 8, 16, 32), (8, 16, 32, 64)),
}
SEED = 0


def hituav() -> list[torch.Tensor]:
    """Boxes of every training image of hituav-half, xyxy px."""
    data = Path(os.environ.get("RFLA_DATA") or ROOT.parent / "shared" / "data") / "hituav-half"
    if not data.is_dir():
        raise SystemExit(f"needs hituav-half; looked for {data}; RFLA_DATA names another folder")
    images = []
    for file in sorted((data / "labels" / "train").glob("*.txt")):
        rows = [list(map(float, line.split()[1:])) for line in file.read_text().splitlines()]
        if rows:
            xywh = torch.tensor(rows) * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
            images.append(torch.cat((xywh[:, :2] - xywh[:, 2:] / 2, xywh[:, :2] + xywh[:, 2:] / 2), 1))
    return images


def lattice() -> list[torch.Tensor]:
    """Boxes on whole pixels, where equal scores are the rule: the worst case."""
    generator = torch.Generator().manual_seed(SEED)
    images = []
    for _ in range(1000):
        center = (torch.rand(12, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT])).round()
        side = torch.empty(12, 2).uniform_(1, 20, generator=generator).round() * 2
        images.append(torch.cat((center - side / 2, center + side / 2), 1))
    return images


def main() -> None:
    """Compare and write."""
    rows = []
    for data, images in (("hituav-half train", hituav()), ("random whole-pixel boxes", lattice())):
        for model, (strides, sizes) in MODELS.items():
            grid = [(HEIGHT // s, WIDTH // s) for s in strides]
            fields = reference_fields(grid, strides, sizes)
            anchors = positives = differ = 0
            for boxes in images:
                expected = dense_assign(boxes, *fields)
                mask = torch.ones(1, len(boxes), dtype=torch.bool)
                got = rfla_assign(boxes[None], mask, grid, strides, sizes, conflict="last")[0]
                anchors += got.numel()
                positives += int((expected >= 0).sum())
                differ += int((got != expected).sum())
            row = {"boxes": data, "model": model, "anchors": anchors, "positives": positives, "differ": differ}
            rows.append(row)
            print(row, flush=True)
    write("fidelity", {**environment(SEED), "rows": rows})
    lines = ["| boxes | model, fields | anchors | positives | differ |", "|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row['boxes']} | {row['model']} | " + " | ".join(f"{v:,}" for v in list(row.values())[2:]) + " |"
        )
    fill(ROOT / "docs" / "fidelity.md", "fidelity", "\n".join(lines))


if __name__ == "__main__":
    main()
