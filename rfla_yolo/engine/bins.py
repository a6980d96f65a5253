"""The bins of a distance distribution (DFL), placed where the distances of tiny objects are.

A DFL head predicts how far each side of a box lies from the anchor, in cells, as the mean of a distribution over
``reg_max`` bins, which stand at 0, 1, ..., 15 in Ultralytics. With RFLA's anchors the distances are bounded: the upper
half of these bins is never a target, and an anchor beside its object needs a distance below 0, which they cannot give.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from ultralytics.utils.loss import BboxLoss
from ultralytics.utils.tal import bbox2dist

from .distributed import sum_over_ranks
from .loss import branches, one_to_many

CUT = 0.01  # share of the sides beyond the bins from which on it is said


class RangedBboxLoss(BboxLoss):
    """Ultralytics' box loss with bins at ``low``, ``low + step``, ...

    Args:
        reg_max: Number of bins.
        low: Distance of the first bin, cells.
        step: Distance of neighbouring bins, cells.

    Attributes:
        sides: Of the positives since they were read: sides beyond the first bin, beyond the last, and all, (3,).
    """

    sides: Tensor

    def __init__(self, reg_max: int, low: float, step: float) -> None:
        super().__init__(reg_max)
        self.low, self.step = low, step
        self.register_buffer("sides", torch.zeros(3))

    def forward(
        self,
        pred_dist: Tensor,
        pred_bboxes: Tensor,
        anchor_points: Tensor,
        target_bboxes: Tensor,
        target_scores: Tensor,
        target_scores_sum: Tensor,
        fg_mask: Tensor,
        *size: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return CIoU and DFL loss; the arguments are Ultralytics', boxes and anchors in cells."""
        shared = (target_scores, target_scores_sum, fg_mask, *size)
        loss_iou, _ = super().forward(pred_dist, pred_bboxes, anchor_points, target_bboxes, *shared)
        assert self.dfl_loss is not None
        where = fg_mask.nonzero(as_tuple=True)
        bins = (bbox2dist(anchor_points, target_bboxes)[where] - self.low) / self.step
        last = self.dfl_loss.reg_max - 1
        self.sides += torch.stack([(bins < 0).sum(), (bins > last).sum(), bins.new_tensor(bins.numel())])
        loss = self.dfl_loss(pred_dist[where].view(-1, self.dfl_loss.reg_max), bins)
        return loss_iou, (loss * target_scores[where].sum(-1, keepdim=True)).sum() / target_scores_sum


def choose_bins(model: Any, dfl_range: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return where the bins of a model stand in training: the distances of the first and the last, cells.

    Where the setting says, or where the checkpoint was trained with them, or where the model's YAML says
    (``dfl_range``), or at Ultralytics' 0, 1, ...

    Args:
        model: An Ultralytics model.
        dfl_range: The setting.

    Returns:
        The range, or None where the head draws signed distances, without bins.
    """
    head = model.model[-1]
    if head.reg_max == 1:
        return None
    first, *_, last = head.dfl.conv.weight.flatten().tolist()
    if dfl_range is None and (first, last) == (0, head.reg_max - 1):
        dfl_range = model.yaml.get("dfl_range")
    return (first, last) if dfl_range is None else (float(dfl_range[0]), float(dfl_range[1]))


def use_bins(model: Any, criterion: Any, dfl_range: tuple[float, float] | None) -> tuple[float, float] | None:
    """Let a model and its criterion use the bins of `choose_bins`.

    Args:
        model: An Ultralytics model.
        criterion: Its loss, of one branch or of two.
        dfl_range: The setting.

    Returns:
        The range in use where it is not Ultralytics' own, or None.

    Raises:
        ValueError: If the setting does not fit the model, as of `set_bins`.
    """
    head = model.model[-1]
    chosen = choose_bins(model, dfl_range) or dfl_range
    if chosen is None or (dfl_range is None and chosen == (0, head.reg_max - 1)):
        return None
    set_bins(head, list(branches(criterion).values()), chosen)
    return chosen


def describe_cut(criterion: Any) -> str | None:
    """Return in words which share of the positives' sides the bins cannot draw, or None where they can draw nearly all.

    The sides are those since the last call. Every process of a training must call it.
    """
    loss = one_to_many(criterion).bbox_loss
    if not isinstance(loss, RangedBboxLoss):
        return None
    below, above, total = sum_over_ranks(loss.sides).tolist()
    loss.sides.zero_()
    if below + above <= CUT * total:
        return None
    high = loss.low + loss.step * (loss.dfl_loss.reg_max - 1)
    return (
        f"dfl_range [{loss.low:g}, {high:g}]: of the sides of the positives {below / total:.1%} are nearer than that "
        f"and {above / total:.1%} farther, which the head cannot draw; rfla-yolo analyze says what the dataset needs"
    )


def set_bins(head: Any, losses: list[Any], dfl_range: tuple[float, float]) -> None:
    """Place the bins of a head, and of the losses that train it, evenly over a range.

    The values go into the head's ``dfl`` convolution, which is in the state dict: plain Ultralytics and every export
    run the checkpoint unchanged.

    Args:
        head: The detection head of a model.
        losses: Detection losses of its branches.
        dfl_range: Distances of the first and the last bin, cells.

    Raises:
        ValueError: If the head has no distribution, or a loss of its own for boxes, as oriented ones have.
    """
    if any(type(loss.bbox_loss) is not BboxLoss for loss in losses):
        raise ValueError(f"dfl_range is for axis-aligned boxes, not for a head of type {type(head).__name__}")
    if head.reg_max < 2:
        raise ValueError(f"dfl_range is for heads with a distance distribution (DFL), not for reg_max {head.reg_max}")
    low, high = dfl_range
    bins = torch.linspace(low, high, head.reg_max)
    with torch.no_grad():
        head.dfl.conv.weight.copy_(bins.view(1, -1, 1, 1))
    for loss in losses:
        loss.proj = bins.to(loss.device)
        loss.bbox_loss = RangedBboxLoss(head.reg_max, low, (high - low) / (head.reg_max - 1)).to(loss.device)
