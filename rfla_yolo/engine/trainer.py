"""The trainer: Ultralytics' ``DetectionTrainer`` with RFLA in its criterion and AP by size in its results."""

from __future__ import annotations

from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import ultralytics
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.modules import Detect, v10Detect
from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils import DEFAULT_CFG, LOGGER, RANK, colorstr
from ultralytics.utils.files import get_latest_run

from ..config import KEPT, RFLAConfig
from .bins import set_bins
from .data import build_checked, check_dataset
from .loss import build_criterion, has_one_to_one, one_to_many
from .positives import PositiveCounter
from .receptive_field import detection_model
from .validator import MAX_DET, SIZE_METRICS, RFLAValidator


class RFLATrainer(DetectionTrainer):
    """Train a YOLO detector with RFLA assignment; use as any Ultralytics trainer.

    Takes every Ultralytics argument and the settings of `RFLAConfig` in ``overrides``. The settings are kept with the
    run (``rfla.yaml``), in the checkpoint (as a plain dict) and restored on resume. ``args.yaml`` stays a file that
    plain Ultralytics reads, and a finished checkpoint holds nothing but Ultralytics' own classes.

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

    def __init__(
        self, cfg: Any = DEFAULT_CFG, overrides: dict[str, Any] | None = None, _callbacks: dict | None = None
    ) -> None:
        overrides = dict(overrides or {})
        self.rfla, self._given = RFLAConfig.take_from(overrides)
        check_task(overrides.get("task"))
        overrides.setdefault("max_det", MAX_DET)
        if not overrides.get("resume") and overrides.get("data"):
            overrides["data"] = check_dataset(overrides["data"], "train", overrides.get("split", "val"))
        super().__init__(cfg, overrides, _callbacks)
        setattr(self.args, KEPT, self.rfla.to_dict())  # for the workers of several GPUs, which get these arguments

    def check_resume(self, overrides: dict[str, Any]) -> None:
        """Restore the settings of the interrupted run along with its arguments."""
        resume = self.args.resume
        if resume:
            check_interrupted(resume if isinstance(resume, (str, Path)) else get_latest_run())
        super().check_resume(overrides)
        if not resume:
            return
        arguments = self.args.__dict__  # args.yaml is written from them next, without the settings
        stored = arguments.pop(KEPT, None) or arguments.pop("rfla", None)  # "rfla" was the name in release 0.1
        if stored is None:
            raise ValueError(
                f"resume: {self.args.model} was not trained by rfla-yolo; resume it with plain Ultralytics"
            )
        if self._given:
            LOGGER.warning(f"Resume ignores {self._given}, using checkpoint values. Start a new run to change them.")
        self.rfla = RFLAConfig.from_dict(stored)

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """Build the dataset and check that all of its labels can be used."""
        build = partial(super().build_dataset, img_path, mode, batch)
        return build_checked(build, img_path, self.data, self.args, self.rfla.skip_bad_labels)

    def get_validator(self) -> RFLAValidator:
        """Return the validator, whose arguments are Ultralytics' alone."""
        args = copy(self.args)
        validator = RFLAValidator(self.test_loader, save_dir=self.save_dir, args=args, _callbacks=self.callbacks)
        validator.rfla = self.rfla
        if RANK in {-1, 0}:
            validator.load_annotations(self.data)
        return validator

    def set_class_weights(self) -> None:
        """Set the criterion, here because the class weights are known and the EMA copy is not made yet."""
        super().set_class_weights()
        model = detection_model(self.model)
        model.rfla = self.rfla.to_dict()  # survives in a finished checkpoint
        comment = f"rfla-yolo on ultralytics {ultralytics.__version__}"
        if self.rfla.assigner == "rfla":
            check_head(model)
            model.criterion = build_criterion(model, self.rfla)
            assigner = one_to_many(model.criterion).assigner
            comment += "\nreceptive fields in use: " + describe_levels(assigner.strides, assigner.rf_sizes)
        if self.rfla.dfl_range is not None:
            if getattr(model, "criterion", None) is None:
                model.criterion = model.init_criterion()
            losses = [getattr(model.criterion, b) for b in ("one2many", "one2one") if hasattr(model.criterion, b)]
            set_bins(model.model[-1], losses or [model.criterion], tuple(self.rfla.dfl_range))
        if RANK in {-1, 0}:
            LOGGER.info(f"{colorstr('rfla:')} " + ", ".join(f"{k}={v}" for k, v in self.rfla.to_dict().items()))
            LOGGER.info(f"{colorstr('rfla:')} {comment.splitlines()[-1]}")
            if has_one_to_one(model):
                branch = "one-to-one (nms=False)" if self.args.nms is False else "one-to-many (nms=None)"
                LOGGER.info(f"{colorstr('rfla:')} validation and fitness follow the {branch} branch")
            self.rfla.save(self.save_dir / "rfla.yaml", comment)

    def _setup_train(self) -> None:
        self.args.__dict__.pop(KEPT, None)  # the model and the validator get these arguments: Ultralytics' alone
        super()._setup_train()
        model = detection_model(self.model)
        if getattr(model, "criterion", None) is None:
            model.criterion = model.init_criterion()  # what the first step would do
        self._positives = PositiveCounter(model.criterion)
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
        if ckpt is not None and self.resume and self.rfla.assigner == "rfla" and has_one_to_one(model):
            model.criterion = build_criterion(model, self.rfla)
            self._set_gains(self.start_epoch)

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

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Add the epoch's positives per object to ``results.csv``."""
        super().save_metrics({**metrics, **self._positives.read()})


def check_interrupted(file: str | Path) -> None:
    """Raise an error unless a training can be resumed from this file.

    Raises:
        FileNotFoundError: If there is no such file; Ultralytics would resume its latest run instead.
        ValueError: If it is no checkpoint, or the training has come to its end.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"resume: no such file: {file}" if file else "resume: found no run to resume")
    try:
        _, checkpoint = load_checkpoint(file)
    except Exception as error:
        raise ValueError(f"resume: {file} is no Ultralytics checkpoint ({type(error).__name__}: {error})") from error
    epoch, epochs = checkpoint.get("epoch", -1), (checkpoint.get("train_args") or {}).get("epochs", 0)
    if epoch < 0 or epoch + 1 >= epochs or checkpoint.get("optimizer") is None:
        raise ValueError(
            f"resume: the run of {file} has finished, there is nothing to resume; "
            f"to go on from its weights, train with model={file} and without resume"
        )


def check_task(task: str | None) -> None:
    """Raise ValueError where another task than detection is asked for."""
    if task not in {None, "detect"}:
        raise ValueError(f"task must be 'detect', not {task!r}: RFLA assigns boxes only")


def check_head(model: Any) -> None:
    """Raise ValueError unless RFLA can train the model's head."""
    head = model.model[-1]
    if type(head) not in {Detect, v10Detect}:
        raise ValueError(f"model: RFLA trains heads of type Detect and v10Detect, not {type(head).__name__}")


def describe_levels(strides: list[float], rf_sizes: list[float]) -> str:
    """Return the receptive fields in words, level by level."""
    return ", ".join(f"stride {s:g}: {r:g} px" for s, r in zip(strides, rf_sizes))
