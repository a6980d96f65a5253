"""Detections on tiles, merged, against one pass over the same picture: a trained YOLO, and a simulation; speed too.

``python benchmarks/seams.py`` trains a model of benchmarks/accuracy.py where that has not been done (or takes
``--weights``), lays validation images of hituav-half side by side to pictures that fit in one pass, and detects with
and without tiles. Tiles begin at multiples of 32 px, so the network sees the same grid. It fills the tables of
docs/predict.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import torch
from torchvision.ops import batched_nms

from benchmarks import accuracy
from benchmarks.common import ROOT, environment, fill, write
from rfla_yolo import evaluate
from rfla_yolo.engine.predict import merged_from
from rfla_yolo.pairs import near_pairs
from rfla_yolo.scenes import MARGIN, Detections, SeamMerger, Window, merge, tile_rows
from rfla_yolo.scenes.detections import concatenate

CONF = 0.25  # of the detections that are counted
LOWEST = 0.01  # of those that AP is taken of; lower ones would meet the limits of Ultralytics' suppression
COLUMNS, ROWS, WIDTH, HEIGHT = 10, 10, 320, 256  # of a picture, in images, and of an image, px
MODEL = {"protocol": "short", "split": "choose", "model": "yolov8n-p234-reg8", "arm": "bins-0.75-4.5", "seed": 0}
DEPTHS = (0, 16, 32, 64, 128, 256, np.inf)  # px from the next inner border of a tile
FACTORS = (1.0, 0.8, 0.5, 0.2, 0.1)  # of CONF: where merging may begin
TILES = ((640, 96), (640, 256), (320, 96))  # side and overlap, px: steps are multiples of 32
Merge = Callable[[Sequence[Window], Sequence[Detections]], Detections]


def by_core(windows: Sequence[Window], found: Sequence[Detections]) -> Detections:
    """Keep what has its centre in the core of its tile: up to the middle of each overlap."""
    edges = {}
    for axis in (0, 1):
        spans = sorted({(w[axis], w[axis] + w[axis + 2]) for w in windows})
        middles = [(end + start) / 2 for (_, end), (start, _) in pairwise(spans)]
        edges[axis] = dict(zip(spans, zip([-np.inf, *middles], [*middles, np.inf])))
    kept = []
    for w, part in zip(windows, found):
        inside = np.ones(len(part), dtype=bool)
        for axis in (0, 1):
            low, high = edges[axis][w[axis], w[axis] + w[axis + 2]]
            centre = (part.bbox[:, axis] + part.bbox[:, axis + 2]) / 2
            inside &= (centre >= low) & (centre < high)
        kept.append(part.take(inside))
    return concatenate(kept)


def by_suppression(windows: Sequence[Window], found: Sequence[Detections]) -> Detections:
    """Non-maximum suppression by class at IoU 0.5."""
    every = concatenate(found)
    kept = batched_nms(*(torch.from_numpy(a) for a in (every.bbox, every.score, every.label)), 0.5)
    return every.take(kept.numpy())


def by_sahi(windows: Sequence[Window], found: Sequence[Detections]) -> Detections:
    """SAHI's default: greedy non-maximum merging by class at an intersection over the smaller area of 0.5."""
    from sahi.postprocess.combine import GreedyNMMPostprocess
    from sahi.prediction import ObjectPrediction

    every = concatenate(found)
    rows = zip(every.bbox.tolist(), every.score.tolist(), every.label.tolist())
    things = [ObjectPrediction(bbox=box, score=score, category_id=label) for box, score, label in rows]
    if not things:
        return every
    merged = GreedyNMMPostprocess(match_threshold=0.5, match_metric="IOS", class_agnostic=False)(things)
    return Detections.of(
        [thing.bbox.to_xyxy() for thing in merged],
        [thing.score.value for thing in merged],
        [thing.category.id for thing in merged],
    )


METHODS: dict[str, Merge] = {
    "this package": merge,
    "owned by the tile's core": by_core,
    "suppression at IoU 0.5": by_suppression,
    "SAHI's default": by_sahi,
}


