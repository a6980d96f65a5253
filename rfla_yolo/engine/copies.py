"""Copies of tiny objects, pasted elsewhere into their own image in training.

Tiny objects are few pixels of few images, so that an epoch holds little of them. Ultralytics' ``copy_paste`` moves
objects that have masks; boxes have none, and of a tiny object the box is as good (Kisantal et al., "Augmentation for
small object detection", arXiv 1902.07296). The copy is a rectangle, faded out over a margin and mirrored at random. Of
some free places it takes the one whose surroundings are most like those of the object, so that people stay on paths and
vehicles on roads, and it is as much brighter or darker than them as the object was.
"""

from __future__ import annotations

import random
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from ultralytics.data.dataset import YOLODataset
from ultralytics.utils.instance import Instances
from ultralytics.utils.metrics import bbox_ioa
from ultralytics.utils.ops import resample_segments

TINY = 16  # px of the network input below which an object is copied: AI-TOD's very tiny and tiny ones
MARGIN = 2  # px around an object that are faded out and lie on no other object
TRIALS = 30  # places tried for a copy, which is left out if all of them are taken
AROUND = np.array([-MARGIN, -MARGIN, MARGIN, MARGIN])
BLUR = 5  # px over which the surroundings of two places are compared


class CopyingDataset(YOLODataset):
    """Ultralytics' dataset of boxes whose training images get copies of their tiny objects.

    Like its mosaic, it ends with ``close_mosaic``.

    Attributes:
        copies: Copies of each tiny object, on average.
    """

    copies: float = 0

    def get_image_and_label(self, index: int) -> dict[str, Any]:
        """Return an image and its label as Ultralytics' augmentation takes them, with copies of the tiny objects."""
        label: dict[str, Any] = super().get_image_and_label(index)
        if not self.copies:
            return label
        instances = label["instances"]
        height, width = label["img"].shape[:2]
        size = np.array([width, height] * 2, dtype=np.float32)
        instances.convert_bbox("xyxy")
        rng = np.random.default_rng(random.getrandbits(64))  # Ultralytics seeds `random` in every worker
        image, boxes, source = paste_copies(label["img"], instances.bboxes * size, self.copies, rng)
        everything = np.concatenate([instances.bboxes, boxes / size]).astype(np.float32)
        segments = instances.segments
        if len(segments):  # polygons in a dataset of boxes: Ultralytics' augmentation takes the boxes around them
            corners = [box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2) for box in boxes / size]
            segments = np.concatenate([segments, *(resample_segments([c], segments.shape[1]) for c in corners)])
        label["instances"] = Instances(everything, segments, None, bbox_format="xyxy", normalized=True)
        label["cls"] = np.concatenate([label["cls"], label["cls"][source]])
        label["img"] = image
        return label

    def close_mosaic(self, hyp: Any) -> None:
        """Let the last epochs see the images as they are."""
        self.copies = 0
        super().close_mosaic(hyp)


def with_copies(dataset: YOLODataset, copies: float) -> YOLODataset:
    """Let a training dataset of boxes paste copies of its tiny objects.

    Args:
        dataset: Ultralytics' own, as it has been built; it is changed.
        copies: Copies of each object below `TINY` px of the network input, on average; with 0 it stays as it is.
    """
    if copies:
        dataset.__class__ = CopyingDataset  # it is built by a function of Ultralytics that takes no class
        dataset.copies = copies
    return dataset


