"""The bins of a distance distribution (DFL), placed where the distances of tiny objects are.

A DFL head predicts how far each side of a box lies from the anchor, in cells, as the mean of a distribution over
``reg_max`` bins, which stand at 0, 1, ..., 15 in Ultralytics. With RFLA's anchors the distances are bounded: the upper
half of these bins is never a target, and an anchor beside its object needs a distance below 0, which they cannot give.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from ultralytics.nn.modules.head import OBB
from ultralytics.utils.loss import BboxLoss
from ultralytics.utils.tal import bbox2dist

from ..config import DFL_RANGES, RFLAConfig, check_dfl_range
from .distributed import sum_over_ranks
from .loss import branches, one_to_many

CUT = 0.01  # share of the sides beyond the bins from which on it is said; half of it at either end in `DistanceMeter`


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


def why_kept(model: Any, config: RFLAConfig) -> str | None:
    """Say why the bins of a model are not to be measured on the training set, or None where they are.

    Weights of the boxes keep the bins that they were trained with, and a model those that its YAML brings.

    Args:
        model: An Ultralytics model.
        config: The settings.
    """
    head = model.model[-1]
    if config.dfl_range != "auto":
        return "it says where the bins are"
    if config.assigner != "rfla":
        return f"assigner={config.assigner} measures no bins"
    if head.reg_max == 1:
        return "the head of this model has no bins"
    if isinstance(head, OBB):
        return "bins are measured for axis-aligned boxes"
    first, last = choose_bins(model, None) or (0, 0)
    if not _boxes_are_new(head):
        return f"the boxes of this model were trained with bins from {first:g} to {last:g} cells"
    if (first, last) != (0, head.reg_max - 1):
        return f"the model brings bins from {first:g} to {last:g} cells"
    return None


def load_weights(model: Any, weights: Any) -> None:
    """Load weights as far as they fit; the bins of a model whose boxes they leave new stay where they were."""
    bins = choose_bins(model, None)
    model.load(weights)
    head = model.model[-1]
    if bins and _boxes_are_new(head):
        _place(head, bins)


def describe_moved(model: Any, dfl_range: str | tuple[float, float] | None) -> str | None:
    """Return in words that a setting moves the bins of boxes that were trained with others, or None if it does not."""
    head, new = model.model[-1], choose_bins(model, dfl_range)
    if new is None or _boxes_are_new(head):
        return None
    old = _ends(head)
    if np.allclose(old, new, atol=1e-2):  # a checkpoint holds them in half precision
        return None
    oriented = isinstance(head, OBB)
    mover, remedy = ("task obb", "") if oriented else ("dfl_range", "; leave it out to keep them")
    return (
        f"{mover} moves the bins from {old[0]:g} to {old[1]:g} cells, which the boxes of these weights were trained "
        f"with, to {new[0]:g} to {new[1]:g}: all boxes change and are learned anew{remedy}"
    )


def _boxes_are_new(head: Any) -> bool:
    """Return whether no training has moved the biases of the layers that draw boxes.

    Weights of another model (a backbone from COCO) leave them as they were made, in whichever way they were loaded.
    """
    made = deepcopy(head)
    made.bias_init()
    return all(torch.equal(now[-1].bias, new[-1].bias) for now, new in zip(head.cv2, made.cv2))


def choose_bins(model: Any, dfl_range: str | tuple[float, float] | None) -> tuple[float, float] | None:
    """Return where the bins of a model stand in training: the distances of the first and the last, cells.

    Where the setting says, or where they are: the checkpoint was trained with them, or `place_bins` put them there.
    Those of oriented boxes are Ultralytics' own, also where a detector with others has given the weights.

    Args:
        model: An Ultralytics model.
        dfl_range: The setting; "auto" must have become numbers by `DistanceMeter`, or None.

    Returns:
        The range, or None where the head draws signed distances, without bins.
    """
    head = model.model[-1]
    if head.reg_max == 1:
        return None
    if dfl_range == "stock" or isinstance(head, OBB):
        return 0.0, float(head.reg_max - 1)
    return _ends(head) if dfl_range is None else (float(dfl_range[0]), float(dfl_range[1]))


def place_bins(model: Any) -> None:
    """Place the bins of a new model, before it loads weights, where its YAML says (``dfl_range``), if it does.

    Raises:
        ValueError: If that is no range, or the head has no distribution or draws oriented boxes.
    """
    given = model.yaml.get("dfl_range")
    if given is None:
        return
    try:
        low, high = check_dfl_range(given)
        check_bins(model, (low, high))
    except ValueError as error:
        raise ValueError(f"model: {model.yaml.get('yaml_file', 'its YAML')}: {error}") from None
    _place(model.model[-1], (low, high))


def use_bins(model: Any, criterion: Any, dfl_range: str | tuple[float, float] | None) -> tuple[float, float] | None:
    """Let a model and its criterion use the bins of `choose_bins`.

    Args:
        model: An Ultralytics model.
        criterion: Its loss, of one branch or of two.
        dfl_range: The setting.

    Returns:
        The range in use where it is not Ultralytics' own, or None.

    Raises:
        ValueError: If the head has no distribution, or draws oriented boxes.
    """
    check_bins(model, dfl_range)
    head = model.model[-1]
    chosen = choose_bins(model, dfl_range)
    if chosen is None:
        return None
    if dfl_range in {None, "stock"} and chosen == (0, head.reg_max - 1):
        _place(head, chosen)
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
    """
    low, high = dfl_range
    bins = _place(head, dfl_range)
    for loss in losses:
        loss.proj = bins.to(loss.device)
        loss.bbox_loss = RangedBboxLoss(head.reg_max, low, (high - low) / (head.reg_max - 1)).to(loss.device)


def check_bins(model: Any, dfl_range: str | tuple[float, float] | None) -> None:
    """Raise ValueError where the setting asks for bins that the head of a model cannot have."""
    head = model.model[-1]
    if dfl_range is None or dfl_range in DFL_RANGES:
        return
    if isinstance(head, OBB):
        raise ValueError(
            f"dfl_range {dfl_range!r} is for axis-aligned boxes, not for a head of type {type(head).__name__}"
        )
    if head.reg_max < 2:
        raise ValueError(
            f"dfl_range {dfl_range!r} is for heads with a distance distribution (DFL), not for reg_max {head.reg_max}"
        )


def _ends(head: Any) -> tuple[float, float]:
    """Return where the first and the last bin of a head stand, cells."""
    first, *_, last = head.dfl.conv.weight.flatten().tolist()
    return first, last


def _place(head: Any, dfl_range: tuple[float, float]) -> Tensor:
    """Place the bins of a head evenly over a range, and return them, cells, (reg_max,)."""
    bins = torch.linspace(*dfl_range, head.reg_max)
    with torch.no_grad():
        head.dfl.conv.weight.copy_(bins.view(1, -1, 1, 1))
    return bins
