"""Effective receptive fields, on networks whose field is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from rfla_yolo import RFLAConfig
from rfla_yolo.engine import rf_sizes
from rfla_yolo.engine.effective_field import _fit, effective_receptive_fields
from rfla_yolo.engine.receptive_field import field_at_stride


@pytest.mark.parametrize("sigma", [3.0, 10.0, 40.0])
def test_a_gaussian_is_fitted_by_its_sigma(sigma):
    offset = torch.arange(640) + 0.5 - 322.0
    weight = torch.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * sigma**2))
    assert _fit(weight, 322.0) == pytest.approx(sigma, rel=0.05)


def test_no_gradient_is_an_error():
    with pytest.raises(ValueError, match="do not depend on the image"):
        _fit(torch.zeros(8, 8), 4.0)


def test_fields_grow_with_the_stride_and_stay_the_same():
    torch.manual_seed(0)
    model = DetectionModel("yolov8n-p2.yaml", verbose=False).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    sigmas = effective_receptive_fields(model)
    assert sigmas == effective_receptive_fields(model)
    assert sigmas == sorted(sigmas) and 2 < sigmas[0] < 6  # well below the theoretical field's 23 / 2
    assert torch.equal(random, torch.get_rng_state())
    assert model.training and all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert rf_sizes(model, RFLAConfig(rf="erf", rf_scale=0.5)) == [2 * sigma for sigma in sigmas]


def test_weights_change_the_field():
    """A network whose kernels keep only their middle sees one pixel a step; with the corners it sees more."""
    torch.manual_seed(0)
    model = DetectionModel("yolov8n-p2.yaml", verbose=False)
    wide = effective_receptive_fields(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            middle = module.weight.data[..., 1:2, 1:2].clone()
            module.weight.data.zero_()
            module.weight.data[..., 1:2, 1:2] = middle
    assert effective_receptive_fields(model)[0] < 0.7 * wide[0]


def test_field_of_a_level_that_the_model_lacks():
    assert field_at_stride(DetectionModel("yolov8n.yaml", verbose=False), 4) == 23
    assert field_at_stride(DetectionModel("yolov8n.yaml", verbose=False), 64) is None
