"""Writing a dataset: YOLO labels, COCO ground truth, images, the YAML and a report of every count.

Every file appears at once under its final name, so whatever is there is whole: a stopped conversion is started again
and goes on where it was.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray

T = TypeVar("T")
STATE = "rfla-yolo-data.json"  # says which command with which settings the folder belongs to
REPORT = "conversion_report.json"
SIZES = {"vt": 8.0, "t": 16.0, "s": 32.0, "m": float("inf")}  # AI-TOD's, upper border in px


@dataclass(frozen=True)
class Record:
    """One image with its objects, as the source has them.

    Attributes:
        image: Path of the image.
        name: File name in the dataset.
        width: Width of the image, px.
        height: Height of the image, px.
        boxes: Objects, xyxy px of the image, (N, 4).
        classes: Class of each object from 0, (N,).
        ignored: Objects that the set's own evaluation ignores: no labels, crowd in the ground truth, bool, (N,).
        save: Writes the image to a path, where it is not a copy of ``image``.
    """

    image: Path
    name: str
    width: int
    height: int
    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    save: Callable[[Path], None] | None = field(default=None, compare=False)


def claim_folder(out: Path, settings: Mapping[str, Any]) -> Path:
    """Take a folder for a command, or go on in one that the same command has begun.

    Args:
        out: The folder; made if need be.
        settings: Command and settings, plain values.

    Returns:
        The folder, absolute.

    Raises:
        ValueError: If it holds other files, or was begun with other settings.
    """
    out = out.resolve()
    state = out / STATE
    if out.is_dir() and any(not file.name.startswith(f"{STATE}.") for file in out.iterdir()):
        if not state.is_file():
            raise ValueError(f"out: {out} holds other files; name a new or an empty folder")
        begun = json.loads(state.read_text(encoding="utf-8"))
        different = [k for k in {**begun, **settings} if begun.get(k) != settings.get(k)]
        if different:
            name = different[0]
            raise ValueError(
                f"out: {out} was begun with {name} {begun.get(name)!r}, not {settings.get(name)!r}; name another folder"
            )
        for left in out.rglob("*.part"):  # of a run that was killed while it wrote
            left.unlink()
    out.mkdir(parents=True, exist_ok=True)
    write_text(state, json.dumps(settings, indent=1) + "\n")
    return out


def write_text(path: Path, text: str) -> None:
    """Write a text file at once."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file at once: under another name first, so that no half of it is ever seen."""
    part = _part(path)
    part.write_bytes(content)
    os.replace(part, path)


def _part(path: Path) -> Path:
    """Return the name to write under first; of this process alone, as a killed run may have left another writing."""
    return path.with_name(f"{path.name}.{os.getpid()}.part")


def copy_image(source: Path, target: Path) -> None:
    """Copy an image at once, unless it is there."""
    if not target.exists():
        part = _part(target)
        shutil.copyfile(source, part)
        os.replace(part, target)


def write_dataset(
    out: Path, splits: Mapping[str, Iterable[Record]], names: Sequence[str], source: Mapping[str, Any]
) -> dict[str, Any]:
    """Write images, labels, ground truth, ``data.yaml`` and the report.

    Args:
        out: Folder, claimed before.
        splits: Images by split.
        names: Class names in the source's official order.
        source: What the report says of the source.

    Returns:
        The report, as written to ``conversion_report.json``.

    Raises:
        ValueError: If two images have the same name.
    """
    report: dict[str, Any] = {**source, "names": list(names), "splits": {}}
    for split, records in splits.items():
        report["splits"][split] = _write_split(out, split, records, names)
    write_yaml(out / "data.yaml", out, {s: f"images/{s}" for s in splits}, names)
    write_text(out / REPORT, json.dumps(report, indent=1) + "\n")
    return report


def write_yaml(path: Path, root: Path, splits: Mapping[str, Any], names: Sequence[str]) -> None:
    """Write a dataset YAML with the COCO ground truth of every split."""
    data = {
        "path": str(root),
        **splits,
        "names": dict(enumerate(names)),
        "annotations": {s: f"annotations/{s}.json" for s in splits},
    }
    write_text(path, yaml.safe_dump(data, sort_keys=False))


def new_counts(names: Sequence[str]) -> dict[str, Any]:
    """Return the counts of a split, all zero."""
    return {
        "images": 0,
        "images_without_objects": 0,
        "boxes_read": 0,
        "boxes_written": 0,
        "clipped": 0,
        "dropped_degenerate": 0,
        "dropped_outside": 0,
        "ignored": 0,
        "classes": dict.fromkeys(names, 0),
        "sizes": dict.fromkeys(SIZES, 0),
    }


