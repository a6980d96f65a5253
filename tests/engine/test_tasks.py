"""Segment, pose and oriented boxes: the losses under RFLA, and a training of each."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import OBBModel, PoseModel, SegmentationModel
from ultralytics.utils import ASSETS
from ultralytics.utils.loss import E2ELoss

from rfla_yolo import RFLAYOLO, RFLAConfig, RFLATrainer, evaluate, rfla_assign
from rfla_yolo.assign import rfla_match
from rfla_yolo.assign.targets import TAL_EPS
from rfla_yolo.datasets import merge_tiles, tile_dataset, write_task1
from rfla_yolo.engine import RFLAOBBTrainer, RFLAPoseTrainer, RFLASegmentationTrainer, compare_export, export_model
from rfla_yolo.engine.loss import LOSSES, RFLALoss, RFLAMatcher, build_criterion, one_to_many
from rfla_yolo.engine.positives import PositiveCounter
from rfla_yolo.engine.trainer import TRAINERS
from rfla_yolo.engine.validator import SIZE_METRICS, RFLAOBBValidator
from rfla_yolo.rotated import corners

from .conftest import QUICK

MODELS = {"seg": SegmentationModel, "pose": PoseModel, "obb": OBBModel}
SIZE = 256
SIDES = (3.0, 6.0, 12.0, 16.0, 40.0, 70.0, 230.0)  # px, for every level


def model_of(name):
    torch.manual_seed(0)
    task = name.split("-")[1]
    options = {"data_kpt_shape": (3, 3)} if task == "pose" else {}
    model = MODELS[task](f"{name}.yaml", nc=3, verbose=False, **options)
    model.args = get_cfg()
    return model


def batch_of(task, overlap=True):
    """Two images with objects of all sizes, with their masks, keypoints or angles."""
    rows, angles, masks = [], [], torch.zeros(2, SIZE, SIZE)
    ys, xs = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    for image in range(2):
        for i, side in reversed(list(enumerate(SIDES))):  # the largest first, so that the others' masks cover it
            x, y = (0.5, 0.5) if side > SIZE / 2 else (0.2 + 0.1 * i, 0.8 - 0.1 * i)
            rows.append([image, i % 3, x, y, side / SIZE, side / SIZE * (0.5 + 0.5 * image)])
            angles.append(0.4 * i - math.pi / 4)
            inside = ((xs - x * SIZE).abs() <= side / 2) & ((ys - y * SIZE).abs() <= side / 2)
            masks[image][inside] = len(SIDES) - i
    rows = torch.tensor(rows)
    batch = {"batch_idx": rows[:, 0], "cls": rows[:, 1:2], "bboxes": rows[:, 2:]}
    batch["img"] = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    if task == "seg":
        batch["masks"] = masks if overlap else torch.stack([masks[int(i)] == n for i, n in _numbered(rows[:, 0])])
        batch["sem_masks"] = torch.zeros(2, SIZE, SIZE)
    elif task == "pose":
        corners = torch.tensor([[-0.5, -0.5], [0.5, 0.5], [0.0, 0.0]])
        points = rows[:, None, 2:4] + corners * rows[:, None, 4:]
        batch["keypoints"] = torch.cat((points, torch.tensor([2.0, 1.0, 0.0]).expand(len(rows), 3)[..., None]), -1)
    else:
        batch["bboxes"] = torch.cat((batch["bboxes"], torch.tensor(angles)[:, None]), 1)
    return batch


def _numbered(images):
    """Every object's image and its number in it, from 1."""
    return [(i, int((images[: place + 1] == i).sum())) for place, i in enumerate(images)]


def gradients(head):
    """The largest gradient of every branch and level, and of the prototypes."""
    found = {}
    for name, part in head.named_children():
        if name.startswith(("cv", "one2one_cv")) and part is not None:
            found |= {f"{name}.{i}": part[i].parameters() for i in range(head.nl)}
        elif name == "proto":
            found[name] = part.parameters()
    return {name: max(float(p.grad.abs().max()) for p in own if p.grad is not None) for name, own in found.items()}


