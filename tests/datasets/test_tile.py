"""Tiles: windows, labels cut at borders, ignored objects, second runs, and the way back to whole images."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from ultralytics.models.yolo.detect import DetectionValidator

from rfla_yolo import evaluate
from rfla_yolo.cli import main
from rfla_yolo.datasets import convert_visdrone, merge_tiles, tile, tile_dataset
from rfla_yolo.scenes import MARGIN

from ..scenes.test_images import grey_png


@pytest.fixture
def big_set(tmp_path):
    """One image of 100 x 60 px a split; tiles of 60 px with an overlap of 20 start at 0 and 40."""
    rng = np.random.default_rng(0)
    rows = [
        (0, 10, 10, 20, 20),  # in the first tile alone
        (1, 30, 30, 50, 40),  # in the first whole, in the second half: 40..50
        (0, 36, 50, 44, 58),  # first whole, second half
        (1, 55, 5, 75, 15),  # first a quarter, second whole
    ]
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "big" / kind / split).mkdir(parents=True)
        image = rng.integers(0, 255, (60, 100, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "big/images" / split / "a.png"), image)
        cv2.imwrite(str(tmp_path / "big/images" / split / "empty.png"), image)
        text = "".join(
            f"{c} {(x1 + x2) / 200} {(y1 + y2) / 120} {(x2 - x1) / 100} {(y2 - y1) / 60}\n"
            for c, x1, y1, x2, y2 in rows
        )
        (tmp_path / "big/labels" / split / "a.txt").write_text(text)
    (tmp_path / "big" / "big.yaml").write_text("train: images/train\nval: images/val\nnames: [ship, plane]\n")
    return tmp_path


def run(folder, *options):
    out = folder / "tiles"
    base = ["--data", str(folder / "big" / "big.yaml"), "--size", "60", "--overlap", "20", "--out", str(out)]
    main(["data", "tile", *base, *options])
    return out


def boxes(path):
    """(class, x1, y1, x2, y2) in px of a tile of 60 x 60."""
    found = []
    for line in path.read_text().splitlines():
        c, x, y, w, h = map(float, line.split())
        found.append((int(c), *(round(v * 60, 3) for v in (x - w / 2, y - h / 2, x + w / 2, y + h / 2))))
    return found


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def add(folder, name, value, rows=((0, 10, 10, 20, 20),), size=(100, 60)):
    """Write an image of one grey, and its labels as class and corners in px; return both paths."""
    image, label = folder / "images" / name, (folder / "labels" / name).with_suffix(".txt")
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    Image.new("RGB", size, (value,) * 3).save(image)
    label.write_text("".join(
        f"{c} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} {(x2 - x1) / width} {(y2 - y1) / height}\n"
        for c, x1, y1, x2, y2 in rows
    ))  # fmt: skip
    return image, label


def cut(pairs, out, **settings):
    return tile_dataset({"val": pairs}, ["ship", "plane"], out, **{"size": 60, "overlap": 20, **settings})


def greys(out):
    """The grey of every tile, by its name."""
    return {p.stem: int(cv2.imread(str(p))[0, 0, 0]) for p in sorted((out / "images/val").iterdir())}


def as_found(file, score=1.0):
    """The objects of ground truth as if they had been detected."""
    objects = json.loads(file.read_text())["annotations"]
    keys = ("image_id", "category_id", "bbox")
    return [{**{k: a[k] for k in keys}, "score": score} for a in objects if not a["iscrowd"]]


def test_labels_and_pictures_of_the_tiles(big_set):
    out = run(big_set, "--visible", "0.5")
    assert boxes(out / "labels/val/a__0_0.txt") == [(0, 10, 10, 20, 20), (1, 30, 30, 50, 40), (0, 36, 50, 44, 58)]
    assert boxes(out / "labels/val/a__40_0.txt") == [(1, 0, 30, 10, 40), (0, 0, 50, 4, 58), (1, 15, 5, 35, 15)]
    whole = cv2.imread(str(big_set / "big/images/val/a.png"))
    assert np.array_equal(cv2.imread(str(out / "images/val/a__40_0.png")), whole[:, 40:])
    report = json.loads((out / "conversion_report.json").read_text())["splits"]["val"]
    assert report["cut_below_visible"] == 1  # the quarter
    assert report["images"] == 4 and report["whole"]["images"] == 2


def test_empty_tiles_by_ratio_in_training_only(big_set):
    out = run(big_set, "--empty", "0.5")
    assert len(list((out / "images/train").iterdir())) == 3  # two with objects, one of the two without
    assert len(list((out / "images/val").iterdir())) == 4
    again = content(out)
    run(big_set, "--empty", "0.5")
    assert again == content(out)


@pytest.mark.parametrize("overlap", [29, 57, 58])  # of 100: as shares, rounded down, they lose a pixel
def test_neighbours_overlap_as_asked(tmp_path, overlap):
    pair = add(tmp_path, "a.png", 0, size=(250, 100))
    cut([pair], tmp_path / "out", size=100, overlap=overlap)
    assert "a__0_0" in greys(tmp_path / "out") and f"a__{100 - overlap}_0" in greys(tmp_path / "out")


@pytest.mark.parametrize(
    ("files", "stems"),
    [
        (["a/1.png", "b/1.png"], ["a_1", "b_1"]),
        (["a/1.jpg", "a/1.png", "2.png"], ["a_1", "a_1_png", "2"]),
        (["1.jpg", "1.PNG"], ["1", "1_PNG"]),
        (["a/1.png", "a_1.png", "b/1.png"], ["a_1_png", "a_1", "b_1"]),
        (["a/1.png", "a_1.png", "a_1_png.png", "b/1.png"], ["a_1_png_2", "a_1", "a_1_png", "b_1"]),
        (["a/A.png", "b/a.png"], ["a_A", "b_a"]),  # one name where files know no case
    ],
)
def test_images_of_one_name_keep_their_own_tiles(tmp_path, files, stems):
    pairs = [add(tmp_path, name, 20 * i) for i, name in enumerate(files, start=1)]
    cut([*pairs, pairs[0]], tmp_path / "out")  # an image that is listed twice is cut once
    found = greys(tmp_path / "out")
    assert len(found) == 2 * len(files)
    for i, stem in enumerate(stems, start=1):
        assert abs(found[f"{stem}__0_0"] - 20 * i) <= 2  # JPEG
        assert boxes(tmp_path / f"out/labels/val/{stem}__0_0.txt") == [(0, 10, 10, 20, 20)]
    whole = json.loads((tmp_path / "out/annotations/val_whole.json").read_text())
    assert [image["file_name"] for image in whole["images"]] == files
    merged = merge_tiles(as_found(tmp_path / "out/annotations/val.json"), tmp_path / "out")
    assert sorted(d["image_id"] for d in merged) == list(range(1, len(files) + 1))


@pytest.fixture
def visdrone(tmp_path):
    """A car and an ignored region in each split: 11 objects of the ground truth, 10 of them crowd of every class."""
    for split in ("train", "val"):
        folder = tmp_path / "source" / f"VisDrone2019-DET-{split}"
        for kind in ("images", "annotations"):
            (folder / kind).mkdir(parents=True)
        cv2.imwrite(str(folder / "images" / "1.jpg"), np.zeros((60, 100, 3), np.uint8))
        (folder / "annotations" / "1.txt").write_text("10,10,10,10,1,4,0,0\n30,20,60,30,0,0,0,0\n")
    convert_visdrone(tmp_path / "source", tmp_path / "set")
    return tmp_path / "set"


def test_ignored_regions_reach_tiles_and_whole_images(visdrone, tmp_path):
    """Detections in an ignored region cost nothing before tiling, and nothing after."""
    car = {"image_id": 1, "category_id": 4, "bbox": [10, 10, 10, 10], "score": 0.5}
    inside = {"image_id": 1, "category_id": 4, "bbox": [45, 25, 10, 10], "score": 0.9}  # in both tiles' part
    assert evaluate(visdrone / "annotations/val.json", [car, inside])["AP50"] == pytest.approx(1)
    out = tmp_path / "tiles"
    base = ["--data", str(visdrone / "data.yaml"), "--size", "60", "--overlap", "20", "--out", str(out)]
    main(["data", "tile", *base])
    whole, tiles = (json.loads((out / f"annotations/{n}.json").read_text()) for n in ("val_whole", "val"))
    assert sum(a["iscrowd"] for a in whole["annotations"]) == 10 and len(whole["annotations"]) == 11
    parts = {(a["image_id"], *a["bbox"]) for a in tiles["annotations"] if a["iscrowd"]}
    assert parts == {(1, 30, 20, 30, 30), (2, 0, 20, 50, 30)}  # from 30 to 60, and from 40 to 90
    assert sum(a["iscrowd"] for a in tiles["annotations"]) == 20
    assert evaluate(out / "annotations/val_whole.json", [car, inside])["AP50"] == pytest.approx(1)
    second = {**inside, "image_id": 2, "bbox": [5, 25, 10, 10]}
    assert evaluate(out / "annotations/val.json", [car, inside, second])["AP50"] == pytest.approx(1)
    assert boxes(out / "labels/val/1__0_0.txt") == [(3, 10, 10, 20, 20)] and not boxes(out / "labels/val/1__40_0.txt")
    report = json.loads((out / "conversion_report.json").read_text())["splits"]
    assert report["val"]["whole"]["ignored"] == 10 and report["val"]["ignored"] == 20
    assert report["val"]["cut_below_visible"] == 0
    assert report["train"]["empty_tiles_left_out"] == 1  # a tile with nothing but a region has no objects


def test_ignored_regions_are_cut_whatever_is_left_of_them(tmp_path):
    """An eighth of a region and of a ship, both from 55 to 95, is in the first tile."""
    pair = add(tmp_path, "a.png", 0, [(0, 10, 10, 20, 20), (0, 55, 30, 95, 40)])
    objects = [[10, 10, 10, 10], [55, 30, 40, 10], [55, 10, 40, 10]]
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 60}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": int(i == 3)}
            for i, box in enumerate(objects, start=1)
        ],
        "categories": [{"id": 1, "name": "ship"}, {"id": 2, "name": "plane"}],
    }
    (tmp_path / "val.json").write_text(json.dumps(coco))
    cut([pair], tmp_path / "out", annotations={"val": tmp_path / "val.json"})
    tiles = json.loads((tmp_path / "out/annotations/val.json").read_text())
    first = [(a["bbox"], a["iscrowd"]) for a in tiles["annotations"] if a["image_id"] == 1]
    assert first == [([10, 10, 10, 10], 0), ([55, 10, 5, 10], 1)]  # not the ship, of which as much is left


def test_ignored_objects_that_cannot_be_placed_are_named(visdrone, tmp_path):
    pairs = [(visdrone / "images/val/1.jpg", visdrone / "labels/val/1.txt")]
    names = [c["name"] for c in json.loads((visdrone / "annotations/val.json").read_text())["categories"]]

    def cut_with(**change):
        file = tmp_path / "changed.json"
        truth = json.loads((visdrone / "annotations/val.json").read_text())
        truth["images"][0] |= change
        file.write_text(json.dumps(truth))
        tile_dataset({"val": pairs}, names, tmp_path / "out", annotations={"val": file}, size=60, overlap=20)

    with pytest.raises(ValueError, match=r"changed\.json: 0 entries for image .*1\.jpg, expected 1"):
        cut_with(file_name="2.jpg")
    with pytest.raises(ValueError, match=r"changed\.json: .*1\.jpg is 60 x 100 px there, the picture is 100 x 60"):
        cut_with(width=60, height=100)
    with pytest.raises(ValueError, match=r"categories .* are not the classes \['ship'\]"):
        tile_dataset(
            {"val": pairs}, ["ship"], tmp_path / "out2", annotations={"val": visdrone / "annotations/val.json"}
        )
    cut_with(file_name="val/1.jpg")


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_pictures_are_cut_as_they_are_shown(tmp_path, suffix, orientation):
    """Labels are relative to the picture after EXIF rotation, in Ultralytics and here."""
    size = (100, 60) if orientation == 3 else (60, 100)
    image, label = add(tmp_path, f"a.{suffix}", 0, [(0, 70, 10, 90, 20)], size=(100, 60))
    shown = Image.new("RGB", (100, 60))
    shown.paste((250, 250, 250), (70, 10, 90, 20))
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = shown.transpose(turn[orientation])
    assert stored.size == size
    exif = Image.Exif()
    exif[274] = orientation
    stored.save(image, exif=exif, quality=95)
    cut([(image, label)], tmp_path / "out")
    assert sorted(greys(tmp_path / "out")) == ["a__0_0", "a__40_0"]
    assert boxes(tmp_path / "out/labels/val/a__40_0.txt") == [(0, 30, 10, 50, 20)]
    part = cv2.imread(str(tmp_path / "out/images/val/a__40_0.png"))[..., 0].astype(int)
    assert part.shape == (60, 60) and part[12:18, 32:48].min() > 200
    part[8:22, 28:52] = 0
    assert part.max() < 50


def test_pictures_of_more_than_8_bits_are_refused_before_any_is_cut(tmp_path):
    pairs = [add(tmp_path, name, 0) for name in ("a.png", "b.png")]
    cv2.imwrite(str(pairs[1][0]), np.full((60, 100), 4095, np.uint16))
    with pytest.raises(ValueError, match=r"b\.png: holds uint16 values"):
        cut(pairs, tmp_path / "out")
    assert not (tmp_path / "out/images").exists()


def test_pictures_above_the_limit_of_pillow(tmp_path, monkeypatch):
    monkeypatch.setattr(tile, "_write_tiles", lambda folder, tiles, stretch: None)  # minutes
    image, label = add(tmp_path, "a.png", 0)
    image.write_bytes(grey_png(20_000, 9_000))  # 180 million px; Pillow's limit is 178,956,970
    report = cut([(image, label)], tmp_path / "out", size=9_000, overlap=0)
    assert report["splits"]["val"]["images"] == 3


def test_pictures_that_cannot_be_read_at_once_are_named_before_anything_is_written(tmp_path):
    image, label = add(tmp_path, "a.png", 0)
    image.write_bytes(grey_png(2**15, 2**15 + 1))
    with pytest.raises(ValueError, match=r"a\.png: 32768 x 32769 px are more than the 1,073,741,824 read at once"):
        cut([(image, label)], tmp_path / "out")
    assert not list((tmp_path / "out").glob("*s"))


def sparse_scene(path, objects, side=40_000):
    """Write a GeoTIFF of which next to nothing is stored, with grey objects, xyxy px; and its labels."""
    rasterio = pytest.importorskip("rasterio")
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "width": side, "height": side, "tiled": True}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.3, 0, 5e5, 0, -0.3, 5e6)}
    with rasterio.open(path, "w", SPARSE_OK=True, compress="deflate", **profile, **place) as file:
        for k, (x1, y1, x2, y2) in enumerate(objects):
            values = np.full((3, y2 - y1, x2 - x1), 100 + k, np.uint8)
            file.write(values, window=((y1, y2), (x1, x2)))
    b = np.array(objects) / side
    rows = zip((b[:, 0] + b[:, 2]) / 2, (b[:, 1] + b[:, 3]) / 2, b[:, 2] - b[:, 0], b[:, 3] - b[:, 1])
    label = path.with_suffix(".txt")
    label.write_text("".join(f"0 {x:.9f} {y:.9f} {w:.9f} {h:.9f}\n" for x, y, w, h in rows))
    return path, label


def test_a_scene_that_cannot_be_decoded_whole_is_cut_by_windows(tmp_path):
    objects = [(100, 200, 112, 220), (20_290, 19_990, 20_310, 20_010), (39_950, 39_980, 39_990, 39_999)]
    image, label = sparse_scene(tmp_path / "a.tif", objects)
    code = f"""
