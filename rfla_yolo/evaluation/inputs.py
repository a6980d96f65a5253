"""Ground truth and detections as they come, checked: paths or loaded COCO, images by id or by file name."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from .boxes import COLUMNS, Detections, Json, Objects

LOGGER = logging.getLogger("rfla_yolo")
TURN = 2 * math.pi  # radians
EXACT = 2**53  # from here on two whole numbers may be the same float


@dataclass(frozen=True)
class Inputs:
    """What is evaluated. Ids of images and categories are those of the ground truth, whole numbers or text.

    The boxes of objects and detections are of one kind, axis-aligned or oriented.

    Attributes:
        images: COCO images, ordered by id.
        categories: COCO categories, ordered by id, no two of one name.
        objects: Objects of the images.
        detections: What was found in them.
    """

    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    objects: Objects
    detections: Detections


def load_inputs(
    annotations: str | Path | Json,
    predictions: str | Path | Sequence[Json] | None,
    image_ids: Iterable[Any] | None = None,
    box: str = "bbox",
) -> Inputs:
    """Load and check ground truth and detections; what was passed in stays as it was.

    Args:
        annotations: COCO ground truth, a path or the loaded dict.
        predictions: COCO detections, a path or the loaded list. ``image_id`` may be the id, the file name or its stem.
            A ``file_name`` that fits one image goes before it: Ultralytics makes the number 42 of the stem 0042.
            None for the ground truth alone. The boxes of both are ``rbox`` where the entries have one (centre x,
            centre y, width, height in px, angle in radians, the width along (cos, sin)), else ``bbox``.
        image_ids: Images to keep; all by default.
        box: Kind of the boxes where there are none at all, "bbox" or "rbox".

    Returns:
        The checked inputs.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If something cannot be evaluated; names the file and the entry.
    """
    truth, truth_name = read_json(annotations, "annotations"), _name(annotations, "annotations")
    found = [] if predictions is None else read_json(predictions, "predictions")
    found_name = _name(predictions, "predictions")
    parts = ("images", "annotations", "categories")
    if not isinstance(truth, Mapping) or not all(_is_list(truth.get(part)) for part in parts):
        raise ValueError(f"{truth_name}: expected COCO with images, annotations and categories")
    if not _is_list(found):
        raise ValueError(f"{found_name}: expected a list of detections, found {type(found).__name__}")
    if not found and predictions is not None:
        LOGGER.warning(f"{found_name}: no detections at all")
    images, categories = (_Known(truth[part], part, truth_name) for part in ("images", "categories"))
    kinds = _kind_of_boxes(truth["annotations"], truth_name, "annotation"), _kind_of_boxes(found, found_name, "entry")
    box = kinds[0] or kinds[1] or box
    if None not in kinds and kinds[0] != kinds[1]:
        other, name = (truth_name, found_name) if kinds[1] == "rbox" else (found_name, truth_name)
        raise ValueError(f"{name} has oriented boxes (rbox), {other} has none; both must be of one kind")
    objects = _checked_objects(truth["annotations"], images, categories, truth_name, box)
    found = _checked_detections(found, images, categories, found_name, box)
    kept = images.ids.keys() if image_ids is None else {images.find(key, "image_ids") for key in image_ids}
    things = [image for image in images.entries if image["id"] in kept], uniquely_named(categories.entries)
    return Inputs(
        *things,
        objects=Objects.from_coco([obj for obj in objects if obj["image_id"] in kept], *things, box),
        detections=Detections.from_coco([d for d in found if d["image_id"] in kept], *things, box),
    )


class _Known:
    """The images or categories of the ground truth, found by id or by file name.

    Args:
        entries: The images or categories.
        what: Which of the two.
        name: How messages call the ground truth.
    """

    def __init__(self, entries: Sequence[Json], what: str, name: str) -> None:
        self._what, where = what, f"{name}: {what}"
        self.entries = [dict(entry) for entry in _mappings(entries, where)]
        for i, entry in enumerate(self.entries):
            if not _is_id(entry.get("id")):
                raise ValueError(f"{where}, entry {i}: id {entry.get('id')!r} is no whole number and no text")
        _check_unique([entry["id"] for entry in self.entries], where)
        self.entries.sort(key=lambda entry: (isinstance(entry["id"], str), entry["id"]))
        self.ids = {entry["id"]: entry["id"] for entry in self.entries}
        self._files: dict[str, set[Any]] = defaultdict(set)  # by name and stem of the file
        self._others: dict[str, set[Any]] = defaultdict(set)  # the same, and by id as text
        for entry in self.entries:
            self._others[str(entry["id"])].add(entry["id"])
            if file_name := str(entry.get("file_name") or ""):
                for name in (file_name, Path(file_name).name, Path(file_name).stem):
                    self._files[name].add(entry["id"])
                    self._others[name].add(entry["id"])

    def find(self, key: Any, called: str, file_name: Any = None) -> Any:
        """Return the id that is meant; raise ValueError unless it is exactly one."""
        same = set() if file_name is None else self._files.get(str(file_name), set())
        if len(same) != 1:
            key = file_name if key is None else key
            if _is_id(key) and key in self.ids:
                return self.ids[key]
            same = self._others.get(str(key), set())
        if len(same) == 1:
            return next(iter(same))
        known = ", ".join(repr(key) for key in islice(self.ids, 9)) + ", ..." * (len(self.ids) > 9)
        reason = f"fits {len(same)} of" if same else "is none of"
        raise ValueError(f"{called} {key!r} {reason} the {self._what} {known}")


def _kind_of_boxes(entries: Sequence[Any], name: str, called: str) -> str | None:
    """Return the key of the boxes, None without entries; raise ValueError where some are oriented and others not."""
    oriented = [isinstance(entry, Mapping) and entry.get("rbox") is not None for entry in entries]
    if any(oriented) and not all(oriented):
        raise ValueError(f"{name}, {called} {oriented.index(False)}: no rbox, though others have one: all or none")
    return ("rbox" if oriented[0] else "bbox") if oriented else None


def _checked_objects(entries: Any, images: _Known, categories: _Known, name: str, box: str) -> list[dict[str, Any]]:
    """Return the objects with the ids that they mean and with what COCO may leave out."""
    objects = []
    for i, entry in enumerate(_mappings(entries, f"{name}: annotations")):
        try:
            objects.append(_checked_object(entry, images, categories, box))
        except ValueError as error:
            raise ValueError(f"{name}, annotation {i}: {error}") from None
    _check_unique([entry["id"] for entry in entries if entry.get("id") is not None], f"{name}: annotations")
    return objects


def _checked_object(entry: Json, images: _Known, categories: _Known, box: str) -> dict[str, Any]:
    obj = _checked(entry, images, categories, box)
    area, crowd = entry.get("area"), entry.get("iscrowd") or 0
    obj["area"] = obj[box][2] * obj[box][3] if area is None else _number(area, "area")
    if obj["area"] < 0:
        raise ValueError(f"area {area!r} is below 0")
    if crowd not in (0, 1):
        raise ValueError(f"iscrowd {crowd!r} is not 0 or 1")
    return {**obj, "iscrowd": int(crowd)}


def _checked_detections(
    found: Sequence[Json], images: _Known, categories: _Known, name: str, box: str
) -> Sequence[Json]:
    """Return the detections with the ids that they mean; raise ValueError at the first that cannot be evaluated."""
    if _all_fine(found, images, categories, box):
        return found
    detections = []
    for i, entry in enumerate(_mappings(found, name)):
        try:
            score = _number(entry.get("score"), "score")
            detections.append({**_checked(entry, images, categories, box), "score": score})
        except ValueError as error:
            raise ValueError(f"{name}, entry {i}: {error}") from None
    return detections


def _all_fine(found: Sequence[Json], images: _Known, categories: _Known, box: str) -> bool:
    """Check everything at once, which is fast; False sends the detections through the check that can explain."""
    try:
        boxes, scores = np.array([d[box] for d in found]), np.array([d["score"] for d in found])
        plain = {type(d[key]) for key in ("image_id", "category_id") for d in found} <= {int, str}
        plain &= not any("file_name" in d for d in found)
        known = images.ids.keys() >= {d["image_id"] for d in found}
        known &= categories.ids.keys() >= {d["category_id"] for d in found}
    except (KeyError, TypeError, ValueError):
        return False
    numbers = boxes.dtype.kind in "iuf" and scores.dtype.kind in "iuf" and boxes.shape == (len(found), COLUMNS[box])
    if not (plain and known and numbers):
        return False
    fine = np.isfinite(boxes).all() and (boxes[:, 2:4] >= 0).all() and np.isfinite(scores).all()
    return bool(fine and (np.abs(boxes[:, 4:]) <= TURN).all())


def _checked(entry: Json, images: _Known, categories: _Known, key: str) -> dict[str, Any]:
    """Return image, category and box of an object or a detection."""
    image_id = images.find(entry.get("image_id"), "image_id", entry.get("file_name"))
    category_id = categories.find(entry.get("category_id"), "category_id")
    box = entry.get(key)
    try:
        sides = [_number(side, "side") for side in box]  # type: ignore[union-attr]
    except (TypeError, ValueError):
        sides = []
    if len(sides) != COLUMNS[key] or sides[2] < 0 or sides[3] < 0:
        form = "x, y, width, height" if key == "bbox" else "centre x, centre y, width, height, angle"
        raise ValueError(f"{key} {box!r} is not {form} with finite sides >= 0")
    if key == "rbox" and abs(sides[4]) > TURN:
        raise ValueError(f"rbox {box!r}: angle {sides[4]:g} is more than a turn; expected radians")
    return {"image_id": image_id, "category_id": category_id, key: sides}


def _number(value: Any, called: str) -> float:
    if not isinstance(value, (float, int, Real)) or not math.isfinite(value):  # Real alone is slow
        raise ValueError(f"{called} {value!r} is not a finite number")
    return float(value)


def _is_id(value: Any) -> bool:
    """Whether this can be an id; a float can while it is exact."""
    if isinstance(value, float):
        return value.is_integer() and abs(value) < EXACT
    return isinstance(value, (str, int, Integral))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _mappings(entries: Sequence[Any], where: str) -> Iterator[Json]:
    """Yield the entries; raise ValueError at one that is no JSON object."""
    for i, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise ValueError(f"{where}, entry {i}: expected an object of names and values, found {entry!r}")
        yield entry


def _check_unique(ids: list[Any], where: str) -> None:
    if len(set(ids)) < len(ids):
        repeated, count = Counter(ids).most_common(1)[0]
        raise ValueError(f"{where}: id {repeated!r} occurs {count} times, expected once")


def uniquely_named(categories: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add its id to the name of every category that shares it with another, "ship (3)": figures are kept by name."""
    for category in categories:
        category["name"] = str(category.get("name", category["id"]))
    while shared := {name for name, n in Counter(c["name"] for c in categories).items() if n > 1}:
        for category in categories:
            if category["name"] in shared:
                category["name"] += f" ({category['id']})"
    return categories


def read_json(source: Any, what: str) -> Any:
    """Return the content of a JSON file, with or without a byte order mark, or what is loaded already."""
    if not isinstance(source, (str, Path)):
        return source
    if not Path(source).is_file():
        raise FileNotFoundError(f"{what}: no such file: {source}")
    try:
        return json.loads(Path(source).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{what}: {source} is no JSON: {error}") from error


def _name(source: Any, what: str) -> str:
    """Return how messages call a source."""
    return str(source) if isinstance(source, (str, Path)) else what
