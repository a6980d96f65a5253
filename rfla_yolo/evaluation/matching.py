"""Detections matched to objects, once, by faster-coco-eval; every figure is read off the result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .inputs import Inputs

# Area ranges of the AI-TOD evaluation, px^2 of the original image, both ends closed.
AITOD_AREAS: dict[str, tuple[float, float]] = {
    "all": (0, 1e5**2),
    "vt": (0, 8**2),
    "t": (8**2, 16**2),
    "s": (16**2, 32**2),
    "m": (32**2, 1e5**2),
}
COCO_AREAS: dict[str, tuple[float, float]] = {
    "all": (0, 1e5**2),
    "s": (0, 32**2),
    "m": (32**2, 96**2),
    "l": (96**2, 1e5**2),
}
MAX_DETS = (1, 100, 1500)  # detections per image and class
IOU_THRESHOLDS = np.concatenate(([0.25], np.linspace(0.5, 0.95, 10)))
AT_50 = 1  # place of IoU 0.5 among the thresholds

Areas = Mapping[str, tuple[float, float]]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ClassMatches:
    """The matches of one class, detections in descending order of score.

    A = area ranges, T = IoU thresholds, D = detections, G = objects.

    Attributes:
        image: Index of the image of each detection, (D,).
        score: Score of each detection, (D,).
        place: Place of a detection among those of its class in its image, 0 the best, (D,).
        counts: Whether a detection counts: False where it matched an ignored object or lies outside of the area range
            unmatched, (A, T, D).
        hit: Whether it matched an object that counts, (A, T, D).
        iou: IoU of a detection with the object that it matched at IoU 0.5, 0 for none, (D,).
        bbox: Box of each detection, xywh px, (D, 4).
        gt_image: Index of the image of each object, (G,).
        gt_area: Area of each object, px^2, (G,).
        gt_counts: Whether an object counts in an area range, (A, G).
        gt_found: Whether an object was found, (T, G).
        gt_bbox: Box of each object, xywh px, (G, 4).
        gt_score: Score of the detection that found an object at IoU 0.5, NaN for none, (G,).
    """

    image: Ints
    score: Floats
    place: Ints
    counts: Bools
    hit: Bools
    iou: Floats
    bbox: Floats
    gt_image: Ints
    gt_area: Floats
    gt_counts: Bools
    gt_found: Bools
    gt_bbox: Floats
    gt_score: Floats


@dataclass(frozen=True)
class Matching:
    """All matches, and the precision and recall of faster-coco-eval.

    Attributes:
        classes: Matches by class name, in the order of the categories.
        num_images: Number of images.
        areas: The area ranges, "all" first.
        precision: (T, 101 recalls, classes, A, max_dets), -1 where undefined.
        recall: (T, classes, A, max_dets), -1 where undefined.
    """

    classes: dict[str, ClassMatches]
    num_images: int
    areas: Areas
    precision: Floats
    recall: Floats


def match(inputs: Inputs, areas: Areas = AITOD_AREAS, details: bool = True) -> Matching:
    """Match detections to objects by COCO's rule.

    Args:
        inputs: Ground truth and detections.
        areas: Area ranges, px^2, both ends closed; the first is all.
        details: Also keep the matches themselves, not only precision and recall.

    Returns:
        The matching.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    image_numbers = {image["id"]: i for i, image in enumerate(inputs.images, start=1)}  # the library wants numbers
    category_numbers = {category["id"]: k for k, category in enumerate(inputs.categories, start=1)}

    def numbered(entry: Mapping[str, Any]) -> dict[str, Any]:
        numbers = {"image_id": image_numbers[entry["image_id"]], "category_id": category_numbers[entry["category_id"]]}
        # a segmentation is given, or the library would make a polygon of every box
        return {**entry, **numbers, "bbox": [float(side) for side in entry["bbox"]], "segmentation": []}

    coco = COCO(
        {
            "images": [{"id": number} for number in image_numbers.values()],
            "annotations": [numbered(annotation) for annotation in inputs.annotations],
            "categories": [{"id": number} for number in category_numbers.values()],
        }
    )
    detections = coco.loadRes([numbered(detection) for detection in inputs.detections])
    run = COCOeval_faster(coco, detections, iouType="bbox", print_function=_silent, separate_eval=True)
    run.params.imgIds = list(image_numbers.values())
    run.params.catIds = list(category_numbers.values())
    run.params.iouThrs = IOU_THRESHOLDS
    run.params.maxDets = list(MAX_DETS)
    run.params.areaRng = [list(area) for area in areas.values()]
    run.params.areaRngLbl = list(areas)
    run.evaluate()
    run.accumulate()
    classes = _read_classes(run._evalImgs_cpp, inputs, areas) if details else {}
    return Matching(
        classes=classes,
        num_images=len(inputs.images),
        areas=dict(areas),
        precision=np.asarray(run.eval["precision"]),
        recall=np.asarray(run.eval["recall"]),
    )


