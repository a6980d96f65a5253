"""Big images to overlapping tiles, and detections on tiles back to whole images."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .checks import read_labels
from .sources import image_size
from .writer import (
    REPORT,
    Record,
    claim_folder,
    clean,
    coco_annotations,
    label_text,
    new_counts,
    progress,
    write_bytes,
    write_text,
    write_yaml,
)

TILES = "tiles.json"  # where each tile comes from
Corner = tuple[int, int, int, int]


def tile_dataset(
    splits: Mapping[str, Sequence[tuple[Path, Path]]],
    names: Sequence[str],
    out: str | Path,
    *,
    size: int = 800,
    overlap: int = 200,
    visible: float = 0.3,
    empty: float = 0.1,
    seed: int = 0,
) -> dict[str, Any]:
    """Cut the images of a dataset into overlapping tiles, with their labels.

    SAHI places the tiles; the last of an axis is moved back to the border. Boxes are cut here: SAHI rounds areas to
    whole px^2 before it compares them, which decides wrongly about tiny objects.

    Args:
        splits: Images and their label files by split.
        names: Class names.
        out: Folder to write to.
        size: Side of a tile, px.
        overlap: Overlap of neighbouring tiles, px.
        visible: Objects cut at a border are kept where at least this share of their area is inside.
        empty: Tiles without objects to keep for each tile with some, in training; other splits keep all.
        seed: Seed that draws them.

    Returns:
        The report, as written to ``conversion_report.json``.

    Raises:
        ValueError: If a setting is out of its range, an image cannot be read, or ``out`` holds something else.
        ImportError: If SAHI is not installed.
    """
    if type(size) is not int or size < 1:
        raise ValueError(f"size must be a whole number of px from 1, not {size!r}")
    if type(overlap) is not int or not 0 <= overlap < size:
        raise ValueError(f"overlap must be in px, from 0 to below size ({size}), not {overlap!r}")
    if not 0 <= visible <= 1 or not empty >= 0:
        raise ValueError(f"visible must be in 0 to 1 and empty at least 0, not {visible!r} and {empty!r}")
    sources = {split: str(pairs[0][0].parent) for split, pairs in splits.items() if pairs}
    settings = {"size": size, "overlap": overlap, "visible": visible, "empty": empty, "seed": seed}
    root = claim_folder(Path(out), {"command": "tile", **sources, **settings})
    report: dict[str, Any] = {"source": "tile", **settings, "splits": {}}
    places: dict[str, dict[str, Any]] = {}
    for split, pairs in splits.items():
        keep = empty if split == "train" else float("inf")
        report["splits"][split], places[split] = _tile_split(
            root, split, pairs, names, size, overlap, visible, keep, seed
        )
    write_text(root / TILES, json.dumps(places))
    write_yaml(root / "data.yaml", root, {split: f"images/{split}" for split in splits}, names)
    write_text(root / REPORT, json.dumps(report, indent=1) + "\n")
    return report


def merge_tiles(
    predictions: str | Path | list[dict[str, Any]], tiles: str | Path, split: str = "val", iou: float = 0.5
) -> list[dict[str, Any]]:
    """Move detections on tiles to the whole images, and drop those found twice.

    Args:
        predictions: COCO detections on the tiles, as validation on the tiled set writes them.
        tiles: Folder of the tiled set.
        split: Their split.
        iou: Of two detections of a class that overlap more, the weaker is dropped (non-maximum suppression).

    Returns:
        COCO detections for ``annotations/{split}_whole.json`` of the tiled set.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a detection names a tile that is not there.
    """
    import torch
    from torchvision.ops import batched_nms

    root = Path(tiles)
    for file in (root / TILES, root / "annotations" / f"{split}.json"):
        if not file.is_file():
            raise FileNotFoundError(f"tiles: no such file: {file}")
    places = json.loads((root / TILES).read_text(encoding="utf-8"))[split]
    images = json.loads((root / "annotations" / f"{split}.json").read_text(encoding="utf-8"))["images"]
    name_of = {image["id"]: image["file_name"] for image in images}
    found = predictions if isinstance(predictions, list) else json.loads(Path(predictions).read_text(encoding="utf-8"))
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for detection in found:
        name = name_of.get(detection["image_id"], detection["image_id"])
        if name not in places:
            raise ValueError(f"predictions: image_id {detection['image_id']!r} is no tile of {split} in {root}")
        x, y, w, h = detection["bbox"]
        left, top = places[name]["corner"][:2]
        whole = places[name]["image_id"]
        by_image[whole].append({**detection, "image_id": whole, "bbox": [x + left, y + top, w, h]})
    merged = []
    for whole in sorted(by_image):
        candidates = by_image[whole]
        boxes = torch.tensor([d["bbox"] for d in candidates], dtype=torch.float64)
        boxes[:, 2:] += boxes[:, :2]
        scores = torch.tensor([d["score"] for d in candidates], dtype=torch.float64)
        classes = torch.tensor([d["category_id"] for d in candidates])
        merged += [candidates[i] for i in batched_nms(boxes, scores, classes, iou).tolist()]
    return merged


def _tile_split(
    root: Path,
    split: str,
    pairs: Sequence[tuple[Path, Path]],
    names: Sequence[str],
    size: int,
    overlap: int,
    visible: float,
    empty: float,
    seed: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        from sahi.slicing import get_slice_bboxes
    except ImportError as error:
        raise ImportError(f"tile needs SAHI: pip install 'rfla-yolo[data]' ({error})") from None
    for kind in ("images", "labels"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    whole_counts = new_counts(names)
    whole_images: list[dict[str, Any]] = []
    whole_annotations: list[dict[str, Any]] = []
    cut_off = 0
    tiles: list[tuple[Record, Corner, int]] = []
    for number, (image, label) in enumerate(progress(pairs, len(pairs), f"labels of {split}"), start=1):
        width, height = image_size(image)
        rows = read_labels(label, len(names))
        scale = np.array([width, height] * 2)
        boxes = np.concatenate([rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2], 1) * scale
        classes = rows[:, 0].astype(np.int64)
        whole = Record(image, image.name, width, height, boxes, classes, np.zeros(len(rows), dtype=bool))
        clipped, kept = clean(whole, whole_counts, names)
        whole_images.append({"id": number, "file_name": image.name, "width": width, "height": height})
        whole_annotations += coco_annotations(whole, clipped, kept, number, len(whole_annotations) + 1)
        for corner in get_slice_bboxes(height, width, size, size, False, overlap / size, overlap / size):
            inside, number_cut = _inside(replace(whole, boxes=clipped), kept, corner, visible)
            cut_off += number_cut
            tiles.append((inside, tuple(corner), number))
    chosen = _choose(tiles, empty, seed)
    counts = new_counts(names)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    places: dict[str, Any] = {}
    for record, corner, whole_id in progress(chosen, len(chosen), f"tiles of {split}"):
        boxes, kept = clean(record, counts, names)
        image_id = len(images) + 1
        images.append({"id": image_id, "file_name": record.name, "width": record.width, "height": record.height})
        annotations += coco_annotations(record, boxes, kept, image_id, len(annotations) + 1)
        places[record.name] = {"image_id": whole_id, "file_name": record.image.name, "corner": list(corner)}
        write_text(root / "labels" / split / f"{Path(record.name).stem}.txt", label_text(record, boxes, kept))
    _write_tiles(root / "images" / split, chosen, split)
    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    for name, found, objects in ((split, images, annotations), (f"{split}_whole", whole_images, whole_annotations)):
        coco = {"images": found, "annotations": objects, "categories": categories}
        write_text(root / "annotations" / f"{name}.json", json.dumps(coco))
    counts |= {"empty_tiles_left_out": len(tiles) - len(chosen), "cut_below_visible": cut_off, "whole": whole_counts}
    return counts, places


def _inside(whole: Record, kept: NDArray[np.bool_], corner: Sequence[int], visible: float) -> tuple[Record, int]:
    """Return the tile with the objects that are visible enough, and how many were not."""
    left, top, right, bottom = corner
    boxes = whole.boxes.clip((left, top, left, top), (right, bottom, right, bottom))
    part = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(1)
    full = (whole.boxes[:, 2:] - whole.boxes[:, :2]).prod(1)
    touched = kept & (part > 0)
    enough = touched & (part >= visible * full)
    record = Record(
        whole.image,
        f"{whole.image.stem}__{left}_{top}.png",
        right - left,
        bottom - top,
        boxes[enough] - (left, top, left, top),
        whole.classes[enough],
        np.zeros(int(enough.sum()), dtype=bool),
    )
    return record, int((touched & ~enough).sum())


def _choose(tiles: list[tuple[Record, Corner, int]], empty: float, seed: int) -> list[tuple[Record, Corner, int]]:
    """Keep all tiles with objects and some without, in their order."""
    without = [i for i, (record, _, _) in enumerate(tiles) if not len(record.boxes)]
    wanted = min(len(without), round(empty * (len(tiles) - len(without))) if np.isfinite(empty) else len(without))
    dropped = set(without) - set(random.Random(seed).sample(without, wanted))
    return [tile for i, tile in enumerate(tiles) if i not in dropped]


def _write_tiles(folder: Path, tiles: Sequence[tuple[Record, Corner, int]], split: str) -> None:
    """Write the tiles that are not there yet, reading every image once."""
    missing: dict[Path, list[tuple[str, Corner]]] = defaultdict(list)
    for record, corner, _ in tiles:
        if not (folder / record.name).exists():
            missing[record.image].append((record.name, corner))
    for source, parts in progress(missing.items(), len(missing), f"images of {split}"):
        image = cv2.imread(str(source))
        if image is None:
            raise ValueError(f"{source}: image cannot be read")
        for name, (left, top, right, bottom) in parts:
            write_bytes(folder / name, cv2.imencode(".png", image[top:bottom, left:right])[1].tobytes())
