"""The benchmark of families and tasks."""

from __future__ import annotations

import math
import re
from pathlib import Path

import ultralytics
from torch import nn

from benchmarks.models import MODELS, REFUSED, attempt, tables, watch


def family(stem: str) -> str:
    """A name without its scale."""
    return re.sub(r"^((?:yoloe?-?|rtdetr-)v?\d*)[a-z]*(?=-|$)", r"\1", stem)


def test_every_family_that_ultralytics_ships_is_there():
    shipped = {f.stem for f in (Path(ultralytics.__file__).parent / "cfg" / "models").rglob("*.yaml")}
    versions = {family(stem).split("-")[0] for stem in shipped if stem.startswith("yolov") or stem[4:6].isdigit()}
    assert {"yolov3", "yolov10", "yolo12", "yolo26"} <= versions
    assert versions <= {family(name).split("-")[0] for name in MODELS}
    for end in ("p2", "p6"):
        assert {family(s) for s in shipped if re.fullmatch(rf"yolo\w+?-{end}", s)} <= {family(name) for name in MODELS}
    assert any(name.startswith("yoloe") for name in REFUSED) and any("world" in name for name in REFUSED)


class Head(nn.Module):
    nl = 2

    def __init__(self):
        super().__init__()
        self.cv2 = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(2))
        self.proto = nn.Linear(1, 1, bias=False)
        self.fixed = nn.Linear(1, 1).requires_grad_(False)


def test_a_part_without_gradient_is_seen():
    model = nn.Module()
    model.model = nn.Sequential(nn.Linear(1, 1, bias=False), Head())
    gradients: dict[str, float] = {}
    watch(model, gradients)
    first, head = model.model
    for factor in (3.0, -1.0):
        (factor * first.weight + head.cv2[1].weight * float("nan")).sum().backward()
        model.zero_grad()
    assert gradients == {"backbone": 3.0, "cv2.0": 0.0, "cv2.1": -math.inf, "proto": 0.0}


def test_what_goes_wrong_is_said():
    def fail(value):
        raise ValueError(f"no {value}\nand more")

    assert attempt(fail, 3) == "failed: ValueError: no 3"
    assert attempt(str, 3) == "3"


def test_tables_say_what_was_not_right():
    row = {"head": "Detect", "one_to_one": False, "strides": [4, 8], "reg_max": 16, "silent": ["cv2.0"], "parts": 5}
    row |= {"finite": False, "positives": 3.0, "validated": "failed: X: y", "plain": ["yes"], "onnx": ["a", "a", "b"]}
    trained, refused = tables({"one": row, "other": {"refused": "model: no"}})
    for text in ("P2 P3", "0 to 15 strides", "loss not finite", "none on cv2.0", "failed: X: y", "| a; b |"):
        assert text in trained
    assert "| other | `model: no` |" in refused and "other" not in trained
