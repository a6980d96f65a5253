"""AI-TOD v1 and v2 from their parts: AI-TOD's own images, xView's training images, and the lists of tiles.

The tiles are those of the published toolkit (aitodtoolkit in github.com/jwwangchn/AI-TOD): 800 px every 600 px, the
last one of an axis moved back to the border, black where the image is smaller. The toolkit reads RGB and writes it as
if it were BGR, so its tiles have red and blue swapped; ``official`` keeps that, ``rgb`` mends it.
"""

from __future__ import annotations

import ast
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from ..config import resource_dir
from ..scenes.images import image_size, open_image, read_image
from .coco import by_image, class_names, class_order, coco_boxes, read_coco
from .sources import crop
from .writer import (
    REPORT,
    Record,
    claim_folder,
    clean,
    copy_image,
    is_written,
    label_text,
    new_counts,
    progress,
    write_bytes,
    write_text,
)

TILE, STEP = 800, 600  # px
SPLITS = ("train", "val", "test")
CHANNEL_ORDERS = ("official", "rgb")
# Annotation files by version and split: the name that the shipped YAMLs use first, then others in circulation.
FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "v1": {
        "train": ("aitod_train_v1.json", "aitod_training_v1.json"),
        "val": ("aitod_val_v1.json", "aitod_validation_v1.json"),
        "test": ("aitod_test_v1.json",),
        "trainval": ("aitod_trainval_v1.json",),
    },
    "v2": {
        "train": ("aitodv2_train.json", "aitod_train_v2.json"),
        "val": ("aitodv2_val.json", "aitod_val_v2.json"),
        "test": ("aitodv2_test.json", "aitod_test_v2.json"),
        "trainval": ("aitodv2_trainval.json", "aitod_trainval_v2.json"),
    },
}
YAMLS = {"v1": ("aitod.yaml", "aitod-trainval.yaml"), "v2": ("aitodv2.yaml", "aitodv2-trainval.yaml")}
# Published counts: the AI-TOD repository's README (v1); v2 has the images of v1, its boxes are known to hundreds only.
PUBLISHED: dict[str, dict[str, int]] = {
    "v1": {"train": 11_214, "val": 2_804, "test": 14_018, "boxes": 700_621},
    "v2": {"train": 11_214, "val": 2_804, "test": 14_018, "boxes": 752_700},
}
ROUNDED = {"v1": 1, "v2": 100}  # what the published count of boxes is rounded to


@dataclass(frozen=True)
class Job:
    """Files to make from one source image.

    Attributes:
        source: The source: an xView image to cut, or an image to copy; None where it is missing.
        key: Name of the source for messages.
        targets: Files to write.
        corners: Left and top of the tile of each target, px; empty for a copy.
        swap: Leave red and blue swapped, as the published toolkit does.
    """

    source: Path | None
    key: str
    targets: tuple[Path, ...]
    corners: tuple[tuple[int, int], ...] = ()
    swap: bool = True


def build_aitod(
    aitod: str | Path,
    xview: str | Path,
    toolkit: str | Path,
    out: str | Path,
    *,
    version: str = "v1",
    channel_order: str = "official",
    workers: int | None = None,
) -> dict[str, Any]:
    """Build AI-TOD: images, YOLO labels, official ground truth, YAMLs and a report.

    A missing or damaged source is named in the report and the build goes on. Started again, it does what is missing.

    Args:
        aitod: Folder with AI-TOD's own images (AI-TOD_wo_xview) and the official JSON files, in any arrangement.
        xview: Folder with xView's training images, ``{id}.tif``. Its geojson is not needed: the official JSON files
            hold all annotations.
        toolkit: A clone of the AI-TOD repository, for its lists of tiles.
        out: Folder to write to.
        version: "v1" or "v2"; the images are the same.
        channel_order: "official" keeps the published toolkit's swap of red and blue in the xView tiles, "rgb" mends it.
        workers: Processes; all cores by default.

    Returns:
        The report, as written to ``conversion_report.json``; ``problems`` lists what is missing or does not agree with
        the published counts.

    Raises:
        FileNotFoundError: If the JSON files or the lists are not there.
        ValueError: If a setting is wrong, or ``out`` belongs to something else.
    """
    if version not in FILES:
        raise ValueError(f"version must be 'v1' or 'v2', not {version!r}")
    if channel_order not in CHANNEL_ORDERS:
        raise ValueError(f"channel-order must be 'official' or 'rgb', not {channel_order!r}")
    own, tiles, lists = (
        _folder(name, path) for name, path in (("aitod", aitod), ("xview", xview), ("toolkit", toolkit))
    )
    listed = {split: _read_list(lists, split) for split in SPLITS}
    files = _annotation_files(own, version)
    root = claim_folder(Path(out), {"command": "aitod", "version": version, "channel_order": channel_order})
    (root / "annotations").mkdir(exist_ok=True)

    own_index = _index(own, (".png",))
    tif_index = _index(tiles, (".tif", ".tiff"))
    expected = list(_template(YAMLS[version][0])["names"].values())
    jobs: list[Job] = []
    splits: dict[str, Any] = {}
    for split in SPLITS:
        content = read_coco(files[split])
        names = class_names(content)
        if names != expected:
            raise ValueError(f"aitod: {files[split]} has categories {names}, expected {expected}")
        splits[split] = _write_labels(root, split, content, names)
        image_names = sorted(image["file_name"] for image in content["images"])
        del content
        jobs += _jobs(root / "images" / split, split, image_names, listed[split], own_index, tif_index, channel_order)
    for split, file in files.items():
        copy_image(file, root / "annotations" / FILES[version][split][0])
    problems = _run(_joined(jobs), workers or os.cpu_count() or 1)
    problems += _count_problems(version, splits)
    for name in YAMLS[version]:
        _write_yaml(root, name)
    report = {"source": f"AI-TOD {version}", "channel_order": channel_order, "splits": splits, "problems": problems}
    write_text(root / REPORT, json.dumps(report, indent=1) + "\n")
    return report


