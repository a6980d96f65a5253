"""oLRP, sizes and calibration against literal loops; inputs by file name; area ranges."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from rfla_yolo import evaluate
from rfla_yolo.evaluation.coco import resolve_areas

from .test_coco import GOLDEN, box_set, load


def found_and_missed(gt, dt):
    """Greedy matching at IoU 0.5 for sets without crowd: (score, IoU or 0) by detection, and the number of objects."""

    def iou(a, b):
        w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
        h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
        common = max(w, 0) * max(h, 0)
        return common / (a[2] * a[3] + b[2] * b[3] - common)

    free = [dict(a) for a in gt["annotations"]]
    hits = []
    for d in sorted(dt, key=lambda d: -d["score"]):
        same = [a for a in free if (a["image_id"], a["category_id"]) == (d["image_id"], d["category_id"])]
        best = max(same, key=lambda a: iou(a["bbox"], d["bbox"]), default=None)
        hit = best is not None and iou(best["bbox"], d["bbox"]) >= 0.5
        if hit:
            free.remove(best)
        hits.append((d["score"], iou(best["bbox"], d["bbox"]) if hit else 0.0))
    return hits, len(gt["annotations"])


@pytest.fixture
def plain():
    """The golden case "single" without crowd boxes and with distinct scores."""
    gt, dt = load("single", "gt"), load("single", "dt")
    gt["annotations"] = [a for a in gt["annotations"] if not a["iscrowd"]]
    return gt, [{**d, "score": 1 - (i + 0.5) / len(dt)} for i, d in enumerate(sorted(dt, key=lambda d: -d["score"]))]


def test_by_size_against_loops(plain):
    gt, dt = plain
    used = {a["category_id"] for a in gt["annotations"]}
    dt = [d for d in dt if d["category_id"] in used]
    hits, objects = found_and_missed(gt, dt)
    row = evaluate(gt, dt).by_size["all"]
    assert row["objects"] == objects
    assert row["recall"] == pytest.approx(sum(hit > 0 for _, hit in hits) / objects)
    best = (0.0, None, None)
    for n in range(1, len(hits) + 1):
        tp = sum(hit > 0 for _, hit in hits[:n])
        best = max(best, (2 * tp / (n + objects), hits[n - 1][0], n - tp), key=lambda row: row[0])
    assert row["best_f1"] == pytest.approx(best[0])
    assert row["score_at_best_f1"] == pytest.approx(best[1])
    assert row["false_positives_per_image"] == pytest.approx(best[2] / len(gt["images"]))


@pytest.mark.parametrize("seed", range(40))
def test_thresholds_never_part_equal_scores(seed):
    """OLRP and best F1 against a search of all score thresholds; few scores, so that many are equal."""
    rng = np.random.default_rng(seed)
    truth = np.column_stack((rng.integers(0, 60, (12, 2)), rng.integers(4, 12, (12, 2)))).tolist()
    shift = rng.integers(-2, 3, (30, 4)) * [1, 1, 0, 0]
    found = (np.array(truth)[rng.integers(0, 12, 30)] + shift).tolist()
    gt, dt = box_set(truth, [(box, score) for box, score in zip(found, rng.choice([0.2, 0.5, 0.7, 0.9], 30))])
    hits, objects = found_and_missed(gt, dt)
    rows = []
    for threshold in {score for score, _ in hits}:
        ious = [iou for score, iou in hits if score >= threshold]
        tp, fp = sum(iou > 0 for iou in ious), sum(iou == 0 for iou in ious)
        loc = sum(1 - iou for iou in ious if iou)
        lrp = (loc / 0.5 + fp + objects - tp) / (fp + objects)
        rows.append((lrp, threshold, 2 * tp / (tp + fp + objects), fp, tp))
    result = evaluate(gt, dt)
    lowest, best = min(rows, key=lambda row: (row[0], -row[1])), max(rows, key=lambda row: (row[2], row[1]))
    assert result["oLRP"] == pytest.approx(lowest[0])
    assert result["oLRP_fp"] == pytest.approx(lowest[3] / (lowest[3] + lowest[4]))
    assert result.per_class["ship"]["threshold"] == lowest[1]
    assert result.by_size["all"]["best_f1"] == pytest.approx(best[2])
    assert result.by_size["all"]["score_at_best_f1"] == best[1]
    assert result.by_size["all"]["false_positives_per_image"] == best[3]


def test_calibration_against_loops(plain):
    gt, dt = plain
    used = {a["category_id"] for a in gt["annotations"]}
    hits, _ = found_and_missed(gt, [d for d in dt if d["category_id"] in used])
    hits += [(d["score"], 0.0) for d in dt if d["category_id"] not in used]
    expected = 0.0
    for b in range(15):
        inside = [(s, h) for s, h in hits if b / 15 <= s < (b + 1) / 15]
        if inside:
            gap = sum(h > 0 for _, h in inside) / len(inside) - sum(s for s, _ in inside) / len(inside)
            expected += len(inside) / len(hits) * abs(gap)
    result = evaluate(gt, dt).calibration
    assert result["ece"] == pytest.approx(expected)
    assert sum(result["count"]) == len(hits)


@pytest.mark.parametrize("score", [90, -3.0])
def test_scores_that_are_no_probabilities_have_no_calibration(score):
    """90 for 90 %, or a logit: the ranking alone counts, and a score says nothing of precision."""
    truth = [[10, 10, 4, 4], [30, 30, 9, 9]]
    result = evaluate(*box_set(truth, [(truth[0], score), (truth[1], 0.5)]))
    assert result.calibration == {"ece": None, "count": None, "score": None, "precision": None}
    assert result["AP"] == pytest.approx(1)


def test_perfect_detections():
    gt, _ = box_set([[10, 10, 4, 4], [30, 30, 40, 40]], [])
    dt = [{"image_id": 1, "category_id": 1, "bbox": a["bbox"], "score": 1.0} for a in gt["annotations"]]
    result = evaluate(gt, dt)
    assert (result["oLRP"], result["oLRP_loc"], result["oLRP_fp"], result["oLRP_fn"]) == (0, 0, 0, 0)
    assert result.calibration["ece"] == 0
    assert result.by_size["vt"] == {
        "objects": 1,
        "recall": 1.0,
        "best_f1": 1.0,
        "score_at_best_f1": 1.0,
        "false_positives_per_image": 0.0,
    }
    assert result.by_size["s"]["recall"] is None


def test_no_detection_is_an_error_of_one(caplog):
    with caplog.at_level(logging.WARNING, "rfla_yolo"):
        result = evaluate(*box_set([[1, 1, 5, 5]], []))
    assert result["oLRP"] == 1
    assert result["oLRP_loc"] is None
    assert "predictions: no detections at all" in caplog.text


def test_everything_is_plain_json():
    result = evaluate(GOLDEN / "single_gt.json", GOLDEN / "single_dt.json")
    assert json.loads(json.dumps(result.to_dict())) == result.to_dict()


class TestAreas:
    def test_coco(self):
        """An object of 40 px is small to none of COCO's ranges but medium."""
        result = evaluate(*box_set([[0, 0, 40, 40]], [([0, 0, 40, 40], 0.9)]), areas="coco")
        assert (result["APs"], result["APm"], result["APl"]) == (None, pytest.approx(1), None)

    def test_borders(self):
        result = evaluate(*box_set([[0, 0, 5, 5]], [([0, 0, 5, 5], 0.9)]), areas=[0, 4, 16])
        assert (result["AP0-4"], result["AP4-16"], result["AP16+"]) == (None, pytest.approx(1), None)

    @pytest.mark.parametrize(
        "bad", ["lvis", [8], [8, 4], [-1, 4], [0, 8, float("nan")], [0, 8, float("inf")], {"x": (5, 4)}, {"x": (5,)}]
    )
    def test_bad(self, bad):
        with pytest.raises(ValueError, match="areas must be"):
            resolve_areas(bad)

    @pytest.mark.parametrize("name", ["25", "50", "75", "1", "100", "1500"])
    def test_no_range_takes_the_place_of_another_figure(self, name):
        with pytest.raises(
            ValueError, match=f"areas must not be named like a figure, as AP50 and AR1 are; '{name}' is"
        ):
            resolve_areas({"vt": (0, 64), name: (0, 64)})
        assert list(resolve_areas({"all": (0, 9), "2": (0, 4)})) == ["all", "2"]

    @pytest.mark.parametrize(
        "bad", [None, 8, {"x": 8}, {"x": None}, {"x": ("0", "64")}, {"x": "04"}, [0, "8"], [0, True]]
    )
    def test_other_types(self, bad):
        with pytest.raises(TypeError, match="areas must be"):
            resolve_areas(bad)
