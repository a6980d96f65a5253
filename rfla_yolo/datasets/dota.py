"""DOTA's result files, which its server and its devkit evaluate."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.inputs import Inputs, load_inputs
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
        The files, in the order of the classes; one without detections is empty. Classes that would share one, as
        "Ship" and "ship", have their place in its name, from 1.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If something cannot be evaluated, boxes have no ``rbox``, or a line cannot name its image: two of
            one stem, or one with a blank.
    """
    return write_task1_of(load_inputs(annotations, predictions), folder)


def write_task1_of(inputs: Inputs, folder: str | Path) -> list[Path]:
    """Do what `write_task1` does with images and detections that are loaded."""
    found = inputs.detections
    if len(found) and found.bbox.shape[1] == 4:
        raise ValueError("predictions: DOTA's task 1 needs oriented boxes (rbox), found bbox")
    names = [re.sub(r"[\s/\\]+", "-", category["name"]) for category in inputs.categories]
    while shared := {name for name, n in Counter(map(str.casefold, names)).items() if n > 1}:
        names = [f"{name}-{place}" if name.casefold() in shared else name for place, name in enumerate(names, start=1)]
    stems = [Path(image.get("file_name") or str(image["id"])).stem for image in inputs.images]
    stem, number = Counter(stems).most_common(1)[0] if stems else ("", 0)
    if number > 1:
        raise ValueError(
            f"annotations: {number} images are called {stem!r}, and a line of task 1 has no more of a name"
        )
    if blank := [stem for stem in stems if len(stem.split()) != 1]:
        raise ValueError(f"annotations: the image {blank[0]!r} has a blank in its name, which parts columns in task 1")
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
