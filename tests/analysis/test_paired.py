"""Differences between two settings, on assignments made by hand."""

from __future__ import annotations

import pytest
import torch

from rfla_yolo.analysis.assignments import Assigned, Levels, Tally
from rfla_yolo.analysis.paired import differences
from rfla_yolo.engine.analysis import Sample

LEVELS = Levels((4.0, 8.0), (8.0, 16.0), (0, 15))
SIDE = 32  # 8 x 8 anchors of stride 4, then 4 x 4 of stride 8
BOX = [[9.0, 9.0, 15.0, 15.0]]  # 6 px; holds anchors 18 = (10, 10) and 27 = (14, 14) and of P3 none but 69 = (12, 12)
INSIDE, ALSO_INSIDE, COARSE, OUTSIDE = 18, 27, 69, 0


def tally(*objects: list[int], levels: Levels = LEVELS) -> Tally:
    """An image for every object, with these anchors as its positives."""
    found = Tally(levels)
    image = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    for anchors in objects:
        gt = torch.full((80,), -1)
        gt[anchors] = 0
        nothing = torch.zeros(1, dtype=torch.long)
        found.add(Sample(torch.tensor(BOX), nothing, image, ""), Assigned(gt, nothing, nothing, 0, nothing))
    return found


def told(before: Tally, after: Tally) -> dict[str, list[tuple[str, str]]]:
    found = differences(before, after)
    return {side: [(c["figure"], c.get("size") or c["level"]) for c in changes] for side, changes in found.items()}


def test_anchors_are_where_they_are_said_to_be():
    assert tally([INSIDE, ALSO_INSIDE, COARSE, OUTSIDE]).inside.tolist() == [False, True, True, True]


def test_one_more_lost_object_is_worse_and_five_fewer_are_better():
    good, lost = [INSIDE, COARSE], [OUTSIDE]
    many = [good] * 1000
    assert ("untrainable", "vt") in told(tally(*many), tally(*many[1:], lost))["worse"]
    for mended, better in ((4, False), (5, True)):  # by chance alone 4 of 4 go one way once in 16 times
        before = tally(*many, *[lost] * mended)
        assert (("untrainable", "vt") in told(before, tally(*many, *[good] * mended))["better"]) is better


def test_as_many_mended_as_lost_is_no_difference():
    before, after = [[INSIDE], []] * 50, [[], [INSIDE]] * 50
    assert told(tally(*before), tally(*after)) == {"better": [], "worse": []}


def test_fewer_and_better_anchors_are_no_gain_without_a_loss():
    """What ranking by reach alone recommended."""
    found = told(tally(*[[INSIDE, ALSO_INSIDE, OUTSIDE, COARSE]] * 100), tally(*[[INSIDE, COARSE]] * 100))
    assert found == {"better": [("reach", "vt")], "worse": [("positives", "vt")]}


def test_more_anchors_are_no_gain_by_themselves():
    assert told(tally(*[[INSIDE, COARSE]] * 100), tally(*[[INSIDE, ALSO_INSIDE, COARSE]] * 100))["better"] == []


def test_small_differences_do_not_count():
    many, some = [[INSIDE, ALSO_INSIDE, COARSE]] * 100, [[INSIDE, COARSE]] * 20  # 7 % fewer positives, same reach
    assert told(tally(*many), tally(*many[:-20], *some)) == {"better": [], "worse": []}
    outside = [[INSIDE, OUTSIDE, COARSE]]  # reach falls by 0.003
    assert told(tally(*many), tally(*many[1:], *outside)) == {"better": [], "worse": []}


@pytest.mark.parametrize("with_work", [2, 20])
def test_a_level_gains_work_where_it_can_be_seen(with_work):
    before = [[INSIDE, ALSO_INSIDE]] * 100
    after = [[INSIDE, COARSE]] * with_work + [[INSIDE, ALSO_INSIDE]] * (100 - with_work)
    assert told(tally(*before), tally(*after))["better"] == [("levels", "P3")] * (with_work == 20)
    if with_work == 20:
        assert told(tally(*after), tally(*before))["worse"] == [("levels", "P3")]


def test_values_are_totals_and_means():
    found = differences(tally([INSIDE], [INSIDE]), tally([INSIDE], []))
    lost = [change for change in found["worse"] if change["figure"] == "missed"]
    assert lost == [{"figure": "missed", "size": "vt", "before": 0.0, "after": 1.0}]
