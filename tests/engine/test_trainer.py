"""Training: stock losses for the baseline, settings that travel, and errors before the first epoch."""

from __future__ import annotations

import csv
import json
import pickle
import random
import subprocess
import sys
import zipfile
from typing import ClassVar

import pytest
import torch
import yaml
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.models.yolo.detect import DetectionTrainer

from rfla_yolo import RFLAYOLO, RFLAConfig, RFLADetectionLoss, RFLATrainer, receptive_fields
from rfla_yolo.config import KEPT
from rfla_yolo.engine.validator import SIZE_METRICS

from .conftest import LEARNED, NOT_DEFAULT, QUICK


def losses(trainer_class, data, folder, **settings):
    """Loss items of every step."""
    seen = []
    overrides = {"model": "yolov8n-p2.yaml", "data": str(data), "project": str(folder), "max_det": 3000, **QUICK}
    trainer = trainer_class(overrides={**overrides, "name": trainer_class.__name__, "val": False, **settings})
    trainer.add_callback(
        "on_train_batch_end",
        lambda t: seen.append({k: v.item() for k, v in t.loss_items.items()} | {"sum": t.loss.item()}),
    )
    trainer.train()
    return seen


class TestBaseline:
    def test_tal_is_stock_to_the_last_digit(self, tiny_set, tmp_path):
        stock = losses(DetectionTrainer, tiny_set, tmp_path)
        random.seed(123)  # the state that the process happens to be in
        receptive_fields(YOLO("yolov8n-p2.yaml"))
        ours = losses(RFLATrainer, tiny_set, tmp_path, assigner="tal")
        assert len(stock) == 4
        assert ours == stock

    def test_rfla_trains_otherwise(self, tiny_set, tmp_path):
        """The same run with RFLA: other losses, so the assigner is in use."""
        assert losses(RFLATrainer, tiny_set, tmp_path) != losses(RFLATrainer, tiny_set, tmp_path, assigner="tal")


