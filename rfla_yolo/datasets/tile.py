"""Big images to overlapping tiles, and detections on tiles back to whole images."""

from __future__ import annotations

import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ..evaluation.boxes import Detections as Found
from ..evaluation.boxes import Objects
from ..evaluation.inputs import Inputs, load_inputs
from ..rotated import hulls
from ..scenes import Detections, Window, merge
from ..scenes.source import open_dataset_image
from .boxes import cut, min_area_boxes, move
from .checks import are_oriented, have_polygons, read_labels
from .coco import by_image, check_size, coco_boxes, read_coco
from .truth import match_categories, match_images
from .writer import (
    REPORT,
    Record,
    claim_folder,
    forget_stale,
    is_written,
    progress,
    source_stamp,
    write_annotations,
    write_bytes,
    write_text,
    write_yaml,
)

TILES = "tiles.json"  # where each tile comes from


class _Tile(NamedTuple):
    """A tile with its objects, where it lies in the whole image (left, top, right, bottom, px), and the id of that."""

    record: Record
    corner: tuple[int, int, int, int]
    image_id: int


def tile_dataset(
    splits: Mapping[str, Sequence[tuple[Path, Path]]],
    names: Sequence[str],
    out: str | Path,
    *,
    annotations: Mapping[str, str | Path] | None = None,
    keypoints: tuple[int, int] | None = None,
    data: str | Path = "",
    size: int = 800,
    overlap: int = 200,
    visible: float = 0.3,
    empty: float = 0.1,
    seed: int = 0,
    stretch: Sequence[float | str] = (),
) -> dict[str, Any]:
    """Cut the images of a dataset into overlapping tiles, with their labels.

    SAHI places the tiles; the last of an axis is moved back to the border. Boxes are cut here: SAHI rounds areas to
    whole px^2 before it compares them, which decides wrongly about tiny objects. Oriented boxes, labels of four
    corners, stay oriented (other polygons become the boxes around
    them, which the report tells): one that is cut becomes the rectangle of the smallest area around its visible part.

    A tile is named by its image, left and top: ``{image}__{left}_{top}.png``; where images of a split share their stem,
    folders and suffix become part of it. Started again, only tiles are cut that are missing or whose image has changed
    (its path, bytes or time), and those of images that have gone are removed; labels and ground truth are made anew.

    Args:
        splits: Images and their label files by split.
        names: Class names.
        out: Folder to write to.
        annotations: COCO ground truth by split. Its objects with ``iscrowd`` or ``ignore``, which have no labels, are
            cut too, whatever is left of them, and become crowd in the ground truth of tiles and whole images.
        keypoints: How many keypoints an object has, and the numbers of each, as ``kpt_shape`` of the dataset's YAML
            says it: these labels are refused, and could else be taken for polygons.
        data: What the dataset is called, its YAML: tiles of another one are not mixed in.
        size: Side of a tile, px.
        overlap: Overlap of neighbouring tiles, px.
        visible: Objects cut at a border are kept where at least this share of their area is inside.
        empty: Tiles without objects to keep for each tile with some, in training; other splits keep all.
        seed: Seed that draws them.
        stretch: Values of the images that become 0 and 255, as numbers (0, 3000) or as percentiles ("2%", "98%") of a
            sample of each band; needed by images of more than 8 bits, as in `rfla_yolo.predict_scene`.

    Returns:
        The report, as written to ``conversion_report.json``.

    Raises:
        FileNotFoundError: If an image or a file of annotations is missing.
        ValueError: If a setting is out of its range, an image cannot be read or is not in its annotations, a label is
            bad or has keypoints, or ``out`` holds something else.
        ImportError: If SAHI is not installed.
    """
    if type(size) is not int or size < 1:
        raise ValueError(f"size must be a whole number of px from 1, not {size!r}")
    if type(overlap) is not int or not 0 <= overlap < size:
        raise ValueError(f"overlap must be in px, from 0 to below size ({size}), not {overlap!r}")
    if not 0 <= visible <= 1 or not empty >= 0:
        raise ValueError(f"visible must be in 0 to 1 and empty at least 0, not {visible!r} and {empty!r}")
    if keypoints:
        raise ValueError(f"kpt_shape {list(keypoints)}: tile cuts boxes, oriented or not, and no keypoints")
    settings: dict[str, Any] = {"size": size, "overlap": overlap, "visible": visible, "empty": empty, "seed": seed}
    if stretch:
        settings["stretch"] = [str(value) for value in stretch]
    root = claim_folder(Path(out), {"command": "tile", "data": str(data), **settings})
    files = [label for pairs in splits.values() for _, label in pairs]
    oriented = are_oriented(files)
    wholes = {s: _read(s, pairs, names, (annotations or {}).get(s), oriented, stretch) for s, pairs in splits.items()}
    report: dict[str, Any] = {"source": "tile", **settings, "splits": {}}
    report["polygons"] = not oriented and have_polygons(files)
    tiles: dict[str, list[_Tile]] = {}
    for split, records in wholes.items():
        cut, cut_off = _cut(records, size, overlap, visible)
        tiles[split] = _choose(cut, empty if split == "train" else float("inf"), seed)
        report["splits"][split] = {"empty_tiles_left_out": len(cut) - len(tiles[split]), "cut_below_visible": cut_off}
    forget_stale(
        root, {s: {t.record.name: [*source_stamp(t.record.image), *t.corner] for t in tiles[s]} for s in tiles}
    )
    for split, chosen in tiles.items():
        counts = write_annotations(root, split, [tile.record for tile in chosen], names)
        whole = write_annotations(root, f"{split}_whole", wholes[split], names, labels=False)
        report["splits"][split] = {**counts, **report["splits"][split], "whole": whole}
        _write_tiles(root / "images" / split, chosen, stretch)
    places = {split: {tile.record.name: _place(tile, wholes[split]) for tile in tiles[split]} for split in tiles}
    write_text(root / TILES, json.dumps(places))
    write_yaml(root / "data.yaml", root, {split: f"images/{split}" for split in splits}, names)
    write_text(root / REPORT, json.dumps(report, indent=1) + "\n")
    return report


