"""The losses of Ultralytics' tasks with RFLA as their assigner."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.head import OBB, OBB26, Detect, Pose, Pose26, Segment, Segment26, v10Detect
from ultralytics.utils.loss import (
    E2ELoss,
    PoseLoss26,
    SegmentLoss26,
    v8DetectionLoss,
    v8OBBLoss,
    v8PoseLoss,
    v8SegmentationLoss,
)
from ultralytics.utils.tal import SegTaskAlignedAssigner, TaskAlignedAssigner

from ..assign import TARGETS, Selection, rfla_assign, rfla_match, rfla_select, task_aligned_assign
from ..assign.resolve import box_area
from ..assign.rfla import TOPK_SIDE
from ..assign.targets import TAL_ALPHA, TAL_BETA
from ..assign.task_aligned import PairPredictions, TaskAligned
from ..config import RFLAConfig
from .effective_field import effective_receptive_fields
from .precision import Float32Loss, mixed
from .receptive_field import detection_model, receptive_fields

BRANCHES = ("one2many", "one2one")  # of a head; the first alone where it has no one-to-one branch


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
    check_levels(model, config)
    strides = [float(s) for s in detection_model(model).stride]
    if config.rf == "trf":
        return [size * config.scale for size in receptive_fields(model)]
    if config.rf == "erf":
        return [4 * sigma * config.scale for sigma in effective_receptive_fields(model)]
    if config.rf == "stride":
        return [stride * config.scale for stride in strides]
    return [float(size) for size in config.rf]


def check_levels(model: nn.Module, config: RFLAConfig) -> None:
    """Raise ValueError if ``rf`` gives another number of sizes than the model has levels."""
    strides = detection_model(model).stride.tolist()
    if not isinstance(config.rf, str) and len(config.rf) != len(strides):
        levels = ", ".join(f"{s:g}" for s in strides)
        raise ValueError(
            f"rf must give one size in px for each of the model's {len(strides)} levels (strides {levels}), "
            f"not {len(config.rf)}: {list(config.rf)}"
        )


class RFLAAssigner(nn.Module):
    """RFLA with the call and the five outputs of Ultralytics' assigners, for every task that has boxes.

    Only the choice of anchors is RFLA's. How well a prediction fits, which the targets may ask for, is the task's own
    overlap: of boxes, of boxes and masks, of keypoints (OKS), of oriented boxes (ProbIoU).

    Args:
        num_classes: Number of classes.
        strides: Stride of each level, px.
        rf_sizes: Side of the receptive field of each level, px.
        config: The settings.
        stock: Ultralytics' assigner of the task, for its overlap and for large objects; that of detection by default.
        tables: Let it assign the large objects itself, for losses in which positives of target 0 count as well.

    Attributes:
        grid_shapes: Rows and columns of each level, finest first; to be set before a call, which does not name them.
    """

    grid_shapes: Sequence[tuple[int, int]]

    def __init__(
        self,
        num_classes: int,
        strides: Sequence[float],
        rf_sizes: Sequence[float],
        config: RFLAConfig,
        stock: TaskAlignedAssigner | None = None,
        tables: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.strides = list(strides)
        self.rf_sizes = list(rf_sizes)
        self.config = config
        self.stock = stock or TaskAlignedAssigner(10, num_classes, TAL_ALPHA, TAL_BETA, self.strides)
        self.tables = tables or type(self.stock) is not TaskAlignedAssigner

    def assign(self, gt_bboxes: Tensor, gt_mask: Tensor, grid_shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Return the object of each anchor as `rfla_assign` does, under the settings."""
        levels = (grid_shapes, self.strides, self.rf_sizes)
        return rfla_assign(gt_bboxes, gt_mask, *levels, **self._choices(), conflict=self.config.conflict)

    def select(self, gt_bboxes: Tensor, gt_mask: Tensor, grid_shapes: Sequence[tuple[int, int]]) -> list[Selection]:
        """Return what each object wants as `rfla_select` does, under the settings."""
        return rfla_select(gt_bboxes, gt_mask, grid_shapes, self.strides, self.rf_sizes, **self._choices())

    def _choices(self) -> dict[str, Any]:
        names = ("topk", "topk_max", "decay", "distance")
        choices = {name: getattr(self.config, name) for name in names}
        if self.config.tal_from is not None:  # no object that is left takes more, and fewer candidates are looked at
            most = ceil(self.config.topk[0] * max(self.config.tal_from / TOPK_SIDE, 1))
            choices["topk_max"] = min(choices["topk_max"], most)
        return choices

    def left_to_tal(self, gt_bboxes: Tensor, gt_mask: Tensor) -> Tensor | None:
        """Return which objects are large enough for Ultralytics' assigner to choose their anchors (``tal_from``).

        A tiny object has hardly an anchor to choose from, a large one has many, and which of them predict it best is
        known to the predictions alone.

        Args:
            gt_bboxes: Objects, xyxy px, (B, G, 4), or oriented, (B, G, 5).
            gt_mask: Whether an object is real or padding, bool, (B, G).

        Returns:
            Bool, (B, G), or None where RFLA chooses for all.
        """
        if self.config.tal_from is None:
            return None
        return gt_mask & (box_area(gt_bboxes.float()).clamp(min=0).sqrt() >= self.config.tal_from)

    def align(
        self,
        gt_bboxes: Tensor,
        image: Tensor,
        batch: int,
        grid_shapes: Sequence[tuple[int, int]],
        predictions: PairPredictions,
    ) -> TaskAligned:
        """Assign objects (N, 4) of a batch as `task_aligned_assign` does, with the numbers of Ultralytics' assigner."""
        limits = {"topk": self.stock.topk, "min_side": self.stock.stride_val}
        return task_aligned_assign(gt_bboxes, image, batch, grid_shapes, self.strides, predictions, **limits)

    @torch.no_grad()
    def forward(
        self,
        pd_scores: Tensor,
        pd_bboxes: Tensor,
        anc_points: Tensor,
        gt_labels: Tensor,
        gt_bboxes: Tensor,
        mask_gt: Tensor,
        anc_strides: Tensor | None = None,
        **extra: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Assign the anchors of a batch.

        Args:
            pd_scores: Class scores after the sigmoid, (B, A, num_classes).
            pd_bboxes: Predicted boxes, xyxy px, (B, A, 4), or oriented, (B, A, 5).
            anc_points: Anchor points, px, (A, 2); implied by the grid shapes.
            gt_labels: Classes of the objects, (B, G, 1).
            gt_bboxes: Objects, xyxy px, (B, G, 4), or oriented, (B, G, 5).
            mask_gt: Whether an object is real or padding, (B, G, 1).
            anc_strides: Stride of each anchor, px, (A,); implied too.
            **extra: What the overlap of the task needs beside the boxes; of every anchor where named ``pd_...``.

        Returns:
            target_labels (B, A), target_bboxes (B, A, 4 or 5), target_scores (B, A, num_classes), fg_mask (B, A), and
            target_gt_idx (B, A).
        """
        batch, num_anchors, num_gts = *pd_scores.shape[:2], gt_bboxes.shape[1]
        if num_gts == 0:
            background = gt_labels.new_zeros(batch, num_anchors, dtype=torch.long)
            return background, torch.zeros_like(pd_bboxes), torch.zeros_like(pd_scores), background.bool(), background
        mask = mask_gt.squeeze(-1).bool()
        large = self.left_to_tal(gt_bboxes, mask)
        assigned = self.assign(gt_bboxes, mask if large is None else mask & ~large, self.grid_shapes)
        if large is not None:
            levels = {} if anc_strides is None else {"anc_strides": anc_strides}
            by_tal = self._assign_by_tal(
                large, pd_scores, pd_bboxes, anc_points, gt_labels, gt_bboxes, **levels, **extra
            )
            assigned = torch.where(assigned < 0, by_tal, assigned)
        target_gt_idx = assigned.clamp(min=0)
        target_labels = gt_labels.squeeze(-1).long().clamp(min=0).gather(1, target_gt_idx)
        target_bboxes = gt_bboxes.gather(1, target_gt_idx.unsqueeze(-1).expand(-1, -1, gt_bboxes.shape[-1]))

        # Listing the positives waits for the device, once; the loss that follows does so anyway. To gather the same
        # number of candidates for every object would not wait, but compute many times as many overlaps.
        fg_mask = assigned >= 0
        image, anchor = fg_mask.nonzero(as_tuple=True)
        gt, labels = assigned[image, anchor], target_labels[image, anchor]

        def predictions() -> tuple[Tensor, Tensor]:
            per_anchor = {"pd_scores": pd_scores, "pd_bboxes": pd_bboxes, **extra}
            overlap = self._overlaps((image, gt, anchor), gt_labels, gt_bboxes, **per_anchor)
            return pd_scores[image, anchor, labels].float(), overlap.float()

        weight = TARGETS[self.config.target](image * num_gts + gt, batch * num_gts, predictions)
        target_scores = weight.new_zeros(batch, num_anchors, self.num_classes)
        target_scores[image, anchor, labels] = weight
        return target_labels, target_bboxes, target_scores, fg_mask, target_gt_idx

    def _assign_by_tal(
        self,
        large: Tensor,
        pd_scores: Tensor,
        pd_bboxes: Tensor,
        anc_points: Tensor,
        gt_labels: Tensor,
        gt_bboxes: Tensor,
        **extra: Tensor,
    ) -> Tensor:
        """Return the object of each anchor, -1 for background, as Ultralytics assigns the large objects alone, (B, A).

        With ``tables`` Ultralytics' assigner itself does, with a row for each of them.
        """
        image, gt = large.nonzero(as_tuple=True)
        if not len(gt):
            return large.new_full(pd_scores.shape[:2], -1, dtype=torch.long)
        stock = self.stock
        if not self.tables:
            boxes, labels = gt_bboxes[image, gt], gt_labels[image, gt, 0].long()

            def predictions(number: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
                score = pd_scores[image[number], anchor, labels[number]]
                return score, stock.iou_calculation(boxes[number], pd_bboxes[image[number], anchor])

            found = self.align(boxes, image, len(large), self.grid_shapes, predictions).assigned
            return torch.where(found < 0, -1, gt[found.clamp(min=0)])
        order = large.long().argsort(dim=1, descending=True, stable=True)[:, : int(large.sum(1).max())]
        image = torch.arange(len(order), device=order.device)[:, None]
        labels, boxes, real = (values[image, order] for values in (gt_labels, gt_bboxes, large.unsqueeze(-1)))
        extra = {name: values[image, order] if name.startswith("gt_") else values for name, values in extra.items()}
        _, _, _, positive, row = stock(
            pd_scores, pd_bboxes, anc_points, labels, boxes, real.to(gt_bboxes.dtype), **extra
        )
        return torch.where(positive, order.gather(1, row.long()), -1)

    def _overlaps(
        self,
        pairs: tuple[Tensor, Tensor, Tensor],
        gt_labels: Tensor,
        gt_bboxes: Tensor,
        pd_scores: Tensor,
        pd_bboxes: Tensor,
        **extra: Tensor,
    ) -> Tensor:
        """Return the task's overlap of each pair of image, object and anchor, (P,)."""
        if not isinstance(self.stock, SegTaskAlignedAssigner):
            return self.stock.pair_overlaps(pairs, gt_bboxes, pd_bboxes, **extra)
        # It lays out a table of all objects and all anchors, and looks at the masks of the best 3 * topk anchors of an
        # object. Here the anchors are the positives alone, and it looks at the masks of all.
        image, gt, anchor = pairs
        counts = image.bincount(minlength=len(gt_bboxes))
        slot = torch.arange(len(image), device=image.device) - (counts.cumsum(0) - counts)[image]
        per_anchor = {"scores": pd_scores, "pd_bboxes": pd_bboxes, "pd_coef": extra.pop("pd_coef")}
        for name, values in per_anchor.items():
            table = values.new_zeros(len(gt_bboxes), int(counts.max()), values.shape[-1])
            table[image, slot] = values[image, anchor]
            per_anchor[name] = table
        self.stock.bs, self.stock.n_max_boxes, topk = len(gt_bboxes), gt_bboxes.shape[1], self.stock.topk
        self.stock.topk = int(counts.max())
        try:
            return self.stock.pair_overlaps((image, gt, slot), gt_bboxes, labels=gt_labels, **per_anchor, **extra)
        finally:
            self.stock.topk = topk  # with which it assigns the large objects


class RFLAMatcher(RFLAAssigner):
    """The same for a one-to-one branch: each object gets the one anchor that is nearest to it, by `rfla_match`."""

    def left_to_tal(self, gt_bboxes: Tensor, gt_mask: Tensor) -> Tensor | None:
        """Return None: it chooses for objects of all sizes."""
        return None

    def assign(self, gt_bboxes: Tensor, gt_mask: Tensor, grid_shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Return the object of each anchor as `rfla_match` does, under the settings."""
        levels = (grid_shapes, self.strides, self.rf_sizes)
        return rfla_match(gt_bboxes, gt_mask, *levels, distance=self.config.distance)

    def select(self, gt_bboxes: Tensor, gt_mask: Tensor, grid_shapes: Sequence[tuple[int, int]]) -> list[Selection]:
        """Return the anchor that each object proposes to first: its best one, of equals the lowest index."""
        levels = (grid_shapes, self.strides, self.rf_sizes)
        (stage,) = rfla_select(gt_bboxes, gt_mask, *levels, topk=(1, 0), distance=self.config.distance)
        lowest = stage.anchor.masked_fill(~stage.taken, sum(h * w for h, w in grid_shapes)).amin(-1, keepdim=True)
        return [stage._replace(taken=stage.taken & (stage.anchor == lowest))]


class RFLALoss(Float32Loss):
    """Any of Ultralytics' losses with RFLA in place of its assigner, in float32; everything else is Ultralytics'.

    To be named before one of them as a base.

    Args:
        model: An Ultralytics model of the loss's task.
        config: The settings.
        tal_topk: Not used; ``E2ELoss`` passes it to every loss.
        tal_topk2: Given by ``E2ELoss`` for the one-to-one branch, which `RFLAMatcher` assigns then.

    Raises:
        ValueError: If the settings do not fit the model.
    """

    assigner: Any

    def __init__(
        self, model: nn.Module, config: RFLAConfig | None = None, tal_topk: int = 10, tal_topk2: int | None = None
    ) -> None:
        super().__init__(model, tal_topk, tal_topk2)  # type: ignore[call-arg]
        stock: Any = self
        config = config or RFLAConfig()
        assigner = RFLAAssigner if tal_topk2 is None else RFLAMatcher
        levels = (stock.stride.tolist(), rf_sizes(model, config))
        tables = not isinstance(self, RFLADetectionLoss)  # the losses of masks and keypoints count all positives alike
        self.assigner = assigner(stock.nc, *levels, config, self.assigner, tables)

    def loss(self, preds: dict[str, Any], batch: dict[str, Any]) -> Any:
        """Compute the loss of one branch; the assigner is told the grid shapes, which no call of it names."""
        self.assigner.grid_shapes = [tuple(feature.shape[2:]) for feature in preds["feats"]]
        return super().loss(preds, batch)


class RFLADetectionLoss(RFLALoss, v8DetectionLoss):
    """`RFLALoss` of detection."""


class RFLASegmentationLoss(RFLALoss, v8SegmentationLoss):
    """`RFLALoss` of segmentation up to YOLO12."""


class RFLASegmentLoss26(RFLALoss, SegmentLoss26):
    """`RFLALoss` of YOLO26's segmentation, whose targets also judge the masks."""


class RFLAPoseLoss(RFLALoss, v8PoseLoss):
    """`RFLALoss` of pose up to YOLO12."""


class RFLAPoseLoss26(RFLALoss, PoseLoss26):
    """`RFLALoss` of YOLO26's pose, whose targets judge the keypoints (OKS)."""


class RFLAOBBLoss(RFLALoss, v8OBBLoss):
    """`RFLALoss` of oriented boxes. As in stock, objects with a side below 2 px of the input are left out."""


LOSSES: dict[type[nn.Module], Any] = {  # by head; those of YOLOE and World derive from these, and are none of them
    Detect: RFLADetectionLoss,
    v10Detect: RFLADetectionLoss,
    Segment: RFLASegmentationLoss,
    Segment26: RFLASegmentLoss26,
    Pose: RFLAPoseLoss,
    Pose26: RFLAPoseLoss26,
    OBB: RFLAOBBLoss,
    OBB26: RFLAOBBLoss,
}


def build_criterion(model: Any, config: RFLAConfig) -> Any:
    """Return the loss of a model under RFLA; with a one-to-one branch, Ultralytics' loss of both branches.

    RFLA assigns the one-to-many branch, and the setting ``one2one`` says who assigns the other. The schedule of the two
    gains is Ultralytics'.

    Args:
        model: An Ultralytics model that detects, segments, or finds keypoints or oriented boxes.
        config: The settings.

    Raises:
        ValueError: If RFLA cannot train the model's head, or the settings do not fit the model.
    """
    check_head(model)
    head = type(model.model[-1])
    ours, stock = LOSSES[head], type(one_to_many(model.init_criterion()))
    if stock not in ours.__bases__:
        raise ValueError(f"model: a head of type {head.__name__} needs a model of its task, not {type(model).__name__}")
    if not has_one_to_one(model):
        return ours(model, config)

    def branch(model: nn.Module, tal_topk: int = 10, tal_topk2: int | None = None) -> v8DetectionLoss:
        if tal_topk2 is not None and config.one2one == "tal":
            return mixed(Float32Loss, stock)(model, tal_topk, tal_topk2)
        return ours(model, config, tal_topk, tal_topk2)

    return E2ELoss(model, branch)


def check_head(model: Any) -> None:
    """Raise ValueError unless RFLA can train the model's head."""
    head = type(model.model[-1])
    if head not in LOSSES:
        known = ", ".join(known.__name__ for known in LOSSES)
        raise ValueError(f"model: RFLA trains heads of type {known}, not {head.__name__}")


def branches(criterion: Any) -> dict[str, v8DetectionLoss]:
    """Return the losses of a head's branches, by name; a head of one branch has the loss itself."""
    return {name: getattr(criterion, name) for name in BRANCHES if hasattr(criterion, name)} or {BRANCHES[0]: criterion}


def one_to_many(criterion: Any) -> v8DetectionLoss:
    """Return the loss of the one-to-many branch."""
    return branches(criterion)[BRANCHES[0]]


def branch_in_use(nms: bool | None) -> str:
    """Return the branch of an end-to-end head that Ultralytics uses under its argument ``nms``, in words."""
    return f"{'one-to-one' if nms is False else 'one-to-many'} branch (nms={nms})"


def has_one_to_one(model: nn.Module) -> bool:
    """Return whether the head of a detection model has a one-to-one branch, as YOLOv10 and YOLO26."""
    return getattr(detection_model(model).model[-1], "one2one_cv2", None) is not None
