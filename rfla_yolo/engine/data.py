"""Datasets before the first epoch: finding the YAML, and saying what is wrong with images and labels."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import IMG_FORMATS, check_det_dataset, img2label_paths
from ultralytics.utils import LOGGER, YAML

from ..config import resource_dir
from ..datasets import explain_label_file

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
        sources = info.get(split) or []
        images: list[str] = []
        for source in [sources] if isinstance(sources, str) else sources:
            path = Path(source)
            if path.is_dir():
                images += [str(file) for file in sorted(path.rglob("*")) if file.suffix[1:].lower() in IMG_FORMATS]
            elif path.is_file():
                lines = path.read_text(encoding="utf-8").split("\n")
                images += [str(path.parent / line) if line.startswith("./") else line for line in lines if line.strip()]
        if images:
            found[split] = [(Path(image), Path(label)) for image, label in zip(images, img2label_paths(images))]
    return [str(name) for _, name in sorted(info["names"].items())], found


def check_labels(dataset: YOLODataset, skip_bad_labels: bool) -> YOLODataset:
    """Fail where Ultralytics has dropped images because of their labels, and say why.

    Args:
        dataset: The dataset as Ultralytics has read it.
        skip_bad_labels: Warn instead, and go on without these images.

    Returns:
        The same dataset.

    Raises:
        ValueError: If images were dropped; lists files, lines and values.
    """
    if len(dataset.im_files) == len(dataset.label_files):
        return dataset
    state = random.getstate()  # listing the files samples some to time them: the augmentation must not notice
    listed = dataset.get_img_files(dataset.img_path)
    random.setstate(state)
    kept = set(dataset.im_files)
    dropped = [file for file in listed if file not in kept]
    num_classes = 1 if dataset.single_cls else len(dataset.data["names"])
    lines = []
    for image, label in list(zip(dropped, img2label_paths(dropped)))[:LISTED]:
        if not Path(image).is_file():
            lines.append(f"{image}: no such image")
        else:
            lines.append(explain_label_file(Path(label), num_classes) or f"{image}: image cannot be read")
    if len(dropped) > LISTED:
        lines.append(f"... and {len(dropped) - LISTED} more")
    message = f"{len(dropped)} images cannot be used because of bad labels or files:\n  " + "\n  ".join(lines)
    if not skip_bad_labels:
        raise ValueError(f"{message}\nMend them, or go on without these images by --skip-bad-labels")
    LOGGER.warning(message)
    return dataset