def merge_tiles(predictions: str | Path | list[dict[str, Any]], tiles: str | Path, split: str = "val") -> list[Any]:
    """Move detections on tiles to the whole images, every object once (`rfla_yolo.scenes.merge`).

    Oriented ones are compared by the axis-aligned boxes around them, and stay as they are.
    Objects that the overlap does not hold may come in pieces: choose an overlap of `rfla_yolo.scenes.overlap_for` the
    largest object.

    Args:
        predictions: COCO detections on the tiles, as validation on the tiled set writes them, this package's or
            Ultralytics': ``image_id`` is the id, the file name or the file's stem of a tile.
        tiles: Folder of the tiled set.
        split: Their split.

    Returns:
        COCO detections for ``annotations/{split}_whole.json`` of the tiled set, with ``rbox`` if they came with it.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a detection names no tile or more than one, or cannot be evaluated.
    """
    root = Path(tiles)
    for file in (root / TILES, root / "annotations" / f"{split}.json"):
        if not file.is_file():
            raise FileNotFoundError(f"tiles: no such file: {file}")
    try:
        inputs = load_inputs(root / "annotations" / f"{split}.json", predictions)
    except ValueError as error:
        raise ValueError(f"tiles {root}, {split}: {error}") from None
    whole = to_wholes(inputs, root, split)
    found = whole.detections
    box = "rbox" if found.bbox.shape[1] == 5 else "bbox"
    columns = (found.image.tolist(), found.label.tolist(), found.bbox.tolist(), found.score.tolist())
    return [
        {"image_id": whole.images[i]["id"], "category_id": inputs.categories[label]["id"], box: sides, "score": score}
        for i, label, sides, score in zip(*columns)
    ]


