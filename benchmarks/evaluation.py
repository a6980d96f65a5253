"""Time and memory of the evaluation against pycocotools, on dense images and on an imitation of AI-TOD's test set.

``python benchmarks/evaluation.py`` needs ``pip install pycocotools``; it writes ``benchmarks/results/evaluation.json``
and fills the table of ``docs/benchmarks.md``. Every cell runs in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.common import ROOT, environment, fill, run_cell, write

CASES = {  # images, objects, detections in all, classes
    "dense": (3, 7_800, 9_000, 8),
    "one class": (2_000, 80_000, 120_000, 1),
    "AI-TOD test imitated": (14_018, 375_000, 1_500_000, 8),
}
TOOLS = {  # name: (title, cases)
    "figures": ("rfla-yolo, AP and AR", ("dense", "AI-TOD test imitated")),
    "details": ("rfla-yolo, everything", ("dense", "AI-TOD test imitated")),
    "pycocotools": ("pycocotools, AP and AR", ("dense",)),
    "compare": ("rfla-yolo, comparison of two models", ("one class", "AI-TOD test imitated")),
    "resample": ("rfla-yolo, 2000 resamples of two models", ("one class", "AI-TOD test imitated")),
}
RESAMPLES = 2000
TARGETS = {"seconds": 20 * 60, "peak_bytes": 8 * 2**30}  # of the resamples


def make_case(name: str, seed: int, model: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects of 2 to 64 px in images of 800 px, half of the detections near an object, the rest anywhere."""
    images, objects, detections, classes = CASES[name]
    rng = np.random.default_rng(seed)
    place = rng.integers(images, size=objects)
    label = rng.integers(classes, size=objects)
    sides = np.exp(rng.uniform(0.7, 4.2, (objects, 2))).round(1)
    corner = (rng.random((objects, 2)) * (800 - sides)).round(1)
    rng = np.random.default_rng([seed, model]) if model else rng  # another model finds others of the same objects
    source = rng.integers(objects, size=detections)
    real = rng.random(detections) < 0.5
    wobble = sides[source] * rng.normal(0, 0.12, (detections, 2))
    found = np.where(real[:, None], corner[source] + wobble, rng.random((detections, 2)) * 750).round(2)
    score = np.where(real, rng.beta(4, 2, detections), rng.beta(1, 4, detections))
    where = np.where(real, place[source], rng.integers(images, size=detections))
    gt = {
        "images": [{"id": i + 1, "file_name": f"{i:06d}.png"} for i in range(images)],
        "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(classes)],
        "annotations": [
            {"id": i + 1, "image_id": int(p) + 1, "category_id": int(k) + 1, "bbox": [*c, *s], "area": s[0] * s[1]}
            for i, (p, k, c, s) in enumerate(zip(place, label, corner.tolist(), sides.tolist()))
        ],
    }
    for annotation in gt["annotations"]:
        annotation["iscrowd"] = 0
    kinds = label[source] + 1
    rows = zip(where.tolist(), kinds.tolist(), found.tolist(), sides[source].tolist(), score.tolist())
    return gt, [{"image_id": i + 1, "category_id": k, "bbox": [*c, *s], "score": v} for i, k, c, s, v in rows]


def write_case(case: str, seed: int, folder: str) -> dict[str, Any]:
    """Write ground truth and the detections of two models."""
    for model in range(2):
        gt, dt = make_case(case, seed, model)
        Path(folder, "gt.json").write_text(json.dumps(gt))
        Path(folder, f"dt{model}.json").write_text(json.dumps(dt))
    return {}


