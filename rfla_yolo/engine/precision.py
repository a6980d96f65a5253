"""Boxes in float32 while the network computes in half precision: in the loss, in validation and in prediction.

Ultralytics decodes boxes in the precision of the features. bfloat16 has 8 significant bits: an anchor point more than
128 cells from the border, at stride 4 that is 512 px, is off by half a cell. ``docs/precision.md`` has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Detect
from ultralytics.utils.torch_utils import autocast


def in_float32(preds: dict[str, Any]) -> dict[str, Any]:
    """Return the predictions of a head in float32.

    Args:
        preds: Outputs of one branch of a head by name: boxes (B, 4 * reg_max, A), scores (B, num_classes, A), feats, a
            (B, C, H, W) for each level, and what the task adds: mask coefficients, prototypes, keypoints, angles.

    Returns:
        The same by name. Loss and decoding read shape, dtype and device of the features alone, so that theirs are
        float32 tensors of these shapes that take no memory.
    """
    shapes = [f.new_zeros((), dtype=torch.float32).expand(f.shape) for f in preds["feats"]]
    return {name: shapes if name == "feats" else _cast(value) for name, value in preds.items()}


def _cast(value: Any) -> Any:
    return tuple(map(_cast, value)) if isinstance(value, tuple) else value.float()


def describe_rounding(dtype: torch.dtype, stride: float, imgsz: int) -> str:
    """Say what decoding in half precision, as Ultralytics' own loss does, costs at the finest level.

    Args:
        dtype: Precision of the training.
        stride: Stride of the level, px.
        imgsz: Side of the image, px.
    """
    cells = imgsz / stride  # the step from number to number at the border is eps * 2^floor(log2 cells)
    step = torch.finfo(dtype).eps * 2 ** math.floor(math.log2(cells))
    name = str(dtype).removeprefix("torch.")
    return (
        f"assigner=tal trains as Ultralytics does, on boxes decoded in {name}: at stride {stride:g} and {imgsz} px "
        f"their edges are rounded by up to {step / 2 * stride:g} px, more than once (docs/precision.md)"
    )


class Float32Loss:
    """Mixin, to stand before a loss of Ultralytics: it decodes boxes and computes in float32, also under autocast.

    The network stays in half precision, and so does the gradient that it gets.
    """

    def loss(self, preds: dict[str, Any], batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of the predictions of one branch."""
        with autocast(False, device=preds["boxes"].device.type):
            return super().loss(in_float32(preds), batch)  # type: ignore[misc]


@contextmanager
def float32_boxes(model: nn.Module) -> Iterator[None]:
    """Let the heads of a network decode their outputs in float32 inside this context; afterwards they are as before.

    Args:
        model: As in `decode_in_float32`.
    """
    heads = decode_in_float32(model)
    try:
        yield
    finally:
        for head in heads:
            del head._inference


def decode_in_float32(model: nn.Module) -> list[Detect]:
    """Let the heads of a network decode their outputs in float32 from now on, and return the heads.

    Args:
        model: A network, also wrapped as for validation and prediction. An exported file, without a head, is left.
    """
    inner = getattr(model, "model", None)  # Ultralytics' wrapper of a network or file is no parent of it
    modules = (inner if isinstance(inner, nn.Module) else model).modules()
    heads = [module for module in modules if isinstance(module, Detect)]
    for head in heads:
        head._inference = _decoder(head)  # in place of the method of its class
    return heads


def _decoder(head: Detect) -> Callable[[dict[str, Any]], Tensor]:
    """Return the decoding of a head in float32, by a double of the head that has anchors of its own."""
    double = copy(head)
    double.shape = None  # no anchors yet; the head's may be in half precision
    double._modules = {**head._modules, "dfl": deepcopy(head.dfl).float()}  # its weights are 0, 1, 2 and so on

    def decode(preds: dict[str, Any]) -> Tensor:
        with autocast(False, device=preds["boxes"].device.type):
            return type(head)._inference(double, in_float32(preds))

    return decode


class Float32Predictor:
    """Mixin, to stand before a predictor of Ultralytics: it decodes boxes in float32, also of a half network."""

    model: Any

    def setup_model(self, model: Any, verbose: bool = True) -> None:
        """Set the model up, of which a predictor has a copy of its own."""
        super().setup_model(model, verbose)  # type: ignore[misc]
        if self.model.fp16:
            decode_in_float32(self.model)


def mixed(mixin: type, base: type) -> Any:
    """Return a class of Ultralytics with one of these mixins before it."""
    return type(f"Float32{base.__name__}", (mixin, base), {})
