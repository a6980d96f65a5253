"""Model YAMLs by name: this package's own, and how Ultralytics reads them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ultralytics.nn.tasks import guess_model_scale, yaml_model_load

from ..config import resource_dir


def find_model(model: str | Path) -> str | Path:
    """Return the path of the model YAML of this package that is named, its scale in the name, or else the name.

    A file of that name in the working directory comes first, as in Ultralytics.
    """
    path = Path(model)
    whole = _without_scale(path)
    shipped = resource_dir("cfg") / "models" / path.name
    named = str(model) == path.name and path.suffix == ".yaml" and shipped.with_name(whole.name).is_file()
    return shipped if named and not path.exists() and not whole.exists() else model


def load_model_yaml(path: str | Path) -> dict[str, Any]:
    """Return the content of a model YAML as Ultralytics reads it, in a folder of any name.

    Ultralytics looks for the scale in the whole path: of ``/home/lab4s/yolov8n-p2.yaml`` it leaves out the first "s".
    """
    whole = _without_scale(Path(path))
    content: dict[str, Any] = yaml_model_load(whole if whole.is_file() else path)
    return {**content, "scale": guess_model_scale(path), "yaml_file": str(path)}


def _without_scale(path: Path) -> Path:
    """Return the path without the scale in the name: yolov8n-p2-reg8.yaml is yolov8-p2-reg8.yaml."""
    return path.with_name(re.sub(r"(\d+)[nslmx]", r"\1", path.name, count=1))
