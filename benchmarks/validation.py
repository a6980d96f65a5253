"""What a validation in training costs beside Ultralytics' own: CPU time, and memory for each detection.

``python benchmarks/validation.py`` writes ``benchmarks/results/validation.json`` and fills the table of
``docs/benchmarks.md``. A stand-in for the model returns made boxes, so that everything but the network is measured:
loading, suppression, matching and figures. Each cell runs in a process of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import torch
from ultralytics.data.utils import check_det_dataset
from ultralytics.models.yolo.detect import DetectionValidator

from benchmarks.common import ROOT, environment, fill, run_cell, write
from rfla_yolo.engine.validator import RFLAValidator

CLASSES, BATCH = 8, 16
SIDE = 320  # px of an image
OBJECTS, AROUND, ANYWHERE = 50, 20, 5000  # an image: objects, boxes around each, boxes anywhere
TIMED, LARGE = 32, 1000  # images whose time and whose memory is taken
EPOCHS = 3
TARGETS = {"time": 1.15, "bytes": 300}  # of Ultralytics' CPU time; a detection
VALIDATORS = {"ours": RFLAValidator, "stock": DetectionValidator}
TITLES = {"ours": "rfla-yolo", "stock": "Ultralytics"}


class MadePredictions(torch.nn.Module):
    """Stands in for the network: boxes around the objects and anywhere, made beforehand for a batch."""

    names = {k: f"class {k}" for k in range(CLASSES)}  # noqa: RUF012  Ultralytics' name for a model's classes

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.made = torch.from_numpy(np.stack([raw_predictions(rng) for _ in range(BATCH)]))

    def forward(self, images: torch.Tensor, augment: bool = False) -> torch.Tensor:
        """Return raw predictions, (B, 4 + classes, boxes)."""
        return self.made[: len(images)].clone()

    def loss(self, batch: Any, preds: Any) -> tuple[None, dict[str, torch.Tensor]]:
        """Return no loss."""
        return None, {}


def raw_predictions(rng: np.random.Generator) -> np.ndarray:
    """Return what a model says of one image, boxes as xywh from the centre and scores, (4 + classes, boxes)."""
    boxes, label = objects(np.random.default_rng(0))
    count = OBJECTS * AROUND + ANYWHERE
    near = np.repeat(boxes, AROUND, 0) + rng.normal(0, 1.5, (OBJECTS * AROUND, 4))
    far = np.concatenate((rng.random((ANYWHERE, 2)) * SIDE, np.exp(rng.uniform(1, 3.5, (ANYWHERE, 2)))), 1)
    prediction = np.zeros((4 + CLASSES, count), dtype=np.float32)
    prediction[:4] = np.concatenate((near, far)).clip(1, SIDE).T
    kind = np.concatenate((np.repeat(label, AROUND), rng.integers(CLASSES, size=ANYWHERE)))
    score = np.concatenate((rng.beta(4, 2, OBJECTS * AROUND), rng.beta(1, 8, ANYWHERE)))
    prediction[4 + kind, np.arange(count)] = score.clip(0.0011, None)
    return prediction


def objects(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes of an image, xywh from the centre, px, and their classes."""
    sides = np.exp(rng.uniform(1, 3.5, (OBJECTS, 2)))
    return np.concatenate((rng.uniform(20, SIDE - 20, (OBJECTS, 2)), sides), 1), rng.integers(CLASSES, size=OBJECTS)


def make_set(root: Path, images: int) -> Path:
    """Write gray images and their labels, and return the YAML."""
    picture = cv2.imencode(".png", np.full((SIDE, SIDE, 3), 90, np.uint8))[1].tobytes()
    boxes, label = objects(np.random.default_rng(0))
    rows = "".join(f"{k} {' '.join(f'{v:.6f}' for v in box / SIDE)}\n" for k, box in zip(label, boxes))
    for kind in ("images", "labels"):
        (root / kind / "val").mkdir(parents=True)
    for i in range(images):
        (root / "images" / "val" / f"{i:04d}.png").write_bytes(picture)
        (root / "labels" / "val" / f"{i:04d}.txt").write_text(rows)
    names = [f"class {k}" for k in range(CLASSES)]
    (root / "set.yaml").write_text(f"path: {root}\ntrain: images/val\nval: images/val\nnames: {names}\n")
    return root / "set.yaml"