from pathlib import Path
import resource
from rfla_yolo.datasets import check_data, tile_dataset
pairs = {{"train": [(Path({str(image)!r}), Path({str(label)!r}))]}}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tile_dataset(pairs, ["a"], {str(tmp_path / "out")!r}, size=800, overlap=100, empty=0)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
diagnosis = check_data(pairs, ["a"], workers=1)
errors = [f.name for f in diagnosis.findings if f.level == "error"]
assert errors == ["splits without images", "images above 178,956,970 px"], errors
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    cutting, checking = map(float, done.stdout.split()[-2:])
    assert cutting < 400 and checking < 900  # MB, of checking with all that is imported; the scene has 4,800
    cut_out = sorted((tmp_path / "out/images/train").glob("*.png"))
    assert len(cut_out) == 3 + 1  # half of the one in the middle lies on the tile beside
    for file in cut_out:
        left, top = map(int, file.stem.split("__")[1].split("_"))
        expected = np.zeros((800, 800, 3), np.uint8)
        for k, (x1, y1, x2, y2) in enumerate(objects):
            x, y = (max(x1 - left, 0), max(x2 - left, 0)), (max(y1 - top, 0), max(y2 - top, 0))
            expected[y[0] : y[1], x[0] : x[1]] = 100 + k
        np.testing.assert_array_equal(cv2.imread(str(file)), expected)


