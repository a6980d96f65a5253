"""Time and peak memory of the assignment, and of a whole training step, with each assigner on the same boxes.

``python benchmarks/assignment.py`` prints a table, writes ``benchmarks/results/assignment-cpu.json`` (or ``-cuda``) and
fills the table of ``docs/benchmarks.md``; with ``--oriented`` that of oriented boxes against the same boxes upright.
Every cell runs in a process of its own under a memory cap, so that "out of memory" is a result. Ratios are between
cells of one run on one machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.common import ROOT, environment, fill, write

SIZE, STRIDES = 800, (4, 8, 16, 32)
GRID = [(SIZE // s, SIZE // s) for s in STRIDES]
PAPER_RF_SIZES = (11.5, 47.5, 119.5, 199.5)  # yolov8n-p2, half of its theoretical fields
CLASSES = 8
TITLES = {
    "rfla": "RFLA, default",
    "paper": "RFLA, `--preset paper`",
    "dense": "the same, dense, loops",
    "tal": "Ultralytics TAL",
}
FORMS = ("rfla", "paper")  # of TITLES, those of this package
ORIENTED = ("axis-aligned", "oriented")
OBJECTS = (50, 500, 2000, 2667)  # 2667: the fullest image of AI-TOD
MEMORY_CAP = 18 * 2**30  # bytes
TIME_CAP = 400  # seconds a cell


def make_boxes(batch: int, objects: int, seed: int, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random objects of AI-TOD's sizes, 2 to 64 px log-uniform: boxes, labels and mask as Ultralytics passes them."""
    generator = torch.Generator().manual_seed(seed)
    center = torch.rand(batch, objects, 2, generator=generator) * SIZE
    side = torch.exp(torch.empty(batch, objects, 2).uniform_(0.7, 4.2, generator=generator))
    boxes = torch.cat((center - side / 2, center + side / 2), -1).clamp(0, SIZE)
    labels = torch.randint(0, CLASSES, (batch, objects, 1), generator=generator).float()
    return boxes.to(device), labels.to(device), torch.ones(batch, objects, 1, device=device)


def configure(name: str) -> tuple[Any, list[float]]:
    """Return the settings of one of `FORMS`, and its receptive fields, px."""
    from rfla_yolo import RFLAConfig

    config = RFLAConfig() if name == "rfla" else RFLAConfig.take_from({"preset": "paper"})[0]
    return config, [s * config.scale for s in STRIDES] if name == "rfla" else list(PAPER_RF_SIZES)


def make_assigner(name: str) -> Any:
    """Return a function with the call of Ultralytics' assigner."""
    from ultralytics.utils.tal import TaskAlignedAssigner

    from rfla_yolo.engine import RFLAAssigner

    if name == "tal":
        tal = TaskAlignedAssigner(topk=10, num_classes=CLASSES, alpha=0.5, beta=6.0, stride=list(STRIDES))
        return lambda *args, **kwargs: tal(*args)
    if name != "dense":
        config, rf_sizes = configure(name)
        rfla = RFLAAssigner(CLASSES, STRIDES, rf_sizes, config)
        rfla.grid_shapes = GRID
        return lambda *args, **kwargs: rfla(*args)
    from tests.assign.oracle import dense_assign, reference_fields

    fields = reference_fields(GRID, STRIDES, PAPER_RF_SIZES)

    def dense(scores: Any, boxes: Any, points: Any, labels: Any, gt: torch.Tensor, mask: Any, **kwargs: Any) -> Any:
        assigned = torch.stack([dense_assign(image.cpu(), *fields) for image in gt]).to(gt.device)
        index = assigned.clamp(min=0)
        classes = labels.squeeze(-1).long().gather(1, index)
        targets = torch.zeros_like(scores).scatter_(2, classes.unsqueeze(-1), (assigned >= 0).float().unsqueeze(-1))
        return classes, gt.gather(1, index.unsqueeze(-1).expand(-1, -1, 4)), targets, assigned >= 0, index

    return dense


def assignment_cell(name: str, batch: int, objects: int, seed: int, device: str) -> Any:
    """Return the call to measure: one assignment."""
    assigner = make_assigner(name)
    anchors = sum(h * w for h, w in GRID)
    boxes, labels, mask = make_boxes(batch, objects, seed, device)
    generator = torch.Generator().manual_seed(seed)
    points = torch.cat([_points(h, w, s) for (h, w), s in zip(GRID, STRIDES)])
    side = torch.rand(batch, anchors, 2, generator=generator) * 16
    predicted = torch.cat((points - side, points + side), -1).to(device)
    scores = (torch.rand(batch, anchors, CLASSES, generator=generator) * 0.1).to(device)
    points = points.to(device)
    return lambda: assigner(scores, predicted, points, labels, boxes, mask)


