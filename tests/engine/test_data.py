"""What a dataset YAML names: its COCO ground truth."""

from __future__ import annotations

import logging
from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from ultralytics.data.dataset import YOLODataset

from rfla_yolo.engine.data import build_checked, find_annotations, list_annotations


@pytest.mark.parametrize(
    ("named", "found"),
    [
        (None, {}),
        ("val.json", {"val": "val.json"}),  # one file is that of val
        ({"train": "train.json", "test": "val.json"}, {"train": "train.json", "test": "val.json"}),
        ({"train": None, "val": "val.json"}, {"val": "val.json"}),
    ],
)
def test_annotations_by_split(tmp_path, named, found):
    for name in ("train.json", "val.json"):
        (tmp_path / name).touch()
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
    listed = "" if named is None else f"annotations: {named}\n".replace("None", "null")
    (tmp_path / "a.yaml").write_text(f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: [ship]\n{listed}")
    assert list_annotations(tmp_path / "a.yaml") == {split: tmp_path / name for split, name in found.items()}


def test_annotations_that_are_missing_are_warned_of(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("ultralytics"), "propagate", True)
    assert find_annotations({"path": tmp_path, "annotations": "none.json"}, "val") is None
    assert f"annotations: {tmp_path / 'none.json'} does not exist" in caplog.text


@pytest.fixture
def build(tmp_path, monkeypatch, caplog):
    """Build a checked dataset of an image of 8 bits, one of 16 and a JPEG; called with ``skip_bad_labels``."""
    monkeypatch.setattr(logging.getLogger("ultralytics"), "propagate", True)
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for name, dtype in (("a.png", np.uint8), ("b.png", np.uint16), ("c.jpg", np.uint8)):
        cv2.imwrite(str(tmp_path / "images" / name), np.full((40, 60, 3), 200, dtype))
        (tmp_path / "labels" / name).with_suffix(".txt").write_text("0 0.5 0.5 0.1 0.1\n")
    data = {"names": {0: "ship"}, "channels": 3}
    stock = partial(YOLODataset, img_path=str(tmp_path / "images"), data=data, task="detect", augment=False)
    return partial(
        build_checked,
        stock,
        str(tmp_path / "images"),
        data,
        SimpleNamespace(single_cls=False, classes=None, task="detect"),
    )


DEEP = r"1 images of more than 8 bits a value, .*b\.png: holds uint16 values"


def test_images_of_more_than_8_bits_are_named(build, caplog):
    with pytest.raises(ValueError, match=rf"(?s)^{DEEP}.*go on with what is left of them by --skip-bad-labels$"):
        build(False)
    assert len(build(True).im_files) == 3
    assert "of more than 8 bits a value" in caplog.text and "b.png: holds uint16 values" in caplog.text


def test_images_of_more_than_8_bits_beside_bad_labels(build, tmp_path):
    (tmp_path / "labels/c.txt").write_text("7 0.5 0.5 0.1 0.1\n")
    with pytest.raises(ValueError, match=r"(?s)^1 images cannot be used .*c\.txt:1: class 7.*" + DEEP):
        build(False)
