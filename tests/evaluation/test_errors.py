"""The error breakdown on scenes where every error is known, and its bookkeeping on the golden cases."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from tidecv import TIDE, Data
from tidecv.errors.main_errors import (
    BackgroundError,
    BoxError,
    ClassError,
    DuplicateError,
    MissedError,
    OtherError,
)

from rfla_yolo import evaluate
from rfla_yolo.evaluation import AITOD_AREAS
from rfla_yolo.evaluation.errors import KINDS

from .test_coco import EXPECTED, GOLDEN, load

SHIP, CAR = 1, 2


def scene(truth, found):
    """Objects and detections as (category, box[, score]) in one image."""
    gt = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": i, "image_id": 1, "category_id": c, "bbox": b} for i, (c, b) in enumerate(truth, 1)],
        "categories": [{"id": SHIP, "name": "ship"}, {"id": CAR, "name": "car"}],
    }
    return gt, [{"image_id": 1, "category_id": c, "bbox": b, "score": s} for c, b, s in found]


def breakdown(truth, found):
    result = evaluate(*scene(truth, found))
    return result, {
        kind: (row["all"]["count"], pytest.approx(row["all"]["dAP50"])) for kind, row in result.errors.items()
    }


A, B = [10, 10, 10, 10], [50, 50, 20, 20]
NOTHING = dict.fromkeys(("classification", "localisation", "both", "duplicate", "background", "missed"), (0, 0.0))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([(SHIP, A, 0.9), (SHIP, B, 0.8)], {}),
        ([(SHIP, A, 0.9)], {"missed": (1, 1 - 51 / 101)}),
        # the box of B is off: mended, it is found
        ([(SHIP, A, 0.9), (SHIP, [50, 50, 20, 8], 0.8)], {"localisation": (1, 1 - 51 / 101)}),
        # B is found as a car: mended, it is a ship
        ([(SHIP, A, 0.9), (CAR, B, 0.8)], {"classification": (1, 1 - 51 / 101)}),
        # a second box on A before B is found: precision 2/3 in the second half
        ([(SHIP, A, 0.9), (SHIP, [10, 10, 10, 9], 0.85), (SHIP, B, 0.8)], {"duplicate": (1, 50 / 101 / 3)}),
        ([(SHIP, A, 0.9), (SHIP, [80, 5, 9, 9], 0.85), (SHIP, B, 0.8)], {"background": (1, 50 / 101 / 3)}),
        # off and of the wrong class; the class has no objects, so its cost is none; B is missed
        ([(SHIP, A, 0.9), (CAR, [50, 50, 20, 8], 0.8)], {"both": (1, 0.0), "missed": (1, 1 - 51 / 101)}),
    ],
)
def test_every_kind(found, expected):
    _, errors = breakdown([(SHIP, A), (SHIP, B)], found)
    assert errors == {**NOTHING, **expected}


def test_only_the_best_of_several_mends_an_object():
    found = [(SHIP, A, 0.9), (SHIP, [50, 50, 20, 8], 0.8), (SHIP, [50, 60, 20, 8], 0.7)]
    _, errors = breakdown([(SHIP, A), (SHIP, B)], found)
    assert errors["localisation"] == (2, 1 - 51 / 101)
    assert errors["missed"] == (0, 0.0)


def test_size_is_that_of_the_object_or_else_the_detection():
    found = [(SHIP, [10, 10, 10, 4], 0.9), (SHIP, [80, 80, 3, 3], 0.8)]
    result, _ = breakdown([(SHIP, A), (SHIP, B)], found)
    count = {kind: {size: v["count"] for size, v in row.items()} for kind, row in result.errors.items()}
    assert count["localisation"] == {"all": 1, "vt": 0, "t": 1, "s": 0, "m": 0}  # A has 10 px
    assert count["background"] == {"all": 1, "vt": 1, "t": 0, "s": 0, "m": 0}  # 3 px
    assert count["missed"] == {"all": 1, "vt": 0, "t": 0, "s": 1, "m": 0}  # B has 20 px


def test_only_the_better_of_two_kinds_mends_an_object():
    """B is found as a car at 0.8 and as a ship, but off, at 0.7: mending the boxes alone brings nothing."""
    found = [(SHIP, A, 0.9), (CAR, B, 0.8), (SHIP, [50, 50, 20, 8], 0.7)]
    _, errors = breakdown([(SHIP, A), (SHIP, B)], found)
    assert errors == {**NOTHING, "classification": (1, 1 - 51 / 101), "localisation": (1, 0.0)}


@pytest.mark.parametrize(("found", "gain"), [([], 0.5), ([(CAR, [80, 80, 9, 9], 0.7)], 0.0)])
def test_a_class_of_which_all_is_missed(found, gain):
    """With false positives it stays in the mean, with an AP of 0; without any detection it leaves."""
    _, errors = breakdown([(SHIP, A), (CAR, B)], [(SHIP, A, 0.9), *found])
    assert errors["missed"] == (1, gain)


@pytest.mark.parametrize("case", EXPECTED)
def test_every_false_positive_has_one_kind(case):
    result = evaluate(GOLDEN / f"{case}_gt.json", GOLDEN / f"{case}_dt.json")
    classes = result.matching.classes.values()
    false = sum(int((m.counts[0, 1] & ~m.hit[0, 1]).sum()) for m in classes)
    kinds = [result.errors[kind]["all"]["count"] for kind in result.errors if kind != "missed"]
    assert sum(kinds) == false
    for row in result.errors.values():
        assert row["all"]["dAP50"] >= -1e-12


def coco_ap(points, objects):
    """AP of one class from (score, hit, ...) by COCO's steps; TIDE rounds its 101 recalls in another way."""
    hits = np.array([hit for _, hit, *_ in sorted(points, key=lambda point: -point[0])], dtype=bool)
    if not objects:
        return 0.0
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)
    return envelope[np.searchsorted(hits.cumsum() / objects, np.linspace(0, 1, 101))].mean()


