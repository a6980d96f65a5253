"""Merging at seams: equal to the scene without tiles, to a literal loop, and to itself row by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfla_yolo.scenes import MARGIN, Detections, SeamMerger, Window, merge, overlap_for, tile_rows
from rfla_yolo.scenes.detections import concatenate


def find(scene, window, rng=None, noise=0.0):
    """Find what lies at least 30 % inside of a tile, as its visible part; pieces may score lower."""
    low = window.left, window.top
    high = window.left + window.width, window.top + window.height
    part = np.concatenate([scene.bbox[:, :2].clip(low, high), scene.bbox[:, 2:].clip(low, high)], 1)
    share = (part[:, 2:] - part[:, :2]).prod(1) / (scene.bbox[:, 2:] - scene.bbox[:, :2]).prod(1)
    seen = np.flatnonzero(share >= 0.3)
    score = scene.score[seen]
    if rng is not None:
        part = part + rng.normal(0, noise, part.shape)
        score = np.where(share[seen] < 1, score * rng.uniform(0.3, 1.1, len(seen)), score)
    return Detections(part[seen], score, scene.label[seen], scene.cut[seen])


def table(found):
    """Detections in an order of their own."""
    rows = np.column_stack([found.bbox, found.score, found.label, found.cut])
    return rows[np.lexsort(rows.T)]


@st.composite
def scenes(draw, larger=1.0, most=60, tiles=4):
    """Tiles, and crowded objects of up to what the overlap holds, times ``larger``; some lie on a lattice."""
    size = draw(st.integers(16, 64))
    overlap = draw(st.integers(overlap_for(2), size - 1))
    width, height = (draw(st.integers(1, tiles * (size - overlap) + overlap)) for _ in range(2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    number, grid = draw(st.integers(1, most)), draw(st.sampled_from([0, 0.5, 1, 4]))
    sides = rng.uniform(1, larger * (overlap - 2 * MARGIN), (number, 2))
    centre = rng.uniform(0, (width, height), (number, 2))
    near = rng.integers(0, number, number)  # objects that cover each other
    centre = np.where(rng.random((number, 1)) < 0.5, centre[near] + rng.normal(0, 3, (number, 2)), centre)
    bbox = np.concatenate([centre - sides / 2, centre + sides / 2], 1)
    if grid:
        bbox = np.round(bbox / grid) * grid
    bbox = bbox.clip(0, (width, height) * 2)
    fits = ((bbox[:, 2:] - bbox[:, :2]) < larger * (overlap - 2 * MARGIN)) & (bbox[:, 2:] - bbox[:, :2] > 0)
    bbox = bbox[fits.all(1)]
    scene = Detections.of(bbox, rng.permutation(len(bbox)) / 60 + 0.1, rng.integers(0, 2, len(bbox)))
    return tile_rows(width, height, size, overlap), scene, rng


def on_tiles(case, noise=0.0):
    rows, scene, rng = case
    return [[find(scene, window, rng, noise) for window in row] for row in rows]


@settings(deadline=None, max_examples=150)
@given(scenes())
def test_equals_the_scene_without_tiles(case):
    """Objects that the overlap holds, whatever covers them: the same boxes, scores and classes, none flagged."""
    rows, scene, _ = case
    found = merge([window for row in rows for window in row], [d for row in on_tiles(case) for d in row])
    assert np.array_equal(table(found), table(scene))


def literal(windows, found):
    """The rule, one pair after the other."""
    size = {w: (w.left, w.top, w.left + w.width, w.top + w.height) for w in windows}
    hull = [f(c) for f, c in zip((min, min, max, max), zip(*size.values()))]
    outwards = (-1, -1, 1, 1)

    def inside(box, window):
        x1, y1, x2, y2 = size[window]
        return [min(max(box[0], x1), x2), min(max(box[1], y1), y2), min(max(box[2], x1), x2), min(max(box[3], y1), y2)]

    def area(box):
        return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)

    def common(a, b):
        return area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])

    things = []
    for window, part in zip(windows, found):
        for box, score, label in zip(part.bbox.tolist(), part.score.tolist(), part.label.tolist()):
            box_in = inside(box, window)
            reach = [s * o for s, o in zip(box_in, outwards)]
            own = [s * o for s, o in zip(size[window], outwards)]
            ends = [size[window][k] != hull[k] and own[k] - reach[k] < MARGIN for k in range(4)]
            dropped = False
            for other in windows:
                theirs = [s * o for s, o in zip(size[other], outwards)]
                if common(size[window], size[other]) and any(ends[k] and theirs[k] > own[k] for k in range(4)):
                    dropped |= all(
                        theirs[k] >= own[k] or (not ends[k] and theirs[k] - reach[k] >= 2 * MARGIN) for k in range(4)
                    )
            cut = any(ends) and not dropped
            depth = min((own[k] - reach[k] for k in range(4) if size[window][k] != hull[k]), default=float("inf"))
            order = (cut, -area(box) if cut else -depth, -score, (window.top, window.left), label, box)
            things.append({"box": box, "in": box_in, "window": window, "label": label, "score": score, "cut": cut,
                           "dropped": dropped, "order": order, "twins": []})  # fmt: skip
    things.sort(key=lambda t: t["order"])
    for i, window in enumerate(windows):
        for other in windows[:i]:
            pairs = []
            for k, a in ((k, t) for k, t in enumerate(things) if t["window"] == window):
                for n, b in ((n, t) for n, t in enumerate(things) if t["window"] == other):
                    if a["label"] != b["label"]:
                        continue
                    shared = common(a["in"], b["in"])
                    a_in, b_in = inside(a["in"], other), inside(b["in"], window)
                    both = common(a_in, b_in)
                    if both and shared >= 0.5 * min(area(a["in"]), area(b["in"])):
                        alike = round(both / (area(a_in) + area(b_in) - both), 9)
                        whole = round(shared / (area(a["in"]) + area(b["in"]) - shared), 9)
                        earlier = (k, n) if (window.top, window.left) < (other.top, other.left) else (n, k)
                        pairs.append((-alike, -whole, *earlier, a, b))
            taken = []
            for *_, a, b in sorted(pairs, key=lambda pair: pair[:4]):
                if not any(t is a or t is b for t in taken):
                    taken += [a, b]
                    a["twins"].append(b)
                    b["twins"].append(a)
    kept = []
    for thing in things:
        if not thing["dropped"]:
            kept.append(thing)
            for twin in thing["twins"]:
                twin["dropped"] = True
    return Detections.of(*([t[key] for t in kept] for key in ("box", "score", "label", "cut")))


@settings(deadline=None, max_examples=40)
@given(scenes(larger=3, most=25, tiles=3), st.booleans())
def test_equals_a_literal_loop(case, noisy):
    """Objects larger than the overlap and inexact boxes included."""
    windows = [window for row in case[0] for window in row]
    found = [d for row in on_tiles(case, noise=float(noisy)) for d in row]
    assert np.allclose(table(merge(windows, found)), table(literal(windows, found)), atol=0)


@settings(deadline=None, max_examples=60)
@given(scenes(larger=3), st.randoms(use_true_random=False))
def test_row_by_row_equals_all_at_once_in_any_order(case, random):
    rows, found = case[0], on_tiles(case, noise=0.5)
    merger = SeamMerger(rows)
    parts = [merger.add_row(row) for row in found]
    assert not len(merger.finish())
    tiles = [pair for row in zip(rows, found) for pair in zip(*row)]
    once = merge(*zip(*tiles))
    assert np.array_equal(table(concatenate(parts)), table(once))
    random.shuffle(tiles)
    again = merge(*zip(*tiles))
    assert np.array_equal(again.bbox, once.bbox) and np.array_equal(again.cut, once.cut)


@settings(deadline=None, max_examples=60)
@given(scenes(larger=4, most=15))
def test_what_the_overlap_does_not_hold_is_flagged(case):
    """What is not flagged is a whole object; of every object something stays, where none of its class covers it."""
    rows, scene, rng = case
    windows = [window for row in rows for window in row]
    found = merge(windows, [d for row in on_tiles(case) for d in row])
    whole = {tuple(row) for row in scene.bbox.tolist()}
    assert all(tuple(box) in whole for box in found.bbox[~found.cut].tolist())
    scene = Detections(scene.bbox, scene.score, np.arange(len(scene)), scene.cut)
    on_tile = [d for row in on_tiles((rows, scene, rng)) for d in row]
    assert set(merge(windows, on_tile).label) == set(concatenate(on_tile).label)


def test_a_hundred_objects_at_one_place():
    """Two tiles, both with the same crowd: each object once, whatever the scores on either tile."""
    rng = np.random.default_rng(0)
    corner = rng.uniform((50, 20), (60, 60), (100, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 25, (100, 2))], 1)
    windows = [Window(0, 0, 90, 100), Window(40, 0, 90, 100)]
    scores = rng.random((2, 100))
    found = merge(windows, [Detections.of(boxes, score, np.zeros(100)) for score in scores])
    assert sorted(found.bbox.tolist()) == sorted(boxes.tolist())


def test_the_box_and_the_score_are_those_farthest_from_a_border():
    windows = [Window(0, 0, 100, 50), Window(60, 0, 100, 50)]
    boxes = [[62.0, 10, 72, 20], [61.8, 10, 72.2, 20]]  # 2 px from the border of the second
    found = merge(windows, [Detections.of([box], [score], [0]) for box, score in zip(boxes, (0.3, 0.9))])
    assert found.bbox.tolist() == [boxes[0]] and found.score.tolist() == [0.3]


def test_a_piece_without_a_neighbour_stays():
    """Tiles without objects may have been left out of a data set."""
    windows = [Window(0, 0, 100, 100), Window(120, 0, 100, 100)]
    found = merge(windows, [Detections.of([[90, 10, 100, 20]], [0.5], [0]), Detections.empty()])
    assert found.bbox.tolist() == [[90, 10, 100, 20]] and found.cut.all()


def test_rows_that_do_not_come_and_wrong_numbers():
    rows = tile_rows(100, 200, 100, 20)
    waiting = Detections.of([[10, 90, 20, 98]], [0.5], [0])
    merger = SeamMerger(rows)
    assert not len(merger.add_row([waiting]))
    assert merger.finish().bbox.tolist() == waiting.bbox.tolist()
    with pytest.raises(ValueError, match=f"all {len(rows)} rows of tiles have been added"):
        merger.add_row([waiting])
    with pytest.raises(ValueError, match="row 0 has 1 tiles, not 2"):
        SeamMerger(rows).add_row([waiting, waiting])
    with pytest.raises(ValueError, match="detections on each of 1 tiles, not 2"):
        merge(rows[0], [waiting, waiting])
    assert not len(merge([], []))
