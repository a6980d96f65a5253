"""Step 4 for a one-to-one branch (YOLOv10, YOLO26): each object its single best anchor, each anchor one object.

A strict matching by rounds, without a loop over objects: every object that is still open proposes to its best free
anchor, and every anchor takes the best of its proposals for good. Most objects match in the first round; those that
lost an anchor to a neighbour take their next best.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .candidates import GridShapes
from .resolve import highest_score, resolve_conflicts
from .rfla import rfla_select

FALLBACK = 8  # anchors of an object that come into question
ROUNDS = 4  # 2,667 objects in 800 px left none open after three; n identical boxes need n


@torch.no_grad()
def rfla_match(
    gt_bboxes: Tensor,
    gt_mask: Tensor,
    grid_shapes: GridShapes,
    strides: Sequence[float],
    rf_sizes: Sequence[float],
    *,
    distance: str = "kl",
    rounds: int = ROUNDS,
) -> Tensor:
    """Give every object the single anchor whose receptive field is nearest to it, and no anchor to two objects.

    Args:
        gt_bboxes: Objects, as in `rfla_assign`, (B, G, 4) or (B, G, 5).
        gt_mask: True for objects, False for padding, bool, (B, G).
        grid_shapes: Rows and columns of each level, finest first.
        strides: Stride of each level, px.
        rf_sizes: Side of the receptive field of each level, px.
        distance: Score of a receptive field and an object, a key of `DISTANCES`.
        rounds: As in `match_one_to_one`.

    Returns:
        Index of the object of each anchor, -1 for background, long, (B, A).

    Raises:
        ValueError: If a shape or a setting is not as described.

    Example:
        >>> boxes = torch.tensor([[[10.0, 10.0, 14.0, 14.0], [10.0, 10.0, 14.0, 14.0]]])
        >>> matched = rfla_match(boxes, torch.ones(1, 2, dtype=torch.bool), [(8, 8)], [4], [8])
        >>> matched.view(8, 8)[1:5, 1:5]
        tensor([[-1, -1, -1, -1],
                [-1,  0,  1, -1],
                [-1, -1, -1, -1],
                [-1, -1, -1, -1]])
    """
    levels = (grid_shapes, strides, rf_sizes)
    (stage,) = rfla_select(gt_bboxes, gt_mask, *levels, topk=(FALLBACK, 0), distance=distance)
    num_anchors = sum(rows * columns for rows, columns in grid_shapes)
    return match_one_to_one(stage.taken, stage.scores, stage.anchor, gt_bboxes.float(), num_anchors, rounds)


def match_one_to_one(
    selected: Tensor, scores: Tensor, index: Tensor, gt_bboxes: Tensor, num_anchors: int, rounds: int = ROUNDS
) -> Tensor:
    """Match objects and anchors one to one.

    An object prefers its highest score, of equal scores the anchor of the lowest index; an anchor prefers the highest
    score, then the smaller box. Nothing here waits for the device.

    Args:
        selected: Candidates that come into question for their object, bool, (B, G, N).
        scores: Score of each candidate, (B, G, N).
        index: Anchor of each candidate, long, (B, G, N).
        gt_bboxes: Objects, xyxy px, (B, G, 4), or oriented, (B, G, 5).
        num_anchors: Number of anchors of all levels, A.
        rounds: Number of rounds. Objects that are open after the last stay without an anchor: of more identical boxes
            than rounds, those that are too many.

    Returns:
        Index of the object of each anchor, -1 for none, long, (B, A).
    """
    objects = torch.arange(selected.shape[1], device=index.device)[:, None]
    assigned = index.new_full((selected.shape[0], num_anchors), -1)
    for _ in range(rounds):
        best = scores.masked_fill(~selected, float("-inf"))
        proposed = selected & (best == best.amax(-1, keepdim=True))
        proposed &= index == index.masked_fill(~proposed, num_anchors).amin(-1, keepdim=True)
        accepted = resolve_conflicts(proposed, scores, index, gt_bboxes, num_anchors, highest_score)
        assigned = torch.maximum(assigned, accepted)  # nobody proposes to an anchor that is taken
        owner = assigned.gather(1, index.flatten(1)).view_as(index)
        matched = (selected & (owner == objects)).any(-1, keepdim=True)
        selected = selected & (owner < 0) & ~matched
    return assigned
