"""Datasets in their own formats, read into `Record`: COCO, VisDrone, DOTA and TinyPerson.

Class names stand in the source's official order. What a set's own evaluation ignores comes as ``ignored``.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..scenes.images import IMAGE_SUFFIXES, explain_image, image_size, read_image
from .boxes import min_area_boxes
from .coco import by_image, check_size, class_names, class_order, coco_boxes, read_coco
from .writer import Record, claim_folder, write_bytes, write_dataset

SPLITS = ("train", "val", "test")  # what training reads of a dataset YAML
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


def convert_coco(
    annotations: Sequence[str | Path], images: Sequence[str | Path], out: str | Path, splits: Sequence[str] = ()
) -> dict[str, Any]:
    """Convert COCO detection sets.

    Args:
        annotations: One JSON file for each split.
        images: Folder of the images, one for all splits or one for each.
        out: Folder to write to.
        splits: Names of the splits, of train, val and test; in this order by default.

    Returns:
        The report.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is no COCO file, or names, folders and files do not fit.
    """
    names_of = list(splits or SPLITS[: len(annotations)])
    folders = [Path(folder) for folder in images] * (len(annotations) if len(images) == 1 else 1)
    if not len(names_of) == len(annotations) == len(folders):
        raise ValueError(
            f"coco: {len(annotations)} annotation files need as many splits and one image folder or as many, "
            f"not {len(names_of)} and {len(images)}"
        )
    if len(set(names_of)) < len(names_of) or not set(names_of) <= set(SPLITS):
        raise ValueError(f"splits must be different ones of {', '.join(SPLITS)}, not {' '.join(map(repr, names_of))}")
    files = [Path(file) for file in annotations]
    contents = [read_coco(file) for file in files]
    names = _same_names(files, contents)
    records = {s: list(_coco_records(c, f, file)) for s, c, f, file in zip(names_of, contents, folders, files)}
    settings = {"annotations": [str(file.resolve()) for file in files], "splits": names_of}
    settings["images"] = [str(folder.resolve()) for folder in folders]
    root = claim_folder(Path(out), {"command": "coco", **settings})
    source = {"source": "coco", "annotations": [str(file) for file in files], "crowd": "iscrowd=1 is ignored"}
    return write_dataset(root, records, names, source)


def _coco_records(content: dict[str, Any], folder: Path, file: Path) -> Iterator[Record]:
    """Yield the images of a COCO file; crowd and ``ignore`` are ignored."""
    order = class_order(content)
    of_image = by_image(content)
    for image in content["images"]:
        objects = of_image[image["id"]]
        path = folder / image["file_name"].replace("\\", "/")
        if not path.is_file():
            raise FileNotFoundError(f"{file}: image {image['file_name']} is not in {folder}")
        classes = [order[a["category_id"]] for a in objects]
        ignored = [bool(a.get("iscrowd") or a.get("ignore")) for a in objects]
        record = _record(path, coco_boxes(objects), classes, ignored, _flat_name(image["file_name"]))
        check_size(image, (record.width, record.height), str(file))
        yield record


def _flat_name(name: str) -> str:
    """Return a path as a file name of one folder.

    Example:
        >>> _flat_name("./night/1.jpg")
        'night_1.jpg'
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    # a name that begins with a dot is hidden: training would not find it
    return "_".join(part for part in parts if part not in ("/", "..")).lstrip(".")


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
    others: dict[str, int] = {}
    unlabelled: dict[str, int] = {}
    records = {split: list(_visdrone_records(folder, split, others, unlabelled)) for split, folder in folders.items()}
    claimed = claim_folder(Path(out), {"command": "visdrone", "root": str(Path(root).resolve())})
    source = {"source": "VisDrone2019-DET", "ignored_regions": "crowd of every class", "others_left_out": others}
    return write_dataset(claimed, records, VISDRONE_NAMES, {**source, "images_without_label_file": unlabelled})


def _visdrone_records(folder: Path, split: str, others: dict[str, int], unlabelled: dict[str, int]) -> Iterator[Record]:
    others[split] = 0
    pairs = _pairs(folder, "annotations", _visible(folder / "annotations", (".txt",)), split, unlabelled)
    for file, image in pairs:
        boxes, classes, ignored = [], [], []
        for number, line in _lines(file):
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
        yield _record(image, boxes, classes, ignored)


