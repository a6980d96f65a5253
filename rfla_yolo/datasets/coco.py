"""COCO detection files, read and checked: nothing in them is lost or misplaced without a word."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation.boxes import COLUMNS
from ..evaluation.inputs import read_json

FLAGS = ("iscrowd", "ignore", "uncertain")  # the last is TinyPerson's
NO, YES = ("", "0", "0.0", "false", "none"), ("1", "1.0", "true")


def read_coco(path: Path) -> dict[str, Any]:
    """Read a COCO file and check that it is one.

    What can be meant in one way only is set right: ids written as text in one place and as number in another, numbers
    written as text, and flags that are null.

    Returns:
        The content: categories sorted by id, annotations with the ids of their image and category as these have them,
        boxes as floats and flags as bool.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it is no COCO detection file, or something in it cannot be placed; names it.
    """
    content = read_json(path, "annotations")
    keys = ("images", "annotations", "categories")
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise ValueError(f"annotations: {path} is no COCO file: it has no {missing[0]!r}")
    if not content["images"]:
        raise ValueError(f"annotations: {path} lists no images")
    images = _by_id(path, content["images"], "image", "file_name")
    for image in content["images"]:
        image["file_name"] = str(image["file_name"])
    categories = _by_id(path, content["categories"], "category", "name")
    _check_class_names(path, content["categories"])
    numbers = all(_is_number(category["id"]) for category in content["categories"])
    content["categories"].sort(key=lambda c: float(c["id"]) if numbers else str(c["id"]))
    for place, annotation in enumerate(content["annotations"], start=1):
        if not isinstance(annotation, dict):
            raise ValueError(f"annotations: {path}: annotation {place} is no object: {annotation!r}")
        where = f"annotations: {path}: annotation {annotation.get('id', f'number {place}')}"
        annotation["image_id"] = _find(images, annotation, "image", where)
        annotation["category_id"] = _find(categories, annotation, "category", where)
        annotation["bbox"] = _box(annotation, where)
        if annotation.get("rbox") is not None:
            annotation["rbox"] = _box(annotation, where, "rbox")
        for name in FLAGS:
            if name in annotation:
                annotation[name] = _flag(annotation, name, where)
    values = [value for annotation in content["annotations"] for value in annotation["bbox"]]
    if values and max(values) <= 1 and not all(value.is_integer() for value in values):
        raise ValueError(f"annotations: {path}: all boxes lie within 0 to 1; COCO's are x, y, width, height in px")
    return content


def class_names(content: dict[str, Any]) -> list[str]:
    """Return the names of the classes of a COCO file, in the order of their ids."""
    return [str(category["name"]) for category in content["categories"]]


def class_order(content: dict[str, Any]) -> dict[Any, int]:
    """Return the class, from 0, of every category id."""
    return {category["id"]: i for i, category in enumerate(content["categories"])}


def by_image(content: dict[str, Any]) -> dict[Any, list[dict[str, Any]]]:
    """Return the annotations of every image of a COCO file, none for an image without any."""
    found: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        found[annotation["image_id"]].append(annotation)
    return found


def coco_boxes(objects: Sequence[dict[str, Any]], oriented: bool = False) -> NDArray[np.float64]:
    """Return the boxes of COCO annotations, xyxy px, (N, 4), or oriented, (N, 5): ``rbox``, or else ``bbox``."""
    boxes = np.array([a["bbox"] for a in objects], dtype=np.float64).reshape(-1, 4)
    if oriented:
        turned = [a.get("rbox") or [*(box[:2] + box[2:] / 2), *box[2:], 0.0] for a, box in zip(objects, boxes)]
        return np.array(turned, dtype=np.float64).reshape(-1, 5)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def check_size(image: dict[str, Any], size: tuple[int, int], where: str) -> None:
    """Check the size that a COCO file gives an image against that of the picture, px; 0 and null give none.

    Raises:
        ValueError: If they differ: the boxes belong to another picture than the one that is there.
    """
    stated = [image.get(side) or actual for side, actual in zip(("width", "height"), size)]
    if not all(_is_number(value) and float(value) == actual for value, actual in zip(stated, size)):
        raise ValueError(
            f"{where}: {image['file_name']} is {stated[0]} x {stated[1]} px there, the picture is {size[0]} x {size[1]}"
            " (turned upright by its EXIF orientation): the boxes are not of this picture"
        )


def _by_id(path: Path, items: list[Any], what: str, name: str) -> dict[str, Any]:
    """Return the ids by their text, after checking that all items have one and a name."""
    found: dict[str, Any] = {}
    for place, item in enumerate(items, start=1):
        if not isinstance(item, dict) or item.get("id") is None or item.get(name) in (None, ""):
            raise ValueError(f"annotations: {path}: {what} number {place} needs 'id' and {name!r}, it is {item!r:.200}")
        if _text(item["id"]) in found:
            raise ValueError(f"annotations: {path}: two of 'id' {item['id']!r} among the {what} entries")
        found[_text(item["id"])] = item["id"]
    return found


def _check_class_names(path: Path, categories: list[dict[str, Any]]) -> None:
    if not categories:
        raise ValueError(f"annotations: {path} has no categories")
    seen: dict[str, Any] = {}
    for category in categories:
        name = str(category["name"])
        if name in seen:
            raise ValueError(f"annotations: {path}: categories {seen[name]} and {category['id']} are both {name!r}")
        seen[name] = category["id"]


def _text(value: Any) -> str:
    """Return an id as text, the same for 7, 7.0 and "7"."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _find(ids: dict[str, Any], annotation: dict[str, Any], what: str, where: str) -> Any:
    value = annotation.get(f"{what}_id")
    try:
        return ids[_text(value)]
    except KeyError:
        raise ValueError(f"{where}: {what}_id {value!r} is none of the {len(ids)} listed") from None


def _box(annotation: dict[str, Any], where: str, key: str = "bbox") -> list[float]:
    try:
        box = [float(value) for value in annotation[key]]
    except (KeyError, TypeError, ValueError):
        box = []
    if len(box) != COLUMNS[key] or not all(map(math.isfinite, box)):
        form = "x, y, width, height in px" if key == "bbox" else "centre x, centre y, width, height in px, angle"
        raise ValueError(f"{where}: {key} must be {form}, not {annotation.get(key)!r}")
    return box


def _flag(annotation: dict[str, Any], name: str, where: str) -> bool:
    text = str(annotation[name]).strip().lower()
    if text not in NO + YES:
        raise ValueError(f"{where}: {name} must be 0 or 1, not {annotation[name]!r}")
    return text in YES
