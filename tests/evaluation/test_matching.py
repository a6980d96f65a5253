"""The matching against faster-coco-eval, to the last bit, and pycocotools."""

from __future__ import annotations

import contextlib
import io
import tracemalloc

import numpy as np
import pytest

from rfla_yolo.evaluation import matching
from rfla_yolo.evaluation.greedy import greedy_match
from rfla_yolo.evaluation.inputs import load_inputs
from rfla_yolo.evaluation.matching import AITOD_AREAS, AT_50, COCO_AREAS, IOU_THRESHOLDS, MAX_DETS, match
from rfla_yolo.pairs import near_pairs

from .test_coco import EXPECTED, GOLDEN, load

faster_coco_eval = pytest.importorskip("faster_coco_eval")


def random_case(seed, images=6, classes=3, objects=60, detections=400, side=60, whole=True):
    """Crowded images: equal boxes and scores, crowds, empty images, objects of every size and beyond the ranges."""
    rng = np.random.default_rng(seed)

    def boxes(count):
        sides = np.exp(rng.uniform(0.5, 3.8, (count, 2)))
        found = np.concatenate((rng.uniform(-5, side, (count, 2)), sides), 1)
        return found.round(0 if whole else 3)

    truth, found = boxes(objects), boxes(detections)
    near = rng.random(detections) < 0.7
    source = rng.integers(objects, size=detections)
    found[near] = (truth[source[near]] + rng.integers(-2, 3, (int(near.sum()), 4))).clip([-99, -99, 0, 0], None)
    gt_image, gt_class = rng.integers(images - 1, size=objects), rng.integers(classes, size=objects)
    image = np.where(rng.random(detections) < 0.9, gt_image[source], rng.integers(images, size=detections))
    label = np.where(rng.random(detections) < 0.9, gt_class[source], rng.integers(classes, size=detections))
    score = rng.random(detections).round(1 if whole else 7)
    area = np.where(rng.random(objects) < 0.5, truth[:, 2:].prod(1), rng.choice([0, 64, 64.5, 256, 2e10], objects))
    gt = {
        "images": [{"id": 3 * i + 1, "file_name": f"{i}.png"} for i in range(images)],
        "categories": [{"id": 2 * k + 1, "name": f"class {k}"} for k in range(classes)],
        "annotations": [
            {
                "id": n + 1,
                "image_id": int(3 * gt_image[n] + 1),
                "category_id": int(2 * gt_class[n] + 1),
                "bbox": truth[n].tolist(),
                "area": float(area[n]),
                "iscrowd": int(rng.random() < 0.1),
            }
            for n in range(objects)
        ],
    }
    dt = [
        {"image_id": int(3 * i + 1), "category_id": int(2 * k + 1), "bbox": b, "score": float(s)}
        for i, k, b, s in zip(image, label, found.tolist(), score)
    ]
    return gt, dt


def library(gt, dt, areas):
    """Run faster-coco-eval with our parameters."""
    coco = faster_coco_eval.COCO(gt)
    found = coco.loadRes([{**d, "segmentation": []} for d in dt])
    run = faster_coco_eval.COCOeval_faster(
        coco, found, iouType="bbox", print_function=lambda *_, **__: None, separate_eval=True
    )
    return prepared(run, areas)


def prepared(run, areas):
    run.params.iouThrs = IOU_THRESHOLDS
    run.params.maxDets = list(MAX_DETS)
    run.params.areaRng = [list(area) for area in areas.values()]
    run.params.areaRngLbl = list(areas)
    run.evaluate()
    run.accumulate()
    return run


def assert_equal(result, run, rtol=0):
    np.testing.assert_allclose(result.precision, np.asarray(run.eval["precision"])[..., -1], rtol=rtol)
    np.testing.assert_allclose(result.recall, run.eval["recall"], rtol=rtol)


