"""The exported file computes what the checkpoint computes, and can be validated."""

from __future__ import annotations

import shutil

import pytest

from rfla_yolo import RFLAYOLO
from rfla_yolo.engine import compare_onnx, export, export_model

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="session")
def onnx_file(trained):
    return export_model(trained / "weights" / "best.pt", format="onnx", imgsz=64)


def test_equal_to_torch(trained, onnx_file):
    boxes, scores = compare_onnx(trained / "weights" / "best.pt", onnx_file, export.ASSETS / "bus.jpg")
    assert max(boxes, scores) < 1e-4


def test_another_model_is_noticed(trained, onnx_file, tmp_path):
    """The comparison can fail: a file from other weights differs."""
    model = RFLAYOLO(trained / "weights" / "best.pt")
    for parameter in model.model.model[-1].parameters():
        parameter.data *= 1.1
    model.save(tmp_path / "other.pt")
    assert max(compare_onnx(tmp_path / "other.pt", onnx_file, export.ASSETS / "bus.jpg")) > export.TOLERANCE


def test_difference_fails_the_export(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "compare_onnx", lambda *args: (0.0, 0.01))
    weights = shutil.copy(trained / "weights" / "best.pt", tmp_path)
    with pytest.raises(ValueError, match=r"differs from .* by 1\.00e-02, over 0\.001"):
        export_model(weights, format="onnx", imgsz=64)


def test_reduced_precision_is_not_held_to_the_tolerance(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "compare_onnx", lambda *args: (0.0, 0.01))
    weights = shutil.copy(trained / "weights" / "best.pt", tmp_path)
    assert export_model(weights, format="onnx", imgsz=64, quantize=16).is_file()


def test_onnx_validates_as_the_checkpoint(trained, onnx_file, tmp_path):
    data = trained.parent / "set" / "set.yaml"
    options = {"data": str(data), "imgsz": 64, "plots": False, "project": str(tmp_path), "rect": False}
    torch_metrics = RFLAYOLO(trained / "weights" / "best.pt").val(**options, name="torch")
    onnx_metrics = RFLAYOLO(onnx_file).val(**options, name="onnx")
    assert (tmp_path / "onnx" / "metrics.json").is_file()
    assert onnx_metrics.evaluation["AP50"] == pytest.approx(torch_metrics.evaluation["AP50"], abs=1e-3)
