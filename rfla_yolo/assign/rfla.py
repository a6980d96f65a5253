"""RFLA: Gaussian Receptive Field based Label Assignment (Xu et al., ECCV 2022, arXiv 2208.08738)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from .candidates import CANDIDATES, Candidates, GridShapes, per_level
from .distance import DISTANCES, ISOTROPIC
from .resolve import CONFLICTS, box_area, box_sides, resolve_conflicts
from .rotated import rotated_candidates
from .select import SELECTORS

T = TypeVar("T")

TOPK_SIDE = 8.0  # px; objects larger than this, AI-TOD's "very tiny", take more anchors where topk_max allows it


class Selection(NamedTuple):
    """What every object wants in one stage, before conflicts are resolved.

    Attributes:
        anchor: Anchor of each candidate, long, (B, G, N).
        taken: Candidates that their object takes, bool, (B, G, N).
        scores: Score of each candidate, (B, G, N).
    """

    anchor: Tensor
    taken: Tensor
    scores: Tensor


@torch.no_grad()
def rfla_assign(
    gt_bboxes: Tensor,
    gt_mask: Tensor,
    grid_shapes: GridShapes,
    strides: Sequence[float],
    rf_sizes: Sequence[float],
    *,
    topk: tuple[int, int] = (3, 1),
    topk_max: int = 0,
    decay: float = 0.9,
    distance: str = "kl",
    conflict: str = "score",
    candidates: str = "window",
    select: str = "topk",
) -> Tensor:
    """Assign every anchor to an object or to the background, by hierarchical label assignment (Section 3.3).

    Stage 1: every object takes the ``topk[0]`` anchors of highest score over all levels together. Stage 2: receptive
    fields shrink to ``decay`` times their size and every object takes its ``topk[1]`` best, of which only those count
    that stage 1 left negative. The assignment of an image depends neither on the other images of the batch nor on the
    predictions. Nothing here waits for the device.

    Args:
        gt_bboxes: Objects, xyxy px of the network input, (B, G, 4), or oriented: centre x and y, w and h in px and the
            angle of w's axis in radians, (B, G, 5), as Ultralytics has them. Of any float type, computed in float32.
        gt_mask: True for objects, False for padding, bool, (B, G).
        grid_shapes: Rows and columns of each level, finest first.
        strides: Stride of each level, px. The anchor point of column i is (i + 0.5) * stride.
        rf_sizes: Side of the receptive field of each level, px.
        topk: Anchors that an object takes in stage 1 and in stage 2; 0 in the second place switches stage 2 off.
        topk_max: Let stage 1 take more anchors for larger objects, up to this many: ``topk[0] * side / 8 px``, rounded,
            where side is the square root of the area. Up to ``topk[0]`` it changes nothing.
        decay: Factor on the receptive fields in stage 2, in (0, 1].
        distance: Score of a receptive field and an object, a key of `DISTANCES`.
        conflict: Which of several objects gets an anchor, a key of `CONFLICTS`. "last" is the reference implementation.
        candidates: Where anchors are looked for, a key of `CANDIDATES`; by `rotated_candidates` where the angle counts.
        select: Which candidates an object takes, a key of `SELECTORS`.

    Returns:
        Index of the object of each anchor, -1 for background, long, (B, A).

    Raises:
        ValueError: If a shape or a setting is not as described.

    Example:
        >>> boxes = torch.tensor([[[10.0, 10.0, 14.0, 14.0]]])
        >>> mask = torch.ones(1, 1, dtype=torch.bool)
        >>> assigned = rfla_assign(boxes, mask, [(8, 8)], [4], [8])
        >>> assigned.view(8, 8)[1:5, 1:5]
        tensor([[-1, -1, -1, -1],
                [-1,  0,  0, -1],
                [-1,  0,  0, -1],
                [-1, -1, -1, -1]])
    """
    rule = lookup("conflict", conflict, CONFLICTS)
    stages = rfla_select(
        gt_bboxes,
        gt_mask,
        grid_shapes,
        strides,
        rf_sizes,
        topk=topk,
        topk_max=topk_max,
        decay=decay,
        distance=distance,
        candidates=candidates,
        select=select,
    )
    boxes = gt_bboxes.float()
    num_anchors = sum(rows * columns for rows, columns in grid_shapes)
    assigned, *rest = (
        resolve_conflicts(stage.taken, stage.scores, stage.anchor, boxes, num_anchors, rule) for stage in stages
    )
    for later in rest:
        assigned = torch.where(assigned >= 0, assigned, later)
    return assigned


@torch.no_grad()
def rfla_select(
    gt_bboxes: Tensor,
    gt_mask: Tensor,
    grid_shapes: GridShapes,
    strides: Sequence[float],
    rf_sizes: Sequence[float],
    *,
    topk: tuple[int, int] = (3, 1),
    topk_max: int = 0,
    decay: float = 0.9,
    distance: str = "kl",
    candidates: str = "window",
    select: str = "topk",
) -> list[Selection]:
    """Let every object take its anchors in each stage of `rfla_assign`, whose arguments these are.

    Returns:
        The candidates of each stage, and which of them every object takes.

    Raises:
        ValueError: If a shape or a setting is not as described.
    """
    check_topk(topk)
    check_topk_max(topk_max)
    check_decay(decay)
    score_fn = lookup("distance", distance, DISTANCES)
    find, take = lookup("candidates", candidates, CANDIDATES), lookup("select", select, SELECTORS)
    if gt_bboxes.ndim != 3 or gt_bboxes.shape[-1] not in {4, 5}:
        raise ValueError(f"gt_bboxes must have shape (B, G, 4), or (B, G, 5) if oriented, not {tuple(gt_bboxes.shape)}")
    if gt_mask.shape != gt_bboxes.shape[:2]:
        raise ValueError(f"gt_mask must have shape {tuple(gt_bboxes.shape[:2])}, not {tuple(gt_mask.shape)}")
    if not len(grid_shapes) == len(strides) == len(rf_sizes) > 0:
        raise ValueError(
            "grid_shapes, strides and rf_sizes must name the same levels, "
            f"not {len(grid_shapes)}, {len(strides)} and {len(rf_sizes)}"
        )

    boxes = gt_bboxes.float()
    oriented = boxes.shape[-1] == 5
    if oriented:  # an object of NaN or infinity takes nothing, as an axis-aligned one: its numbers must not index
        sound = boxes.isfinite().all(-1)
        boxes, gt_mask = boxes.masked_fill(~sound.unsqueeze(-1), 0), gt_mask.bool() & sound
    centers = boxes[..., :2] if oriented else (boxes[..., :2] + boxes[..., 2:]) / 2
    w, h = box_sides(boxes)[..., None, None].unbind(2)  # each (B, G, 1, 1)
    rf = per_level(rf_sizes, boxes)[:, None]

    def stage(found: Candidates, rf: Tensor, k: Tensor, k_max: int) -> Selection:
        scores = score_fn(found.dx, found.dy, w, h, rf).flatten(2)  # (B, G, N), N = levels * candidates
        valid = found.valid.flatten(2) & gt_mask.bool().unsqueeze(-1)
        return Selection(found.anchor.flatten(2), take(scores, valid, k, k_max), scores)

    num_anchors = sum(rows * columns for rows, columns in grid_shapes)
    k_max, k_later = (min(k, num_anchors) for k in (max(topk[0], topk_max), topk[1]))
    k = (topk[0] * box_area(boxes).clamp(min=0).sqrt() / TOPK_SIDE).round().long().clamp(topk[0], k_max)
    if oriented and distance not in ISOTROPIC:
        found = rotated_candidates(boxes, grid_shapes, strides, max(k_max, k_later))
    else:
        found = find(centers, grid_shapes, strides, max(k_max, k_later))
    stages = [stage(found.nearest(k_max), rf, k, k_max)]
    if k_later:
        stages.append(stage(found.nearest(k_later), rf * decay, torch.full_like(k, k_later), k_later))
    return stages


def lookup(setting: str, name: str, registry: Mapping[str, T]) -> T:
    """Return the registered step of that name, or say which there are.

    Raises:
        ValueError: If there is none.
    """
    if not isinstance(name, str) or name not in registry:
        raise ValueError(f"{setting} must be one of {', '.join(map(repr, registry))}, not {name!r}")
    return registry[name]


def check_topk(topk: object) -> None:
    """Raise ValueError unless ``topk`` is a pair of whole numbers (k1 >= 1, k2 >= 0)."""
    numbers = topk if isinstance(topk, (tuple, list)) else ()
    if len(numbers) != 2 or any(type(k) is not int for k in numbers) or numbers[0] < 1 or numbers[1] < 0:
        raise ValueError(f"topk must be two whole numbers (k1 >= 1, k2 >= 0; 0 switches stage 2 off), not {topk!r}")


def check_topk_max(topk_max: object) -> None:
    """Raise ValueError unless ``topk_max`` is a whole number from 0."""
    if type(topk_max) is not int or topk_max < 0:
        raise ValueError(f"topk_max must be a whole number (0: no more than topk), not {topk_max!r}")


def check_decay(decay: object) -> None:
    """Raise ValueError unless ``decay`` is a number in (0, 1]."""
    if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 < decay <= 1:
        raise ValueError(f"decay must be in (0, 1], not {decay!r}")
