"""The verdict: what is recommended, and its words."""

from __future__ import annotations

import pytest
import torch
from ultralytics.nn.tasks import DetectionModel

from rfla_yolo import RFLAConfig
from rfla_yolo.analysis import analyze, write_page
from rfla_yolo.analysis.assignments import Levels
from rfla_yolo.analysis.sweep import try_variants, variants
from rfla_yolo.analysis.verdict import start_from, verdict
from rfla_yolo.engine import rf_sizes
from rfla_yolo.engine.analysis import Sample

SIDE = 160
SIZES = ("all", "vt", "t", "s", "m")
STRIDES = (4.0, 8.0, 16.0, 32.0)


def crowd(seed: int) -> Sample:
    """An image of tiny objects, some so close that they want the same anchors, and of some larger ones."""
    random = torch.Generator().manual_seed(seed)
    centers = torch.rand(40, 2, generator=random) * (SIDE - 80) + 40
    centers[20:] = centers[:20] + 4
    sizes = torch.rand(40, 2, generator=random) * 6 + 3
    sizes[:8] = torch.rand(8, 2, generator=random) * 60 + 16
    boxes = torch.cat([centers - sizes / 2, centers + sizes / 2], 1)
    return Sample(boxes, torch.zeros(40, dtype=torch.long), torch.zeros(3, SIDE, SIDE, dtype=torch.uint8), "")


def sweep(**settings) -> list[dict]:
    model = DetectionModel("yolov8n-p2.yaml", verbose=False)
    config = RFLAConfig(**settings)
    levels = Levels(STRIDES, tuple(rf_sizes(model, config)), (0, 15))
    return try_variants(variants(model, config, levels, SIDE, erf=False), [crowd(seed) for seed in range(8)], 1)


@pytest.fixture(scope="module")
def default() -> list[dict]:
    return sweep()


def said(rows: list[dict], settings: dict) -> str:
    result = {"settings": settings, "imgsz": [SIDE, SIDE], "assigners": {}, "predictions": None, "sweep": rows}
    result["one2one"] = {}
    return verdict({**result, "levels": {"names": ["P2", "P3", "P4", "P5"], "bins": None}})[-1]["text"]


def test_the_default_is_kept_although_fewer_anchors_reach_more(default):
    """What 0.1 recommended, against its own figures."""
    rows = {row["name"]: row["sizes"]["all"] for row in default}
    assert rows["topk (1, 1)"]["reach"] > rows["as set"]["reach"]
    assert rows["topk (1, 1)"]["untrainable"] > rows["as set"]["untrainable"]
    assert start_from(default) is default[0]
    assert "keep the default; no other setting" in said(default, RFLAConfig().to_dict())


def test_a_change_is_recommended_that_only_gains():
    rows = sweep(rf="trf", topk_max=0, tal_from=None)
    best, now = start_from(rows), rows[0]
    assert best is not now and best["better"] and not best["worse"]
    assert "P4" in [change.get("level") for change in best["better"]]
    for size, figures in best["sizes"].items():
        assert figures["untrainable"] <= now["sizes"][size]["untrainable"]
        assert figures["missed"] <= now["sizes"][size]["missed"]
    text = said(rows, now["settings"])
    assert f"Settings to start from: {best['name']};" in text and "nothing measurably worse" in text


def test_rows_that_are_worse_somewhere_are_not_recommended():
    row = {
        "kind": "settings",
        "guessed": 0,
        "sizes": {"all": {"untrainable": 0, "levels": None, "reach": 1.0}},
        "strides": STRIDES,
    }
    now, costs, gains = ({**row, "name": n, "better": b, "worse": w} for n, b, w in (("as set", [], []), ("costs", [1], [1]), ("gains", [1], [])))  # fmt: skip # noqa: E501
    other_size = {**gains, "name": "imgsz", "kind": "imgsz"}
    assert start_from([now, costs, other_size])["name"] == "as set"
    assert start_from([now, costs, other_size, gains])["name"] == "gains"


def test_settings_of_ones_own_are_kept_as_set(default):
    assert "keep them as set;" in said(default, RFLAConfig(decay=0.5).to_dict())


@pytest.mark.parametrize(
    "settings", [{}, {"rf": "stride", "rf_scale": 2.0}, {"topk_max": 0}, {"topk_max": 3}, {"rf": "trf", "decay": 0.7}]
)
def test_no_row_comes_twice(settings):
    rows = sweep(**settings)
    assert rows[0]["name"] == "as set"
    assert len({row["name"] for row in rows}) == len(rows)
    for i, row in enumerate(rows):
        assert all(row["sizes"] != other["sizes"] for other in rows[:i] if other["kind"] == row["kind"])


