"""Export, and the check that an exported file computes what its checkpoint computes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.cfg import get_cfg
from ultralytics.data.augment import LetterBox
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils import ASSETS, DEFAULT_CFG, LOGGER, nms
from ultralytics.utils.metrics import batch_probiou, box_iou
from ultralytics.utils.patches import imread

from .formats import FULL_PRECISION, NEEDS, format_of, safely
from .model import RFLAYOLO

BOXES, SCORES, OTHERS = 0.05, 1e-3, 1e-3  # largest differences: px, score, share of the largest value
MISSING = 0.01  # largest share of boxes, at least one, that only one side suppresses: IoU or scores at equality
NEAR = 2.0  # px: two boxes of a class whose coordinates are nearer are one
CONFIDENCE = 0.25  # of suppression in a file, where none is given: Ultralytics' value


@dataclass(frozen=True)
class Difference:
    """How an exported file differs from its checkpoint on an image.

    Attributes:
        boxes: Largest difference of a coordinate, px of the input; NaN where no box could be compared, and, as
            each of the next two, where one is NaN.
        scores: Largest difference of a score.
        others: Largest difference of mask coefficients, prototypes, keypoints or angles, as a share of their largest.
        selected: Number of boxes where the file selects them, by suppression or the one-to-one branch; None for raw
            outputs, which are compared place by place.
        missing: Number of selected boxes that only one of the two has, though rounding does not explain it.
    """

    boxes: float
    scores: float
    others: float = 0.0
    selected: int | None = None
    missing: int = 0

    def __str__(self) -> str:
        if self.selected == 0:
            return "no boxes, nothing was compared"
        text = f"boxes differ by at most {self.boxes:.1e} px, scores by {self.scores:.1e}"
        if self.others:
            text += f", other outputs by {self.others:.1e} of their largest"
        return text if self.selected is None else f"{self.selected} boxes, {self.missing} of one side only; {text}"

    @property
    def is_large(self) -> bool:
        """Whether it is more than rounding."""
        within = self.boxes <= BOXES and self.scores <= SCORES and self.others <= OTHERS
        return not within or self.missing > 0  # NaN is not within


def export_model(weights: str | Path, image: str | Path | None = None, **kwargs: Any) -> Path:
    """Export a checkpoint by Ultralytics; the file is then run by its own runtime and compared with the checkpoint.

    TorchScript, ONNX, OpenVINO, MNN and NCNN are run. Other formats are written by Ultralytics as they are.

    Args:
        weights: The checkpoint.
        image: Image for the comparison; Ultralytics' sample image by default.
        **kwargs: Ultralytics' export arguments.

    Returns:
        The exported file or folder.

    Raises:
        ValueError: If the file, at full precision, differs from the checkpoint by more than rounding, or cannot hold
            what was asked for.
        ModuleNotFoundError: If packages are missing; none is installed.
    """
    image = Path(image or ASSETS / "bus.jpg")
    if not image.is_file():
        raise FileNotFoundError(f"source: no such image: {image}")
    file = Path(RFLAYOLO(weights, kwargs.pop("task", None)).export(**kwargs))
    options = get_cfg(overrides=dict(kwargs))
    name = format_of(file)
    if name not in NEEDS:
        LOGGER.info(f"Not compared with torch: files of format {name} are not run here")
        return file
    with safely(name):
        found = compare_export(weights, file, image, options.conf, options.iou, options.agnostic_nms)
    LOGGER.info(f"{name} against torch: {found}")
    if found.selected == 0:
        LOGGER.warning(f"{image} gives no boxes: nothing was compared; --source takes an image with objects")
    if options.quantize not in FULL_PRECISION:
        LOGGER.info("Not held to a tolerance: the file computes at reduced precision")
    elif found.is_large:
        raise ValueError(f"export: {file} differs from {weights} by more than rounding: {found}")
    return file


def compare_export(
    weights: str | Path,
    file: str | Path,
    image: str | Path,
    conf: float | None = None,
    iou: float | None = None,
    agnostic_nms: bool = False,
) -> Difference:
    """Run an exported file and its checkpoint on one image, at a second size too where the file takes any.

    Args:
        weights: The checkpoint.
        file: The exported file or folder.
        image: An image.
        conf: Lowest score of the suppression in the file, if there is one; Ultralytics' value by default.
        iou: IoU of that suppression; Ultralytics' value by default.
        agnostic_nms: Whether it suppresses across classes.

    Returns:
        The largest differences.
    """
    file_model = AutoBackend(str(file), verbose=False)
    arguments = file_model.metadata["args"]
    selects = bool(file_model.end2end)  # also Ultralytics' word for suppression in the file
    suppresses = selects and bool(arguments.get("nms"))
    torch_model = AutoBackend(str(weights), end2end=selects and not suppresses, verbose=False, channels_last=False)
    head = torch_model.backend.model.model[-1]
    classes = len(file_model.names)
    threshold = DEFAULT_CFG.iou if iou is None else iou
    least = (CONFIDENCE if conf is None else conf) if suppresses else 0.0
    found = []
    for pixels in inputs(image, file_model.imgsz, file_model.channels, bool(arguments.get("dynamic"))):
        with torch.no_grad():
            exported, *exported_rest = _flat(file_model(pixels))
            head.max_det, head.agnostic_nms = exported.shape[1] if selects else head.max_det, agnostic_nms
            expected, *expected_rest = _flat(torch_model(pixels)[0])
        rest = _largest(_relative(a, b) for a, b in zip(expected_rest, exported_rest, strict=True))
        if not selects:
            found.append(_raw_difference(expected, exported, classes, rest))
            continue
        if suppresses:
            expected = nms.non_max_suppression(
                expected,
                least,
                threshold,
                agnostic=agnostic_nms,
                max_det=exported.shape[1],
                nc=classes,
                max_time_img=math.inf,
                rotated=file_model.task == "obb",
            )
        found.append(
            set_difference(expected[0], exported[0], least, rest, threshold if suppresses else None, agnostic_nms)
        )
    return Difference(
        _largest(difference.boxes for difference in found),
        _largest(difference.scores for difference in found),
        _largest(difference.others for difference in found),
        sum(difference.selected or 0 for difference in found) if selects else None,
        sum(difference.missing for difference in found),
    )


def set_difference(
    expected: torch.Tensor,
    exported: torch.Tensor,
    least: float,
    others: float = 0.0,
    iou: float | None = None,
    agnostic_nms: bool = False,
) -> Difference:
    """Compare two sets of boxes: equal scores may stand in any order.

    Boxes at the border of selection may be of one side only: at the lowest score asked for or, where a side holds as
    many as there may be, at its lowest. So may a few that the other side has suppressed. Where one side has none at
    all, each of the other's is missing.

    Args:
        expected: Rows of four coordinates (px), score, class and anything else, (D, 6 + E), best first.
        exported: The same of the file, padded by rows whose score is 0.
        least: Lowest score.
        others: Difference of other outputs.
        iou: IoU of the suppression that has selected them, if it was one.
        agnostic_nms: Whether it suppresses across classes.

    Returns:
        The largest differences over the pairs, and how many boxes have no partner.
    """
    room = max(len(expected), len(exported))
    sides = [rows[rows[:, 4] > least].double().cpu() for rows in (expected, exported)]
    selected = max(map(len, sides))
    pairs = pair_boxes(*sides)
    border = max([least, *(float(side[:, 4].min()) for side in sides if len(side) == room > 0)]) * (1 + SCORES) + 1e-6
    suppressed: list[int] = []
    missing = 0
    for side, other, paired in zip(sides, reversed(sides), pairs):
        alone = _without(side, paired)
        alone = alone[alone[:, 4] > border] if len(other) else alone
        explained = int(_suppressed(alone, other, iou, agnostic_nms).sum()) if iou is not None else 0
        suppressed.append(explained)
        missing += len(alone) - explained
    if max(suppressed) > max(MISSING * selected, 1):  # one box instead of another is one on each side
        missing += sum(suppressed)
    ours, theirs = (side[paired] for side, paired in zip(sides, pairs))
    if selected and not len(ours):
        return Difference(math.nan, math.nan, others, selected, missing)
    gap = (ours - theirs).abs()
    return Difference(
        _largest(gap[:, :4].flatten().tolist()),
        _largest(gap[:, 4].tolist()),
        _largest([others, _relative(ours[:, 6:], theirs[:, 6:])]),
        selected,
        missing,
    )


def _suppressed(rows: torch.Tensor, kept: torch.Tensor, iou: float, agnostic: bool) -> torch.Tensor:
    """Return which boxes one of those kept suppresses, or all but does: IoU and scores to their tolerance, (D,).

    An anchor has its best class alone, so the same box under another class of the same score stands in its place.
    """
    if rows.shape[1] == 7:  # oriented: the seventh is the angle
        oriented = [torch.cat([side[:, :4], side[:, 6:]], 1) for side in (rows, kept)]
        overlap = batch_probiou(*oriented)
    else:
        overlap = box_iou(rows[:, :4], kept[:, :4])
    same = torch.cdist(rows[:, :4], kept[:, :4], p=math.inf) < BOXES
    rivals = (rows[:, 5, None] == kept[None, :, 5]) | agnostic | same
    return (rivals & (overlap >= iou - SCORES) & (kept[None, :, 4] >= rows[:, 4, None] - SCORES)).any(1)


def pair_boxes(expected: torch.Tensor, exported: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give each box, best first, the nearest box of its class on the other side that none has yet.

    Args:
        expected: Rows of four coordinates (px), score and class, (D, 6 or more), best first.
        exported: The same, (E, 6 or more).

    Returns:
        Indices of the boxes that have a partner, and of their partners.
    """
    distance = torch.cdist(expected[:, :4], exported[:, :4], p=math.inf)
    distance[expected[:, 5, None] != exported[None, :, 5]] = math.inf
    cost = distance + (expected[:, 4, None] - exported[None, :, 4]).abs()  # of boxes alike, the one of the same score
    pairs = []
    for row in range(len(expected) if len(exported) else 0):
        place = int(cost[row].argmin())
        if distance[row, place] < NEAR and cost[row, place] < math.inf:
            pairs.append((row, place))
            cost[:, place] = math.inf
    rows, places = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    return rows, places