@pytest.mark.parametrize(("values", "kind"), [((200, 3000), np.uint16), ((-0.5, 1.5), np.float32)])
def test_deep_values_are_stretched_as_the_formula_says(tmp_path, values, kind):
    rasterio = pytest.importorskip("rasterio")
    image, label = add(tmp_path, "a.png", 0)
    image = image.with_suffix(".tif")
    pixels = np.random.default_rng(0).uniform(*values, (3, 60, 100)).astype(kind)
    with rasterio.open(image, "w", driver="GTiff", dtype=kind, count=3, width=100, height=60) as file:
        file.write(pixels)
    with pytest.raises(ValueError, match=rf"a\.tif: holds {np.dtype(kind)} values.*data tile --stretch 0,3000"):
        cut([(image, label)], tmp_path / "out")
    low, high = values[0] + (values[1] - values[0]) * 0.1, values[1]
    cut([(image, label)], tmp_path / "values", stretch=(low, high))
    found = cv2.imread(str(tmp_path / "values/images/val/a__0_0.png"))
    expected = np.clip((pixels[:, :60, :60].astype(float) - low) / (high - low) * 255, 0, 255)
    assert abs(found[..., ::-1] - np.moveaxis(expected, 0, 2)).max() <= 0.5 + 1e-3
    assert found.min() == 0 and found.max() > 250
    dark, bright = np.percentile(pixels, (2, 98), axis=(1, 2))
    cut([(image, label)], tmp_path / "percentiles", stretch=("2%", "98%"))
    found = cv2.imread(str(tmp_path / "percentiles/images/val/a__0_0.png"))
    expected = (np.moveaxis(pixels[:, :60, :60], 0, 2) - dark) / (bright - dark) * 255
    assert abs(found[..., ::-1] - np.clip(expected, 0, 255)).max() <= 0.51


