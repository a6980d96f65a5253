"""What an assigner does to the objects of images: every figure of the analysis is computed from these arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..assign.resolve import box_area
from ..engine import RFLAAssigner
from ..engine.analysis import OpenRotatedTAL, OpenTAL, Sample

BORDER = 1e-5  # of the image's longer side: an anchor this near to an object's border is on it, as labels are rounded


@dataclass(frozen=True)
class Levels:
    """The detection levels of a model.

    Attributes:
        strides: Stride of each level, px, finest first.
        rf_sizes: Side of the receptive field of each level, px.
        bins: First and last bin of the head's distance distribution, strides; None for signed distances.
    """

    strides: tuple[float, ...]
    rf_sizes: tuple[float, ...]
    bins: tuple[float, float] | None

    def grid(self, shape: Sequence[int]) -> list[tuple[int, int]]:
        """Return rows and columns of each level for an image of (height, width) px."""
        return [(ceil(shape[0] / s), ceil(shape[1] / s)) for s in self.strides]

    def anchors(self, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return all anchor points, px, (A, 2), and the level of each, (A,)."""
        return _anchors(tuple(self.grid(shape)), self.strides)

    def reach(self, boxes: Tensor, points: Tensor, level: Tensor) -> Tensor:
        """Return the best IoU with a box that the head can draw from an anchor.

        A head with a distance distribution draws sides no nearer to the anchor than its first bin, 0 strides in
        Ultralytics, whose boxes therefore hold the anchor, and no farther than its last. Each side as near to the
        object's as that allows gives the best IoU. A head with signed distances draws every box. Of oriented boxes,
        whose sides are that far away along their own axes, the best at the angle of the object, which is what training
        aims at.

        Args:
            boxes: Objects, xyxy px, (N, 4), or oriented, (N, 5).
            points: Anchor points, px, (N, 2).
            level: Level of each anchor, (N,).

        Returns:
            IoU, (N,).
        """
        if self.bins is None:
            return torch.ones_like(boxes[:, 0])
        first, last = (self.stride(level) * end for end in self.bins)
        before, after = distances(boxes, points)
        low, high = (side.maximum(first).minimum(last) for side in (before, after))
        shared = (torch.minimum(high, after) + torch.minimum(low, before)).clamp(min=0).prod(-1)
        union = (high + low).clamp(min=0).prod(-1) + (after + before).prod(-1) - shared
        return shared / union.clamp(min=1e-9)

    def stride(self, level: Tensor) -> Tensor:
        """Return the strides of levels (N,), px, (N, 1)."""
        return torch.tensor(self.strides, device=level.device)[level][:, None]


