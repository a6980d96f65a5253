"""Positives per object by object size, counted while training without slowing the step."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..assign.resolve import box_area
from ..datasets.writer import SIZES
from .distributed import sum_over_ranks
from .loss import BRANCHES, branches


def count_positives(gt_bboxes: Tensor, mask_gt: Tensor, fg_mask: Tensor, target_gt_idx: Tensor) -> Tensor:
    """Count the positive anchors of every object.

    Args:
        gt_bboxes: Objects, xyxy px, (B, G, 4).
        mask_gt: Whether an object is real or padding, (B, G, 1).
        fg_mask: Whether an anchor is positive, bool, (B, A).
        target_gt_idx: Index of the object of each anchor, (B, A).

    Returns:
        For every size of `SIZES` the objects, their positives, and the objects without one, (4, 3), on the device.
    """
    if not gt_bboxes.shape[1]:  # no object in the whole batch
        return gt_bboxes.new_zeros(len(SIZES), 3)
    counts = mask_gt.new_zeros(gt_bboxes.shape[:2], dtype=torch.float32)
    counts.scatter_add_(1, target_gt_idx.long(), fg_mask.float())
    sides = box_area(gt_bboxes).clamp(min=0).sqrt()
    real = mask_gt.squeeze(-1).bool()
    size = sum(((sides > border).long() for border in list(SIZES.values())[:-1]), torch.zeros_like(sides).long())
    rows = torch.stack([torch.ones_like(counts), counts, (counts == 0).float()], -1) * real.unsqueeze(-1)
    return rows.new_zeros(len(SIZES), 3).index_add_(0, size.flatten(), rows.flatten(0, 1))


class PositiveCounter:
    """Adds up `count_positives` over the calls of assigners, Ultralytics' or ours, that it is hooked to.

    The sums stay on the device until they are read, once an epoch, and are then added up over all processes.

    Args:
        criterion: A detection loss, of one branch or of two.
    """

    def __init__(self, criterion: Any) -> None:
        self.totals: dict[str, Tensor] = {}
        for name, loss in branches(criterion).items():
            branch = "" if name == BRANCHES[0] else f"_{name}"
            self.totals[branch] = torch.zeros(len(SIZES), 3, device=loss.device)
            loss.assigner.register_forward_hook(partial(self._add, branch))

    def _add(self, branch: str, assigner: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        gt_bboxes, mask_gt = args[4], args[5]
        self.totals[branch] += count_positives(gt_bboxes, mask_gt, output[3], output[4])

    def read(self) -> dict[str, float]:
        """Return positives per object and the share of objects without any, over all and by size, and start again.

        Of a one-to-one branch, whose objects get one positive at most, only the share of objects without. A figure is
        NaN where there was no such object. Every process of a training must call it.
        """
        figures: dict[str, float] = {}
        for branch, total in self.totals.items():
            counts = sum_over_ranks(total).cpu()
            objects, positives, missed = torch.cat([counts.sum(0, keepdim=True), counts]).double().unbind(1)
            if not branch:
                figures |= dict(zip(_columns("positives"), (positives / objects).tolist()))
            figures |= dict(zip(_columns(f"missed{branch}"), (missed / objects).tolist()))
        self.reset()
        return figures

    def reset(self) -> None:
        """Forget what was counted."""
        self.totals = {branch: torch.zeros_like(total) for branch, total in self.totals.items()}


def _columns(figure: str) -> list[str]:
    return [f"assign/{figure}{size}" for size in ("", *SIZES)]
