"""Options of Ultralytics' training and validation that people use: each works with RFLA or is refused by name."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
import ultralytics.engine.trainer as ultralytics_trainer
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils.callbacks import clearml, comet, dvc, mlflow, tensorboard, wb
from ultralytics.utils.loss import v8DetectionLoss

from rfla_yolo import RFLAYOLO, RFLADetectionLoss, RFLATrainer
from rfla_yolo.engine import trainer as trainer_module
from rfla_yolo.engine.loss import one_to_many
from rfla_yolo.engine.options import check_options
from rfla_yolo.engine.receptive_field import detection_model
from rfla_yolo.engine.validator import SIZE_METRICS

from .conftest import QUICK


class Logged:
    """Stands in for a logger's library: keeps the numbers that any of its functions is given, by name."""

    def __init__(self):
        self.numbers = {}

    def __getattr__(self, name):
        return self

    def __call__(self, *args, **kwargs):
        given = [*args, *kwargs.values()]
        for table in given:
            if isinstance(table, dict):
                self.numbers |= {k: v for k, v in table.items() if isinstance(v, (int, float))}
        names = [value for value in given if isinstance(value, str)]
        values = [value for value in given if isinstance(value, float)]
        if names and values:
            self.numbers[names[-1]] = values[0]  # a title may come before the name
        return self

    def __bool__(self):
        return True


LOGGERS = {  # module of Ultralytics' callbacks: what it calls of the logger's library
    wb: ("wb",),
    mlflow: ("mlflow",),
    clearml: ("Task",),
    comet: ("comet_ml",),
    dvc: ("live",),
    tensorboard: ("WRITER",),
}


@pytest.fixture
def loggers(monkeypatch):
    """The loggers' libraries by name, and the callbacks by which Ultralytics hands them the figures of an epoch."""
    found, callbacks = {}, []
    for module, names in LOGGERS.items():
        library = found[module.__name__.rpartition(".")[2]] = Logged()
        for name in names:
            monkeypatch.setattr(module, name, library, raising=False)
        callbacks.append(module.on_fit_epoch_end)
    for name, value in {"_processed_plots": {}, "model_info_for_loggers": lambda trainer: {}}.items():
        monkeypatch.setattr(wb, name, value, raising=False)  # there if its library is
    monkeypatch.setattr(dvc, "_training_epoch", True, raising=False)
    monkeypatch.setattr(mlflow, "sanitize_dict", lambda x: {k: float(v) for k, v in x.items()}, raising=False)
    return found, callbacks


def train(data, folder, callbacks=None, **options):
    """Train for an epoch, and return the trainer and the rows of its csv."""
    options = {"model": "yolov8n-p2.yaml", "data": str(data), "project": str(folder), "name": "run", **QUICK, **options}
    trainer = RFLATrainer(overrides=options)
    for event, function in callbacks or ():
        trainer.add_callback(event, function)
    trainer.train()
    with (folder / "run" / "results.csv").open() as file:
        return trainer, list(csv.DictReader(file))


