"""Every family and task of Ultralytics under RFLA: trained, validated, loaded elsewhere and exported, or refused.

``python benchmarks/models.py`` writes ``benchmarks/results/models.json`` and fills the tables of ``docs/models.md``.
Each model, of its smallest scale, is a process of its own on a generated set; those that the file has already are left
as they are. ``--again`` runs all anew, ``--models yolo26n,yolov8n-seg`` these.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
from torch import Tensor, nn

from benchmarks.common import RESULTS, ROOT, environment, fill, run_cell, write

SIZE, IMAGES = 128, {"train": 8, "val": 4}  # px
SIDES = (3, 4, 6, 8, 12, 16, 24, 40, 64, 110)  # px, for every level up to P6
VERSIONS = "yolov3-tiny yolov3 yolov5n yolov5n-p6 yolov6n yolov8n yolov8n-p2 yolov8n-p6 yolov8n-ghost yolov8n-ghost-p2 "
VERSIONS += "yolov8n-ghost-p6 yolov9t yolov10n yolo11n yolo12n yolo26n yolo26n-p2 yolo26n-p6"
TASKS = {"seg": "segment", "pose": "pose", "obb": "obb"}  # by the end of a model's name
MODELS = [*VERSIONS.split(), *(f"{version}n-{end}" for end in TASKS for version in ("yolov8", "yolo11", "yolo26"))]
REFUSED = ["yolov8s-world", "yolov8s-worldv2", "rtdetr-l", "yoloe-11s", "yoloe-26s", "yoloe-11s-seg", "yolov8n-cls"]
OPTIONS = {"imgsz": SIZE, "epochs": 1, "batch": 4, "device": "cpu", "plots": False, "workers": 0, "verbose": False}
OPTIONS |= {"optimizer": "SGD", "warmup_epochs": 0, "mosaic": 0.0, "scale": 0.1, "seed": 0}


def task_of(model: str) -> str:
    """Return the task of a model by its name."""
    return next((task for end, task in TASKS.items() if model.endswith(f"-{end}")), "detect")


def make_set(folder: Path, task: str) -> Path:
    """Write images with objects of all `SIDES`, labelled for a task, and return the dataset's YAML."""
    rng = np.random.default_rng(0)
    for split, count in IMAGES.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(60, 100, (SIZE, SIZE, 3), dtype=np.uint8)
            lines = []
            for side in reversed(SIDES):  # the smaller ones on top
                angle = rng.uniform(0, np.pi) if task in {"segment", "obb"} else 0.0
                half = side / 2 * np.array([[-1, -0.6], [1, -0.6], [1, 0.6], [-1, 0.6]])
                turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
                center = np.full(2, SIZE / 2) if side > SIZE / 2 else rng.uniform(side, SIZE - side, 2)
                corners = (center + half @ turn.T).clip(0, SIZE)
                cv2.fillPoly(image, [corners.round().astype(np.int32)], rng.integers(120, 256, 3).tolist())
                low, high = corners.min(0), corners.max(0)
                numbers = [(low + high) / 2, high - low]
                if task == "pose":
                    numbers += [part for point in (low, high, center) for part in (point, [2 * SIZE])]
                numbers = [corners] if task in {"segment", "obb"} else numbers
                flat = np.concatenate([np.ravel(part) for part in numbers]) / SIZE
                lines.append(" ".join(["0", *(f"{value:.6f}" for value in flat)]) + "\n")
            cv2.imwrite(str(folder / "images" / split / f"{i}.png"), image)
            (folder / "labels" / split / f"{i}.txt").write_text("".join(lines))
    data = folder / "data.yaml"
    data.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: [thing]\nkpt_shape: [3, 3]\n")
    return data


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Do everything with one model; what goes wrong is said in the row."""
    from rfla_yolo import RFLAYOLO
    from rfla_yolo.engine.loss import has_one_to_one

    data = make_set(folder, task_of(name))
    try:
        model = RFLAYOLO(f"{name}.yaml")
    except ValueError as error:
        return {"refused": str(error)}
    head, gradients = model.model.model[-1], {}
    row: dict[str, Any] = {"task": model.task, "head": type(head).__name__, "reg_max": int(head.reg_max)}
    row |= {"one_to_one": has_one_to_one(model.model), "strides": [int(stride) for stride in model.model.stride]}
    model.add_callback("on_train_start", lambda trainer: watch(trainer.model, gradients))
    try:
        # at every size, as TAL gives a level work only where the predictions say so; with bins that are alike in all
        model.train(data=str(data), project=str(folder), name="run", tal_from=None, dfl_range=None, **OPTIONS)
    except (ValueError, NotImplementedError) as error:
        return {"refused": str(error)}
    with (folder / "run" / "results.csv").open() as file:
        figures = {key.strip(): float(value) for key, value in next(csv.DictReader(file)).items()}
    losses = {key: value for key, value in figures.items() if key.endswith("_loss")}
    row["finite"] = all(math.isfinite(value) for value in losses.values())
    row["silent"] = sorted(part for part, largest in gradients.items() if not largest > 0)
    row["parts"] = len(gradients)
    row |= {key: figures.get(f"assign/{key}") for key in ("positives", "missed", "missed_one2one")}
    weights = folder / "run" / "weights" / "best.pt"
    quick = {"imgsz": SIZE, "device": "cpu", "workers": 0, "plots": False, "verbose": False, "project": str(folder)}
    branches = (None, False) if row["one_to_one"] else (None,)
    row["validated"] = attempt(validated, RFLAYOLO, weights, data, quick)
    row["plain"] = [attempt(in_plain_ultralytics, weights, data, {**quick, "nms": nms}) for nms in branches]
    row["onnx"] = [attempt(in_onnx, weights, folder, nms) for nms in branches]
    return row


def watch(model: nn.Module, gradients: dict[str, float]) -> None:
    """Keep the largest gradient of every branch and level of the head, and of the first layer."""
    layers: Any = model.model
    head = layers[-1]
    parts: dict[str, nn.Module] = {"backbone": layers[0]}
    for name, child in head.named_children():
        levels = isinstance(child, nn.ModuleList) and len(child) == head.nl
        parts |= {f"{name}.{i}": level for i, level in enumerate(child)} if levels else {name: child}
    for name, part in parts.items():
        for parameter in part.parameters():
            if parameter.requires_grad:
                gradients.setdefault(name, 0.0)
                parameter.register_post_accumulate_grad_hook(lambda p, name=name: keep_largest(gradients, name, p))


def keep_largest(gradients: dict[str, float], name: str, parameter: Tensor) -> None:
    """Keep the gradient of a parameter where it is larger than before; one that is no number counts as none."""
    largest = float(parameter.grad.abs().max()) if parameter.grad is not None else 0.0
    gradients[name] = max(gradients[name], largest) if math.isfinite(largest) else -math.inf


def attempt(step: Callable[..., str], *args: Any) -> str:
    """Return what a step says, or how it failed."""
    try:
        return step(*args)
    except Exception as error:
        return f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def validated(yolo: Any, weights: Path, data: Path, options: dict[str, Any]) -> str:
    """Validate a checkpoint, both branches where it has two and none is named."""
    yolo(weights).val(data=str(data), **options)
    return "yes"


def in_plain_ultralytics(weights: Path, data: Path, options: dict[str, Any]) -> str:
    """Validate a checkpoint by Ultralytics where no module of this package can be imported."""
    from ultralytics import YOLO

    with mock.patch.dict(sys.modules, {name: None for name in sys.modules if name.partition(".")[0] == "rfla_yolo"}):
        return validated(YOLO, weights, data, options)


def in_onnx(weights: Path, folder: Path, nms: bool | None) -> str:
    """Export a checkpoint, and return what its comparison with torch says."""
    from rfla_yolo.engine import export_model

    with said() as lines:
        export_model(weights, folder / "images" / "val" / "0.png", format="onnx", imgsz=SIZE, nms=nms)
    return next(line for line in lines if "torch:" in line)


@contextlib.contextmanager
def said() -> Iterator[list[str]]:
    """Collect what Ultralytics' logger says."""
    lines: list[str] = []
    with mock.patch("ultralytics.utils.LOGGER.info", lambda text, *_: lines.append(str(text))):
        yield lines


