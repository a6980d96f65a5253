"""Converters: miniature copies of every source layout, compared with values worked out by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from ultralytics.data.utils import IMG_FORMATS

from rfla_yolo.cli import main
from rfla_yolo.datasets import convert_coco, convert_dota, convert_tinyperson, convert_visdrone
from rfla_yolo.scenes.images import IMAGE_SUFFIXES

from ..scenes.test_images import grey_png


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

    def change(self, source, change):
        """Change the content of the file, and return what the conversion does with it."""
        content = json.loads((source / "x.json").read_text())
        change(content)
        (source / "x.json").write_text(json.dumps(content))
        return convert_coco([source / "x.json"], [source / "images"], source / "out")

    @pytest.mark.parametrize("of", ["images", "annotations"])
    @pytest.mark.parametrize("turn", [str, float])
    def test_ids_as_text_or_number_are_the_same(self, source, of, turn):
        def change(content):
            for item in content[of]:
                for key in {"id", "image_id"} & item.keys() - ({"id"} if of == "annotations" else set()):
                    item[key] = turn(item[key])
            if of == "annotations":
                for item in content[of]:
                    item["category_id"] = turn(item["category_id"])

        assert self.change(source, change)["splits"]["train"]["classes"] == {"plane": 1, "ship": 1}
        assert len(labels(source / "out/labels/train/a.txt")) == 2

    def test_classes_of_ids_as_text_are_in_the_order_of_numbers(self, source):
        def change(content):
            content["categories"] = [{"id": "10", "name": "ship"}, {"id": "9", "name": "plane"}]
            for item in content["annotations"]:
                item["category_id"] = 10

        assert self.change(source, change)["names"] == ["plane", "ship"]

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda c: c["annotations"][0].update(image_id=8), "annotation 1: image_id 8 is none of the 2 listed"),
            (lambda c: c["annotations"][1].pop("image_id"), "annotation 2: image_id None is none"),
            (lambda c: c["annotations"][0].update(category_id=4), "annotation 1: category_id 4 is none of the 2"),
            (lambda c: c["images"][1].update(id=7), "two of 'id' 7 among the image entries"),
            (lambda c: c["images"][1].update(id="7"), "two of 'id' '7' among the image entries"),
            (lambda c: c["images"][1].pop("file_name"), "image number 2 needs 'id' and 'file_name'"),
            (lambda c: c["images"][0].update(width=50, height=100), "a.png is 50 x 100 px there, the picture is 100 x"),
            (lambda c: c["images"][0].update(width="wide"), "a.png is wide x 50 px there"),
            (lambda c: c["categories"][0].update(id=2), "two of 'id' 2 among the category entries"),
            (lambda c: c["categories"][0].update(name="plane"), "categories 5 and 2 are both 'plane'"),
            (lambda c: c["categories"].clear(), "has no categories"),
            (lambda c: c["images"].clear(), "lists no images"),
            (
                lambda c: c["annotations"][0].pop("bbox"),
                "annotation 1: bbox must be x, y, width, height in px, not None",
            ),
            (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), r"annotation 1: bbox must be .* not \[1, 2, 3\]"),
            (lambda c: c["annotations"][0].update(bbox=[1, float("nan"), 3, 4]), "annotation 1: bbox must be"),
            (lambda c: c["annotations"][0].update(iscrowd="maybe"), "annotation 1: iscrowd must be 0 or 1"),
            (lambda c: [a.update(bbox=[0.1, 0.1, 0.5, 0.5]) for a in c["annotations"]], "all boxes lie within 0 to 1"),
            (lambda c: c.update(annotations=None), "it has no 'annotations'"),
        ],
    )
    def test_what_cannot_be_placed_is_named_before_anything_is_written(self, source, change, words):
        with pytest.raises(ValueError, match=words):
            self.change(source, change)
        assert not list(source.glob("out/*/*"))

    @pytest.mark.parametrize("size", [{"width": 0, "height": 0}, {"width": None}, {"height": 50.0}, {"width": "100"}])
    def test_size_not_given_is_the_files(self, source, size):
        self.change(source, lambda c: c["images"][0].update(size))
        assert labels(source / "out/labels/train/a.txt")[0] == [1, 0.2, 0.3, 0.2, 0.2]
        truth = json.loads((source / "out/annotations/train.json").read_text())
        assert truth["images"][0] == {"id": 1, "file_name": "a.png", "width": 100, "height": 50}

    @pytest.mark.parametrize(("value", "ignored"), [(None, 0), ("0", 0), (False, 0), (1.0, 1), ("1", 1), (True, 1)])
    def test_flags(self, source, value, ignored):
        report = self.change(source, lambda c: c["annotations"][0].update(iscrowd=value))
        assert report["splits"]["train"]["ignored"] == 1 + ignored

    @pytest.mark.parametrize(
        ("file_name", "name"),
        [
            ("./a.png", "a.png"),
            ("night/a.png", "night_a.png"),
            ("night\\a.png", "night_a.png"),
            ("../images/a.png", "images_a.png"),
            (".a.png", "a.png"),
        ],
    )
    def test_names_are_seen_by_training(self, source, file_name, name):
        target = source / "images" / file_name.replace("\\", "/")
        target.parent.mkdir(exist_ok=True)
        (source / "images" / "a.png").rename(target)
        self.change(source, lambda c: c["images"][0].update(file_name=file_name))
        assert (source / "out/images/train" / name).is_file()
        assert len(labels((source / "out/labels/train" / name).with_suffix(".txt"))) == 2

    def test_byte_order_mark(self, source):
        (source / "x.json").write_text((source / "x.json").read_text(), encoding="utf-8-sig")
        assert convert_coco([source / "x.json"], [source / "images"], source / "out")["splits"]["train"]["images"] == 2

    @pytest.mark.parametrize("splits", [["train", "train"], ["train2017", "val"], ["train", ""]])
    def test_splits_are_those_that_training_reads(self, source, splits):
        with pytest.raises(ValueError, match="splits must be different ones of train, val, test"):
            convert_coco([source / "x.json"] * 2, [source / "images"], source / "out", splits)

    def test_what_training_passes_over_is_refused(self, source):
        cv2.imwrite(str(source / "images" / "b.png"), np.zeros((40, 40), np.uint16))
        with pytest.raises(ValueError, match=r"b\.png: holds uint16 values"):
            convert_coco([source / "x.json"], [source / "images"], source / "out")
        Image.new("RGB", (40, 40)).save(source / "images" / "b.png", "GIF")
        with pytest.raises(ValueError, match=r"b\.png: is a GIF, which training leaves out"):
            convert_coco([source / "x.json"], [source / "images"], source / "out")
        (source / "images" / "b.png").write_text("no image")
        with pytest.raises(ValueError, match=r"b\.png: is no image"):
            convert_coco([source / "x.json"], [source / "images"], source / "out")
        (source / "images" / "b.png").rename(source / "images" / "b")
        with pytest.raises(ValueError, match=r"b: training reads images named \.jpg"):
            self.change(source, lambda c: c["images"][1].update(file_name="b"))
        assert not (source / "out").exists()

    def test_an_image_on_its_side_is_taken_upright(self, source):
        exif = Image.Exif()
        exif[274] = 6
        Image.new("RGB", (60, 40)).save(source / "images" / "b.png", exif=exif)
        with pytest.raises(ValueError, match=r"b\.png is 60 x 40 px there, the picture is 40 x 60"):
            self.change(source, lambda c: c["images"][1].update(width=60, height=40))
        self.change(source, lambda c: c["images"][1].update(width=None, height=None))
        truth = json.loads((source / "out/annotations/train.json").read_text())
        assert truth["images"][1] == {"id": 2, "file_name": "b.png", "width": 40, "height": 60}


def test_suffixes_are_those_of_ultralytics():
    assert {suffix[1:] for suffix in IMAGE_SUFFIXES} == IMG_FORMATS


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
    (folder / "P0001.txt").write_text("20 10 30 20 20 30 10 20 ship\n20 10 30 20 20 30 10 20 house 0\n")
    with pytest.raises(ValueError, match=r"P0001\.txt:2: expected x1 y1"):
        convert_dota(tmp_path, tmp_path / "out2")
    (folder / "P0001.txt").write_text("20 10 nan 20 20 30 10 20 ship 0\n")
    with pytest.raises(ValueError, match=r"P0001\.txt:1: expected x1 y1"):
        convert_dota(tmp_path, tmp_path / "out2")
    assert not (tmp_path / "out2").exists()


def dota_labels(root: Path, folder: str, lines: str, split: str = "train") -> None:
    """Write the labels of P0001 and, without objects, of P0002; and the two images."""
    for stem, text in (("P0001", lines), ("P0002", "")):
        if not (root / split / "images" / f"{stem}.png").is_file():
            write_image(root / split / "images" / f"{stem}.png", 100, 100)
        (root / split / folder).mkdir(parents=True, exist_ok=True)
        (root / split / folder / f"{stem}.txt").write_text(text)


SHIP, CRANE, HELIPAD = (f"10 10 30 10 30 40 10 40 {name} 0\n" for name in ("ship", "container-crane", "helipad"))


@pytest.mark.parametrize(
    "layout",
    [
        {"1.0": "labelTxt-v1.0", "1.5": "labelTxt-v1.5", "2.0": "labelTxt-v2.0"},
        {"1.0": "labelTxt", "1.5": "labelTxt-v1.5/DOTA-v1.5_train", "2.0": "labelTxt-v2.0/DOTA-v2.0_train"},
        {"1.0": "labelTxt-v1.0/labelTxt", "1.5": "labelTxt/DOTA-v1.5_train", "2.0": "labelTxt/DOTA-v2.0_train"},
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.5", "2.0"])
def test_dota_reads_the_labels_of_its_version(tmp_path, layout, version):
    for objects, (named, folder) in enumerate(layout.items(), start=1):
        dota_labels(tmp_path, folder, SHIP * objects)  # 1 of version 1.0, 2 of 1.5, 3 of 2.0
        horizontal = "trainset_reclabelTxt" if named == "1.0" else f"DOTA-v{named}_train_hbb"
        if "/" in folder:
            dota_labels(tmp_path, str(Path(folder).parent / horizontal), SHIP * 9)
    report = convert_dota(tmp_path, tmp_path / "out", version)
    assert report["splits"]["train"]["classes"]["ship"] == 1 + list(layout).index(version)


def test_dota_labels_of_a_version_that_is_not_known(tmp_path, capsys):
    """Beside labels of a version, those of none are of 1.0, which came without; alone, of the version asked for."""
    dota_labels(tmp_path, "labelTxt", SHIP)
    dota_labels(tmp_path, "labelTxt-v1.5/DOTA-v1.5_train", SHIP * 2)
    words = r"train has labels of version 1\.5, and those in labelTxt, .* rename it to labelTxt-v2\.0"
    with pytest.raises(ValueError, match=words):
        convert_dota(tmp_path, tmp_path / "out", "2.0")
    for version, read in (("1.0", "labelTxt"), ("1.5", "labelTxt-v1.5/DOTA-v1.5_train")):
        out = tmp_path / version
        main(["data", "dota", "--root", str(tmp_path), "--out", str(out), "--version", version])
        assert re.search(rf"^train: .*, labels of {read}$", capsys.readouterr().out, re.MULTILINE)
        assert json.loads((out / "conversion_report.json").read_text())["labels"] == {"train": [read]}
    (tmp_path / "train/labelTxt").rename(tmp_path / "train/labelTxt-v2.0")
    assert convert_dota(tmp_path, tmp_path / "out", "2.0")["labels"] == {"train": ["labelTxt-v2.0"]}


def test_dota_version_that_is_not_there(tmp_path):
    dota_labels(tmp_path, "labelTxt-v1.5", SHIP)
    with pytest.raises(ValueError, match=r"train has no labels of version 1\.0: use --version 1\.5"):
        convert_dota(tmp_path, tmp_path / "out")
    (tmp_path / "train/labelTxt-v1.5").rename(tmp_path / "train/labels")
    with pytest.raises(FileNotFoundError, match=r"train: no label files \(\.txt\) in .*labelTxt\*"):
        convert_dota(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("lines", "version", "place", "needed"),
    [(SHIP + CRANE, "1.0", 2, "1.5"), (CRANE + HELIPAD, "1.0", 2, "2.0"), (HELIPAD + CRANE, "1.5", 1, "2.0")],
)
def test_dota_labels_of_a_newer_version_name_it(tmp_path, lines, version, place, needed):
    dota_labels(tmp_path, "labelTxt", lines)
    words = rf"P0001\.txt:{place}: '[\w-]+' is no class of DOTA {version}: .* use --version {needed}"
    with pytest.raises(ValueError, match=words):
        convert_dota(tmp_path, tmp_path / "out", version)
    report = convert_dota(tmp_path, tmp_path / "out", needed)  # into the same folder: nothing was written
    assert sum(report["splits"]["train"]["classes"].values()) == 2


def test_dota_as_people_have_it(tmp_path, capsys):
    dota_labels(tmp_path, "labelTxt", SHIP.replace(" 0\n", "\n") + SHIP.replace(" 0\n", " 2\n"))
    images = tmp_path / "train/images"
    (images / "part1/images").mkdir(parents=True)
    (images / "P0001.png").rename(images / "part1/images/P0001.PNG")
    (images / "._P0002.png").write_text("what an archiver of macOS leaves")
    (tmp_path / "train/labelTxt/._P0002.txt").write_bytes(b"\x00\xff")
    (images / "P0002.png").write_bytes(grey_png(20_000, 9_000))  # above Pillow's limit
    write_image(images / "P0003.png", 20, 20)  # in the images of version 2.0 alone
    report = convert_dota(tmp_path, tmp_path / "out")
    assert report["flagged"] == {"train": 1} and report["images_without_label_file"] == {"train": 1}
    assert "train: 1 images have no label file and are left out" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "out/images/train").iterdir()) == ["P0001.PNG", "P0002.png"]
    truth = json.loads((tmp_path / "out/annotations/train.json").read_text())
    assert truth["images"][1] == {"id": 2, "file_name": "P0002.png", "width": 20_000, "height": 9_000}
    write_image(images / "P0001.png", 100, 100)
    with pytest.raises(ValueError, match="two files are called 'P0001'"):
        convert_dota(tmp_path, tmp_path / "out2")


@pytest.mark.parametrize("corner", [[-5, 0, 50, 50], [0, 0, 50], "abcd", [40, 0, 80, 40], [10, 0, 5, 5]])
def test_tinyperson_corners_that_are_none(tmp_path, corner):
    write_image(tmp_path / "train" / "a.png", 40, 40)
    images = [{"id": 1, "file_name": "a.png", "corner": corner}]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    for part in ("train", "test"):
        (tmp_path / f"tiny_set_{part}.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"corner .* of a\.png must be left, top, right, bottom in 40 x 40 px"):
        convert_tinyperson(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_label_files_that_are_no_text_are_named(tmp_path):
    dota_labels(tmp_path, "labelTxt", SHIP)
    (tmp_path / "train/labelTxt/P0001.txt").write_bytes(b"\xff\x00")
    with pytest.raises(ValueError, match=r"P0001\.txt: is no text"):
        convert_dota(tmp_path, tmp_path / "out")


def test_tinyperson_takes_the_picture_that_is_meant(tmp_path):
    for place, grey in (("train/sea", 10), ("test/sea", 20), ("erase_with_uncertain_dataset/train/sea", 30)):
        (tmp_path / place).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / place / "a.png"), np.full((40, 40, 3), grey, np.uint8))
    content = {
        "images": [{"id": 1, "file_name": "sea/a.png"}],
        "annotations": [],
        "categories": [{"id": 1, "name": "p"}],
    }
    (tmp_path / "annotations").mkdir()
    for part in ("train", "test"):
        (tmp_path / "annotations" / f"tiny_set_{part}.json").write_text(json.dumps(content))
    for _ in range(2):  # into the root itself, and again
        convert_tinyperson(tmp_path, tmp_path / "out")
        assert cv2.imread(str(tmp_path / "out/images/train/a.png")).max() == 10
        assert cv2.imread(str(tmp_path / "out/images/val/a.png")).max() == 20
    (tmp_path / "more/train/sea").mkdir(parents=True)
    (tmp_path / "more/train/sea/a.png").write_bytes((tmp_path / "train/sea/a.png").read_bytes())
    with pytest.raises(ValueError, match=r"image sea/a\.png may be .*more/train/sea/a\.png or .*train/sea/a\.png"):
        convert_tinyperson(tmp_path, tmp_path / "out2")


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