def convert_dota(
    root: str | Path, out: str | Path, version: str = "1.0", difficult: bool = True, oriented: bool = False
) -> dict[str, Any]:
    """Convert DOTA: oriented boxes to their horizontal hull, or as they are.

    Args:
        root: Folder with ``train`` and ``val``, each with ``images`` and ``labelTxt`` (or ``labelTxt-v1.5`` ...).
        out: Folder to write to.
        version: "1.0", "1.5" or "2.0": 15, 16 or 18 classes.
        difficult: Train on objects flagged difficult too; without, they are crowd in the ground truth.
        oriented: Write oriented boxes, the rectangles of the smallest area around DOTA's quadrilaterals, as Ultralytics
            trains on them: labels of four corners for ``--task obb``, and ``rbox`` in the ground truth.

    Returns:
        The report.

    Raises:
        FileNotFoundError: If no split is there, or an image is missing.
        ValueError: If the version is unknown, its labels cannot be told from others, or a line cannot be read.
    """
    if version not in DOTA_CLASSES:
        raise ValueError(f"version must be one of {', '.join(DOTA_CLASSES)}, not {version!r}")
    names = DOTA_NAMES[: DOTA_CLASSES[version]]
    folders = _splits(Path(root), {"train": "train", "val": "val"})
    flagged: dict[str, int] = {}
    unlabelled: dict[str, int] = {}
    files = {split: _dota_label_files(folder, version) for split, folder in folders.items()}
    records = {
        split: list(_dota_records(folder, files[split], split, version, difficult, oriented, flagged, unlabelled))
        for split, folder in folders.items()
    }
    read = {split: sorted({_below(f.parent, folders[split]) for f in files[split]}) for split in folders}
    settings = {"command": "dota", "root": str(Path(root).resolve()), "version": version, "difficult": difficult}
    settings |= {"oriented": True} if oriented else {}  # folders that were begun before the setting was there go on
    claimed = claim_folder(Path(out), settings)
    handled = "kept for training" if difficult else "ignored"
    source = {
        "source": f"DOTA {version}",
        "boxes": "rectangle of the smallest area" if oriented else "horizontal hull",
        "difficult": handled,
        "flagged": flagged,
        "labels": read,
    }
    return write_dataset(claimed, records, names, {**source, "images_without_label_file": unlabelled})


def _dota_records(
    folder: Path,
    files: Sequence[Path],
    split: str,
    version: str,
    difficult: bool,
    oriented: bool,
    flagged: dict[str, int],
    unlabelled: dict[str, int],
) -> Iterator[Record]:
    flagged[split] = 0
    newer: dict[int, str] = {}  # classes that the version does not have, and where they are
    for file, image in _pairs(folder, "labelTxt*", files, split, unlabelled):
        boxes, classes, ignored = [], [], []
        for number, line in _lines(file):
            cells = line.split()
            if line.startswith(("imagesource:", "gsd:")):
                continue
            try:
                points = np.array([float(cell) for cell in cells[:8]]).reshape(4, 2)
                label, flag = DOTA_NAMES.index(cells[8]), any(int(cell) for cell in cells[9:10])
                if len(cells) > 10 or not np.isfinite(points).all():
                    raise ValueError
            except (ValueError, IndexError):
                raise ValueError(f"{file}:{number}: expected x1 y1 ... x4 y4 class difficult, found {line!r}") from None
            if label >= DOTA_CLASSES[version]:
                newer.setdefault(label, f"{file}:{number}")
            flagged[split] += flag
            boxes.append(min_area_boxes([points])[0] if oriented else [*points.min(0), *points.max(0)])
            classes.append(label)
            ignored.append(flag and not difficult)
        yield _record(image, boxes, classes, ignored, columns=5 if oriented else 4)
    if newer:
        label = max(newer)
        needed = next(v for v, number in DOTA_CLASSES.items() if label < number)
        raise ValueError(
            f"{newer[label]}: {DOTA_NAMES[label]!r} is no class of DOTA {version}: these are labels of {needed}, "
            f"use --version {needed}"
        )


