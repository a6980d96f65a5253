"""Memory and time of predictions on large scenes, beside SAHI.

``python benchmarks/predict.py`` writes ``benchmarks/results/predict.json`` and fills the table of ``docs/predict.md``.
Memory is measured with a stand-in for the model, so that it is ours and not the network's; time with yolov8n-p2 on one
core. Each cell runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from rfla_yolo.scenes import Detections
from rfla_yolo.scenes import run as scenes_run
from rfla_yolo.scenes.run import Tiling, run_scenes

SMALL, LARGE = 5000, 30_000  # px of the sides of the scenes
LAYOUTS: dict[str, dict[str, Any]] = {
    "tiled": {"tiled": True, "blockxsize": 512, "blockysize": 512},
    "striped": {"blockysize": 16},
}
TILE, OVERLAP = 640, 64
OBJECTS = 40  # on a tile, of the stand-in
MODEL = "yolov8n-p2.yaml"
CONF = 0.75  # some hundred boxes a tile from the untrained network
SHARE = 1e-5  # of the anchors of two tiles of noise whose scores are above 0.5
SPREAD = 0.15  # of the untrained network's last weights: two to three times as many boxes from half of CONF as from it
TARGETS = {"memory": 1.10, "share": 0.05}


def write_scene(path: Path, side: int, layout: str, filled: float) -> None:
    """Write a scene of noise, the share ``filled`` of its blocks; the others take no room in the file."""
    import rasterio

    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "width": side, "height": side, **LAYOUTS[layout]}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.3, 0, 5e5, 0, -0.3, 5e6)}
    with rasterio.open(path, "w", SPARSE_OK=True, BIGTIFF="YES", interleave="pixel", **profile, **place) as file:
        for _, window in file.block_windows(1):
            if rng.random() < filled:
                file.write(rng.integers(256, size=(3, window.height, window.width), dtype=np.uint8), window=window)


def stand_in(tiles: list[np.ndarray]) -> list[Detections]:
    """Return boxes anywhere on each tile, of the size of small vehicles."""
    found = []
    for tile in tiles:
        rng = np.random.default_rng(int(tile[::64, ::64].sum()))
        corner = rng.uniform(0, TILE - 20, (OBJECTS, 2))
        bbox = np.concatenate([corner, corner + rng.uniform(6, 20, (OBJECTS, 2))], 1)
        found.append(Detections.of(bbox, rng.random(OBJECTS), rng.integers(2, size=OBJECTS)))
    return found


def untrained(
    path: Path | None = None, images: np.ndarray | None = None, share: float = 0.001, spread: float = 0.05
) -> Any:
    """Return a yolov8n-p2 that was not trained but whose scores differ from place to place, and save it.

    Args:
        path: File for the checkpoint.
        images: RGB (B, H, W, 3) of uint8 that it is made for; noise by default.
        share: Share of the anchors in them whose score is above 0.5.
        spread: Standard deviation of the weights that scores are made by: the larger, the fewer are about 0.5.
    """
    import torch

    from rfla_yolo import RFLAYOLO

    torch.manual_seed(0)
    network = RFLAYOLO(MODEL).model
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # one batch sets the statistics
    if images is None:
        images = np.random.default_rng(0).integers(256, size=(2, 320, 320, 3), dtype=np.uint8)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    for layer in network.model[-1].cv3:
        torch.nn.init.normal_(layer[-1].weight, std=spread)
        torch.nn.init.zeros_(layer[-1].bias)
    with torch.no_grad():
        network.train()(batch)
        scores = network.eval()(batch)[1]["scores"].amax(1)
        for layer in network.model[-1].cv3:
            layer[-1].bias -= torch.quantile(scores, 1 - share)
    if path:
        torch.save({"model": network, "train_args": {"imgsz": TILE, "task": "detect"}, "epoch": -1}, path)
    return network


def peak() -> int:
    """Return the most memory that this process has held, bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def apart(prepare: Callable[[], None]) -> None:
    """Call in a process of its own: what prepares is no part of the process whose peak is taken."""
    pid = os.fork()
    if pid == 0:
        failed = 1
        try:
            prepare()
            failed = 0
        finally:
            os._exit(failed)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("the preparation has failed, see above")


def measure_memory(layout: str, side: int, folder: Path) -> dict[str, Any]:
    """Predict with the stand-in, and return peak memory and time."""
    path = folder / "scene.tif"
    apart(partial(write_scene, path, side, layout, 0.02))
    before, start, cpu = peak(), time.perf_counter(), time.process_time()
    tiling = Tiling(TILE, OVERLAP)
    tally = run_scenes([path], stand_in, folder / "out", tiling, {0: "a", 1: "b"}, {"weights": "stand-in"})
    return {
        "peak": peak(),
        "imports": before,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "tiles": tally.done,
        "objects": tally.objects.total(),
    }