def tide(gt, dt):
    """Count and cost of every kind of error and size by tidecv, over the classes with objects, as COCO's mean."""
    truth, found = Data("gt", max_dets=10**6), Data("dt", max_dets=10**6)
    for image in gt["images"]:
        truth.add_image(image["id"], "")
    for a in gt["annotations"]:
        truth.add_ground_truth(a["image_id"], a["category_id"], a["bbox"])
    for d in dt:
        found.add_detection(d["image_id"], d["category_id"], d["score"], d["bbox"])
    run = TIDE().evaluate(truth, found, mode=TIDE.BOX)
    classes = {a["category_id"] for a in gt["annotations"]}

    def mean(data):
        kept = [v for k, v in data.objs.items() if k in classes and not v.is_empty()]
        return np.mean([coco_ap(v.data_points.values(), v.num_gt_positives) for v in kept]) if kept else 0.0

    def area(error):
        box = error.gt["bbox"] if hasattr(error, "gt") else error.pred["bbox"]
        return box[2] * box[3]

    kinds = [ClassError, BoxError, OtherError, DuplicateError, BackgroundError, MissedError]
    result = {}
    for name, kind in zip(KINDS, kinds):
        for size, (low, high) in AITOD_AREAS.items():
            chosen = {id(e) for e in run.error_dict[kind] if low <= area(e) <= high}
            mended = mean(run.fix_errors(lambda error, chosen=chosen: id(error) in chosen))
            result[name, size] = len(chosen), mended - mean(run.ap_data)
    return result


def assert_as_tide(gt, dt):
    errors = evaluate(gt, dt).errors
    for (name, size), (count, gain) in tide(gt, dt).items():
        if name != "duplicate" or size == "all":  # to TIDE it has its own size, here that of the object
            found = errors[name][size]
            assert (found["count"], found["dAP50"]) == (count, pytest.approx(gain, abs=1e-12)), (name, size)


@pytest.mark.parametrize("seed", range(60))
def test_as_tide_on_random_scenes(seed):
    """Three images, four classes, the last without objects; boxes near the objects, distinct scores."""
    rng = np.random.default_rng(seed)
    objects, detections = int(rng.integers(1, 25)), int(rng.integers(1, 80))
    truth = np.column_stack((rng.integers(0, 60, (objects, 2)), rng.integers(6, 20, (objects, 2))))
    places, labels = rng.integers(1, 4, objects), rng.integers(1, 4, objects)
    near = rng.integers(objects, size=detections)
    boxes = truth[near] + rng.integers(-5, 6, (detections, 4))
    classes = np.where(rng.random(detections) < 0.7, labels[near], rng.integers(1, 5, detections))
    scores = rng.permutation(detections) / detections
    gt = {
        "images": [{"id": i} for i in (1, 2, 3)],
        "annotations": [
            {"id": i, "image_id": p, "category_id": c, "bbox": b}
            for i, (p, c, b) in enumerate(zip(places.tolist(), labels.tolist(), truth.tolist()), 1)
        ],
        "categories": [{"id": i, "name": f"c{i}"} for i in (1, 2, 3, 4)],
    }
    columns = zip(places[near].tolist(), classes.tolist(), boxes.tolist(), scores.tolist())
    dt = [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in columns]
    assert_as_tide(gt, dt)


@pytest.mark.parametrize("case", EXPECTED)
def test_as_tide_on_the_golden_cases(case):
    """Without crowd boxes, whose detections TIDE counts; scores are made distinct, as each tool orders equal ones."""
    gt, dt = load(case, "gt"), load(case, "dt")
    gt["annotations"] = [a for a in gt["annotations"] if not a["iscrowd"]]
    rng = np.random.default_rng(0)
    dt = [{**d, "score": d["score"] + 1e-6 * rng.random()} for d in dt]
    kept: dict = defaultdict(list)  # TIDE has one limit for all classes of an image
    for d in sorted(dt, key=lambda d: -d["score"]):
        kept[d["image_id"], d["category_id"]].append(d)
    assert_as_tide(gt, [d for found in kept.values() for d in found[:1500]])


def test_nothing_at_all():
    _, errors = breakdown([], [])
    assert errors == NOTHING