def train(work: Path) -> Path:
    """Train the model where ``work`` does not hold it, as benchmarks/accuracy.py does, and return its checkpoint."""
    name = "-".join(str(MODEL[part]) for part in ("protocol", "split", "model", "arm", "seed"))
    checkpoint = work / name / "train" / "weights" / "last.pt"
    if not checkpoint.is_file():
        options = argparse.Namespace(device="cpu", workers=0, work=work, bfloat16=True)
        accuracy.run(work / f"{name}.json", options=options, **MODEL)
    return checkpoint


def pictures(number: int, seed: int) -> list[tuple[np.ndarray, Detections]]:
    """Lay validation images side by side, in random order; return pictures and their objects."""
    root = accuracy.data_root("hituav-half")
    files = sorted((root / "images" / "val").glob("*.jpg"))
    order = np.random.default_rng(seed).permutation(len(files))
    made = []
    for start in range(0, number * COLUMNS * ROWS, COLUMNS * ROWS):
        picture = np.zeros((ROWS * HEIGHT, COLUMNS * WIDTH, 3), dtype=np.uint8)
        objects = []
        for place, file in enumerate(files[i] for i in order[start : start + COLUMNS * ROWS]):
            left, top = place % COLUMNS * WIDTH, place // COLUMNS * HEIGHT
            picture[top : top + HEIGHT, left : left + WIDTH] = cv2.imread(str(file))
            label = root / "labels" / "val" / f"{file.stem}.txt"
            rows = (
                np.array(label.read_text().split(), dtype=float).reshape(-1, 5) if label.is_file() else np.zeros((0, 5))
            )
            centre, sides = rows[:, 1:3] * (WIDTH, HEIGHT), rows[:, 3:] * (WIDTH, HEIGHT)
            boxes = np.concatenate([centre - sides / 2, centre + sides / 2], axis=1)
            objects.append(Detections.of(boxes, np.ones(len(rows)), rows[:, 0]).shift(left, top))
        made.append((picture, concatenate(objects)))
    return made


def detect(yolo: Any, images: list[np.ndarray]) -> list[Detections]:
    """Detect on images of one size, batch by batch."""
    found: list[Detections] = []
    for start in range(0, len(images), 16):
        results = yolo.predict(
            images[start : start + 16],
            imgsz=images[0].shape[:2],
            conf=LOWEST,
            max_det=30_000,
            device="cpu",
            verbose=False,
            save=False,
        )
        for boxes in (result.boxes.cpu().numpy() for result in results):
            found.append(Detections.of(boxes.xyxy, boxes.conf, boxes.cls))
    return found


def above(found: Detections, conf: float) -> Detections:
    """Keep the scores of ``conf`` or more."""
    return found.take(found.score >= conf)


def at_conf(method: Merge, windows: Sequence[Window], found: Sequence[Detections], begin: float) -> Detections:
    """Merge what has a score of ``begin`` or more, and keep what has `CONF` or more."""
    return above(method(windows, [above(part, begin) for part in found]), CONF)


def xywh(found: Detections) -> np.ndarray:
    """Return the boxes as COCO has them."""
    return np.concatenate([found.bbox[:, :2], found.bbox[:, 2:] - found.bbox[:, :2]], axis=1)


