"""TAL without tables: Ultralytics' own assigner, and a loop over anchors, as oracles."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.utils.tal import TaskAlignedAssigner

from rfla_yolo.assign import task_aligned_assign
from rfla_yolo.assign.task_aligned import anchors_inside

from .oracle import anchors

GRID, STRIDES = [(16, 12), (8, 6), (4, 3)], [4, 8, 16]


@st.composite
def scenes(draw):
    """Boxes of whole and half px, many of them upon each other, thin, beyond the image, or with anchors on a border."""
    count, seed = draw(st.integers(0, 12)), draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randint(-8, 140, (count, 2), generator=generator) / 2
    sides = torch.randint(2, draw(st.sampled_from([10, 40, 160])), (count, 2), generator=generator) / 2
    image = torch.randint(0, 2, (count,), generator=generator).sort().values
    return torch.cat((centre - sides / 2, centre + sides / 2), -1), image, generator


def predictions(generator, near):
    points, _ = anchors(GRID, STRIDES)
    scores = torch.rand(2, len(points), 3, generator=generator)
    reach = torch.rand(2, len(points), 4, generator=generator) * near
    return scores, torch.cat((points - reach[..., :2], points + reach[..., 2:]), -1), points


@settings(deadline=None, max_examples=150)
@given(scenes(), st.sampled_from([4.0, 30.0]), st.sampled_from([1, 3, 10]))
def test_it_is_ultralytics_assigner(scene, near, topk):
    boxes, image, generator = scene
    scores, predicted, points = predictions(generator, near)
    labels = torch.randint(0, 3, (len(boxes),), generator=generator)
    stock = TaskAlignedAssigner(topk=topk, num_classes=3, alpha=0.5, beta=6.0, stride=STRIDES)

    def pairs(gt, anchor):
        return scores[image[gt], anchor, labels[gt]], stock.iou_calculation(boxes[gt], predicted[image[gt], anchor])

    found = task_aligned_assign(boxes, image, 2, GRID, STRIDES, pairs, topk=topk, min_side=8.0).assigned
    rows = torch.stack([image == 0, image == 1]).unsqueeze(-1).float()  # a table for either image
    shared = labels.view(1, -1, 1).float().repeat(2, 1, 1), boxes.repeat(2, 1, 1)
    _, _, targets, positive, gt = stock(scores, predicted, points, *shared, rows)
    real = positive & (targets.sum(-1) > 0)
    # An object with fewer aligned anchors takes others to fill its number, which ones the sort leaves open: anchors
    # that are taken so, or by an alignment whose target is too small for a float, are not compared.
    taken, alignment, _ = stock.get_pos_mask(scores, predicted, *shared, points, rows)
    open_to_chance = ((taken > 0) & (alignment < 1e-30)).any(1)
    assert torch.equal(found.where(~open_to_chance, -1), gt.long().where(real & ~open_to_chance, -1))


@settings(deadline=None, max_examples=100)
@given(scenes(), st.sampled_from([0.0, 8.0]))
def test_inside_is_between_the_sides_and_not_on_them(scene, min_side):
    boxes, _, _ = scene
    points, _ = anchors(GRID, STRIDES)
    expected = []
    for number, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        x, y, w, h = (x1 + x2) / 2, (y1 + y2) / 2, max(x2 - x1, min_side), max(y2 - y1, min_side)
        for anchor, (px, py) in enumerate(points.tolist()):
            if abs(px - x) < w / 2 and abs(py - y) < h / 2:
                expected.append((number, anchor))
    gt, anchor = anchors_inside(boxes, GRID, STRIDES, min_side)
    assert sorted(zip(gt.tolist(), anchor.tolist())) == expected


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_assign(count):
    boxes, nothing = torch.full((count, 4), 1000.0), torch.zeros(count, dtype=torch.long)  # far away
    found = task_aligned_assign(boxes, nothing, 2, GRID, STRIDES, lambda gt, anchor: (gt.float(), gt.float()))
    assert found.assigned.shape == (2, sum(h * w for h, w in GRID)) and (found.assigned == -1).all()
    assert not len(found.gt) and not len(found.anchor)
