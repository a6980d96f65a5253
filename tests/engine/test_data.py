"""What a dataset YAML names: its COCO ground truth."""

from __future__ import annotations

import logging

import pytest

from rfla_yolo.engine.data import find_annotations, list_annotations


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
