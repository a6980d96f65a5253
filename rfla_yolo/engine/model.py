"""``RFLAYOLO``: Ultralytics' ``YOLO`` whose train and val use this package."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import torch
from torch import Tensor
from ultralytics import YOLO
from ultralytics.nn.backends.base import BaseBackend
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import LOGGER, colorstr
from ultralytics.utils.checks import check_imgsz
from ultralytics.utils.downloads import GITHUB_ASSETS_STEMS

from ..config import RFLAConfig
from .bins import check_bins, place_bins
from .formats import FULL_PRECISION, check_request, format_of, keep_float32, safely
from .loss import branch_in_use, check_levels, has_one_to_one
from .precision import Float32Predictor, mixed
from .shipped import find_model, load_model_yaml
from .trainer import TRAINERS
from .validator import MAX_DET

NO_BRANCH = "nms=False: {model} was exported without a one-to-one branch; its boxes go through suppression"
MAX_ORIENTED = 1000  # detections of a file that suppresses oriented boxes: it lays out all pairs of 5 times as many
COARSEST = 32  # px, the least stride of a backbone's last layer
TASKS = ", ".join(map(repr, TRAINERS))


class RFLAYOLO(YOLO):
    """A YOLO whose ``train``, ``val`` and ``predict`` use this package's classes; all else is Ultralytics'.

    The tasks are "detect", "segment", "pose" and "obb", oriented boxes.

    Args:
        model: A model YAML, a checkpoint, or an exported file or folder.
        task: The task, for an exported file that does not say it; checked against all others.
        verbose: Print the model.

    Raises:
        FileNotFoundError: If the file does not exist and is none of Ultralytics' own.
        ValueError: If it is no model or checkpoint, or for another task.

    Example:
        >>> model = RFLAYOLO("yolov8n-p2.yaml")
        >>> model.train(data="aitod.yaml", epochs=100, imgsz=800, topk=(3, 1), rf="trf")  # doctest: +SKIP
    """

    model: Any  # the network, or the path of an exported file

    def __init__(self, model: str | Path = "yolov8s-p2.yaml", task: str | None = None, verbose: bool = False) -> None:
        if task not in {None, *TRAINERS}:
            raise ValueError(f"task must be one of {TASKS}, not {task!r}")
        path = Path(model := find_model(model))
        exported = format_of(path)
        if (path.suffix == ".pt" or exported) and not _is_checkpoint(path):
            raise FileNotFoundError(f"model: no such file: {path}")
        if path.exists() and not exported and path.suffix not in {".pt", ".yaml", ".yml"}:
            raise ValueError(f"model: {path} is no model YAML, checkpoint (.pt) or exported file")
        written = BaseBackend.read_metadata(path).get("task") if exported else None  # Ultralytics guesses by the name
        try:
            super().__init__(model, written or (None if path.suffix in {".yaml", ".yml"} else task), verbose)
        except FileNotFoundError:
            raise
        except NotImplementedError:  # RT-DETR: a head that YOLO has no task for
            raise ValueError(f"model: {model} is no YOLO; RFLA trains YOLOs for {TASKS}") from None
        except Exception as error:
            if isinstance(error, KeyError) and path.suffix in {".yaml", ".yml"}:  # no such scale
                key = error.args[0]
                what = f"scale {key!r}" if len(key) == 1 else repr(key)
                raise ValueError(f"model: {model}: its YAML has no {what}") from error
            if path.suffix != ".pt":
                raise
            raise ValueError(f"model: {path} is no Ultralytics checkpoint ({type(error).__name__}: {error})") from error
        found = self.task if isinstance(self, RFLAYOLO) else type(self).__name__
        if found not in TRAINERS:
            raise ValueError(f"model: {model} is for {found!r}; RFLA trains YOLOs for {TASKS}")
        if task not in {None, found}:
            raise ValueError(f"task must be {found!r} for model {model}, not {task!r}")

    def _new(self, cfg: str, task: str | None = None, verbose: bool = False) -> None:
        with patch("ultralytics.engine.model.yaml_model_load", load_model_yaml):
            super()._new(cfg, task, verbose)
        place_bins(self.model)

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """Map the tasks to this package's trainers, validators and predictors."""
        found = dict(super().task_map)
        for name, trainer in TRAINERS.items():
            predictor = mixed(Float32Predictor, found[name]["predictor"])
            ours = {"trainer": trainer, "validator": trainer.validator_class, "predictor": predictor}
            found[name] = {**found[name], **ours}
        return found

    def train(self, trainer: Any = None, **kwargs: Any) -> Any:
        """Train; named explicitly, the trainer is also used where Ultralytics would start its own command.

        Raises:
            ValueError: If ``data`` is a list, on which Ultralytics would train one model after the other, or if there
                is nothing to resume, where it would train anew.
        """
        if kwargs.get("resume") is True:  # by name, the trainer checks it
            kwargs["resume"] = str(self.ckpt_path or self.model_name)
        if isinstance(kwargs.get("data"), (list, tuple)):
            raise ValueError(f"data must be one dataset YAML, not {kwargs['data']!r}; train on each in its own run")
        if not kwargs.get("resume") and isinstance(self.model, DetectionModel):
            self._check_settings(kwargs)
        return super().train(trainer=trainer or TRAINERS[self.task], **kwargs)

    def _check_settings(self, arguments: dict[str, Any]) -> None:
        """Raise ValueError at settings that do not fit the model, before the folder of the run is made."""
        config, _ = RFLAConfig.take_from(dict(arguments))
        check_bins(self.model, config.dfl_range)
        if config.assigner == "rfla":
            check_levels(self.model, config)
        check_pretrained(arguments.get("pretrained"))

    def val(self, validator: Any = None, **kwargs: Any) -> Any:
        """Validate; the metrics returned carry the figures by size as ``.evaluation``.

        A head with a one-to-one branch is validated twice unless ``nms`` is given: by its one-to-many branch with
        non-maximum suppression, which is Ultralytics' default, and by the one-to-one branch (``nms=False``), whose
        figures are ``.one_to_one`` and whose files lie in the folder ``one2one`` of the run.
        """
        model = self.model
        if "nms" in kwargs or not self._has_branches():
            self._log_branch("validating", kwargs)
            with safely(self._format(), partial(self._check_file, "validating", kwargs)):
                return super().val(validator, **kwargs)
        other = deepcopy(model)  # a validation removes the branch that it does not use
        LOGGER.info(f"The {branch_in_use(None)}, with non-maximum suppression:")
        metrics = super().val(validator, **kwargs)
        LOGGER.info(f"The {branch_in_use(False)}:")
        self.model = other
        folder = str(Path(metrics.save_dir) / "one2one")
        metrics.one_to_one = super().val(validator, **{**kwargs, "nms": False, "save_dir": folder}).evaluation
        self.model, self.metrics = model, metrics
        return metrics

    def predict(self, source: Any = None, stream: bool = False, predictor: Any = None, **kwargs: Any) -> Any:
        """Predict, with room for dense images; of a head with two branches the log says which it is."""
        self._log_branch("predicting", kwargs)
        with safely(self._format(), partial(self._check_file, "predicting", kwargs)):
            return super().predict(source, stream, predictor, **{"max_det": self._max_det(), **kwargs})

    def export(self, **kwargs: Any) -> str:
        """Export, with room for dense images where the file selects the boxes itself, and OpenVINO in float32.

        Raises:
            ValueError: If the model is an exported file, or the format cannot hold what ``nms`` asks for.
            ModuleNotFoundError: If packages are missing; none is installed.
        """
        if isinstance(self.model, (str, Path)):
            raise ValueError(f"model: {self.model} is an exported file; export takes a checkpoint (.pt)")
        name = check_request(kwargs.get("format"), kwargs.get("nms"), self._has_branches())
        self._log_branch("exporting", kwargs)
        room = self._max_det(MAX_ORIENTED if self.task == "obb" and kwargs.get("nms") else MAX_DET)
        if not kwargs.get("dynamic"):  # one size of image: there are no more boxes than anchors
            strides = self.model.stride.tolist()
            imgsz = kwargs.get("imgsz") or self.model.args["imgsz"]
            height, width = check_imgsz(imgsz, stride=int(input_strides(self.model).max()), min_dim=2)
            anchors = sum(int(height / stride) * int(width / stride) for stride in strides)
            room = min(room, anchors)
        with safely(name), patch.object(self.model, "stride", input_strides(self.model)):
            file = super().export(**{"max_det": room, **kwargs})
        if name == "openvino" and BaseBackend.read_metadata(file)["args"].get("quantize") in FULL_PRECISION:
            keep_float32(file)
        return file

    def _format(self) -> str | None:
        """Return the format of the exported file that stands for the network, None where there is a network."""
        return format_of(self.model) if isinstance(self.model, (str, Path)) else None

    def _has_branches(self) -> bool:
        return isinstance(self.model, DetectionModel) and has_one_to_one(self.model)

    def _log_branch(self, what: str, arguments: dict[str, Any]) -> None:
        if self._has_branches() and arguments.get("verbose") is not False:
            nms = arguments.get("nms", self.overrides.get("nms"))
            LOGGER.info(f"{colorstr('rfla:')} {what} by the {branch_in_use(nms)}")

    def _check_file(self, what: str, arguments: dict[str, Any], file: Any) -> None:
        """Check that an exported file, loaded, takes the size of image that is given, and say what selects its boxes.

        Raises:
            ValueError: If it takes another size; Ultralytics would take the file's in silence.
        """
        given = {**self.overrides, **arguments}
        if "imgsz" in given and "imgsz" in file.metadata and not file.dynamic:
            check_size("imgsz", check_imgsz(given["imgsz"], stride=file.stride, min_dim=2), file.imgsz)
        if file.end2end and given.get("verbose") is not False:
            suppresses = file.metadata.get("args", {}).get("nms")
            chosen = "suppression" if suppresses else f"{branch_in_use(False)}, whatever nms is given"
            LOGGER.info(f"{colorstr('rfla:')} {what} by the file's {chosen}")
        elif given.get("nms") is False and not file.end2end:
            LOGGER.warning(NO_BRANCH.format(model=self.model))

    def _max_det(self, default: int = MAX_DET) -> int:
        """Return the limit of detections an image that holds where a call gives none."""
        return self.overrides.get("max_det", default)

    def tune(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: Ultralytics' tuner starts its own command, which would train with TAL in silence."""
        raise NotImplementedError(
            "tune() would train with Ultralytics' own assigner; search by rfla-yolo tune, or rfla_yolo.engine.tune.tune"
        )


def input_strides(model: Any) -> Tensor:
    """Return the strides that the sides of an input must be multiples of: the head's, and at least 32 px.

    A head without an output at stride 32 does not name it, though its backbone goes there; training rounds by it too.
    """
    strides: Tensor = model.stride
    return strides if strides.max() >= COARSEST else torch.cat([strides, strides.new_tensor([COARSEST])])


def check_size(name: str, given: Sequence[int], taken: Sequence[int]) -> None:
    """Raise ValueError unless an exported file takes images of the size that is given; heights and widths, px."""
    if list(given) != list(taken):
        asked, fixed = (" x ".join(map(str, size)) for size in (given, taken))
        raise ValueError(
            f"{name} must be the exported file's {fixed} px, not {asked}: leave it out, or export the file with that "
            "imgsz or with dynamic=True"
        )


def check_pretrained(weights: Any) -> None:
    """Raise FileNotFoundError where Ultralytics' argument ``pretrained`` names a file that is not there."""
    if isinstance(weights, (str, Path)) and not _is_checkpoint(Path(weights)):
        raise FileNotFoundError(f"pretrained: no such file: {weights}")


def _is_checkpoint(path: Path) -> bool:
    """Return whether a file is there, or is one that Ultralytics downloads."""
    return path.exists() or path.stem in GITHUB_ASSETS_STEMS
