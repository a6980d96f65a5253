"""The trainers: Ultralytics' own of each task, with RFLA in their criterion and AP by size in their results."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import ultralytics
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.obb import OBBTrainer
from ultralytics.models.yolo.pose import PoseTrainer
from ultralytics.models.yolo.segment import SegmentationTrainer
from ultralytics.utils import DEFAULT_CFG, LOGGER, RANK, colorstr

from ..config import KEPT, YOUNGER, RFLAConfig
from .bins import choose_bins, describe_cut, describe_moved, load_weights, place_bins, use_bins, why_kept
from .checkpoints import KillSafeTrainer
from .data import build_checked, check_dataset, measure_objects
from .distances import DistanceMeter
from .loss import branch_in_use, build_criterion, has_one_to_one, one_to_many
from .options import check_options
from .positives import PositiveCounter
from .precision import describe_rounding
from .receptive_field import detection_model
from .shipped import load_model_yaml
from .validator import (
    MAX_DET,
    SIZE_METRICS,
    RFLAOBBValidator,
    RFLAPoseValidator,
    RFLASegmentationValidator,
    RFLAValidator,
)


class RFLATrainer(KillSafeTrainer, DetectionTrainer):
    """Train a YOLO detector with RFLA assignment; use as any Ultralytics trainer.

    Takes every Ultralytics argument and the settings of `RFLAConfig` in ``overrides``. The settings are kept with the
    run (``rfla.yaml``), in the checkpoint (as a plain dict) and restored on resume. ``args.yaml`` stays a file that
    plain Ultralytics reads, and a finished checkpoint holds nothing but Ultralytics' own classes.

    Named before the trainer of another task as a base, it makes that one's.

    Attributes:
        task: Name of the task.
        validator_class: The validator of the task.

    Args:
        cfg: Default arguments.
        overrides: Arguments by name.
        _callbacks: Callbacks by event.

    Raises:
        ValueError: If a setting is wrong or does not fit the model; before training starts.
        FileNotFoundError: If the data is not there.

    Example:
        >>> from ultralytics import YOLO
        >>> YOLO("yolov8n-p2.yaml").train(trainer=RFLATrainer, data="aitod.yaml")  # doctest: +SKIP
    """

    args: Any
    task = "detect"
    validator_class: type[RFLAValidator] = RFLAValidator

    def __init__(
        self, cfg: Any = DEFAULT_CFG, overrides: dict[str, Any] | None = None, _callbacks: dict | None = None
    ) -> None:
        overrides = dict(overrides or {})
        self.rfla, self._given = RFLAConfig.take_from(overrides)
        if (task := overrides.get("task") or self.task) != self.task:
            known = ", ".join(f"{trainer.__name__} for {name!r}" for name, trainer in TRAINERS.items())
            raise ValueError(f"task must be {self.task!r} for {type(self).__name__}, not {task!r}; there are {known}")
        overrides.setdefault("max_det", MAX_DET)
        if not overrides.get("resume") and overrides.get("data"):
            overrides["data"] = check_dataset(overrides["data"], "train", overrides.get("split", "val"))
        super().__init__(cfg, overrides, _callbacks)
        check_options(self.args, self.device)
        setattr(self.args, KEPT, self.rfla.to_dict())  # for the workers of several GPUs, which get these arguments

    def check_resume(self, overrides: dict[str, Any]) -> None:
        """Restore the settings of the interrupted run along with its arguments."""
        super().check_resume(overrides)
        if not self.resume:
            return
        arguments = self.args.__dict__  # args.yaml is written from them next, without the settings
        stored = arguments.pop(KEPT, None) or arguments.pop("rfla", None)  # "rfla" was the name in release 0.1
        if stored is None:
            raise ValueError(
                f"resume: {self.args.model} was not trained by rfla-yolo; resume it with plain Ultralytics"
            )
        if self._given:
            LOGGER.warning(f"Resume ignores {self._given}, using checkpoint values. Start a new run to change them.")
        self.rfla = RFLAConfig.from_dict({**YOUNGER, **stored})

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        """Build the model, with the bins that its YAML brings; weights come after them, with bins of their own."""
        model = super().get_model(load_model_yaml(cfg) if isinstance(cfg, (str, Path)) else cfg, None, verbose)
        place_bins(model)
        if weights:
            load_weights(model, weights)
        return model

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """Build the dataset and check that all of its labels can be used."""
        build = partial(super().build_dataset, img_path, mode, batch)
        return build_checked(build, img_path, self.data, self.args, self.rfla.skip_bad_labels)

    def get_validator(self) -> RFLAValidator:
        """Return the validator, whose arguments are Ultralytics' alone."""
        args = copy(self.args)
        validator = self.validator_class(self.test_loader, save_dir=self.save_dir, args=args, _callbacks=self.callbacks)
        validator.rfla = self.rfla
        if RANK in {-1, 0}:
            validator.load_annotations(self.data)
        return validator

    def set_class_weights(self) -> None:
        """Set the criterion, here because the class weights are known and the EMA copy is not made yet."""
        super().set_class_weights()
        model = detection_model(self.model)
        comment = f"rfla-yolo on ultralytics {ultralytics.__version__}"
        asked = self.rfla
        if asked.assigner == "rfla":
            model.criterion = build_criterion(model, asked)
            assigner = one_to_many(model.criterion).assigner
            comment += "\nreceptive fields in use: " + describe_levels(assigner.strides, assigner.rf_sizes)
        elif self.amp and RANK in {-1, 0}:
            dtype = torch.bfloat16 if self.args.amp == "bf16" else torch.float16
            LOGGER.warning(describe_rounding(dtype, float(model.stride.min()), self.args.imgsz))
        if getattr(model, "criterion", None) is None:
            model.criterion = model.init_criterion()  # what the first step would do
        notes, warnings = self._settle_bins(model)
        model.rfla = self.rfla.to_dict()  # survives in a finished checkpoint, as the next does
        model.objects = measure_objects(self.train_loader.dataset.labels, self.args.imgsz)
        if asked != self.rfla and self.rfla.dfl_range:
            comment += "\ndfl_range: measured on the training set"
        if bins := use_bins(model, model.criterion, self.rfla.dfl_range):
            comment += f"\nDFL bins from {bins[0]:g} to {bins[1]:g} cells: fine-tune this model by rfla-yolo alone"
        if RANK in {-1, 0}:
            LOGGER.info(f"{colorstr('rfla:')} " + ", ".join(f"{k}={v}" for k, v in self.rfla.to_dict().items()))
            for line in comment.splitlines():
                LOGGER.info(f"{colorstr('rfla:')} {line}")
            for line in [*notes, *asked.without_effect(self._given, has_one_to_one(model))]:
                LOGGER.info(f"{colorstr('rfla:')} {line}")
            for line in warnings:
                LOGGER.warning(line)
            if has_one_to_one(model):
                LOGGER.info(f"{colorstr('rfla:')} validation and fitness follow the {branch_in_use(self.args.nms)}")
            file = self.save_dir / "rfla.yaml"
            if not (self.resume and (self.rfla.is_in(file) or replace(self.rfla, dfl_range="auto").is_in(file))):
                asked.save(file, comment)

    def _settle_bins(self, model: Any) -> tuple[list[str], list[str]]:
        """Turn ``dfl_range: auto`` into numbers, or None; return what to log of it, and what to warn of."""
        asked, auto = self.rfla, self.rfla.dfl_range == "auto"
        kept, found = why_kept(model, asked), None
        notes = [f"without effect: dfl_range, because {kept}"] if auto and kept and "dfl_range" in self._given else []
        meter = None
        if asked.assigner == "rfla" and model.model[-1].reg_max > 1 and self.task != "obb":
            labels, args = self.train_loader.dataset.labels, self.args
            meter = DistanceMeter(labels, args.imgsz, args.scale, args.multi_scale)
            assigner = one_to_many(model.criterion).assigner
            levels = assigner.strides, assigner.rf_sizes, asked
            found = None if kept else meter.range(*levels, model.model[-1].reg_max)
        bins = choose_bins(model, found if auto else asked.dfl_range)
        warnings = [describe_moved(model, bins), meter.describe_unreached(*levels, bins) if meter and bins else None]
        if auto:
            self.rfla = replace(asked, dfl_range=found)
        return notes, [line for line in warnings if line]

    def _setup_train(self) -> None:
        self.args.__dict__.pop(KEPT, None)  # the model and the validator get these arguments: Ultralytics' alone
        super()._setup_train()
        self._cut_said = False
        self._positives = PositiveCounter(detection_model(self.model).criterion)
        self.add_callback("on_train_epoch_start", lambda _: self._positives.reset())  # an epoch may be begun again
        self.add_callback("on_train_epoch_end", lambda _: self._count_positives())  # every process comes by there
        if RANK in {-1, 0}:  # results.csv gets its columns from the first epoch, validated or not
            self.metrics |= dict.fromkeys(SIZE_METRICS, 0)

    def save_model(self) -> Any:
        """Keep the settings in the arguments of the checkpoint while the run can be resumed.

        Plain Ultralytics would resume with its own assigner. It refuses the checkpoint for the name of this argument,
        which says what to do.
        """
        args, self.args = self.args, copy(self.args)  # the model has the first
        setattr(self.args, KEPT, self.rfla.to_dict())
        try:
            return super().save_model()
        finally:
            self.args = args

    def resume_training(self, ckpt: Any) -> None:
        """Go on where the run was interrupted; Ultralytics would go on with its own assigner on both branches."""
        super().resume_training(ckpt)
        model = detection_model(self.model)
        if ckpt is not None and self.resume and has_one_to_one(model):
            if self.rfla.assigner == "rfla":
                model.criterion = build_criterion(model, self.rfla)
                self._set_gains(self.start_epoch)
            use_bins(model, model.criterion, self.rfla.dfl_range)

    def _handle_nan_recovery(self, epoch: int) -> bool:
        recovered = bool(super()._handle_nan_recovery(epoch))
        if recovered and self.rfla.assigner == "rfla":  # the epoch is done again, under the gains of its first try
            self._set_gains(epoch)
        return recovered

    def _set_gains(self, epoch: int) -> None:
        """Set the gains of the branches of an end-to-end head to those of an epoch, from 0."""
        criterion = detection_model(self.model).criterion
        if hasattr(criterion, "update"):
            criterion.updates = epoch - 1
            criterion.update()

    def _count_positives(self) -> None:
        self._assigned = self._positives.read()
        cut = describe_cut(detection_model(self.model).criterion)
        if cut and RANK in {-1, 0} and not self._cut_said:
            LOGGER.warning(cut)
            self._cut_said = True

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Add the epoch's positives per object to ``results.csv``, and to the metrics that loggers read next."""
        # without validation the last epoch's are still there; the columns keep their order
        others = {name: value for name, value in metrics.items() if name not in self._assigned}
        super().save_metrics({**others, **self._assigned})
        self.metrics |= self._assigned


