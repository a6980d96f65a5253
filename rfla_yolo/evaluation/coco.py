"""Average precision and recall by the AI-TOD definition, with faster-coco-eval as the matcher."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Area ranges of the AI-TOD evaluation, px^2 of the original image, both ends closed.
AITOD_AREAS: dict[str, tuple[float, float]] = {
    "all": (0, 1e5**2),
    "vt": (0, 8**2),
    "t": (8**2, 16**2),
    "s": (16**2, 32**2),
    "m": (32**2, 1e5**2),
}
MAX_DETS = (1, 100, 1500)  # detections per image and class
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
METRICS: tuple[str, ...] = ("AP", "AP25", "AP50", "AP75", "APvt", "APt", "APs", "APm")
METRICS += ("AR1", "AR100", "AR1500", "ARvt", "ARt", "ARs", "ARm")

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """Figures of one evaluation, 0 to 1; None where undefined (no such ground truth).

    Attributes:
        metrics: Each of `METRICS`, mean over classes.
        per_class: The same by class name.
        num_images: Images evaluated.
        num_objects: Objects of the ground truth that are not crowd.
        num_detections: Detections read.
    """

    metrics: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    num_images: int
    num_objects: int
    num_detections: int

    def __getitem__(self, name: str) -> float | None:
        return self.metrics[name]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON, the metrics at the top."""
        return {
            **self.metrics,
            "per_class": self.per_class,
            "images": self.num_images,
            "objects": self.num_objects,
            "detections": self.num_detections,
        }

    def table(self, names: Sequence[str] = ("AP", "AP50", "AP75", "APvt", "APt", "APs", "APm")) -> str:
        """Return the figures by class as a text table, in percent."""
        rows = [("all", self.metrics)] + ([] if len(self.per_class) < 2 else list(self.per_class.items()))
        lines = [f"{'Class':>22}" + "".join(f"{name:>9}" for name in names)]
        for title, values in rows:
            cells = (values[name] for name in names)
            lines.append(f"{title:>22}" + "".join(f"{'-':>9}" if v is None else f"{100 * v:9.2f}" for v in cells))
        return "\n".join(lines)


