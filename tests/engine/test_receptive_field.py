"""Theoretical receptive fields against the gradient support of the backbone feature on a linearised network."""

from __future__ import annotations

import copy
import math
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn import functional
from ultralytics import YOLO
from ultralytics.nn.modules import SPP, SPPELAN, SPPF, block
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

from rfla_yolo import receptive_fields

# every detection YAML of Ultralytics, at its smallest scale
# fmt: off
ALL = [
    "yolov3", "yolov3-spp", "yolov3-tiny", "yolov5n", "yolov5n-p6", "yolov6n", "yolov8n", "yolov8n-p2", "yolov8n-p6",
    "yolov8n-ghost", "yolov8n-ghost-p2", "yolov8n-ghost-p6", "yolov9t", "yolov9s", "yolov9m", "yolov9c", "yolov9e",
    "yolov10n", "yolov10s", "yolov10m", "yolov10b", "yolov10l", "yolov10x", "yolo11n", "yolo12n", "yolo26n",
    "yolo26n-p2", "yolo26n-p6",
]
# fmt: on
DEEPER = ["yolov8m", "yolov5m", "yolo11m", "yolo12l"]
# measured by gradient support, ultralytics 8.4.190
KNOWN = {
    "yolov8n-p2": [23, 95, 239, 399],
    "yolov8m-p2": [39, 175, 447, 735],
    "yolo26n-p2": [23, 63, 207, 495],
    "yolo11n": [63, 207, 495],
}
LEFT_OUT = (SPP, SPPF, SPPELAN, block.Attention, block.AAttn)


class Same(nn.Module):
    """Passes the spatial pattern on, with the channels of the module that it stands for."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1, keepdim=True).expand(-1, self.channels, -1, -1)


def linear_copy(model: DetectionModel) -> nn.Sequential:
    """Backbone with positive weights and no bias, averages for maxima, and without the left-out modules."""
    layers = copy.deepcopy(model.model[: len(model.yaml["backbone"])])
    for parent in list(layers.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LEFT_OUT):
                setattr(parent, name, Same(out_channels(child)))
            elif isinstance(child, (nn.BatchNorm2d, nn.SiLU, nn.ReLU)):
                setattr(parent, name, nn.Identity())
            elif isinstance(child, nn.MaxPool2d):
                same = {"kernel_size": child.kernel_size, "stride": child.stride, "padding": child.padding}
                setattr(parent, name, nn.AvgPool2d(**same))
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return layers.double()


def out_channels(module: nn.Module) -> int:
    if isinstance(module, SPPELAN):
        return module.cv5.conv.out_channels
    if isinstance(module, (SPP, SPPF)):
        return module.cv2.conv.out_channels
    return module.proj.conv.out_channels


def narrow(name: str) -> DetectionModel:
    """The model with an eighth of its channels, so that float64 gradients through it take seconds."""

    def shrink(value):
        if isinstance(value, list):
            return [shrink(v) for v in value]
        return max(value // 8, 16) if isinstance(value, int) and not isinstance(value, bool) and value > 16 else value

    cfg = yaml_model_load(f"{name}.yaml")
    for part in ("backbone", "head"):
        cfg[part] = [[source, repeats, module, shrink(args)] for source, repeats, module, args in cfg[part]]
    return DetectionModel(cfg, verbose=False)


def gradient_support(model: DetectionModel, size: int) -> dict[float, int]:
    """Rows of the input that the middle of each feature entering the neck depends on, by stride."""
    layers, first_of_neck = linear_copy(model), len(model.yaml["backbone"])
    sources, read = [layer.f for layer in model.model], set()
    for i, source in enumerate(sources[first_of_neck:], first_of_neck):
        read |= {s if s >= 0 else i + s for s in ([source] if isinstance(source, int) else source)}
    upsamples = any(
        type(layer).__name__ == "CBFuse" for layer in layers
    )  # then rows of one feature see unequal extents
    image = torch.zeros(1, 3, size, int(model.stride.max()), dtype=torch.float64, requires_grad=True)
    x, outputs, support = image, [], {}
    for i, layer in enumerate(layers):
        source = sources[i]
        inputs = x if source == -1 else outputs[source] if isinstance(source, int) else None
        with mock.patch.object(functional, "max_pool2d", functional.avg_pool2d):  # ADown: a maximum sees one row only
            x = layer([x if j == -1 else outputs[j] for j in source] if inputs is None else inputs)
        outputs.append(x)
        if i in read:
            rows = x.shape[-2]
            widest = 0
            for row in range(rows // 2, rows // 2 + (4 if upsamples else 1)):
                (gradient,) = torch.autograd.grad(x[:, :, row].sum(), image, retain_graph=True)
                seen = gradient.abs().sum((0, 1, 3)).nonzero()
                widest = max(widest, int(seen.max() - seen.min()) + 1)
            support[size / rows] = widest
    return support


@pytest.mark.parametrize("name", ALL + DEEPER)
def test_equals_gradient_support(name):
    fields = receptive_fields(DetectionModel(f"{name}.yaml", verbose=False))
    model = DetectionModel(f"{name}.yaml", verbose=False) if "12" in name else narrow(name)
    support = gradient_support(model, size=2 ** math.ceil(math.log2(1.1 * max(fields))))
    assert fields == [support[float(s)] for s in model.stride]


@pytest.mark.parametrize("name", KNOWN)
def test_known_values(name):
    assert receptive_fields(YOLO(f"{name}.yaml")) == KNOWN[name]


def test_leaves_model_and_random_state_alone():
    model = DetectionModel("yolov8n-p2.yaml", verbose=False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.random.get_rng_state()
    receptive_fields(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


def test_level_without_backbone_feature_is_named():
    model = DetectionModel("yolov8n-p2.yaml", verbose=False)
    model.stride = torch.tensor([4.0, 8.0, 16.0, 64.0])
    with pytest.raises(ValueError, match="no backbone feature enters the neck at stride 64"):
        receptive_fields(model)


def test_no_detection_model():
    with pytest.raises(TypeError, match="must be an Ultralytics detection model, not Linear"):
        receptive_fields(nn.Linear(1, 1))
