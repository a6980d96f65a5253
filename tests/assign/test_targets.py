"""Class targets and box weights."""

from __future__ import annotations

import pytest
import torch

from rfla_yolo.assign import hard_targets, tal_targets

OBJECTS = torch.tensor([0, 0, 1, 3, 1])  # the object of each positive; object 2 has none


def test_hard_targets_need_no_predictions():
    def predictions():
        raise AssertionError("hard targets must not compute overlaps")

    assert hard_targets(OBJECTS, 4, predictions).tolist() == [1.0] * 5


def test_tal_targets_against_loops():
    torch.manual_seed(0)
    score, overlap = torch.rand(5), torch.rand(5)
    got = tal_targets(OBJECTS, 4, lambda: (score, overlap))
    for number in (0, 1, 3):
        mine = [p for p in range(5) if OBJECTS[p] == number]
        align = {p: float(score[p] ** 0.5 * overlap[p] ** 6) for p in mine}
        best = max(float(overlap[p]) for p in mine)
        for p in mine:
            assert got[p].item() == pytest.approx(align[p] * best / (max(align.values()) + 1e-9), rel=1e-5)


def test_no_positive_at_all():
    none = torch.zeros(0)
    assert tal_targets(none.long(), 4, lambda: (none, none)).shape == (0,)