class TestSecondRun:
    """What has gone or changed since the first run; the rest is not cut again."""

    @pytest.fixture
    def first(self, tmp_path):
        pairs = [add(tmp_path, name, 20 * i) for i, name in enumerate(("a/1.png", "b/1.png", "2.png"), start=1)]
        cut(pairs, tmp_path / "out")
        return pairs

    def test_equals_a_fresh_run(self, tmp_path, first):
        out = tmp_path / "out"
        (out / "images/val/b_1__0_0.npy").touch()  # what training keeps beside an image
        (out / "images/val/2__0_0.npy").touch()
        add(tmp_path, "2.png", 200, size=(60, 60))  # another size and picture
        pairs = [first[1], first[2], add(tmp_path, "c/3.png", 90)]  # a/1.png has gone
        first[1][1].write_text("1 0.5 0.5 0.1 0.1\n")  # other labels
        cut(pairs, out)
        again = content(out)
        assert greys(out) == {"1__0_0": 40, "1__40_0": 40, "2__0_0": 200, "3__0_0": 90, "3__40_0": 90}
        shutil.rmtree(out)
        cut(pairs, out)
        assert content(out) == again

    def test_the_same_picture_size_but_other_pixels(self, tmp_path, first):
        before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out/images/val").iterdir()}
        state = first[2][0].stat()
        add(tmp_path, "2.png", 61)
        assert first[2][0].stat().st_size == state.st_size  # the bytes are as many as they were
        os.utime(first[2][0], ns=(state.st_atime_ns, state.st_mtime_ns + 1))
        cut(first, tmp_path / "out")
        assert greys(tmp_path / "out")["2__0_0"] == 61
        after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out/images/val").iterdir()}
        assert {name for name in after if after[name] != before[name]} == {"2__0_0.png", "2__40_0.png"}

    def test_stopped_and_started_again(self, tmp_path, first, monkeypatch):
        """Byte for byte the same, though a source changes between the two."""
        shutil.rmtree(tmp_path / "out")
        written = []

        def stop(path, content):
            written.append(path)
            if len(written) == 4:
                (path.parent / "half.png.1234.part").write_bytes(b"half")
                raise KeyboardInterrupt
            write_bytes(path, content)

        write_bytes = tile.write_bytes
        monkeypatch.setattr(tile, "write_bytes", stop)
        with pytest.raises(KeyboardInterrupt):
            cut(first, tmp_path / "out")
        assert len(list((tmp_path / "out/images/val").iterdir())) == 4  # three tiles and the half
        monkeypatch.setattr(tile, "write_bytes", write_bytes)
        add(tmp_path, "a/1.png", 222)
        cut(first, tmp_path / "out")
        again = content(tmp_path / "out")
        assert greys(tmp_path / "out")["a_1__0_0"] == 222
        shutil.rmtree(tmp_path / "out")
        cut(first, tmp_path / "out")
        assert content(tmp_path / "out") == again

    def test_a_tile_without_a_byte(self, tmp_path, first):
        """As a full disk or a crash of the machine leaves it."""
        before = content(tmp_path / "out")
        (tmp_path / "out/images/val/2__0_0.png").write_bytes(b"")
        cut(first, tmp_path / "out")
        assert content(tmp_path / "out") == before

    def test_a_split_that_has_gone(self, tmp_path, first):
        both = {"val": first[:2], "test": first[2:]}
        tile_dataset(both, ["ship", "plane"], tmp_path / "both", size=60, overlap=20)
        assert (tmp_path / "both/annotations/test_whole.json").is_file()
        cut(first[:2], tmp_path / "both")
        assert not [p for p in (tmp_path / "both").rglob("*test*") if p.is_file()]
        assert not [p for p in (tmp_path / "both").rglob("test/*")]

    def test_tiles_of_another_set_are_not_mixed_in(self, big_set):
        out = run(big_set)
        other = big_set / "big" / "other.yaml"
        shutil.copy(big_set / "big" / "big.yaml", other)
        with pytest.raises(ValueError, match=r"was begun with data '.*big\.yaml', not '.*other\.yaml'"):
            main(["data", "tile", "--data", str(other), "--size", "60", "--overlap", "20", "--out", str(out)])


