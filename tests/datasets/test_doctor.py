"""The doctor: every finding on a set made to have it, and none on a clean one."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from rfla_yolo.cli import main
from rfla_yolo.datasets import check_data, doctor, explain_label_file
from rfla_yolo.datasets.doctor import _scan
from rfla_yolo.engine.data import list_images
from rfla_yolo.scenes.images import open_image

from ..scenes.test_images import grey_png


def scene(seed, size=(120, 160)):
    """Smooth pictures, so that the perceptual hash has something to hold on to."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def clean_set(tmp_path):
    root = tmp_path / "set"
    for s, split in enumerate(("train", "val")):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(4):
            cv2.imwrite(str(root / "images" / split / f"{i}.png"), scene(10 * s + i))
            (root / "labels" / split / f"{i}.txt").write_text("0 0.5 0.5 0.25 0.25\n1 0.2 0.2 0.3 0.3\n")
    (root / "set.yaml").write_text("train: images/train\nval: images/val\nnames: [ship, plane]\n")
    return root


def check(root, **options):
    names, splits = list_images(root / "set.yaml")
    found = check_data(splits, names, **{"imgsz": 160, "scale": 0.5, "workers": 1, **options})
    return found, {finding.name: finding for finding in found.findings}


def test_a_clean_set(clean_set):
    found, findings = check(clean_set)
    assert findings == {} and found.text() == "nothing found"
    assert found.figures["splits"]["train"] == {
        "images": 4, "images_without_objects": 0, "objects": 8, "most_objects_in_an_image": 2,
        "mean_side": pytest.approx((1200**0.5 + 1728**0.5) / 2), "sizes": {"vt": 0, "t": 0, "s": 0, "m": 8},
    }  # fmt: skip
    assert found.figures["classes"] == {"ship": {"train": 4, "val": 4}, "plane": {"train": 4, "val": 4}}


