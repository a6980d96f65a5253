"""Datasets before the first epoch: finding the YAML, and saying what is wrong with images and labels."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import IMG_FORMATS, check_det_dataset, img2label_paths
from ultralytics.utils import LOGGER, NUM_THREADS, YAML

from ..config import resource_dir
from ..datasets import explain_label_file
from ..scenes.images import DEEP_SUFFIXES, TRAINED_PIXELS, explain_depth, explain_image, image_size

Item = TypeVar("Item")
LISTED = 10  # bad files named in one message


def find_dataset_yaml(data: Any) -> Any:
    """Return the path of a dataset YAML: a path as it is, a bare name also from the shipped ``data/``.

    Example:
        >>> Path(find_dataset_yaml("aitod.yaml")).is_file()
        True
    """
    if not isinstance(data, (str, Path)) or Path(data).exists() or Path(data).parent != Path():
        return data
    shipped = [resource_dir("data") / f"{data}{suffix}" for suffix in ("", ".yaml")]
    return next((str(path) for path in shipped if path.is_file()), data)


def check_dataset(data: Any, *splits: str) -> Any:
    """Check that a dataset YAML and its images exist, and return its path.

    Args:
        data: Path or name of a dataset YAML. Anything but a YAML is left to Ultralytics.
        *splits: The splits that are needed.

    Returns:
        What Ultralytics is given as ``data``.

    Raises:
        FileNotFoundError: If the YAML or a folder of images is missing; names what was looked for and, where the YAML
            has ``setup``, what to do.
    """
    data = find_dataset_yaml(data)
    if not isinstance(data, (str, Path)) or Path(data).suffix not in {".yaml", ".yml"}:
        return data
    setup = ""
    if Path(data).is_file():
        setup = YAML.load(data).get("setup", "")
    try:
        info = check_det_dataset(str(data), split=splits[-1] if splits else "")
    except FileNotFoundError as error:
        raise FileNotFoundError("\n".join(filter(None, [str(error).strip(), setup]))) from None
    for split in splits:
        paths = info.get(split) or []
        for path in [paths] if isinstance(paths, str) else paths:
            if not Path(path).exists():
                raise FileNotFoundError(f"data {data}: {split} images not found at {path}\n{setup}".rstrip())
    return data


def list_images(data: Any) -> tuple[list[str], dict[str, list[tuple[Path, Path]]]]:
    """Return the class names of a dataset YAML, and the images with their label files of every split it names.

    Raises:
        FileNotFoundError: If the YAML, or the images of train or val, are missing.
    """
    info = check_det_dataset(str(check_dataset(data, "train", "val")))
    found: dict[str, list[tuple[Path, Path]]] = {}
    for split in ("train", "val", "test"):
        images = _find_images(info.get(split) or [])
        if images:
            found[split] = [(Path(image), Path(label)) for image, label in zip(images, img2label_paths(images))]
    return [str(name) for _, name in sorted(info["names"].items())], found


def find_keypoints(data: Any) -> tuple[int, int] | None:
    """Return how many keypoints an object of a dataset YAML has, and the numbers of each; None where it has none."""
    shape = check_det_dataset(str(find_dataset_yaml(data))).get("kpt_shape")
    return (int(shape[0]), int(shape[1])) if shape else None


def list_annotations(data: Any) -> dict[str, Path]:
    """Return the COCO ground truth that a dataset YAML names, by split."""
    info = check_det_dataset(str(find_dataset_yaml(data)))
    found = {split: find_annotations(info, split) for split in ("train", "val", "test")}
    return {split: path for split, path in found.items() if path}


def find_annotations(info: Mapping[str, Any], split: str) -> Path | None:
    """Return the COCO ground truth that a dataset's YAML, as Ultralytics has read it, names for a split.

    Warns where the file does not exist.
    """
    named = info.get("annotations") or {}
    name = named.get(split) if isinstance(named, Mapping) else named if split == "val" else None
    path = Path(info["path"]) / name if name else None
    if path and not path.is_file():
        LOGGER.warning(f"annotations: {path} does not exist, using the labels as ground truth")
        return None
    return path


def build_checked(
    build: Callable[[], YOLODataset], images: str | list[str], data: dict[str, Any], args: Any, skip_bad_labels: bool
) -> YOLODataset:
    """Let Ultralytics build a dataset; fail where it cannot use images or their labels as they are, and say why.

    These are images that it has dropped, and those of more than 8 bits a value, which it would cut to the upper 8.
    Labels of another kind than the task's, of which it makes its own, are warned of.

    Args:
        build: Builds the dataset.
        images: Folders of images or lists of them, that the dataset is built from.
        data: What Ultralytics has read of the dataset's YAML.
        args: Ultralytics' arguments.
        skip_bad_labels: Warn instead, and go on as Ultralytics does: without dropped images, with cut ones.

    Returns:
        The dataset.

    Raises:
        ValueError: If images were dropped, lists files, lines and values; where none is left in any case. If images
            hold more than 8 bits a value, lists them. If labels are boxes where the task needs more, or the data does
            not say which keypoints it has.
    """
    if args.task == "pose" and "kpt_shape" not in data:
        file = data.get("yaml_file", "")
        raise ValueError(f"data {file}: no kpt_shape, which task 'pose' needs, e.g. kpt_shape: [17, 3]")
    form = 1 if args.single_cls else len(data["names"]), tuple(data["kpt_shape"]) if args.task == "pose" else None
    merged = args.single_cls and data.get("yaml_file")  # its names are those of the merged class by now
    check_classes(args.classes, check_det_dataset(data["yaml_file"])["names"] if merged else data["names"])
    try:
        dataset = build()
    except RuntimeError as error:  # what Ultralytics raises where it has dropped every image
        if "No valid images found" not in str(error):
            raise
        dropped = [image for image in _find_images(images) if f"{image}: " in str(error)]
        raise ValueError(f"{_explain(dropped, *form)}\nNo other image is left in {images}") from None
    except ValueError as error:
        raise ValueError(_explain_boxes(str(error), args.task, images)) from None
    if note := _describe_labels(dataset.labels, args.task, data.get("kpt_shape")):
        LOGGER.warning(f"labels of {images}: {note}")
    problems = []
    if len(dataset.im_files) != len(dataset.label_files):
        state = random.getstate()  # listing the files samples some to time them: the augmentation must not notice
        listed = dataset.get_img_files(dataset.img_path)
        random.setstate(state)
        kept = set(dataset.im_files)
        dropped = [file for file in listed if file not in kept]
        problems.append((_explain(dropped, *form), "without these images"))
    if deep := _find_deep(dataset.im_files):
        message = f"{len(deep)} images of more than 8 bits a value, of which training sees the upper 8 alone:"
        problems.append((f"{message}\n  {_first(deep, len(deep))}", "with what is left of them"))
    if problems and not skip_bad_labels:
        remedy = "Mend them, or go on {} by --skip-bad-labels"
        raise ValueError("\n".join(f"{message}\n{remedy.format(how)}" for message, how in problems))
    for message, _ in problems:
        LOGGER.warning(message)
    if problems and not any(len(label["cls"]) for label in dataset.labels):
        raise ValueError(f"{problems[0][0]}\nNo object is left in {images}")
    return dataset


def _explain_boxes(message: str, task: str, images: str | list[str]) -> str:
    """Say what Ultralytics means where it counts fewer polygons than boxes; any other message as it is."""
    counts = re.search(r"len\(segments\) = (\d+), len\(boxes\) = (\d+)", message)
    if not counts:
        return message
    segments, boxes = map(int, counts.groups())
    form = "class x1 y1 x2 y2 x3 y3 x4 y4" if task == "obb" else "class x1 y1 x2 y2 x3 y3 ..."
    return (
        f"labels of {images}: {boxes - segments} of {boxes} are boxes (class x y width height), "
        f"task {task!r} needs lines of {form}; --task detect trains on boxes"
    )


def _describe_labels(labels: Sequence[Mapping[str, Any]], task: str, keypoints: Sequence[int] | None) -> str:
    """Say in words that labels are of another kind than the task's, and what Ultralytics makes of them."""
    corners = Counter(len(points) for label in labels for points in label["segments"])
    others = corners.total() - corners[4]
    if task == "obb" and others:
        return (
            f"{others} of {corners.total()} are polygons of other than four corners; "
            "task 'obb' takes of each the rectangle of the smallest area around it"
        )
    if task == "detect" and corners:
        kind, other = ("polygons", "segment") if others else ("oriented boxes, lines of four corners", "obb")
        return f"they are {kind}; task 'detect' takes the axis-aligned boxes around them, --task {other} what they are"
    if task == "detect" and keypoints:
        return f"kpt_shape {list(keypoints)} names keypoints; task 'detect' takes the boxes alone"
    return ""


