"""Resampled figures against literal evaluation of the drawn images, and intervals against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rfla_yolo import evaluate
from rfla_yolo.evaluation import compare, write_comparison
from rfla_yolo.evaluation.compare import _t_quantile, half_width, resample

from .test_coco import GOLDEN, load


@pytest.fixture(scope="module")
def sparse():
    """The golden case with distinct scores: copies of an image would reorder detections of equal score."""
    gt, dt = load("sparse", "gt"), load("sparse", "dt")
    rng = np.random.default_rng(0)
    return gt, [{**d, "score": d["score"] + 1e-9 * rng.random()} for d in dt]


def drawn(gt, dt, times):
    """The set in which image i occurs times[i] times."""
    images, annotations, detections = [], [], []
    for i, image in enumerate(sorted(gt["images"], key=lambda image: image["id"])):
        for _ in range(int(times[i])):
            new = len(images) + 1
            images.append({"id": new, "file_name": f"{new}.png"})
            annotations += [{**a, "image_id": new} for a in gt["annotations"] if a["image_id"] == image["id"]]
            detections += [{**d, "image_id": new} for d in dt if d["image_id"] == image["id"]]
    annotations = [{**a, "id": n} for n, a in enumerate(annotations, 1)]
    return {"images": images, "annotations": annotations, "categories": gt["categories"]}, detections


def test_every_figure_of_a_resample_is_that_of_the_drawn_images(sparse):
    gt, dt = sparse
    count = len(gt["images"])
    draws = np.random.default_rng(1).multinomial(count, np.full(count, 1 / count), size=3).T.astype(np.float32)
    draws = np.concatenate((np.ones((count, 1), np.float32), draws), 1)
    got = resample(evaluate(gt, dt).matching, np.arange(count), draws)
    for r in range(draws.shape[1]):
        expected = evaluate(*drawn(gt, dt, draws[:, r])).metrics
        for name, values in got.items():
            assert values[r] == pytest.approx(expected[name], abs=2e-6), (name, r)


def test_groups_are_drawn_together(sparse):
    gt, dt = sparse
    count = len(gt["images"])
    unit_of = np.arange(count) // 10
    draws = np.array([[2, 0, 1, 0, 3, 1]], dtype=np.float32).T[: unit_of.max() + 1]
    got = resample(evaluate(gt, dt).matching, unit_of, draws)
    expected = evaluate(*drawn(gt, dt, draws[unit_of, 0])).metrics
    assert got["AP"][0] == pytest.approx(expected["AP"], abs=2e-6)


def test_olrp_of_a_resample_never_parts_equal_scores(sparse):
    gt, dt = sparse
    dt = [{**d, "score": round(d["score"], 1)} for d in dt]
    count = len(gt["images"])
    draws = np.random.default_rng(2).multinomial(count, np.full(count, 1 / count), size=3).T
    got = resample(evaluate(gt, dt).matching, np.arange(count), draws)["oLRP"]
    for r in range(draws.shape[1]):
        assert got[r] == pytest.approx(evaluate(*drawn(gt, dt, draws[:, r]))["oLRP"], abs=2e-6)


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (29, 2.0452), (120, 1.9799)],
)
def test_t_is_that_of_the_tables(freedom, expected):
    assert _t_quantile(freedom) == pytest.approx(expected, abs=1e-4)


def literal_half_width(whole, without):
    """The same by pseudo-values and loops, from a table of runs and units for each model."""
    units = len(without[0][0])
    pseudo = [
        [[units * value - (units - 1) * left for left in row] for value, row in zip(values, rows)]
        for values, rows in zip(whole, without)
    ]
    difference = [
        sum(row[u] for row in pseudo[1]) / len(pseudo[1]) - sum(row[u] for row in pseudo[0]) / len(pseudo[0])
        for u in range(units)
    ]
    mean = sum(difference) / units
    parts = [(sum((d - mean) ** 2 for d in difference) / (units * (units - 1)), units - 1)]
    for values in whole:
        runs = len(values)
        if runs > 1:
            scatter = sum((value - sum(values) / runs) ** 2 for value in values) / (runs - 1)
            parts.append((scatter / runs, runs - 1))
    total = sum(part for part, _ in parts)
    return _t_quantile(total**2 / sum(part**2 / freedom for part, freedom in parts)) * math.sqrt(total)


@pytest.mark.parametrize(("runs", "interaction"), [((1, 1), 0.1), ((3, 2), 0.1), ((6, 6), 0.02), ((1, 4), 1.0)])
def test_half_width_is_that_of_the_loops(runs, interaction):
    rng = np.random.default_rng(0)
    whole = [rng.normal(size=count) for count in runs]
    without = [w[:, None] + rng.normal(0, 0.1, 5) + rng.normal(0, interaction, (len(w), 5)) for w in whole]
    assert half_width(whole, without) == pytest.approx(literal_half_width(whole, without))


def test_half_width_of_runs_alone_is_that_of_welch():
    """Where no unit changes anything, the interval is Welch's for two samples of runs."""
    whole = [np.array([1.0, 2.0, 4.0]), np.array([3.0, 3.5, 5.0, 7.0])]
    first, second = (values.var(ddof=1) / len(values) for values in whole)
    freedom = (first + second) ** 2 / (first**2 / 2 + second**2 / 3)
    without = [np.repeat(values[:, None], 4, 1) for values in whole]
    assert half_width(whole, without) == pytest.approx(_t_quantile(freedom) * math.sqrt(first + second))


