"""Candidates of oriented boxes against a dense search: any angle, slivers, ties, borders, centres outside."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rfla_yolo.assign import kl_score, rfla_assign, rfla_match, rotated_candidates, select_topk

from .oracle import anchors

EPS = 1e-6
GRIDS = {4: [(16, 20), (8, 10), (4, 5), (2, 3)], 3: [(8, 10), (4, 5), (2, 3)], 1: [(40, 33)]}


def dense(objects, grid_shapes, strides, rf_sizes, k):
    """The anchors that each object takes, by looking at all of them: objects (G, 5), k (G,) -> bool (G, A)."""
    points, levels = anchors(grid_shapes, strides)
    r = torch.tensor(rf_sizes, dtype=torch.float32)[levels] + EPS
    taken = []
    for (cx, cy, w, h, angle), wanted in zip(objects, k.tolist()):
        dx, dy = cx - points[:, 0], cy - points[:, 1]
        u = dx * torch.cos(angle) + dy * torch.sin(angle)
        v = dy * torch.cos(angle) - dx * torch.sin(angle)
        w, h = w + EPS, h + EPS
        terms = r**2 / w**2 + r**2 / h**2 + 4 * u**2 / w**2 + 4 * v**2 / h**2
        score = 1 / (1 + (terms + torch.log(w**2 / r**2) + torch.log(h**2 / r**2) - 2) / 2)
        order = score.sort(descending=True).values
        taken.append(score >= order[min(wanted, len(order)) - 1])
    return torch.stack(taken)


def selected(objects, grid_shapes, strides, rf_sizes, k, looked):
    """The same by way of the candidates, looked for with a k that may be larger."""
    k_max = int(k.max())
    found = rotated_candidates(objects[None], grid_shapes, strides, max(k_max, looked)).nearest(k_max)
    w, h = objects[:, 2, None, None], objects[:, 3, None, None]
    r = torch.tensor(rf_sizes, dtype=torch.float32)[:, None]
    scores = kl_score(found.dx, found.dy, w, h, r).flatten(2)
    taken = select_topk(scores, found.valid.flatten(2), k[None], k_max)[0]
    total = sum(rows * columns for rows, columns in grid_shapes)
    result = torch.zeros(len(objects), total + 1, dtype=torch.bool)
    return result.scatter(1, found.anchor.flatten(2)[0].masked_fill(~taken, total), True)[:, :total]


@st.composite
def cases(draw):
    grid_shapes = GRIDS[draw(st.sampled_from([1, 3, 4]))]
    finest = draw(st.sampled_from([4, 8]))
    strides = [finest * 2**i for i in range(len(grid_shapes))]
    height, width = grid_shapes[0][0] * finest, grid_shapes[0][1] * finest
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["anywhere", "sliver", "lattice", "border", "outside"]))
    count = draw(st.integers(1, 6))
    center = rng.uniform(0, 1, (count, 2)) * (width, height)
    long = np.exp(rng.uniform(np.log(2), np.log(300), count))
    short = long / np.exp(rng.uniform(0, np.log(100 if kind == "sliver" else 20), count))
    angle = rng.uniform(-math.pi / 4, 3 * math.pi / 4, count)
    if kind == "lattice":  # equal scores: centres on grid lines, rational angles
        center = (center / 2).round() * 2
        long, angle = (long / 2).round() * 2 + 2, rng.integers(0, 4, count) * math.pi / 4
        short = long / 2.0 ** rng.integers(0, 5, count)
    if kind == "border":
        center = np.where(rng.random((count, 2)) < 0.5, rng.uniform(0, 12, (count, 2)), (width, height))
    if kind == "outside":
        center = center * 1.3 - 0.15 * np.array([width, height])
    upright = rng.random(count) < 0.5  # w is the shorter side
    sides = np.stack([np.where(upright, short, long), np.where(upright, long, short)], 1)
    objects = torch.tensor(np.concatenate([center, sides, angle[:, None]], 1), dtype=torch.float32)
    k = torch.from_numpy(rng.integers(1, draw(st.sampled_from([1, 3, 9, 30])) + 1, count))
    k = k.clamp(max=sum(rows * columns for rows, columns in grid_shapes))
    rf_sizes = [draw(st.sampled_from([1.0, 2.0, 2.875])) * s for s in strides]
    return objects, grid_shapes, strides, rf_sizes, k


@settings(max_examples=1500, deadline=None)
@given(cases(), st.sampled_from([0, 12, 40]))
def test_equals_a_dense_search(case, looked):
    assert torch.equal(selected(*case, looked), dense(*case))


@pytest.mark.parametrize("ratio", [1.0, 100.0])
def test_their_number_depends_on_k_alone(ratio):
    for k, most in ((3, 40), (30, 230)):
        objects = torch.tensor([[[400.0, 400.0, 200.0, 200.0 / ratio, 0.7]]])
        for looked in (k, 100):
            found = rotated_candidates(objects, [(200, 200), (100, 100)], [4, 8], looked).nearest(k)
            assert k <= found.anchor.shape[-1] <= most
            assert len(found.rank) == len(found.ranks) == found.anchor.shape[-1]
            assert found.rank.sort().values.tolist() == found.ranks


@st.composite
def upright(draw):
    """Images of a batch with boxes on half pixels, where upright and oriented boxes are the same numbers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sides = rng.integers(1, 60, (2, 7, 2)) * draw(st.sampled_from([0.5, 1.0, 2.0]))
    center = (rng.uniform(-0.1, 1.1, (2, 7, 2)) * 80).round()
    xyxy = torch.tensor(np.concatenate([center - sides / 2, center + sides / 2], -1), dtype=torch.float32)
    oriented = torch.tensor(np.concatenate([center, sides, np.zeros((2, 7, 1))], -1), dtype=torch.float32)
    return xyxy, oriented, torch.from_numpy(rng.random((2, 7)) < 0.9)


