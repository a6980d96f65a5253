"""Ultralytics' task-aligned assignment (TAL) of boxes, without tables of objects times anchors.

For the objects that are left to it (``tal_from``). The anchors are the same; time and memory follow the anchors inside
the objects instead of all anchors of the image for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .targets import TAL_ALPHA, TAL_BETA

INSIDE = 1e-9  # px, by which an anchor must be inside, as in Ultralytics

# Score of the object's class and overlap with the object, of the predictions at pairs of object and anchor, long (P,):
# each float, (P,).
PairPredictions = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class TaskAligned(NamedTuple):
    """An assignment of the objects of a batch by TAL.

    Attributes:
        assigned: Number of the object of each anchor, -1 for background, long, (B, A).
        gt: Object of each pair that it took before conflicts were resolved, long, (T,).
        anchor: Anchor of each of these pairs, long, (T,).
    """

    assigned: Tensor
    gt: Tensor
    anchor: Tensor


def task_aligned_assign(
    gt_bboxes: Tensor,
    image: Tensor,
    batch: int,
    grid_shapes: Sequence[tuple[int, int]],
    strides: Sequence[float],
    predictions: PairPredictions,
    *,
    topk: int = 10,
    min_side: float = 0.0,
) -> TaskAligned:
    """Assign objects by the alignment of the predictions inside them, ``score^0.5 * overlap^6``.

    Each object takes the ``topk`` anchors inside it whose predictions align best. An anchor that several take goes to
    the object, among all that it lies in, which its prediction overlaps most. Anchors without any alignment, whose
    target would be 0, are not taken; with fewer than ``topk`` others Ultralytics may take some of them, which ones
    its sort leaves open.

    Args:
        gt_bboxes: Objects of the batch, xyxy px, (N, 4).
        image: Image of each object, long, (N,).
        batch: Number of images.
        grid_shapes: Rows and columns of each level, finest first.
        strides: Stride of each level, px.
        predictions: Gives score and overlap, in [0, 1], of pairs of object and anchor.
        topk: Anchors an object takes.
        min_side: Sides below this are taken for this long, px, when anchors inside are looked for.

    Returns:
        The assignment, and what each object took before.
    """
    num_anchors = sum(rows * columns for rows, columns in grid_shapes)
    gt, anchor = anchors_inside(gt_bboxes, grid_shapes, strides, min_side)
    score, overlap = predictions(gt, anchor)
    alignment = score.float().pow(TAL_ALPHA) * overlap.float().pow(TAL_BETA)

    # One sort, by object and then by alignment: of numbers from 0 on, the bits of float32 are in their order.
    aligned = (alignment > 0).nonzero().squeeze(1)
    bits = alignment[aligned].view(torch.int32).long()
    order = aligned[((gt[aligned] << 32) - bits).argsort(stable=True)]
    inside = gt[aligned].bincount(minlength=len(gt_bboxes))
    place = torch.arange(len(order), device=gt.device) - (inside.cumsum(0) - inside)[gt[order]]
    taken = order[place < topk]

    key = image[gt] * num_anchors + anchor  # of the anchor, through the batch
    claims = key[taken].bincount(minlength=batch * num_anchors)
    contested = (claims[key] > 1).nonzero().squeeze(1)
    most = overlap.new_zeros(batch * num_anchors).scatter_reduce(0, key[contested], overlap[contested], "amax")
    contested = contested[overlap[contested] == most[key[contested]]]
    won = torch.cat([taken[claims[key[taken]] == 1], contested])
    assigned = gt.new_full((batch * num_anchors,), len(gt_bboxes)).scatter_reduce(0, key[won], gt[won], "amin")
    assigned = assigned.where(assigned < len(gt_bboxes), -1).view(batch, num_anchors)
    return TaskAligned(assigned, gt[taken], anchor[taken])


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
