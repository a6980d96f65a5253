"""Theoretical receptive field (TRF) of every detection level, from the model itself (Section 3.1 of the paper).

The backbone runs once on a large tensor without memory (device "meta"). Beside every feature map travels the interval
of input rows that each of its rows sees, from convolution to convolution; parallel branches unite. No table of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from ultralytics.engine.model import Model
from ultralytics.nn.modules import SPP, SPPELAN, SPPF, block, transformer
from ultralytics.utils import LOGGER
from ultralytics.utils.torch_utils import unwrap_model

# Either makes the field that of the whole image: left out of the chain.
POOLING_PYRAMIDS = (SPP, SPPF, SPPELAN)
ATTENTION = (
    block.Attention,
    block.AAttn,
    block.MaxSigmoidAttnBlock,
    transformer.TransformerBlock,
    transformer.TransformerEncoderLayer,
    nn.MultiheadAttention,
)
PROBE_SIZE = 8192  # px; larger than any backbone's field, costs nothing on "meta"

aten = torch.ops.aten


def receptive_fields(model: Any) -> list[float]:
    """Return the theoretical receptive field of every detection level, finest first.

    The chain is the backbone's longest path, up to the feature that enters the neck at the stride of the level, as in
    the reference implementation. Pooling pyramids (SPPF) and attention (C2PSA, A2C2f, PSA) are left out, since either
    makes the field that of the image; a line in the log says so. Random state and model stay untouched.

    Args:
        model: An Ultralytics ``YOLO`` or ``DetectionModel``.

    Returns:
        Side of the field, px of the network input, one per level.

    Raises:
        TypeError: If the model is no Ultralytics detection model.
        ValueError: If no backbone feature has the stride of a level, or the chain cannot be followed.

    Example:
        >>> from ultralytics.nn.tasks import DetectionModel
        >>> receptive_fields(DetectionModel("yolov8n-p2.yaml", verbose=False))
        [23.0, 95.0, 239.0, 399.0]
    """
    net = detection_model(model)
    by_stride, _, left_out = _backbone_fields(net)
    strides = [float(s) for s in net.stride]
    missing = [s for s in strides if s not in by_stride]
    if missing:
        raise ValueError(
            f"no backbone feature enters the neck at stride {', '.join(f'{s:g}' for s in missing)}, so there is no "
            f"receptive field to read off; give rf as one size in px for each of {len(strides)} levels, or rf='stride'"
        )
    if left_out:
        LOGGER.info(f"Receptive fields: left out of the backbone path {', '.join(left_out)}, which see the whole image")
    return [by_stride[s] for s in strides]


def field_at_stride(model: Any, stride: float) -> float | None:
    """Return the theoretical field of the backbone's last feature of a stride, px; None where it has none.

    For a level that the model does not have yet, such as P2.
    """
    return _backbone_fields(detection_model(model))[1].get(stride)


def detection_model(model: Any) -> Any:
    """Return the bare network of a ``YOLO``, a wrapped or a plain ``DetectionModel``.

    Raises:
        TypeError: If it has no detection head.
    """
    net = model.model if isinstance(model, Model) else model
    net = unwrap_model(net) if isinstance(net, nn.Module) else net
    net = getattr(net, "student_model", net)
    layers = getattr(net, "model", None)
    if not isinstance(net, nn.Module) or not isinstance(layers, nn.Sequential) or not hasattr(layers[-1], "nl"):
        raise TypeError(f"model must be an Ultralytics detection model, not {type(model).__name__}")
    return net


def _backbone_fields(net: Any) -> tuple[dict[float, float], dict[float, float], list[str]]:
    """Run the backbone on "meta": field of what enters the neck and of all layers by stride, and layers left out."""
    size = len(net.yaml["backbone"])
    entering = _neck_inputs(net, size)
    left_out: list[str] = []
    outputs: list[Tensor] = []
    by_stride: dict[float, float] = {}
    last: dict[float, float] = {}
    channels = net.yaml.get("channels", 3)
    first = Rows(np.arange(PROBE_SIZE), np.arange(PROBE_SIZE))
    probe = torch.empty(1, channels, PROBE_SIZE, 64, device="meta")
    with torch.no_grad(), RowTracker() as tracker:
        tracker.set(probe, first)
        x = probe
        for i, layer in enumerate(net.model[:size]):
            inputs = _inputs(layer, x, outputs)
            with _passed_over(layer, tracker, left_out):
                state = {k: v.to("meta") for k, v in layer.state_dict(keep_vars=False).items()}
                x = torch.func.functional_call(layer, state, (inputs,))
            outputs.append(x)
            if not isinstance(x, Tensor):  # a list of maps for later layers (YOLOv9's CBLinear)
                continue
            stride = PROBE_SIZE / x.shape[-2]
            last[stride] = float(tracker.get(x).size())
            if i in entering:
                by_stride[stride] = last[stride]
    return by_stride, last, sorted(set(left_out))


def _neck_inputs(net: Any, size: int) -> set[int]:
    """Return the backbone layers whose output a later layer of neck or head reads."""
    read = set()
    for i, layer in enumerate(net.model[size:], start=size):
        sources = [layer.f] if isinstance(layer.f, int) else layer.f
        read |= {s if s >= 0 else i + s for s in sources}
    return {i for i in read if i < size}


def _inputs(layer: Any, x: Tensor, outputs: Sequence[Tensor]) -> Any:
    """Return what the layer reads, as ``DetectionModel`` passes it."""
    if layer.f == -1:
        return x
    return outputs[layer.f] if isinstance(layer.f, int) else [x if j == -1 else outputs[j] for j in layer.f]


@contextmanager
def _passed_over(layer: nn.Module, tracker: RowTracker, left_out: list[str]) -> Iterator[None]:
    """Let pooling pyramids and attention inside the layer hand on the rows of their input."""

    def keep_rows(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        left_out.append(type(layer).__name__)
        tracker.set(output, tracker.get(args[0]))

    hooks = [m.register_forward_hook(keep_rows) for m in layer.modules() if isinstance(m, POOLING_PYRAMIDS + ATTENTION)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Rows:
    """First and last input row that each row of a feature map sees."""

    def __init__(self, first: np.ndarray, last: np.ndarray) -> None:
        self.first, self.last = first, last

    def size(self) -> int:
        """Return the largest extent, px: that of a row whose field no border cuts."""
        return int((self.last - self.first).max()) + 1

    def slide(self, length: int, kernel: int, stride: int, padding: int, dilation: int) -> Rows:
        """Pass a convolution or pooling window over the rows."""
        taps = np.arange(length)[:, None] * stride - padding + np.arange(kernel) * dilation
        inside = (taps >= 0) & (taps < len(self.first))
        taps = taps.clip(0, len(self.first) - 1)
        first = np.where(inside, self.first[taps], PROBE_SIZE).min(1)
        return Rows(first, np.where(inside, self.last[taps], -1).max(1))

    def stretch(self, length: int) -> Rows:
        """Repeat rows, as nearest-neighbour upsampling does."""
        source = np.arange(length) * len(self.first) // length
        return Rows(self.first[source], self.last[source])

    def shift(self, before: int, length: int) -> Rows:
        """Pad with rows that see nothing."""
        first, last = np.full(length, PROBE_SIZE), np.full(length, -1)
        kept = min(len(self.first), length - before)
        first[before : before + kept], last[before : before + kept] = self.first[:kept], self.last[:kept]
        return Rows(first, last)

    def unite(self, other: Rows) -> Rows:
        """Join parallel branches."""
        return Rows(np.minimum(self.first, other.first), np.maximum(self.last, other.last))


class RowTracker(TorchDispatchMode):
    """Carries `Rows` from the inputs of every operation to its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[int, tuple[Tensor, Rows]] = {}  # the tensor is kept, so that its id stays its own

    def set(self, tensor: Tensor, rows: Rows) -> None:
        """Note what the rows of a feature map see."""
        self._rows[id(tensor)] = (tensor, rows)

    def get(self, tensor: Tensor) -> Rows:
        """Return what the rows of a feature map see, or raise ValueError where that is not known."""
        if id(tensor) not in self._rows:
            raise ValueError(
                f"cannot follow the receptive field to a feature map of shape {tuple(tensor.shape)}; "
                "give rf as one size in px per level, or rf='stride'"
            )
        return self._rows[id(tensor)][1]

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        rows = self._follow(func.overloadpacket, args, result)
        for out in result if isinstance(result, (list, tuple)) else [result]:
            if rows is not None and isinstance(out, Tensor) and out.ndim >= 4 and out.shape[-2] == len(rows.first):
                self.set(out, rows)
        return result

    def _follow(self, op: Any, args: tuple[Any, ...], result: Any) -> Rows | None:
        """Return the rows of the result, None where it is no feature map."""
        tensors = [t for a in args for t in (a if isinstance(a, (list, tuple)) else [a]) if isinstance(t, Tensor)]
        known = [(t, self._rows[id(t)][1]) for t in tensors if id(t) in self._rows]
        out = result[0] if isinstance(result, (list, tuple)) else result
        if not known or not isinstance(out, Tensor) or out.ndim < 4:  # 5 where feature maps are stacked
            return None
        rows, length = known[0][1], out.shape[-2]
        if op is aten.convolution:
            _, weight, _, stride, padding, dilation, transposed = args[:7]
            if transposed:
                return None
            return rows.slide(length, weight.shape[2], stride[0], padding[0], dilation[0])
        if op in (aten.max_pool2d_with_indices, aten.avg_pool2d):
            kernel, stride, padding, dilation = _pool_arguments(op, args)
            return rows.slide(length, kernel, stride, padding, dilation)
        if op is aten.constant_pad_nd:
            return rows.shift(args[1][2] if len(args[1]) > 2 else 0, length)
        if op in (aten.upsample_nearest2d, aten._upsample_nearest_exact2d):
            return rows.stretch(length)
        same = [r for t, r in known if t.shape[-2] == length]  # activation, norm, sum, concatenation, channel split
        for other in same[1:]:
            same[0] = same[0].unite(other)
        return same[0] if same else None


def _pool_arguments(op: Any, args: tuple[Any, ...]) -> tuple[int, int, int, int]:
    """Return kernel, stride, padding and dilation of a pooling call on the vertical axis."""
    kernel = args[1][0]
    stride = args[2][0] if len(args) > 2 and args[2] else kernel
    padding = args[3][0] if len(args) > 3 else 0
    dilation = args[4][0] if op is aten.max_pool2d_with_indices and len(args) > 4 else 1
    return kernel, stride, padding, dilation
