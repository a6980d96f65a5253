"""The exported file computes what the checkpoint computes, and can be validated."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from rfla_yolo import RFLAYOLO
from rfla_yolo.engine import compare_onnx, export, export_model

onnxruntime = pytest.importorskip("onnxruntime")


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


def test_raw_outputs_are_compared_whatever_nms_says(trained, tmp_path, monkeypatch):
    """``nms=False`` asks for a one-to-one head: without one the outputs are raw, as by default."""
    monkeypatch.setattr(export, "compare_onnx", lambda *args: (0.0, 0.01))
    weights = shutil.copy(trained / "weights" / "best.pt", tmp_path)
    with pytest.raises(ValueError, match="differs from"):
        export_model(weights, format="onnx", imgsz=64, nms=False)


@pytest.mark.parametrize(("nms", "part"), [(False, "its one-to-one head"), (True, "non-maximum suppression in it")])
def test_a_file_that_selects_the_boxes_is_not_compared(nms, part, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(export.LOGGER, "info", lambda message, *args: said.append(str(message)))
    RFLAYOLO("yolo26n.yaml").save(tmp_path / "best.pt")
    file = export_model(tmp_path / "best.pt", format="onnx", imgsz=64, nms=nms)
    assert f"the ONNX file selects the boxes, by {part}" in said[-1]
    shape = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).get_outputs()[0].shape
    assert shape == [1, 64 + 16 + 4, 6]


@pytest.mark.parametrize(("options", "boxes"), [({}, 3000), ({"max_det": 400}, 400)])
def test_embedded_suppression_has_room_for_dense_images(trained, tmp_path, options, boxes):
    """The exported file gives as many boxes as validation keeps, not Ultralytics' 300."""
    weights = shutil.copy(trained / "weights" / "best.pt", tmp_path)
    file = export_model(weights, format="onnx", imgsz=320, nms=True, conf=1e-9, iou=0.99, **options)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).random((1, 3, 320, 320), dtype=np.float32)
    found = session.run(None, {"images": image})[0]
    assert found.shape == (1, boxes, 6)
    assert (found[0, :, 4] > 0).all()


def test_onnx_validates_as_the_checkpoint(trained, onnx_file, tmp_path):
    data = trained.parent / "set" / "set.yaml"
    options = {"data": str(data), "imgsz": 64, "plots": False, "project": str(tmp_path), "rect": False}
    torch_metrics = RFLAYOLO(trained / "weights" / "best.pt").val(**options, name="torch")
    onnx_metrics = RFLAYOLO(onnx_file).val(**options, name="onnx")
    assert (tmp_path / "onnx" / "metrics.json").is_file()
    assert onnx_metrics.evaluation["AP50"] == pytest.approx(torch_metrics.evaluation["AP50"], abs=1e-3)