def evaluate(
    annotations: str | Path | Json, predictions: str | Path | Sequence[Json], image_ids: Iterable[int] | None = None
) -> Evaluation:
    """Evaluate detections against COCO ground truth.

    COCO's matching and averaging with up to 1500 detections per image and class and the AI-TOD size ranges. AP25 is the
    AP at IoU 0.25 (the official tool prints -1 for it, because 0.25 is not among its thresholds).

    Args:
        annotations: COCO ground truth, a path or the loaded dict.
        predictions: COCO detections (image_id, category_id, bbox as xywh px, score), a path or the loaded list.
        image_ids: Images to evaluate; all by default.

    Returns:
        The figures.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If a file is no such JSON, or a detection has an image, category, box or score that cannot be.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    gt = _load(annotations, "annotations")
    dt = _load(predictions, "predictions")
    if not isinstance(gt, Mapping) or not {"images", "annotations", "categories"} <= set(gt):
        raise ValueError(f"{_name(annotations, 'annotations')}: expected COCO with images, annotations and categories")
    _check_predictions(dt, gt, _name(predictions, "predictions"))

    names = {category["id"]: str(category["name"]) for category in gt["categories"]}
    ids = sorted({image["id"] for image in gt["images"]} if image_ids is None else set(image_ids))
    wanted = set(ids)
    objects = [dict(a) for a in gt["annotations"] if a["image_id"] in wanted]
    for obj in objects:
        obj.setdefault("iscrowd", 0)
        obj.setdefault("area", obj["bbox"][2] * obj["bbox"][3])
    images = [dict(image) for image in gt["images"] if image["id"] in wanted]
    coco = COCO({"images": images, "annotations": objects, "categories": list(map(dict, gt["categories"]))})
    keys = ("image_id", "category_id", "bbox", "score")
    detections = [{key: d[key] for key in keys} for d in dt if d["image_id"] in wanted]

    run = COCOeval_faster(coco, coco.loadRes(detections), iouType="bbox", print_function=_silent)
    run.params.imgIds = ids
    run.params.catIds = sorted(names)
    run.params.iouThrs = np.concatenate(([0.25], IOU_THRESHOLDS))
    run.params.maxDets = list(MAX_DETS)
    run.params.areaRng = [list(area) for area in AITOD_AREAS.values()]
    run.params.areaRngLbl = list(AITOD_AREAS)
    run.evaluate()
    run.accumulate()
    precision = np.asarray(run.eval["precision"])  # (IoU, recall, class, area, max_dets)
    recall = np.asarray(run.eval["recall"])  # (IoU, class, area, max_dets)

    everything = slice(None)
    per_class = {names[c]: _figures(precision, recall, [i]) for i, c in enumerate(sorted(names))}
    return Evaluation(
        metrics=_figures(precision, recall, everything),
        per_class=per_class,
        num_images=len(ids),
        num_objects=sum(not obj["iscrowd"] for obj in objects),
        num_detections=len(detections),
    )


def _figures(precision: np.ndarray, recall: np.ndarray, classes: Any) -> dict[str, float | None]:
    """Read the figures of some classes off the arrays of COCO's accumulation."""
    precision, recall = precision[:, :, classes], recall[:, classes]
    coco, last = slice(1, None), -1  # the thresholds after 0.25
    figures = {
        "AP": _mean(precision[coco, :, :, 0, last]),
        "AP25": _mean(precision[0, :, :, 0, last]),
        "AP50": _mean(precision[1, :, :, 0, last]),
        "AP75": _mean(precision[6, :, :, 0, last]),
    }
    figures |= {f"AP{s}": _mean(precision[coco, :, :, i, last]) for i, s in enumerate(AITOD_AREAS) if i}
    figures |= {f"AR{n}": _mean(recall[coco, :, 0, i]) for i, n in enumerate(MAX_DETS)}
    figures |= {f"AR{s}": _mean(recall[coco, :, i, last]) for i, s in enumerate(AITOD_AREAS) if i}
    return figures


def _mean(values: np.ndarray) -> float | None:
    """Mean of the defined values; COCO marks the others by -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def _check_predictions(dt: Any, gt: Json, name: str) -> None:
    """Raise ValueError at the first detection that cannot be evaluated."""
    if not isinstance(dt, Sequence):
        raise ValueError(f"{name}: expected a list of detections, found {type(dt).__name__}")
    images, categories = {image["id"] for image in gt["images"]}, {category["id"] for category in gt["categories"]}
    for i, d in enumerate(dt):
        if d.get("image_id") not in images:
            raise ValueError(f"{name}, entry {i}: image_id {d.get('image_id')!r} is not in the annotations")
        if d.get("category_id") not in categories:
            raise ValueError(f"{name}, entry {i}: category_id {d.get('category_id')!r} is not in {sorted(categories)}")
        box, score = d.get("bbox", ()), d.get("score", math.nan)
        if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
            raise ValueError(f"{name}, entry {i}: bbox {box!r} is not x, y, width, height with finite sides >= 0")
        if not math.isfinite(score):
            raise ValueError(f"{name}, entry {i}: score {score!r} is not a finite number")


def _load(source: Any, what: str) -> Any:
    """Return the content of a JSON file, or what is loaded already."""
    if not isinstance(source, (str, Path)):
        return source
    if not Path(source).is_file():
        raise FileNotFoundError(f"{what}: no such file: {source}")
    try:
        return json.loads(Path(source).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{source}: no JSON: {error}") from error


def _name(source: Any, what: str) -> str:
    """Return how messages call a source."""
    return str(source) if isinstance(source, (str, Path)) else what


def _silent(*args: Any, **kwargs: Any) -> None:
    """Swallow the progress messages of the evaluation."""
