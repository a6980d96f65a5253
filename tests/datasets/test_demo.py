"""The demo set: what it promises of sizes and classes, and the same every time."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np

from rfla_yolo.datasets import demo, explain_label_file, make_demo


def digest(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_deterministic_and_left_alone_when_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "COUNTS", {"train": 9, "val": 3})
    first = digest(make_demo(tmp_path / "a"))
    assert first == digest(make_demo(tmp_path / "b"))
    marked = tmp_path / "a" / "labels" / "train" / "0000.txt"
    marked.write_text("mine")
    make_demo(tmp_path / "a")
    assert marked.read_text() == "mine"


def test_what_it_holds(tmp_path):
    root = make_demo(tmp_path)
    labels, counts = [], []
    for file in sorted((root / "labels").rglob("*.txt")):
        assert explain_label_file(file, len(demo.CLASSES)) == ""
        rows = [list(map(float, row.split())) for row in file.read_text().splitlines()]
        counts.append(len(rows))
        labels += rows
    sides = np.array(labels)[:, 3:] * demo.SIZE
    assert set(np.array(labels)[:, 0]) == {0, 1, 2}
    assert (round(sides.min()), round(sides.max())) == (2, 32)
    assert np.allclose(sides, sides.round(), atol=1e-3)  # whole pixels
    assert (np.sqrt(sides.prod(1)) < 8).mean() > 0.4
    assert max(counts) > 40
    assert len(list((root / "images" / "train").glob("*.png"))) == demo.COUNTS["train"]


def test_objects_can_be_seen(tmp_path):
    """Inside of a box the picture differs from the ground around it."""
    image, rows = demo.draw_scene(np.random.default_rng(0))
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(float)
    for _, x, y, w, h in rows:
        x1, y1 = round((x - w / 2) * demo.SIZE), round((y - h / 2) * demo.SIZE)
        box = gray[y1 : y1 + round(h * demo.SIZE), x1 : x1 + round(w * demo.SIZE)]
        assert abs(np.median(box) - np.median(gray)) > 20 or box.max() - box.min() > 60
