"""Oriented boxes: their IoU against shapely and OpenCV, their figures against axis-aligned ones and Ultralytics'."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from rfla_yolo import compare, evaluate
from rfla_yolo.evaluation import write_comparison, write_page
from rfla_yolo.evaluation.inputs import load_inputs
from rfla_yolo.evaluation.matching import IOU_THRESHOLDS, match, pairwise_iou
from rfla_yolo.evaluation.pages import _marks
from rfla_yolo.pairs import near_pairs
from rfla_yolo.rotated import corners, hulls, intersections

from .test_matching import random_case


def shapely_iou(a, b):
    """On a grid: of boxes that touch but for rounding, shapely otherwise sometimes returns one of them whole."""
    first, second = (shapely.polygons(corners(boxes)) for boxes in (a, b))
    common = shapely.area(shapely.intersection(first, second, grid_size=1e-10))
    return common / (a[:, 2:4].prod(1) + b[:, 2:4].prod(1) - common)


def random_boxes(seed, count=20_000, spread=30):
    """From 0.1 to 150 px, up to 1500:1, at any angle."""
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(-2, 5, (count, 2)))
    return np.column_stack((rng.uniform(0, spread, (count, 2)), sides, rng.uniform(-6, 6, count)))


def test_iou_of_random_boxes_is_shapelys():
    a, b = random_boxes(0), random_boxes(1)
    b[::5, 4] = a[::5, 4]  # parallel
    b[::7, 4] = a[::7, 4] + np.pi / 2
    b[::11, :2] = a[::11, :2]  # of one centre, one inside of the other or a cross
    iou = pairwise_iou(a, b)
    assert (iou > 0).mean() > 0.3
    np.testing.assert_allclose(iou, shapely_iou(a, b), atol=1e-8)
    np.testing.assert_allclose(iou, pairwise_iou(b, a), atol=1e-11)


def test_iou_of_random_boxes_is_opencvs():
    a, b = random_boxes(2, 2000), random_boxes(3, 2000)
    degrees = [[((x, y), (w, h), np.degrees(t)) for x, y, w, h, t in boxes.tolist()] for boxes in (a, b)]
    areas = []
    for first, second in zip(*degrees):
        kind, region = cv2.rotatedRectangleIntersection(first, second)
        areas.append(0.0 if kind == cv2.INTERSECT_NONE else cv2.contourArea(cv2.convexHull(region)))
    np.testing.assert_allclose(intersections(a, b), areas, rtol=2e-3, atol=2e-3)  # float32 there


number = st.floats(-1, 1).map(lambda x: round(x, 3))
side = st.sampled_from([1e-3, 0.1, 1.0, 1.5, 8.0, 400.0])
angle = st.one_of(st.sampled_from([0.0, np.pi / 4, np.pi / 2, np.pi, -np.pi / 3, 1e-9]), st.floats(-6, 6))
boxes = st.tuples(number, number, side, side, angle)


@settings(max_examples=300, deadline=None)
@given(boxes, boxes, st.sampled_from(["free", "same angle", "same centre", "touching", "corner", "inside"]), angle)
def test_iou_of_any_two_boxes(first, second, how, turn):
    """Parallel, touching, one inside of the other, tiny and elongated; turned and moved as one they share the same."""
    a, b = (np.array([box], dtype=float) for box in (first, second))
    if how != "free":
        b[:, 4] = a[:, 4]
    if how == "same centre":
        b[:, :2] = a[:, :2]
    if how in ("touching", "corner"):
        along = [np.cos(a[0, 4]), np.sin(a[0, 4])]
        b[0, :2] = a[0, :2] + (a[0, 2] + b[0, 2]) / 2 * np.array(along)
        if how == "corner":
            b[0, :2] += (a[0, 3] + b[0, 3]) / 2 * np.array([-along[1], along[0]])
    if how == "inside":
        b[0, :4] = *a[0, :2], *a[0, 2:4] / 2
    iou = pairwise_iou(a, b)
    assert iou == pytest.approx(shapely_iou(a, b), abs=1e-5)
    if how in ("touching", "corner"):
        assert iou == pytest.approx(0, abs=1e-9)
    if how == "inside":
        assert iou == pytest.approx(0.25, abs=1e-9)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    moved = [np.column_stack((box[:, :2] @ rotation + 5, box[:, 2:4], box[:, 4] + turn)) for box in (a, b)]
    assert pairwise_iou(*moved) == pytest.approx(iou, abs=1e-9)


def test_identical_boxes_share_all():
    a = random_boxes(4)
    assert pairwise_iou(a, a) == pytest.approx(np.ones(len(a)), abs=1e-12)
    quarter = np.column_stack((a[:, :2], a[:, 3], a[:, 2], a[:, 4] - np.pi / 2))  # the same rectangle
    assert pairwise_iou(a, quarter) == pytest.approx(np.ones(len(a)), abs=1e-9)


def test_corners_are_ultralytics():
    from ultralytics.utils import ops

    a = random_boxes(5, 50)
    np.testing.assert_allclose(corners(a), ops.xywhr2xyxyxyxy(a))
    low, high = corners(a).min(1), corners(a).max(1)
    np.testing.assert_allclose(hulls(a), np.concatenate((low, high - low), 1), atol=1e-9)


def test_near_pairs_are_all_pairs():
    """Against all pairs of a group, crowds by their share; long and narrow boxes whose hulls overlap far more."""
    a, b = random_boxes(6, 400, spread=90), random_boxes(7, 300, spread=90)
    rng = np.random.default_rng(0)
    group, gt_group, crowd = rng.integers(3, size=400), rng.integers(3, size=300), rng.random(300) < 0.2
    det, gt = (column.ravel() for column in np.indices((400, 300)))
    common = shapely.area(shapely.intersection(shapely.polygons(corners(a))[det], shapely.polygons(corners(b))[gt]))
    own = a[:, 2:4].prod(1)[det]
    iou = common / np.where(crowd[gt], own, own + b[:, 2:4].prod(1)[gt] - common)
    chosen = (group[det] == gt_group[gt]) & (iou >= 0.1)
    found = near_pairs(a, group, b, gt_group, crowd, 0.1)
    order = np.lexsort((found[1], found[0]))
    assert (found[0][order] == det[chosen]).all() and (found[1][order] == gt[chosen]).all()
    np.testing.assert_allclose(found[2][order], iou[chosen], atol=1e-9)


@pytest.mark.filterwarnings("error")
def test_boxes_without_an_area_match_nothing():
    line = np.array([[5.0, 5, 8, 0, 0.3]])
    none = np.zeros(1, dtype=int)
    assert len(near_pairs(line, none, line, none, none > 0, 0.25)[0]) == 0


def oriented(gt, dt):
    """The same boxes with an angle of 0."""

    def turned(entry):
        x, y, w, h = entry["bbox"]
        return {**{k: v for k, v in entry.items() if k != "bbox"}, "rbox": [x + w / 2, y + h / 2, w, h, 0.0]}

    return {**gt, "annotations": list(map(turned, gt["annotations"]))}, list(map(turned, dt))


@pytest.mark.parametrize("seed", range(6))
def test_angle_0_gives_the_axis_aligned_figures(seed):
    """Of whole px there is no rounding: every figure is the same to the last bit."""
    gt, dt = random_case(seed)
    assert evaluate(*oriented(gt, dt)).to_dict() == evaluate(gt, dt).to_dict()


def test_the_area_is_width_times_height():
    """Not that of the hull: 6 x 6 px at 45 degrees is of the smallest size."""
    gt, dt = one()
    result = evaluate(gt, dt)
    assert result["APvt"] == pytest.approx(1) and result["APt"] is None


def turned_case(seed, by=0.7, **options):
    """Random scenes of oriented boxes, and the same turned around the origin."""
    rng = np.random.default_rng(seed)
    gt, dt = oriented(*random_case(seed, whole=False, **options))
    for entry in [*gt["annotations"], *dt]:
        entry["rbox"][4] = float(rng.choice([0, 0.3, np.pi / 2, 2]))
    scenes = [(gt, dt)]
    cos, sin = np.cos(by), np.sin(by)

    def moved(entry):
        x, y, w, h, angle = entry["rbox"]
        return {**entry, "rbox": [x * cos - y * sin, x * sin + y * cos, w, h, angle + by]}

    scenes.append(({**gt, "annotations": list(map(moved, gt["annotations"]))}, list(map(moved, dt))))
    return scenes


@pytest.mark.parametrize("seed", range(3))
def test_a_turned_scene_has_the_same_figures(seed):
    first, second = (evaluate(*scene) for scene in turned_case(seed))
    assert first["AP50"] > 0 and first.errors["localisation"]["all"]["count"] > 0
    for figures in ("metrics", "errors", "by_size"):
        assert str(rounded(getattr(first, figures))) == str(rounded(getattr(second, figures)))


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    return round(value, 9) if isinstance(value, float) else value


@pytest.mark.parametrize("seed", range(3))
def test_matching_is_coco_s(seed):
    """Against a literal loop over detections, thresholds and objects; equal IoU goes to the later object."""
    (gt, dt), _ = turned_case(seed, classes=1, detections=200)
    gt["annotations"] = [{**a, "iscrowd": 0, "area": 100.0} for a in gt["annotations"]]
    result = next(iter(match(load_inputs(gt, dt)).classes.values()))
    for image in gt["images"]:
        truth = [a["rbox"] for a in gt["annotations"] if a["image_id"] == image["id"]]
        found = sorted((d for d in dt if d["image_id"] == image["id"]), key=lambda d: -d["score"])
        if not truth or not found:
            continue
        pairs = np.array([(d["rbox"], t) for d in found for t in truth])
        iou = shapely_iou(pairs[:, 0], pairs[:, 1]).reshape(len(found), -1)
        mine = np.flatnonzero(result.image == image["id"] // 3)
        for t, threshold in enumerate(IOU_THRESHOLDS):
            free, hits = set(range(len(truth))), []
            for row in iou:
                best = max(free, key=lambda g, row=row: (round(row[g], 9), g), default=None)
                hits.append(best is not None and row[best] >= threshold)
                free -= {best} if hits[-1] else set()
            assert result.hit[0, t][mine].tolist() == hits


def one(change=None, change_dt=None):
    """One oriented object of 6 x 6 px that is found, with changed entries."""
    box = {"image_id": 1, "category_id": 1, "rbox": [20.0, 20, 6, 6, np.pi / 4]}
    gt = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "ship"}]}
    return {**gt, "annotations": [{**box, "id": 1, **(change or {})}]}, [{**box, "score": 0.9, **(change_dt or {})}]


@pytest.mark.parametrize("index", [0, 1])
def test_of_a_quarter_turn_the_same(index):
    """A box and its quarter turn are one rectangle."""
    turned = {"rbox": [20.0, 20, 6, 6, np.pi / 4 + np.pi / 2]}
    assert evaluate(*one(*([turned, None] if index else [None, turned])))["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "change_dt", "message"),
    [
        ({"rbox": [20, 20, 6, 6]}, {}, r"annotation 0: rbox \[20, 20, 6, 6\] is not centre x, centre y, width, height"),
        ({"rbox": [20, 20, -6, 6, 0]}, {}, "annotation 0: rbox"),
        ({}, {"rbox": [20, 20, 6, 6, 45.0]}, "entry 0: rbox .* angle 45 is more than a turn; expected radians"),
        ({}, {"rbox": [20, 20, 6, float("nan"), 0]}, "entry 0: rbox"),
        ({"rbox": None, "bbox": [17, 17, 6, 6]}, {}, r"predictions has oriented boxes \(rbox\), annotations has none"),
        ({"bbox": [1, 1, 6, 6]}, {"rbox": None, "bbox": [17, 17, 6, 6]}, r"annotations has oriented .* predictions"),
    ],
)
def test_what_cannot_be_is_named(change, change_dt, message):
    with pytest.raises(ValueError, match=message):
        evaluate(*one(change, change_dt))


@pytest.mark.parametrize("source", [0, 1])
def test_a_mixture_is_refused(source):
    gt, dt = one()
    entries = (gt["annotations"], dt)[source]
    entries.append({**{k: v for k, v in entries[0].items() if k != "rbox"}, "id": 2, "bbox": [1, 1, 5, 5]})
    with pytest.raises(ValueError, match=r"(annotations, annotation|predictions, entry) 1: no rbox, though others"):
        evaluate(gt, dt)


def test_one_side_may_be_empty():
    gt, dt = one()
    assert evaluate(gt, [])["AP50"] == 0
    assert evaluate({**gt, "annotations": []}, dt)["AP50"] is None


def test_pages_and_comparison(tmp_path):
    gt, dt = turned_case(1)[0]
    result = evaluate(gt, dt)
    files = {image["id"]: tmp_path / f"{image['id']}.png" for image in gt["images"]}
    for file in files.values():
        cv2.imwrite(str(file), np.full((80, 80), 90, np.uint8))
    page = write_page(result, tmp_path / "page", files).read_text()
    assert "worst.png" in re.findall(r'src="([^"]+)"', page)
    missed = _marks(result, 0.0)
    drawn = np.concatenate([np.array(m["missed"]).reshape(-1, 4, 2) for m in missed.values()])
    truth = corners(np.array([a["rbox"] for a in gt["annotations"]]))
    assert len(drawn) and (np.abs(drawn[:, None] - truth).max((2, 3)).min(1) < 1e-9).all()
    comparison = compare(dt, dt[::2], gt)
    assert comparison.figures["AP50"].difference < 0
    assert "AP50" in write_comparison(comparison, tmp_path / "comparison").read_text()


class TestUltralytics:
    """Its OBB metrics match by ProbIoU, the similarity of two Gaussians, not by the IoU of two rectangles."""

    def figures(self, gt, dt, similarity):
        """Return AP by class and threshold as its validator computes it, from a similarity of boxes."""
        import torch
        from ultralytics.models.yolo.obb import OBBValidator
        from ultralytics.utils.metrics import ap_per_class

        validator = OBBValidator(args={"model": "yolo11n-obb.yaml"})
        hits, scores, labels = [], [], []
        for image in gt["images"]:
            truth = [a for a in gt["annotations"] if a["image_id"] == image["id"]]
            found = sorted((d for d in dt if d["image_id"] == image["id"]), key=lambda d: -d["score"])
            boxes = [torch.tensor([e["rbox"] for e in side]).reshape(-1, 5) for side in (truth, found)]
            classes = [torch.tensor([e["category_id"] for e in side]) for side in (truth, found)]
            if truth and found:
                iou = similarity(*boxes)
                hits.append(validator.match_predictions(classes[1], classes[0], iou).numpy())
            else:
                hits.append(np.zeros((len(found), 10), dtype=bool))
            scores += [d["score"] for d in found]
            labels += [d["category_id"] for d in found]
        target = np.array([a["category_id"] for a in gt["annotations"]])
        return ap_per_class(np.concatenate(hits), np.array(scores), np.array(labels), target)[5]  # (classes, 10)

    def test_its_predictions_are_read(self):
        """As its validator writes them; boxes of its own form are those of the ground truth."""
        import torch
        from ultralytics.models.yolo.obb import OBBValidator

        gt, _ = sparse_case(np.random.default_rng(1), objects=40)
        gt["images"][0]["file_name"] = "0001.png"
        validator = OBBValidator(args={"model": "yolo11n-obb.yaml"})
        validator.jdict, validator.class_map = [], [1, 2]
        boxes = torch.tensor([a["rbox"] for a in gt["annotations"]])
        classes = torch.tensor([a["category_id"] - 1.0 for a in gt["annotations"]])
        found = {"bboxes": boxes, "conf": torch.linspace(0.1, 0.9, len(boxes)), "cls": classes}
        validator.pred_to_json(found, {"im_file": "images/0001.png"})
        assert evaluate(gt, validator.jdict)["AP"] == pytest.approx(1)

    def test_fed_with_our_matches_its_figures_are_ours(self):
        """One object near each detection, so that the order of matching cannot matter: ap_per_class reads 101
        recalls off a line between points where COCO takes the highest precision, a difference below a point."""
        import torch

        rng = np.random.default_rng(3)
        gt, dt = sparse_case(rng)

        def exact(truth, found):
            pairs = [np.repeat(truth.numpy(), len(found), 0), np.tile(found.numpy(), (len(truth), 1))]
            return torch.from_numpy(pairwise_iou(*pairs).reshape(len(truth), len(found)))

        theirs, ours = self.figures(gt, dt, exact), evaluate(gt, dt)
        assert 0.2 < ours["AP"] < 0.9
        assert theirs.mean() == pytest.approx(ours["AP"], abs=0.01)
        assert theirs[:, 0].mean() == pytest.approx(ours["AP50"], abs=0.01)

    def test_probiou_is_kinder(self):
        """What the documents say of the two: the same matches of exact boxes, other ones of boxes that are off."""
        import torch
        from ultralytics.utils.metrics import batch_probiou

        rng = np.random.default_rng(3)
        gt, dt = sparse_case(rng)
        exact = [{**d, "rbox": gt["annotations"][i]["rbox"]} for i, d in enumerate(dt[: len(gt["annotations"])])]
        assert self.figures(gt, exact, batch_probiou).min() > 0.99 and evaluate(gt, exact)["AP"] == pytest.approx(1)
        theirs, ours = self.figures(gt, dt, batch_probiou), evaluate(gt, dt)
        assert theirs.mean() > ours["AP"] + 0.02
        box = torch.tensor([[0.0, 0, 10, 10, 0]])
        shifted = box + torch.tensor([5.0, 0, 0, 0, 0])
        assert float(batch_probiou(box, shifted)) == pytest.approx(0.44, abs=0.005)
        assert pairwise_iou(box.numpy(), shifted.numpy())[0] == pytest.approx(1 / 3)


def sparse_case(rng, objects=300):
    """Objects on a grid, far apart, each with a detection that is off and one beside it that is nothing."""
    places = np.stack(np.divmod(np.arange(objects), 20), 1) * 100 + 50.0
    truth = np.column_stack(
        (places, rng.uniform(8, 20, objects), rng.uniform(8, 20, objects), rng.uniform(0, 3, objects))
    )
    near = truth + rng.normal(0, 1, (objects, 5)) * [1.5, 1.5, 1, 1, 0.1]
    near[:, 2:4] = near[:, 2:4].clip(2)
    far = near + np.array([45, 45, 0, 0, 0])
    names = {"images": [{"id": 1}], "categories": [{"id": k, "name": f"class {k}"} for k in (1, 2)]}
    label = rng.integers(1, 3, objects).tolist()
    gt = [
        {"id": i, "image_id": 1, "category_id": k, "rbox": box}
        for i, (k, box) in enumerate(zip(label, truth.tolist()), start=1)
    ]
    scores = rng.permutation(2 * objects) / (2 * objects) * 0.5 + np.repeat([0.5, 0.3], objects)
    dt = [
        {"image_id": 1, "category_id": k, "rbox": box, "score": float(s)}
        for k, box, s in zip(label * 2, [*near.tolist(), *far.tolist()], scores)
    ]
    return {**names, "annotations": gt}, dt