def measure_pair(tool: str, folder: str) -> dict[str, Any]:
    """Read, match and compare two files of detections in this process, or resample them."""
    from rfla_yolo import compare
    from rfla_yolo.evaluation.inputs import load_inputs
    from rfla_yolo.evaluation.matching import match
    from rfla_yolo.evaluation.resampling import resample

    truth, *found = (Path(folder, name) for name in ("gt.json", "dt0.json", "dt1.json"))
    start = time.perf_counter()
    if tool == "compare":
        ap = compare(*found, truth)["AP"].first
    else:
        sides = [match(load_inputs(truth, file)) for file in found]
        images = sides[0].num_images
        draws = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), size=RESAMPLES).T
        ap, _ = (float(resample(side, np.arange(images), draws)["AP"].mean()) for side in sides)
    seconds, cpu = time.perf_counter() - start, time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak, "AP": ap}


def measure(tool: str, case: str, seed: int, folder: str | None = None) -> dict[str, Any]:
    """Run one tool in this process; the data is in memory already, as in a validation."""
    if folder:
        return write_case(case, seed, folder) if tool == "write" else measure_pair(tool, folder)
    gt, dt = make_case(case, seed)
    import faster_coco_eval  # noqa: F401  imports are no part of either tool's time
    from pycocotools.cocoeval import COCOeval  # noqa: F401

    from rfla_yolo import evaluate

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    ap = _pycocotools(gt, dt) if tool == "pycocotools" else evaluate(gt, dt, details=tool == "details")["AP"]
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "peak_bytes": peak, "added_bytes": peak - before, "AP": ap}


def _pycocotools(gt: dict[str, Any], dt: list[dict[str, Any]]) -> float:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from rfla_yolo.evaluation.matching import AITOD_AREAS, IOU_THRESHOLDS, MAX_DETS

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = gt
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(dt), "bbox")
        run.params.maxDets = list(MAX_DETS)
        run.params.iouThrs = IOU_THRESHOLDS
        run.params.areaRng = [list(area) for area in AITOD_AREAS.values()]
        run.params.areaRngLbl = list(AITOD_AREAS)
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][1:, :, :, 0, -1]
    return float(precision[precision > -1].mean())


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = [f"{result['machine']['cores']} cores of {result['machine']['cpu']}, commit {result['commit'][:10]}.", ""]
    lines += ["| case | images / objects / detections | tool | time | peak memory | AP |", "|---|---|---|---|---|---|"]
    for cell in result["cells"]:
        sizes = " / ".join(f"{n:,}" for n in CASES[cell["case"]][:3])
        memory = f"{cell['peak_bytes'] / 2**30:.2f} GB"
        title = TOOLS[cell["tool"]][0]
        lines.append(f"| {cell['case']} | {sizes} | {title} | {cell['seconds']:.3g} s | {memory} | {cell['AP']:.10f} |")
    dense = {c["tool"]: c["seconds"] for c in result["cells"] if c["case"] == "dense"}
    ratio = dense["pycocotools"] / dense["figures"]
    lines += ["", f"On the dense case {ratio:.3g} times faster than pycocotools for the same figures."]
    limits = f"{TARGETS['seconds'] / 60:.0f} minutes and {TARGETS['peak_bytes'] / 2**30:.0f} GB"
    lines += [
        f"Comparison and resamples read two files of detections; the resamples' target is {limits}. The AP beside "
        "them is the first model's, of the resamples their mean.",
        f"The machine's load (processes ready to run) before the start was {result['load_before']:.1f}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run all cells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        print(json.dumps(measure(*json.loads(args.cell))))
        return
    load, cells = os.getloadavg()[0], []
    for tool, (_, cases) in TOOLS.items():
        for case in cases:
            with tempfile.TemporaryDirectory() as folder:
                cell = [tool, case, args.seed]
                if tool in ("compare", "resample"):
                    run_cell(__file__, ["write", case, args.seed, folder])
                    cell.append(folder)
                cells.append({"tool": tool, "case": case, **run_cell(__file__, cell)})
            print(cells[-1], flush=True)
    result = {**environment(args.seed), "load_before": load, "cells": cells}
    path = write("evaluation", result)
    fill(ROOT / "docs" / "benchmarks.md", "evaluation", table(result))
    print(table(result), f"\nWrote {path} and docs/benchmarks.md")


if __name__ == "__main__":
    main()