def tile_starts(size: int) -> list[int]:
    """Return where the tiles of an axis start, px.

    Example:
        >>> tile_starts(2000)
        [0, 600, 1200]
        >>> tile_starts(2100), tile_starts(500)
        ([0, 600, 1200, 1300], [0])
    """
    starts = [0]
    while starts[-1] + TILE < size:
        following = starts[-1] + STEP
        starts.append(following if following + TILE < size else max(size - TILE, 0))
    return starts


def do_job(job: Job) -> list[str]:
    """Make the files of a job that are not there yet, and return what went wrong, in words."""
    targets = [target for target in job.targets if not is_written(target)]
    if not targets:
        return []
    if job.source is None:
        return [f"{job.key}: not found; {len(targets)} images missing: {_some(t.name for t in targets)}"]
    try:
        if not job.corners:
            _check_image(job.source)
            for target in targets:
                copy_image(job.source, target)
            return []
        image = read_image(job.source)
    except (OSError, ValueError, SyntaxError) as error:
        return [f"{job.source}: cannot be read ({error}); {len(targets)} images missing"]
    problems = []
    height, width = image.shape[:2]
    for target, (left, top) in zip(job.targets, job.corners):
        if left not in tile_starts(width) or top not in tile_starts(height):
            problems.append(
                f"{job.source}: of {width} x {height} px has no tile at {left}, {top}; {target.name} missing"
            )
        elif not is_written(target):
            tile = crop(image, (left, top, left + TILE, top + TILE))
            stored = np.ascontiguousarray(tile[..., ::-1]) if job.swap else tile
            write_bytes(target, cv2.imencode(".png", stored)[1].tobytes())
    return problems


def _check_image(path: Path) -> None:
    """Raise OSError, ValueError or SyntaxError unless an image file is whole and of the size of AI-TOD's."""
    if (size := image_size(path)) != (TILE, TILE):
        raise ValueError(f"it is of {size[0]} x {size[1]} px, AI-TOD's are of {TILE} x {TILE}")
    with open_image(path) as image:
        image.verify()


