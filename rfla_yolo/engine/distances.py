"""The distances that RFLA's positives need in training, measured on the labels: where the bins of a new model stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, floor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from ultralytics.utils.ops import xywh2xyxy
from ultralytics.utils.tal import bbox2dist, make_anchors

from ..config import RFLAConfig
from .bins import CUT
from .data import image_shape, pick_evenly
from .loss import RFLAAssigner

GRAIN = 0.25  # cells, to which a measured range is rounded outwards
REACH, FOUND = 0.9, 0.5  # IoU that measured bins let the longest objects reach; that below which one is never found
SAMPLED, OBJECTS = 2000, 20_000  # images, and objects on them, that a range is measured on
LONGEST = 1000  # objects, the longest of all, that it must reach
BATCH = 4000  # boxes assigned at a time
LEAST, SHARE = 2.0, 0.1  # Ultralytics' augmentation drops an object of which no more is left: px of a side, of its area


class DistanceMeter:
    """Measures the distances that RFLA's positives need in training, from the labels alone.

    All objects are assigned by RFLA, whose anchors stand for those that TAL will choose for large ones (``tal_from``).

    Args:
        labels: Labels as Ultralytics keeps them.
        imgsz: Training size, px.
        scale: Ultralytics' argument: objects become 1 - scale to 1 + scale times as large.
        multi_scale: Ultralytics' argument: so does the image.
    """

    def __init__(
        self, labels: Sequence[Mapping[str, Any]], imgsz: int, scale: float, multi_scale: float | None = 0.0
    ) -> None:
        self.imgsz = imgsz
        self.zooms = sorted({1 - scale, 1.0, 1 + scale})
        self.sizes = sorted({1 - (multi_scale or 0.0), 1.0, 1 + (multi_scale or 0.0)})
        images = [_letterboxed(label) for label in labels if len(label["cls"])]
        sample = pick_evenly(images, SAMPLED)
        objects = sum(map(len, sample))
        self._sample = pick_evenly(sample, ceil(len(sample) * min(1.0, OBJECTS / max(objects, 1))))
        self._longest = _longest(images, LONGEST)

    def range(
        self, strides: Sequence[float], rf_sizes: Sequence[float], config: RFLAConfig, reg_max: int, zoom: float = 1.0
    ) -> tuple[float, float] | None:
        """Return where the first and the last bin should stand: all but the outermost half of `CUT` at either end.

        The objects are as they are labelled, and as small and as large as the augmentation makes them, without those
        that it drops. The last bin is far enough for a box of IoU `REACH` with each of the `LONGEST` objects as it
        is labelled, however rare its size; but bins are no coarser than Ultralytics'.

        Args:
            strides: Strides of the levels, px.
            rf_sizes: Receptive field of each, px.
            config: The settings.
            reg_max: Number of bins.
            zoom: Factor on the training size.

        Returns:
            Distances in cells, rounded outwards to a `GRAIN`; None without objects.
        """
        assigner = _assigner(strides, rf_sizes, config)
        found = [
            _assign(assigner, self._sample, self.imgsz * zoom * size, larger)[0].flatten()
            for size in self.sizes
            for larger in self.zooms
        ]
        sides = torch.cat(found)
        if not len(sides):
            return None
        low, high = np.quantile(sides.numpy(), [CUT / 2, 1 - CUT / 2]) / GRAIN
        first, last = GRAIN * floor(low), GRAIN * max(ceil(high), floor(low) + 1)
        farthest = first + reg_max - 1
        far, number, _ = _assign(assigner, self._longest, self.imgsz * zoom, 1.0)
        while last < farthest and len(far) and _best(far, number, last)[0].min() < REACH:
            last += GRAIN
        return first, min(last, farthest)

    def describe_unreached(
        self, strides: Sequence[float], rf_sizes: Sequence[float], config: RFLAConfig, dfl_range: tuple[float, float]
    ) -> str | None:
        """Return in words how many objects are too large for the bins, as labelled, or None where none is.

        Args:
            strides: Strides of the levels, px.
            rf_sizes: Receptive field of each, px.
            config: The settings.
            dfl_range: The first and the last bin, cells.
        """
        sides, number, stride = _assign(_assigner(strides, rf_sizes, config), self._longest, self.imgsz, 1.0)
        best, place = _best(sides, number, dfl_range[1])
        few = int((best < FOUND).sum())
        if not few:
            return None
        objects = "an object" if few == 1 else f"{'at least ' * (few == LONGEST)}{few} objects"
        longest = ((sides[:, :2] + sides[:, 2:]).amax(-1) * stride)[best[place] < FOUND].max()
        return (
            f"dfl_range [{dfl_range[0]:g}, {dfl_range[1]:g}]: {objects} of the training set, up to "
            f"{float(longest):.0f} px of the input, cannot be drawn to an IoU of {FOUND:g}, so they are never "
            "found; rfla-yolo analyze says more"
        )


def _longest(images: list[Tensor], count: int) -> list[Tensor]:
    """Return so many objects of the longest sides, by image."""
    sides = [(boxes[:, 2:] - boxes[:, :2]).amax(-1) for boxes in images]
    if not sides:
        return []
    every = torch.cat(sides)
    chosen = torch.zeros(len(every), dtype=torch.bool)
    chosen[every.topk(min(count, len(every))).indices] = True
    kept = [boxes[mine] for boxes, mine in zip(images, chosen.split([len(boxes) for boxes in images]))]
    return [boxes for boxes in kept if len(boxes)]


def _assigner(strides: Sequence[float], rf_sizes: Sequence[float], config: RFLAConfig) -> RFLAAssigner:
    return RFLAAssigner(1, list(strides), list(rf_sizes), replace(config, tal_from=None))


def _assign(assigner: RFLAAssigner, images: list[Tensor], imgsz: float, zoom: float) -> tuple[Tensor, Tensor, Tensor]:
    """Assign the objects of images as the augmentation shows them.

    Args:
        assigner: The assigner.
        images: Boxes in the middle of a square input of side 1, xyxy, each (G, 4).
        imgsz: Side of the input, px.
        zoom: How many times as large the objects become; what leaves the input is cut, or dropped as Ultralytics does.

    Returns:
        Of each positive the distances to the sides of its object, cells, (N, 4), the number of the object and the side
        of a cell, px, each (N,).
    """
    strides = torch.tensor(assigner.strides)
    shapes = [(ceil(imgsz / s), ceil(imgsz / s)) for s in assigner.strides]
    points, stride = make_anchors([torch.empty(1, 1, *shape) for shape in shapes], strides)
    images = sorted(images, key=len)  # images of a batch hold about as many objects
    sides, numbers, cells, count = [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.long)], [torch.zeros(0)], 0
    while images:
        size = max(1, BATCH // len(images[-1]))
        batch, images = images[-size:], images[:-size]
        whole = pad_sequence([((boxes - 0.5) * zoom + 0.5) * imgsz for boxes in batch], batch_first=True)
        boxes = whole.clamp(0, imgsz)
        (width, height), area = (boxes[..., 2:] - boxes[..., :2]).unbind(-1), (whole[..., 2:] - whole[..., :2]).prod(-1)
        seen = (torch.minimum(width, height) > LEAST) & (width * height > SHARE * area)
        assigned = assigner.assign(boxes, seen, shapes)
        image, anchor = (assigned >= 0).nonzero(as_tuple=True)
        objects = assigned[image, anchor]
        sides.append(bbox2dist(points[anchor], boxes[image, objects] / stride[anchor]))
        numbers.append(image * boxes.shape[1] + objects + count)
        cells.append(stride[anchor, 0])
        count += boxes.shape[0] * boxes.shape[1]
    return torch.cat(sides), torch.cat(numbers), torch.cat(cells)


def _best(sides: Tensor, number: Tensor, last: float) -> tuple[Tensor, Tensor]:
    """Return the best IoU with each object that its positives can draw with sides no farther than ``last``, cells.

    Args:
        sides: Distances of the sides from each positive, left, top, right, bottom, cells, (N, 4).
        number: Number of its object, (N,).
        last: The last bin, cells.

    Returns:
        IoU by object, (objects,), and the place of each positive's object there, (N,).
    """
    drawn, whole = ((ends[:, :2] + ends[:, 2:]).clamp(min=0).prod(-1) for ends in (sides.clamp(max=last), sides))
    objects, place = number.unique(return_inverse=True)
    return torch.zeros(len(objects)).scatter_reduce(0, place, drawn / whole, "amax"), place


def _letterboxed(label: Mapping[str, Any]) -> Tensor:
    """Return the boxes of a label in the middle of a square input of side 1, xyxy, (G, 4)."""
    height, width = image_shape(label)
    size = torch.tensor([width, height] * 2) / max(height, width)
    return xywh2xyxy(torch.as_tensor(label["bboxes"][:, :4]).float() * size) + (1 - size) / 2