def test_settings_that_are_set_are_not_tried_again(default):
    for name in ("rf stride, rf_scale 2", "topk (3, 1) growing to 30", "decay 0.9"):
        assert not any(name in (row["name"], *row["same"]) for row in default)
    names = [name for row in sweep(topk_max=0) for name in (row["name"], *row["same"])]
    assert "topk (3, 1)" not in names and "topk (3, 1) growing to 30" in names


@pytest.mark.parametrize(
    ("missed", "untrainable", "words"),
    [
        (0, 0, "rfla: 0 of 9 objects (0.0 %) can never be found at IoU 0.5 with this model."),
        (1, 1, "1 gets no positive, the positives of 0 cannot draw it; it is below 8 px (1 of 9)."),
        (2, 3, "2 get no positive, the positives of 1 cannot draw it; they are below 8 px (3 of 9)."),
    ],
)
def test_singular_and_plural(missed, untrainable, words, default):
    counts = {"objects": 9, "missed": missed, "untrainable": untrainable, "positives": 3.0}
    nothing = {"objects": 0, "missed": 0, "untrainable": 0, "positives": None}
    sizes = {"all": {**counts, "levels": [0.995, 0.005]}, "vt": counts, "t": nothing, "s": nothing, "m": nothing}
    arms = {"rfla": {"plain": {"sizes": sizes, "guessed": 0}}}
    levels = {"names": ["P2", "P3"], "bins": None}
    result = {"assigners": arms, "levels": levels, "predictions": None, "one2one": arms, "sweep": [], "task": "detect"}
    texts = [sentence["text"] for sentence in verdict(result)]
    assert texts[0].endswith(words)
    assert texts[1] == "rfla: a level with next to no positives: P3 (0.5 %)."
    nobody = "." if not missed else f", below 8 px {missed} of 9 ({100 * missed / 9:.1f} %)."
    gets = "gets" if missed == 1 else "get"
    share = f"{missed} of 9 objects ({100 * missed / 9:.1f} %)"
    assert texts[2] == f"One-to-one branch, rfla: {share} {gets} no positive{nobody}"
    oriented = verdict({**result, "task": "obb"})[0]["text"]
    assert oriented == texts[0].replace(
        "can never be found at IoU 0.5", "cannot be drawn at IoU 0.5 and their own angle"
    )
    assert all("1 idle levels" not in said([*default[:1], row], {}) for row in default[1:])


def test_nothing_is_said_of_levels_that_are_guessed(tiny_set, tmp_path):
    """Without predictions nobody knows on which levels TAL puts the large objects; their number is known."""
    found = analyze(tiny_set, "yolov8n-p2.yaml", images=4, imgsz=64, tal_from=5.0)
    plain = found.result["assigners"]["rfla"]["plain"]
    left = int((found.tallies["rfla"]["plain"].side >= 5).sum())
    assert 0 < plain["guessed"] == left < plain["sizes"]["all"]["objects"]
    assert not any("idle level" in text or "next to no positives" in text for text in found.verdict)
    assert "objects of 5 px and more it leaves to TAL" in write_page(found, tmp_path).read_text()
    alone = analyze(tiny_set, "yolov8n-p2.yaml", images=4, imgsz=64, tal_from=200.0)
    assert alone.result["assigners"]["rfla"]["plain"]["guessed"] == 0
    assert any("idle level" in text for text in alone.verdict)


def test_what_the_bins_cannot_draw_is_said():
    sizes = {size: {"objects": 1, "missed": 0, "untrainable": 0, "positives": 1.0, "levels": [1]} for size in SIZES}
    distances = {"least": -1.2, "low": -0.5, "high": 4.8, "greatest": 9.4, "below": 0.21, "above": 0.001}
    arms = {"rfla": {"plain": {"sizes": sizes, "guessed": 0}, "augmented": {"distances": distances}}}
    levels = {"names": ["P2"], "bins": (0, 15)}
    result = {"assigners": arms, "levels": levels, "predictions": None, "one2one": {}, "sweep": [], "task": "detect"}
    text = verdict(result)[1]["text"]
    assert "-0.5 to 4.8 cells away in training, at the extremes -1.2 to 9.4; the head draws 0 to 15" in text
    assert "too far for 21.0 % of the positives and not far enough for 0.1 %" in text
    arms["rfla"]["augmented"]["distances"] = None  # no positive at all
    assert len(verdict(result)) == 1
