"""Detections kept beside a result come back as they were, and the report takes its intervals from them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import accuracy_report
from benchmarks.detections import keep, keep_truth, kept, kept_truth
from rfla_yolo import compare, evaluate

GROUND_TRUTH = {
    "images": [{"id": i, "file_name": f"0_{i % 5}_{i}.png"} for i in range(1, 21)],
    "categories": [{"id": 0, "name": "car"}],
    "annotations": [
        {"id": i, "image_id": i, "category_id": 0, "bbox": [3 * i, 10, 6, 6 + i], "area": 36 + 6 * i, "iscrowd": 0}
        for i in range(1, 21)
    ],
}


def found(seed):
    """Each object, displaced and scored by chance, and a detection below the limit."""
    rng = np.random.default_rng(seed)
    boxes = [(np.array(a["bbox"]) + rng.normal(0, 0.5, 4)).round(4).tolist() for a in GROUND_TRUTH["annotations"]]
    rows = [
        {"image_id": i, "category_id": 0, "bbox": box, "score": round(float(rng.uniform(0.1, 1)), 7)}
        for i, box in enumerate(boxes, 1)
    ]
    return [*rows, {"image_id": 3, "category_id": 0, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.01}]


def test_detections_come_back(tmp_path):
    detections = found(0)
    keep(tmp_path / "run.npz", detections)
    again = kept(tmp_path / "run.npz")
    assert len(again) == len(detections) - 1
    for new, old in zip(again, detections):
        assert (new["image_id"], new["category_id"]) == (old["image_id"], old["category_id"])
        assert new["bbox"] == pytest.approx(old["bbox"], abs=0.0051)
        assert new["score"] == pytest.approx(old["score"], abs=5.1e-6)
    assert evaluate(GROUND_TRUTH, again)["AP"] == pytest.approx(evaluate(GROUND_TRUTH, detections)["AP"], abs=0.01)


@pytest.mark.parametrize("image_id", [7, "a.png"])
def test_images_by_id_or_by_name(tmp_path, image_id):
    keep(tmp_path / "run.npz", [{"image_id": image_id, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}])
    assert kept(tmp_path / "run.npz")[0]["image_id"] == image_id


def test_none_at_all(tmp_path):
    keep(tmp_path / "run.npz", [])
    assert kept(tmp_path / "run.npz") == []


def test_a_detection_takes_few_bytes(tmp_path):
    rng = np.random.default_rng(0)
    many = [
        {"image_id": i // 100, "category_id": 0, "bbox": rng.uniform(0, 320, 4).tolist(), "score": rng.uniform(0.02, 1)}
        for i in range(10_000)
    ]
    keep(tmp_path / "run.npz", many)
    assert (tmp_path / "run.npz").stat().st_size < 15 * len(many)


def test_truth_is_kept_once(tmp_path):
    file = tmp_path / "confirm.json.gz"
    keep_truth(file, GROUND_TRUTH)
    keep_truth(file, GROUND_TRUTH)
    assert kept_truth(file) == GROUND_TRUTH
    with pytest.raises(ValueError, match="holds another ground truth"):
        keep_truth(file, {**GROUND_TRUTH, "images": []})


STORED = {"seeds": [3, 4], "units": 4, "figures": {"AP": {"difference": 0.1, "low": 0.0, "high": 0.2}}}


class TestReport:
    def runs(self, folder, arm, seeds=(3, 4)):
        return {seed: {"seed": seed, "split": "confirm", "file": folder / f"{arm}-{seed}.json"} for seed in seeds}

    def test_interval_is_that_of_the_kept_detections(self, tmp_path):
        keep_truth(tmp_path / "confirm.json.gz", GROUND_TRUTH)
        for arm in ("tal", "rfla"):
            for seed in (3, 4):
                keep(tmp_path / f"{arm}-{seed}.npz", found(seed + 10 * (arm == "tal")))
        sides = [self.runs(tmp_path, arm) for arm in ("rfla", "tal")]
        (row,) = accuracy_report.differences(*sides, [], [STORED])
        expected = compare(
            *([kept(tmp_path / f"{arm}-{seed}.npz") for seed in (3, 4)] for arm in ("tal", "rfla")),
            GROUND_TRUTH,
            groups=accuracy_report.FLIGHT,
        )
        assert (row["method"], row["units"], row["seeds"]) == (accuracy_report.METHOD, 5, [3, 4])
        assert row["figures"]["AP"] == vars(expected["AP"])

    def test_where_they_were_not_kept_the_stored_interval_stays_and_is_marked(self, tmp_path):
        sides = [self.runs(tmp_path, arm) for arm in ("rfla", "tal")]
        (row,) = accuracy_report.differences(*sides, [], [STORED])
        assert row == {**STORED, "method": accuracy_report.FORMER}
        assert accuracy_report.differences(*sides, [], []) == []

    def test_a_class_of_few_objects_does_not_count_in_the_mean_of_a_size(self, tmp_path):
        objects = [
            {"id": i + 1, "image_id": i + 1, "category_id": int(i < 2), "bbox": [4.0, 4.0, 6.0, 6.0]} for i in range(62)
        ]
        truth = {
            "images": [{"id": i + 1, "file_name": f"0_{i % 5}_{i}.png"} for i in range(62)],
            "categories": [{"id": 0, "name": "person"}, {"id": 1, "name": "car"}],
            "annotations": objects,
        }
        detections = [
            {"image_id": o["image_id"], "category_id": 0, "bbox": [4.0, 4.0, 6.0, 3.6], "score": 0.9}
            for o in objects[2:]
        ]  # every person at IoU 0.6, no car
        keep_truth(tmp_path / "confirm.json.gz", truth)
        keep(tmp_path / "tal-3.npz", detections)
        run = self.runs(tmp_path, "tal")[3]
        figures = accuracy_report.sharper(run, truth)
        assert evaluate(truth, detections)["APvt"] == pytest.approx(0.15, abs=0.01)  # the two cars weigh as 60 persons
        assert figures["APvt"] == pytest.approx(0.3, abs=0.01)
        assert np.isnan(figures["APt"])
        assert [figures[f"person, below 8 px, {n}"] for n in ("AP25", "AP50", "AP75")] == pytest.approx(
            [1, 1, 0], abs=0.01
        )
        better = [
            {"image_id": o["image_id"], "category_id": o["category_id"], "bbox": [4.0, 4.0, 6.0, 6.0], "score": 0.9}
            for o in objects[2:] + objects[:1]
        ]  # every person as it is, and one of the cars
        keep(tmp_path / "rfla-3.npz", better)
        files = [[tmp_path / f"{arm}-3.npz"] for arm in ("rfla", "tal")]
        differences = accuracy_report.counted_differences(*files, truth, accuracy_report.FLIGHT)
        assert set(differences) == {"AP", "APvt"}  # no class has 50 objects of another size
        assert differences["APvt"]["second"] == pytest.approx(1, abs=0.01)
        assert differences["APvt"]["difference"] == pytest.approx(0.7, abs=0.01)
        assert differences["AP"]["difference"] == pytest.approx(0.7 / 2 + 0.5 / 2, abs=0.01)
