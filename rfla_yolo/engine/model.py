"""``RFLAYOLO``: Ultralytics' ``YOLO`` whose train and val use this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from ultralytics import YOLO
from ultralytics.utils.downloads import GITHUB_ASSETS_STEMS

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

    def __init__(self, model: str | Path = "yolov8s-p2.yaml", task: str | None = None, verbose: bool = False) -> None:
        path = Path(model)
        if path.suffix in {".pt", ".onnx"} and not path.is_file() and path.stem not in GITHUB_ASSETS_STEMS:
            raise FileNotFoundError(f"model: no such file: {path}")
        try:
            super().__init__(model, task=task, verbose=verbose)
        except FileNotFoundError:
            raise
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
            ValueError: If ``data`` is a list, on which Ultralytics would train one model after the other.
        """
        if isinstance(kwargs.get("data"), (list, tuple)):
            raise ValueError(f"data must be one dataset YAML, not {kwargs['data']!r}; train on each in its own run")
        return super().train(trainer=trainer or RFLATrainer, **kwargs)

    def val(self, validator: Any = None, **kwargs: Any) -> Any:
        """Validate; the metrics returned carry the figures by size as ``.evaluation``."""
        return super().val(validator=validator or RFLAValidator, **kwargs)

    def predict(self, source: Any = None, stream: bool = False, predictor: Any = None, **kwargs: Any) -> Any:
        """Predict, with room for dense images."""
        return super().predict(source, stream, predictor, **{"max_det": MAX_DET, **kwargs})

    def tune(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: Ultralytics' tuner starts its own command, which would train with TAL in silence."""
        raise NotImplementedError("tune() would train with Ultralytics' own assigner; loop over train() instead")
