"""Converters: miniature copies of every source layout, compared with values worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from rfla_yolo.cli import main
from rfla_yolo.datasets import convert_coco, convert_dota, convert_tinyperson, convert_visdrone


def write_image(path: Path, width: int, height: int, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    cv2.imwrite(str(path), image)
    return image


def labels(path: Path) -> list[list[float]]:
    return [[float(v) for v in line.split()] for line in path.read_text().splitlines()]


class TestCoco:
    @pytest.fixture
    def source(self, tmp_path):
        write_image(tmp_path / "images" / "a.png", 100, 50)
        write_image(tmp_path / "images" / "b.png", 40, 40)
        content = {
            "images": [
                {"id": 7, "file_name": "a.png", "width": 100, "height": 50},
                {"id": 9, "file_name": "b.png"},  # size from the file
            ],
            "categories": [{"id": 5, "name": "ship"}, {"id": 2, "name": "plane"}],
            "annotations": [
                {"id": 1, "image_id": 7, "category_id": 5, "bbox": [10, 10, 20, 10]},
                {"id": 2, "image_id": 7, "category_id": 2, "bbox": [90, 40, 30, 30]},  # over the corner
                {"id": 3, "image_id": 7, "category_id": 2, "bbox": [0, 0, 10, 0]},  # no height
                {"id": 4, "image_id": 7, "category_id": 2, "bbox": [200, 0, 10, 10]},  # outside
                {"id": 5, "image_id": 7, "category_id": 2, "bbox": [0, 0, 50, 50], "iscrowd": 1},
            ],
        }
        (tmp_path / "x.json").write_text(json.dumps(content))
        return tmp_path

    def test_labels_names_and_counts(self, source):
        report = convert_coco([source / "x.json"], [source / "images"], source / "out")
        out = source / "out"
        assert labels(out / "labels" / "train" / "a.txt") == [[1, 0.2, 0.3, 0.2, 0.2], [0, 0.95, 0.9, 0.1, 0.2]]
        assert labels(out / "labels" / "train" / "b.txt") == []
        assert (out / "images/train/a.png").read_bytes() == (source / "images/a.png").read_bytes()
        counts = report["splits"]["train"]
        assert counts | {"classes": 0, "sizes": 0} == {
            "images": 2, "images_without_objects": 1, "boxes_read": 5, "boxes_written": 2, "clipped": 1,
            "dropped_degenerate": 1, "dropped_outside": 1, "ignored": 1, "classes": 0, "sizes": 0,
        }  # fmt: skip
        assert counts["classes"] == {"plane": 1, "ship": 1}
        assert counts["sizes"] == {"vt": 0, "t": 2, "s": 0, "m": 0}  # 20 x 10 and 10 x 10 px
        assert report == json.loads((out / "conversion_report.json").read_text())
        data = yaml.safe_load((out / "data.yaml").read_text())
        assert data["names"] == {0: "plane", 1: "ship"} and data["train"] == "images/train"
        truth = json.loads((out / "annotations" / "train.json").read_text())
        assert [a["iscrowd"] for a in truth["annotations"]] == [0, 0, 1]
        assert truth["annotations"][1]["bbox"] == [90, 40, 10, 10]
        assert truth["images"][1] == {"id": 2, "file_name": "b.png", "width": 40, "height": 40}

    def test_two_splits_by_command_and_again(self, source, capsys):
        file, images, out = (str(source / name) for name in ("x.json", "images", "out"))
        command = ["data", "coco", "--annotations", file, file, "--images", images, "--out", out]
        main(command)
        assert "val: 2 images" in capsys.readouterr().out
        before = {p: p.read_bytes() for p in Path(out).rglob("*") if p.is_file()}
        (Path(out) / "images" / "val" / "a.png").unlink()
        main(command)  # goes on: nothing but the missing image is new
        assert before == {p: p.read_bytes() for p in Path(out).rglob("*") if p.is_file()}

    def test_foreign_folder_is_left_alone(self, source):
        (source / "out").mkdir()
        (source / "out" / "mine.txt").write_text("mine")
        with pytest.raises(ValueError, match="holds other files"):
            convert_coco([source / "x.json"], [source / "images"], source / "out")
        assert [p.name for p in (source / "out").iterdir()] == ["mine.txt"]

    def test_missing_and_wrong_files_are_named(self, source):
        with pytest.raises(FileNotFoundError, match=r"no such file: .*y\.json"):
            convert_coco([source / "y.json"], [source / "images"], source / "out")
        (source / "images" / "b.png").unlink()
        with pytest.raises(FileNotFoundError, match=r"image b\.png is not in"):
            convert_coco([source / "x.json"], [source / "images"], source / "out")
        (source / "x.json").write_text("{}")
        with pytest.raises(ValueError, match="is no COCO file: it has no 'images'"):
            convert_coco([source / "x.json"], [source / "images"], source / "out2")


def test_visdrone(tmp_path):
    for split in ("train", "val"):
        folder = tmp_path / f"VisDrone2019-DET-{split}"
        write_image(folder / "images" / "0001.jpg", 200, 100)
        (folder / "annotations").mkdir()
        (folder / "annotations" / "0001.txt").write_text(
            "10,20,40,20,1,4,0,0\n"  # car
            "0,0,100,50,0,0,0,0\n"  # ignored region
            "50,50,10,10,1,11,0,0\n"  # others
            "60,60,10,10,0,1,0,0,\n"  # pedestrian of score 0, a comma too many
            "190,90,20,20,1,10,1,2\n"  # motor over the corner
        )
    report = convert_visdrone(tmp_path, tmp_path / "out")
    assert labels(tmp_path / "out/labels/val/0001.txt") == [[3, 0.15, 0.3, 0.2, 0.2], [9, 0.975, 0.95, 0.05, 0.1]]
    assert report["others_left_out"] == {"train": 1, "val": 1}
    counts = report["splits"]["val"]
    assert counts["ignored"] == 11 and counts["boxes_written"] == 2 and counts["clipped"] == 1
    truth = json.loads((tmp_path / "out/annotations/val.json").read_text())
    crowd = [a for a in truth["annotations"] if a["iscrowd"]]
    assert sorted(a["category_id"] for a in crowd) == [1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert report["names"][:4] == ["pedestrian", "people", "bicycle", "car"]

    (tmp_path / "VisDrone2019-DET-val" / "annotations" / "0001.txt").write_text("1,2,3\n")
    with pytest.raises(ValueError, match=r"0001\.txt:1: expected x,y,w,h,score,category"):
        convert_visdrone(tmp_path, tmp_path / "out2")


@pytest.mark.parametrize("difficult", [True, False])
def test_dota(tmp_path, difficult):
    write_image(tmp_path / "train" / "images" / "P0001.png", 100, 100)
    folder = tmp_path / "train" / "labelTxt-v1.0" / "labelTxt"
    folder.mkdir(parents=True)
    (folder / "P0001.txt").write_text(
        "imagesource:GoogleEarth\ngsd:0.1\n"
        "20 10 30 20 20 30 10 20 ship 0\n"  # a square on its corner: hull 10..30
        "50 50 60 50 60 90 50 90 plane 1\n"
    )
    report = convert_dota(tmp_path, tmp_path / "out", difficult=difficult)
    expected = [[6, 0.2, 0.2, 0.2, 0.2], [0, 0.55, 0.7, 0.1, 0.4]]
    assert labels(tmp_path / "out/labels/train/P0001.txt") == (expected if difficult else expected[:1])
    assert report["flagged"] == {"train": 1}
    assert report["splits"]["train"]["ignored"] == (not difficult)
    assert len(report["names"]) == 15
    with pytest.raises(ValueError, match="was begun with difficult"):
        convert_dota(tmp_path, tmp_path / "out", difficult=not difficult)
    (folder / "P0001.txt").write_text("20 10 30 20 20 30 10 20 helipad 0\n")
    with pytest.raises(ValueError, match=r"P0001\.txt:1: expected x1 y1"):
        convert_dota(tmp_path, tmp_path / "out2")  # a class of version 2.0
    assert convert_dota(tmp_path, tmp_path / "out3", version="2.0")["splits"]["train"]["classes"]["helipad"] == 1


def test_tinyperson_cuts_tiles_and_ignores(tmp_path):
    image = write_image(tmp_path / "train" / "labeled" / "a.jpg", 100, 60)
    image = cv2.imread(str(tmp_path / "train" / "labeled" / "a.jpg"))
    write_image(tmp_path / "test" / "b.jpg", 50, 50)
    tile = {"id": 1, "file_name": "labeled/a.jpg", "corner": [60, 20, 120, 70], "width": 60, "height": 50}
    objects = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [6, 5, 6, 10]},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [0, 0, 3, 3], "ignore": 1},
        {"id": 3, "image_id": 1, "category_id": 2, "bbox": [30, 30, 3, 3], "uncertain": 1},
    ]
    categories = [{"id": 1, "name": "sea_person"}, {"id": 2, "name": "earth_person"}]
    (tmp_path / "annotations" / "corner").mkdir(parents=True)
    corner = tmp_path / "annotations" / "corner" / "tiny_set_train_sw60_sh50.json"
    corner.write_text(json.dumps({"images": [tile], "annotations": objects, "categories": categories}))
    whole = {"images": [{"id": 3, "file_name": "b.jpg"}], "annotations": [], "categories": categories}
    (tmp_path / "annotations" / "tiny_set_train.json").write_text(json.dumps(whole))  # the tiles come first
    (tmp_path / "annotations" / "tiny_set_test.json").write_text(json.dumps(whole))
    report = convert_tinyperson(tmp_path, tmp_path / "out")
    out = tmp_path / "out"
    assert labels(out / "labels/train/a__60_20.txt") == [[0, 0.15, 0.2, 0.1, 0.2]]
    assert report["splits"]["train"]["ignored"] == 2
    assert report["names"] == ["person"]
    cut = cv2.imread(str(out / "images/train/a__60_20.png"))
    assert cut.shape == (50, 60, 3)
    assert np.array_equal(cut[:40, :40], image[20:60, 60:100])
    assert not cut[40:].any() and not cut[:, 40:].any()
    assert (out / "images" / "val" / "b.jpg").is_file()