def to_wholes(inputs: Inputs, tiles: str | Path, split: str) -> Inputs:
    """Do what `merge_tiles` does with images and detections that are loaded.

    Args:
        inputs: Images, known by file name, and detections of the tiles.
        tiles: Folder of the tiled set.
        split: Their split.

    Returns:
        The whole images of these tiles, their detections ordered by image, and no objects.

    Raises:
        ValueError: If an image is no tile of the split.
    """
    root = Path(tiles)
    places = json.loads((root / TILES).read_text(encoding="utf-8")).get(split, {})
    tiles_named = [image.get("file_name") for image in inputs.images]
    if unknown := [name for name in tiles_named if name not in places]:
        raise ValueError(f"tiles {root}: {unknown[0]} is no tile of the split {split!r}")
    of_image = [places[name] for name in tiles_named]
    found = inputs.detections
    upright = hulls(found.bbox) if found.bbox.shape[1] == 5 else found.bbox
    # `merge` takes the order of the scores alone: the rank in their place tells which rows it keeps
    order = np.lexsort((*found.bbox.T, found.label, found.image, found.score))
    rank = np.argsort(order)
    on_tile = np.split(
        np.argsort(found.image, kind="stable"), np.bincount(found.image, minlength=len(of_image)).cumsum()[:-1]
    )
    tiles_of: dict[int, list[tuple[Window, Detections]]] = defaultdict(list)
    for place, rows in zip(of_image, on_tile):
        left, top, right, bottom = place["corner"]
        corners = upright[rows, :2]
        boxes = np.concatenate([corners, corners + upright[rows, 2:]], axis=1)
        part = Detections.of(boxes, rank[rows], found.label[rows]).shift(left, top)
        tiles_of[place["image_id"]].append((Window(left, top, right - left, bottom - top), part))
    names = {place["image_id"]: place["file_name"] for place in of_image}
    kept = [order[merge(*zip(*tiles_of[image])).score.astype(np.int64)] for image in sorted(names)]
    rows = np.concatenate([np.zeros(0, np.int64), *kept])
    bbox = found.bbox[rows]
    bbox[:, :2] += np.array([of_image[i]["corner"][:2] for i in found.image[rows]]).reshape(-1, 2)
    image = np.repeat(np.arange(len(kept), dtype=np.int32), [len(part) for part in kept])
    none = Objects(image[:0], image[:0], bbox[:0], bbox[:0, 0], image[:0] > 0)
    merged = Found(image, found.label[rows], bbox, found.score[rows])
    return Inputs([{"id": i, "file_name": names[i]} for i in sorted(names)], inputs.categories, none, merged)


def _read(
    split: str,
    pairs: Sequence[tuple[Path, Path]],
    names: Sequence[str],
    annotations: str | Path | None,
    oriented: bool,
    stretch: Sequence[float | str],
) -> list[Record]:
    """Return the whole images, called by their path below the folder they share, with labelled and ignored objects."""
    pairs = list({os.path.abspath(image): (image, label) for image, label in pairs}.values())  # listed twice, cut once
    crowd = _crowd(Path(annotations), [image for image, _ in pairs], names, oriented) if annotations else {}
    shared = os.path.commonpath([os.path.abspath(image.parent) for image, _ in pairs]) if pairs else ""
    records = []
    for image, label in progress(pairs, len(pairs), f"labels of {split}"):
        with open_dataset_image(image, stretch) as source:
            width, height = source.width, source.height
        rows = read_labels(label, len(names), oriented)
        if oriented:
            boxes = min_area_boxes(rows[:, 1:].reshape(-1, 4, 2) * [width, height])
        else:
            boxes = np.concatenate([rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2], 1)
            boxes *= np.array([width, height] * 2)
        entry, ignored, classes = crowd.get(image, ({}, boxes[:0], np.zeros(0, dtype=np.int64)))
        check_size({"file_name": image, **entry}, (width, height), f"annotations: {annotations}")
        records.append(
            Record(
                image,
                Path(os.path.relpath(image, shared)).as_posix(),
                width,
                height,
                np.concatenate([boxes, ignored]),
                np.concatenate([rows[:, 0].astype(np.int64), classes]),
                np.arange(len(rows) + len(ignored)) >= len(rows),
            )
        )
    return records


def _crowd(
    file: Path, images: Sequence[Path], names: Sequence[str], oriented: bool
) -> dict[Path, tuple[dict[str, Any], NDArray[np.float64], NDArray[np.int64]]]:
    """Return COCO image, boxes and classes of the ignored objects, by image."""
    coco = read_coco(file)
    entries = match_images(coco, images, f"annotations {file}")
    categories = match_categories(coco, dict(enumerate(names)), f"annotations {file}")
    label_of = {category: label for label, category in categories.items()}
    objects = by_image(coco)
    found = {}
    for image, entry in entries.items():
        of_image = [a for a in objects[entry["id"]] if a["category_id"] in label_of]
        if ignored := [a for a in of_image if a.get("iscrowd") or a.get("ignore")]:
            classes = np.array([label_of[a["category_id"]] for a in ignored], dtype=np.int64)
            found[image] = entry, coco_boxes(ignored, oriented), classes
    return found


