"""DOTA's result files, which its server and its devkit evaluate."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.inputs import load_inputs
from ..rotated import corners
from .writer import write_text


def write_task1(
    annotations: str | Path | dict[str, Any], predictions: str | Path | list[dict[str, Any]], folder: str | Path
) -> list[Path]:
    """Write oriented detections in the format of DOTA's task 1: a file ``Task1_{class}.txt`` for each class.

    A line is the image's name without suffix, the score, and x y of the four corners in px. Detections on tiles go
    through `merge_tiles` first, with the ground truth of the whole images here.

    Args:
        annotations: COCO ground truth, which names the images and the classes; a path or the loaded dict.
        predictions: COCO detections with ``rbox``, a path or the loaded list.
        folder: Folder to write to; made if need be.

    Returns:
        The files, in the order of the classes; one without detections is empty.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If something cannot be evaluated, boxes have no ``rbox``, or two classes would share a file.
    """
    inputs = load_inputs(annotations, predictions)
    found = inputs.detections
    if len(found) and found.bbox.shape[1] == 4:
        raise ValueError("predictions: DOTA's task 1 needs oriented boxes (rbox), found bbox")
    names = [re.sub(r"[\s/\\]+", "-", str(category["name"])) for category in inputs.categories]
    if len({name.casefold() for name in names}) < len(names):
        raise ValueError(f"annotations: two of the classes {', '.join(names)} would share a file")
    stems = [Path(image.get("file_name") or str(image["id"])).stem for image in inputs.images]
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for label, name in enumerate(names):
        rows = np.flatnonzero(found.label == label)
        rows = rows[np.lexsort((-found.score[rows], found.image[rows]))]
        points = corners(found.bbox[rows]).reshape(-1, 8) if len(rows) else np.zeros((0, 8))
        lines = [
            f"{stems[image]} {score:.6f} {' '.join(f'{value:.2f}' for value in values)}\n"
            for image, score, values in zip(found.image[rows].tolist(), found.score[rows].tolist(), points.tolist())
        ]
        files.append(out / f"Task1_{name}.txt")
        write_text(files[-1], "".join(lines))
    return files
