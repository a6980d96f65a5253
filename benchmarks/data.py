"""Time and memory of building AI-TOD at full size: 28,036 small images and 700,621 boxes, labels included.

``python benchmarks/data.py`` writes ``benchmarks/results/data.json`` and fills the table of ``docs/benchmarks.md``. The
images are imitations of a few pixels: the time to read and write the real ones depends on the disk. The targets: under
three minutes on two cores, and less than 2 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import yaml

from benchmarks.common import ROOT, environment, fill, run_cell, write
from rfla_yolo.config import resource_dir
from rfla_yolo.datasets.aitod import FILES, PUBLISHED

TARGETS = {"seconds": 180, "peak_bytes": 2 * 2**30}


def make_sources(root: Path, seed: int) -> None:
    """Write the three sources in their published layout; one image in a hundred is cut from xView."""
    rng = np.random.default_rng(seed)
    images = {split: PUBLISHED["v1"][split] for split in ("train", "val", "test")}
    total = sum(images.values())
    boxes_left, done = PUBLISHED["v1"]["boxes"], 0
    names = yaml.safe_load((resource_dir("data") / "aitod.yaml").read_text(encoding="utf-8"))["names"]
    categories = [{"id": i + 1, "name": name} for i, name in names.items()]
    small = cv2.imencode(".png", np.zeros((800, 800), np.uint8))[1].tobytes()
    (root / "xview").mkdir()
    (root / "toolkit").mkdir()
    (root / "aitod" / "annotations").mkdir(parents=True)
    tif = cv2.imencode(".tif", np.zeros((800, 800, 3), np.uint8))[1].tobytes()
    for split, count in images.items():
        (root / "aitod" / "images" / split).mkdir(parents=True)
        listed, entries, annotations = [], [], []
        for i in range(count):
            tile = i % 100 == 0
            name = f"{done + i}__0_0.png" if tile else f"P{done + i:06d}.png"
            if tile:
                listed.append(name)
                (root / "xview" / f"{done + i}.tif").write_bytes(tif)
            else:
                (root / "aitod" / "images" / split / name).write_bytes(small)
            entries.append({"id": i + 1, "file_name": name, "width": 800, "height": 800})
            last = done + i + 1 == total
            number = boxes_left if last else min(int(rng.poisson(PUBLISHED["v1"]["boxes"] / total)), boxes_left)
            boxes_left -= number
            corner = rng.integers(0, 780, (number, 2)).tolist()
            sides = rng.integers(3, 24, (number, 2)).tolist()
            for (x, y), (w, h) in zip(corner, sides):
                annotation = {"id": len(annotations) + 1, "image_id": i + 1, "category_id": 1 + len(annotations) % 8}
                segmentation = [[x, y, x + w, y, x + w, y + h, x, y + h]]  # the official files have one
                annotations.append({**annotation, "bbox": [x, y, w, h], "area": w * h, "segmentation": segmentation})
        done += count
        (root / "toolkit" / f"aitod_xview_{split}.txt").write_text(str(listed))
        content = {"images": entries, "annotations": annotations, "categories": categories}
        (root / "aitod" / "annotations" / FILES["v1"][split][0]).write_text(json.dumps(content))


def measure(root: str) -> dict[str, Any]:
    """Build in this process and its workers."""
    from rfla_yolo.datasets import build_aitod

    folder = Path(root)
    start = time.perf_counter()
    report = build_aitod(folder / "aitod", folder / "xview", folder / "toolkit", folder / "out")
    seconds = time.perf_counter() - start
    usage = [resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    boxes = sum(counts["boxes_read"] for counts in report["splits"].values())
    images = sum(counts["images"] for counts in report["splits"].values())
    found = {"images": images, "boxes": boxes, "problems": len(report["problems"])}
    return {"seconds": seconds, "peak_bytes": usage[0], "peak_bytes_of_a_worker": usage[1], **found}


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    cell = result["cell"]
    lines = [f"{result['machine']['cores']} cores of {result['machine']['cpu']}, commit {result['commit'][:10]}.", ""]
    lines += ["| what | measured | target |", "|---|---|---|"]
    lines.append(f"| images | {cell['images']:,} | {sum(PUBLISHED['v1'][s] for s in ('train', 'val', 'test')):,} |")
    lines.append(f"| boxes | {cell['boxes']:,} | {PUBLISHED['v1']['boxes']:,} |")
    lines.append(f"| time | {cell['seconds']:.0f} s | {TARGETS['seconds']} s |")
    peaks = cell["peak_bytes"] / 2**30, cell["peak_bytes_of_a_worker"] / 2**30
    lines.append(f"| peak memory | {peaks[0]:.2f} GB, a worker {peaks[1]:.2f} GB | 2 GB |")
    load = f"The machine's load (processes ready to run) before the start was {result['load_before']:.1f}."
    return "\n".join([*lines, "", load])


def main() -> None:
    """Make the sources and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        print(json.dumps(measure(json.loads(args.cell))))
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        make_sources(Path(folder), args.seed)
        cell = run_cell(__file__, folder)
    result = {**environment(args.seed), "load_before": load, "cell": cell}
    path = write("data", result)
    fill(ROOT / "docs" / "benchmarks.md", "data", table(result))
    print(table(result), f"\nWrote {path} and docs/benchmarks.md")


if __name__ == "__main__":
    main()
