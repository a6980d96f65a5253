"""Datasets in their own formats, read into `Record`: COCO, VisDrone, DOTA and TinyPerson.

Class names stand in the source's official order. What a set's own evaluation ignores comes as ``ignored``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .writer import Record, claim_folder, write_bytes, write_dataset

VISDRONE_NAMES = (
    "pedestrian",
    "people",
    "bicycle",
    "car",
    "van",
    "truck",
    "tricycle",
    "awning-tricycle",
    "bus",
    "motor",
)
VISDRONE_SPLITS = {
    "train": "VisDrone2019-DET-train",
    "val": "VisDrone2019-DET-val",
    "test": "VisDrone2019-DET-test-dev",
}
VISDRONE_IGNORED, VISDRONE_OTHERS = 0, 11  # categories that are no classes

DOTA_NAMES = (  # the first 15 are version 1.0, 16 are 1.5, all are 2.0
    "plane",
    "baseball-diamond",
    "bridge",
    "ground-track-field",
    "small-vehicle",
    "large-vehicle",
    "ship",
    "tennis-court",
    "basketball-court",
    "storage-tank",
    "soccer-ball-field",
    "roundabout",
    "harbor",
    "swimming-pool",
    "helicopter",
    "container-crane",
    "airport",
    "helipad",
)
DOTA_CLASSES = {"1.0": 15, "1.5": 16, "2.0": 18}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")


def convert_coco(
    annotations: Sequence[str | Path], images: Sequence[str | Path], out: str | Path, splits: Sequence[str] = ()
) -> dict[str, Any]:
    """Convert COCO detection sets.

    Args:
        annotations: One JSON file for each split.
        images: Folder of the images, one for all splits or one for each.
        out: Folder to write to.
        splits: Names of the splits; train, val, test in the order of the files by default.

    Returns:
        The report.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is no COCO file, or names, folders and files do not fit.
    """
    names_of = list(splits) or ["train", "val", "test"][: len(annotations)]
    folders = [Path(folder) for folder in images] * (len(annotations) if len(images) == 1 else 1)
    if not len(names_of) == len(annotations) == len(folders):
        raise ValueError(
            f"coco: {len(annotations)} annotation files need as many splits and one image folder or as many, "
            f"not {len(names_of)} and {len(images)}"
        )
    files = [Path(file) for file in annotations]
    contents = [read_coco(file) for file in files]
    names = _same_names(files, contents)
    root = claim_folder(Path(out), {"command": "coco", "annotations": [str(file.resolve()) for file in files]})
    records = {s: coco_records(c, f, file) for s, c, f, file in zip(names_of, contents, folders, files)}
    source = {"source": "coco", "annotations": [str(file) for file in files], "crowd": "iscrowd=1 is ignored"}
    return write_dataset(root, records, names, source)


def read_coco(path: Path) -> dict[str, Any]:
    """Read a COCO file and check that it is one.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it is no COCO detection file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"annotations: no such file: {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"annotations: {path} is no JSON: {error}") from None
    missing = [key for key in ("images", "annotations", "categories") if key not in content]
    if missing:
        raise ValueError(f"annotations: {path} is no COCO file: it has no {missing[0]!r}")
    return content


def coco_records(content: dict[str, Any], folder: Path, file: Path) -> Iterator[Record]:
    """Yield the images of a COCO file, categories ordered by id; crowd and ``ignore`` are ignored."""
    order = {c["id"]: i for i, c in enumerate(sorted(content["categories"], key=lambda c: c["id"]))}
    of_image = by_image(content)
    for image in content["images"]:
        objects = of_image[image["id"]]
        path = folder / image["file_name"]
        if not path.is_file():
            raise FileNotFoundError(f"{file}: image {image['file_name']} is not in {folder}")
        width, height = (image["width"], image["height"]) if "width" in image else image_size(path)
        classes = np.array([order[a["category_id"]] for a in objects], dtype=np.int64)
        ignored = np.array([bool(a.get("iscrowd") or a.get("ignore")) for a in objects], dtype=bool)
        yield Record(path, image["file_name"].replace("/", "_"), width, height, coco_boxes(objects), classes, ignored)


def by_image(content: dict[str, Any]) -> dict[Any, list[dict[str, Any]]]:
    """Return the annotations of every image of a COCO file, none for an image without any."""
    found: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        found[annotation["image_id"]].append(annotation)
    return found