def paste_copies(
    image: NDArray[Any], boxes: NDArray[np.float32], copies: float, rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.intp]]:
    """Paste copies of the tiny objects of an image where there is no object.

    An object that touches another one is not copied: part of the other would come along without a label.

    Args:
        image: (H, W, C), not changed.
        boxes: Objects, xyxy px, (N, 4).
        copies: Copies of each tiny object, on average: their number is rounded up or down at random.
        rng: The source of chance.

    Returns:
        The image, itself or a copy; the boxes of the copies, xyxy px, (M, 4); and which object each is of, (M,).
    """
    pixels = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], 1).astype(int)
    around = pixels + AROUND
    source = _pick(image.shape, boxes, pixels, around, copies, rng)
    if not len(source):
        return image, np.zeros((0, 4), dtype=np.float32), source

    size = (around[:, 2:] - around[:, :2])[source, None]
    corners = rng.integers(0, image.shape[1::-1] - size + 1, (len(source), TRIALS, 2))
    places = np.concatenate([corners, corners + size], 2)
    free = ~_touches(places.reshape(-1, 4), pixels).any(1).reshape(-1, TRIALS)
    mirrored = rng.random(len(source)) < 0.5
    unlike = _compare_surroundings(image, around[source], places)
    canvas, kept, chosen = image.copy(), [], places[:0, 0]
    for i in np.flatnonzero(free.any(1)):
        left = free[i] & ~_touches(places[i], chosen).any(1)
        if left.any():
            place = places[i, np.where(left, unlike[i], np.inf).argmin()]
            _paste(canvas, image, around[source[i]], place, mirrored[i])
            kept.append(i)
            chosen = np.concatenate([chosen, place[None]])
    source, mirrored = source[kept], mirrored[kept]
    inner = boxes[source] - around[source][:, [0, 1, 0, 1]]
    inner[mirrored, ::2] = size[kept, 0, :1][mirrored] - inner[mirrored, 2::-2]
    return canvas, (inner + chosen[:, [0, 1, 0, 1]]).astype(np.float32), source


def _pick(
    shape: tuple[int, ...],
    boxes: NDArray[np.float32],
    pixels: NDArray[Any],
    around: NDArray[Any],
    copies: float,
    rng: np.random.Generator,
) -> NDArray[np.intp]:
    """Return the objects to be copied, each as often as it shall be, in random order."""
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    inside = (around[:, :2] >= 0).all(1) & (around[:, 2:] <= [shape[1], shape[0]]).all(1)
    tiny = np.flatnonzero((sides > 0) & (sides < TINY) & inside)
    alone = _touches(around[tiny], pixels).sum(1) == 1  # it touches itself
    tiny = tiny[alone]
    return rng.permutation(np.repeat(tiny, np.floor(copies + rng.random(len(tiny))).astype(int)))


def _compare_surroundings(image: NDArray[Any], around: NDArray[Any], places: NDArray[Any]) -> NDArray[np.float32]:
    """Return how much the border of places differs from that of an object, (N, 4) and (N, T, 4): (N, T)."""
    grey = cv2.blur(image.mean(2, dtype=np.float32), (BLUR, BLUR))

    def border(boxes: NDArray[Any]) -> NDArray[np.float32]:
        left, top, right, bottom = np.moveaxis(boxes - [0, 0, 1, 1], -1, 0)
        x, y = (left + right) // 2, (top + bottom) // 2
        columns = np.stack([left, x, right, right, right, x, left, left], -1)
        return grey[np.stack([top, top, top, y, bottom, bottom, bottom, y], -1), columns]

    return np.abs(border(places) - border(around)[:, None]).sum(-1)


def _touches(some: NDArray[Any], others: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether boxes share area, xyxy, (N, 4) and (M, 4): (N, M)."""
    return np.asarray(bbox_ioa(some, others) > 0)


def _paste(
    canvas: NDArray[Any], image: NDArray[Any], around: NDArray[Any], place: NDArray[Any], mirrored: bool
) -> None:
    """Paste what is in a box of the image, xyxy px, into a box of the same size of the canvas."""
    patch = image[around[1] : around[3], around[0] : around[2]].astype(np.float32)
    old = canvas[place[1] : place[3], place[0] : place[2]].astype(np.float32)
    if mirrored:
        patch = patch[:, ::-1]
    rows, columns = (np.minimum(np.arange(n), np.arange(n)[::-1]) for n in patch.shape[:2])
    depth = np.minimum(rows[:, None], columns)  # px from the border
    patch += old[depth < MARGIN].mean(0) - patch[depth < MARGIN].mean(0)
    share = np.minimum((depth + 1) / (MARGIN + 1), 1)[..., None]
    top = np.iinfo(canvas.dtype).max
    canvas[place[1] : place[3], place[0] : place[2]] = (share * patch + (1 - share) * old).round().clip(0, top)