class TestCompare:
    def test_a_model_with_itself(self):
        result = compare(GOLDEN / "mid_dt.json", GOLDEN / "mid_dt.json", GOLDEN / "mid_gt.json")
        for difference in result.figures.values():
            assert (difference.difference, difference.low, difference.high, difference.sign) == (0, 0, 0, "0")

    def test_a_better_model_is_seen(self, sparse):
        """Half of the detections of the second model are gone."""
        gt, dt = sparse
        result = compare(dt[::2], dt, gt)
        figure = result["AR100"]
        assert figure.sign == "+"
        assert figure.low < figure.difference < figure.high
        assert figure.first == pytest.approx(evaluate(gt, dt[::2])["AR100"])
        assert compare(dt, dt[::2], gt)["AR100"].sign == "-"

    def test_no_detections_at_all(self, sparse):
        gt, dt = sparse
        result = compare([], dt, gt)
        assert (result.runs, result["AP"].first, result["AP"].sign) == ((1, 1), 0, "+")
        with pytest.raises(ValueError, match="predictions: expected a list of detections, found dict"):
            compare(gt, dt, gt)

    def test_sides_swapped_the_interval_changes_its_sign(self, sparse):
        gt, dt = sparse
        one, other = compare([dt[::2], dt[::3]], dt, gt), compare(dt, [dt[::2], dt[::3]], gt)
        for name, difference in one.figures.items():
            assert (difference.low, difference.high) == pytest.approx((-other[name].high, -other[name].low))

    def test_is_the_same_each_time(self, sparse):
        gt, dt = sparse
        assert compare(dt[::2], dt, gt) == compare(dt[::2], dt, gt)

    def test_groups_left_out_in_turn_by_evaluating_the_others(self, sparse):
        gt, dt = grouped(*sparse, 5)
        sides = [dt[::2], dt[::3]], [dt, dt[::4], dt[1::2]]
        result = compare(*sides, gt, groups="^flight(.)")
        rest = [[i["id"] for i in gt["images"] if not i["file_name"].startswith(f"flight{g}")] for g in range(5)]
        for name in ("AP", "APvt", "AR1", "oLRP"):
            whole = [[evaluate(gt, run)[name] for run in side] for side in sides]
            without = [[[evaluate(gt, run, ids)[name] for ids in rest] for run in side] for side in sides]
            half = literal_half_width(whole, without)
            middle = sum(whole[1]) / 3 - sum(whole[0]) / 2
            assert result[name].difference == pytest.approx(middle)
            assert (result[name].low, result[name].high) == pytest.approx((middle - half, middle + half), abs=1e-4)

    def test_interval_shrinks_with_units(self, sparse):
        """Four times the groups, copies of the first: half the standard error, and a smaller t."""
        few, many = grouped(*sparse, 6), [{"images": [], "annotations": [], "categories": sparse[0]["categories"]}, []]
        for copy in range(4):
            new = {image["id"]: (copy, image["id"]) for image in few[0]["images"]}
            number = {key: len(many[0]["images"]) + i for i, key in enumerate(new.values(), 1)}
            of = {old: number[key] for old, key in new.items()}
            many[0]["images"] += [
                {"id": of[image["id"]], "file_name": f"{copy}{image['file_name']}"} for image in few[0]["images"]
            ]
            many[0]["annotations"] += [
                {**a, "image_id": of[a["image_id"]], "id": 1_000_000 * copy + n}
                for n, a in enumerate(few[0]["annotations"], 1)
            ]
            many[1] += [{**d, "image_id": of[d["image_id"]]} for d in few[1]]
        one, four = (compare(dt[::2], dt, gt, groups=r"^\d?flight.")["AR100"] for gt, dt in (few, many))
        ratio = (four.high - four.low) / (one.high - one.low)
        assert ratio == pytest.approx(math.sqrt(5 / 23) * _t_quantile(23) / _t_quantile(5), rel=0.25)

    def test_several_runs(self, sparse):
        """The scatter of the runs counts: the interval is wider than that of either run alone."""
        gt, dt = sparse
        good, bad = dt, dt[::3]
        both = compare([good, bad], [good, bad], gt)
        assert both.runs == (2, 2)
        assert both["AR100"].difference == 0
        assert both["AR100"].high - both["AR100"].low > 0.05
        mean = (evaluate(gt, good)["AP"] + evaluate(gt, bad)["AP"]) / 2
        assert both["AP"].first == pytest.approx(mean)

    def test_groups_by_file_name(self, sparse):
        gt, dt = sparse
        named = {
            **gt,
            "images": [{**im, "file_name": f"flight{i % 4}_{i:03d}.png"} for i, im in enumerate(gt["images"])],
        }
        assert compare(dt, dt, named, groups=r"flight(\d)").units == 4
        assert compare(dt, dt, named).units == len(gt["images"])
        with pytest.raises(ValueError, match="matches nothing in file name"):
            compare(dt, dt, named, groups="ship")
        with pytest.raises(ValueError, match="puts all images into one group"):
            compare(dt, dt, named, groups="flight")
        with pytest.raises(ValueError, match=r"^groups 'flight\(' is no regular expression: missing \)"):
            compare(dt, dt, named, groups="flight(")

    def test_one_image_is_not_enough(self):
        with pytest.raises(ValueError, match="1 image, two or more units are needed"):
            compare([], [], {"images": [{"id": 1}], "annotations": [], "categories": []})

    def test_a_figure_of_one_unit_has_no_interval(self, sparse):
        """Without the only flight with objects below 8 px there is no APvt, so nothing says how it varies."""
        gt, dt = grouped(*sparse, 4)
        first = {image["id"] for image in gt["images"] if image["file_name"].startswith("flight0")}
        gt = {**gt, "annotations": [a for a in gt["annotations"] if a["image_id"] in first or a["area"] > 64]}
        result = compare(dt[::2], dt, gt, groups="^flight(.)")
        figure = result["APvt"]
        assert figure.difference == pytest.approx(figure.second - figure.first)
        assert (figure.low, figure.high, figure.sign) == (None, None, "")
        assert result["AP"].low is not None
        assert result.table()

    @pytest.mark.parametrize("images", [2, 4])
    def test_units_that_all_say_the_same_give_no_interval(self, images):
        """All or nothing in every image: no sign of certainty from two or four of them."""
        gt, dt = alike(images)
        figure = compare([], dt, gt)["AP"]
        assert figure.difference == pytest.approx(1)
        assert (figure.low, figure.high, figure.sign) == (None, None, "")
        same = compare(dt, dt, gt)["AP"]
        assert (same.low, same.high, same.sign) == (0, 0, "0")

    def test_no_interval_goes_beyond_what_can_be(self):
        """Two images, one object found in one of them: 12.7 standard errors."""
        gt, dt = alike(2)
        figures = compare([], dt[:1], gt).figures
        assert figures["AR100"].difference == pytest.approx(0.5)
        assert (figures["AR100"].low, figures["AR100"].high, figures["AR100"].sign) == (-1, 1, "0")

    @pytest.mark.parametrize("pattern", [r"(v\d)?", r"(v\d)?_?\d+\.png", r"^v?"])
    def test_groups_of_empty_text(self, pattern):
        """All files that match nothing would be one unit."""
        gt, dt = alike(4)
        images = [{**image, "file_name": f"{'v1_' * (i < 2)}{i}.png"} for i, image in enumerate(gt["images"])]
        with pytest.raises(ValueError, match=r"matches empty text in file name '2.png'"):
            compare(dt, dt, {**gt, "images": images}, groups=pattern)

    def test_groups_of_another_type(self):
        gt, dt = alike(2)
        with pytest.raises(TypeError, match="groups must be a regular expression as text, not 3"):
            compare(dt, dt, gt, groups=3)

    def test_few_units_are_named_and_warned_of(self, sparse, tmp_path):
        gt, dt = grouped(*sparse, 9)
        gt = {**gt, "annotations": [a for a in gt["annotations"] if a["area"] < 1024]}  # the others are in few units
        result = compare(dt[::2], [dt, dt], gt, groups="^flight(.)")
        warning = "only 9 independent units, fewer than 10: the intervals are wide and approximate"
        assert result.table().splitlines()[-2:] == ["9 independent units, 1 and 2 runs", f"Warning: {warning}"]
        assert (result.to_dict()["units"], result.to_dict()["warning"]) == (9, warning)
        page = write_comparison(result, tmp_path).read_text()
        assert "9 independent units, 1 and 2 runs" in page
        assert f"Warning: {warning}." in page

    def test_ten_units_are_not_warned_of(self, sparse, tmp_path):
        gt, dt = grouped(*sparse, 10)
        gt = {**gt, "annotations": [a for a in gt["annotations"] if a["area"] < 1024]}  # the others are in few units
        result = compare(dt[::2], dt, gt, groups="^flight(.)")
        assert result.to_dict()["warning"] is None
        assert result.table().splitlines()[-1] == "10 independent units, 1 and 1 runs"
        assert "APvt" in result.table()
        assert "Warning" not in write_comparison(result, tmp_path).read_text()

    def test_units_of_unlike_size_are_worth_less(self, sparse, tmp_path):
        """Of twelve groups one has 80 % of the images: fewer degrees of freedom, a warning, and both are told."""
        gt, dt = sparse
        count = len(gt["images"])
        names = [f"flight{max(0, i - count * 4 // 5) % 12:x}_{i}.png" for i in range(count)]
        gt = {**gt, "images": [{**image, "file_name": name} for image, name in zip(gt["images"], names)]}
        result = compare(dt[::2], dt, gt, groups="^flight(.)")
        assert result.units == 12
        assert 1 < result["AP"].units < 2
        assert result.to_dict()["figures"]["AP"]["units"] == result["AP"].units
        told = f"12 independent units that are worth {result['AP'].units:.1f} of like size"
        assert result.warning == f"only {told}, fewer than 10: the intervals are wide and approximate"
        assert f"{told}, 1 and 1 runs" in result.table()
        assert told in write_comparison(result, tmp_path).read_text()

    def test_a_figure_of_few_units_is_named(self, sparse):
        """Objects below 8 px in three images of all: three units, not all, are behind APvt."""
        gt, dt = sparse
        tiny = sorted({a["image_id"] for a in gt["annotations"] if a["area"] <= 64})[:3]
        gt = {**gt, "annotations": [a for a in gt["annotations"] if a["image_id"] in tiny or a["area"] > 64]}
        result = compare(dt[::2], dt, gt)
        assert (result["APvt"].units, result["ARvt"].units) == (3, 3)
        assert result["AP"].units == result.units == len(gt["images"])
        assert "units behind APvt (3.0)" in result.table().splitlines()[-2]
        assert result.warning.startswith("only units behind APvt (3.0)")


def test_effective_units_bound_the_degrees_of_freedom():
    rng = np.random.default_rng(0)
    whole, without = [np.array([0.5]), np.array([0.7])], [rng.random((1, 12)), rng.random((1, 12))]
    ratio = half_width(whole, without, 4) / half_width(whole, without)
    assert ratio == pytest.approx(_t_quantile(3) / _t_quantile(11))
    assert half_width(whole, without, 12) == half_width(whole, without)


def alike(count):
    """Images with one object each, found exactly."""
    box = {"category_id": 1, "bbox": [4, 4, 6, 6]}
    gt = {"images": [{"id": i, "file_name": f"{i}.png"} for i in range(count)], "categories": [{"id": 1, "name": "a"}]}
    gt["annotations"] = [{**box, "id": i + 1, "image_id": i} for i in range(count)]
    return gt, [{**box, "image_id": i, "score": 0.9} for i in range(count)]


def grouped(gt, dt, groups):
    """The images named flight0, flight1, ... in turn."""
    images = [{**image, "file_name": f"flight{i % groups:x}_{i}.png"} for i, image in enumerate(gt["images"])]
    return {**gt, "images": images}, dt
