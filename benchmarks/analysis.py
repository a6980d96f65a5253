"""Time of the assignment analysis: 500 images of 800 px with AI-TOD's density, with and without the sweep.

``python benchmarks/analysis.py`` writes ``benchmarks/results/analysis.json`` and fills the table of
``docs/benchmarks.md``. The targets: without the sweep under a minute on two cores, with it under five.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np

from benchmarks.common import ROOT, environment, fill, run_cell, write

IMAGES, SIZE, CLASSES = 500, 800, 8
OBJECTS = 25  # mean an image: AI-TOD holds 700,621 boxes in 28,036 images
TARGETS = {"analysis": 60, "analysis and sweep": 300}  # seconds


def make_set(folder: Path, seed: int) -> Path:
    """Write images with objects of 2 to 64 px; most hold few of them, some hundreds."""
    rng = np.random.default_rng(seed)
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    background = cv2.GaussianBlur(rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8), (0, 0), 2)
    for i in range(IMAGES):
        count = min(int(rng.lognormal(np.log(OBJECTS) - 0.72, 1.2)), 2000)  # the mean of this is OBJECTS
        sides = np.exp(rng.normal(np.log(12), 0.5, (count, 2))).clip(2, 64)
        centers = rng.uniform(sides / 2, SIZE - sides / 2)
        rows = np.concatenate([centers, sides], 1) / SIZE
        text = "".join(f"{rng.integers(CLASSES)} " + " ".join(f"{v:.6f}" for v in row) + "\n" for row in rows)
        (folder / "labels" / f"{i:04d}.txt").write_text(text)
        cv2.imwrite(str(folder / "images" / f"{i:04d}.png"), np.roll(background, 7 * i, (0, 1)))
    data = folder / "data.yaml"
    data.write_text(f"path: {folder}\ntrain: images\nval: images\nnames: {[f'class {c}' for c in range(CLASSES)]}\n")
    return data


def measure(data: str, sweep: bool) -> dict[str, Any]:
    """Analyse and write the page; the time of a user, imports included, is measured outside."""
    from rfla_yolo.analysis import analyze, write_page

    with tempfile.TemporaryDirectory() as folder:
        found = analyze(data, "yolov8s-p2.yaml", imgsz=SIZE, images=IMAGES, sweep=sweep)
        write_page(found, folder)
    sizes = found.result["assigners"]["rfla"]["plain"]["sizes"]["all"]
    return {"objects": sizes["objects"], "positives": sizes["positives"], "rows": len(found.result["sweep"])}


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = [f"{result['machine']['cores']} cores of {result['machine']['cpu']}, commit {result['commit'][:10]}.", ""]
    lines += ["| what | images | objects | rows of the sweep | time | target |", "|---|---|---|---|---|---|"]
    for cell in result["cells"]:
        target = f"{TARGETS[cell['what']]} s"
        counts = f"{IMAGES} | {cell['objects']:,} | {cell['rows']}"
        lines.append(f"| {cell['what']} | {counts} | {cell['seconds']:.0f} s | {target} |")
    load = result["load_before"]
    return "\n".join([*lines, "", f"The machine's load (processes ready to run) before the start was {load:.1f}."])


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        print(json.dumps(measure(*json.loads(args.cell))))
        return
    load = os.getloadavg()[0]
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        data = make_set(Path(folder), args.seed)
        for what, sweep in (("analysis", False), ("analysis and sweep", True)):
            start = time.perf_counter()
            measured = run_cell(__file__, [str(data), sweep])
            cells.append({"what": what, "seconds": time.perf_counter() - start, **measured})
            print(cells[-1], flush=True)
    result = {**environment(args.seed), "load_before": load, "cells": cells}
    path = write("analysis", result)
    fill(ROOT / "docs" / "benchmarks.md", "analysis", table(result))
    print(table(result), f"\nWrote {path} and docs/benchmarks.md")


if __name__ == "__main__":
    main()
