"""Step 4, resolve: one object for an anchor that several objects have selected."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# A rule gives the keys that decide, most important first: the highest value wins, and the last index where all are
# equal. Arguments: scores (B, G, N), gt_bboxes (B, G, 4). Keys broadcast to (B, G, N).
ConflictRule = Callable[[Tensor, Tensor], Sequence[Tensor]]


def resolve_conflicts(
    selected: Tensor, scores: Tensor, index: Tensor, gt_bboxes: Tensor, num_anchors: int, rule: ConflictRule
) -> Tensor:
    """Give every anchor to one of the objects that selected it.

    Args:
        selected: Candidates that their object took, bool, (B, G, N).
        scores: Score of each candidate, (B, G, N).
        index: Anchor of each candidate, long, (B, G, N).
        gt_bboxes: Objects, xyxy px, (B, G, 4).
        num_anchors: Number of anchors of all levels, A.
        rule: Which object wins; see `CONFLICTS`.

    Returns:
        Index of the object of each anchor, -1 for none, long, (B, A).
    """
    batch, num_gts, num_candidates = selected.shape
    index = index.flatten(1)
    objects = torch.arange(num_gts, device=index.device)[:, None].expand(batch, num_gts, num_candidates)
    winner = selected
    for key in rule(scores, gt_bboxes):
        key = key.expand_as(scores).masked_fill(~winner, float("-inf")).flatten(1)
        best = key.new_full((batch, num_anchors), float("-inf")).scatter_reduce(1, index, key, "amax")
        winner = winner & (key == best.gather(1, index)).view_as(winner)
    claims = objects.masked_fill(~winner, -1).flatten(1)
    return claims.new_full((batch, num_anchors), -1).scatter_reduce(1, index, claims, "amax")


def last_index(scores: Tensor, gt_bboxes: Tensor) -> Sequence[Tensor]:
    """The last index wins, as in the reference implementation: depends on the order of the labels."""
    return ()


def highest_score(scores: Tensor, gt_bboxes: Tensor) -> Sequence[Tensor]:
    """The highest score wins, then the smaller box; the default."""
    return scores, size_rank(gt_bboxes).unsqueeze(-1)


def box_sides(gt_bboxes: Tensor) -> Tensor:
    """Return width and height of boxes, xyxy (B, G, 4) or oriented (B, G, 5), px, (B, G, 2)."""
    return gt_bboxes[..., 2:4] if gt_bboxes.shape[-1] == 5 else gt_bboxes[..., 2:] - gt_bboxes[..., :2]


def box_area(gt_bboxes: Tensor) -> Tensor:
    """Return the area of boxes, xyxy (B, G, 4) or oriented (B, G, 5), px^2, (B, G)."""
    return box_sides(gt_bboxes).prod(-1)


def size_rank(gt_bboxes: Tensor) -> Tensor:
    """Rank the boxes of an image, the smallest highest, as float, (B, G).

    Boxes of equal area are ordered by their coordinates, so that the rank does not depend on the order of the labels;
    oriented ones as if upright, then by their angle. Of identical boxes the lower index ranks higher.
    """
    keys = list(gt_bboxes.unbind(-1))
    if gt_bboxes.shape[-1] == 5:
        center, half = gt_bboxes[..., :2], gt_bboxes[..., 2:4] / 2
        keys = [*(center - half).unbind(-1), *(center + half).unbind(-1), keys[4]]
    order = torch.arange(gt_bboxes.shape[1], device=gt_bboxes.device).expand(gt_bboxes.shape[:2])
    for key in (*reversed(keys), box_area(gt_bboxes)):  # stable sorts, the least significant key first
        order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
    places = torch.arange(gt_bboxes.shape[1], device=gt_bboxes.device, dtype=gt_bboxes.dtype)
    return torch.zeros_like(gt_bboxes[..., 0]).scatter(1, order, -places.expand_as(order))


CONFLICTS: dict[str, ConflictRule] = {"score": highest_score, "last": last_index}
