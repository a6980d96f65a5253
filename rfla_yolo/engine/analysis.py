"""What the analysis needs of Ultralytics: the training loader's images, TAL opened up, and what a head can draw."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from ultralytics.cfg import get_cfg, get_save_dir
from ultralytics.data import build_yolo_dataset
from ultralytics.data.utils import check_det_dataset
from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils import DEFAULT_CFG
from ultralytics.utils.checks import check_imgsz
from ultralytics.utils.loss import v8DetectionLoss, v8OBBLoss
from ultralytics.utils.ops import xywh2xyxy
from ultralytics.utils.tal import RotatedTaskAlignedAssigner, TaskAlignedAssigner, make_anchors

from .bins import load_weights, place_bins
from .data import build_checked, check_dataset, pick_evenly
from .distances import DistanceMeter
from .loss import BRANCHES
from .model import RFLAYOLO, check_pretrained, input_strides
from .receptive_field import detection_model

DEFAULT_IMGSZ = DEFAULT_CFG.imgsz
WORKERS = 2  # processes that load images; a fixed number, because mosaic draws on what its process has loaded


@dataclass(frozen=True)
class Sample:
    """One image as training sees it.

    Attributes:
        boxes: Objects, xyxy px of the network input, (G, 4), or oriented: centre x and y, w, h in px, angle in radians,
            (G, 5).
        labels: Classes, long, (G,).
        image: The image, uint8, (C, H, W).
        im_file: Path of the image; of a mosaic, of its first image.
    """

    boxes: Tensor
    labels: Tensor
    image: Tensor
    im_file: str

    @property
    def trained(self) -> Tensor:
        """Whether the loss takes an object into account: that of oriented boxes leaves out sides below 2 px, (G,)."""
        if self.boxes.shape[-1] == 4:
            return torch.ones(len(self.boxes), dtype=torch.bool)
        return (self.boxes[:, 2:4] >= 2).all(-1)


def training_samples(
    data: Any,
    images: int,
    augment: bool,
    seed: int = 0,
    skip_bad_labels: bool = False,
    task: str = "detect",
    **arguments: Any,
) -> Iterator[Sample]:
    """Yield images of the training set from Ultralytics' own loader, evenly picked over the set.

    Args:
        data: Dataset YAML.
        images: How many images; all where there are fewer.
        augment: With the augmentation of training, or letterboxed only.
        seed: Seed of the augmentation.
        skip_bad_labels: As the setting.
        task: Task of the model; "obb" gives oriented boxes.
        **arguments: Arguments of Ultralytics' training: imgsz, mosaic, scale and so on.

    Yields:
        The images in a fixed order.

    Raises:
        FileNotFoundError: If the data is not there.
        ValueError: If labels cannot be used.
    """
    dataset, _ = _training_set(data, augment, skip_bad_labels, task, arguments)
    picked = pick_evenly(range(len(dataset)), images)
    loader = DataLoader(_Seeded(dataset, picked, seed), batch_size=None, num_workers=WORKERS)
    for item in loader:
        height, width = item["img"].shape[1:]
        boxes = item["bboxes"].clone()  # xywh or xywhr, normalised
        boxes[:, :4] *= torch.tensor([width, height, width, height])
        boxes = boxes if task == "obb" else xywh2xyxy(boxes)
        yield Sample(boxes, item["cls"].view(-1).long(), item["img"], item["im_file"])


def distance_meter(data: Any, imgsz: int, skip_bad_labels: bool, task: str, **arguments: Any) -> DistanceMeter:
    """Return what measures the distances that a training needs.

    Args:
        data: Dataset YAML.
        imgsz: Training size, px.
        skip_bad_labels: As the setting.
        task: Task of the model.
        **arguments: Arguments of Ultralytics' training.
    """
    dataset, cfg = _training_set(data, False, skip_bad_labels, task, {**arguments, "imgsz": imgsz})
    return DistanceMeter(dataset.labels, imgsz, cfg.scale, cfg.multi_scale)


def starting_model(detector: RFLAYOLO, pretrained: Any) -> Any:
    """Return the network that a training starts from.

    Args:
        detector: The model.
        pretrained: Ultralytics' argument of training: a file whose weights are taken as far as they fit, or False for
            none.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    check_pretrained(pretrained)
    net = detection_model(detector)
    if pretrained in {None, True} or (pretrained is False and not detector.ckpt):
        return net
    fresh = type(net)(net.yaml, verbose=False)
    place_bins(fresh)
    if pretrained:
        load_weights(fresh, load_checkpoint(pretrained)[0])
    return fresh.eval()


def _training_set(data: Any, augment: bool, skip_bad_labels: bool, task: str, arguments: dict[str, Any]) -> Any:
    """Return the training set as Ultralytics builds it, checked, and its arguments."""
    data = check_dataset(data, "train")
    info = check_det_dataset(str(data))
    cfg = get_cfg(DEFAULT_CFG, {**arguments, "task": task, "data": str(data)})
    mode = "train" if augment else "val"
    build = partial(build_yolo_dataset, cfg, info["train"], 1, info, mode=mode, fraction=cfg.fraction)
    return build_checked(build, info["train"], info, cfg, skip_bad_labels), cfg


