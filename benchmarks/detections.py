"""Detections that a claim rests on, small enough to commit: scores above 0.01, boxes to 0.01 px, compressed columns."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

MIN_SCORE = 0.01
STEP, SCORE_STEP = 0.01, 1e-5  # px; what a whole number of a column means


def keep(path: Path, detections: Sequence[dict[str, Any]]) -> None:
    """Write COCO detections above `MIN_SCORE` as ``.npz``."""
    kept = [d for d in detections if d["score"] > MIN_SCORE]
    boxes = np.array([d["bbox"] for d in kept], dtype=float).reshape(-1, 4)
    np.savez_compressed(
        path,
        image_id=np.array([d["image_id"] for d in kept]),
        category_id=np.array([d["category_id"] for d in kept], dtype=np.int32),
        bbox=np.rint(boxes / STEP).astype(np.int32).T,  # a column compresses better than a row
        score=np.rint(np.array([d["score"] for d in kept]) / SCORE_STEP).astype(np.int32),
    )


def kept(path: Path) -> list[dict[str, Any]]:
    """Return what `keep` wrote, COCO detections."""
    with np.load(path) as file:
        columns = [file["image_id"], file["category_id"], (file["bbox"].T * STEP).round(2), file["score"] * SCORE_STEP]
    rows = zip(*(column.tolist() for column in columns))
    return [{"image_id": i, "category_id": k, "bbox": box, "score": score} for i, k, box, score in rows]


def keep_truth(path: Path, truth: dict[str, Any]) -> None:
    """Write COCO ground truth as ``.json.gz``, once for all runs.

    Raises:
        ValueError: If the file holds another ground truth.
    """
    if not path.exists():
        path.write_bytes(gzip.compress(json.dumps(truth).encode(), mtime=0))
    elif kept_truth(path) != truth:
        raise ValueError(f"{path} holds another ground truth than this run was evaluated with")


def kept_truth(path: Path) -> dict[str, Any]:
    """Return what `keep_truth` wrote."""
    truth: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return truth