def count_sizes(sides: NDArray[np.float64]) -> dict[str, int]:
    """Count objects by AI-TOD's sizes, from the square roots of their areas, px."""
    places = np.searchsorted([*SIZES.values()][:-1], sides)
    return dict(zip(SIZES, np.bincount(places, minlength=len(SIZES)).tolist()))


def clean(
    record: Record, counts: dict[str, Any], names: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Clip the boxes of an image, find those to keep, and count.

    Args:
        record: The image.
        counts: Counts of its split; changed.
        names: Class names.

    Returns:
        The clipped boxes, xyxy px, (N, 4), and which are kept, bool, (N,).
    """
    size = np.array([record.width, record.height] * 2, dtype=np.float64)
    boxes = record.boxes.clip(0, size)
    solid = (record.boxes[:, 2:] > record.boxes[:, :2]).all(1)
    kept = np.asarray((boxes[:, 2:] > boxes[:, :2]).all(1))
    labelled = kept & ~record.ignored
    counts["images"] += 1
    counts["images_without_objects"] += int(not labelled.any())
    counts["boxes_read"] += len(boxes)
    counts["boxes_written"] += int(labelled.sum())
    counts["clipped"] += int((kept & (boxes != record.boxes).any(1)).sum())
    counts["dropped_degenerate"] += int((~solid).sum())
    counts["dropped_outside"] += int((solid & ~kept).sum())
    counts["ignored"] += int((kept & record.ignored).sum())
    for label in record.classes[labelled]:
        counts["classes"][names[label]] += 1
    for name, number in count_sizes(np.sqrt((boxes[labelled, 2:] - boxes[labelled, :2]).prod(1))).items():
        counts["sizes"][name] += number
    return boxes, kept


def label_text(record: Record, boxes: NDArray[np.float64], chosen: NDArray[np.bool_]) -> str:
    """Return YOLO labels: class, centre and size normalised to the image."""
    size = np.array([record.width, record.height], dtype=np.float64)
    middle, sides = (boxes[:, :2] + boxes[:, 2:]) / 2 / size, (boxes[:, 2:] - boxes[:, :2]) / size
    rows = np.concatenate([middle, sides], 1)[chosen].tolist()
    return "".join(f"{c} {x:.8f} {y:.8f} {w:.8f} {h:.8f}\n" for c, (x, y, w, h) in zip(record.classes[chosen], rows))


def coco_annotations(
    record: Record, boxes: NDArray[np.float64], kept: NDArray[np.bool_], image_id: int, first: int
) -> list[dict[str, Any]]:
    """Return COCO annotations of an image, ignored objects as crowd, ids from ``first``."""
    found: list[dict[str, Any]] = []
    for number in np.flatnonzero(kept).tolist():
        x1, y1, x2, y2 = boxes[number].round(4).tolist()
        width, height = round(x2 - x1, 4), round(y2 - y1, 4)
        found.append(
            {
                "id": first + len(found),
                "image_id": image_id,
                "category_id": int(record.classes[number]) + 1,
                "bbox": [x1, y1, width, height],
                "area": width * height,
                "iscrowd": int(record.ignored[number]),
            }
        )
    return found


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield the items and show on the terminal how far they are."""
    shown = -1
    for i, item in enumerate(items):
        percent = 100 * i // max(total, 1)
        if percent != shown and sys.stderr.isatty():
            print(f"\r{what}: {i} of {total}", end="", file=sys.stderr, flush=True)
            shown = percent
        yield item
    end = "\r" if sys.stderr.isatty() else ""
    print(f"{end}{what}: {total} of {total}", file=sys.stderr)


def _write_split(out: Path, split: str, records: Iterable[Record], names: Sequence[str]) -> dict[str, Any]:
    for kind in ("images", "labels"):
        (out / kind / split).mkdir(parents=True, exist_ok=True)
    (out / "annotations").mkdir(exist_ok=True)
    counts = new_counts(names)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    seen: dict[str, Path] = {}
    records = list(records)
    for record in progress(records, len(records), split):
        stem = Path(record.name).stem
        if stem in seen:
            raise ValueError(f"{split}: two images are called {stem!r}: {seen[stem]} and {record.image}")
        seen[stem] = record.image
        boxes, kept = clean(record, counts, names)
        image_id = len(images) + 1
        images.append({"id": image_id, "file_name": record.name, "width": record.width, "height": record.height})
        annotations += coco_annotations(record, boxes, kept, image_id, len(annotations) + 1)
        write_text(out / "labels" / split / f"{stem}.txt", label_text(record, boxes, kept & ~record.ignored))
        target = out / "images" / split / record.name
        if record.save and not target.exists():
            record.save(target)
        elif not record.save:
            copy_image(record.image, target)
    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    write_text(out / "annotations" / f"{split}.json", json.dumps(coco))
    return counts