def _dota_label_files(folder: Path, version: str) -> list[Path]:
    """Return the label files of a version, of oriented boxes where there are horizontal ones too.

    They lie in ``labelTxt``, ``labelTxt-v1.5``, or in folders below these: ``labelTxt-v1.0/labelTxt`` beside
    ``labelTxt-v1.0/trainset_reclabelTxt`` (horizontal), ``labelTxt-v1.5/DOTA-v1.5_train`` beside ``..._hbb``.
    Beside folders that name a version, one that names none is version 1.0, which came without.
    """
    files = [file for top in sorted(folder.glob("labelTxt*")) for file in _visible(top, (".txt",))]
    by_version: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        named = re.findall(r"v(\d\.\d)", _below(file.parent, folder))
        by_version[named[-1] if named else ""].append(file)
    unnamed = by_version.pop("", [])
    others = " or ".join(sorted(by_version))
    found = by_version.get(version) or unnamed
    if files and not found:
        raise ValueError(f"dota: {folder} has no labels of version {version}: use --version {others}")
    if others and found is unnamed and version != "1.0":
        top = _below(unnamed[0].parent, folder)
        raise ValueError(
            f"dota: {folder} has labels of version {others}, and those in {top}, which names none: where they are of "
            f"version {version}, rename it to labelTxt-v{version}"
        )
    horizontal = re.compile("reclabel|hbb", re.IGNORECASE)
    return [f for f in found if not horizontal.search(_below(f.parent, folder))] or found


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


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
    index: dict[str, list[Path]] = defaultdict(list)
    for path in _visible(folder, IMAGE_SUFFIXES):
        if Path(out).resolve() not in path.resolve().parents:
            index[path.name].append(path)
    records = {split: list(_tinyperson_records(read_coco(file), index, file)) for split, file in files.items()}
    claimed = claim_folder(Path(out), {"command": "tinyperson", "root": str(folder.resolve())})
    source = {"source": "TinyPerson", "annotations": {s: str(f.relative_to(folder)) for s, f in files.items()}}
    return write_dataset(claimed, records, ("person",), {**source, "ignored_boxes": "ignore, uncertain and crowd"})


def _tinyperson_file(root: Path, part: str) -> Path:
    """Return the annotation file of a part: tiles before whole images, all persons before parts of them."""
    found = sorted(root.rglob(f"tiny_set_{part}*.json"), key=lambda p: ("corner" not in p.parts, len(p.name), str(p)))
    if not found:
        raise FileNotFoundError(f"tinyperson: no tiny_set_{part}*.json under {root}")
    return found[0]


def _tinyperson_records(content: dict[str, Any], index: Mapping[str, list[Path]], file: Path) -> Iterator[Record]:
    of_image = by_image(content)
    for image in content["images"]:
        path = _tinyperson_image(image["file_name"], index, file)
        objects = of_image[image["id"]]
        boxes = coco_boxes(objects)
        ignored = [bool(a.get("ignore") or a.get("uncertain") or a.get("iscrowd")) for a in objects]
        record = _record(path, boxes, [0] * len(boxes), ignored)
        if not image.get("corner"):
            check_size(image, (record.width, record.height), str(file))
            yield record
            continue
        left, top, right, bottom = _corner(image, record, file)
        name = f"{path.stem}__{left}_{top}.png"
        save = partial(cut, path, (left, top, right, bottom))
        yield replace(record, name=name, width=right - left, height=bottom - top, save=save)


def _corner(image: dict[str, Any], whole: Record, file: Path) -> tuple[int, int, int, int]:
    try:
        left, top, right, bottom = (int(v) for v in image["corner"])
        inside = 0 <= left < min(right, whole.width) and 0 <= top < min(bottom, whole.height)
    except (TypeError, ValueError):
        inside = False
    if not inside:
        raise ValueError(
            f"{file}: corner {image['corner']!r} of {image['file_name']} must be left, top, right, bottom "
            f"in {whole.width} x {whole.height} px"
        )
    return left, top, right, bottom