def pick_evenly(items: Sequence[Item], count: int) -> list[Item]:
    """Return so many of the items, evenly picked; all where there are fewer."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int).tolist()]


def measure_objects(labels: Sequence[Mapping[str, Any]], imgsz: int) -> dict[str, float]:
    """Return how large the objects of a dataset are: numbers that a checkpoint keeps for predictions.

    Args:
        labels: Labels as Ultralytics keeps them.
        imgsz: Training size, px.

    Returns:
        ``side_max`` and ``side_p999``, the longest and the 99.9th percentile of the longer sides, px of the source;
        ``scale``, the median of training size over the longer side of the image. Empty where there is no object.
    """
    shapes = [image_shape(label) for label in labels]
    sides = [(label["bboxes"][:, 2:] * shape[::-1]).max(1) for label, shape in zip(labels, shapes) if len(label["cls"])]
    if not sides:
        return {}
    every = np.concatenate(sides)
    scale = float(np.median([imgsz / max(shape) for shape in shapes]))
    return {"side_max": float(every.max()), "side_p999": float(np.percentile(every, 99.9)), "scale": scale}


def image_shape(label: Mapping[str, Any]) -> tuple[int, int]:
    """Return rows and columns of the image of a label as Ultralytics keeps it."""
    return label.get("shape") or image_size(Path(label["im_file"]))[::-1]


def check_classes(classes: Any, names: Mapping[int, str]) -> None:
    """Raise ValueError unless the argument ``classes`` names classes of the dataset: any other leaves no objects."""
    chosen = classes if isinstance(classes, (list, tuple)) else [] if classes is None else [classes]
    if any(isinstance(c, bool) or not isinstance(c, int) or c not in names for c in chosen):
        raise ValueError(f"classes must be numbers of the dataset's classes, 0 to {len(names) - 1}, not {classes!r}")


def _find_deep(images: Sequence[str]) -> list[str]:
    """Say of images that they hold more than 8 bits a value; some 30 us an image, of other suffixes nothing."""
    paths = [Path(image) for image in images if image.lower().endswith(DEEP_SUFFIXES)]
    with ThreadPool(NUM_THREADS) as pool:  # a disk far away answers many at once
        return [words for words in pool.map(explain_depth, paths) if words]


def _find_images(sources: str | list[str]) -> list[str]:
    """Return the images of folders and lists of images, as Ultralytics finds them."""
    images: list[str] = []
    for source in [sources] if isinstance(sources, str) else sources:
        path = Path(source)
        if path.is_dir():
            images += [str(file) for file in sorted(path.rglob("*")) if file.suffix[1:].lower() in IMG_FORMATS]
        elif path.is_file():
            lines = path.read_text(encoding="utf-8").split("\n")
            images += [str(path.parent / line) if line.startswith("./") else line for line in lines if line.strip()]
    return images


def _explain(images: list[str], num_classes: int, keypoints: tuple[int, int] | None) -> str:
    """Say that these images cannot be used and why, a line each for the first of them."""
    lines = []
    for image, label in list(zip(images, img2label_paths(images)))[:LISTED]:
        if not Path(image).is_file():
            lines.append(f"{image}: no such image")
        else:
            unknown = f"{image}: is damaged, or above {TRAINED_PIXELS:,} px and to be cut by 'rfla-yolo data tile'"
            words = explain_label_file(Path(label), num_classes, keypoints)
            lines.append(words or explain_image(Path(image)) or unknown)
    return f"{len(images)} images cannot be used because of bad labels or files:\n  {_first(lines, len(images))}"


def _first(lines: Sequence[str], total: int) -> str:
    """Return the first of so many lines, and how many more there are."""
    more = [f"... and {total - LISTED} more"] if total > LISTED else []
    return "\n  ".join([*lines[:LISTED], *more])