@pytest.mark.parametrize("areas", [AITOD_AREAS, COCO_AREAS])
@pytest.mark.parametrize("seed", range(12))
def test_equals_faster_coco_eval(seed, areas):
    gt, dt = random_case(seed, whole=seed % 3 > 0)
    result, run = match(load_inputs(gt, dt), areas), library(gt, dt, areas)
    assert_equal(result, run)
    num_images = len(gt["images"])
    for k, matches in enumerate(result.classes.values()):
        for a in range(len(areas)):
            for i in range(num_images):
                state = run._evalImgs_cpp[(k * len(areas) + a) * num_images + i].__getstate__()
                mine = np.flatnonzero(matches.image == i)  # best first
                assert matches.place[mine].tolist() == list(range(len(mine)))
                partner = np.array(state[0]).reshape(len(IOU_THRESHOLDS), len(mine))
                ignored = np.array(state[4], dtype=bool).reshape(partner.shape)
                for t in range(len(IOU_THRESHOLDS)):
                    assert (matches.counts[a, t][mine] == ~ignored[t]).all()
                    assert (matches.hit[a, t][mine] == ((partner[t] > 0) & ~ignored[t])).all()
                if a == 0:
                    ids = [
                        o["id"]
                        for o in gt["annotations"]
                        if (o["image_id"], o["category_id"]) == (3 * i + 1, 2 * k + 1)
                    ]
                    gts = matches.gt_image == i
                    assert (matches.gt_found[:, gts] == [np.isin(ids, row) for row in partner]).all()
                    assert (np.isfinite(matches.gt_score[gts]) == np.isin(ids, partner[AT_50])).all()
                    assert ((matches.iou[mine] > 0) == (partner[AT_50] > 0)).all()
    assert (match(load_inputs(gt, dt), areas, details=False).precision == result.precision).all()


def test_equals_pycocotools():
    coco_module, eval_module = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    gt, dt = random_case(99)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = coco_module.COCO()
        coco.dataset = gt
        coco.createIndex()
        run = prepared(eval_module.COCOeval(coco, coco.loadRes(dt), "bbox"), AITOD_AREAS)
    assert_equal(match(load_inputs(gt, dt)), run, rtol=3e-16)  # it adds 2e-16 to the denominator


@pytest.mark.parametrize("case", EXPECTED)
def test_golden_cases_to_the_last_bit(case):
    files = GOLDEN / f"{case}_gt.json", GOLDEN / f"{case}_dt.json"
    assert_equal(match(load_inputs(*files)), library(load(case, "gt"), load(case, "dt"), AITOD_AREAS))


def test_more_detections_than_count(monkeypatch):
    """Of 1700 detections of one image the best 1500 count; chunks and slices do not show."""
    gt, dt = random_case(5, images=3, classes=1, objects=150, detections=3600, side=300)
    run = library(gt, dt, AITOD_AREAS)
    assert_equal(match(load_inputs(gt, dt)), run)
    monkeypatch.setattr(matching, "CHUNK", 100)
    monkeypatch.setattr("rfla_yolo.evaluation.greedy.MAX_PAIRS", 50)
    monkeypatch.setattr("rfla_yolo.pairs.MAX_PAIRS", 50)
    assert_equal(match(load_inputs(gt, dt)), run)


@pytest.mark.parametrize(("objects", "detections"), [(0, 0), (0, 5), (5, 0)])
def test_nothing_there(objects, detections):
    gt, dt = random_case(1, objects=5, detections=5)
    gt["annotations"], dt = gt["annotations"][:objects], dt[:detections]
    assert_equal(match(load_inputs(gt, dt)), library(gt, dt, AITOD_AREAS))


def test_identical_boxes_take_turns():
    """Every detection wants the same object first: as many rounds as objects."""
    boxes = np.tile([1.0, 1, 5, 5], (40, 1))
    none = np.zeros(40, dtype=bool)
    pairs = near_pairs(boxes, np.zeros(40, dtype=int), boxes, np.zeros(40, dtype=int), none, 0.25)
    case, det, gt = greedy_match(*pairs, none[None], none, IOU_THRESHOLDS)
    assert sorted(case) == sorted([*range(len(IOU_THRESHOLDS))] * 40)
    assert (gt == 39 - det).all()  # of equal objects the last


def test_memory_of_a_detection():
    """Without details: columns go in, flags and figures come out."""
    from rfla_yolo.evaluation.boxes import Detections, Objects
    from rfla_yolo.evaluation.inputs import Inputs

    rng = np.random.default_rng(0)
    count, images = 400_000, 400
    sides = np.exp(rng.uniform(0.7, 3, (count, 2)))
    bbox = np.concatenate((rng.random((count, 2)) * 800, sides), 1)
    image = np.sort(rng.integers(images, size=count)).astype(np.int32)
    label = np.zeros(count, dtype=np.int32)
    chosen = slice(None, None, 20)
    inputs = Inputs(
        images=[{"id": i} for i in range(images)],
        categories=[{"id": 1, "name": "one"}],
        objects=Objects(image[chosen], label[chosen], bbox[chosen], sides[chosen].prod(1), label[chosen] > 0),
        detections=Detections(image, label, bbox, rng.random(count)),
    )
    tracemalloc.start()
    try:
        result = match(inputs, details=False)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.recall[AT_50, 0, 0, -1] > 0.9
    assert peak < 150 * count + 40e6  # the chunk
    assert kept < 1e6
