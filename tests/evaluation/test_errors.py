"""The error breakdown on scenes where every error is known, and its bookkeeping on the golden cases."""

from __future__ import annotations

import pytest

from rfla_yolo import evaluate

from .test_coco import EXPECTED, GOLDEN

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


@pytest.mark.parametrize("case", EXPECTED)
def test_every_false_positive_has_one_kind(case):
    result = evaluate(GOLDEN / f"{case}_gt.json", GOLDEN / f"{case}_dt.json")
    classes = result.matching.classes.values()
    false = sum(int((m.counts[0, 1] & ~m.hit[0, 1]).sum()) for m in classes)
    kinds = [result.errors[kind]["all"]["count"] for kind in result.errors if kind != "missed"]
    assert sum(kinds) == false
    for row in result.errors.values():
        assert row["all"]["dAP50"] >= -1e-12


def test_nothing_at_all():
    _, errors = breakdown([], [])
    assert errors == NOTHING