def _tinyperson_image(name: str, index: Mapping[str, list[Path]], file: Path) -> Path:
    """Return the image that an annotation file means: pictures of one name lie in several folders."""
    found = index.get(PurePosixPath(name).name, [])
    part = "train" if "train" in file.name else "test"
    erased = any("erase" in step for step in file.parts)
    for fits in (
        lambda path: path.as_posix().endswith(f"/{PurePosixPath(name)}"),
        lambda path: part in path.parts,
        lambda path: any("erase" in step for step in path.parts) == erased,  # with uncertain persons painted over
    ):
        found = [path for path in found if fits(path)] or found
    if not found:
        raise FileNotFoundError(f"{file}: image {name} is not there")
    if len(found) > 1:
        raise ValueError(f"{file}: image {name} may be {found[0]} or {found[1]}; remove one of them")
    return found[0]


def cut(source: Path, corner: tuple[int, int, int, int], target: Path) -> None:
    """Write a part of an image, padded with black where it reaches beyond."""
    write_bytes(target, cv2.imencode(".png", crop(read_image(source), corner))[1].tobytes())


def crop(image: NDArray[Any], corner: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Return the part of an image (H, W, 3) from left, top to right, bottom, black where the image ends."""
    left, top, right, bottom = corner
    tile = np.zeros((bottom - top, right - left, 3), dtype=np.uint8)
    part = image[top:bottom, left:right]
    tile[: part.shape[0], : part.shape[1]] = part
    return tile


def _record(
    path: Path,
    boxes: Sequence[Any] | NDArray[Any],
    classes: Sequence[int],
    ignored: Sequence[bool],
    name: str = "",
    columns: int = 4,
) -> Record:
    """Return an image that is copied, after checking that training can use it.

    Raises:
        ValueError: If it is no image, holds more than 8 bits a value, or is of a kind that training passes over.
    """
    if Path(name or path).suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"{path}: training reads images named {', '.join(IMAGE_SUFFIXES)} alone")
    if problem := explain_image(path):
        raise ValueError(problem)
    return Record(
        path,
        name or path.name,
        *image_size(path),
        np.array(boxes, dtype=np.float64).reshape(-1, columns),
        np.array(classes, dtype=np.int64),
        np.array(ignored, dtype=bool),
    )


def _pairs(
    folder: Path, where: str, labels: Sequence[Path], split: str, unlabelled: dict[str, int]
) -> Iterator[tuple[Path, Path]]:
    """Yield every label file with its image from ``images``, and count the images that have none.

    Raises:
        FileNotFoundError: If there are no label files, or the image of one is missing.
        ValueError: If two files have the same stem.
    """
    if not labels:
        raise FileNotFoundError(f"{split}: no label files (.txt) in {folder / where}")
    images = _by_stem(_visible(folder / "images", IMAGE_SUFFIXES))
    by_stem = _by_stem(labels)
    unlabelled[split] = len(images.keys() - by_stem.keys())
    if unlabelled[split]:
        print(f"{split}: {unlabelled[split]} images have no label file and are left out", file=sys.stderr)
    for stem, file in by_stem.items():
        if stem not in images:
            raise FileNotFoundError(f"{file}: no image {stem} in {folder / 'images'}")
        yield file, images[stem]


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a label file that are not blank, numbered from 1."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: is no text: {error}") from None
    yield from ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _by_stem(files: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        if file.stem in found:
            raise ValueError(f"two files are called {file.stem!r}: {found[file.stem]} and {file}")
        found[file.stem] = file
    return found


def _visible(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files below a folder, sorted, without the hidden ones that some archivers leave beside each file."""
    files = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in suffixes)
    return [path for path in files if not path.name.startswith(".")]


def _splits(root: Path, folders: dict[str, str]) -> dict[str, Path]:
    found = {split: root / name for split, name in folders.items() if (root / name).is_dir()}
    if not found:
        raise FileNotFoundError(f"root: none of {', '.join(folders.values())} is in {root}")
    return found


def _same_names(files: Sequence[Path], contents: Sequence[dict[str, Any]]) -> list[str]:
    """Return the class names, ordered by id, after checking that all files agree."""
    names = [class_names(content) for content in contents]
    for file, found in zip(files, names):
        if found != names[0]:
            raise ValueError(f"annotations: {file} has categories {found}, {files[0]} has {names[0]}")
    return names[0]
