"""Validation: AP by size from the files it writes, ground truth from labels or from COCO, no time limit."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch
from ultralytics import YOLO
from ultralytics.utils import nms

from rfla_yolo import RFLAYOLO, RFLAValidator, evaluate
from rfla_yolo.engine.validator import _Truth
from rfla_yolo.evaluation.boxes import Objects
from rfla_yolo.evaluation.coco import evaluate_inputs

from .conftest import QUICK


@pytest.fixture
def validate(trained, tmp_path):
    data = trained.parent / "set" / "set.yaml"

    def run(**options):
        arguments = {"data": str(data), "imgsz": 64, "plots": False, "project": str(tmp_path), "name": "val"}
        model = RFLAYOLO(trained / "weights" / "best.pt")
        return model.val(**{**arguments, **options}), tmp_path / options.get("name", "val")

    return run


def read(path):
    return json.loads(path.read_text())


def test_metrics_are_those_of_the_files(validate):
    metrics, folder = validate()
    written = read(folder / "metrics.json")
    again = evaluate(folder / "annotations.json", folder / "predictions.json")
    assert {"AP", "AP50", "AP75", "APvt", "APt", "APs", "APm", "AR1", "AR100", "AR1500", "oLRP"} <= set(again.metrics)
    for name in again.metrics:
        assert written[name] == again[name] == metrics.evaluation[name]
    assert written["objects"] == 28
    assert written["AP50"] > 0.1
    assert written["APm"] is None  # no object of 32 px or more


def test_ground_truth_is_the_labels_in_pixels(validate, trained):
    _, folder = validate()
    truth = read(folder / "annotations.json")
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    assert sorted(names.values()) == [f"{i}.png" for i in range(8)]
    found = sorted((names[a["image_id"]], a["category_id"], *a["bbox"]) for a in truth["annotations"])
    expected = []
    for i in range(8):
        for row in (trained.parent / "set/labels/val" / f"{i}.txt").read_text().splitlines():
            label, x, y, w, h = map(float, row.split())
            box = [round(v * 64) for v in (x - w / 2, y - h / 2, w, h)]
            expected.append((f"{i}.png", int(label) + 1, *map(float, box)))
    assert found == sorted(expected)  # whole pixels come back as such


def test_detections_in_pixels_of_an_image_of_another_size(validate, trained, tmp_path):
    """At a validation size of 128 px boxes are still in pixels of the original image of 64 px."""
    _, folder = validate(imgsz=128, conf=1e-6)
    predictions = read(folder / "predictions.json")
    assert predictions
    assert all(p["bbox"][0] >= 0 and p["bbox"][0] + p["bbox"][2] <= 64.001 for p in predictions)


def test_named_annotations_are_used(validate, trained, tmp_path):
    metrics, folder = validate()
    truth = read(folder / "annotations.json")
    for image in truth["images"]:
        image["id"] += 100
    for annotation in truth["annotations"]:
        annotation["image_id"] += 100
        annotation["category_id"] = {1: 7, 2: 3}[annotation["category_id"]]
    truth["categories"] = [{"id": 7, "name": "bright"}, {"id": 3, "name": "dark"}]
    (tmp_path / "official.json").write_text(json.dumps(truth))
    source = trained.parent / "set" / "set.yaml"
    named = trained.parent / "set" / "named.yaml"
    named.write_text(source.read_text() + f"annotations: {{val: {tmp_path / 'official.json'}}}\n")
    _, second = validate(data=str(named), name="named")
    assert not (second / "annotations.json").exists()
    assert {p["image_id"] for p in read(second / "predictions.json")} <= set(range(101, 109))
    a, b = read(folder / "metrics.json"), read(second / "metrics.json")
    assert {k: a[k] for k in metrics.evaluation.metrics} == {k: b[k] for k in metrics.evaluation.metrics}


def test_image_missing_from_the_annotations_is_named(validate, trained, tmp_path):
    (tmp_path / "empty.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    named = trained.parent / "set" / "empty.yaml"
    source = (trained.parent / "set" / "set.yaml").read_text()
    named.write_text(source + f"annotations: {{val: {tmp_path / 'empty.json'}}}\n")
    with pytest.raises(ValueError, match=r"0 entries for image .*\.png, expected 1"):
        validate(data=str(named))


def test_classes_of_one_name_keep_their_figures(trained, validate, tmp_path):
    metrics, folder = validate()
    model = RFLAYOLO(trained / "weights" / "best.pt")
    model.model.names = {0: "ship", 1: "ship"}
    data = str(trained.parent / "set" / "set.yaml")
    alike = model.val(data=data, imgsz=64, plots=False, project=str(tmp_path), name="alike").evaluation
    assert alike.metrics == metrics.evaluation.metrics and alike.by_size == metrics.evaluation.by_size
    assert list(alike.per_class) == ["ship (1)", "ship (2)"]
    truth = read(folder / "annotations.json")
    truth["categories"] = [{"id": i, "name": "ship"} for i in (1, 2)]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    named = trained.parent / "set" / "ships.yaml"
    source = (trained.parent / "set" / "set.yaml").read_text()
    source = source.replace("bright", "ship").replace("dark", "ship")
    named.write_text(source + f"annotations: {{val: {tmp_path / 'truth.json'}}}\n")
    other = RFLAYOLO(trained / "weights" / "best.pt")
    other.model.names = {0: "ship", 1: "ship"}
    from_file = other.val(data=str(named), imgsz=64, plots=False, project=str(tmp_path), name="file").evaluation
    assert from_file.metrics == metrics.evaluation.metrics


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"truth\.json is no JSON"),
        (json.dumps({"images": [], "annotations": [], "categories": []}), "0 entries for image .*, expected 1"),
    ],
)
def test_annotations_that_cannot_be_used_stop_a_training_before_it_begins(tiny_set, tmp_path, content, message):
    (tmp_path / "truth.json").write_text(content)
    tiny_set.write_text(tiny_set.read_text() + f"annotations: {{val: {tmp_path / 'truth.json'}}}\n")
    begun = []
    model = RFLAYOLO("yolov8n-p2.yaml")
    model.add_callback("on_train_epoch_start", begun.append)
    with pytest.raises(ValueError, match=message):
        model.train(data=str(tiny_set), project=str(tmp_path), **QUICK)
    assert not begun


def test_annotations_with_a_byte_order_mark(validate, trained, tmp_path):
    metrics, folder = validate()
    (tmp_path / "truth.json").write_text((folder / "annotations.json").read_text(), encoding="utf-8-sig")
    named = trained.parent / "set" / "bom.yaml"
    source = (trained.parent / "set" / "set.yaml").read_text()
    named.write_text(source + f"annotations: {{val: {tmp_path / 'truth.json'}}}\n")
    assert validate(data=str(named), name="bom")[0].evaluation.metrics == metrics.evaluation.metrics


def test_suppression_has_no_time_limit(validate, monkeypatch):
    limits = []
    original = nms.non_max_suppression

    def spy(*args, **kwargs):
        limits.append(kwargs["max_time_img"])
        assert kwargs["max_det"] == kwargs["max_nms"] == 30000  # Ultralytics' own limit before the suppression
        return original(*args, **kwargs)

    monkeypatch.setattr(nms, "non_max_suppression", spy)
    validate()
    assert set(limits) == {float("inf")}


def test_detections_cut_off_are_named(validate, caplog):
    _, folder = validate(conf=1e-6)
    everything = read(folder / "predictions.json")
    per_image = Counter(d["image_id"] for d in everything)
    names = {image["id"]: image["file_name"] for image in read(folder / "annotations.json")["images"]}
    worst, most = per_image.most_common(1)[0]
    limit = most - 3
    with caplog.at_level("WARNING", "ultralytics"):
        _, limited = validate(conf=1e-6, max_det=limit, name="limited")
    message = next(r.message for r in caplog.records if "cut off" in r.message)
    lost = sum(max(n - limit, 0) for n in per_image.values())
    assert f"max_det={limit} cut off {lost} detections" in message
    assert message.endswith(f"{names[worst]}: 3")
    kept = read(limited / "predictions.json")
    best = sorted((d["score"] for d in everything if d["image_id"] == worst), reverse=True)[:limit]
    assert sorted((d["score"] for d in kept if d["image_id"] == worst), reverse=True) == best


def test_defaults():
    validator = RFLAValidator(args={"data": None, "imgsz": 64})
    assert validator.args.max_det == 3000
    assert RFLAValidator(args={"data": None, "imgsz": 64, "max_det": 5}).args.max_det == 5


def test_single_class(validate):
    metrics, folder = validate(single_cls=True)
    assert [c["name"] for c in read(folder / "annotations.json")["categories"]] == ["item"]
    assert metrics.evaluation.num_objects == 28
    assert torch.isfinite(torch.tensor(metrics.evaluation["AP"]))


def with_list(data, files):
    """YAML of the same set whose validation images stand in a list."""
    root = data.parent
    (root / "listed.txt").write_text("".join(f"{root / 'images' / 'val' / name}\n" for name in files))
    listed = root / "listed.yaml"
    listed.write_text(data.read_text().replace("val: images/val", "val: listed.txt"))
    return listed


class TestImageNamedTwice:
    files = ("1.png", "0.png", "1.png", "2.png")

    def test_counts_twice_as_in_ultralytics(self, trained, validate, tmp_path):
        data = with_list(trained.parent / "set" / "set.yaml", self.files)
        metrics, folder = validate(data=str(data), conf=1e-6)
        options = {"imgsz": 64, "plots": False, "project": str(tmp_path), "max_det": 3000, "conf": 1e-6}
        stock = YOLO(trained / "weights" / "best.pt").val(data=str(data), name="stock", **options)
        assert metrics.results_dict == stock.results_dict
        evaluation = metrics.evaluation
        assert evaluation.num_objects == stock.nt_per_class.sum() == 16
        assert [image["file_name"] for image in evaluation.images] == ["0.png", "1.png", "1.png", "2.png"]
        written = read(folder / "metrics.json")
        again = evaluate(folder / "annotations.json", folder / "predictions.json")
        assert {name: written[name] for name in again.metrics} == again.metrics
        once, _ = validate(data=str(with_list(data, ("0.png", "1.png", "2.png"))), conf=1e-6, name="once")
        assert once.evaluation.num_detections < evaluation.num_detections
        assert once.evaluation["AP"] != evaluation["AP"]

    def test_counts_once_against_a_coco_file(self, trained, validate, tmp_path):
        data = with_list(trained.parent / "set" / "set.yaml", ("0.png", "1.png", "2.png"))
        once, folder = validate(data=str(data), conf=1e-6)
        data = with_list(data, self.files)
        data.write_text(data.read_text() + f"annotations: {{val: {folder / 'annotations.json'}}}\n")
        twice, second = validate(data=str(data), conf=1e-6, name="twice")
        assert twice.evaluation.metrics == once.evaluation.metrics
        assert read(second / "predictions.json") == read(folder / "predictions.json")

    def test_trains(self, tiny_set, tmp_path):
        model = RFLAYOLO("yolov8n-p2.yaml")
        data = with_list(tiny_set, self.files)
        model.train(data=str(data), project=str(tmp_path), name="run", **{**QUICK, "epochs": 1})
        assert model.trainer.validator.evaluation.num_objects == 16


def test_boxes_that_are_no_numbers_are_left_out(validate, monkeypatch, caplog):
    _, folder = validate(conf=1e-6)
    original = RFLAValidator.postprocess

    def spoil(self, preds):
        outputs = original(self, preds)
        outputs[0]["bboxes"][0, 2] = float("nan")
        outputs[1]["conf"][1] = float("inf")
        return outputs

    monkeypatch.setattr(RFLAValidator, "postprocess", spoil)
    with caplog.at_level("WARNING", "ultralytics"):
        metrics, second = validate(conf=1e-6, name="spoiled")
    assert "2 detections with a box or score of NaN or infinity were left out" in caplog.text
    assert metrics.evaluation.num_detections == len(read(folder / "predictions.json")) - 2
    assert len(read(second / "predictions.json")) == metrics.evaluation.num_detections
    assert np.isfinite(metrics.evaluation["AP"])


class TestInTraining:
    def test_only_figures_are_kept(self, tiny_set, tmp_path):
        """After every epoch; figures by epoch are those of the validation of the same weights."""
        seen = []

        def look(trainer):
            validator = trainer.validator
            evaluation = validator.evaluation
            assert validator.training
            assert validator.jdict == []
            assert len(evaluation.inputs.detections) == len(evaluation.inputs.objects) == 0
            assert evaluation.matching.classes == {}
            assert evaluation.num_detections > 0
            assert len(evaluation.images) == 8
            seen.append(evaluation["AP"])

        model = RFLAYOLO("yolov8n-p2.yaml")
        model.add_callback("on_fit_epoch_end", lambda t: look(t) if t.validator.training else None)
        model.train(data=str(tiny_set), project=str(tmp_path), name="run", conf=1e-6, **QUICK)
        assert len(seen) == QUICK["epochs"]

    def test_memory_of_a_detection(self):
        """From the detections of every image to the figures: at most 300 bytes each, nothing afterwards."""
        rng = np.random.default_rng(0)
        images, count = 300, 1000
        validator = RFLAValidator(args={"data": None, "imgsz": 64})
        boxes = (rng.random((images * 10, 4)) * (700, 700, 20, 20)).round(2)
        image, label = np.arange(images, dtype=np.int32).repeat(10), np.zeros(images * 10, dtype=np.int32)
        objects = Objects(image, label, boxes, boxes[:, 2:].prod(1), label > 0)
        places = {f"{i}.png": [i] for i in range(images)}
        truth = _Truth([{"id": i} for i in range(images)], [{"id": 1, "name": "a"}], objects, places, label[:1])
        tracemalloc.start()
        try:
            validator.jdict = []
            for name in places:
                table = rng.random((count, 6), dtype=np.float32) * np.float32([700, 700, 20, 20, 1, 0.5])
                validator.jdict.append((name, (800, 800), table, 0, 0))
            evaluation = evaluate_inputs(validator._inputs(truth), details=False)
            kept, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert evaluation.num_detections == images * count
        assert peak < 300 * images * count
        assert kept < 1e6

    def test_fitness_without_such_objects_says_what_is_followed(self, tiny_set, tmp_path, caplog):
        for file in (tiny_set.parent / "labels" / "val").glob("*.txt"):
            file.write_text("0 0.5 0.5 0.4 0.4\n")
        fitness = []
        model = RFLAYOLO("yolov8n-p2.yaml")
        model.add_callback("on_model_save", lambda t: fitness.append((t.fitness, t.metrics["metrics/mAP50-95(B)"])))
        with caplog.at_level("WARNING", "ultralytics"):
            model.train(data=str(tiny_set), project=str(tmp_path), name="run", fitness="APvt", **QUICK)
        said = [r.message for r in caplog.records if "fitness=APvt" in r.message]
        assert len(said) == 1
        assert "hold no object that counts for APvt; following Ultralytics' fitness, its mAP50-95, instead" in said[0]
        assert all(a == pytest.approx(b, abs=1e-5) for a, b in fitness)