NEWEST = [f"yolo26n-{task}" for task in MODELS]
STEPS = [(f"yolo{v}n-{task}", "tal") for v in ("v8", "11") for task in MODELS]
STEPS += [(name, one2one) for name in NEWEST for one2one in ("tal", "rfla")]


@pytest.mark.parametrize(("name", "one2one"), STEPS)
def test_one_step(name, one2one):
    model = model_of(name)
    criterion = build_criterion(model, RFLAConfig(one2one=one2one, tal_from=None))
    assert isinstance(one_to_many(criterion), RFLALoss)
    assert isinstance(criterion, E2ELoss) == (name in NEWEST)
    if name in NEWEST:
        assert isinstance(criterion.one2one.assigner, RFLAMatcher) == (one2one == "rfla")
        assert isinstance(criterion.one2one, RFLALoss) == (one2one == "rfla")
    counter = PositiveCounter(criterion)
    batch = batch_of(name.split("-")[1])
    total, items = criterion(model.train()(batch["img"]), batch)
    assert total.isfinite().all() and all(value.isfinite() for value in items.values())
    total.sum().backward()
    found = gradients(model.model[-1])
    assert all(value > 0 for value in found.values()), found
    counted = counter.read()
    assert counted["assign/missed"] == 0
    assert 3 <= counted["assign/positivesvt"] <= 6  # three and their equals, and one of the second stage
    if one2one == "rfla":
        assert counted["assign/missed_one2one"] == 0


@pytest.mark.parametrize("name", [f"yolo{v}n-{task}" for v in ("v8", "26") for task in MODELS])
def test_with_every_object_left_to_tal_the_loss_is_stocks(name):
    """Of every task, in the second step as in the first: nothing of Ultralytics' assigner stays changed."""
    model = model_of(name)
    ours, stock = build_criterion(model, RFLAConfig(tal_from=0.001)), model.init_criterion()
    assert one_to_many(ours).assigner.tables  # the losses of masks and keypoints count positives of target 0 too
    batch = batch_of(name.split("-")[1])
    preds = model.train()(batch["img"])
    for _ in range(2):
        (_, mine), (_, theirs) = ours(preds, batch), stock(preds, batch)
        for key, value in theirs.items():
            assert torch.allclose(mine[key], value, rtol=1e-4), key


class Recorder:
    """Keeps the arguments and outputs of an assigner's calls."""

    def __init__(self, assigner):
        assigner.register_forward_hook(self.keep, with_kwargs=True)

    def keep(self, assigner, args, kwargs, output):
        self.args, self.extra, self.output = args, kwargs, output


