"""The one-to-one matching against literal rounds, and what such a matching must be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rfla_yolo.assign import match_one_to_one, rfla_match


def literal_rounds(selected, scores, index, boxes, num_anchors, rounds):
    """One image, one object at a time: selected, scores, index (G, N), boxes (G, 4) -> (A,)."""
    owner = [-1] * num_anchors
    open_objects = set(range(len(boxes)))
    sizes = [(float((b[2] - b[0]) * (b[3] - b[1])), *b.tolist(), i) for i, b in enumerate(boxes)]
    for _ in range(rounds):
        proposals: dict[int, list[tuple[float, tuple, int]]] = {}
        for i in sorted(open_objects):
            free = [
                (-float(scores[i, n]), int(index[i, n]))
                for n in range(selected.shape[1])
                if selected[i, n] and owner[int(index[i, n])] < 0
            ]
            if free:
                score, anchor = min(free)
                proposals.setdefault(anchor, []).append((score, sizes[i], i))
        for anchor, claims in proposals.items():
            owner[anchor] = min(claims)[2]
            open_objects.remove(owner[anchor])
    return torch.tensor(owner)


@st.composite
def cases(draw):
    """Objects that want the same few anchors, with equal scores, equal boxes, and objects that want none."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    objects, anchors = draw(st.integers(1, 12)), draw(st.integers(1, 15))
    wanted = draw(st.integers(1, anchors))
    index = np.stack([rng.permutation(anchors)[:wanted] for _ in range(objects)])
    scores = rng.integers(1, draw(st.sampled_from([2, 5, 1000])), (objects, wanted)) / 1000
    boxes = rng.integers(0, 4, (objects, 4)).astype(np.float32)
    boxes[:, 2:] += boxes[:, :2]
    selected = rng.random((objects, wanted)) < draw(st.sampled_from([0.5, 1.0]))
    arrays = (selected, scores.astype(np.float32), index, boxes)
    return tuple(torch.from_numpy(array) for array in arrays), anchors, draw(st.integers(1, 12))


@settings(max_examples=500, deadline=None)
@given(cases())
def test_equals_literal_rounds(case):
    (selected, scores, index, boxes), anchors, rounds = case
    got = match_one_to_one(selected[None], scores[None], index[None], boxes[None], anchors, rounds)[0]
    assert torch.equal(got, literal_rounds(selected, scores, index, boxes, anchors, rounds))


@settings(max_examples=200, deadline=None)
@given(cases())
def test_is_a_maximal_matching(case):
    """With as many rounds as objects, nobody who is left open still sees a free anchor."""
    (selected, scores, index, boxes), anchors, _ = case
    got = match_one_to_one(selected[None], scores[None], index[None], boxes[None], anchors, len(boxes))[0]
    owners = got[got >= 0]
    assert len(owners.unique()) == len(owners)
    for i in set(range(len(boxes))) - set(owners.tolist()):
        assert (got[index[i][selected[i]]] >= 0).all()


@pytest.mark.parametrize(("rounds", "matched"), [(1, 1), (4, 4), (6, 6), (9, 6)])
def test_identical_boxes_need_a_round_each(rounds, matched):
    scores = torch.linspace(1, 0.1, 8).expand(1, 6, 8)
    index, boxes = torch.arange(8).expand(1, 6, 8), torch.tensor([0.0, 0, 4, 4]).expand(1, 6, 4)
    got = match_one_to_one(torch.ones(1, 6, 8, dtype=torch.bool), scores, index, boxes, 8, rounds)[0]
    assert got.tolist() == [*range(matched), *[-1] * (8 - matched)]


def test_images_of_a_batch_do_not_meet():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(3, 20, 8, generator=generator)
    index = torch.stack([torch.randperm(30, generator=generator)[:8] for _ in range(60)]).view(3, 20, 8)
    boxes = torch.rand(3, 20, 4, generator=generator)
    selected = torch.ones_like(index, dtype=torch.bool)
    together = match_one_to_one(selected, scores, index, boxes, 30)
    for i in range(3):
        one = (x[i : i + 1] for x in (selected, scores, index, boxes))
        assert torch.equal(together[i : i + 1], match_one_to_one(*one, 30))


@pytest.mark.parametrize(("grid_shapes", "strides"), [([(64, 64), (32, 32), (16, 16)], [4, 8, 16]), ([(32, 32)], [8])])
def test_in_a_dense_image_every_object_gets_an_anchor_near_it(grid_shapes, strides):
    generator = torch.Generator().manual_seed(0)
    center = torch.rand(1, 150, 2, generator=generator) * 256
    side = 2 + torch.rand(1, 150, 2, generator=generator) * 10
    boxes = torch.cat((center - side / 2, center + side / 2), -1)
    mask = torch.ones(1, 150, dtype=torch.bool)
    mask[:, 140:] = False
    got = rfla_match(boxes, mask, grid_shapes, strides, [2.0 * s for s in strides])[0]
    assert sorted(got[got >= 0].tolist()) == list(range(140))