def _read_classes(evaluated: list[Any], inputs: Inputs, areas: Areas) -> dict[str, ClassMatches]:
    """Collect the evaluations of single images, which the library keeps by class, area range and image."""
    num_images, num_areas, thresholds = len(inputs.images), len(areas), len(IOU_THRESHOLDS)
    box_of = {a["id"]: a["bbox"] for a in inputs.annotations}
    objects, found = defaultdict(list), defaultdict(list)
    for annotation in inputs.annotations:
        objects[annotation["image_id"], annotation["category_id"]].append(annotation)
    for detection in inputs.detections:
        found[detection["image_id"], detection["category_id"]].append(detection)
    low, high = np.array(list(areas.values())).T[:, :, None]
    classes = {}
    for k, category in enumerate(inputs.categories):
        parts = []
        for i, image in enumerate(inputs.images):
            key = image["id"], category["id"]
            gts, dts = objects.get(key, []), found.get(key, [])
            if not gts and not dts:
                continue
            order = np.argsort([-d["score"] for d in dts], kind="mergesort")[: MAX_DETS[-1]]
            dts = [dts[j] for j in order]
            states = [evaluated[(k * num_areas + a) * num_images + i].__getstate__() for a in range(num_areas)]
            shape = num_areas, thresholds, len(dts)
            partner = np.array([state[0] for state in states], dtype=np.int64).reshape(shape)  # id of the object, or 0
            counts = ~np.array([state[4] for state in states], dtype=bool).reshape(shape)
            partner_50 = partner[0, AT_50]
            pairs = [(d["bbox"], box_of[int(p)]) for d, p in zip(dts, partner_50) if p]
            finder = {int(p): d["score"] for d, p in zip(dts, partner_50) if p}
            overlap = np.zeros(len(dts))
            overlap[partner_50 != 0] = pairwise_iou(pairs)
            gt_area, crowd = np.array([[g["area"], g["iscrowd"]] for g in gts], dtype=float).reshape(-1, 2).T
            ids = np.array([g["id"] for g in gts], dtype=np.int64)
            part = ClassMatches(
                image=np.full(len(dts), i),
                score=np.array([d["score"] for d in dts], dtype=float),
                place=np.arange(len(dts)),
                counts=counts,
                hit=(partner != 0) & counts,
                iou=overlap,
                bbox=np.array([d["bbox"] for d in dts], dtype=float).reshape(-1, 4),
                gt_image=np.full(len(gts), i),
                gt_area=gt_area,
                gt_counts=(crowd == 0) & (low <= gt_area) & (gt_area <= high),
                gt_found=np.array([np.isin(ids, row) for row in partner[0]]).reshape(thresholds, len(gts)),
                gt_bbox=np.array([g["bbox"] for g in gts], dtype=float).reshape(-1, 4),
                gt_score=np.array([finder.get(g["id"], np.nan) for g in gts], dtype=float),
            )
            parts.append(part)
        classes[str(category["name"])] = _join(parts, num_areas, thresholds)
    return classes


def _join(parts: list[ClassMatches], num_areas: int, thresholds: int) -> ClassMatches:
    """Put images together, detections in descending order of score, images in order where scores are equal."""
    empty = np.zeros(0)
    nothing = ClassMatches(
        image=empty.astype(np.int64),
        score=empty,
        place=empty.astype(np.int64),
        counts=np.zeros((num_areas, thresholds, 0), dtype=bool),
        hit=np.zeros((num_areas, thresholds, 0), dtype=bool),
        iou=empty,
        bbox=np.zeros((0, 4)),
        gt_image=empty.astype(np.int64),
        gt_area=empty,
        gt_counts=np.zeros((num_areas, 0), dtype=bool),
        gt_found=np.zeros((thresholds, 0), dtype=bool),
        gt_bbox=np.zeros((0, 4)),
        gt_score=empty,
    )
    axis = {"bbox": 0, "gt_bbox": 0}  # the others end in detections or objects
    joined = {
        f.name: np.concatenate([getattr(p, f.name) for p in (nothing, *parts)], axis=axis.get(f.name, -1))
        for f in fields(ClassMatches)
    }
    order = np.argsort(-joined["score"], kind="mergesort")
    ordered = {n: a if n.startswith("gt_") else a.take(order, axis.get(n, -1)) for n, a in joined.items()}
    return ClassMatches(**ordered)


def pairwise_iou(pairs: list[tuple[Any, Any]]) -> Floats:
    """Return the IoU of each pair of boxes, xywh, (N,)."""
    if not pairs:
        return np.zeros(0)
    a, b = np.array(pairs, dtype=float).transpose(1, 0, 2)  # each (N, 4)
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    common = (high - low).clip(0).prod(1)
    return common / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - common)


def _silent(*args: Any, **kwargs: Any) -> None:
    """Swallow the progress messages of the library."""