class RFLASegmentationTrainer(RFLATrainer, SegmentationTrainer):
    """`RFLATrainer` of segmentation."""

    task = "segment"
    validator_class = RFLASegmentationValidator


class RFLAPoseTrainer(RFLATrainer, PoseTrainer):
    """`RFLATrainer` of keypoints."""

    task = "pose"
    validator_class = RFLAPoseValidator

    def get_dataset(self) -> dict[str, Any]:
        """Return what Ultralytics has read of the dataset's YAML.

        Raises:
            ValueError: If it does not say which keypoints there are.
        """
        try:
            return dict(super().get_dataset())
        except KeyError as error:
            raise ValueError(str(error.args[0])) from None


class RFLAOBBTrainer(RFLATrainer, OBBTrainer):
    """`RFLATrainer` of oriented boxes."""

    task = "obb"
    validator_class = RFLAOBBValidator


TRAINERS: dict[str, type[RFLATrainer]] = {
    trainer.task: trainer for trainer in (RFLATrainer, RFLASegmentationTrainer, RFLAPoseTrainer, RFLAOBBTrainer)
}


def describe_levels(strides: list[float], rf_sizes: list[float]) -> str:
    """Return the receptive fields in words, level by level."""
    return ", ".join(f"stride {s:g}: {r:g} px" for s, r in zip(strides, rf_sizes))