def test_detections_come_back_to_whole_images(big_set, capsys):
    """Objects that one tile at least shows whole are found once each, whatever part of them others show."""
    out = run(big_set, "--visible", "0.2")
    found = as_found(out / "annotations/val.json")
    assert len(found) == 7  # of four objects
    (big_set / "found.json").write_text(json.dumps(found))
    merged = big_set / "merged.json"
    main(["data", "merge", "--predictions", str(big_set / "found.json"), "--tiles", str(out), "--out", str(merged)])
    assert "rfla-yolo evaluate" in capsys.readouterr().out
    assert len(json.loads(merged.read_text())) == 4
    result = evaluate(out / "annotations/val_whole.json", merged)
    assert result["AP"] == pytest.approx(1)


def test_predictions_of_plain_ultralytics_are_known_by_stem(big_set):
    """As its validator writes them: image_id is the stem, bbox has three digits."""
    out = run(big_set, "--visible", "1")
    truth = json.loads((out / "annotations/val.json").read_text())
    name_of = {image["id"]: image["file_name"] for image in truth["images"]}
    by_id = as_found(out / "annotations/val.json")
    validator = DetectionValidator.__new__(DetectionValidator)
    validator.jdict, validator.class_map = [], [1, 2]
    for d in by_id:
        x, y, w, h = d["bbox"]
        box, score = torch.tensor([[x, y, x + w, y + h]]), torch.tensor([d["score"]])
        found = {"bboxes": box, "conf": score, "cls": torch.tensor([d["category_id"] - 1.0])}
        validator.pred_to_json(found, {"im_file": str(out / "images/val" / name_of[d["image_id"]])})
    stems = json.loads(json.dumps(validator.jdict))
    assert {d["image_id"] for d in stems} == {Path(name).stem for name in name_of.values()} - {
        "empty__0_0",
        "empty__40_0",
    }
    names = [{**d, "image_id": name_of[d["image_id"]]} for d in by_id]
    for found in (stems, names):
        assert merge_tiles(found, out) == merge_tiles(by_id, out)