def oriented_cell(oriented: bool, name: str, batch: int, objects: int, seed: int, device: str) -> Any:
    """Return the call to measure: one assignment by `rfla_assign`, of boxes at random angles or of the same upright."""
    from rfla_yolo import rfla_assign
    from rfla_yolo.assign.resolve import box_sides

    config, rf_sizes = configure(name)
    boxes, _, mask = make_boxes(batch, objects, seed, device)
    if oriented:
        angle = torch.rand(batch, objects, 1, generator=torch.Generator().manual_seed(seed)) * torch.pi
        boxes = torch.cat(((boxes[..., :2] + boxes[..., 2:]) / 2, box_sides(boxes), angle.to(device)), -1)
    options = {key: getattr(config, key) for key in ("topk", "topk_max", "decay", "distance", "conflict")}
    return lambda: rfla_assign(boxes, mask.squeeze(-1).bool(), GRID, STRIDES, rf_sizes, **options)


def step_cell(name: str, batch: int, objects: int, seed: int, device: str) -> Any:
    """Return the call to measure: forward, loss and backward of yolov8n-p2."""
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils.loss import v8DetectionLoss

    torch.manual_seed(seed)
    model = DetectionModel("yolov8n-p2.yaml", nc=CLASSES, verbose=False).to(device)
    model.args = get_cfg()
    model.criterion = v8DetectionLoss(model)
    model.criterion.assigner = make_assigner(name)
    boxes, labels, _ = make_boxes(batch, objects, seed, "cpu")
    boxes = boxes.view(-1, 4) / SIZE
    xywh = torch.cat(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), 1)
    images = torch.rand(batch, 3, SIZE, SIZE).to(device)
    index = torch.arange(batch).repeat_interleave(objects)
    data = {"img": images, "batch_idx": index, "cls": labels.view(-1, 1), "bboxes": xywh}

    def step() -> None:
        model.zero_grad()
        model(data)[0].sum().backward()

    return step


def measure(kind: str, name: str, batch: int, objects: int, seed: int, device: str) -> dict[str, float]:
    """Measure one cell in this process: median seconds and peak memory of the first call."""
    torch.set_num_threads(1)
    if kind in ORIENTED:
        call = oriented_cell(kind == "oriented", name, batch, objects, seed, device)
    else:
        call = (assignment_cell if kind == "assignment" else step_cell)(name, batch, objects, seed, device)
    cuda = device == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = _resident()

    def timed() -> float:
        clock = time.perf_counter if cuda else time.process_time  # of one thread, whatever else the machine does
        start = clock()
        call()
        if cuda:
            torch.cuda.synchronize()
        return clock() - start

    times = [timed()]
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    repeats = min(20, int(10 / times[0])) if times[0] < 30 else 0
    times = [timed() for _ in range(repeats)] or times  # the first call of a process is a warm-up
    return {"seconds": sorted(times)[len(times) // 2], "bytes": max(peak - before, 0), "calls": len(times)}


def run_cell(kind: str, name: str, batch: int, objects: int, seed: int, device: str) -> dict[str, Any]:
    """Run one cell in a process of its own."""
    cell = {"kind": kind, "assigner": name, "batch": batch, "objects": objects}
    command = [sys.executable, __file__, "--cell", json.dumps([kind, name, batch, objects, seed, device])]

    def limit() -> None:
        if device == "cpu":
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_CAP, MEMORY_CAP))

    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_CAP, preexec_fn=limit)
    except subprocess.TimeoutExpired:
        return {**cell, "failed": f"over {TIME_CAP} s"}
    if done.returncode == 0:
        return {**cell, **json.loads(done.stdout.splitlines()[-1])}
    if "memory" in done.stderr.lower() or done.returncode == -9:
        return {**cell, "failed": "out of memory"}
    raise RuntimeError(f"cell {cell} failed:\n{done.stderr}")


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    cells = {(c["kind"], c["assigner"], c["batch"], c["objects"]): c for c in result["cells"]}
    lines = [_describe(result)]
    for kind, title in (("assignment", "Assignment alone"), ("step", "Training step: forward, loss, backward")):
        shapes = sorted({(c["batch"], c["objects"]) for c in result["cells"] if c["kind"] == kind})
        lines += ["", f"**{title}**, {SIZE} px, P2-P5", ""]
        lines += ["| batch | objects an image | " + " | ".join(TITLES.values()) + " | TAL / default, time | memory |"]
        lines += ["|---" * (len(TITLES) + 4) + "|"]
        for shape in shapes:
            row = [cells.get((kind, name, *shape)) for name in TITLES]
            ratios = ["-", "-"]
            default, tal = row[0], row[-1]
            if default and tal and "failed" not in default and "failed" not in tal:
                ratios = [f"{tal[key] / default[key]:.3g}" for key in ("seconds", "bytes")]
            lines.append("| " + " | ".join(map(str, (*shape, *map(_show, row), *ratios))) + " |")
    return "\n".join([*lines, "", _load(result)])