class TestTraining:
    def test_several_at_once(self, trained, tiny_set, tmp_path, monkeypatch, loggers):
        """freeze, fraction, multi_scale, cache, a teacher, running out of memory, and every logger, in one training."""
        teacher = trained / "weights" / "best.pt"
        libraries, callbacks = loggers
        sizes, batches, objects, counted, frozen = set(), [], [], [], {}
        grids = lambda t: tuple(detection_model(t.model).criterion.assigner.grid_shapes)  # noqa: E731
        forward = RFLADetectionLoss.loss

        def first_runs_out_of_memory(loss, preds, batch):
            batches.append(len(batch["im_file"]))
            objects.append(len(batch["cls"]))
            found = forward(loss, preds, batch)
            if len(batches) == 1:  # its positives are counted already, and will be again
                raise RuntimeError("CUDA out of memory")
            return found

        def at_end(trainer):
            counted.append(float(trainer._positives.totals[""][:, 0].sum()))

        def at_start(trainer):
            trainer._mlflow_active = True
            frozen.update({k: v.clone() for k, v in trainer.model.student_model.model[0].state_dict().items()})

        monkeypatch.setattr(RFLADetectionLoss, "loss", first_runs_out_of_memory)
        options = {"epochs": 1, "freeze": 1, "multi_scale": 0.5, "cache": "disk", "distill_model": str(teacher)}
        events = [("on_fit_epoch_end", c) for c in callbacks] + [("on_train_start", at_start)]
        events.append(("on_train_epoch_end", at_end))
        events.append(("on_train_batch_end", lambda t: sizes.add(grids(t))))
        trainer, rows = train(tiny_set, tmp_path, events, fraction=0.75, close_mosaic=0, **options)

        assert trainer.args.batch == 2 and batches[:3] == [4, 2, 2]
        assert counted == [sum(objects[1:4])]  # three batches of two after the one that failed
        assert len(trainer.train_loader.dataset) == 6
        assert list((tiny_set.parent / "images" / "train").glob("*.npy"))
        assert len(sizes) > 1
        assert float(rows[0]["train/dis_loss"]) > 0
        after = detection_model(trainer.model).model[0].state_dict()
        assert all(torch.equal(after[k], v) for k, v in frozen.items())
        assigned = {k: float(v) for k, v in rows[0].items() if k.startswith("assign/")}
        assert assigned["assign/positivesvt"] >= 2
        wanted = {*SIZE_METRICS, *assigned}
        for name, library in libraries.items():
            assert wanted <= set(library.numbers), (name, wanted - set(library.numbers))
            for key, value in assigned.items():
                assert library.numbers[key] == pytest.approx(value, rel=1e-4, nan_ok=True), (name, key)
        checkpoint, _ = load_checkpoint(trainer.best)
        assert type(checkpoint).__name__ == "DetectionModel"
        YOLO(trainer.best).predict(torch.zeros(1, 3, 64, 64), verbose=False)

    def test_rect_classes_time_and_cache(self, tiny_set, tmp_path):
        trainer, rows = train(tiny_set, tmp_path, epochs=300, rect=True, classes=[1], time=0.0001, cache="ram")
        assert all(image is not None for image in trainer.train_loader.dataset.ims)
        assert trainer.args.epochs < 300 and len(rows) < 5
        truth = json.loads((tmp_path / "run" / "annotations.json").read_text())
        assert len(truth["annotations"]) == count_labels(tiny_set, 1)
        assert all(math.isfinite(float(row["train/box_loss"])) for row in rows)

    @pytest.mark.slow
    @pytest.mark.parametrize("model", ["yolov8n-p2.yaml", "yolo26n.yaml"])
    def test_compile(self, tiny_set, tmp_path, monkeypatch, model):
        """By the tracing of torch.compile, without its compiler; it takes another way through the training loop."""
        compiled = []

        def trace(model, device, mode):
            if mode:
                compiled.append(torch.compile(model, backend="eager"))
            return compiled[-1] if mode else model

        monkeypatch.setattr(ultralytics_trainer, "attempt_compile", trace)
        monkeypatch.setattr(trainer_module, "check_options", lambda args, device: None)
        trainer, rows = train(tiny_set, tmp_path, model=model, compile=True)
        assert trainer.model is compiled[0]
        assert float(rows[-1]["assign/positivesvt"]) >= 2

    @pytest.mark.slow
    @pytest.mark.parametrize("model", ["yolov8n-p2.yaml", "yolo26n-p2.yaml"])
    def test_a_distillation_is_resumed(self, tiny_set, tmp_path, model):
        """The checkpoint leaves the teacher out: it comes from its own file again."""
        teacher = tmp_path / "teacher.pt"
        RFLAYOLO(model).save(teacher)

        def stop(trainer):
            raise InterruptedError

        with pytest.raises(InterruptedError):
            train(tiny_set, tmp_path, [("on_model_save", stop)], model=model, distill_model=str(teacher), topk=(2, 1))
        last = tmp_path / "run" / "weights" / "last.pt"
        trainer = RFLATrainer(overrides={"resume": str(last), "model": str(last)})
        trainer.train()
        criterion = detection_model(trainer.model).criterion
        assert one_to_many(criterion).assigner.config.topk == (2, 1)
        if model.startswith("yolo26"):
            assert criterion.updates == 2
        wanted = RFLAYOLO(teacher).model.state_dict()
        assert all(torch.equal(v, wanted[k]) for k, v in trainer.model.teacher_model.state_dict().items())
        with (tmp_path / "run" / "results.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [int(row["epoch"]) for row in rows] == [1, 2]
        assert all(float(row["train/dis_loss"]) > 0 and float(row["assign/positivesvt"]) > 0 for row in rows)

    @pytest.mark.slow
    def test_a_loss_that_is_no_number(self, tiny_set, tmp_path):
        spoilt = []

        def spoil(trainer):
            if trainer.epoch == 1 and not spoilt:
                spoilt.append(trainer.epoch)
                trainer.loss = trainer.loss * math.nan

        _, rows = train(tiny_set, tmp_path, [("on_train_epoch_end", spoil)])
        assert spoilt == [1] and len(rows) == 2
        assert all(math.isfinite(float(row["train/box_loss"])) for row in rows)

    @pytest.mark.parametrize("assigner", ["rfla", "tal"])
    def test_amp(self, tiny_set, tmp_path, monkeypatch, caplog, assigner):
        """On a CPU, where Ultralytics turns it off and autocast is in bfloat16."""
        dtypes = set()
        forward = v8DetectionLoss.get_assigned_targets_and_loss

        def record(loss, preds, batch, **options):
            dtypes.add(preds["boxes"].dtype)
            return forward(loss, preds, batch, **options)

        monkeypatch.setattr(ultralytics_trainer, "check_amp", lambda model: True)
        monkeypatch.setattr(v8DetectionLoss, "get_assigned_targets_and_loss", record)
        _, rows = train(tiny_set, tmp_path, assigner=assigner, epochs=1)
        assert dtypes >= {torch.float32 if assigner == "rfla" else torch.bfloat16}
        assert (torch.bfloat16 in dtypes) == (assigner == "tal")
        assert float(rows[0]["train/box_loss"]) > 0
        warned = [r.getMessage() for r in caplog.records if "assigner=tal trains as Ultralytics does" in r.getMessage()]
        assert len(warned) == (assigner == "tal")
        assert all("stride 4 and 64 px" in message and "docs/precision.md" in message for message in warned)

    @pytest.mark.gpu
    @pytest.mark.parametrize("model", ["yolov8n-p2.yaml", "yolo26n-p2.yaml"])
    @pytest.mark.parametrize("amp", ["fp16", "bf16"])
    def test_half_precision(self, tiny_set, tmp_path, amp, model):
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        if amp == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            pytest.skip("needs a GPU that computes in bfloat16")
        trainer, rows = train(tiny_set, tmp_path, model=model, amp=amp, device=0)
        assert trainer.validator.args.quantize is None
        assert all(math.isfinite(float(row["train/box_loss"])) for row in rows)

    @pytest.mark.gpu
    def test_compiled(self, tiny_set, tmp_path):
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        if not shutil.which(os.environ.get("CC", "cc")):
            pytest.skip("torch.compile needs a C compiler")
        _, rows = train(tiny_set, tmp_path, device=0, compile=True)
        assert all(math.isfinite(float(row["train/box_loss"])) for row in rows)


def count_labels(yaml, label=None):
    """Objects in the labels of the validation images, of one class or of all."""
    lines = [line for file in (yaml.parent / "labels" / "val").glob("*.txt") for line in file.read_text().splitlines()]
    return sum(label is None or line.startswith(f"{label} ") for line in lines)


class TestValidation:
    """The ground truth of AP by size follows the options that change Ultralytics'."""

    def validate(self, trained, folder, **options):
        data = trained.parent / "set" / "set.yaml"
        options = {"imgsz": 64, "plots": False, "device": "cpu", "project": str(folder), **options}
        found = RFLAYOLO(trained / "weights" / "best.pt").val(data=str(data), name="val", **options).evaluation
        return found, json.loads((folder / "val" / "annotations.json").read_text()), data

    def test_classes(self, trained, tmp_path):
        both, *_ = self.validate(trained, tmp_path / "both")
        found, truth, data = self.validate(trained, tmp_path / "one", classes=[1])
        assert len(truth["annotations"]) == count_labels(data, 1) > 0
        assert found["AP50"] == pytest.approx(both.per_class["dark"]["AP50"]) and found["AP50"] > 0

    def test_classes_that_are_merged_are_those_of_the_dataset(self, trained, tmp_path):
        _, truth, data = self.validate(trained, tmp_path / "one", classes=[1], single_cls=True)
        assert len(truth["annotations"]) == count_labels(data, 1) and len(truth["categories"]) == 1
        with pytest.raises(ValueError, match=r"0 to 1, not \[2\]"):
            self.validate(trained, tmp_path / "two", classes=[2], single_cls=True)

    def test_single_cls(self, trained, tmp_path):
        found, truth, data = self.validate(trained, tmp_path, single_cls=True)
        assert len(truth["annotations"]) == count_labels(data) and len(truth["categories"]) == 1
        assert found["AP50"] > 0

    def test_quantize_is_float32_on_a_cpu(self, trained, tmp_path):
        full, *_ = self.validate(trained, tmp_path / "32")
        half, *_ = self.validate(trained, tmp_path / "16", quantize=16)
        assert half.metrics == full.metrics


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amp": "bf16"}, "amp=bf16 needs a GPU that computes in bfloat16, not cpu; use amp=True or amp=False"),
        ({"compile": True}, "compile needs a GPU: .* leave it out"),
        ({"quantize": 8}, "quantize=8: training for 8 bits is not supported; .* export with quantize=8"),
    ],
)
def test_refused_by_name_before_the_training(tiny_set, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        train(tiny_set, tmp_path, **options)
    assert not (tmp_path / "run" / "results.csv").exists()
    assert not list((tmp_path / "run").glob("weights/*.pt"))


def test_what_is_not_refused():
    check_options(get_cfg(overrides={"amp": "fp16", "quantize": 16}), torch.device("cpu"))
    check_options(SimpleNamespace(amp=True, compile=True, quantize=None), torch.device("cuda"))