def paired(one: Detections, two: Detections, least: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Match by class, one to one, largest IoU first, and return the pairs."""
    none = np.zeros(len(two), dtype=bool)
    i, j, iou = near_pairs(xywh(one), one.label, xywh(two), two.label, none, least)
    taken: tuple[set[int], set[int]] = set(), set()
    pairs = []
    for a, b in zip(*(column[np.argsort(-iou, kind="stable")].tolist() for column in (i, j))):
        if a not in taken[0] and b not in taken[1]:
            taken[0].add(a)
            taken[1].add(b)
            pairs.append((a, b))
    first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return first, second


def counts(untiled: Detections, merged: Detections) -> dict[str, int]:
    """Count what one of the two has at `CONF` and the other does not: not at all, or with a lower score."""
    i, j = paired(untiled, merged)
    here, there = untiled.score >= CONF, merged.score >= CONF
    one = int((here[i] != there[j]).sum())
    return {
        "untiled": int(here.sum()),
        "lost": int(here.sum() - here[i].sum()),
        "added": int(there.sum() - there[j].sum()),
        "above_in_one": one,
    }


def by_depth(
    untiled: Sequence[Detections], windows: Sequence[Window], found: Sequence[Sequence[Detections]]
) -> list[dict[str, Any]]:
    """Compare scores on tiles with those of one pass, of objects that a tile has whole, by the distance to its border.

    Whatever is merged and how, it can do no better than the scores that tiles give.
    """
    size = np.array([COLUMNS * WIDTH, ROWS * HEIGHT])
    depths, one, other = [], [], []
    for whole, on_tiles in zip(untiled, found):
        for w, part in zip(windows, on_tiles):
            edges = np.array([w.left, w.top, w.left + w.width, w.top + w.height])
            inner = np.concatenate([edges[:2] > 0, edges[2:] < size])
            gaps = np.where(inner, (whole.bbox - edges) * [1, 1, -1, -1], np.inf).min(1)
            inside = np.flatnonzero((gaps > MARGIN) & (whole.score >= CONF))
            i, j = paired(whole.take(inside), part)
            score = np.zeros(len(inside))
            score[i] = part.score[j]
            depths.append(gaps[inside])
            one.append(whole.score[inside])
            other.append(score)
    gap, here, there = (np.concatenate(column) for column in (depths, one, other))
    rows = []
    for low, high in pairwise(DEPTHS):
        of = (gap >= low) & (gap < high)
        rows.append(
            {
                "from": low,
                "objects": int(of.sum()),
                "difference": float(np.abs(here - there)[of].mean()),
                "below": float((there < CONF)[of].mean()),
            }
        )
    return rows


def average_precision(pictures: Sequence[Any], found: Sequence[Detections]) -> float:
    """Return AP in percent."""
    images = [{"id": k, "file_name": f"{k}.png"} for k in range(len(pictures))]
    truth = [
        {"image_id": k, "category_id": label, "bbox": box, "id": 0}
        for k, (_, objects) in enumerate(pictures)
        for box, label in zip(xywh(objects).tolist(), objects.label.tolist())
    ]
    coco = {
        "images": images,
        "annotations": [{**a, "id": i} for i, a in enumerate(truth, start=1)],
        "categories": [{"id": k, "name": str(k)} for k in range(4)],
    }
    rows = [
        {"image_id": k, "category_id": label, "bbox": box, "score": score}
        for k, part in enumerate(found)
        for box, label, score in zip(xywh(part).tolist(), part.label.tolist(), part.score.tolist())
    ]
    return 100 * float(evaluate(coco, rows).metrics["AP"])


def measure_model(weights: Path, number: int) -> dict[str, Any]:
    """Detect on pictures with and without tiles, and compare what each method makes of the tiles."""
    from rfla_yolo import RFLAYOLO

    yolo = RFLAYOLO(weights)
    made = pictures(number, seed=0)
    untiled = [detect(yolo, [picture])[0] for picture, _ in made]
    whole = average_precision(made, untiled)
    cases: list[dict[str, Any]] = []
    factors: list[dict[str, Any]] = []
    depths: list[dict[str, Any]] = []
    for size, overlap in TILES:
        windows = [w for row in tile_rows(COLUMNS * WIDTH, ROWS * HEIGHT, size, overlap) for w in row]
        assert not any(w.left % 32 or w.top % 32 for w in windows)
        found = []
        for picture, _ in made:
            crops = [picture[w.top : w.top + w.height, w.left : w.left + w.width] for w in windows]
            found.append([part.shift(w.left, w.top) for w, part in zip(windows, detect(yolo, crops))])
        for name, method in METHODS.items():
            merged = [method(windows, on_tiles) for on_tiles in found]
            begin = float(merged_from(CONF)) if method is merge else CONF  # as the tools do
            as_command = [at_conf(method, windows, on_tiles, begin) for on_tiles in found]
            cases.append(
                {
                    "size": size,
                    "overlap": overlap,
                    "method": name,
                    **_sum([counts(*pair) for pair in zip(untiled, merged)]),
                    "at_conf": _sum([counts(above(one, CONF), two) for one, two in zip(untiled, as_command)]),
                    "AP": average_precision(made, merged),
                }
            )
            print(cases[-1], flush=True)
        if size == TILES[0][0] and overlap == TILES[0][1]:
            depths = by_depth(untiled, windows, found)
            print(*depths, sep="\n", flush=True)
        for factor in FACTORS if overlap == TILES[0][1] else ():
            merged = [at_conf(merge, windows, on_tiles, factor * CONF) for on_tiles in found]
            boxes = sum(len(above(part, factor * CONF)) for on_tiles in found for part in on_tiles)
            parts = [counts(above(one, CONF), two) for one, two in zip(untiled, merged)]
            factors.append({"size": size, "factor": factor, "boxes_on_tiles": boxes, **_sum(parts)})
            print(factors[-1], flush=True)
    return {
        "by_depth": depths,
        "factors": factors,
        "pictures": number,
        "objects": sum(len(o) for _, o in made),
        "AP": whole,
        "cases": cases,
    }


def _sum(parts: Sequence[dict[str, int]]) -> dict[str, int]:
    return {name: sum(part[name] for part in parts) for name in parts[0]}


def simulated(rng: np.random.Generator, side: int, number: int, size: int, overlap: int) -> tuple[Detections, Any, Any]:
    """Draw objects of 8 to 60 px, half of them beside another, and what is found on tiles: 30 % visible, 0.5 px off."""
    sides = rng.uniform(8, 60, (number, 2))
    centre = rng.uniform(0, side, (number, 2))
    beside = rng.integers(0, number, number)
    label = rng.integers(0, 4, number)
    covers = rng.random(number) < 0.5
    centre[covers] = (centre[beside] + rng.uniform(-0.5, 0.5, (number, 2)) * sides[beside])[covers]
    label[covers] = label[beside][covers]
    scene = Detections.of(
        np.concatenate([centre - sides / 2, centre + sides / 2], axis=1).clip(0, side),
        rng.uniform(0.3, 1, number),
        label,
    )
    scene = scene.take((scene.bbox[:, 2:] - scene.bbox[:, :2] > 2).all(1))
    area = (scene.bbox[:, 2:] - scene.bbox[:, :2]).prod(1)
    windows, found = [], []
    for row in tile_rows(side, side, size, overlap):
        top, bottom = row[0].top, row[0].top + row[0].height
        near = np.flatnonzero((scene.bbox[:, 3] > top) & (scene.bbox[:, 1] < bottom))
        for w in row:
            low, high = (w.left, w.top) * 2, (w.left + w.width, w.top + w.height) * 2
            part = scene.bbox[near].clip(low, high)
            share = (part[:, 2:] - part[:, :2]).prod(1) / area[near]
            seen = np.flatnonzero(share >= 0.3)
            boxes = (part[seen] + rng.normal(0, 0.5, (len(seen), 4))).clip(low, high)
            pieces = np.where(share[seen] < 1, rng.uniform(0.3, 1.1, len(seen)), 1)
            windows.append(w)
            found.append(Detections.of(boxes, scene.score[near[seen]] * pieces, scene.label[near[seen]]))
    return scene, windows, found


def measure_simulation() -> list[dict[str, Any]]:
    """Count what each method loses and doubles of 16,630 objects that cover each other."""
    scene, windows, found = simulated(np.random.default_rng(0), 10_000, 16_630, 640, 64)
    cases = []
    for name, method in METHODS.items():
        merged = method(windows, found)
        pairs = len(paired(scene, merged)[0])
        cases.append(
            {"method": name, "objects": len(scene), "lost": len(scene) - pairs, "doubled": len(merged) - pairs}
        )
        print(cases[-1], flush=True)
    return cases


def measure_speed() -> dict[str, Any]:
    """Merge a million detections at once, and row by row."""
    side = 32_000
    _, windows, found = simulated(np.random.default_rng(0), side, 775_000, 640, 64)
    start = time.process_time()
    kept = len(merge(windows, found))
    once = time.process_time() - start
    rows = tile_rows(side, side, 640, 64)
    parts = iter(found)
    start = time.process_time()
    merger = SeamMerger(rows)
    by_row = sum(len(merger.add_row([next(parts) for _ in row])) for row in rows)
    assert by_row == kept
    result = {"detections": sum(map(len, found)), "tiles": len(windows), "kept": kept, "once_s": round(once, 1)}
    return {**result, "rows_s": round(time.process_time() - start, 1)}


def tables(content: dict[str, Any]) -> str:
    """Return the tables of docs/predict.md."""
    model, speed = content["model"], content["speed"]
    lines = [
        f"{model['pictures']} pictures of {COLUMNS * WIDTH} x {ROWS * HEIGHT} px with {model['objects']} objects; "
        f"AP in one pass {model['AP']:.2f}. {content['machine']['cpu']}, commit {content['commit'][:10]}.",
        "",
        f"| tiles | merged by | lost | added | of {model['cases'][0]['untiled']} | above {CONF} in one of the two | "
        f"AP | above {CONF} after merging: missing | in addition |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in model["cases"]:
        share = 100 * (case["lost"] + case["added"]) / case["untiled"]
        high = case["at_conf"]
        lines.append(
            f"| {case['size']} px, overlap {case['overlap']} | {case['method']} | {case['lost']} | {case['added']} | "
            f"{share:.2f} % | {case['above_in_one']} | {case['AP'] - model['AP']:+.2f} | "
            f"{high['lost']} | {high['added']} |"
        )
    titles = "| tiles | merged from | boxes on the tiles | missing | in addition | sum |"
    lines += ["", "Where merging by this package begins:", "", titles, "|---|---|---|---|---|---|"]
    for case in model["factors"]:
        numbers = (case["boxes_on_tiles"], case["lost"], case["added"], case["lost"] + case["added"])
        lines.append(f"| {case['size']} px | {case['factor'] * CONF:.3g} | {' | '.join(map(str, numbers))} |")
    size, overlap = TILES[0]
    lines += [
        "",
        f"One pass against tiles of {size} px that overlap by {overlap}, of objects above {CONF} whole on a tile:",
    ]
    lines += [
        "",
        f"| px to the border of the tile | objects | mean difference of score | below {CONF} on the tile |",
        "|---|---|---|---|",
    ]
    for (low, high), case in zip(pairwise(DEPTHS), model["by_depth"]):
        numbers = f"{case['objects']} | {case['difference']:.4f} | {100 * case['below']:.2f} %"
        lines.append(f"| {low} to {high} | {numbers} |" if high < np.inf else f"| {low} and more | {numbers} |")
    lines += ["", "Simulated:", "", "| merged by | objects | lost | doubled |", "|---|---|---|---|"]
    lines += [f"| {c['method']} | {c['objects']} | {c['lost']} | {c['doubled']} |" for c in content["simulation"]]
    lines += [
        "",
        f"{speed['detections']:,} detections on {speed['tiles']:,} tiles were merged in {speed['once_s']} s at once, "
        f"and in {speed['rows_s']} s row by row (of one core).",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, write ``benchmarks/results/seams.json`` and fill the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="a checkpoint; that of MODEL where not given")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "accuracy", help="folder of the training")
    parser.add_argument("--pictures", type=int, default=5, help="of 100 images each; there are 5 [5]")
    options = parser.parse_args()
    torch.set_num_threads(1)
    content = {**environment(0), "trained": MODEL, "simulation": measure_simulation(), "speed": measure_speed()}
    weights = options.weights or train(options.work.resolve())
    content["model"] = measure_model(weights, options.pictures)
    print(write("seams", content))
    fill(ROOT / "docs" / "predict.md", "seams", tables(content))


if __name__ == "__main__":
    main()