def coco_boxes(objects: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    """Return the boxes of COCO annotations, xyxy px, (N, 4)."""
    boxes = np.array([a["bbox"] for a in objects], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def convert_visdrone(root: str | Path, out: str | Path) -> dict[str, Any]:
    """Convert VisDrone2019-DET: train, val and, where it is there, test-dev.

    Its evaluation ignores what lies in ignored regions (category 0) and boxes of score 0. A region becomes a crowd box
    of every class. Boxes of "others" (category 11) are no class and are left out.

    Args:
        root: Folder that holds ``VisDrone2019-DET-train`` and the like.
        out: Folder to write to.

    Returns:
        The report.

    Raises:
        FileNotFoundError: If no split is there, or an image is missing.
        ValueError: If a line cannot be read.
    """
    folders = _splits(Path(root), VISDRONE_SPLITS)
    claimed = claim_folder(Path(out), {"command": "visdrone", "root": str(Path(root).resolve())})
    others: dict[str, int] = {}
    records = {split: list(_visdrone_records(folder, split, others)) for split, folder in folders.items()}
    source = {"source": "VisDrone2019-DET", "ignored_regions": "crowd of every class", "others_left_out": others}
    return write_dataset(claimed, records, VISDRONE_NAMES, source)


def _visdrone_records(folder: Path, split: str, others: dict[str, int]) -> Iterator[Record]:
    others[split] = 0
    for file in sorted((folder / "annotations").glob("*.txt")):
        boxes, classes, ignored = [], [], []
        for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                x, y, w, h, score, category = (int(cell) for cell in line.rstrip(", ").split(",")[:6])
            except ValueError:
                raise ValueError(f"{file}:{number}: expected x,y,w,h,score,category,..., found {line!r}") from None
            if category == VISDRONE_OTHERS:
                others[split] += 1
                continue
            if not 0 <= category < VISDRONE_OTHERS:
                raise ValueError(f"{file}:{number}: category {category} is not one of 0 to 11")
            region = category == VISDRONE_IGNORED
            for label in range(len(VISDRONE_NAMES)) if region else [category - 1]:
                boxes.append([x, y, x + w, y + h])
                classes.append(label)
                ignored.append(region or score == 0)
        yield _record(_image_of(folder / "images", file.stem), boxes, classes, ignored)


def convert_dota(root: str | Path, out: str | Path, version: str = "1.0", difficult: bool = True) -> dict[str, Any]:
    """Convert DOTA: oriented boxes to their horizontal hull.

    Args:
        root: Folder with ``train`` and ``val``, each with ``images`` and ``labelTxt`` (or ``labelTxt-v1.5`` ...).
        out: Folder to write to.
        version: "1.0", "1.5" or "2.0": 15, 16 or 18 classes.
        difficult: Train on objects flagged difficult too; without, they are crowd in the ground truth.

    Returns:
        The report.

    Raises:
        FileNotFoundError: If no split is there, or an image is missing.
        ValueError: If the version is unknown or a line cannot be read.
    """
    if version not in DOTA_CLASSES:
        raise ValueError(f"version must be one of {', '.join(DOTA_CLASSES)}, not {version!r}")
    names = DOTA_NAMES[: DOTA_CLASSES[version]]
    folders = _splits(Path(root), {"train": "train", "val": "val"})
    settings = {"command": "dota", "root": str(Path(root).resolve()), "version": version, "difficult": difficult}
    claimed = claim_folder(Path(out), settings)
    flagged: dict[str, int] = {}
    records = {s: list(_dota_records(folder, s, names, difficult, flagged)) for s, folder in folders.items()}
    handled = "kept for training" if difficult else "ignored"
    source = {"source": f"DOTA {version}", "boxes": "horizontal hull", "difficult": handled, "flagged": flagged}
    return write_dataset(claimed, records, names, source)


def _dota_records(
    folder: Path, split: str, names: Sequence[str], difficult: bool, flagged: dict[str, int]
) -> Iterator[Record]:
    labels = sorted(path for path in folder.glob("labelTxt*") if path.is_dir())
    if not labels:
        raise FileNotFoundError(f"dota: no labelTxt in {folder}")
    flagged[split] = 0
    for file in sorted(labels[0].rglob("*.txt")):
        boxes, classes, ignored = [], [], []
        for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
            cells = line.split()
            if not cells or line.startswith(("imagesource:", "gsd:")):
                continue
            try:
                points = np.array([float(cell) for cell in cells[:8]]).reshape(4, 2)
                label, flag = names.index(cells[8]), cells[9:] == ["1"]
            except (ValueError, IndexError):
                raise ValueError(f"{file}:{number}: expected x1 y1 ... x4 y4 class difficult, found {line!r}") from None
            flagged[split] += flag
            boxes.append([*points.min(0), *points.max(0)])
            classes.append(label)
            ignored.append(flag and not difficult)
        yield _record(_image_of(folder / "images", file.stem), boxes, classes, ignored)


def convert_tinyperson(root: str | Path, out: str | Path) -> dict[str, Any]:
    """Convert TinyPerson: one class, person; boxes to ignore, uncertain ones among them, become crowd.

    Its files either name whole images, or tiles of them by a ``corner`` (left, top, right, bottom), which are cut here.
    Train and test become the splits train and val.

    Args:
        root: Folder that holds ``annotations`` and the images.
        out: Folder to write to.

    Returns:
        The report.

    Raises:
        FileNotFoundError: If an annotation file or an image is missing.
        ValueError: If a file is no COCO file.
    """
    folder = Path(root)
    files = {split: _tinyperson_file(folder, part) for split, part in (("train", "train"), ("val", "test"))}
    claimed = claim_folder(Path(out), {"command": "tinyperson", "root": str(folder.resolve())})
    index = {path.name: path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES}
    records = {split: list(_tinyperson_records(read_coco(file), index, file)) for split, file in files.items()}
    source = {"source": "TinyPerson", "annotations": {s: str(f.relative_to(folder)) for s, f in files.items()}}
    return write_dataset(claimed, records, ("person",), {**source, "ignored_boxes": "ignore, uncertain and crowd"})


def _tinyperson_file(root: Path, part: str) -> Path:
    """Return the annotation file of a part: tiles before whole images, all persons before parts of them."""
    found = sorted(root.rglob(f"tiny_set_{part}*.json"), key=lambda p: ("corner" not in p.parts, len(p.name), p.name))
    if not found:
        raise FileNotFoundError(f"tinyperson: no tiny_set_{part}*.json under {root}")
    return found[0]


def _tinyperson_records(content: dict[str, Any], index: dict[str, Path], file: Path) -> Iterator[Record]:
    of_image = by_image(content)
    for image in content["images"]:
        path = index.get(Path(image["file_name"]).name)
        if path is None:
            raise FileNotFoundError(f"{file}: image {image['file_name']} is not there")
        objects = of_image[image["id"]]
        boxes = coco_boxes(objects)
        ignored = [bool(a.get("ignore") or a.get("uncertain") or a.get("iscrowd")) for a in objects]
        corner = image.get("corner")
        if not corner:
            yield _record(path, boxes, [0] * len(boxes), ignored)
            continue
        left, top, right, bottom = (int(v) for v in corner)
        name = f"{path.stem}__{left}_{top}.png"
        yield Record(
            path,
            name,
            right - left,
            bottom - top,
            boxes,
            np.zeros(len(boxes), dtype=np.int64),
            np.array(ignored, dtype=bool),
            partial(cut, path, (left, top, right, bottom)),
        )


def cut(source: Path, corner: tuple[int, int, int, int], target: Path) -> None:
    """Write a part of an image, padded with black where it reaches beyond."""
    image = cv2.imread(str(source))
    if image is None:
        raise ValueError(f"{source}: image cannot be read")
    write_bytes(target, cv2.imencode(".png", crop(image, corner))[1].tobytes())


def crop(image: NDArray[Any], corner: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Return the part of an image (H, W, 3) from left, top to right, bottom, black where the image ends."""
    left, top, right, bottom = corner
    tile = np.zeros((bottom - top, right - left, 3), dtype=np.uint8)
    part = image[top:bottom, left:right]
    tile[: part.shape[0], : part.shape[1]] = part
    return tile


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height of an image, px, from its header.

    Raises:
        ValueError: If it is no image.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise ValueError(f"{path}: image cannot be read: {error}") from None


def _record(path: Path, boxes: Any, classes: list[int], ignored: list[bool]) -> Record:
    width, height = image_size(path)
    return Record(
        path,
        path.name,
        width,
        height,
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(classes, dtype=np.int64),
        np.array(ignored, dtype=bool),
    )


def _image_of(folder: Path, stem: str) -> Path:
    for suffix in IMAGE_SUFFIXES:
        for name in (f"{stem}{suffix}", f"{stem}{suffix.upper()}"):
            if (folder / name).is_file():
                return folder / name
    raise FileNotFoundError(f"no image {stem} ({', '.join(IMAGE_SUFFIXES)}) in {folder}")


def _splits(root: Path, folders: dict[str, str]) -> dict[str, Path]:
    found = {split: root / name for split, name in folders.items() if (root / name).is_dir()}
    if not found:
        raise FileNotFoundError(f"root: none of {', '.join(folders.values())} is in {root}")
    return found


def _same_names(files: Sequence[Path], contents: Sequence[dict[str, Any]]) -> list[str]:
    """Return the class names, ordered by id, after checking that all files agree."""
    names = [[c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])] for content in contents]
    for file, found in zip(files, names):
        if found != names[0]:
            raise ValueError(f"annotations: {file} has categories {found}, {files[0]} has {names[0]}")
    return names[0]
