"""Positives per object by size: the counter against loops, and the columns of a run."""

from __future__ import annotations

import csv
import math

import pytest
import torch
from torch._subclasses import FakeTensorMode

from rfla_yolo import RFLAYOLO
from rfla_yolo.engine.positives import SIZES, count_positives

from .conftest import QUICK


def test_counts_are_those_of_loops():
    torch.manual_seed(0)
    corner = torch.rand(3, 7, 2) * 50
    boxes = torch.cat([corner, corner + torch.rand(3, 7, 2) * 45 + 1], -1)
    mask = torch.rand(3, 7, 1) > 0.3
    gt = torch.randint(0, 7, (3, 60))
    positive = (torch.rand(3, 60) > 0.6) & mask.squeeze(-1).gather(1, gt)
    counted = count_positives(boxes, mask.float(), positive, gt)
    expected = torch.zeros(4, 3)
    for image in range(3):
        for number in range(7):
            if mask[image, number]:
                x1, y1, x2, y2 = boxes[image, number].tolist()
                side = math.sqrt((x2 - x1) * (y2 - y1))
                row = [side <= border for border in SIZES.values()].index(True)
                own = int((positive[image] & (gt[image] == number)).sum())
                expected[row] += torch.tensor([1.0, own, own == 0])
    assert torch.equal(counted, expected)
    assert (expected.sum(1) > 0).sum() >= 3


@pytest.mark.parametrize("assigner", ["rfla", "tal"])
def test_results_csv_has_the_columns(tiny_set, tmp_path, assigner):
    RFLAYOLO("yolov8n-p2.yaml").train(
        data=str(tiny_set), project=str(tmp_path), name="run", assigner=assigner, mosaic=0.0, **QUICK
    )
    with (tmp_path / "run" / "results.csv").open() as file:
        rows = [{k.strip(): float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert len(rows) == QUICK["epochs"]
    for row in rows:
        columns = {f"assign/{figure}{size}" for figure in ("positives", "missed") for size in ("", *SIZES)}
        assert {name for name in row if name.startswith("assign/")} == columns
        assert row["assign/positives"] >= 2
        assert math.isnan(row["assign/positivesm"])  # no such object
        assert 0 <= row["assign/missed"] <= 0.3


def test_counting_waits_for_no_device():
    """Under fake tensors every read of a value raises."""
    with FakeTensorMode():
        boxes = torch.rand(2, 5, 4)
        counted = count_positives(boxes, torch.ones(2, 5, 1), torch.ones(2, 30).bool(), torch.zeros(2, 30).long())
    assert counted.shape == (4, 3)


def test_a_batch_without_objects_counts_nothing():
    none = torch.zeros(2, 0, 4), torch.zeros(2, 0, 1), torch.zeros(2, 30).bool(), torch.zeros(2, 30).long()
    assert count_positives(*none).tolist() == [[0, 0, 0]] * 4