def oriented_table(result: dict[str, Any]) -> str:
    """Return the result for oriented boxes as Markdown."""
    cells = {(c["kind"], c["assigner"], c["batch"], c["objects"]): c for c in result["cells"]}
    heads = [f"{TITLES[name]}, {kind}" for name in FORMS for kind in (*ORIENTED, "ratio of times")]
    lines = [f"{_describe(result)} `rfla_assign`, {SIZE} px, P2-P5.", ""]
    lines += ["| batch | objects an image | " + " | ".join(heads) + " |", "|---" * (len(heads) + 2) + "|"]
    for shape in sorted({(c["batch"], c["objects"]) for c in result["cells"]}):
        row = list(map(str, shape))
        for name in FORMS:
            pair = [cells[(kind, name, *shape)] for kind in ORIENTED]
            row += [*map(_show, pair), f"{pair[1]['seconds'] / pair[0]['seconds']:.2f}"]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join([*lines, "", _load(result)])


def main() -> None:
    """Run all cells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--oriented", action="store_true", help="oriented boxes against axis-aligned ones instead")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        print(json.dumps(measure(*json.loads(args.cell))))
        return
    step_batches = (1, 16) if args.device == "cuda" else (1,)  # 16 images of 800 px do not fit beside the cap on a CPU
    # the dense implementation loops over images: a batch of 16 takes 16 times as long
    todo = [
        ("assignment", name, b, n) for b in (1, 16) for n in OBJECTS for name in TITLES if b == 1 or name != "dense"
    ]
    todo += [("step", name, b, n) for b in step_batches for n in OBJECTS for name in TITLES]
    if args.oriented:
        todo = [(kind, name, b, n) for b in (1, 16) for n in OBJECTS for name in FORMS for kind in ORIENTED]
    load = os.getloadavg()[0]
    cells = []
    for cell in todo:
        cells.append(run_cell(*cell, args.seed, args.device))
        print(" ".join(map(str, cell)), _show(cells[-1]), flush=True)
    result = {**environment(args.seed), "load_before": load}
    result |= {"device": args.device, "memory_cap": MEMORY_CAP, "cells": cells}
    name = f"assignment-{'oriented-' * args.oriented}{args.device}"
    text = (oriented_table if args.oriented else table)(result)
    path = write(name, result)
    fill(ROOT / "docs" / "benchmarks.md", name, text)
    print(text, f"\nWrote {path} and docs/benchmarks.md")


def _describe(result: dict[str, Any]) -> str:
    """Return where and how the figures were taken."""
    cuda, versions = result["device"] == "cuda", result["versions"]
    device = result["machine"]["gpu"] if cuda else f"one core of {result['machine']['cpu']}"
    cap = "" if cuda else f", at most {MEMORY_CAP // 2**30} GB a process"
    clock = "Time" if cuda else "Processor time of one thread"
    made = f"ultralytics {versions['ultralytics']}, torch {versions['torch']}, commit {result['commit'][:10]}"
    return f"{device}{cap}; {made}. {clock} and peak memory over the inputs."


def _load(result: dict[str, Any]) -> str:
    return f"The machine's load (processes ready to run) before the start was {result['load_before']:.1f}."


def _show(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "-"
    if "failed" in cell:
        return cell["failed"]
    seconds, size = cell["seconds"], cell["bytes"]
    return (
        f"{1e3 * seconds:.3g} ms, {size / 2**20:.3g} MB" if seconds < 1 else f"{seconds:.3g} s, {size / 2**20:.4g} MB"
    )


def _points(rows: int, columns: int, stride: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    return torch.stack((x, y), -1).view(-1, 2) * stride


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