def timed(function: Any, spent: list[float]) -> Any:
    """Return the function, and let the CPU time of its calls be added up."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        start = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[0] += time.thread_time() - start

    return wrapped


def measure_time(tool: str, folder: Path) -> dict[str, Any]:
    """Predict the small scene with yolov8n-p2 on one core: CPU time of all and of the network, peak memory."""
    weights, path = folder / "best.pt", folder / "scene.tif"

    def prepare() -> None:
        noise = np.random.default_rng(1).integers(256, size=(2, TILE, TILE, 3), dtype=np.uint8)
        untrained(weights, noise, SHARE, SPREAD)
        write_scene(path, SMALL, "tiled", 1.0)
        write_scene(folder / "warm.tif", TILE, "tiled", 1.0)

    apart(prepare)
    import torch
    from ultralytics.utils import nms as suppression

    torch.set_num_threads(1)
    spent, page, suppressing = [0.0], [0.0], [0.0]
    if tool == "SAHI":
        run, network = prepare_sahi(weights, path)
    else:
        run, network = prepare_ours(weights, path, folder / "out")
    network.forward = timed(network.forward, spent)
    suppression.non_max_suppression = timed(suppression.non_max_suppression, suppressing)
    scenes_run.write_page = timed(scenes_run.write_page, page)
    start, cpu = time.perf_counter(), time.process_time()
    objects = run()
    total = time.process_time() - cpu
    return {
        "peak": peak(),
        "seconds": time.perf_counter() - start,
        "cpu_seconds": total,
        "network_cpu_seconds": spent[0],
        "suppression_cpu_seconds": suppressing[0],
        "page_cpu_seconds": page[0],
        "share": 1 - spent[0] / (total - page[0]),
        "share_without_suppression": 1 - (spent[0] + suppressing[0]) / (total - page[0]),
        "objects": objects,
    }


def prepare_ours(weights: Path, path: Path, out: Path) -> tuple[Any, Any]:
    """Return a function that predicts with this package, and the network that it calls."""
    from rfla_yolo.engine.predict import TileDetector

    detector = TileDetector(weights, device="cpu", conf=CONF)

    def run(path: Path, out: Path) -> int:
        tiling = Tiling(TILE, OVERLAP, conf=detector.conf.tolist())
        tally = run_scenes([path], detector, out, tiling, detector.names, {"weights": "x"})
        return tally.objects.total()

    run(path.with_name("warm.tif"), out.with_name("warm"))  # imports, GDAL and PROJ: once a process
    return partial(run, path, out), detector._backend


def prepare_sahi(weights: Path, path: Path) -> tuple[Any, Any]:
    """Return a function that predicts with SAHI as it comes, on the same tiles, and the network that it calls."""
    from sahi import AutoDetectionModel
    from sahi.predict import get_sliced_prediction

    model = AutoDetectionModel.from_pretrained(
        model_type="ultralytics", model_path=str(weights), confidence_threshold=CONF, device="cpu", image_size=TILE
    )

    def run() -> int:
        share = OVERLAP / TILE
        found = get_sliced_prediction(
            str(path), model, TILE, TILE, overlap_height_ratio=share, overlap_width_ratio=share, verbose=0
        )
        return len(found.object_prediction_list)

    model.model.predict(
        np.zeros((64, 64, 3), dtype=np.uint8), imgsz=64, verbose=False
    )  # imports, and builds what it calls
    return run, model.model.predictor.model


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    cells = {tuple(cell["cell"]): cell for cell in result["cells"]}
    lines = [f"One core of {result['machine']['cpu']}, commit {result['commit'][:10]}.", ""]
    lines += [
        f"| peak memory, stand-in for the model | {SMALL:,} px | {LARGE:,} px | | target |",
        "|---|---|---|---|---|",
    ]
    for layout in LAYOUTS:
        small, large = cells["memory", layout, SMALL], cells["memory", layout, LARGE]
        sizes = (
            f"{small['peak'] / 1e6:.0f} MB | {large['peak'] / 1e6:.0f} MB | {large['peak'] / small['peak']:.2f} times"
        )
        lines.append(f"| {layout}, {large['objects']:,} objects in the large one | {sizes} | {TARGETS['memory']:.2f} |")
    ours, sahi = cells["time", "rfla-yolo"], cells["time", "SAHI"]
    lines += ["", f"| yolov8n-p2, {SMALL:,} px, tiles of {TILE} px | rfla-yolo | SAHI |", "|---|---|---|"]
    rows = [("CPU time", "cpu_seconds", "{:.1f} s", 1), ("of it the network", "network_cpu_seconds", "{:.1f} s", 1)]
    rows += [("of it suppression on the tiles", "suppression_cpu_seconds", "{:.2f} s", 1)]
    rows += [("of it the page, once a run", "page_cpu_seconds", "{:.1f} s", 1)]
    rows += [("not the network, without the page (target: 5 %)", "share", "{:.1f} %", 100)]
    rows += [("neither network nor suppression, without the page", "share_without_suppression", "{:.1f} %", 100)]
    rows += [("peak memory", "peak", "{:.0f} MB", 1e-6)]
    rows += [("objects", "objects", "{:,.0f}", 1)]
    for title, key, form, factor in rows:
        lines.append(f"| {title} | {form.format(ours[key] * factor)} | {form.format(sahi[key] * factor)} |")
    load = f"The machine's load (processes ready to run) before the start was {result['load_before']:.1f}."
    return "\n".join([*lines, "", load])


def main() -> None:
    """Run all cells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        what, *cell = json.loads(args.cell)
        with tempfile.TemporaryDirectory() as folder:
            measure = {"memory": measure_memory, "time": measure_time}[what]
            print(json.dumps(measure(*cell, Path(folder))))
        return
    from benchmarks.common import ROOT, environment, fill, run_cell, write  # brings torch, which the cells go without

    load, cells = os.getloadavg()[0], []
    wanted = [["memory", layout, side] for layout in LAYOUTS for side in (SMALL, LARGE)]
    for cell in [*wanted, ["time", "rfla-yolo"], ["time", "SAHI"]]:
        cells.append({"cell": cell} | run_cell(__file__, cell))
        print(cells[-1], flush=True)
    result = {**environment(0), "load_before": load, "cells": cells}
    path = write("predict", result)
    fill(ROOT / "docs" / "predict.md", "predict", table(result))
    print(table(result), f"\nWrote {path} and docs/predict.md")


if __name__ == "__main__":
    main()
