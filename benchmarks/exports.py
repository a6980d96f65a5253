"""What exported files compute beside their checkpoint, each run by its own runtime.

``python benchmarks/exports.py --work FOLDER`` trains the demo's model and yolo26n-p2 on the demo set (or takes them
from the folder), exports them, and writes ``benchmarks/results/exports.json`` and the tables of ``docs/export.md``: the
largest difference of a box at objects of 4, 8 and 16 px, and AP by size of file and checkpoint. A format whose packages
are missing is left out, and said so.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from ultralytics import YOLO
from ultralytics.data.utils import check_det_dataset
from ultralytics.nn.autobackend import AutoBackend

from benchmarks.common import ROOT, environment, fill, write
from rfla_yolo import RFLAYOLO
from rfla_yolo.cli.train import DEMO
from rfla_yolo.engine.data import check_dataset
from rfla_yolo.engine.export import export_model, inputs, pair_boxes
from rfla_yolo.engine.formats import safely
from rfla_yolo.evaluation import TABLE, percent

MODELS = ("yolov8n-p2", "yolo26n-p2")
SIZES = {4: (3, 6), 8: (6, 12), 16: (12, 24)}  # px of an object: sides counted for it
SCORE = 0.05  # lowest score of a box whose difference counts
IMAGES = 20  # whose boxes are compared; AP is that of all
RUNTIMES = {"torchscript": "torch", "onnx": "onnxruntime", "openvino": "openvino", "mnn": "MNN", "ncnn": "ncnn"}
INSTALL = {"torchscript": "-", "onnx": "`[export]`"}
IMGSZ = DEMO["imgsz"]


def trained(model: str, work: Path) -> Path:
    """Train on the demo set, unless the folder has it."""
    weights = work / model / "weights" / "best.pt"
    if not weights.is_file():
        options = {**DEMO, "model": f"{model}.yaml", "name": model, "project": str(work), "exist_ok": True}
        RFLAYOLO(options.pop("model")).train(**options)
    return weights


def boxes_of(model: AutoBackend, pixels: torch.Tensor) -> torch.Tensor:
    """Return all boxes of a model on an image, rows of four coordinates, best score and its class."""
    with torch.no_grad():
        out = model(pixels)
    out = (out if isinstance(out, torch.Tensor) else out[0])[0]
    if model.end2end:
        return out
    score, label = out[4:].max(0)
    return torch.cat((out[:4].T, score[:, None], label[:, None]), 1)


def differences(weights: Path, file: str | Path, images: list[Path], one_to_one: bool, stock: bool) -> dict[str, float]:
    """Return the largest difference of a box by size of the object, px; ``stock``: by Ultralytics' own runner."""
    largest = dict.fromkeys(map(str, SIZES), 0.0)
    with nullcontext() if stock else safely(None):
        ours = AutoBackend(str(file), verbose=False)
    theirs = AutoBackend(str(weights), end2end=one_to_one, verbose=False, channels_last=False)
    theirs.backend.model.model[-1].max_det = 3000
    for image in images:
        (pixels,) = inputs(image, (IMGSZ, IMGSZ))
        expected, exported = boxes_of(theirs, pixels), boxes_of(ours, pixels)
        if one_to_one:
            rows, places = pair_boxes(expected, exported)
            expected, exported = expected[rows], exported[places]
            side = (expected[:, 2:4] - expected[:, :2]).clamp(min=0).prod(1).sqrt()
        else:
            side = expected[:, 2:4].clamp(min=0).prod(1).sqrt()
        gap = (expected - exported)[:, :4].abs().amax(1)
        for size, (low, high) in SIZES.items():
            counted = gap[(side >= low) & (side < high) & (expected[:, 4] >= SCORE)]
            largest[str(size)] = max(largest[str(size)], float(counted.max()) if len(counted) else 0.0)
    return largest


def accuracy(model: str | Path, nms: bool | None, work: Path) -> dict[str, float | None]:
    """Return AP by size."""
    options = {"data": DEMO["data"], "imgsz": IMGSZ, "rect": False, "plots": False, "verbose": False, "device": "cpu"}
    found = RFLAYOLO(model).val(**options, nms=nms, project=str(work), name="val", exist_ok=True).evaluation
    return {name: found[name] for name in TABLE}


