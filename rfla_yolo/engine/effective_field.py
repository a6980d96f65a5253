"""Effective receptive field of every detection level: where in the image the gradient of an anchor's features lies.

Unlike the theoretical field, which counts every pixel that could matter, this is measured (Luo et al., 2016), on the
features that enter the head, and depends on the weights.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from .receptive_field import detection_model

HALF_MASS = 1.17741  # radius that holds half of a two-dimensional Gaussian, in sigmas: sqrt(2 ln 2)
PROBE_SIZE = 640  # px
PROBES = 4


def effective_receptive_fields(model: Any, seed: int = 0) -> list[float]:
    """Measure the effective receptive field of every detection level by gradients, and fit a Gaussian to it.

    The magnitude of the gradient of the central feature with respect to the image, over four images of noise and a
    random direction in feature space. The Gaussian is the one whose central half has the same radius: the few far
    gradients do not widen it, as they would a second moment.

    Args:
        model: An Ultralytics ``YOLO`` or ``DetectionModel``, trained or not; it stays untouched.
        seed: Seed of the noise.

    Returns:
        Sigma of the field, px of the network input, one per level, finest first.

    Raises:
        TypeError: If the model is no Ultralytics detection model.
        ValueError: If no gradient reaches the image.
    """
    source = detection_model(model)
    net = deepcopy(source).float().eval().requires_grad_(False)
    device = next(net.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    channels = net.yaml.get("channels", 3)
    image = torch.randn(PROBES, channels, PROBE_SIZE, PROBE_SIZE, generator=generator).to(device).requires_grad_()
    features: list[Tensor] = []
    hook = net.model[-1].register_forward_pre_hook(lambda head, args: features.extend(args[0]))
    with torch.enable_grad():
        net(image)
        hook.remove()
        sigmas = []
        for level, stride in zip(features, source.stride.tolist()):
            middle = level.shape[-1] // 2
            direction = torch.randn(level.shape[:2], generator=generator).to(device)
            response = (level[:, :, middle, middle] * direction).sum()
            (gradient,) = torch.autograd.grad(response, image, retain_graph=True)
            sigmas.append(_fit(gradient.abs().sum((0, 1)), (middle + 0.5) * stride))
    return sigmas


def _fit(weight: Tensor, center: float) -> float:
    """Return sigma of the Gaussian whose half mass lies within the same radius, px."""
    offset = torch.arange(len(weight), device=weight.device) + 0.5 - center
    radius = torch.hypot(offset[:, None], offset[None, :]).flatten()
    order = radius.argsort()
    mass = weight.flatten()[order].double().cumsum(0)
    if not mass[-1] > 0:
        raise ValueError("rf='erf': the model's features do not depend on the image; give rf='trf' or 'stride'")
    return round(float(radius[order][torch.searchsorted(mass, mass[-1] / 2)]) / HALF_MASS, 2)