def distances(boxes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far the sides of boxes lie from points, along the boxes' own axes; negative on the other side.

    Args:
        boxes: Boxes, xyxy px, (N, 4), or oriented: centre x and y, w, h in px, angle in radians, (N, 5).
        points: Points, px, (N, 2).

    Returns:
        Distances to the sides of least and of greatest coordinate, px, each (N, 2).
    """
    if boxes.shape[-1] == 4:
        return points - boxes[:, :2], boxes[:, 2:] - points
    (dx, dy), cos, sin = (points - boxes[:, :2]).unbind(-1), boxes[:, 4].cos(), boxes[:, 4].sin()
    offset = torch.stack([dx * cos + dy * sin, dy * cos - dx * sin], -1)
    return boxes[:, 2:4] / 2 + offset, boxes[:, 2:4] / 2 - offset


@dataclass(frozen=True)
class Assigned:
    """The assignment of one image.

    Attributes:
        gt: Index of the object of each anchor, -1 for background, long, (A,).
        wanted: Anchors that each object would have got if it were alone, long, (G,).
        lost: Those of them that another object got, long, (G,).
        contested: Anchors that several objects wanted.
        guessed: Whether the anchors of an object stand for others of the same number, bool, (G,): RFLA has left it to
            TAL, and there are no predictions for TAL to choose by.
    """

    gt: Tensor
    wanted: Tensor
    lost: Tensor
    contested: int
    guessed: Tensor


def assign_rfla(
    sample: Sample,
    levels: Levels,
    assigner: RFLAAssigner,
    predicted: tuple[Tensor, Tensor] | None = None,
    conflicts: bool = True,
) -> Assigned:
    """Assign an image by RFLA, as training does; what it leaves to TAL (``tal_from``) as `assign_tal` does.

    Args:
        sample: The image.
        levels: The levels; those of the assigner.
        assigner: The assigner.
        predicted: As for `assign_tal`.
        conflicts: Also look at what every object wanted.
    """
    grid = levels.grid(sample.image.shape[1:])
    num_gts = len(sample.boxes)
    if not num_gts:
        return _nothing(grid)
    mask = sample.trained[None]
    large = assigner.left_to_tal(sample.boxes[None], mask)
    large = torch.zeros_like(mask) if large is None else large
    small = mask & ~large
    gt = assigner.assign(sample.boxes[None], small, grid)[0]
    numbers = large[0].nonzero().squeeze(1)
    if len(numbers):
        part = replace(sample, boxes=sample.boxes[numbers], labels=sample.labels[numbers])
        by_tal, number, place = _large_by_tal(part, levels, assigner, predicted)
        gt = torch.where((gt < 0) & (by_tal >= 0), numbers[by_tal.clamp(min=0)], gt)
    guessed = large[0] & (predicted is None)
    if not conflicts:
        nothing = torch.zeros(num_gts, dtype=torch.long)
        return Assigned(gt, nothing, nothing, 0, guessed)
    stages = assigner.select(sample.boxes[None], small, grid)
    objects = torch.arange(num_gts)[:, None]
    # an object may want an anchor in both stages: count the pair once
    pairs = torch.cat([(objects * len(gt) + stage.anchor[0])[stage.taken[0]] for stage in stages]).unique()
    wants, anchor = pairs // len(gt), pairs % len(gt)
    if len(numbers):
        wants, anchor = torch.cat([wants, numbers[number]]), torch.cat([anchor, place])
    return _assigned(gt, wants, anchor, guessed)


def assign_tal(
    sample: Sample, levels: Levels, assigner: OpenTAL | OpenRotatedTAL, predicted: tuple[Tensor, Tensor] | None = None
) -> Assigned:
    """Assign an image by Ultralytics' assigner, with its small-target rule.

    Args:
        sample: The image.
        levels: The levels.
        assigner: The assigner.
        predicted: Class scores and boxes of a trained model, as `predictions` has them; without, every pair has score 1
            and the best IoU that the head can draw.
    """
    if not len(sample.boxes):
        return _nothing(levels.grid(sample.image.shape[1:]))
    gt, claimed = _by_tal(sample, levels, assigner, predicted)
    wants, anchor = claimed.nonzero(as_tuple=True)
    return _assigned(gt, wants, anchor, torch.zeros(len(claimed), dtype=torch.bool))


def _large_by_tal(
    sample: Sample, levels: Levels, assigner: RFLAAssigner, predicted: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the object of each anchor, -1 for background, (A,), and what was wanted, pairs of object and anchor."""
    if sample.boxes.shape[1] == 5:
        gt, claimed = _by_tal(sample, levels, OpenRotatedTAL(assigner.num_classes, assigner.strides), predicted)
        number, anchor = claimed.nonzero(as_tuple=True)
        return gt, number, anchor
    points, level = levels.anchors(sample.image.shape[1:])

    def predictions(number: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
        if predicted is None:
            reach = levels.reach(sample.boxes[number], points[anchor], level[anchor])
            return torch.ones_like(reach), reach
        scores, boxes = predicted
        overlap = assigner.stock.iou_calculation(sample.boxes[number], boxes[0, anchor])
        return scores[0, anchor, sample.labels[number]], overlap

    image = torch.zeros(len(sample.boxes), dtype=torch.long)
    found = assigner.align(sample.boxes, image, 1, levels.grid(sample.image.shape[1:]), predictions)
    return found.assigned[0], found.gt, found.anchor


def _by_tal(
    sample: Sample, levels: Levels, assigner: OpenTAL | OpenRotatedTAL, predicted: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Return the object of each anchor, -1 for background, (A,), and what every object wanted, bool, (G, A)."""
    points, level = levels.anchors(sample.image.shape[1:])
    assigner.reach = None if predicted else lambda boxes, anchor: levels.reach(boxes, points[anchor], level[anchor])
    size = (1, len(points))
    empty = torch.ones(*size, assigner.num_classes), torch.zeros(*size, sample.boxes.shape[1])
    scores, boxes = predicted or empty
    mask = sample.trained.float().view(1, -1, 1)
    _, _, _, positive, gt = assigner(scores, boxes, points, sample.labels.view(1, -1, 1), sample.boxes[None], mask)
    return torch.where(positive[0], gt[0], -1), assigner.wanted[0]


def _assigned(gt: Tensor, wants: Tensor, anchor: Tensor, guessed: Tensor) -> Assigned:
    """Return an assignment from the pairs of objects and the anchors they wanted.

    TAL may give a contested anchor to an object that did not even want it: what is lost has to be counted.
    """
    lost = wants[gt[anchor] != wants]
    wanted, lost = (pairs.bincount(minlength=len(guessed)) for pairs in (wants, lost))
    return Assigned(gt, wanted, lost, int((anchor.bincount() > 1).sum()), guessed)


@lru_cache(maxsize=4)
def _anchors(grid: tuple[tuple[int, int], ...], strides: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    points, level = [], []
    for i, ((rows, columns), stride) in enumerate(zip(grid, strides)):
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        points.append((torch.stack([x, y], -1).view(-1, 2) + 0.5) * stride)
        level.append(torch.full((rows * columns,), i))
    return torch.cat(points), torch.cat(level)


def _nothing(grid: Sequence[tuple[int, int]]) -> Assigned:
    anchors = sum(rows * columns for rows, columns in grid)
    nothing = torch.zeros(0, dtype=torch.long)
    return Assigned(torch.full((anchors,), -1), nothing, nothing, 0, nothing.bool())


@dataclass
class Tally:
    """Objects and positive anchors of many images, one array entry each.

    Attributes:
        levels: The levels of the model.
        zoom: Factor by which the images were enlarged; sizes are given without it, so that objects stay comparable.
        contested: Anchors that several objects wanted.
        anchors: Anchors of all images.
    """

    levels: Levels
    zoom: float = 1.0
    contested: int = 0
    anchors: int = 0
    _objects: list[NDArray[np.float64]] = field(default_factory=list)
    _positives: list[NDArray[np.float64]] = field(default_factory=list)
    _count: int = 0

    def add(self, sample: Sample, assigned: Assigned) -> None:
        """Add an image."""
        num_gts = len(sample.boxes)
        points, level = self.levels.anchors(sample.image.shape[1:])
        anchor = (assigned.gt >= 0).nonzero().squeeze(1)
        gt, points, level = assigned.gt[anchor], points[anchor], level[anchor]
        boxes = sample.boxes[gt]
        reach = self.levels.reach(boxes, points, level)
        slack = BORDER * max(sample.image.shape[1:])
        sides = torch.cat(distances(boxes, points), -1)
        inside = sides.amin(-1) > slack
        positives = torch.bincount(gt, minlength=num_gts)
        best = torch.zeros(num_gts).scatter_reduce(0, gt, reach, "amax")
        side = box_area(sample.boxes).sqrt() / self.zoom
        of_objects = [side, positives, assigned.wanted, assigned.lost, best, assigned.guessed]
        self._objects.append(torch.stack(of_objects, 1).double().numpy())
        in_strides = sides / self.levels.stride(level)
        of_positives = [gt + self._count, level, inside, reach, in_strides.amin(-1), in_strides.amax(-1)]
        self._positives.append(torch.stack(of_positives, 1).double().numpy())
        self._count += num_gts
        self.contested += assigned.contested
        self.anchors += len(assigned.gt)

    @property
    def side(self) -> NDArray[np.float64]:
        """Square root of the area of every object, px."""
        return self._column(self._objects, 0)

    @property
    def positives(self) -> NDArray[np.float64]:
        """Positive anchors of every object."""
        return self._column(self._objects, 1)

    @property
    def wanted(self) -> NDArray[np.float64]:
        """Anchors that every object would have got alone."""
        return self._column(self._objects, 2)

    @property
    def lost(self) -> NDArray[np.float64]:
        """Those of them that another object got."""
        return self._column(self._objects, 3)

    @property
    def best(self) -> NDArray[np.float64]:
        """The best IoU that the head can reach from the positives of every object; 0 without positives."""
        return self._column(self._objects, 4)

    @property
    def guessed(self) -> NDArray[np.bool_]:
        """Whether the anchors of every object stand for others, so that their levels and distances mean nothing."""
        return self._column(self._objects, 5) > 0

    @property
    def owner(self) -> NDArray[np.int64]:
        """Object of every positive anchor."""
        return self._column(self._positives, 0).astype(np.int64)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Whether the level and the distances of every positive anchor mean something: it is of no guessed object."""
        return ~self.guessed[self.owner]

    @property
    def level(self) -> NDArray[np.int64]:
        """Level of every positive anchor."""
        return self._column(self._positives, 1).astype(np.int64)

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Whether every positive anchor lies inside its object; on the border is outside, as in Ultralytics' TAL."""
        return self._column(self._positives, 2) > 0

    @property
    def reach(self) -> NDArray[np.float64]:
        """The best IoU that the head can reach from every positive anchor."""
        return self._column(self._positives, 3)

    @property
    def nearest(self) -> NDArray[np.float64]:
        """Least distance from every positive anchor to a side of its object, strides; negative beyond the side."""
        return self._column(self._positives, 4)

    @property
    def farthest(self) -> NDArray[np.float64]:
        """Greatest distance from every positive anchor to a side of its object, strides."""
        return self._column(self._positives, 5)

    @staticmethod
    def _column(parts: list[NDArray[np.float64]], column: int) -> NDArray[np.float64]:
        return np.concatenate([part[:, column] for part in parts]) if parts else np.zeros(0)
