"""Figures of resamples against literal evaluation of the drawn images, and their memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from rfla_yolo import evaluate
from rfla_yolo.evaluation import resampling
from rfla_yolo.evaluation.matching import IOU_THRESHOLDS, ClassMatches, Flags, Matching
from rfla_yolo.evaluation.resampling import resample

from .test_compare import drawn
from .test_matching import random_case


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_crowds_and_ranges(seed, ties, monkeypatch):
    """Images out of the draw, one drawn often, none with objects drawn; in blocks of one resample or all at once."""
    gt, dt = random_case(seed, images=5, whole=False)
    for detection, place in zip(dt, np.random.default_rng(seed).permutation(len(dt)).tolist()):
        detection["score"] = place // 8 / 50 if ties else place / 400
    draws = np.array([[1, 1, 1, 1, 1], [0, 3, 1, 0, 1], [2, 0, 0, 0, 3], [0, 0, 0, 0, 5], [1, 0, 2, 1, 1]]).T
    matching = evaluate(gt, dt).matching
    got = resample(matching, np.arange(5), draws)
    for r in range(draws.shape[1]):
        expected = evaluate(*drawn(gt, dt, draws[:, r])).metrics
        assert set(got) == set(expected) - {"oLRP_loc", "oLRP_fp", "oLRP_fn"}
        # copies of an image reorder equal scores, which moves precision, but no sum over a score
        for name, values in ((n, v) for n, v in got.items() if not ties or n in ("oLRP", "AR1500", "ARvt")):
            value = np.nan if expected[name] is None else expected[name]
            assert values[r] == pytest.approx(value, abs=1e-6, nan_ok=True), (name, r)
    monkeypatch.setattr(resampling, "MAX_CELLS", 1)
    one_by_one = resample(matching, np.arange(5), draws)
    for name, values in got.items():
        np.testing.assert_allclose(one_by_one[name], values, rtol=1e-6)


def made_matching(images, objects, detections):
    """A matching of one class: hits get rarer as scores fall, at higher thresholds fewer."""
    rng = np.random.default_rng(0)
    chance = np.linspace(1, 0, detections) * 2 * objects / detections / 1.1
    quality = np.where(rng.random(detections) < chance, rng.random(detections), -1)
    hit = quality >= (IOU_THRESHOLDS - 0.3)[:, None]
    matches = ClassMatches(
        image=rng.integers(images, size=detections),
        score=np.linspace(1, 0, detections),
        place=np.arange(detections) % 1500,
        counts=Flags.pack(np.ones_like(hit)),
        hit=Flags.pack(hit),
        iou=quality.clip(0),
        bbox=np.zeros((detections, 4)),
        gt_image=rng.integers(images, size=objects),
        gt_area=np.ones(objects),
        gt_counts=np.ones((1, objects), dtype=bool),
        gt_found=np.zeros((len(hit), objects), dtype=bool),
        gt_bbox=np.zeros((objects, 4)),
        gt_score=np.zeros(objects),
    )
    return Matching({"one": matches}, images, {"all": (0, 1e10)}, np.zeros(0), np.zeros(0))


def test_memory_of_one_large_class(monkeypatch):
    """2,000 images, 80,000 objects, 120,000 detections: bounded whatever the number of resamples."""
    matching = made_matching(2000, 80_000, 120_000)
    peaks = []
    for count in (8, 24):
        draws = np.random.default_rng(0).multinomial(2000, np.full(2000, 1 / 2000), size=count).T
        tracemalloc.start()
        try:
            figures = resample(matching, np.arange(2000), draws)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert 0.3 < figures["AP50"].mean() < 0.9
        assert figures["AP50"].std() > 0
    assert peaks[1] < 1.1 * peaks[0] + 8 * draws.size < 100e6
