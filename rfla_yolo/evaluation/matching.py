"""Detections matched to objects by COCO's rule, once; every figure is read off the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..pairs import near_pairs
from .greedy import greedy_match
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
RECALLS = np.linspace(0, 1, 101)  # where COCO reads precision off
CHUNK = 1 << 15  # detections matched in one go

Areas = Mapping[str, tuple[float, float]]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Flags:
    """A bit for each area range, threshold and detection; ``flags[a, t]`` are those of one case, (D,).

    Attributes:
        packed: The bits of the cases a * T + t, eight in a byte, (bytes, D).
    """

    packed: NDArray[np.uint8]

    @classmethod
    def pack(cls, flags: Bools) -> Flags:
        """Pack booleans, (A * T, D)."""
        return cls(np.packbits(flags, axis=0))

    def __getitem__(self, case: tuple[int, int]) -> Bools:
        byte, bit = divmod(case[0] * len(IOU_THRESHOLDS) + case[1], 8)
        return (self.packed[byte] & (128 >> bit)) != 0

    def take(self, places: Ints) -> Flags:
        """Return the flags of some detections."""
        return Flags(self.packed[:, places])


@dataclass(frozen=True)
class ClassMatches:
    """The matches of one class, detections in descending order of score.

    A = area ranges, T = IoU thresholds, D = detections, G = objects.

    Attributes:
        image: Index of the image of each detection, (D,).
        score: Score of each detection, (D,).
        place: Place of a detection among those of its class in its image, 0 the best, (D,).
        counts: Whether a detection counts: False where it matched an ignored object or lies outside of the area range
            unmatched, [A, T] gives (D,).
        hit: Whether it matched an object that counts, [A, T] gives (D,).
        iou: IoU of a detection with the object that it matched at IoU 0.5, 0 for none, (D,).
        bbox: Box of each detection, xywh px, (D, 4).
        gt_image: Index of the image of each object, (G,).
        gt_area: Area of each object, px^2, (G,).
        gt_counts: Whether an object counts in an area range, (A, G).
        gt_found: Whether an object was found, (T, G).
        gt_bbox: Box of each object, xywh px, (G, 4).
        gt_score: Score of the detection that found an object at IoU 0.5, NaN for none, (G,).
    """

    image: NDArray[np.int32]
    score: Floats
    place: NDArray[np.int16]
    counts: Flags
    hit: Flags
    iou: Floats
    bbox: Floats
    gt_image: NDArray[np.int32]
    gt_area: Floats
    gt_counts: Bools
    gt_found: Bools
    gt_bbox: Floats
    gt_score: Floats


@dataclass(frozen=True)
class Matching:
    """All matches, and the precision and recall that follow from them as COCO has them.

    Attributes:
        classes: Matches by class name, in the order of the categories; empty without details.
        num_images: Number of images.
        areas: The area ranges, "all" first.
        precision: With the largest number of detections, (T, 101 recalls, classes, A), -1 where undefined.
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
    dets, gts, num_classes = inputs.detections, inputs.objects, len(inputs.categories)
    low, high = np.array(list(areas.values()), dtype=float).T[:, :, None]  # (A, 1)
    order, group, place = _best_first(dets.image.astype(np.int64) * num_classes + dets.label, dets.score)
    gt_group = gts.image.astype(np.int64) * num_classes + gts.label
    gt_order = np.argsort(gt_group, kind="stable")
    gt_group = gt_group[gt_order]
    gt_area, gt_crowd, gt_bbox = gts.area[gt_order], gts.crowd[gt_order], gts.bbox[gt_order]
    gt_counts = ~gt_crowd & (low <= gt_area) & (gt_area <= high)
    gt_found = np.zeros((len(IOU_THRESHOLDS), len(gts)), dtype=bool)
    gt_score = np.full(len(gts), np.nan)
    cases = len(areas) * len(IOU_THRESHOLDS)
    hit, counts = (Flags(np.zeros((-(-cases // 8), len(order)), dtype=np.uint8)) for _ in range(2))
    iou = np.zeros(len(order) if details else 0)
    for chunk, gt_chunk in _chunks(group, gt_group):
        bbox, gt_bboxes = dets.bbox[order[chunk]], gt_bbox[gt_chunk]
        offset = int(group[chunk.start])
        pairs = near_pairs(
            bbox, group[chunk] - offset, gt_bboxes, gt_group[gt_chunk] - offset, gt_crowd[gt_chunk], IOU_THRESHOLDS[0]
        )
        case, det, gt = greedy_match(*pairs, ~gt_counts[:, gt_chunk], gt_crowd[gt_chunk], IOU_THRESHOLDS)
        own = bbox[:, 2] * bbox[:, 3]
        counting = np.repeat((low <= own) & (own <= high), len(IOU_THRESHOLDS), axis=0)  # unless matched, (cases, D)
        hits = np.zeros_like(counting)
        counting[case, det] = hits[case, det] = gt_counts[case // len(IOU_THRESHOLDS), gt + gt_chunk.start]
        hit.packed[:, chunk], counts.packed[:, chunk] = (Flags.pack(flags).packed for flags in (hits, counting))
        if details:
            everywhere = case < len(IOU_THRESHOLDS)
            gt_found[case[everywhere], gt[everywhere] + gt_chunk.start] = True
            at_50 = case == AT_50
            det, gt = det[at_50], gt[at_50]
            gt_score[gt + gt_chunk.start] = dets.score[order[chunk][det]]
            iou[det + chunk.start] = pairwise_iou(bbox[det], gt_bboxes[gt])

    shape = len(IOU_THRESHOLDS), len(RECALLS), num_classes, len(areas)
    precision, recall = np.full(shape, -1.0), np.full((shape[0], *shape[2:], len(MAX_DETS)), -1.0)
    classes = {}
    label, score = dets.label[order], dets.score[order]
    for k, category in enumerate(inputs.categories):
        mine = np.flatnonzero(label == k)
        mine = mine[np.argsort(-score[mine], kind="stable")]  # images in order where scores are equal
        my_gts = gt_group % num_classes == k
        my_hit, my_counts, my_place = hit.take(mine), counts.take(mine), place[mine]
        precision[:, :, k], recall[:, k] = _accumulate(my_hit, my_counts, my_place, gt_counts[:, my_gts].sum(1))
        if details:
            classes[str(category["name"])] = ClassMatches(
                image=dets.image[order[mine]],
                score=score[mine],
                place=my_place,
                counts=my_counts,
                hit=my_hit,
                iou=iou[mine],
                bbox=dets.bbox[order[mine]],
                gt_image=gts.image[gt_order[my_gts]],
                gt_area=gt_area[my_gts],
                gt_counts=gt_counts[:, my_gts],
                gt_found=gt_found[:, my_gts],
                gt_bbox=gt_bbox[my_gts],
                gt_score=gt_score[my_gts],
            )
    return Matching(classes, len(inputs.images), dict(areas), precision, recall)


def _best_first(group: Ints, score: Floats) -> tuple[Ints, Ints, NDArray[np.int16]]:
    """Sort detections by group (image and class) and score, cut where COCO cuts.

    Returns:
        Order, group and place in the group of those that remain.
    """
    order = np.lexsort((-score, group))
    group = group[order]
    place = np.arange(len(group)) - np.searchsorted(group, group)
    kept = place < MAX_DETS[-1]
    return order[kept], group[kept], place[kept].astype(np.int16)


def _chunks(group: Ints, gt_group: Ints) -> Iterator[tuple[slice, slice]]:
    """Yield whole groups, some `CHUNK` detections at a time, as slices of the detections and of the objects."""
    start = 0
    while start < len(group):
        last = group[min(start + CHUNK, len(group)) - 1]
        end = int(np.searchsorted(group, last, "right"))
        gt_start, gt_end = np.searchsorted(gt_group, group[start]), np.searchsorted(gt_group, last, "right")
        yield slice(start, end), slice(int(gt_start), int(gt_end))
        start = end


def _accumulate(hit: Flags, counts: Flags, place: NDArray[np.int16], num_gts: Ints) -> tuple[Floats, Floats]:
    """Return precision at 101 recalls, (T, 101, A), and recall, (T, A, max_dets), of one class, -1 without objects.

    Precision falls between hits, so that only the places of the hits matter.
    """
    precision = np.full((len(IOU_THRESHOLDS), len(RECALLS), len(num_gts)), -1.0)
    recall = np.full((len(IOU_THRESHOLDS), len(num_gts), len(MAX_DETS)), -1.0)
    for a in np.flatnonzero(num_gts).tolist():
        for t in range(len(IOU_THRESHOLDS)):
            hits = np.flatnonzero(hit[a, t])
            true = np.arange(1, len(hits) + 1)
            seen = counts[a, t].cumsum(dtype=np.int32)[hits]
            best = np.maximum.accumulate((true / seen)[::-1])[::-1]  # at this recall or more
            reached = np.searchsorted(true / num_gts[a], RECALLS)
            precision[t, :, a] = np.append(best, 0)[reached]
            recall[t, a] = [(place[hits] < limit).sum() / num_gts[a] for limit in MAX_DETS]
    return precision, recall


def pairwise_iou(a: Floats, b: Floats) -> Floats:
    """Return the IoU of each pair of boxes, xywh, each (N, 4)."""
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    common = (high - low).clip(0).prod(1)
    return np.asarray(common / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - common))
