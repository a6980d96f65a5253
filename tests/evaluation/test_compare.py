"""The bootstrap against literal evaluation of the drawn images."""

from __future__ import annotations

import numpy as np
import pytest

from rfla_yolo import evaluate
from rfla_yolo.evaluation import compare
from rfla_yolo.evaluation.compare import resample

from .test_coco import GOLDEN, load


@pytest.fixture(scope="module")
def sparse():
    """The golden case with distinct scores: copies of an image would reorder detections of equal score."""
    gt, dt = load("sparse", "gt"), load("sparse", "dt")
    rng = np.random.default_rng(0)
    return gt, [{**d, "score": d["score"] + 1e-9 * rng.random()} for d in dt]


def drawn(gt, dt, times):
    """The set in which image i occurs times[i] times."""
    images, annotations, detections = [], [], []
    for i, image in enumerate(sorted(gt["images"], key=lambda image: image["id"])):
        for _ in range(int(times[i])):
            new = len(images) + 1
            images.append({"id": new, "file_name": f"{new}.png"})
            annotations += [{**a, "image_id": new} for a in gt["annotations"] if a["image_id"] == image["id"]]
            detections += [{**d, "image_id": new} for d in dt if d["image_id"] == image["id"]]
    annotations = [{**a, "id": n} for n, a in enumerate(annotations, 1)]
    return {"images": images, "annotations": annotations, "categories": gt["categories"]}, detections


def test_every_figure_of_a_resample_is_that_of_the_drawn_images(sparse):
    gt, dt = sparse
    count = len(gt["images"])
    draws = np.random.default_rng(1).multinomial(count, np.full(count, 1 / count), size=3).T.astype(np.float32)
    draws = np.concatenate((np.ones((count, 1), np.float32), draws), 1)
    got = resample(evaluate(gt, dt).matching, np.arange(count), draws)
    for r in range(draws.shape[1]):
        expected = evaluate(*drawn(gt, dt, draws[:, r])).metrics
        for name, values in got.items():
            assert values[r] == pytest.approx(expected[name], abs=2e-6), (name, r)


def test_groups_are_drawn_together(sparse):
    gt, dt = sparse
    count = len(gt["images"])
    unit_of = np.arange(count) // 10
    draws = np.array([[2, 0, 1, 0, 3, 1]], dtype=np.float32).T[: unit_of.max() + 1]
    got = resample(evaluate(gt, dt).matching, unit_of, draws)
    expected = evaluate(*drawn(gt, dt, draws[unit_of, 0])).metrics
    assert got["AP"][0] == pytest.approx(expected["AP"], abs=2e-6)


def test_olrp_of_a_resample_never_parts_equal_scores(sparse):
    gt, dt = sparse
    dt = [{**d, "score": round(d["score"], 1)} for d in dt]
    count = len(gt["images"])
    draws = np.random.default_rng(2).multinomial(count, np.full(count, 1 / count), size=3).T
    got = resample(evaluate(gt, dt).matching, np.arange(count), draws)["oLRP"]
    for r in range(draws.shape[1]):
        assert got[r] == pytest.approx(evaluate(*drawn(gt, dt, draws[:, r]))["oLRP"], abs=2e-6)


class TestCompare:
    def test_a_model_with_itself(self):
        result = compare(GOLDEN / "mid_dt.json", GOLDEN / "mid_dt.json", GOLDEN / "mid_gt.json", resamples=50)
        for difference in result.figures.values():
            assert (difference.difference, difference.low, difference.high, difference.sign) == (0, 0, 0, "0")

    def test_a_better_model_is_seen(self, sparse):
        """Half of the detections of the second model are gone."""
        gt, dt = sparse
        result = compare(dt[::2], dt, gt, resamples=200)
        figure = result["AR100"]
        assert figure.sign == "+"
        assert figure.low < figure.difference < figure.high
        assert figure.first == pytest.approx(evaluate(gt, dt[::2])["AR100"])
        assert compare(dt, dt[::2], gt, resamples=200)["AR100"].sign == "-"

    def test_no_detections_at_all(self, sparse):
        gt, dt = sparse
        result = compare([], dt, gt, resamples=20)
        assert (result.runs, result["AP"].first, result["AP"].sign) == ((1, 1), 0, "+")
        with pytest.raises(ValueError, match="predictions: expected a list of detections, found dict"):
            compare(gt, dt, gt)

    def test_same_seed_same_interval(self, sparse):
        gt, dt = sparse
        runs = [compare(dt[::2], dt, gt, resamples=50, seed=s)["AP50"] for s in (3, 3, 4)]
        assert runs[0] == runs[1] != runs[2]

    def test_several_runs(self, sparse):
        """Runs are drawn too: the interval is wider than that of either run alone."""
        gt, dt = sparse
        good, bad = dt, dt[::3]
        both = compare([good, bad], [good, bad], gt, resamples=300)
        assert both.runs == (2, 2)
        assert both["AR100"].difference == 0
        assert both["AR100"].high - both["AR100"].low > 0.05
        mean = (evaluate(gt, good)["AP"] + evaluate(gt, bad)["AP"]) / 2
        assert both["AP"].first == pytest.approx(mean)

    def test_groups_by_file_name(self, sparse):
        gt, dt = sparse
        named = {
            **gt,
            "images": [{**im, "file_name": f"flight{i % 4}_{i:03d}.png"} for i, im in enumerate(gt["images"])],
        }
        assert compare(dt, dt, named, groups=r"flight(\d)", resamples=10).units == 4
        assert compare(dt, dt, named, resamples=10).units == len(gt["images"])
        with pytest.raises(ValueError, match="matches nothing in file name"):
            compare(dt, dt, named, groups="ship")
        with pytest.raises(ValueError, match="puts all images into one group"):
            compare(dt, dt, named, groups="flight")

    def test_table(self, sparse):
        gt, dt = sparse
        text = compare(dt[::2], dt, gt, resamples=20).table()
        assert "paired bootstrap: 60 units, 20 resamples, seed 0, runs 1 and 1" in text
        assert "APvt" in text
