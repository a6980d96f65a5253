"""``rfla-yolo train``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .parser import fail, make_parser, need_data, take_model

DEMO = {"data": "demo.yaml", "model": "yolov8n-p2.yaml", "imgsz": 192, "epochs": 8, "batch": 8, "name": "demo"}
DEMO |= {"optimizer": "AdamW", "lr0": 0.003, "warmup_epochs": 1.0, "nbs": 8, "close_mosaic": 2, "workers": 2}
FILES = ("weights/best.pt", "weights/last.pt", "results.csv", "args.yaml", "rfla.yaml", "metrics.json")
DEMO_AP50 = 0.5  # the demo training must reach it, or the command fails


def run(argv: Sequence[str]) -> None:
    """Train with RFLA; without any argument, train on the generated demo set and fail if nothing was learned."""
    args = make_parser("train", run.__doc__).parse(argv)
    demo = not set(args) - {"project", "name", "exist_ok", "device"}
    if demo:
        args = {**DEMO, **args}
    resume = args.get("resume")
    if not resume:
        need_data(args)
    from ..engine import RFLAYOLO, is_first_process

    if resume:
        args = resumed(args)
    model = RFLAYOLO(take_model(args), args.pop("task", None))
    model.train(**args)
    if not is_first_process():
        return
    folder: Path = model.trainer.save_dir
    print(f"\nWrote to {folder}: {', '.join(name for name in FILES if (folder / name).is_file())}")
    if demo:
        ap50 = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["AP50"] or 0.0
        if ap50 < DEMO_AP50:
            fail(f"the demo reached AP50 {ap50:.3f}, below the {DEMO_AP50} that shows that training works")
        print(f"AP50 {ap50:.3f} on the demo set (at least {DEMO_AP50} expected). Next: --data your.yaml")


def resumed(args: dict[str, Any]) -> dict[str, Any]:
    """Turn ``--resume [last.pt]`` into the model to go on with; without a path, the latest run."""
    from ultralytics.utils.files import get_latest_run

    resume = args["resume"]
    model = resume if isinstance(resume, str) else args.get("model") or get_latest_run()
    if not model:
        fail("resume: found no run to resume; give --resume path/to/last.pt")
    if Path(str(model)).suffix != ".pt":
        fail(f"resume: {model} is no checkpoint; give --resume path/to/last.pt")
    return {**args, "model": model, "resume": True}
