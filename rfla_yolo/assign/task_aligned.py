"""Ultralytics' task-aligned assignment (TAL) of boxes, without tables of objects times anchors.

For the objects that are left to it (``tal_from``). The anchors are the same; the cost follows the anchors inside the
objects instead of all anchors, so that a scene with many objects costs no more than they do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .targets import TAL_ALPHA, TAL_BETA

INSIDE = 1e-9  # px, by which an anchor must be inside, as in Ultralytics

# Overlap of pairs of an object's box and a prediction, both xyxy px, (P, 4): (P,).
Overlap = Callable[[Tensor, Tensor], Tensor]


def task_aligned_assign(
    gt_bboxes: Tensor,
    gt_labels: Tensor,
    image: Tensor,
    pd_scores: Tensor,
    pd_bboxes: Tensor,
    grid_shapes: Sequence[tuple[int, int]],
    strides: Sequence[float],
    overlap: Overlap,
    *,
    topk: int = 10,
    min_side: float = 0.0,
) -> Tensor:
    """Assign objects by the alignment of the predictions inside them, ``score^0.5 * overlap^6``.

    Each object takes the ``topk`` anchors inside it whose predictions align best. An anchor that several take goes to
    the object, among all that it lies in, which its prediction overlaps most. Anchors without any alignment, whose
    target would be 0, are not taken; with fewer than ``topk`` others Ultralytics may take some of them, which ones
    its sort leaves open.

    Args:
        gt_bboxes: Objects of the batch, xyxy px, (N, 4).
        gt_labels: Class of each object, long, (N,).
        image: Image of each object, long, (N,).
        pd_scores: Class scores after the sigmoid, (B, A, num_classes).
        pd_bboxes: Predicted boxes, xyxy px, (B, A, 4).
        grid_shapes: Rows and columns of each level, finest first.
        strides: Stride of each level, px.
        overlap: Overlap of boxes, in [0, 1].
        topk: Anchors an object takes.
        min_side: Sides below this are taken for this long, px, when anchors inside are looked for.

    Returns:
        Number of the object of each anchor, -1 for background, long, (B, A).
    """
    batch, num_anchors = pd_scores.shape[:2]
    gt, anchor = anchors_inside(gt_bboxes, grid_shapes, strides, min_side)
    key = image[gt] * num_anchors + anchor  # of the anchor, through the batch
    overlaps = overlap(gt_bboxes[gt], pd_bboxes[image[gt], anchor])
    alignment = pd_scores[image[gt], anchor, gt_labels[gt]].pow(TAL_ALPHA) * overlaps.pow(TAL_BETA)

    order = alignment.argsort(descending=True, stable=True)
    order = order[gt[order].argsort(stable=True)]
    inside = gt.bincount(minlength=len(gt_bboxes))
    place = torch.arange(len(gt), device=gt.device) - (inside.cumsum(0) - inside)[gt[order]]
    taken = torch.zeros_like(gt, dtype=torch.bool)
    taken[order] = place < topk
    taken &= alignment > 0

    claims = key[taken].bincount(minlength=batch * num_anchors)
    contested = claims[key] > 1
    most = overlaps.new_zeros(batch * num_anchors).scatter_reduce(0, key, overlaps, "amax")
    won = torch.where(contested, overlaps == most[key], taken)
    assigned = gt.new_full((batch * num_anchors,), len(gt_bboxes)).scatter_reduce(0, key[won], gt[won], "amin")
    return assigned.where(assigned < len(gt_bboxes), -1).view(batch, num_anchors)


def anchors_inside(
    gt_bboxes: Tensor, grid_shapes: Sequence[tuple[int, int]], strides: Sequence[float], min_side: float = 0.0
) -> tuple[Tensor, Tensor]:
    """List the anchors inside each object.

    Args:
        gt_bboxes: Objects, xyxy px, (N, 4).
        grid_shapes: Rows and columns of each level, finest first.
        strides: Stride of each level, px.
        min_side: Sides below this are taken for this long about their middle, px.

    Returns:
        Pairs of object and anchor, long, each (P,).
    """
    low, high = gt_bboxes.chunk(2, -1)
    middle, side = (low + high) / 2, (high - low).clamp(min=min_side)
    low, high = middle - side / 2, middle + side / 2
    found, start = [], 0
    for (rows, columns), stride in zip(grid_shapes, strides):
        last = low.new_tensor([columns, rows]) - 1
        first = (low / stride - 0.5).floor().clamp(min=0)  # a cell more than needed, for rounding
        count = ((high / stride - 0.5).ceil().minimum(last) - first + 1).clamp(min=0).long()
        cells = count.prod(-1)
        gt = torch.arange(len(cells), device=cells.device).repeat_interleave(cells)
        cell = torch.arange(len(gt), device=gt.device) - (cells.cumsum(0) - cells)[gt]
        column, row = cell % count[gt, 0] + first[gt, 0].long(), cell // count[gt, 0] + first[gt, 1].long()
        point = (torch.stack([column, row], -1) + 0.5).to(low.dtype) * stride
        inside = ((point - low[gt] > INSIDE) & (high[gt] - point > INSIDE)).all(-1)
        found.append(torch.stack([gt, start + row * columns + column])[:, inside])
        start += rows * columns
    gt, anchor = torch.cat(found, -1)
    return gt, anchor
