"""The bins of a distance distribution (DFL), placed where the distances of tiny objects are.

A DFL head predicts how far each side of a box lies from the anchor, in cells, as the mean of a distribution over
``reg_max`` bins, which stand at 0, 1, ..., 15 in Ultralytics. With RFLA's anchors the distances are bounded: the upper
half of these bins is never a target, and an anchor beside its object needs a distance below 0, which they cannot give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from math import ceil, floor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from ultralytics.nn.modules.head import OBB
from ultralytics.utils.loss import BboxLoss
from ultralytics.utils.ops import xywh2xyxy
from ultralytics.utils.tal import bbox2dist, make_anchors

from ..config import DFL_RANGES, RFLAConfig, check_dfl_range
from .data import image_shape
from .distributed import sum_over_ranks
from .loss import RFLAAssigner, branches, one_to_many, rf_sizes

CUT = 0.01  # share of the sides beyond the bins from which on it is said; half of it at either end in `measure_range`
GRAIN = 0.25  # cells, to which a measured range is rounded outwards
SAMPLED = 2000  # images that a range is measured on
BATCH = 32


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


def measures(model: Any, config: RFLAConfig) -> bool:
    """Return whether the bins of a model are to be measured on the training set (``dfl_range: auto``).

    Weights of the boxes keep the bins that they were trained with, and a model those that its YAML brings.
    """
    head = model.model[-1]
    asked = config.assigner == "rfla" and config.dfl_range == "auto"
    bins = head.reg_max > 1 and not isinstance(head, OBB)
    return asked and bins and choose_bins(model, None) == (0, head.reg_max - 1) and _boxes_are_new(head)


def _boxes_are_new(head: Any) -> bool:
    """Return whether no training has moved the biases of the layers that draw boxes.

    Weights of another model (a backbone from COCO) leave them as they were made, in whichever way they were loaded.
    """
    made = deepcopy(head)
    made.bias_init()
    return all(torch.equal(now[-1].bias, new[-1].bias) for now, new in zip(head.cv2, made.cv2))


def measure_range(
    model: Any, config: RFLAConfig, labels: Sequence[Mapping[str, Any]], imgsz: int, scale: float
) -> tuple[float, float] | None:
    """Return the distances that RFLA's positives need in training, all but the outermost half of `CUT` at either end.

    The objects are assigned as they are labelled, and as small and as large as the augmentation makes them; all by
    RFLA, whose anchors stand for those that TAL will choose for large ones (``tal_from``).

    Args:
        model: An Ultralytics model.
        config: The settings.
        labels: Labels as Ultralytics keeps them; of many images `SAMPLED`, evenly picked.
        imgsz: Training size, px.
        scale: Ultralytics' argument: objects become 1 - scale to 1 + scale times as large.

    Returns:
        Where the first and the last bin should stand, cells, rounded outwards to a `GRAIN`; None without objects.
    """
    strides = model.stride.cpu()
    shapes = [(ceil(imgsz / s), ceil(imgsz / s)) for s in strides.tolist()]
    points, stride = make_anchors([torch.empty(1, 1, *shape) for shape in shapes], strides)
    config = replace(config, tal_from=None)
    assigner = RFLAAssigner(model.model[-1].nc, strides.tolist(), rf_sizes(model, config), config)
    chosen = [label for label in labels if len(label["cls"])]
    chosen = [chosen[i] for i in np.linspace(0, len(chosen) - 1, min(SAMPLED, len(chosen))).round().astype(int)]
    found = []
    for start in range(0, len(chosen), BATCH):
        images = [_letterboxed(label, imgsz) for label in chosen[start : start + BATCH]]
        for zoom in {1 - scale, 1.0, 1 + scale}:
            zoomed = [((boxes - imgsz / 2) * zoom + imgsz / 2).clamp(0, imgsz) for boxes in images]
            boxes = pad_sequence(zoomed, batch_first=True)
            assigned = assigner.assign(boxes, (boxes[..., 2:] > boxes[..., :2]).all(-1), shapes)
            image, anchor = (assigned >= 0).nonzero(as_tuple=True)
            cell = stride[anchor]
            found.append(bbox2dist(points[anchor], boxes[image, assigned[image, anchor]] / cell).flatten())
    if not found:
        return None
    low, high = np.quantile(torch.cat(found).numpy(), [CUT / 2, 1 - CUT / 2]) / GRAIN
    return GRAIN * floor(low), GRAIN * max(ceil(high), floor(low) + 1)


def _letterboxed(label: Mapping[str, Any], imgsz: int) -> Tensor:
    """Return the boxes of a label in the middle of a square input, xyxy px, (G, 4)."""
    height, width = image_shape(label)
    gain = imgsz / max(height, width)
    size = torch.tensor([width, height] * 2) * gain
    return xywh2xyxy(torch.as_tensor(label["bboxes"][:, :4]).float() * size) + (imgsz - size) / 2


def choose_bins(model: Any, dfl_range: str | tuple[float, float] | None) -> tuple[float, float] | None:
    """Return where the bins of a model stand in training: the distances of the first and the last, cells.

    Where the setting says, or where they are: the checkpoint was trained with them, or `place_bins` put them there.

    Args:
        model: An Ultralytics model.
        dfl_range: The setting; "auto" must have become numbers by `measure_range`, or None.

    Returns:
        The range, or None where the head draws signed distances, without bins.
    """
    head = model.model[-1]
    if head.reg_max == 1:
        return None
    if dfl_range == "stock":
        return 0.0, float(head.reg_max - 1)
    first, *_, last = head.dfl.conv.weight.flatten().tolist()
    return (first, last) if dfl_range is None else (float(dfl_range[0]), float(dfl_range[1]))


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


def _place(head: Any, dfl_range: tuple[float, float]) -> Tensor:
    """Place the bins of a head evenly over a range, and return them, cells, (reg_max,)."""
    bins = torch.linspace(*dfl_range, head.reg_max)
    with torch.no_grad():
        head.dfl.conv.weight.copy_(bins.view(1, -1, 1, 1))
    return bins
