"""The assignment against the literal oracle, and the properties that users rely on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from rfla_yolo.assign import CANDIDATES, DISTANCES, Candidates, rfla_assign

from .oracle import anchors, literal_assign, reference_assign

P2_P5 = {"grid_shapes": [(16, 16), (8, 8), (4, 4), (2, 2)], "strides": [4, 8, 16, 32]}
TRF_HALF = [11.5, 47.5, 119.5, 199.5]  # yolov8n-p2


def boxes_of(rows, device="cpu", dtype=torch.float32):
    return torch.tensor(rows, dtype=dtype, device=device).view(1, -1, 4)


def all_real(boxes):
    return torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)


@st.composite
def cases(draw):
    """Images of any shape, boxes on whole and half pixels as well as anywhere, over the border, and elongated."""
    levels = draw(st.integers(1, 4))
    strides = [2 ** (draw(st.integers(1, 3)) + i) for i in range(1)]
    strides = [strides[0] * 2**i for i in range(levels)]
    width, height = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    grid_shapes = [(math.ceil(height / s), math.ceil(width / s)) for s in strides]
    rf_sizes = [draw(st.sampled_from([0.5, 1.0, 2.0, 2.875])) * s for s in strides]
    step = draw(st.sampled_from([2.0, 1.0, 0.5, None]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, count = [], draw(st.integers(0, 8))
    for _ in range(count):
        center = rng.uniform(-0.1, 1.1, 2) * (width, height)
        sides = np.exp(rng.uniform(0, 4, 2))
        if rng.random() < 0.2:
            sides[0] = 50 * sides[1]
        if step:
            center, sides = (center / step).round() * step, np.maximum((sides / step).round(), 1) * step
        rows.append([*(center - sides / 2), *(center + sides / 2)])
    if count > 1 and rng.random() < 0.3:
        rows[-1] = rows[0]
    boxes = torch.tensor(rows, dtype=torch.float32).view(-1, 4)
    mask = torch.from_numpy(rng.random(len(boxes)) < 0.9)
    settings = {
        "topk": (draw(st.integers(1, 16)), draw(st.sampled_from([0, 1, 2, 3, 500]))),
        "topk_max": draw(st.sampled_from([0, 0, 5, 10, 30, 10_000])),
        "decay": draw(st.sampled_from([0.5, 0.9, 1.0])),
        "distance": draw(st.sampled_from(sorted(DISTANCES))),
        "conflict": draw(st.sampled_from(["score", "last"])),
    }
    return boxes, mask, grid_shapes, strides, rf_sizes, settings


class TestAgainstOracle:
    @settings(max_examples=3000, deadline=None)
    @given(cases())
    def test_equals_literal_loops(self, case):
        boxes, mask, grid_shapes, strides, rf_sizes, options = case
        got = rfla_assign(boxes[None], mask[None], grid_shapes, strides, rf_sizes, **options)[0]
        assert torch.equal(got, literal_assign(boxes, mask, grid_shapes, strides, rf_sizes, **options))

    def test_equals_reference_implementation_on_real_labels(self, data_dir):
        files = sorted((data_dir / "hituav-half/labels/train").glob("*.txt"))[::20]
        grid_shapes = [(256 // s, 320 // s) for s in P2_P5["strides"]]
        compared = 0
        for file in files:
            rows = [line.split()[1:] for line in file.read_text().splitlines()]
            xywh = torch.tensor([[float(v) for v in row] for row in rows]).view(-1, 4)
            if not len(xywh):
                continue
            xywh = xywh * torch.tensor([320.0, 256, 320, 256])
            boxes = torch.cat((xywh[:, :2] - xywh[:, 2:] / 2, xywh[:, :2] + xywh[:, 2:] / 2), 1)
            expected = reference_assign(boxes, grid_shapes, P2_P5["strides"], TRF_HALF)
            options = {"conflict": "last"}
            got = rfla_assign(boxes[None], all_real(boxes[None]), grid_shapes, P2_P5["strides"], TRF_HALF, **options)
            assert torch.equal(got[0], expected), file
            compared += expected.numel()
        assert compared > 500_000

    def test_equals_reference_implementation_on_ties(self):
        """Boxes on a 4 px lattice, centred between grid points: four anchors of equal score for nearly every box."""
        generator = torch.Generator().manual_seed(0)
        for _ in range(30):
            center = torch.randint(0, 17, (12, 2), generator=generator) * 4.0
            side = torch.randint(1, 8, (12, 1), generator=generator) * 4.0
            boxes = torch.cat((center - side / 2, center + side / 2), 1)
            got = rfla_assign(boxes[None], all_real(boxes[None]), **P2_P5, rf_sizes=TRF_HALF, conflict="last")[0]
            assert torch.equal(got, reference_assign(boxes, **P2_P5, rf_sizes=TRF_HALF))

    @pytest.mark.parametrize("sides", [(3200.0, 1.75), (1.0, 2000.0), (4000.0, 4.0)])
    @pytest.mark.parametrize("topk", [(1, 1), (3, 1), (8, 0)])
    def test_equals_literal_loops_where_rounding_makes_scores_equal(self, sides, topk):
        """Beside a sliver, several columns or rows have the score of the nearest."""
        center, sides = torch.tensor([124.0, 128.0] if sides[0] > sides[1] else [128.0, 124.0]), torch.tensor(sides)
        boxes = torch.cat((center - sides / 2, center + sides / 2))[None]
        grid_shapes, strides, rf_sizes = [(32, 32), (16, 16), (8, 8)], [8, 16, 32], [47.5, 119.5, 199.5]
        options = {"topk": topk, "decay": 0.9, "distance": "kl", "conflict": "score"}
        got = rfla_assign(boxes[None], all_real(boxes[None]), grid_shapes, strides, rf_sizes, **options)[0]
        assert torch.equal(
            got, literal_assign(boxes, all_real(boxes[None])[0], grid_shapes, strides, rf_sizes, **options)
        )

    def test_window_equals_dense_candidates(self, monkeypatch):
        """The step "candidates" swapped for all anchors by naming it."""

        def dense(centers, grid_shapes, strides, k):
            points, _ = anchors(grid_shapes, strides)
            assert len(grid_shapes) == 1
            offset = (centers.unsqueeze(2) - points).view(*centers.shape[:2], 1, -1, 2)
            index = torch.arange(len(points)).expand(offset.shape[:-1])
            valid = torch.ones_like(index, dtype=torch.bool)
            return Candidates(index, valid, offset[..., 0], offset[..., 1], valid[0, 0, 0].long(), [1] * len(points))

        monkeypatch.setitem(CANDIDATES, "dense", dense)
        corner = torch.rand(2, 40, 2) * 100
        boxes = torch.cat((corner, corner + torch.rand(2, 40, 2) * 30 + 1), -1)
        arguments = (boxes, all_real(boxes), [(25, 25)], [4], [9.0])
        for k in (1, 3, 9):
            options = {"topk": (k, 1)}
            assert torch.equal(
                rfla_assign(*arguments, candidates="dense", **options), rfla_assign(*arguments, **options)
            )


class TestProperties:
    @settings(max_examples=200, deadline=None)
    @given(cases(), st.randoms(use_true_random=False))
    def test_order_of_labels_does_not_matter(self, case, random):
        boxes, mask, grid_shapes, strides, rf_sizes, options = case
        options["conflict"] = "score"
        order = list(range(len(boxes)))
        random.shuffle(order)
        order = torch.tensor(order, dtype=torch.long)
        plain = rfla_assign(boxes[None], mask[None], grid_shapes, strides, rf_sizes, **options)[0]
        shuffled = rfla_assign(boxes[order][None], mask[order][None], grid_shapes, strides, rf_sizes, **options)[0]
        background = torch.full((1, 4), -1.0)
        look_up = torch.cat((boxes, background))[plain], torch.cat((boxes[order], background))[shuffled]
        assert torch.equal(*look_up)  # index -1 reads the row of the background

    @settings(max_examples=50, deadline=None)
    @given(cases(), cases())
    def test_images_of_a_batch_are_independent(self, one, other):
        boxes, mask, grid_shapes, strides, rf_sizes, options = one
        size = max(len(boxes), len(other[0]))
        batch, real = torch.zeros(3, size, 4), torch.zeros(3, size, dtype=torch.bool)
        for i, (b, m) in enumerate([(other[0], other[1]), (boxes, mask), (boxes, mask)]):
            batch[i, : len(b)], real[i, : len(m)] = b, m
        got = rfla_assign(batch, real, grid_shapes, strides, rf_sizes, **options)
        alone = rfla_assign(boxes[None], mask[None], grid_shapes, strides, rf_sizes, **options)[0]
        assert torch.equal(got[1], alone)
        assert torch.equal(got[2], alone)

    def test_identical_boxes_go_to_the_lower_index(self):
        boxes = boxes_of([[10, 10, 20, 20], [10, 10, 20, 20]])
        assigned = rfla_assign(boxes, all_real(boxes), **P2_P5, rf_sizes=TRF_HALF)
        assert set(assigned.unique().tolist()) == {-1, 0}

    def test_mirrored_boxes_of_equal_score_and_size(self):
        """Equal score, equal area, different place: neither index may decide."""
        left, right = [10.0, 26, 20, 36], [44.0, 26, 54, 36]  # mirrored about x = 32
        forward, backward = boxes_of([left, right]), boxes_of([right, left])
        arguments = {"grid_shapes": [(1, 1)], "strides": [64], "rf_sizes": [64]}
        a = rfla_assign(forward, all_real(forward), **arguments)[0, 0]
        b = rfla_assign(backward, all_real(backward), **arguments)[0, 0]
        assert torch.equal(forward[0, a], backward[0, b])

    def test_more_anchors_wanted_than_there_are(self):
        boxes = boxes_of([[0, 0, 8, 8]])
        assigned = rfla_assign(boxes, all_real(boxes), [(2, 3)], [8], [8], topk=(100, 100))
        assert assigned.tolist() == [[0] * 6]

    def test_candidates_are_bounded_by_the_anchors_there_are(self):
        """However many anchors are allowed, no level has more candidates than the finest level has anchors."""
        centers = torch.tensor([[[3.0, 5.0], [60.0, 30.0]]])
        for k in (300, 100_000):
            found = CANDIDATES["window"](centers, P2_P5["grid_shapes"], P2_P5["strides"], k)
            assert found.anchor.shape == (1, 2, 4, 16 * 16)
            assert found.valid.sum((-1, -2)).tolist() == [[256 + 64 + 16 + 4] * 2]

    def test_no_second_stage(self):
        """At 45 px the first stage is on P2 and a shrunk field of P3 fits better: without stage 2 P3 stays empty."""
        boxes = boxes_of([[8.0, 8, 33, 33]])
        with_two = rfla_assign(boxes, all_real(boxes), **P2_P5, rf_sizes=TRF_HALF, topk=(3, 1), decay=0.6)
        with_one = rfla_assign(boxes, all_real(boxes), **P2_P5, rf_sizes=TRF_HALF, topk=(3, 0), decay=0.6)
        assert (with_two >= 0).sum() > (with_one >= 0).sum()

    @pytest.mark.parametrize("objects", [0, 1])
    def test_few_objects(self, objects):
        boxes = torch.tensor([[4.0, 4, 12, 12]] * objects).view(1, objects, 4)
        assigned = rfla_assign(boxes, all_real(boxes), **P2_P5, rf_sizes=TRF_HALF)
        assert assigned.shape == (1, 16 * 16 + 64 + 16 + 4)
        assert (assigned >= 0).any() == bool(objects)

    def test_padding_takes_nothing(self):
        boxes = boxes_of([[10, 10, 20, 20], [30, 30, 50, 50]])
        mask = torch.tensor([[True, False]])
        alone = rfla_assign(boxes[:, :1], mask[:, :1], **P2_P5, rf_sizes=TRF_HALF)
        assert torch.equal(rfla_assign(boxes, mask, **P2_P5, rf_sizes=TRF_HALF), alone)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_precisions_are_computed_in_float32(self, dtype, device):
        boxes = boxes_of([[10, 10, 20, 20], [30, 30, 50, 44]], device, dtype)
        assigned = rfla_assign(boxes, all_real(boxes), **P2_P5, rf_sizes=TRF_HALF)
        expected = rfla_assign(boxes.float(), all_real(boxes), **P2_P5, rf_sizes=TRF_HALF)
        assert torch.equal(assigned, expected)
        assert assigned.dtype == torch.long

    def test_same_on_every_device(self, device):
        corner = torch.rand(4, 60, 2, generator=torch.Generator().manual_seed(1)) * 60
        boxes = torch.cat((corner, corner + 1 + corner.flip(-1) / 4), -1)
        there = rfla_assign(boxes.to(device), all_real(boxes).to(device), **P2_P5, rf_sizes=TRF_HALF)
        assert torch.equal(there.cpu(), rfla_assign(boxes, all_real(boxes), **P2_P5, rf_sizes=TRF_HALF))

    def test_inputs_stay_as_they_were(self):
        boxes = boxes_of([[10, 10, 20, 20]])
        copy = boxes.clone()
        rfla_assign(boxes, all_real(boxes), **P2_P5, rf_sizes=TRF_HALF)
        assert torch.equal(boxes, copy)

    @pytest.mark.parametrize("conflict", ["score", "last"])
    def test_waits_for_no_device(self, conflict):
        """Under fake tensors ``.item()``, boolean indexing and every other read of a value raise."""
        with FakeTensorMode():
            boxes = torch.rand(2, 5, 4) * 60
            assigned = rfla_assign(boxes, all_real(boxes), **P2_P5, rf_sizes=TRF_HALF, conflict=conflict)
        assert assigned.shape == (2, 340)

    def test_new_distance_needs_no_change_of_the_assigner(self, monkeypatch):
        def nearest(dx, dy, w, h, r):
            return 1 / (1 + dx.abs() + dy.abs() + 0 * r)

        monkeypatch.setitem(DISTANCES, "nearest", nearest)
        boxes = boxes_of([[9, 9, 11, 11]])
        assigned = rfla_assign(boxes, all_real(boxes), [(8, 8)], [4], [8], topk=(1, 0), distance="nearest")
        assert assigned.view(8, 8).nonzero().tolist() != []
        assert (assigned.view(8, 8) >= 0).nonzero().tolist() == [[2, 2]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topk": (0, 1)}, r"topk must be two whole numbers .* not \(0, 1\)"),
        ({"topk": (3, -1)}, r"not \(3, -1\)"),
        ({"topk": 3}, "not 3"),
        ({"topk": (3.0, 1)}, r"not \(3\.0, 1\)"),
        ({"topk_max": -1}, r"topk_max must be a whole number \(0: no more than topk\), not -1"),
        ({"decay": 0}, r"decay must be in \(0, 1\], not 0"),
        ({"decay": 1.01}, "not 1.01"),
        ({"distance": "iou"}, "distance must be one of 'kl', 'wd', not 'iou'"),
        ({"conflict": "first"}, "conflict must be one of 'score', 'last', not 'first'"),
        ({"candidates": "all"}, "candidates must be one of 'window', not 'all'"),
        ({"select": "all"}, "select must be one of 'topk', not 'all'"),
        ({"rf_sizes": [8.0]}, "must name the same levels, not 4, 4 and 1"),
        (
            {"gt_bboxes": torch.zeros(1, 4)},
            r"gt_bboxes must have shape \(B, G, 4\), or \(B, G, 5\) if oriented, not \(1, 4\)",
        ),
        ({"gt_mask": torch.ones(1, 2, dtype=torch.bool)}, r"gt_mask must have shape \(1, 1\), not \(1, 2\)"),
    ],
)
def test_bad_arguments_are_named(change, message):
    boxes = boxes_of([[1, 1, 5, 5]])
    arguments = {"gt_bboxes": boxes, "gt_mask": all_real(boxes), **P2_P5, "rf_sizes": TRF_HALF}
    with pytest.raises(ValueError, match=message):
        rfla_assign(**{**arguments, **change})