LEVELS = ([(20, 20), (10, 10), (5, 5)], [4, 8, 16], [8.0, 16.0, 32.0])


@settings(max_examples=200, deadline=None)
@given(upright(), st.sampled_from(["kl", "wd"]), st.sampled_from(["score", "last"]))
def test_angle_zero_is_the_upright_assignment(case, distance, conflict):
    xyxy, oriented, mask = case
    options = {"topk": (3, 1), "topk_max": 30, "distance": distance, "conflict": conflict}
    assert torch.equal(rfla_assign(oriented, mask, *LEVELS, **options), rfla_assign(xyxy, mask, *LEVELS, **options))
    options = {"distance": distance}
    assert torch.equal(rfla_match(oriented, mask, *LEVELS, **options), rfla_match(xyxy, mask, *LEVELS, **options))


@settings(max_examples=200, deadline=None)
@given(cases())
def test_objects_that_do_not_meet_get_what_a_dense_search_selects(case):
    objects, grid_shapes, strides, rf_sizes, _ = case
    for one in objects:
        expected = dense(one[None], grid_shapes, strides, rf_sizes, torch.tensor([3]))[0]
        options = {"topk": (3, 0)}
        got = rfla_assign(
            one.view(1, 1, 5), torch.ones(1, 1, dtype=torch.bool), grid_shapes, strides, rf_sizes, **options
        )
        assert torch.equal(got[0] >= 0, expected)


def test_a_long_object_takes_anchors_along_its_own_axis():
    boxes = torch.tensor([[[40.0, 40.0, 60.0, 6.0, math.pi / 4]]])
    got = rfla_assign(boxes, torch.ones(1, 1, dtype=torch.bool), [(20, 20)], [4], [8.0], topk=(8, 0))[0]
    row, column = (got.view(20, 20) >= 0).nonzero().unbind(1)
    assert len(row) >= 8 and (row - column).abs().max() <= 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("column", range(5))
def test_an_object_of_no_numbers_takes_nothing_and_disturbs_no_other(value, column):
    levels = [(8, 10), (4, 5)], [8, 16], [24.0, 48.0]
    good = torch.tensor([[[30.0, 20.0, 16.0, 6.0, 0.4], [60.0, 40.0, 9.0, 9.0, 1.0]]])
    bad = good.clone()
    bad[0, 0, column] = value
    expected = rfla_assign(good, torch.tensor([[False, True]]), *levels)
    assert (expected >= 0).any()
    assert torch.equal(rfla_assign(bad, torch.tensor([[True, True]]), *levels), expected)