def prepare(kind: str, root: Path, images: int, max_det: int, seed: int) -> Any:
    """Return a function that validates as a trainer does, and what it is to be asked."""
    data = make_set(root, images)
    arguments = {"data": str(data), "imgsz": SIDE, "max_det": max_det, "plots": False, "batch": BATCH, "workers": 0}
    validator = VALIDATORS[kind](args=arguments, save_dir=root)
    validator.device, validator.stride = torch.device("cpu"), 32
    validator.data = check_det_dataset(str(data))
    validator.dataloader = validator.get_dataloader(validator.data["val"], BATCH)
    trainer = SimpleNamespace(
        ema=SimpleNamespace(ema=MadePredictions(seed)),
        device=validator.device,
        data=validator.data,
        amp=False,
        loss_items={},
        label_loss_items=lambda *_, **__: {},
        stopper=SimpleNamespace(possible_stop=False),
        epoch=0,
        epochs=9,
        world_size=1,
    )
    return lambda: validator(trainer)


def measure(kind: str, what: str, max_det: int, seed: int) -> dict[str, Any]:
    """Validate in this process: the least CPU time of some epochs, or the memory of one; all but the network."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        prepare(kind, Path(folder, "warm"), BATCH, max_det, seed)()
        if what == "time":
            validate, seconds = prepare(kind, Path(folder, "set"), TIMED, max_det, seed), []
            for _ in range(EPOCHS):
                start = time.process_time()
                metrics = validate()
                seconds.append(time.process_time() - start)
            return {"seconds": min(seconds), "mAP50": metrics["metrics/mAP50(B)"]}
        validate = prepare(kind, Path(folder, "set"), LARGE, max_det, seed)
        gc.collect()
        before, resident = _peak(), _resident()
        validate()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what the C library holds for later is not kept
        detections = LARGE * max_det
        return {"peak": (_peak() - before) / detections, "kept": (_resident() - resident) / detections}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    cells = {(c["kind"], c["what"], c["max_det"]): c for c in result["cells"]}
    lines = [f"one core of {result['machine']['cpu']}, commit {result['commit'][:10]}.", ""]
    lines += ["| | Ultralytics | rfla-yolo | | target |", "|---|---|---|---|---|"]
    for max_det in (3000, 300):
        stock, ours = (cells[kind, "time", max_det]["seconds"] for kind in ("stock", "ours"))
        title = f"CPU time, {TIMED} images of {max_det} detections"
        lines.append(f"| {title} | {stock:.3g} s | {ours:.3g} s | {ours / stock:.2f} times | {TARGETS['time']} |")
    rows = [
        ("held", "peak", "peak memory a detection, freed blocks given back at once", TARGETS["bytes"]),
        ("memory", "peak", "the same with the C library's holes", "-"),
        ("memory", "kept", "memory a detection that stays", 0),
    ]
    for what, key, title, target in rows:
        stock, ours = (cells[kind, what, 3000][key] for kind in ("stock", "ours"))
        lines.append(f"| {title}, {LARGE} images of 3000 | {stock:.0f} bytes | {ours:.0f} bytes | | {target} |")
    load = f"The machine's load (processes ready to run) before the start was {result['load_before']:.1f}."
    return "\n".join([*lines, "", load])


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
    for what, max_det in (("time", 3000), ("time", 300), ("memory", 3000), ("held", 3000)):
        for kind in VALIDATORS:
            if what == "held":  # blocks of 64 kB and more, so that holes in the heap do not count
                os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 16)
            cell = {"kind": kind, "what": what, "max_det": max_det}
            cells.append(cell | run_cell(__file__, [kind, what, max_det, args.seed]))
            print(cells[-1], flush=True)
    result = {**environment(args.seed), "load_before": load, "cells": cells}
    path = write("validation", result)
    fill(ROOT / "docs" / "benchmarks.md", "validation", table(result))
    print(table(result), f"\nWrote {path} and docs/benchmarks.md")


if __name__ == "__main__":
    main()