def test_every_finding(clean_set):
    train, val = clean_set / "images/train", clean_set / "images/val"
    labels = clean_set / "labels"
    (train / "0.png").write_bytes((train / "0.png").read_bytes()[:200])  # does not decode
    (labels / "train/0.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    (labels / "train/1.txt").write_text("0 0.5 0.5 0.25 0.25\n7 0.5 0.5 0.1 0.1\n0 2 0.5 0.1 0.1\nx\n")
    (labels / "train/2.txt").write_text("0 0.5 0.5 0.25 0.25\n0 0.5 0.5 0.25 0.25\n0 0.1 0.1 0 0.1\n")
    (labels / "train/3.txt").write_text("0 0.5 0.5 0.01 0.5\n")  # 1.6 px wide
    (labels / "train/orphan.txt").write_text("")
    (labels / "val/0.txt").unlink()
    (labels / "val/1.txt").write_text("1 0.5 0.5 0.5 0.5\n" + "".join(f"0 0.5 {i / 1e4} .1 .1\n" for i in range(301)))
    shutil.copy(train / "1.png", val / "2.png")  # the same file
    picture = cv2.imread(str(train / "3.png"))
    cv2.imwrite(str(val / "3.png"), np.clip(picture.astype(int) + 6, 0, 255).astype(np.uint8))  # a little brighter
    cv2.imwrite(str(val / "1.png"), scene(77, (240, 320)))  # larger than the training size
    text = (clean_set / "set.yaml").read_text().replace("[ship, plane]", "[ship, plane, helicopter]")
    (clean_set / "set.yaml").write_text(text)
    found, findings = check(clean_set)
    counts = {name: finding.count for name, finding in findings.items()}
    assert counts.pop("objects that scaling pushes under the loader's 2 px") >= 1
    assert counts == {
        "images that training cannot use": 1,
        "bad label lines": 3,
        "boxes without area": 1,
        "classes in val that train does not have": 1,
        "images of val that are also in train": 1,
        "duplicate boxes": 1,
        "classes that never occur": 1,
        "images of val much like one in train (perceptual hash)": 1,
        "objects with a side under 2 px at 160 px": 2,
        "label files without an image in the splits": 1,
        "images without a label file": 1,
        "images larger than the training size": 1,
        "images with more than 300 objects": 1,
    }
    assert findings["classes that never occur"].examples == ["helicopter"]
    assert "1.txt:2: class 7 is not one of 0 to 2" in findings["bad label lines"].examples[0]
    assert found.findings[0].level == "error" and found.findings[-1].level == "note"


def test_share_that_scaling_loses_is_that_of_drawing_it(clean_set):
    rng = np.random.default_rng(0)
    sides = rng.uniform(1, 6, 40)
    (clean_set / "labels/train/0.txt").write_text("".join(f"0 .5 .5 {s / 160} {2 * s / 120}\n" for s in sides))
    for i in range(1, 4):
        (clean_set / "labels/train" / f"{i}.txt").write_text("")
    finding = check(clean_set)[1]["objects that scaling pushes under the loader's 2 px"]
    drawn = (sides * rng.uniform(0.5, 1.5, (20000, 1)) <= 2).mean()
    assert finding.advice.startswith(f"{100 * drawn:.0f}"[:1])
    assert float(finding.advice.split(" %")[0]) == pytest.approx(100 * drawn, abs=0.5)


def test_page_and_json_by_command(clean_set, tmp_path, capsys):
    (clean_set / "labels/train/0.txt").write_text("9 0.5 0.5 0.25 0.25\n")
    command = [
        "data",
        "check",
        "--data",
        str(clean_set / "set.yaml"),
        "--imgsz",
        "160",
        "--out",
        str(tmp_path / "page"),
    ]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 1
    assert "ERROR: bad label lines: 1" in capsys.readouterr().out
    found = json.loads((tmp_path / "page/check.json").read_text())
    assert found["findings"][0]["name"] == "bad label lines"
    page = (tmp_path / "page/index.html").read_text()
    assert "bad label lines" in page and (tmp_path / "page/sizes.png").is_file()
    assert explain_label_file(clean_set / "labels/train/0.txt", 2) in found["findings"][0]["examples"]
    (clean_set / "labels/train/0.txt").write_text("")
    shutil.copy(clean_set / "images/train/1.png", clean_set / "images/train/2.png")
    main(command)  # warnings are no errors
    assert "WARNING: identical images within train: 1" in capsys.readouterr().out


def test_files_that_training_cannot_use(clean_set):
    """Each is reported, and the check goes on."""
    train = clean_set / "images/train"
    (train / "0.png").write_text("<html>not found</html>")
    cv2.imwrite(str(train / "1.png"), np.zeros((120, 160, 3), np.uint16))
    Image.new("RGB", (160, 120)).save(train / "2.png", "GIF")
    cv2.imwrite(str(train / "3.png"), scene(3, (9, 160)))
    (train / "4.png").write_bytes(b"")
    found, findings = check(clean_set)
    assert findings["images that training cannot use"].count == 5
    examples = found.findings[0].examples
    for name, words in enumerate(("is no image", "holds uint16", "is a GIF", "of 160 x 9 px", "is no image")):
        assert f"{train / str(name)}.png: {words}" in examples[name]
    assert found.figures["splits"]["train"]["images"] == 5 and found.figures["splits"]["val"]["objects"] == 8


def test_a_decoder_that_fails_in_its_own_way_does_not_end_the_check(clean_set, monkeypatch):
    monkeypatch.setattr("imagehash.phash", lambda image: 1 / 0)
    image = clean_set / "images/train/0.png"
    assert _scan((image, clean_set / "labels/train/0.txt", (2, False, None))).problem == f"{image}: division by zero"


def test_sizes_are_upright_and_of_any_number_of_pixels(clean_set):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(scene(50)).save(clean_set / "images/train/0.png", exif=exif)  # shown as 120 x 160
    (clean_set / "labels/train/0.txt").write_text("0 0.5 0.5 0.0125 0.5\n")  # 1.5 px wide, not 2
    (clean_set / "images/train/1.png").write_bytes(grey_png(20_000, 9_000))  # above the limit of Pillow
    (clean_set / "labels/train/1.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    findings = check(clean_set)[1]
    assert findings["objects with a side under 2 px at 160 px"].examples[0].endswith(": 1.50 px")
    assert findings["images larger than the training size"].examples == [
        f"{clean_set / 'images/train/1.png'}: 20000 x 9000"
    ]
    assert findings["images above 178,956,970 px"].level == "error"  # that training leaves them out
    assert "images that training cannot use" not in findings


def test_tiffs_above_the_limit_of_pillow(tmp_path, monkeypatch):
    """Of them it refuses to decode so many pixels, even where it has opened them."""
    Image.fromarray(scene(1)).save(tmp_path / "a.tif")
    expected = _scan((tmp_path / "a.tif", tmp_path / "a.txt", (1, False, None)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(doctor, "TRAINED_PIXELS", 2000)
    with pytest.raises(Image.DecompressionBombError), open_image(tmp_path / "a.tif") as opened:
        opened.load()
    found = _scan((tmp_path / "a.tif", tmp_path / "a.txt", (1, False, None)))
    assert (found.problem, found.phash) == ("", expected.phash)


def test_boxes_and_polygons_in_one_file(clean_set):
    (clean_set / "labels/train/0.txt").write_text("0 0.5 0.5 0.25 0.25\n0 0.1 0.1 0.2 0.1 0.2 0.2\n")
    assert "0.txt: mixes boxes and polygons" in check(clean_set)[1]["bad label lines"].examples[0]
    (clean_set / "labels/train/0.txt").write_text("0 0.1 0.1 0.2 0.1 0.2 0.2\n")
    assert check(clean_set)[1] == {}


def test_splits_of_nothing_are_errors(clean_set):
    for image in (clean_set / "images/train").iterdir():
        image.unlink()
    for label in (clean_set / "labels/val").iterdir():
        label.write_text("")
    findings = check(clean_set)[1]
    assert findings["splits without images"].examples == ["train"]
    assert findings["splits without objects"].examples == ["val"]


@pytest.mark.parametrize(
    "setting", [{"imgsz": 0}, {"imgsz": -5}, {"scale": 2}, {"scale": float("nan")}, {"workers": 0}]
)
def test_settings_out_of_range(clean_set, setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))} must be"):
        check(clean_set, **setting)


@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (3, 3)])  # 9, 11 and 14 columns, of which two look like polygons
def test_keypoints_are_checked_and_never_tiled(tmp_path, capsys, shape):
    count, numbers = shape
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        pixels = np.random.default_rng(len(split)).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"images/{split}/{split}.png"), pixels)
        line = "0 0.5 0.5 0.25 0.25" + " 0.5" * (count * numbers)
        (tmp_path / f"labels/{split}/{split}.txt").write_text(line + "\n")
    yaml = tmp_path / "set.yaml"
    lines = f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: [a]\nkpt_shape: [{count}, {numbers}]\n"
    yaml.write_text(lines)
    main(["data", "check", "--data", str(yaml), "--imgsz", "64", "--workers", "1"])  # no error: it would exit
    assert "bad label lines" not in capsys.readouterr().out
    with pytest.raises(ValueError, match=rf"^kpt_shape \[{count}, {numbers}\]: tile cuts boxes"):
        main(["data", "tile", "--data", str(yaml), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    (tmp_path / "labels/val/val.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    with pytest.raises(SystemExit):
        main(["data", "check", "--data", str(yaml), "--imgsz", "64", "--workers", "1"])
    assert f"expected {5 + count * numbers} columns" in capsys.readouterr().out


def test_polygons_become_boxes_and_tile_says_so(tmp_path, capsys):
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / f"images/{split}/{split}.png"), np.zeros((64, 64, 3), np.uint8))
        (tmp_path / f"labels/{split}/{split}.txt").write_text("0 0.25 0.25 0.5 0.25 0.5 0.75\n")
    (tmp_path / "set.yaml").write_text(f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: [a]\n")
    main(["data", "tile", "--data", str(tmp_path / "set.yaml"), "--out", str(tmp_path / "out")])
    assert "The labels hold polygons" in capsys.readouterr().out
    line = (tmp_path / "out/labels/val/val__0_0.txt").read_text()
    assert [float(value) for value in line.split()] == [0, 0.375, 0.5, 0.25, 0.5]
