"""``RFLAYOLO``: what a call takes from the model's own arguments."""

from __future__ import annotations

import numpy as np

from rfla_yolo import RFLAYOLO


def test_predict_keeps_as_many_detections_as_validation(trained):
    """Unless the model or the call says otherwise."""
    image = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    options = {"imgsz": 320, "conf": 1e-9, "iou": 0.99, "verbose": False}
    model = RFLAYOLO(trained / "weights" / "best.pt")
    assert len(model.predict(image, **options)[0].boxes) == 3000
    model.overrides["max_det"] = 7
    assert len(model.predict(image, **options)[0].boxes) == 7
    assert len(model.predict(image, **options, max_det=5)[0].boxes) == 5
