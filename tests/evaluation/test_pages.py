"""The page of an evaluation: complete, self-contained, and its marks those of the threshold."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest

from rfla_yolo import evaluate
from rfla_yolo.evaluation import write_page
from rfla_yolo.evaluation.pages import _densest, _marks

from .test_coco import GOLDEN, box_set


def test_page(tmp_path):
    result = evaluate(GOLDEN / "sparse_gt.json", GOLDEN / "sparse_dt.json")
    files = {}
    for image in result.images[:10]:
        files[image["id"]] = tmp_path / f"{image['id']}.png"
        cv2.imwrite(str(files[image["id"]]), np.full((800, 800), 90, np.uint8))
    page = write_page(result, tmp_path / "page", files).read_text()
    pictures = re.findall(r'src="([^"]+)"', page)
    assert pictures == ["size.png", "precision-recall.png", "errors.png", "calibration.png", "worst.png"]
    for name in pictures:
        assert cv2.imread(str(tmp_path / "page" / name)) is not None
    assert f"{100 * result['AP']:.1f}" in page
    assert "://" not in page


def test_needs_details():
    with pytest.raises(ValueError, match="needs an evaluation with details=True"):
        write_page(evaluate(*box_set([], []), details=False), "nowhere")


@pytest.mark.parametrize(("threshold", "found", "missed", "false"), [(0.95, 0, 2, 0), (0.75, 1, 1, 1), (0.1, 2, 0, 1)])
def test_marks_are_those_of_the_threshold(threshold, found, missed, false):
    truth = [[10, 10, 4, 4], [30, 30, 9, 9]]
    result = evaluate(*box_set(truth, [(truth[0], 0.9), ([60, 60, 5, 5], 0.8), (truth[1], 0.2)]))
    marks = _marks(result, threshold)[0]
    assert (len(marks["found"]), len(marks["missed"]), len(marks["false"])) == (found, missed, false)


def test_window_holds_the_most_boxes():
    boxes = np.array([[10.0, 10, 4, 4], [500, 500, 4, 4], [520, 510, 4, 4]])
    left, top = _densest(boxes, 800, 800)
    assert left <= 500 and left + 128 >= 524 and top <= 500 and top + 128 >= 514
