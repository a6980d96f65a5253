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

from ..rotated import corners, hulls
from .boxes import areas, cut

T = TypeVar("T")
STATE = "rfla-yolo-data.json"  # says which command with which settings the folder belongs to
SOURCES = "sources.json"  # what each image was made of
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
        boxes: Objects in px of the image, xyxy, (N, 4), or oriented, (N, 5), as in `boxes.py`; of one kind in a set.
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


def source_stamp(path: Path) -> list[Any]:
    """Return what tells a file from what it was before: path, bytes, and time of the last change, ns."""
    state = path.stat()
    return [str(path.resolve()), state.st_size, state.st_mtime_ns]


def forget_stale(out: Path, made_of: Mapping[str, Mapping[str, list[Any]]]) -> None:
    """Remove images whose sources have gone or changed since an earlier run, with their labels, and note the new ones.

    To be called before images are written: then every image that is there is of the source that is noted.

    Args:
        out: Folder of the dataset.
        made_of: By split and name of an image, `source_stamp` and whatever else makes its content.
    """
    noted = out / SOURCES
    before = json.loads(noted.read_text(encoding="utf-8")) if noted.is_file() else {}
    for split in {*before, *made_of}:
        old, new = before.get(split, {}), made_of.get(split, {})
        same = {Path(name).stem for name, source in new.items() if old.get(name) == source}
        for file in [*out.glob(f"images/{split}/*"), *out.glob(f"labels/{split}/*")]:
            if (
                file.stem not in same and file.is_file()
            ):  # an image, its labels, or its pixels as training has kept them (.npy)
                file.unlink()
        if split not in made_of:
            for file in [*out.glob(f"labels/{split}.cache"), *out.glob(f"annotations/{split}*.json")]:
                file.unlink()
    write_text(noted, json.dumps(made_of))


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


def is_written(path: Path) -> bool:
    """Return whether a file is there; not one without a byte, which a full disk or a crash of the machine leaves."""
    return path.is_file() and path.stat().st_size > 0


def copy_image(source: Path, target: Path) -> None:
    """Copy an image at once, unless it is there."""
    if not is_written(target):
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
    listed = {split: list(records) for split, records in splits.items()}
    for split, records in listed.items():
        _check_names(split, records)
    forget_stale(out, {s: {r.name: source_stamp(r.image) for r in records} for s, records in listed.items()})
    for split, records in listed.items():
        report["splits"][split] = write_annotations(out, split, records, names)
        _write_images(out / "images" / split, records)
    write_yaml(out / "data.yaml", out, {s: f"images/{s}" for s in listed}, names)
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
    """Cut the boxes of an image at its borders, drop those without an area there, and count.

    Args:
        record: The image.
        counts: Counts of its split; changed.
        names: Class names.

    Returns:
        The clipped boxes and which are kept, bool, (N,).
    """
    boxes, visible = cut(record.boxes, (0, 0, record.width, record.height))
    kept = visible > 0
    solid = areas(record.boxes) > 0
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
    for name, number in count_sizes(np.sqrt(areas(boxes[labelled]))).items():
        counts["sizes"][name] += number
    return boxes, kept


def label_text(record: Record, boxes: NDArray[np.float64], chosen: NDArray[np.bool_]) -> str:
    """Return YOLO labels: class and centre and size, or the four corners, normalised to the image."""
    size = np.array([record.width, record.height], dtype=np.float64)
    if boxes.shape[1] == 5:
        rows = (corners(boxes) / size).reshape(-1, 8)
    else:
        middle, sides = (boxes[:, :2] + boxes[:, 2:]) / 2 / size, (boxes[:, 2:] - boxes[:, :2]) / size
        rows = np.concatenate([middle, sides], 1)
    lines = zip(record.classes[chosen], rows[chosen].tolist())
    return "".join(f"{c} {' '.join(f'{value:.8f}' for value in row)}\n" for c, row in lines)


def coco_annotations(
    record: Record, boxes: NDArray[np.float64], kept: NDArray[np.bool_], image_id: int, first: int
) -> list[dict[str, Any]]:
    """Return COCO annotations of an image, ignored objects as crowd, ids from ``first``.

    Oriented boxes are ``rbox``, with the axis-aligned box around them as ``bbox``.
    """
    found: list[dict[str, Any]] = []
    for number in np.flatnonzero(kept).tolist():
        if boxes.shape[1] == 5:
            x, y, width, height, angle = boxes[number].tolist()
            width, height = round(width, 4), round(height, 4)
            rbox = [round(x, 4), round(y, 4), width, height, round(angle, 6)]
            shape = {"bbox": hulls(boxes[number : number + 1])[0].round(4).tolist(), "rbox": rbox}
        else:
            x1, y1, x2, y2 = boxes[number].round(4).tolist()
            width, height = round(x2 - x1, 4), round(y2 - y1, 4)
            shape = {"bbox": [x1, y1, width, height]}
        found.append(
            {
                "id": first + len(found),
                "image_id": image_id,
                "category_id": int(record.classes[number]) + 1,
                **shape,
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


def _check_names(split: str, records: Iterable[Record]) -> None:
    """Raise ValueError where two images would share their labels."""
    seen: dict[str, Path] = {}
    for record in records:
        stem = Path(record.name).stem
        if stem in seen:
            raise ValueError(f"{split}: two images are called {stem!r}: {seen[stem]} and {record.image}")
        seen[stem] = record.image


def write_annotations(
    out: Path, name: str, records: Sequence[Record], names: Sequence[str], labels: bool = True
) -> dict[str, Any]:
    """Write the COCO ground truth of images, ids from 1 in their order, and their YOLO labels.

    Args:
        out: Folder of the dataset.
        name: The split, or what else the ground truth is called.
        records: The images.
        names: Class names.
        labels: Write labels too.

    Returns:
        The counts.
    """
    (out / "annotations").mkdir(exist_ok=True)
    if labels:
        (out / "labels" / name).mkdir(parents=True, exist_ok=True)
    counts = new_counts(names)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for record in progress(records, len(records), f"annotations of {name}"):
        boxes, kept = clean(record, counts, names)
        image_id = len(images) + 1
        images.append({"id": image_id, "file_name": record.name, "width": record.width, "height": record.height})
        annotations += coco_annotations(record, boxes, kept, image_id, len(annotations) + 1)
        if labels:
            text = label_text(record, boxes, kept & ~record.ignored)
            write_text(out / "labels" / name / f"{Path(record.name).stem}.txt", text)
    categories = [{"id": i, "name": category} for i, category in enumerate(names, start=1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    write_text(out / "annotations" / f"{name}.json", json.dumps(coco))
    return counts


def _write_images(folder: Path, records: Sequence[Record]) -> None:
    """Write the images that are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for record in progress(records, len(records), f"images of {folder.name}"):
        target = folder / record.name
        if record.save and not is_written(target):
            record.save(target)
        elif not record.save:
            copy_image(record.image, target)
