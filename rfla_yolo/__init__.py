"""rfla-yolo: Ultralytics YOLO for tiny objects, by Gaussian receptive field based label assignment (RFLA)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .analysis import analyze
    from .assign import DISTANCES, rfla_assign
    from .config import RFLAConfig
    from .engine import RFLAYOLO, RFLADetectionLoss, RFLATrainer, RFLAValidator, receptive_fields
    from .engine.predict import predict_scene, predict_scene_rows
    from .evaluation import compare, evaluate

_HOME = {  # loaded on first use: the assignment needs torch alone, the evaluation not even that
    "analyze": "analysis",
    "DISTANCES": "assign",
    "rfla_assign": "assign",
    "RFLAConfig": "config",
    "RFLADetectionLoss": "engine",
    "RFLATrainer": "engine",
    "RFLAValidator": "engine",
    "RFLAYOLO": "engine",
    "receptive_fields": "engine",
    "predict_scene": "engine.predict",
    "predict_scene_rows": "engine.predict",
    "compare": "evaluation",
    "evaluate": "evaluation",
}

__all__ = [
    "DISTANCES",
    "RFLAYOLO",
    "RFLAConfig",
    "RFLADetectionLoss",
    "RFLATrainer",
    "RFLAValidator",
    "analyze",
    "compare",
    "evaluate",
    "predict_scene",
    "predict_scene_rows",
    "receptive_fields",
    "rfla_assign",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rfla_yolo' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