def training_size(model: Any, imgsz: Any) -> int:
    """Return the image size, px, that training takes for what it is given, with its warnings.

    Of several numbers training takes the largest, and it rounds up to a multiple of the coarsest stride, at least 32.

    Args:
        model: A ``DetectionModel``.
        imgsz: What training is given.
    """
    step = int(input_strides(model).max())
    return int(check_imgsz(imgsz, stride=step, floor=step, max_dim=1))


def run_folder(project: str | None = None, name: str | None = None, exist_ok: bool = False) -> Path:
    """Return the folder that Ultralytics would give a run of this name, a new one unless ``exist_ok``."""
    place = {"project": project, "name": name or "analyze", "exist_ok": exist_ok, "task": "detect", "mode": "analyze"}
    return Path(get_save_dir(SimpleNamespace(**place)))


def count_classes(data: Any) -> int:
    """Return the number of classes of a dataset YAML."""
    return int(check_det_dataset(str(check_dataset(data, "train")))["nc"])


class _Seeded(Dataset):
    """Items of a dataset, each with random numbers of its own."""

    def __init__(self, dataset: Any, picked: list[int], seed: int) -> None:
        self.dataset, self.picked, self.seed = dataset, picked, seed

    def __len__(self) -> int:
        return len(self.picked)

    def __getitem__(self, place: int) -> dict[str, Any]:
        random.seed(self.seed + place)
        np.random.seed(self.seed + place)
        torch.manual_seed(self.seed + place)
        return self.dataset[self.picked[place]]


class _Open(TaskAlignedAssigner):
    """Ultralytics' assigner that tells what each object wanted, and that can do without predictions.

    Attributes:
        wanted: After a call, the anchors that each object would have got if it were alone, bool, (B, G, A).
        reach: Overlap of pairs of object and anchor, in place of the predictions' overlaps: a function of the boxes
            (N, 4 or 5) and the number of their anchor (N,); None uses the predictions.
    """

    wanted: Tensor
    reach: Callable[[Tensor, Tensor], Tensor] | None = None

    def __init__(self, num_classes: int, strides: list[float], one_to_one: bool = False) -> None:
        topk = {"topk": 7, "topk2": 1} if one_to_one else {"topk": 10}  # those of Ultralytics' losses
        super().__init__(**topk, num_classes=num_classes, alpha=0.5, beta=6.0, stride=strides)

    def pair_overlaps(self, indices: Any, gt_bboxes: Tensor, pd_bboxes: Tensor) -> Tensor:
        """Return the overlaps of the pairs: what the head can reach, or Ultralytics' own."""
        if self.reach is None:
            return super().pair_overlaps(indices, gt_bboxes, pd_bboxes)
        return self.reach(gt_bboxes[indices[:2]], indices[2])

    def select_highest_overlaps(
        self, mask_pos: Tensor, overlaps: Tensor, n_max_boxes: int, align_metric: Tensor
    ) -> Any:
        """Keep what is wanted, and go on."""
        self.wanted = mask_pos.bool().clone()
        if self.topk2 < self.topk:
            each = [values.flatten(0, 1).unsqueeze(1) for values in (mask_pos, overlaps, align_metric)]  # (B * G, 1, A)
            alone = super().select_highest_overlaps(*each[:2], 1, each[2])[2]
            self.wanted = alone.bool().view_as(mask_pos)
        return super().select_highest_overlaps(mask_pos, overlaps, n_max_boxes, align_metric)


class OpenTAL(_Open):
    """`_Open` for boxes, ``gt_bboxes`` (B, G, 4)."""


class OpenRotatedTAL(_Open, RotatedTaskAlignedAssigner):
    """`_Open` for oriented boxes, ``gt_bboxes`` (B, G, 5)."""


def predictions(model: Any, image: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what a trained model hands to the assigner of each of its branches.

    Args:
        model: An Ultralytics model with weights.
        image: One image, uint8, (C, H, W).

    Returns:
        Class scores (1, A, C) and boxes, xyxy px, (1, A, 4), or oriented, (1, A, 5), of the branches "one2many" and,
        where the head has it, "one2one".
    """
    with torch.no_grad():
        _, raw = model.eval()(image[None].float() / 255)
        raw = raw[-1] if isinstance(raw, tuple) else raw
        branches = {name: raw[name] for name in BRANCHES} if "one2one" in raw else {BRANCHES[0]: raw}
        return {name: _decode(model, preds) for name, preds in branches.items()}


def _decode(model: Any, preds: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Decode the outputs of a branch as its loss does."""
    angle = [preds["angle"].permute(0, 2, 1)] if "angle" in preds else []
    loss = (v8OBBLoss if angle else v8DetectionLoss)(model)
    if loss.use_dfl:  # the bins of the head, wherever they stand
        loss.proj = model.model[-1].dfl.conv.weight.flatten()
    points, stride = make_anchors(preds["feats"], model.stride)
    boxes = loss.bbox_decode(points, preds["boxes"].permute(0, 2, 1).contiguous(), *angle)
    boxes[..., :4] *= stride
    return preds["scores"].permute(0, 2, 1).sigmoid(), boxes
