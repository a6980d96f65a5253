"""One short training for the tests of trainer, validator and export."""

from __future__ import annotations

from pathlib import Path

import pytest
from ultralytics.utils import SETTINGS

QUICK = {
    "imgsz": 64,
    "epochs": 2,
    "batch": 4,
    "device": "cpu",
    "plots": False,
    "workers": 0,
    "optimizer": "SGD",
    "warmup_epochs": 0,
    "verbose": False,
}
LEARNED = {**QUICK, "epochs": 40, "optimizer": "AdamW", "lr0": 0.005, "nbs": 4, "close_mosaic": 40, "scale": 0.1}
NOT_DEFAULT = {"topk": (2, 1), "decay": 0.8, "dfl_range": None}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_sets) -> Path:
    """Run folder of a training that has learned something, with RFLA settings that are not the defaults."""
    from rfla_yolo import RFLAYOLO

    root = tmp_path_factory.mktemp("runs")
    data = tiny_sets(root)
    model = RFLAYOLO("yolov8n-p2.yaml")
    model.train(data=str(data), project=str(root), name="trained", **NOT_DEFAULT, **LEARNED)
    return root / "trained"


@pytest.fixture(scope="session", autouse=True)
def no_integrations() -> None:
    """Keep loggers of other people's machines out of the tests."""
    for name in ("wandb", "comet", "clearml", "mlflow", "neptune", "raytune", "tensorboard", "dvc"):
        if name in SETTINGS:
            dict.__setitem__(SETTINGS, name, False)
