"""Ground truth and detections as they come, checked: paths or loaded COCO, images by id or by file name."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Json = Mapping[str, Any]
LOGGER = logging.getLogger("rfla_yolo")


@dataclass(frozen=True)
class Inputs:
    """What is evaluated.

    Attributes:
        images: COCO images, ordered by id.
        annotations: Their objects.
        categories: COCO categories, ordered by id, no two of one name.
        detections: Their detections, ids and boxes as COCO has them.
    """

    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    detections: list[dict[str, Any]]


def load_inputs(
    annotations: str | Path | Json, predictions: str | Path | Sequence[Json], image_ids: Iterable[int] | None = None
) -> Inputs:
    """Load and check ground truth and detections; what was passed in stays as it was.

    Args:
        annotations: COCO ground truth, a path or the loaded dict.
        predictions: COCO detections, a path or the loaded list. ``image_id`` may be the id, the file name or its stem.
        image_ids: Images to keep; all by default.

    Returns:
        The checked inputs.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If something cannot be evaluated; names the file and the entry.
    """
    truth, truth_name = _read(annotations, "annotations"), _name(annotations, "annotations")
    found, found_name = _read(predictions, "predictions"), _name(predictions, "predictions")
    _check_truth(truth, truth_name)
    if not isinstance(found, Sequence) or isinstance(found, (str, bytes)):
        raise ValueError(f"{found_name}: expected a list of detections, found {type(found).__name__}")
    if not found:
        LOGGER.warning(f"{found_name}: no detections at all")
    kept = {image["id"] for image in truth["images"]} if image_ids is None else set(image_ids)
    objects = [dict(a) for a in truth["annotations"] if a["image_id"] in kept]
    for number, obj in enumerate(objects, start=1):
        obj["id"] = number  # 0 means "no object" to the matcher
        obj.setdefault("iscrowd", 0)
        obj.setdefault("area", obj["bbox"][2] * obj["bbox"][3])
    return Inputs(
        images=sorted((dict(i) for i in truth["images"] if i["id"] in kept), key=lambda image: image["id"]),
        annotations=objects,
        categories=_uniquely_named(sorted((dict(c) for c in truth["categories"]), key=lambda category: category["id"])),
        detections=[d for d in _checked_detections(found, truth, found_name) if d["image_id"] in kept],
    )


def _uniquely_named(categories: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add its id to the name of every category that shares it with another, "ship (3)": figures are kept by name."""
    for category in categories:
        category["name"] = str(category.get("name", category["id"]))
    while shared := {name for name, n in Counter(c["name"] for c in categories).items() if n > 1}:
        for category in categories:
            if category["name"] in shared:
                category["name"] += f" ({category['id']})"
    return categories


def _check_truth(truth: Any, name: str) -> None:
    """Raise ValueError unless this is COCO ground truth that agrees with itself."""
    if not isinstance(truth, Mapping) or not {"images", "annotations", "categories"} <= set(truth):
        raise ValueError(f"{name}: expected COCO with images, annotations and categories")
    images, categories = {i["id"] for i in truth["images"]}, {c["id"] for c in truth["categories"]}
    for what in ("images", "annotations"):
        ids = [entry.get("id") for entry in truth[what]]
        if len(set(ids)) < len(ids):
            repeated = Counter(ids).most_common(1)[0]
            raise ValueError(f"{name}: {what}: id {repeated[0]!r} occurs {repeated[1]} times, expected once")
    for i, annotation in enumerate(truth["annotations"]):
        _check_entry(annotation, images, categories, f"{name}, annotation {i}")


def _checked_detections(found: Sequence[Json], truth: Json, name: str) -> list[dict[str, Any]]:
    """Return the detections with numeric image ids; raise ValueError at the first that cannot be evaluated."""
    images, categories = {i["id"] for i in truth["images"]}, {c["id"] for c in truth["categories"]}
    if not _all_fine(found, images, categories):
        found = list(_one_by_one(found, truth, images, categories, name))
    # a segmentation is given, or the library would make a polygon of every box
    keys = ("image_id", "category_id", "bbox", "score")
    return [{**{key: d[key] for key in keys}, "segmentation": []} for d in found]


def _all_fine(found: Sequence[Json], images: set[Any], categories: set[Any]) -> bool:
    """Check everything at once, which is fast; False sends the detections through the check that can explain."""
    try:
        boxes = np.array([d["bbox"] for d in found], dtype=float).reshape(len(found), 4)
        scores = np.array([d["score"] for d in found], dtype=float)
        known = images.issuperset(d["image_id"] for d in found)
        known &= categories.issuperset(d["category_id"] for d in found)
    except (KeyError, TypeError, ValueError):
        return False
    return bool(known and np.isfinite(boxes).all() and (boxes[:, 2:] >= 0).all() and np.isfinite(scores).all())


def _one_by_one(
    found: Sequence[Json], truth: Json, images: set[Any], categories: set[Any], name: str
) -> Iterable[dict[str, Any]]:
    """Yield the detections, images found by name where they are not named by id."""
    by_name: dict[str, set[Any]] = defaultdict(set)
    for image in truth["images"]:
        file_name = str(image.get("file_name", ""))
        for key in (file_name, Path(file_name).name, Path(file_name).stem):
            by_name[key].add(image["id"])
    for i, detection in enumerate(found):
        where = f"{name}, entry {i}"
        image_id = detection.get("image_id", detection.get("file_name"))
        if image_id not in images:
            same = by_name.get(str(image_id)) or by_name.get(str(detection.get("file_name"))) or set()
            if len(same) != 1:
                reason = f"fits {len(same)} images" if same else "is no id and no file name"
                raise ValueError(f"{where}: image_id {image_id!r} {reason} of the annotations")
            image_id = next(iter(same))
        kept = {"image_id": image_id, "category_id": detection.get("category_id"), "bbox": detection.get("bbox", ())}
        kept["score"] = detection.get("score", math.nan)
        _check_entry(kept, images, categories, where)
        if not isinstance(kept["score"], (int, float)) or not math.isfinite(kept["score"]):
            raise ValueError(f"{where}: score {kept['score']!r} is not a finite number")
        yield kept


def _check_entry(entry: Json, images: set[Any], categories: set[Any], where: str) -> None:
    """Raise ValueError unless image, category and box can be."""
    if entry.get("image_id") not in images:
        raise ValueError(f"{where}: image_id {entry.get('image_id')!r} is not among the images")
    if entry.get("category_id") not in categories:
        raise ValueError(f"{where}: category_id {entry.get('category_id')!r} is not in {sorted(categories)}")
    box = entry.get("bbox", ())
    if len(box) != 4 or not all(map(math.isfinite, box)) or box[2] < 0 or box[3] < 0:
        raise ValueError(f"{where}: bbox {box!r} is not x, y, width, height with finite sides >= 0")


def _read(source: Any, what: str) -> Any:
    """Return the content of a JSON file, or what is loaded already."""
    if not isinstance(source, (str, Path)):
        return source
    if not Path(source).is_file():
        raise FileNotFoundError(f"{what}: no such file: {source}")
    try:
        return json.loads(Path(source).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{source}: no JSON: {error}") from error


def _name(source: Any, what: str) -> str:
    """Return how messages call a source."""
    return str(source) if isinstance(source, (str, Path)) else what