def measure(work: Path) -> list[dict[str, Any]]:
    """Return a cell for each model, branch and format."""
    images = sorted(Path(check_det_dataset(check_dataset(DEMO["data"], "val"))["val"]).glob("*.png"))[:IMAGES]
    cells = []
    for model in MODELS:
        weights = trained(model, work)
        for one_to_one in (False, True) if model.startswith("yolo26") else (False,):
            nms = False if one_to_one else None
            cells.append({"model": model, "one_to_one": one_to_one, "format": "pt"})
            cells[-1]["figures"] = accuracy(weights, nms, work)
            for name, runtime in RUNTIMES.items():
                if one_to_one and name == "ncnn":
                    continue
                cell: dict[str, Any] = {"model": model, "one_to_one": one_to_one, "format": name}
                cells.append(cell)
                copy = shutil.copy(weights, work / f"{model}-{'one2one' if one_to_one else 'raw'}.pt")
                try:
                    cell["version"] = metadata.version(runtime)
                    file = export_model(copy, images[0], format=name, imgsz=IMGSZ, nms=nms)
                except (ModuleNotFoundError, metadata.PackageNotFoundError) as error:
                    cell["left_out"] = str(error)
                    continue
                cell["px"] = differences(weights, file, images, one_to_one, stock=False)
                cell["figures"] = accuracy(file, nms, work)
                if name == "openvino":
                    cell["stock_runner"] = differences(weights, file, images, one_to_one, stock=True)
                    plain = YOLO(copy).export(format=name, imgsz=IMGSZ, nms=nms, max_det=3000)
                    cell["stock_file"] = differences(weights, plain, images, one_to_one, stock=True)
    return cells


def table(cells: list[dict[str, Any]]) -> str:
    """Return the tables."""
    sizes = " | ".join(f"{size} px" for size in SIZES)
    lines = [f"| model, branch | format | version | install | {sizes} | " + " | ".join(TABLE) + " |"]
    lines.append("|---" * (4 + len(SIZES) + len(TABLE)) + "|")
    bf16 = [f"| model, branch | file and program | {sizes} |", "|---" * (2 + len(SIZES)) + "|"]
    for cell in cells:
        branch = ", one-to-one" if cell["one_to_one"] else ", one-to-many" if "26" in cell["model"] else ""
        head = [cell["model"] + branch, cell["format"]]
        if "left_out" in cell:
            lines.append(
                f"| {' | '.join(head)} | left out: {cell['left_out']} |" + " |" * (1 + len(SIZES) + len(TABLE))
            )
            continue
        name = cell["format"]
        install = "-" if name == "pt" else INSTALL.get(name, f"`[{name}]`")
        figures = [percent(cell["figures"][key]) for key in TABLE]
        lines.append(f"| {' | '.join([*head, cell.get('version', '-'), install, *_px(cell.get('px')), *figures])} |")
        if name == "openvino":
            for key, text in (("px", "ours, float32 asked for"), ("stock_runner", "ours, nothing asked for")):
                bf16.append(f"| {' | '.join([head[0], text, *_px(cell[key])])} |")
            bf16.append(f"| {' | '.join([head[0], 'Ultralytics, nothing asked for', *_px(cell['stock_file'])])} |")
    return "\n".join([*lines, "", "OpenVINO, by who asks for float32:", "", *bf16])


def _px(found: dict[str, float] | None) -> list[str]:
    return [f"{value:.0e}" if value < 0.01 else f"{value:.2f}" for value in found.values()] if found else ["-"] * 3


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the trained models and of all files")
    work = parser.parse_args().work.resolve()
    cells = measure(work)
    content = {"environment": environment(seed=0), "images": IMAGES, "score": SCORE, "cells": cells}
    path = write("exports", content)
    machine = content["environment"]["machine"]
    flags = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    bfloat = "with" if "avx512_bf16" in flags or "amx_bf16" in flags else "without"
    text = f"{machine['cpu']}, {bfloat} bfloat16, commit {content['environment']['commit'][:10]}.\n\n{table(cells)}"
    fill(ROOT / "docs" / "export.md", "exports", text)
    print(f"Wrote {path}")


if __name__ == "__main__":
    main()
