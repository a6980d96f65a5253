"""``RFLAYOLO``: what a call takes from the model's own arguments."""

from __future__ import annotations

import numpy as np
import pytest
from ultralytics import YOLO

from rfla_yolo import RFLAYOLO
from rfla_yolo.config import resource_dir


def test_predict_keeps_as_many_detections_as_validation(trained):
    """Unless the model or the call says otherwise."""
    image = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    options = {"imgsz": 320, "conf": 1e-9, "iou": 0.99, "verbose": False}
    model = RFLAYOLO(trained / "weights" / "best.pt")
    assert len(model.predict(image, **options)[0].boxes) == 3000
    model.overrides["max_det"] = 7
    assert len(model.predict(image, **options)[0].boxes) == 7
    assert len(model.predict(image, **options, max_det=5)[0].boxes) == 5


def test_a_file_in_the_working_directory_comes_first(tmp_path, monkeypatch):
    """Of that name with or without the scale, as Ultralytics looks for it."""
    text = (resource_dir("cfg") / "models" / "yolov8-p2-reg8.yaml").read_text()
    monkeypatch.chdir(tmp_path)
    assert RFLAYOLO("yolov8n-p2-reg8.yaml").model.model[-1].reg_max == 8
    for name in ("yolov8-p2-reg8.yaml", "yolov8n-p2-reg8.yaml"):
        (tmp_path / name).write_text(text.replace("reg_max: 8", "reg_max: 12"))
        for given in ("yolov8n-p2-reg8.yaml", "./yolov8n-p2-reg8.yaml"):
            assert RFLAYOLO(given).model.model[-1].reg_max == YOLO(given).model.model[-1].reg_max == 12
        (tmp_path / name).unlink()


def test_a_folder_whose_name_looks_like_a_scale(tmp_path, monkeypatch, tiny_set):
    """Of this package, or of a user: Ultralytics would look for the YAML in ``lab4``."""
    (folder := tmp_path / "lab4s" / "models").mkdir(parents=True)
    text = (resource_dir("cfg") / "models" / "yolov8-p2-reg8.yaml").read_text()
    (folder / "yolov8-p2-reg8.yaml").write_text(text.replace("reg_max: 8", "reg_max: 12"))
    monkeypatch.setattr("rfla_yolo.engine.shipped.resource_dir", lambda kind: folder.parent)
    for given in ("yolov8n-p2-reg8.yaml", folder / "yolov8n-p2-reg8.yaml"):
        model = RFLAYOLO(given)
        assert (model.model.model[-1].reg_max, model.model.yaml["scale"]) == (12, "n")
    model.train(
        data=str(tiny_set), project=str(tmp_path), name="run", epochs=1, imgsz=64, workers=0, plots=False, val=False
    )
    assert YOLO(tmp_path / "run" / "weights" / "last.pt").model.yaml["yaml_file"] == str(
        folder / "yolov8n-p2-reg8.yaml"
    )


def test_a_scale_that_a_model_does_not_have():
    with pytest.raises(ValueError, match=r"model: .*yolov8x-p2-reg8\.yaml: its YAML has no scale 'x'"):
        RFLAYOLO("yolov8x-p2-reg8.yaml")


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ("yolo26n.yaml", {"dfl_range": (-1, 6)}, r"dfl_range \(-1.0, 6.0\) is for heads with a distance distribution"),
        ("yolov8n-obb.yaml", {"dfl_range": (-1, 6)}, r"dfl_range \(-1.0, 6.0\) is for axis-aligned boxes"),
        ("yolov8n-p2.yaml", {"rf": (4, 8)}, "rf must give one size in px for each of the model's 4 levels"),
        ("yolov8n-p2.yaml", {"pretrained": "gone.pt"}, "pretrained: no such file: gone.pt"),
    ],
)
def test_what_does_not_fit_leaves_no_run(model, given, message, tiny_set, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        RFLAYOLO(model).train(data=str(tiny_set), project=str(tmp_path / "runs"), epochs=1, imgsz=64, **given)
    assert not (tmp_path / "runs").exists()
