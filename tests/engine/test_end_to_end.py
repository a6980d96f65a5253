"""Heads with a one-to-one branch, and one step of every detection model that Ultralytics ships."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch
import ultralytics
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.loss import v8DetectionLoss

from rfla_yolo import RFLAYOLO, RFLAConfig, RFLADetectionLoss, RFLATrainer
from rfla_yolo.config import resource_dir
from rfla_yolo.engine import RFLAValidator
from rfla_yolo.engine.loss import RFLAMatcher, build_criterion, one_to_many
from rfla_yolo.engine.positives import SIZES, PositiveCounter

from .conftest import QUICK

SHIPPED = Path(ultralytics.__file__).parent / "cfg" / "models"
OTHERS = ("-cls", "-depth", "-obb", "-pose", "-seg", "-sem", "world", "yoloe", "rtdetr")
LARGE = {"yolov9e", "yolov9c", "yolov9m", "yolov3", "yolov3-spp", "yolov10x", "yolov10l", "yolov10b", "yolov10m"}
OURS = sorted((resource_dir("cfg") / "models").glob("*.yaml"))
DETECTORS = [*sorted(f for f in SHIPPED.rglob("*.yaml") if not any(other in f.stem for other in OTHERS)), *OURS]


def model_of(file, **options):
    torch.manual_seed(0)
    model = DetectionModel(str(file), nc=3, verbose=False, **options)
    model.args = get_cfg()
    return model


def objects_of_all_sizes(model, size):
    """A batch whose objects reach every level, on two images."""
    sides = [3.0, 6, 12] + [float(2 * s) for s in model.stride] + [size * 0.9]
    rows = []
    for image in range(2):
        for i, side in enumerate(sides):
            centre = (0.13 + 0.71 * i / len(sides), 0.85 - 0.6 * i / len(sides)) if side < size / 2 else (0.5, 0.5)
            rows.append([image, i % 3, *centre, side / size, side / size])
    rows = torch.tensor(rows)
    return {"img": torch.rand(2, 3, size, size), "batch_idx": rows[:, 0], "cls": rows[:, 1:2], "bboxes": rows[:, 2:]}


def gradients(model):
    """The largest gradient of every branch and level of the head."""
    head = model.model[-1]
    return {
        f"{branch}.{level}": max(float(p.grad.abs().max()) for p in getattr(head, branch)[level].parameters())
        for branch in ("cv2", "cv3", "one2one_cv2", "one2one_cv3")
        if getattr(head, branch, None) is not None
        for level in range(head.nl)
    }


@pytest.mark.parametrize(
    "file",
    [pytest.param(f, marks=pytest.mark.slow if f.stem in LARGE else ()) for f in DETECTORS],
    ids=lambda f: f.stem,
)
def test_one_step_of_every_detection_model(file):
    model = model_of(file)
    criterion = build_criterion(model, RFLAConfig(one2one="rfla", tal_from=None))  # TAL gives a level work or not
    counter = PositiveCounter(criterion)
    size = int(max(8 * model.stride.max(), 256))
    batch = objects_of_all_sizes(model, size)
    total, items = criterion(model.train()(batch["img"]), batch)
    assert total.isfinite().all() and all(value.isfinite().all() for value in items.values())
    total.sum().backward()
    assert all(value > 0 for value in gradients(model).values()), gradients(model)
    counted = counter.read()
    assert counted["assign/missed"] == 0
    assert 3 <= counted["assign/positivesvt"] <= 6  # three and their equals, and one of the second stage
    if hasattr(criterion, "one2one"):
        assert counted["assign/missed_one2one"] == 0
    with torch.no_grad():
        _, items = build_criterion(model, RFLAConfig())(model(batch["img"]), batch)
    assert all(value.isfinite().all() and value > 0 for value in items.values())


@pytest.mark.parametrize("file", OURS, ids=lambda f: f.stem)
def test_models_of_this_package_come_in_scales_and_keep_the_numbers_of_their_layers(file):
    family, lighter = re.match(r"(yolov?\d+)(-.+)", file.stem).groups()
    sizes = {s: sum(p.numel() for p in RFLAYOLO(f"{family}{s}{lighter}.yaml").model.parameters()) for s in "nsm"}
    assert sizes["n"] < sizes["s"] < sizes["m"]
    base = f"{family}n.yaml" if family == "yolo11" else f"{family}n-p2.yaml"  # there is no yolo11-p2
    theirs, ours = (RFLAYOLO(name).model.state_dict() for name in (base, f"{family}n{lighter}.yaml"))
    numbers = range(17) if family == "yolo11" else range(25)
    for name, weight in theirs.items():
        if int(name.split(".")[1]) in numbers:
            assert ours[name].shape == weight.shape, name


class TestBranches:
    def test_who_assigns_them(self):
        model = model_of(SHIPPED / "26" / "yolo26-p2.yaml")
        for setting, expected in (("tal", v8DetectionLoss), ("rfla", RFLADetectionLoss)):
            criterion = build_criterion(model, RFLAConfig(one2one=setting))
            assert isinstance(criterion.one2one, expected) and type(criterion.one2many) is RFLADetectionLoss
            assert isinstance(criterion.one2one.assigner, RFLAMatcher) == (setting == "rfla")
            assert not isinstance(one_to_many(criterion).assigner, RFLAMatcher)

    def test_each_object_has_one_anchor_and_each_anchor_one_object(self):
        model = model_of(SHIPPED / "26" / "yolo26.yaml")
        matcher = build_criterion(model, RFLAConfig(one2one="rfla")).one2one.assigner
        boxes = torch.rand(1, 60, 2) * 300
        boxes = torch.cat((boxes, boxes + 3 + torch.rand(1, 60, 2) * 9), -1)
        got = matcher.assign(boxes, torch.ones(1, 60, dtype=torch.bool), [(40, 40), (20, 20), (10, 10)])
        assert sorted(got[got >= 0].tolist()) == list(range(60))

    def test_setting_is_checked(self):
        with pytest.raises(ValueError, match="one2one must be one of 'rfla', 'tal', not 'both'"):
            RFLAConfig(one2one="both")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, tiny_sets):
    """Checkpoint of a yolo26n training of five epochs, stopped after the third, and its gains by epoch."""
    root = tmp_path_factory.mktemp("runs")
    data = tiny_sets(root)
    gains = []
    model = RFLAYOLO("yolo26n.yaml")
    copy = root / "copied" / "weights" / "last.pt"
    copy.parent.mkdir(parents=True)

    model.add_callback("on_train_epoch_start", lambda t: gains.append(t.model.criterion.o2m))
    model.add_callback("on_fit_epoch_end", lambda t: setattr(t, "stop", t.epoch == 2))
    model.add_callback("on_model_save", lambda t: copy.write_bytes(t.last.read_bytes()))
    options = {**QUICK, "epochs": 5, "one2one": "rfla", "project": str(root), "name": "run"}
    model.train(data=str(data), **options)
    return root, gains


class TestTraining:
    def test_results_csv_counts_both_branches(self, interrupted):
        root, _ = interrupted
        with (root / "run" / "results.csv").open() as file:
            rows = [{k.strip(): float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        for row in rows:
            assert {f"assign/missed_one2one{size}" for size in ("", *SIZES)} <= set(row)
            assert row["assign/missed_one2one"] == 0

    def test_gains_follow_ultralytics_schedule_and_survive_resume(self, interrupted, tmp_path):
        root, gains = interrupted
        schedule = [0.8 - 0.7 * epoch / 4 for epoch in range(5)]
        assert gains == pytest.approx(schedule[:3])
        resumed = []
        model = RFLAYOLO(root / "copied" / "weights" / "last.pt")
        model.add_callback("on_train_epoch_start", lambda t: resumed.append((t.model.criterion.o2m, t.model.criterion)))
        model.train(resume=True)
        assert [gain for gain, _ in resumed] == pytest.approx(schedule[3:])
        assert type(resumed[0][1].one2many) is RFLADetectionLoss
        assert isinstance(resumed[0][1].one2one.assigner, RFLAMatcher)

    def test_gains_of_an_epoch_that_is_done_again(self, tiny_set, tmp_path):
        gains = []
        options = {**QUICK, "epochs": 4, "name": "run", "project": str(tmp_path), "data": str(tiny_set)}
        trainer = RFLATrainer(overrides={**options, "model": "yolo26n.yaml"})

        def spoil(trainer):
            if trainer.epoch == 1 and len(gains) == 2:
                trainer.loss = trainer.loss * float("nan")

        trainer.add_callback("on_train_epoch_start", lambda t: gains.append(t.model.criterion.o2m))
        trainer.add_callback("on_train_epoch_end", spoil)
        trainer.train()
        schedule = [0.8 - 0.7 * epoch / 3 for epoch in range(4)]
        assert gains == pytest.approx([*schedule[:2], *schedule[1:]])

    def test_plain_ultralytics_loads_and_validates_both_branches(self, interrupted, tiny_set):
        root, _ = interrupted
        for nms in (None, False):
            YOLO(root / "run" / "weights" / "last.pt").val(
                data=str(tiny_set), imgsz=64, device="cpu", workers=0, plots=False, nms=nms, project=str(root)
            )

    def test_val_shows_both_branches(self, interrupted, tiny_set):
        root, _ = interrupted
        model = RFLAYOLO(root / "run" / "weights" / "last.pt")
        options = {"data": str(tiny_set), "imgsz": 64, "device": "cpu", "workers": 0, "plots": False}
        both = model.val(project=str(root), name="both", **options)
        files = [root / "both" / "predictions.json", root / "both" / "one2one" / "predictions.json"]
        assert files[0].read_text() != files[1].read_text()
        for nms, file, figures in zip((None, False), files, (both.evaluation, both.one_to_one)):
            model = RFLAYOLO(root / "run" / "weights" / "last.pt")
            alone = model.val(project=str(root), name=f"alone-{nms}", nms=nms, **options)
            assert (root / f"alone-{nms}" / "predictions.json").read_text() == file.read_text()
            assert alone.evaluation.metrics == figures.metrics and not hasattr(alone, "one_to_one")


@pytest.mark.parametrize("nms", [None, False])
def test_validation_and_fitness_follow_the_branch(nms, tiny_set, tmp_path, monkeypatch):
    """Where the one-to-one branch finds every object, the fitness says so only if it validates."""
    update, seen = RFLAValidator.update_metrics, []

    def find_all(validator, preds, batch):
        seen.append((validator.training, validator.end2end))
        if validator.end2end:
            truth = [validator._prepare_batch(i, batch) for i in range(len(preds))]
            preds = [{"bboxes": t["bboxes"], "conf": torch.ones(len(t["cls"])), "cls": t["cls"]} for t in truth]
            preds = [{**pred, "extra": pred["bboxes"].new_zeros(len(pred["cls"]), 0)} for pred in preds]
        update(validator, preds, batch)

    monkeypatch.setattr(RFLAValidator, "update_metrics", find_all)
    said = []
    monkeypatch.setattr("ultralytics.utils.LOGGER.info", lambda text, *args: said.append(str(text)))
    model = RFLAYOLO("yolo26n.yaml")
    options = {**QUICK, "epochs": 1, "project": str(tmp_path), "name": "run"}
    model.train(data=str(tiny_set), nms=nms, fitness="aitod", **options)
    assert set(seen) == {(True, nms is False), (False, nms is False)}  # in training, and best.pt at its end
    final = model.trainer.validator.evaluation["AP"]
    assert (model.trainer.best_fitness > 0.9) == (final > 0.9) == (nms is False)
    branch = "one-to-one branch (nms=False)" if nms is False else "one-to-many branch (nms=None)"
    assert any(f"validation and fitness follow the {branch}" in text for text in said)


@pytest.mark.parametrize("nms", [None, False])
def test_predict_and_export_say_which_branch(nms, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("ultralytics.utils.LOGGER.info", lambda text, *args: said.append(str(text)))
    monkeypatch.setattr(YOLO, "export", lambda self, **kwargs: "")
    monkeypatch.setattr(YOLO, "predict", lambda self, *args, **kwargs: [])
    branch = "one-to-one branch (nms=False)" if nms is False else "one-to-many branch (nms=None)"
    given = {} if nms is None else {"nms": nms}
    for name, has_branches in (("yolo26n.yaml", True), ("yolov8n.yaml", False)):
        model = RFLAYOLO(name)
        for call, verb in ((model.predict, "predicting"), (model.export, "exporting")):
            said.clear()
            call(imgsz=64, **given)
            assert [text.endswith(f"{verb} by the {branch}") for text in said] == [True] * has_branches