class TestSettings:
    def test_run_folder(self, trained):
        saved = yaml.safe_load((trained / "rfla.yaml").read_text())
        assert (saved["topk"], saved["decay"]) == ([2, 1], 0.8)
        assert "stride 4: 8 px" in (trained / "rfla.yaml").read_text()
        get_cfg(overrides=yaml.safe_load((trained / "args.yaml").read_text()))  # plain Ultralytics reads it
        assert (trained / "metrics.json").is_file()
        assert (trained / "annotations.json").is_file()

    def test_results_have_the_size_columns_every_epoch(self, trained):
        rows = list(csv.DictReader((trained / "results.csv").open()))
        assert len(rows) == LEARNED["epochs"]
        assert set(SIZE_METRICS) <= set(rows[0])
        assert all(None not in row for row in rows)  # no row longer than the header

    def test_columns_keep_their_place_without_validation(self, tiny_set, tmp_path):
        model = RFLAYOLO("yolov8n-p2.yaml")
        model.train(data=str(tiny_set), project=str(tmp_path), name="run", val=False, **QUICK)
        first, last = csv.DictReader((tmp_path / "run" / "results.csv").open())
        assert None not in last
        assert float(last["val/box_loss"]) > 0
        assert float(first["metrics/APvt"]) == 0

    def test_nothing_of_ours_in_the_pickle(self, trained):
        for name in ("best.pt", "last.pt"):
            with zipfile.ZipFile(trained / "weights" / name) as archive:
                member = next(n for n in archive.namelist() if n.endswith("data.pkl"))
                assert b"rfla_yolo" not in archive.read(member)
        checkpoint = torch.load(trained / "weights" / "best.pt", map_location="cpu", weights_only=False)
        assert RFLAConfig.from_dict(checkpoint["model"].rfla) == RFLAConfig(**NOT_DEFAULT)
        assert checkpoint["model"].criterion is None
        assert {name: type(value) for name, value in checkpoint["model"].objects.items()} == dict.fromkeys(
            ("side_max", "side_p999", "scale"), float
        )
        assert 4 <= checkpoint["model"].objects["side_max"] < 12.01
        assert checkpoint["model"].objects["scale"] == 1

    def test_plain_ultralytics_validates_to_the_same_numbers(self, trained, tmp_path):
        data = trained.parent / "set" / "set.yaml"
        code = (
            "import sys, json; sys.modules['rfla_yolo'] = None\n"
            "from ultralytics import YOLO\n"
            f"options = dict(imgsz=64, max_det=3000, plots=False, project={str(tmp_path)!r}, name='plain')\n"
            f"m = YOLO({str(trained / 'weights/best.pt')!r}).val(data={str(data)!r}, **options)\n"
            f"json.dump(m.results_dict, open({str(tmp_path / 'plain.json')!r}, 'w'))\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        options = {"imgsz": 64, "plots": False, "project": str(tmp_path), "name": "ours"}
        ours = RFLAYOLO(trained / "weights/best.pt").val(data=str(data), **options)
        assert json.loads((tmp_path / "plain.json").read_text()) == ours.results_dict
        assert ours.results_dict["metrics/mAP50(B)"] > 0.1

    def test_trainer_in_plain_ultralytics(self, tiny_set, tmp_path):
        model = YOLO("yolov8n-p2.yaml")
        model.train(
            trainer=RFLATrainer, data=str(tiny_set), project=str(tmp_path), name="run", **{**QUICK, "epochs": 1}
        )
        assert isinstance(model.trainer.model.criterion, RFLADetectionLoss)
        assert model.trainer.args.max_det == 3000

    def test_workers_of_several_gpus_get_the_settings(self, tiny_set, tmp_path):
        """They are given the trainer's class and the dict of its arguments, no more."""
        overrides = {"model": "yolov8n-p2.yaml", "data": str(tiny_set), "project": str(tmp_path), **QUICK}
        trainer = RFLATrainer(overrides={**overrides, "topk": (7, 2)})
        arguments = pickle.loads(pickle.dumps(vars(trainer.args)))
        assert RFLATrainer(overrides=arguments).rfla == RFLAConfig(topk=(7, 2))


class TestFitness:
    def test_best_follows_it(self, tiny_set, tmp_path):
        model = RFLAYOLO("yolov8n-p2.yaml")
        settings = {**LEARNED, "fitness": "APt", "project": str(tmp_path), "name": "run"}
        seen = []
        model.add_callback("on_model_save", lambda t: seen.append((t.fitness, t.metrics["metrics/APt"])))
        model.train(data=str(tiny_set), **settings)
        assert all(a == b for a, b in seen)
        assert max(a for a, _ in seen) > 0


class TestResume:
    settings: ClassVar = {"topk": (2, 0), "rf": "stride", "rf_scale": 2.0, "dfl_range": (-1.0, 4.0)}

    def interrupt(self, data, folder, epoch, **more):
        """Train up to the checkpoint of an epoch, counted from 0, and return it."""

        class StopError(Exception):
            pass

        def stop(trainer):
            if trainer.epoch == epoch:
                raise StopError

        model = RFLAYOLO("yolov8n-p2.yaml")
        model.add_callback("on_model_save", stop)
        with pytest.raises(StopError):
            model.train(data=str(data), project=str(folder), name="run", **{**self.settings, **more}, **QUICK)
        return folder / "run" / "weights" / "last.pt"

    def assert_resumes(self, last, resume):
        resumed = RFLAYOLO(last)
        resumed.train(resume=resume)
        assert resumed.trainer.rfla == RFLAConfig(**self.settings)
        assert resumed.trainer.model.criterion.assigner.rf_sizes == [8, 16, 32, 64]
        assert len(list(csv.DictReader((last.parents[1] / "results.csv").open()))) == 2

    def test_settings_come_back(self, tiny_set, tmp_path):
        self.assert_resumes(self.interrupt(tiny_set, tmp_path, 0), True)

    def test_what_the_start_measured_stays_said(self, tiny_set, tmp_path):
        last = self.interrupt(tiny_set, tmp_path, 0, dfl_range="auto")
        before = (tmp_path / "run" / "rfla.yaml").read_text()
        RFLAYOLO(last).train(resume=True)
        assert "dfl_range: measured on the training set" in before
        assert (tmp_path / "run" / "rfla.yaml").read_text() == before

    @pytest.mark.parametrize("edited", ["topk: [9, 1]\n", "distance: [kl, wd]\n1: 2\n", "{", None])
    def test_an_edited_file_is_written_again(self, edited, tiny_set, tmp_path):
        """Resume takes the checkpoint's settings, so the file must not say others."""
        last = self.interrupt(tiny_set, tmp_path, 0)
        file = tmp_path / "run" / "rfla.yaml"
        file.unlink() if edited is None else file.write_text(edited)
        RFLAYOLO(last).train(resume=True)
        assert RFLAConfig.from_dict(yaml.safe_load(file.read_text())) == RFLAConfig(**self.settings)

    def test_checkpoint_of_0_1(self, tiny_set, tmp_path):
        """It has the settings under another name, among them two that are no more."""
        last = self.interrupt(tiny_set, tmp_path, 0)
        checkpoint = torch.load(last, weights_only=False)
        settings = {**checkpoint["train_args"].pop(KEPT), "candidates": "window", "select": "topk"}
        checkpoint["train_args"]["rfla"] = checkpoint["ema"].rfla = settings
        torch.save(checkpoint, last)
        self.assert_resumes(last, str(last))

    def test_plain_ultralytics_is_told_what_to_do(self, tiny_set, tmp_path):
        """It would go on with its own assigner otherwise."""
        last = self.interrupt(tiny_set, tmp_path, 0)
        before = last.read_bytes()
        with pytest.raises(SyntaxError, match="resume_with_rfla_yolo"):
            YOLO(last).train(resume=True)
        assert last.read_bytes() == before

    @pytest.mark.parametrize("resume", [True, "last.pt"])
    def test_finished_run(self, trained, resume, monkeypatch):
        monkeypatch.chdir(trained / "weights")
        before = sorted(trained.parent.iterdir())
        with pytest.raises(ValueError, match=r"last\.pt has finished, there is nothing to resume; .* model="):
            RFLAYOLO("last.pt").train(resume=resume)
        assert sorted(trained.parent.iterdir()) == before

    @pytest.mark.parametrize(
        ("resume", "error", "message"),
        [
            (True, FileNotFoundError, "resume: no such file: yolov8n-p2"),
            ("gone.pt", FileNotFoundError, r"resume: no such file: gone\.pt"),
            (__file__, ValueError, r"resume: .*test_trainer\.py is no Ultralytics checkpoint"),
        ],
    )
    def test_no_checkpoint(self, resume, error, message):
        with pytest.raises(error, match=message):
            RFLAYOLO("yolov8n-p2.yaml").train(resume=resume)

    def test_stock_run(self, tiny_set, tmp_path):
        options = {**QUICK, "epochs": 3, "project": str(tmp_path), "name": "stock"}
        model = YOLO("yolov8n-p2.yaml")

        def stop(trainer):
            trainer.stop = True
            raise KeyboardInterrupt

        model.add_callback("on_model_save", stop)
        with pytest.raises(KeyboardInterrupt):
            model.train(data=str(tiny_set), **options)
        with pytest.raises(ValueError, match="was not trained by rfla-yolo"):
            RFLAYOLO(tmp_path / "stock" / "weights" / "last.pt").train(resume=True)


class TestBadInput:
    def train(self, data, tmp_path, model="yolov8n-p2.yaml", **settings):
        return RFLAYOLO(model).train(data=str(data), project=str(tmp_path), name="bad", **{**QUICK, **settings})

    def label(self, tiny_set, text, name="3.txt"):
        (tiny_set.parent / "labels" / "train" / name).write_text(text)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("0 0.5 0.5 0.1 0.1\n5 0.5 0.5 0.1 0.1\n", r"3\.txt:2: class 5 is not one of 0 to 1"),
            ("0 nan 0.5 0.1 0.1\n", r"3\.txt:1: expected finite numbers, found '0 nan 0\.5 0\.1 0\.1'"),
            ("0 0.5 1.7 0.1 0.1\n", r"3\.txt:1: coordinate 1\.7 is not in 0 to 1"),
            ("0 0.5 0.5 -0.1 0.1\n", r"3\.txt:1: (width or height|coordinate) -0\.1"),
            ("0 0.5 0.5 0.1\n", r"3\.txt:1: expected 5 columns .* found 4"),
            ("zero 0.5 0.5 0.1 0.1\n", r"3\.txt:1: expected numbers"),
        ],
    )
    def test_bad_labels(self, tiny_set, tmp_path, text, message):
        self.label(tiny_set, text)
        with pytest.raises(ValueError, match=message):
            self.train(tiny_set, tmp_path)
        assert not list((tmp_path / "bad" / "weights").glob("*.pt"))

    @pytest.mark.parametrize("skip", [False, True])
    @pytest.mark.parametrize("split", ["train", "val"])
    @pytest.mark.parametrize("listed", [False, True])
    def test_bad_labels_everywhere(self, tiny_set, tmp_path, skip, split, listed):
        """None is left to go on with: an error in any case, from folders and from lists of images."""
        images = sorted((tiny_set.parent / "images" / split).glob("*.png"))
        for image in images:
            (tiny_set.parent / "labels" / split / f"{image.stem}.txt").write_text("2 0.5 0.5 0.1 0.1\n")
        if listed:
            (tiny_set.parent / "list.txt").write_text("\n".join(f"./images/{split}/{image.name}" for image in images))
            tiny_set.write_text(tiny_set.read_text().replace(f"{split}: images/{split}", f"{split}: list.txt"))
        message = rf"(?s)^8 images cannot be used .*{split}/0\.txt:1: class 2 is not one of 0 to 1\n.*No other image is"
        with pytest.raises(ValueError, match=message):
            self.train(tiny_set, tmp_path, skip_bad_labels=skip)

    def test_bad_labels_can_be_skipped(self, tiny_set, tmp_path):
        self.label(tiny_set, "7 0.5 0.5 0.1 0.1\n")
        self.train(tiny_set, tmp_path, skip_bad_labels=True, epochs=1)
        assert (tmp_path / "bad" / "weights" / "last.pt").is_file()

    def test_nothing_is_left_but_background(self, tiny_set, tmp_path):
        """Image 7 has no objects: with all others dropped there is nothing to learn."""
        for number in range(7):
            self.label(tiny_set, "0 nan 0.5 0.1 0.1\n", f"{number}.txt")
        with pytest.raises(ValueError, match=r"(?s)7 images cannot be used.*No object is left in .*images/train"):
            self.train(tiny_set, tmp_path, skip_bad_labels=True)

    @pytest.mark.parametrize("classes", [7, [0, 2], ["bright"], -1])
    def test_classes_that_there_are_not(self, tiny_set, tmp_path, classes):
        with pytest.raises(ValueError, match=r"classes must be numbers of the dataset's classes, 0 to 1, not "):
            self.train(tiny_set, tmp_path, classes=classes)

    def test_list_names_an_image_that_is_not_there(self, tiny_set, tmp_path):
        images = [*(tiny_set.parent / "images/train").glob("*.png"), tiny_set.parent / "images/train/gone.png"]
        (tiny_set.parent / "train.txt").write_text("\n".join(map(str, images)))
        tiny_set.write_text(tiny_set.read_text().replace("train: images/train", "train: train.txt"))
        with pytest.raises(ValueError, match=r"gone\.png: no such image"):
            self.train(tiny_set, tmp_path)

    def test_missing_images(self, tiny_set, tmp_path):
        tiny_set.write_text(tiny_set.read_text().replace("train: images/train", "train: images/none"))
        with pytest.raises(FileNotFoundError, match=r"train images not found at .*images/none"):
            self.train(tiny_set, tmp_path)

    def test_missing_set_says_what_to_do(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"(?s)aitod/images/val.*To get it:"):
            self.train("aitod.yaml", tmp_path)

    def test_missing_yaml(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
            self.train("nowhere.yaml", tmp_path)

    def test_wrong_number_of_fields(self, tiny_set, tmp_path):
        with pytest.raises(ValueError, match="rf must give one size in px for each of the model's 4 levels"):
            self.train(tiny_set, tmp_path, rf=(8, 16, 32))

    def test_one_to_one_heads_train_with_tal(self, tiny_set, tmp_path):
        self.train(tiny_set, tmp_path, model="yolo26n-p2.yaml", assigner="tal", epochs=1)

    def test_weights_that_do_not_exist(self):
        with pytest.raises(FileNotFoundError, match=r"model: no such file: gone\.pt"):
            RFLAYOLO("gone.pt")

    def test_weights_that_are_no_checkpoint(self, tmp_path):
        (tmp_path / "text.pt").write_text("not a checkpoint")
        with pytest.raises(ValueError, match=r"text\.pt is no Ultralytics checkpoint"):
            RFLAYOLO(tmp_path / "text.pt")

    def test_tune_is_refused(self):
        with pytest.raises(NotImplementedError, match="own assigner; search by rfla-yolo tune"):
            RFLAYOLO("yolov8n-p2.yaml").tune()


def test_epoch_without_any_object_trains(tiny_set, tmp_path):
    """No positive anywhere but in one image: the other batches have none."""
    for file in (tiny_set.parent / "labels" / "train").glob("*.txt"):
        if file.name != "0.txt":
            file.write_text("")
    RFLAYOLO("yolov8n-p2.yaml").train(
        data=str(tiny_set), project=str(tmp_path), name="run", mosaic=0, **{**QUICK, "epochs": 1, "batch": 2}
    )
    row = next(csv.DictReader((tmp_path / "run" / "results.csv").open()))
    assert float(row["train/cls_loss"]) > 0
