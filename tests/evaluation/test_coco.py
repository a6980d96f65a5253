"""The AI-TOD figures against those of the official tool, and input that cannot be evaluated."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from rfla_yolo import evaluate

GOLDEN = Path(__file__).parent / "aitod-eval"  # figures of cocoapi-aitod 12.0.3, see its README
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


def load(case, kind):
    return json.loads((GOLDEN / f"{case}_{kind}.json").read_text())


@pytest.mark.parametrize("case", EXPECTED)
def test_equals_the_official_tool(case):
    result = evaluate(GOLDEN / f"{case}_gt.json", GOLDEN / f"{case}_dt.json")
    assert set(result.metrics) == {*EXPECTED[case], "AP25"}
    for name, expected in EXPECTED[case].items():
        assert result[name] == (None if expected is None else pytest.approx(expected, abs=1e-9)), name


def test_loaded_data_gives_the_same_and_stays_as_it_was():
    gt, dt = load("single", "gt"), load("single", "dt")
    before = copy.deepcopy((gt, dt))
    assert evaluate(gt, dt) == evaluate(GOLDEN / "single_gt.json", GOLDEN / "single_dt.json")
    assert (gt, dt) == before


def box_set(truth, found):
    """One image of one class."""
    images, categories = [{"id": 1, "file_name": "a.png"}], [{"id": 1, "name": "ship"}]
    annotations = [{"id": i, "image_id": 1, "category_id": 1, "bbox": b} for i, b in enumerate(truth, 1)]
    gt = {"images": images, "annotations": annotations, "categories": categories}
    return gt, [{"image_id": 1, "category_id": 1, "bbox": b, "score": s} for b, s in found]


def test_worked_by_hand():
    """Two objects of 4 and 12 px; the tiny one found exactly, the other at IoU 0.5 and so below AP75."""
    result = evaluate(*box_set([[10, 10, 4, 4], [30, 30, 12, 12]], [([10, 10, 4, 4], 0.9), ([30, 30, 12, 6], 0.8)]))
    assert result["AP50"] == pytest.approx(1)
    assert result["APvt"] == pytest.approx(1)
    assert result["AP75"] == pytest.approx(51 / 101)  # recall 0.5: 51 of COCO's 101 points
    assert result["APt"] == pytest.approx(0.1)  # one of the ten thresholds
    assert result["APs"] is None
    assert result["oLRP"] == pytest.approx(0.5)  # at 0.9: one found exactly, one missed; no better at 0.8
    assert result.per_class["ship"] == {**result.metrics, "threshold": 0.9}
    assert (len(result.images), result.num_objects, result.num_detections) == (1, 2, 2)


def test_ap25():
    result = evaluate(*box_set([[0, 0, 10, 10]], [([0, 0, 10, 3], 0.5)]))
    assert (result["AP25"], result["AP50"]) == (pytest.approx(1), 0)


@pytest.mark.parametrize(("truth", "expected"), [([], None), ([[1, 1, 5, 5]], 0.0)])
def test_no_detections(truth, expected):
    assert evaluate(*box_set(truth, []))["AP"] == expected


def test_some_images_only():
    gt, dt = load("sparse", "gt"), load("sparse", "dt")
    ids = [image["id"] for image in gt["images"]][:10]
    inside = {
        "images": [i for i in gt["images"] if i["id"] in ids],
        "annotations": [a for a in gt["annotations"] if a["image_id"] in ids],
        "categories": gt["categories"],
    }
    assert evaluate(gt, dt, ids) == evaluate(inside, [d for d in dt if d["image_id"] in ids])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, "predictions, entry 0: image_id 99 is none of the images 1"),
        ({"category_id": 9}, r"entry 0: category_id 9 is none of the categories 1"),
        ({"bbox": [0, 0, float("nan"), 1]}, r"entry 0: bbox \[0, 0, nan, 1\] is not"),
        ({"bbox": [0, 0, -2, 1]}, r"entry 0: bbox \[0, 0, -2, 1\] is not"),
        ({"bbox": [0, 0, 2]}, r"entry 0: bbox \[0, 0, 2\] is not"),
        ({"score": float("nan")}, "entry 0: score nan is not a finite number"),
    ],
)
def test_bad_detections_are_named(change, message):
    gt, dt = box_set([[0, 0, 5, 5]], [([0, 0, 5, 5], 0.5)])
    with pytest.raises(ValueError, match=message):
        evaluate(gt, [{**dt[0], **change}])


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="annotations: no such file"):
        evaluate(tmp_path / "gone.json", [])
    (tmp_path / "text.json").write_text("no")
    with pytest.raises(ValueError, match=r"text\.json is no JSON"):
        evaluate(tmp_path / "text.json", [])
    with pytest.raises(ValueError, match="annotations: expected COCO with images"):
        evaluate({"images": []}, [])
