"""The layers: the assignment needs torch alone, the evaluation neither torch nor Ultralytics."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rfla_yolo


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("rfla_assign", ["ultralytics", "cv2", "matplotlib", "faster_coco_eval"]),
        ("evaluate", ["torch", "ultralytics", "matplotlib"]),
        ("RFLAConfig", ["ultralytics", "cv2", "matplotlib"]),
    ],
)
def test_imports_no_more_than_it_needs(name, absent):
    code = f"import sys; from rfla_yolo import {name}; print([m for m in {absent} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names():
    for name in rfla_yolo.__all__:
        assert getattr(rfla_yolo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rfla_yolo.nothing  # noqa: B018