def _cut(wholes: Sequence[Record], size: int, overlap: int, visible: float) -> tuple[list[_Tile], int]:
    """Return all tiles with their objects, and how many objects at borders were not visible enough."""
    try:
        from sahi.slicing import get_slice_bboxes
    except ImportError as error:
        raise ImportError(f"tile needs SAHI: pip install 'rfla-yolo[data]' ({error})") from None
    share = (overlap + 0.5) / size  # SAHI multiplies and rounds down, which must not lose a pixel
    tiles, cut_off = [], 0
    for image_id, (whole, stem) in enumerate(zip(wholes, _stems([whole.name for whole in wholes])), start=1):
        area = cut(whole.boxes, (0, 0, whole.width, whole.height))[1]
        kept = area > 0
        shown = replace(whole, boxes=whole.boxes[kept], classes=whole.classes[kept], ignored=whole.ignored[kept])
        for corner in get_slice_bboxes(whole.height, whole.width, size, size, False, share, share):
            record, number = _inside(shown, area[kept], stem, corner, visible)
            tiles.append(_Tile(record, tuple(corner), image_id))
            cut_off += number
    return tiles, cut_off


def _stems(names: Sequence[str]) -> list[str]:
    """Return what tiles are called by: the stem where no other image has it, else folders, suffix or a number too."""
    stems = Counter(Path(name).stem.casefold() for name in names)
    taken = {stem for stem, number in stems.items() if number == 1}
    found = []
    for name in names:
        stem = Path(name).stem
        if stems[stem.casefold()] > 1:
            whole = "_".join(Path(name).parts).replace(".", "_")
            longer = ("_".join(Path(name).with_suffix("").parts), whole)
            stem = next(s for s in chain(longer, (f"{whole}_{i}" for i in count(2))) if s.casefold() not in taken)
            taken.add(stem.casefold())
        found.append(stem)
    return found


def _inside(
    whole: Record, area: NDArray[np.float64], stem: str, corner: Sequence[int], visible: float
) -> tuple[Record, int]:
    """Return the tile with the objects that are visible enough of their area in the whole, and how many were not."""
    left, top, right, bottom = corner
    boxes, part = cut(whole.boxes, corner)
    enough = (part > 0) & (whole.ignored | (part >= visible * area))
    record = Record(
        whole.image,
        f"{stem}__{left}_{top}.png",
        right - left,
        bottom - top,
        move(boxes[enough], left, top),
        whole.classes[enough],
        whole.ignored[enough],
    )
    return record, int(((part > 0) & ~enough).sum())


def _choose(tiles: list[_Tile], empty: float, seed: int) -> list[_Tile]:
    """Keep all tiles with labelled objects and some without, in their order."""
    without = [i for i, tile in enumerate(tiles) if tile.record.ignored.all()]
    wanted = min(len(without), round(empty * (len(tiles) - len(without))) if np.isfinite(empty) else len(without))
    dropped = set(without) - set(random.Random(seed).sample(without, wanted))
    return [tile for i, tile in enumerate(tiles) if i not in dropped]


def _place(tile: _Tile, wholes: Sequence[Record]) -> dict[str, Any]:
    name = wholes[tile.image_id - 1].name
    return {"image_id": tile.image_id, "file_name": name, "corner": list(tile.corner)}


def _write_tiles(folder: Path, tiles: Sequence[_Tile], stretch: Sequence[float | str]) -> None:
    """Write the tiles that are not there yet, opening every image once; what has no valid pixel is black."""
    folder.mkdir(parents=True, exist_ok=True)
    missing: dict[Path, list[_Tile]] = defaultdict(list)
    for tile in tiles:
        if not is_written(folder / tile.record.name):
            missing[tile.record.image].append(tile)
    for path, parts in progress(missing.items(), len(missing), f"images of {folder.name}"):
        with open_dataset_image(path, stretch) as source:
            source.prepare(max(tile.record.height for tile in parts))
            for tile in parts:
                left, top, width, height = *tile.corner[:2], tile.record.width, tile.record.height
                pixels = source.read(Window(left, top, width, height))
                if pixels is None:
                    pixels = np.zeros((height, width, 3), dtype=np.uint8)
                content = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
                write_bytes(folder / tile.record.name, content)