def _raw_difference(expected: torch.Tensor, exported: torch.Tensor, classes: int, others: float) -> Difference:
    """Compare raw outputs place by place: four coordinates, the scores, anything else, (B, 4 + C + E, anchors)."""
    scores = slice(4, 4 + classes)
    gap = (expected.float() - exported.float()).abs()
    others = _largest([others, _relative(expected[:, 4 + classes :], exported[:, 4 + classes :])])
    return Difference(float(gap[:, :4].max()), float(gap[:, scores].max()), others)


def _relative(expected: torch.Tensor, exported: torch.Tensor) -> float:
    """Return the largest difference as a share of the largest expected value."""
    if not expected.numel():
        return 0.0
    return float((expected.float() - exported.float()).abs().max() / expected.abs().max().clamp(min=1e-9))


def _largest(values: Iterable[float]) -> float:
    """Return the largest, 0 of none; NaN if one is, which ``max`` would pass over."""
    found = list(values)
    return math.nan if any(map(math.isnan, found)) else max(found, default=0.0)


def _without(rows: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
    left = torch.ones(len(rows), dtype=torch.bool)
    left[taken] = False
    return rows[left]


def _flat(outputs: Any) -> Sequence[torch.Tensor]:
    """Return predictions and, of a segmentation model, prototypes."""
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


def inputs(image: str | Path, imgsz: Sequence[int], channels: int = 3, dynamic: bool = False) -> Iterator[torch.Tensor]:
    """Yield the image as input of the size exported and, where the file takes any, of a wider one."""
    picture = imread(str(image))
    if picture is None:
        raise ValueError(f"source: cannot read the image {image}")
    height, width = imgsz
    for size in [(height, width), (height, width + 64)] if dynamic else [(height, width)]:
        boxed = LetterBox(size, auto=False)(image=picture)[..., ::-1].transpose(2, 0, 1)[None]
        pixels = torch.from_numpy(np.ascontiguousarray(boxed, dtype=np.float32) / 255)
        yield pixels[:, [i % 3 for i in range(channels)]]