def tables(rows: dict[str, dict[str, Any]]) -> tuple[str, str]:
    """Return what was trained, and what was refused, as Markdown."""
    head = ["model", "head", "levels", "distances", "one epoch", "gradient", "positives per object"]
    head += ["without a one-to-one positive", "validated", "plain Ultralytics", "ONNX"]
    trained = [head, ["---"] * len(head)]
    refused = [["model", "message"], ["---", "---"]]
    for name, row in rows.items():
        if "refused" in row:
            refused.append([name, f"`{row['refused']}`"])
            continue
        silent = f"none on {', '.join(row['silent'])}" if row["silent"] else f"on all {row['parts']} parts"
        both = ", two branches" * row["one_to_one"]
        cells = [name, row["head"] + both, " ".join(f"P{int(math.log2(stride))}" for stride in row["strides"])]
        cells += ["signed" if row["reg_max"] == 1 else f"0 to {row['reg_max'] - 1} strides"]
        cells += ["losses finite" if row["finite"] else "loss not finite", silent, f"{row['positives']:.1f}"]
        cells.append(f"{100 * row['missed_one2one']:.1f} %" if row["one_to_one"] else "")
        trained.append([*cells, row["validated"], *("; ".join(dict.fromkeys(row[key])) for key in ("plain", "onnx"))])
    return markdown(trained), markdown(refused)


def markdown(rows: list[list[str]]) -> str:
    """Return rows as Markdown."""
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows)


def main() -> None:
    """Run what is asked for, or what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", help="names, with commas between; these are run again")
    parser.add_argument("--again", action="store_true", help="run all again")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(json.loads(args.cell), Path(folder))))
        return
    names = [*MODELS, *REFUSED]
    chosen = args.models.split(",") if args.models else names
    if unknown := set(chosen) - set(names):
        parser.error(f"--models must be of {', '.join(names)}, not {', '.join(sorted(unknown))}")
    path = RESULTS / "models.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else {}
    for name in chosen:
        if name in rows and not (args.again or args.models):
            continue
        start, base = time.perf_counter(), environment(0)
        row = run_cell(__file__, name)
        rows[name] = {**row, "seconds": round(time.perf_counter() - start, 1), "commit": base["commit"]}
        rows = {known: rows[known] for known in names if known in rows}
        write("models", {**base, "rows": rows})
        print(name, rows[name], flush=True)
    for block, text in zip(("models", "refused"), tables(rows)):
        fill(ROOT / "docs" / "models.md", block, text)


if __name__ == "__main__":
    main()