@pytest.mark.parametrize("name", [f"yolo{v}n-{task}" for v in ("v8", "26") for task in MODELS])
def test_assignment_is_that_of_rfla_and_targets_have_the_tasks_own_overlap(name):
    """Stock's overlap of every positive pair, as stock's own assigner computes it in a table of all pairs."""
    task = name.split("-")[1]
    model = model_of(name)
    config = RFLAConfig(tal_from=None)
    criterion = build_criterion(model, config)
    branches = {"one2many": one_to_many(criterion)}
    if name in NEWEST:
        branches["one2one"] = build_criterion(model, RFLAConfig(one2one="rfla")).one2one
    batch = batch_of(task)
    preds = model.train()(batch["img"])
    for branch, loss in branches.items():
        recorder = Recorder(loss.assigner)
        loss.loss(preds.get(branch, preds), batch)
        scores, boxes, _, labels, gt, mask = recorder.args
        _, _, target_scores, positive, gt_idx = recorder.output
        grid = [(SIZE // s, SIZE // s) for s in (8, 16, 32)]
        levels = (grid, [8, 16, 32], [16, 32, 64])
        if branch == "one2one":
            expected = rfla_match(gt, mask[..., 0].bool(), *levels)
        else:
            expected = rfla_assign(gt, mask[..., 0].bool(), *levels, topk_max=config.topk_max)
        assert torch.equal(torch.where(positive, gt_idx, -1), expected)

        extra = {key: value for key, value in recorder.extra.items() if key != "anc_strides"}
        stock = type(one_to_many(model.init_criterion()).assigner)
        assert type(loss.assigner.stock) is stock
        assigner = loss.assigner.stock
        assigner.bs, assigner.n_max_boxes, assigner.topk = len(gt), gt.shape[1], 40
        image, anchor = positive.nonzero(as_tuple=True)
        pairs = (image, gt_idx[image, anchor], anchor)
        if name == "yolo26n-seg":
            extra |= {"scores": scores, "labels": labels}
        overlap = assigner.pair_overlaps(pairs, gt, boxes, **extra)
        boxes_alone = type(assigner).iou_calculation(assigner, gt[pairs[:2]], boxes[image, anchor])
        assert (overlap > 0).sum() > 10
        if name in {"yolo26n-seg", "yolo26n-pose"}:  # the task's own part counts
            assert ((overlap - boxes_alone).abs() > 1e-3).sum() > 10 and ((overlap - boxes_alone / 2) > 1e-3).any()
        align = scores[image, anchor, labels[pairs[:2]].long()[:, 0]] ** 0.5 * overlap**6
        same = (pairs[0][:, None] == pairs[0]) & (pairs[1][:, None] == pairs[1])
        best, best_align = ((values * same).amax(1) for values in (overlap, align))
        wanted = align * best / (best_align + TAL_EPS)
        assert torch.allclose(target_scores.sum(-1)[image, anchor], wanted, rtol=1e-4, atol=1e-7)
        assert target_scores.sum() == pytest.approx(float(wanted.sum()), rel=1e-4)


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("name", NEWEST)
def test_batches_without_and_with_one_object(name, rows):
    model = model_of(name)
    batch = {key: value[:rows] for key, value in batch_of(name.split("-")[1]).items() if key not in {"img", "masks"}}
    batch |= {"img": torch.rand(2, 3, SIZE, SIZE), "masks": torch.zeros(2, SIZE, SIZE)}
    if "sem_masks" in batch:
        batch["sem_masks"] = torch.zeros(2, SIZE, SIZE)
    total, _ = build_criterion(model, RFLAConfig(one2one="rfla"))(model.train()(batch["img"]), batch)
    total.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_masks_one_by_one_are_judged_as_overlapping_ones():
    """``overlap_mask=False`` hands every object's mask alone."""
    found = []
    for overlap in (True, False):
        model = model_of("yolo26n-seg")
        model.args.overlap_mask = overlap
        criterion = build_criterion(model, RFLAConfig(one2one="rfla"))
        batch = batch_of("seg", overlap)
        found.append(criterion(model.train()(batch["img"]), batch)[1]["cls_loss"])
    assert found[0] == found[1]


def test_no_task_loss_is_missing():
    from ultralytics.utils import loss

    derived = {c for c in vars(loss).values() if isinstance(c, type) and issubclass(c, loss.v8DetectionLoss)}
    assert derived == {stock for ours in LOSSES.values() for stock in ours.__bases__ if stock is not RFLALoss}


def convert(data, task):
    """Turn the labels of a set of squares into polygons, keypoints or oriented boxes, of w and h / 2, and turned."""
    for file in (data.parent / "labels").rglob("*.txt"):
        rows = []
        for row in np.loadtxt(file, ndmin=2) if file.stat().st_size else []:
            label, x, y, w, h = row
            turn = 0.0 if task != "obb" else 0.3 + len(rows)
            corners = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2 * ([1, 0.5] if task == "obb" else 1)
            corners = corners @ [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]] + (x, y)
            values = corners.clip(0, 1).flatten()
            if task == "pose":
                values = np.r_[x, y, w, h, corners[0], 2, corners[2], 1, 0, 0, 0]
            rows.append(" ".join([f"{label:g}", *(f"{value:.6f}" for value in values)]))
        file.write_text("".join(f"{row}\n" for row in rows))
    if task == "pose":
        data.write_text(data.read_text() + "kpt_shape: [3, 3]\n")


def ground_truth(annotations):
    """COCO of the images of a set of squares."""
    images = [{"id": i + 1, "file_name": f"{i}.png", "width": 64, "height": 64} for i in range(8)]
    names = [{"id": 1, "name": "bright"}, {"id": 2, "name": "dark"}]
    return {"images": images, "categories": names, "annotations": annotations}


PARTS = {"seg": ("B", "M"), "pose": ("B", "P"), "obb": ("B",)}
OPTIONS = {"imgsz": 64, "plots": False, "conf": 1e-4}


@pytest.fixture(scope="module")
def train(tmp_path_factory, tiny_sets):
    """Train a model for two epochs, once."""
    folders = {}

    def run(name):
        if name not in folders:
            folders[name] = root = tmp_path_factory.mktemp(name)
            data = tiny_sets(root)
            convert(data, name.split("-")[1])
            model = RFLAYOLO(f"{name}.yaml")
            plots = {"plots": name == "yolo26n-obb"}  # pictures of rotated boxes
            model.train(data=str(data), project=str(root), name="run", one2one="rfla", **{**QUICK, **plots})
        return folders[name]

    return run


TRAINED = [*NEWEST, *(pytest.param(name, marks=pytest.mark.slow) for name, _ in STEPS[:6])]


@pytest.mark.parametrize("name", TRAINED)
def test_training(name, train):
    root = train(name)
    rows = list(csv.DictReader((root / "run/results.csv").open()))
    parts = PARTS[name.split("-")[1]]
    figures = {f"metrics/{figure}({part})" for part in parts for figure in ("precision", "mAP50-95")}
    assert len(rows) == 2 and {*SIZE_METRICS, *figures, "assign/missed"} <= set(rows[0])
    written = json.loads((root / "run/metrics.json").read_text())
    assert written["objects"] == 28 and figures <= set(written["ultralytics"])


@pytest.mark.parametrize("name", TRAINED)
def test_export(name, train):
    best = train(name) / "run/weights/best.pt"
    assert export_model(best, format="onnx", imgsz=64).is_file()
    difference = compare_export(best, best.with_suffix(".onnx"), ASSETS / "bus.jpg")
    assert max(difference.boxes, difference.scores, difference.others) < 1e-3


@pytest.mark.parametrize("names", [NEWEST, pytest.param([n for n, _ in STEPS[:6]], marks=pytest.mark.slow)])
def test_plain_ultralytics_validates_to_the_same_numbers(names, train, tmp_path):
    folders = {name: str(train(name)) for name in names}
    code = (
        "import sys, json; sys.modules['rfla_yolo'] = None\n"
        "from ultralytics import YOLO\n"
        "found = {}\n"
        f"for name, root in {folders!r}.items():\n"
        "    model = YOLO(f'{root}/run/weights/best.pt')\n"
        "    boxes = len(model.predict(f'{root}/set/images/val/0.png', imgsz=64, conf=1e-4)[0])\n"
        f"    options = dict(data=f'{{root}}/set/set.yaml', project=root, name='plain', max_det=3000, **{OPTIONS!r})\n"
        "    found[name] = model.task, boxes, model.val(**options).results_dict\n"
        f"json.dump(found, open({str(tmp_path / 'plain.json')!r}, 'w'))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    for name, (task, boxes, plain) in json.loads((tmp_path / "plain.json").read_text()).items():
        root = train(name)
        model = RFLAYOLO(root / "run/weights/best.pt")
        ours = model.val(data=str(root / "set/set.yaml"), project=str(root), name="ours", **OPTIONS)
        assert task == model.task and boxes > 0 and plain == ours.results_dict
        assert hasattr(ours, "one_to_one") == (name in NEWEST)
        again = evaluate(root / "ours/annotations.json", root / "ours/predictions.json")
        assert again.metrics == ours.evaluation.metrics and again.num_detections > 0


@pytest.fixture
def labels_as_found(monkeypatch):
    """Let validation of oriented boxes find its own labels, turned by ``turn``."""
    given = SimpleNamespace(turn=0.0)

    def labels(self, preds):
        found = []
        for i in range(len(self.batch["img"])):
            truth = self._prepare_batch(i, self.batch)
            boxes = truth["bboxes"].clone() + torch.tensor([0, 0, 0, 0, given.turn])
            found.append({"bboxes": boxes, "conf": torch.full((len(boxes),), 0.9), "cls": truth["cls"].clone()})
        self._cut = [0] * len(found)
        return found

    def preprocess(self, batch, original=RFLAOBBValidator.preprocess):
        self.batch = original(self, batch)
        return self.batch

    monkeypatch.setattr(RFLAOBBValidator, "preprocess", preprocess)
    monkeypatch.setattr(RFLAOBBValidator, "postprocess", labels)
    return given


@pytest.mark.parametrize("options", [{}, {"classes": [1]}])
def test_results_of_dota_on_tiles_are_of_the_whole_images(tmp_path, labels_as_found, options):
    """As ``data merge --task1`` writes them, and where the objects lie."""
    rng = np.random.default_rng(0)
    boxes, splits = {}, {"train": [], "val": []}
    for split, pairs in splits.items():
        for i, (width, height) in enumerate([(150, 100), (64, 64)]):
            number = 12 if i == 0 else 1
            places = rng.uniform(10, [width - 10, height - 10], (number, 2))
            sides, angles = rng.uniform(4, 14, (number, 2)), rng.uniform(-0.7, 2.3, number)
            boxes[f"P{i}"] = np.column_stack((places, sides, angles))
            image, label = tmp_path / f"{split}_set/P{i}.png", tmp_path / f"{split}_set/P{i}.txt"
            image.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(image), rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
            points = (corners(boxes[f"P{i}"]) / (width, height)).reshape(-1, 8)
            label.write_text("".join(f"{n % 2} {' '.join(map(str, row))}\n" for n, row in enumerate(points.tolist())))
            pairs.append((image, label))
    tile_dataset(splits, ["ship", "plane"], tmp_path / "tiles", size=64, overlap=24, visible=0.6)
    model = RFLAYOLO("yolov8n-obb.yaml")
    model.model = OBBModel("yolov8n-obb.yaml", nc=2, verbose=False)
    model.model.names, model.model.task = {0: "ship", 1: "plane"}, "obb"
    model.save(tmp_path / "obb.pt")
    RFLAYOLO(tmp_path / "obb.pt").val(
        data=str(tmp_path / "tiles/data.yaml"), imgsz=64, plots=False, project=str(tmp_path), name="val", **options
    )
    lines = {name: (tmp_path / f"val/Task1_{name}.txt").read_text() for name in ("ship", "plane")}
    rows = [line.split() for text in lines.values() for line in text.splitlines()]
    assert len(rows) == (6 if options else 13)
    assert bool(lines["ship"]) == (not options)
    for stem, score, *points in rows:
        assert score == "0.900000"
        wholes = corners(boxes[stem]).mean(1)
        assert np.abs(wholes - np.reshape(points, (4, 2)).astype(float).mean(0)).max(1).min() < 3  # one may be cut
    if not options:  # else its ground truth is made of the labels, and numbers the tiles otherwise
        merged = merge_tiles(tmp_path / "val/predictions.json", tmp_path / "tiles")
        for file in write_task1(tmp_path / "tiles/annotations/val_whole.json", merged, tmp_path / "merged"):
            assert file.read_text() == (tmp_path / "val" / file.name).read_text()


def test_figures_of_oriented_boxes_are_of_oriented_boxes(tmp_path, tiny_sets, labels_as_found, caplog):
    """The labels themselves as detections, in images that are letterboxed: AP 1; turned by a quarter, next to none."""
    data = tiny_sets(tmp_path)
    convert(data, "obb")
    model = RFLAYOLO("yolov8n-obb.yaml", "obb")
    model.train(data=str(data), project=str(tmp_path), name="run", **{**QUICK, "epochs": 1, "val": False})
    options = {"data": str(data), "imgsz": 160, "plots": False, "project": str(tmp_path)}
    found = RFLAYOLO(tmp_path / "run/weights/best.pt").val(name="val", **options)
    assert found.evaluation["AP"] == pytest.approx(1, abs=0.01)
    assert found.results_dict["metrics/mAP50(B)"] > 0.99
    lines = [(tmp_path / f"val/Task1_{name}.txt").read_text().splitlines() for name in ("bright", "dark")]
    assert sum(map(len, lines)) == found.evaluation.num_detections == 28
    truth = json.loads((tmp_path / "val/annotations.json").read_text())["annotations"]
    sides = sorted(math.sqrt(entry["rbox"][2] * entry["rbox"][3]) for entry in truth)
    rows = [np.loadtxt(f, ndmin=2) for f in (data.parent / "labels/val").glob("*.txt") if f.stat().st_size]
    points = np.concatenate(rows)[:, 1:].reshape(-1, 4, 2) * 64
    whole = ((points > 0) & (points < 64)).all((1, 2))  # those cut at the border are no rectangles
    lengths = np.linalg.norm(points - np.roll(points, 1, 1), axis=-1)[whole]
    for side in np.sqrt(lengths[:, 0] * lengths[:, 1]):
        assert np.abs(np.array(sides) - side).min() < 0.02
    labels_as_found.turn = 7 * math.pi  # as a head without bounds may give it: the same boxes
    wound = RFLAYOLO(tmp_path / "run/weights/best.pt").val(name="wound", **options)
    assert wound.evaluation["AP"] == pytest.approx(found.evaluation["AP"], abs=1e-3)
    angles = [d["rbox"][4] for d in json.loads((tmp_path / "wound/predictions.json").read_text())]
    assert len(angles) == 28 and -math.pi / 4 - 1e-4 <= min(angles) and max(angles) <= 3 * math.pi / 4 + 1e-4
    (data.parent / "images/val/0.png").rename(data.parent / "images/val/0 0.png")
    (data.parent / "labels/val/0.txt").rename(data.parent / "labels/val/0 0.txt")
    caplog.clear()
    assert RFLAYOLO(tmp_path / "run/weights/best.pt").val(name="blank", **options).evaluation["AP"] > 0.9
    assert not list((tmp_path / "blank").glob("Task1*")) and "Task1_*.txt are left out" in caplog.text
    assert (tmp_path / "blank/metrics.json").is_file()
    labels_as_found.turn = math.pi / 2
    assert RFLAYOLO(tmp_path / "run/weights/best.pt").val(name="turned", **options).evaluation["AP75"] < 0.1


def test_oriented_ground_truth_without_objects_has_no_figures(tmp_path, train):
    root = train("yolo26n-obb")
    info = {**yaml.safe_load((root / "set/set.yaml").read_text()), "path": str(root / "set")}
    (tmp_path / "none.json").write_text(json.dumps(ground_truth([])))
    (tmp_path / "set.yaml").write_text(yaml.safe_dump(info | {"annotations": {"val": str(tmp_path / "none.json")}}))
    options = {**OPTIONS, "data": str(tmp_path / "set.yaml"), "project": str(tmp_path)}
    found = RFLAYOLO(root / "run/weights/best.pt").val(name="val", **options)
    assert found.evaluation["AP"] is None and found.evaluation.num_detections > 0


class TestRefused:
    @pytest.mark.parametrize("exported", [False, True])
    def test_a_model_of_other_keypoints(self, tmp_path, train, exported):
        root = train("yolo26n-pose")
        weights = root / "run/weights/best.pt"
        if exported:
            weights = RFLAYOLO(weights).export(format="torchscript", imgsz=64)
        shutil.copytree(root / "set", tmp_path / "set", ignore=shutil.ignore_patterns("*.cache"))
        for file in (tmp_path / "set/labels").rglob("*.txt"):  # keypoints without visibility
            rows = np.loadtxt(file, ndmin=2) if file.stat().st_size else np.zeros((0, 14))
            np.savetxt(file, np.delete(rows, [7, 10, 13], 1), "%g")
        info = {**yaml.safe_load((root / "set/set.yaml").read_text()), "path": str(tmp_path / "set")}
        del info["kpt_shape"]
        for name, shape in (("none", {}), ("two", {"kpt_shape": [3, 2]})):
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**info, **shape}))
        options = {"imgsz": 64, "project": str(tmp_path)}
        with pytest.raises(ValueError, match=r"data .*none\.yaml: no kpt_shape, which task 'pose' needs"):
            RFLAYOLO(weights).val(data=str(tmp_path / "none.yaml"), **options)
        with pytest.raises(ValueError, match=r"model draws keypoints of shape \[3, 3\], the data has \[3, 2\]"):
            RFLAYOLO(weights).val(data=str(tmp_path / "two.yaml"), **options)

    @pytest.mark.parametrize("task", ["classify", "semantic", "depth", "boxes"])
    def test_other_tasks(self, task):
        with pytest.raises(ValueError, match=f"task must be one of 'detect', 'segment', 'pose', 'obb', not '{task}'"):
            RFLAYOLO("yolov8n-p2.yaml", task)

    @pytest.mark.parametrize(
        "name", ["yolov8n-cls.yaml", "yolo26n-sem.yaml", "yoloe-v8n-seg.yaml", "yolov8s-world.yaml"]
    )
    def test_other_models(self, name):
        with pytest.raises(ValueError, match=f"model: {name} is for .*; RFLA trains YOLOs for 'detect', 'segment'"):
            RFLAYOLO(name)

    def test_rtdetr(self):
        with pytest.raises(ValueError, match=r"model: rtdetr-l\.yaml is no YOLO"):
            RFLAYOLO("rtdetr-l.yaml")

    def test_a_task_that_is_not_the_models(self):
        with pytest.raises(ValueError, match=r"task must be 'pose' for model yolov8n-pose\.yaml, not 'segment'"):
            RFLAYOLO("yolov8n-pose.yaml", "segment")

    def test_a_trainer_of_another_task(self):
        known = "RFLASegmentationTrainer for 'segment'"
        with pytest.raises(ValueError, match=f"task must be 'detect' for RFLATrainer, not 'segment'; .*{known}"):
            RFLATrainer(overrides={"model": "yolov8n-seg.yaml", "task": "segment"})

    def test_a_head_in_a_model_of_another_task(self, tiny_set, tmp_path):
        overrides = {"model": "yolov8n-seg.yaml", "data": str(tiny_set), "project": str(tmp_path), **QUICK}
        with pytest.raises(ValueError, match="a head of type Segment needs a model of its task, not DetectionModel"):
            RFLATrainer(overrides=overrides).train()

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("yolov8n-seg", "28 of 28 are boxes .*, task 'segment' needs lines of class x1 y1 x2 y2 x3 y3"),
            ("yolov8n-obb", "28 of 28 are boxes .*, task 'obb' needs lines of class x1 y1 x2 y2 x3 y3 x4 y4; --task"),
            ("yolov8n-pose", "No `kpt_shape` in the .*set.yaml"),
        ],
    )
    def test_boxes_where_more_is_needed(self, name, message, tiny_set, tmp_path):
        with pytest.raises(ValueError, match=message):
            RFLAYOLO(f"{name}.yaml").train(data=str(tiny_set), project=str(tmp_path), **QUICK)

    def test_keypoints_that_are_missing_are_named(self, tiny_set, tmp_path):
        tiny_set.write_text(tiny_set.read_text() + "kpt_shape: [3, 3]\n")
        message = r"labels/train/0\.txt:1: expected 14 columns \(class x y width height, 3 keypoints of 3\), found 5"
        with pytest.raises(ValueError, match=message):
            RFLAYOLO("yolov8n-pose.yaml").train(data=str(tiny_set), project=str(tmp_path), **QUICK)

    def test_annotations_without_oriented_boxes(self, tiny_set, tmp_path):
        entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4]}
        (tmp_path / "truth.json").write_text(json.dumps(ground_truth([entry])))
        convert(tiny_set, "obb")
        tiny_set.write_text(tiny_set.read_text() + f"annotations: {{val: {tmp_path / 'truth.json'}}}\n")
        with pytest.raises(
            ValueError, match=r"truth\.json: holds boxes \(bbox\), task 'obb' needs oriented boxes \(rbox\)"
        ):
            RFLAYOLO("yolov8n-obb.yaml").train(data=str(tiny_set), project=str(tmp_path), **QUICK)


def test_trainers_by_task():
    trainers = [RFLATrainer, RFLASegmentationTrainer, RFLAPoseTrainer, RFLAOBBTrainer]
    assert dict(zip(("detect", "segment", "pose", "obb"), trainers)) == TRAINERS
    for name, trainer in zip(("yolov8n-p2", "yolov8n-seg", "yolov8n-pose", "yolov8n-obb"), trainers):
        model = RFLAYOLO(f"{name}.yaml")
        assert model.task_map[model.task]["trainer"] is trainer and trainer.task == model.task
        assert model.task_map[model.task]["validator"] is trainer.validator_class
