"""``RFLAYOLO``: Ultralytics' ``YOLO`` whose train and val use this package."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any, NoReturn

from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import LOGGER
from ultralytics.utils.checks import check_imgsz
from ultralytics.utils.downloads import GITHUB_ASSETS_STEMS

from ..config import resource_dir
from .loss import has_one_to_one
from .trainer import RFLATrainer
from .validator import MAX_DET, RFLAValidator


class RFLAYOLO(YOLO):
    """A YOLO whose ``train`` and ``val`` use `RFLATrainer` and `RFLAValidator`; all else is Ultralytics'.

    Args:
        model: A model YAML, a checkpoint, or an exported ONNX file.
        task: Only ``"detect"``.
        verbose: Print the model.

    Raises:
        FileNotFoundError: If the file does not exist and is none of Ultralytics' own.
        ValueError: If it is no checkpoint, or not a detector.

    Example:
        >>> model = RFLAYOLO("yolov8n-p2.yaml")
        >>> model.train(data="aitod.yaml", epochs=100, imgsz=800, topk=(3, 1), rf="trf")  # doctest: +SKIP
    """

    model: Any  # the network, or the path of an exported file

    def __init__(self, model: str | Path = "yolov8s-p2.yaml", task: str | None = None, verbose: bool = False) -> None:
        path = Path(model := find_model(model))
        if path.suffix in {".pt", ".onnx"} and not path.is_file() and path.stem not in GITHUB_ASSETS_STEMS:
            raise FileNotFoundError(f"model: no such file: {path}")
        try:
            super().__init__(model, task=task, verbose=verbose)
        except FileNotFoundError:
            raise
        except NotImplementedError:  # RT-DETR: a head that YOLO has no task for
            raise ValueError(f"model: {model} is no YOLO; RFLA trains detectors (task 'detect')") from None
        except Exception as error:
            if path.suffix != ".pt":
                raise
            raise ValueError(f"model: {path} is no Ultralytics checkpoint ({type(error).__name__}: {error})") from error
        if not isinstance(self, RFLAYOLO) or self.task != "detect":
            found = self.task if isinstance(self, RFLAYOLO) else type(self).__name__
            raise ValueError(f"model: {model} is for {found!r}; RFLA trains detectors (task 'detect')")

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """Map the detection task to this package's trainer and validator."""
        tasks = super().task_map
        return {**tasks, "detect": {**tasks["detect"], "trainer": RFLATrainer, "validator": RFLAValidator}}

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
        return super().train(trainer=trainer or RFLATrainer, **kwargs)

    def val(self, validator: Any = None, **kwargs: Any) -> Any:
        """Validate; the metrics returned carry the figures by size as ``.evaluation``.

        A head with a one-to-one branch is validated twice unless ``nms`` is given: by its one-to-many branch with
        non-maximum suppression, which is Ultralytics' default, and by the one-to-one branch (``nms=False``), whose
        figures are ``.one_to_one`` and whose files lie in the folder ``one2one`` of the run.
        """
        validator = validator or RFLAValidator
        model = self.model
        if "nms" in kwargs or not isinstance(model, DetectionModel) or not has_one_to_one(model):
            return super().val(validator=validator, **kwargs)
        other = deepcopy(model)  # a validation removes the branch that it does not use
        LOGGER.info("The one-to-many branch, with non-maximum suppression (nms=None):")
        metrics = super().val(validator=validator, **kwargs)
        LOGGER.info("The one-to-one branch (nms=False):")
        self.model = other
        folder = str(Path(metrics.save_dir) / "one2one")
        metrics.one_to_one = super().val(validator=validator, **{**kwargs, "nms": False, "save_dir": folder}).evaluation
        self.model, self.metrics = model, metrics
        return metrics

    def predict(self, source: Any = None, stream: bool = False, predictor: Any = None, **kwargs: Any) -> Any:
        """Predict, with room for dense images."""
        return super().predict(source, stream, predictor, **{"max_det": self._max_det(), **kwargs})

    def export(self, **kwargs: Any) -> str:
        """Export, with room for dense images where the file selects the boxes itself."""
        self._check_is_pytorch_model()
        if not kwargs.get("dynamic"):  # one size of image: there are no more boxes than anchors
            strides = self.model.stride.tolist()
            imgsz = kwargs.get("imgsz") or self.model.args["imgsz"]
            height, width = check_imgsz(imgsz, stride=int(max(strides)), min_dim=2)
            anchors = sum(int(height / stride) * int(width / stride) for stride in strides)
            kwargs.setdefault("max_det", min(self._max_det(), anchors))
        return super().export(**{"max_det": self._max_det(), **kwargs})

    def _max_det(self) -> int:
        """Return the limit of detections an image that holds where a call gives none."""
        return self.overrides.get("max_det", MAX_DET)

    def tune(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: Ultralytics' tuner starts its own command, which would train with TAL in silence."""
        raise NotImplementedError("tune() would train with Ultralytics' own assigner; loop over train() instead")


def find_model(model: str | Path) -> str | Path:
    """Return the path of the model YAML of this package that is named, its scale in the name, or else the name."""
    path = Path(model)
    shipped = resource_dir("cfg") / "models" / path.name
    whole = shipped.with_name(re.sub(r"(\d+)[nslmx]", r"\1", path.name, count=1))  # yolov8n-p2-reg8: yolov8-p2-reg8
    return shipped if path.parent == Path() and path.suffix == ".yaml" and whole.is_file() else model