def _write_labels(root: Path, split: str, content: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    for kind in ("images", "labels"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    order = class_order(content)
    of_image = by_image(content)
    counts = new_counts(names)
    images = content["images"]
    for image in progress(images, len(images), f"labels of {split}"):
        objects = of_image[image["id"]]
        classes = np.array([order[a["category_id"]] for a in objects], dtype=np.int64)
        crowd = np.array([bool(a.get("iscrowd")) for a in objects], dtype=bool)
        size = image.get("width") or TILE, image.get("height") or TILE
        record = Record(Path(image["file_name"]), image["file_name"], *size, coco_boxes(objects), classes, crowd)
        clipped, kept = clean(record, counts, names)
        text = label_text(record, clipped, kept & ~crowd)
        write_text(root / "labels" / split / f"{Path(image['file_name']).stem}.txt", text)
    return counts


def _jobs(
    folder: Path,
    split: str,
    names: Sequence[str],
    listed: set[str],
    own: Mapping[str, list[Path]],
    tif: Mapping[str, list[Path]],
    channel_order: str,
) -> Iterator[Job]:
    """Yield a job for every source image of a split."""
    by_source: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if name in listed:
            by_source[name.split("__")[0]].append(name)
        else:
            candidates = own.get(name, [])
            same = [path for path in candidates if split in path.parts] or candidates
            yield Job(same[0] if same else None, f"AI-TOD image {name}", (folder / name,))
    for source, tiles in by_source.items():
        found = tif.get(f"{source}.tif") or tif.get(f"{source}.tiff")
        corners = tuple(_corner(name) for name in tiles)
        targets = tuple(folder / name for name in tiles)
        yield Job(
            found[0] if found else None, f"xView image {source}.tif", targets, corners, channel_order == "official"
        )


def _joined(jobs: Sequence[Job]) -> list[Job]:
    """Join the jobs of all splits that read the same source."""
    joined: dict[str, Job] = {}
    for job in jobs:
        key = f"{job.key} {job.source}"
        before = joined.get(key)
        targets, corners = (before.targets, before.corners) if before else ((), ())
        joined[key] = replace(job, targets=targets + job.targets, corners=corners + job.corners)
    return list(joined.values())


def _run(jobs: Sequence[Job], workers: int) -> list[str]:
    if workers == 1:
        return [problem for job in progress(jobs, len(jobs), "images") for problem in do_job(job)]
    with ProcessPoolExecutor(workers) as pool:
        results = pool.map(do_job, jobs, chunksize=4)
        return [problem for found in progress(results, len(jobs), "images") for problem in found]


def _corner(name: str) -> tuple[int, int]:
    left, top = Path(name).stem.split("__")[1].split("_")
    return int(left), int(top)


def _read_list(toolkit: Path, split: str) -> set[str]:
    """Read a list of tiles: one Python list of names, as published, or a name on each line."""
    name = f"aitod_xview_{split}.txt"
    found = sorted(toolkit.rglob(name))
    if not found:
        raise FileNotFoundError(f"toolkit: no {name} under {toolkit}; clone https://github.com/jwwangchn/AI-TOD")
    text = found[0].read_text(encoding="utf-8").strip()
    try:
        names = ast.literal_eval(text) if text.startswith("[") else text.split()
        return {name if name.endswith(".png") else f"{name}.png" for name in names if _corner(name)}
    except (ValueError, SyntaxError, IndexError):
        raise ValueError(f"toolkit: {found[0]}: expected names like 2053__600_1200.png") from None


def _annotation_files(root: Path, version: str) -> dict[str, Path]:
    """Find the official JSON of every split; that of train and val together is optional."""
    found = {}
    for split, names in FILES[version].items():
        paths = [path for name in names for path in sorted(root.rglob(name))]
        if paths:
            found[split] = paths[0]
        elif split != "trainval":
            raise FileNotFoundError(f"aitod: none of {', '.join(names)} is under {root}")
    return found


def _index(root: Path, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    index: dict[str, list[Path]] = defaultdict(list)
    for folder, _, files in sorted(os.walk(root)):
        for name in sorted(files):
            if name.lower().endswith(suffixes):
                index[name].append(Path(folder, name))
    return index


def _count_problems(version: str, splits: Mapping[str, dict[str, Any]]) -> list[str]:
    """Compare with the published counts."""
    published = PUBLISHED[version]
    counted = {split: splits[split]["images"] for split in SPLITS}
    counted["boxes"] = sum(counts["boxes_read"] for counts in splits.values())
    step = ROUNDED[version]
    counted["boxes"] = (counted["boxes"] + step // 2) // step * step
    return [
        f"{'boxes' if what == 'boxes' else f'images of {what}'}: {counted[what]}, published are {number}"
        for what, number in published.items()
        if counted[what] != number
    ]


def _write_yaml(root: Path, name: str) -> None:
    """Write a shipped YAML with this folder as its path."""
    data = _template(name)
    del data["setup"]
    write_text(root / name, yaml.safe_dump({**data, "path": str(root)}, sort_keys=False))


def _template(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((resource_dir("data") / name).read_text(encoding="utf-8"))
    return content


def _folder(name: str, path: str | Path) -> Path:
    if not Path(path).is_dir():
        raise FileNotFoundError(f"{name}: no such folder: {path}")
    return Path(path)


def _some(names: Iterator[str], limit: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:limit]) + ", ..." * (len(listed) > limit)
