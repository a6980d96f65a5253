"""What a dataset YAML names: its COCO ground truth."""

from __future__ import annotations

import logging
import re
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


BOX, CORNERS, POLYGON = "0 .5 .5 .1 .1", "0 .4 .4 .6 .4 .6 .6 .4 .6", "0 .4 .4 .6 .4 .5 .6"


@pytest.mark.parametrize(
    ("task", "lines", "options", "note"),
    [
        ("detect", [BOX, BOX], {}, ""),
        ("detect", [CORNERS, CORNERS], {}, "they are oriented boxes, lines of four corners; task 'detect' takes the"),
        ("detect", [CORNERS, POLYGON], {}, "they are polygons; task 'detect' takes the axis-aligned boxes around them"),
        (
            "detect",
            [BOX, BOX],
            {"kpt_shape": [2, 3]},
            r"kpt_shape \[2, 3\] names keypoints; task 'detect' takes the boxes",
        ),
        ("obb", [CORNERS, CORNERS], {}, ""),
        ("obb", [CORNERS, POLYGON], {}, "1 of 2 are polygons of other than four corners; task 'obb' takes of each"),
        ("segment", [CORNERS, POLYGON], {}, ""),
    ],
)
def test_labels_of_another_kind_are_told(tmp_path, monkeypatch, caplog, task, lines, options, note):
    found = build_set(tmp_path, monkeypatch, task, lines, **options)
    assert len(found.labels) == 2
    assert ("labels of" in caplog.text) == bool(note)
    assert re.search(f"labels of .*images: {note}" if note else "", caplog.text)


@pytest.mark.parametrize(
    ("task", "form"), [("obb", "class x1 y1 x2 y2 x3 y3 x4 y4;"), ("segment", r"class x1 y1 x2 y2 x3 y3 \.\.\.;")]
)
def test_boxes_where_the_task_needs_more(tmp_path, monkeypatch, task, form):
    message = rf"labels of .*images: 1 of 2 are boxes .*, task '{task}' needs lines of {form[:-1]}; --task detect"
    with pytest.raises(ValueError, match=message):
        build_set(tmp_path, monkeypatch, task, [CORNERS, BOX])


def build_set(root, monkeypatch, task, lines, **options):
    """Build a checked dataset of an image for each label line."""
    monkeypatch.setattr(logging.getLogger("ultralytics"), "propagate", True)
    for kind in ("images", "labels"):
        (root / kind).mkdir()
    for i, line in enumerate(lines):
        cv2.imwrite(str(root / f"images/{i}.png"), np.full((40, 60, 3), 200, np.uint8))
        (root / f"labels/{i}.txt").write_text(f"{line}\n")
    data, images = {"names": {0: "ship"}, "channels": 3, **options}, str(root / "images")
    stock = partial(YOLODataset, img_path=images, data=data, task=task, augment=False)
    return build_checked(stock, images, data, SimpleNamespace(single_cls=False, classes=None, task=task), False)


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
