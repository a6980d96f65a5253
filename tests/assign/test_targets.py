"""Class targets and box weights."""

from __future__ import annotations

import pytest
import torch

from rfla_yolo.assign import hard_targets, tal_targets

ASSIGNED = torch.tensor([[0, 0, 1, -1, 1, -1]])


def test_hard_targets_need_no_predictions():
    def predictions():
        raise AssertionError("hard targets must not compute overlaps")

    assert hard_targets(ASSIGNED, 2, predictions).tolist() == [[1, 1, 1, 0, 1, 0]]


def test_tal_targets_against_loops():
    torch.manual_seed(0)
    score, overlap = torch.rand(1, 6), torch.rand(1, 6)
    got = tal_targets(ASSIGNED, 2, lambda: (score, overlap))[0]
    for gt in (0, 1):
        mine = [a for a in range(6) if ASSIGNED[0, a] == gt]
        align = {a: float(score[0, a] ** 0.5 * overlap[0, a] ** 6) for a in mine}
        best = max(float(overlap[0, a]) for a in mine)
        for a in mine:
            assert got[a].item() == pytest.approx(align[a] * best / (max(align.values()) + 1e-9), rel=1e-5)
    assert got[[3, 5]].tolist() == [0, 0]
