"""The page of an evaluation: complete, self-contained, and its marks those of the threshold."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest

from rfla_yolo import compare, evaluate
from rfla_yolo.evaluation import write_comparison, write_page
from rfla_yolo.evaluation.pages import _densest, _marks, _size_figure

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


def test_every_object_has_one_bar_and_only_bars_have_points():
    """Objects on the border of two bins, above all bins, and inside of one."""
    truth = [[10, 10, 8, 8], [30, 30, 16, 16], [100, 100, 300, 300], [50, 50, 9, 9]]
    found = [([10, 10, 8, 8], 0.9), ([31, 30, 16, 16], 0.8), ([100, 100, 300, 300], 0.7)]
    figure = _size_figure(evaluate(*box_set(truth, found)))
    top, bottom = figure.axes
    titles = [label.get_text() for label in bottom.get_xticklabels()]
    bars = {title: bar.get_height() for title, bar in zip(titles, bottom.patches) if bar.get_height()}
    assert bars == {"8-10": 2, "16-20": 1, "128+": 1}
    recall, *_ = top.lines
    points = {title: value for title, value in zip(titles, recall.get_ydata()) if np.isfinite(value)}
    assert points == {"8-10": 50, "16-20": 100, "128+": 100}


def test_undefined_is_no_minus(tmp_path):
    """One object: no figure of another size is defined."""
    gt, dt = box_set([[0, 0, 5, 5]], [([0, 0, 5, 5], 0.5)])
    gt["images"].append({"id": 2, "file_name": "b.png"})
    page = write_page(evaluate(gt, dt), tmp_path / "evaluation").read_text()
    comparison = compare(dt, dt, gt)
    page += write_comparison(comparison, tmp_path / "comparison").read_text()
    assert "<td>n/a</td>" in page
    assert "<td>-</td>" not in page
    assert not re.search(r"\s-\s", comparison.table())


@pytest.mark.filterwarnings("error")
def test_nothing_to_show(tmp_path):
    assert "0 objects" in write_page(evaluate(*box_set([], [])), tmp_path).read_text()


def test_scores_that_are_no_probabilities(tmp_path):
    """In percent: a sentence in place of the picture."""
    page = write_page(evaluate(*box_set([[1, 1, 5, 5]], [([1, 1, 5, 5], 90)])), tmp_path).read_text()
    assert "scores lie outside of 0 to 1, so they are no probabilities" in page
    assert "calibration.png" not in page


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
    left, top = _densest(np.array([[12.0, 12], [502, 502], [522, 512]]), 800, 800)
    assert left <= 502 and left + 128 >= 522 and top <= 502 and top + 128 >= 512