def test_perfect_detections_on_tiles_are_perfect_on_whole_images_where_the_overlap_holds_them(tmp_path, monkeypatch):
    """The table of docs/datasets.md: AP of objects and their pieces, merged, by the side of the object."""
    page = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    rows = re.findall(r"^\| (\d+) to (\d+) px \| ([\d.]+) \|$", page, re.MULTILINE)
    sides = {f"{low} to {high}": (int(low), int(high)) for low, high, _ in rows}
    monkeypatch.setattr(tile, "_write_tiles", lambda folder, tiles, stretch: None)  # the pictures do not matter
    rng = np.random.default_rng(0)
    pairs = []
    for i in range(24):
        objects = []
        for c, (low, high) in enumerate(sides.values()):
            side = rng.uniform(low, high, (60, 1))
            corner = rng.uniform(0, 2000 - side, (60, 2))
            objects += [(c, *box) for box in np.concatenate([corner, corner + side], 1).tolist()]
        pairs.append(add(tmp_path, f"{i}.bmp", 0, objects, size=(2000, 2000)))
    tile_dataset({"val": pairs}, list(sides), tmp_path / "out", size=800, overlap=200)
    merged = merge_tiles(as_found(tmp_path / "out/annotations/val.json"), tmp_path / "out")
    result = evaluate(tmp_path / "out/annotations/val_whole.json", merged)
    measured = {name: figures["AP"] for name, figures in result.per_class.items()}
    assert measured == pytest.approx({f"{low} to {high}": float(ap) for low, high, ap in rows}, abs=0.02)
    assert all(measured[name] == 1 for name, (_, high) in sides.items() if high < 200 - 2 * MARGIN)
    assert len(rows) == 6


def test_bad_input_is_named(big_set):
    out = run(big_set)
    detection = {"image_id": 99, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}
    with pytest.raises(ValueError, match=r"tiles .*, val: predictions, entry 0: image_id 99 "):
        merge_tiles([detection], out)
    file = out / "annotations/val.json"
    truth = file.read_text()
    file.write_text(truth.replace("a__40_0.png", "b/a__0_0.png"))  # no set of this command has two of a stem
    with pytest.raises(ValueError, match=r"image_id 'a__0_0' fits 2 "):
        merge_tiles([{**detection, "image_id": "a__0_0"}], out)
    file.write_text(truth)
    with pytest.raises(FileNotFoundError, match="no such file"):
        merge_tiles([], big_set)
    for change, message in (
        ({"overlap": 60}, "overlap must be in px, from 0 to below size"),
        ({"size": 0}, "size must be a whole number"),
        ({"visible": 2}, "visible must be in 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            tile_dataset({}, [], big_set / "new", **{"size": 60, "overlap": 20, **change})
