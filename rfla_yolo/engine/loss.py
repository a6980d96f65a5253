"""The detection loss with RFLA as its assigner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.utils.loss import E2ELoss, v8DetectionLoss
from ultralytics.utils.metrics import bbox_iou

from ..assign import TARGETS, Selection, rfla_assign, rfla_match, rfla_select
from ..config import RFLAConfig
from .effective_field import effective_receptive_fields
from .receptive_field import detection_model, receptive_fields


def rf_sizes(model: nn.Module, config: RFLAConfig) -> list[float]:
    """Return the receptive field of every detection level that the settings ask for.

    Args:
        model: An Ultralytics detection model.
        config: The settings ``rf`` and ``rf_scale``.

    Returns:
        Side of the field, px of the network input, finest level first.

    Raises:
        ValueError: If ``rf`` gives another number of sizes than the model has levels.
    """
    strides = [float(s) for s in detection_model(model).stride]
    if config.rf == "trf":
        return [size * config.scale for size in receptive_fields(model)]
    if config.rf == "erf":
        return [4 * sigma * config.scale for sigma in effective_receptive_fields(model)]
    if config.rf == "stride":
        return [stride * config.scale for stride in strides]
    if len(config.rf) != len(strides):
        levels = ", ".join(f"{s:g}" for s in strides)
        raise ValueError(
            f"rf must give one size in px for each of the model's {len(strides)} levels (strides {levels}), "
            f"not {len(config.rf)}: {list(config.rf)}"
        )
    return [float(size) for size in config.rf]


class RFLAAssigner(nn.Module):
    """RFLA with the call and the five outputs of Ultralytics' ``TaskAlignedAssigner``.

    Args:
        num_classes: Number of classes.
        strides: Stride of each level, px.
        rf_sizes: Side of the receptive field of each level, px.
        config: The settings.
    """

    def __init__(
        self,
        num_classes: int,
        strides: Sequence[float],
        rf_sizes: Sequence[float],
        config: RFLAConfig,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.strides = list(strides)
        self.rf_sizes = list(rf_sizes)
        self.config = config

    def assign(self, gt_bboxes: Tensor, gt_mask: Tensor, grid_shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Return the object of each anchor as `rfla_assign` does, under the settings."""
        levels = (grid_shapes, self.strides, self.rf_sizes)
        return rfla_assign(gt_bboxes, gt_mask, *levels, **self._choices(), conflict=self.config.conflict)

    def select(self, gt_bboxes: Tensor, gt_mask: Tensor, grid_shapes: Sequence[tuple[int, int]]) -> list[Selection]:
        """Return what each object wants as `rfla_select` does, under the settings."""
        return rfla_select(gt_bboxes, gt_mask, grid_shapes, self.strides, self.rf_sizes, **self._choices())

    def _choices(self) -> dict[str, Any]:
        names = ("topk", "topk_max", "decay", "distance")
        return {name: getattr(self.config, name) for name in names}

    @torch.no_grad()
    def forward(
        self,
        pd_scores: Tensor,
        pd_bboxes: Tensor,
        anc_points: Tensor,
        gt_labels: Tensor,
        gt_bboxes: Tensor,
        mask_gt: Tensor,
        grid_shapes: Sequence[tuple[int, int]],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Assign the anchors of a batch.

        Args:
            pd_scores: Class scores after the sigmoid, (B, A, num_classes).
            pd_bboxes: Predicted boxes, xyxy px, (B, A, 4).
            anc_points: Anchor points, px, (A, 2); implied by the grid shapes.
            gt_labels: Classes of the objects, (B, G, 1).
            gt_bboxes: Objects, xyxy px, (B, G, 4).
            mask_gt: Whether an object is real or padding, (B, G, 1).
            grid_shapes: Rows and columns of each level, finest first.

        Returns:
            target_labels (B, A), target_bboxes (B, A, 4), target_scores (B, A, num_classes), fg_mask (B, A), and
            target_gt_idx (B, A).
        """
        batch, num_anchors, num_gts = *pd_scores.shape[:2], gt_bboxes.shape[1]
        if num_gts == 0:
            background = gt_labels.new_zeros(batch, num_anchors, dtype=torch.long)
            return background, torch.zeros_like(pd_bboxes), torch.zeros_like(pd_scores), background.bool(), background
        assigned = self.assign(gt_bboxes, mask_gt.squeeze(-1).bool(), grid_shapes)
        target_gt_idx = assigned.clamp(min=0)
        target_labels = gt_labels.squeeze(-1).long().clamp(min=0).gather(1, target_gt_idx)
        target_bboxes = gt_bboxes.gather(1, target_gt_idx.unsqueeze(-1).expand(-1, -1, 4))

        # Listing the positives waits for the device, once; the loss that follows does so anyway. To gather the same
        # number of candidates for every object would not wait, but compute many times as many overlaps.
        fg_mask = assigned >= 0
        image, anchor = fg_mask.nonzero(as_tuple=True)
        labels = target_labels[image, anchor]

        def predictions() -> tuple[Tensor, Tensor]:
            overlap = bbox_iou(target_bboxes[image, anchor], pd_bboxes[image, anchor], xywh=False, CIoU=True)
            return pd_scores[image, anchor, labels].float(), overlap.squeeze(-1).clamp(0)

        objects = image * num_gts + assigned[image, anchor]
        weight = TARGETS[self.config.target](objects, batch * num_gts, predictions)
        target_scores = weight.new_zeros(batch, num_anchors, self.num_classes)
        target_scores[image, anchor, labels] = weight
        return target_labels, target_bboxes, target_scores, fg_mask, target_gt_idx


class RFLAMatcher(RFLAAssigner):
    """The same for a one-to-one branch: each object gets the one anchor that is nearest to it, by `rfla_match`."""

    def assign(self, gt_bboxes: Tensor, gt_mask: Tensor, grid_shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Return the object of each anchor as `rfla_match` does, under the settings."""
        levels = (grid_shapes, self.strides, self.rf_sizes)
        return rfla_match(gt_bboxes, gt_mask, *levels, distance=self.config.distance)


class RFLADetectionLoss(v8DetectionLoss):
    """Ultralytics' detection loss with RFLA in place of its assigner; everything else is Ultralytics'.

    Args:
        model: An Ultralytics detection model.
        config: The settings.
        tal_topk: Not used; ``E2ELoss`` passes it to every detection loss.
        tal_topk2: Given by ``E2ELoss`` for the one-to-one branch, which `RFLAMatcher` assigns then.

    Raises:
        ValueError: If the settings do not fit the model.
    """

    def __init__(
        self, model: nn.Module, config: RFLAConfig | None = None, tal_topk: int = 10, tal_topk2: int | None = None
    ) -> None:
        super().__init__(model, tal_topk, tal_topk2)
        config = config or RFLAConfig()
        assigner = RFLAAssigner if tal_topk2 is None else RFLAMatcher
        self.assigner: nn.Module = assigner(self.nc, self.stride.tolist(), rf_sizes(model, config), config)

    def get_assigned_targets_and_loss(
        self, preds: dict[str, Tensor], batch: dict[str, Any], **assign_kwargs: Any
    ) -> Any:
        """Pass the grid shapes on to the assigner, which Ultralytics' call does not name."""
        grid_shapes = [tuple(feature.shape[2:]) for feature in preds["feats"]]
        return super().get_assigned_targets_and_loss(preds, batch, grid_shapes=grid_shapes, **assign_kwargs)


def build_criterion(model: nn.Module, config: RFLAConfig) -> RFLADetectionLoss | E2ELoss:
    """Return the loss of a detection model under RFLA; with a one-to-one branch, Ultralytics' loss of both branches.

    RFLA assigns the one-to-many branch, and the setting ``one2one`` says who assigns the other. The schedule of the two
    gains is Ultralytics'.

    Args:
        model: An Ultralytics detection model.
        config: The settings.

    Raises:
        ValueError: If the settings do not fit the model.
    """
    if not has_one_to_one(model):
        return RFLADetectionLoss(model, config)

    def branch(model: nn.Module, tal_topk: int = 10, tal_topk2: int | None = None) -> v8DetectionLoss:
        if tal_topk2 is not None and config.one2one == "tal":
            return v8DetectionLoss(model, tal_topk, tal_topk2)
        return RFLADetectionLoss(model, config, tal_topk, tal_topk2)

    return E2ELoss(model, branch)


def one_to_many(criterion: Any) -> v8DetectionLoss:
    """Return the loss of the one-to-many branch, of a head without another the loss itself."""
    return getattr(criterion, "one2many", criterion)


def has_one_to_one(model: nn.Module) -> bool:
    """Return whether the head of a detection model has a one-to-one branch, as YOLOv10 and YOLO26."""
    return getattr(detection_model(model).model[-1], "one2one_cv2", None) is not None
