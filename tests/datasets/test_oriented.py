"""Oriented datasets: boxes against Ultralytics and shapely; DOTA, tiles and the way back."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.utils import ops

from rfla_yolo import evaluate
from rfla_yolo.cli import main
from rfla_yolo.datasets import check_data, convert_dota, merge_tiles, tile_dataset, write_task1
from rfla_yolo.datasets.boxes import areas, cut, min_area_boxes
from rfla_yolo.datasets.checks import are_oriented, read_labels
from rfla_yolo.evaluation.matching import pairwise_iou
from rfla_yolo.rotated import corners, hulls

NAMES = ["ship", "plane"]


def random_boxes(seed, count=200, size=200):
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(0.7, 4.5, (count, 2)))
    return np.column_stack((rng.uniform(0, size, (count, 2)), sides, rng.uniform(-3, 3, count)))


def label_lines(boxes, size, label=0):
    rows = (corners(np.array(boxes, dtype=float).reshape(-1, 5)) / np.array(size)).reshape(-1, 8)
    return "".join(f"{label} {' '.join(f'{v:.8f}' for v in row)}\n" for row in rows)


class TestBoxes:
    def test_rectangles_are_ultralytics(self):
        """Of rectangles and of quadrilaterals that are nearly some; of two of the same area either may be taken."""
        quads = corners(random_boxes(0, 400))
        quads[200:] += np.random.default_rng(0).uniform(-0.3, 0.3, (200, 4, 2))
        ours, theirs = min_area_boxes(quads), ops.xyxyxyxy2xywhr(quads)
        np.testing.assert_allclose(areas(ours), areas(theirs), rtol=1e-3)
        same = pairwise_iou(ours, theirs) > 0.999
        assert same[:200].all() and same.mean() > 0.95
        clear = same & (ours[:, 2] > ours[:, 3] + 0.01) & (np.abs(ours[:, 4] - 3 * np.pi / 4) > 0.01)
        clear &= np.abs(ours[:, 4] + np.pi / 4) > 0.01  # the angle jumps there
        clear &= areas(ours) > 1
        np.testing.assert_allclose(ours[clear], theirs[clear], atol=0.01)
        assert clear.sum() > 300
        assert (ours[:, 2] >= ours[:, 3]).all() and (np.abs(ours[:, 4] - np.pi / 4) <= np.pi / 2).all()

    def test_far_from_the_origin_digits_are_kept(self):
        box = np.array([[19_000.123, 15_000.456, 6.25, 3.5, 0.4]])
        np.testing.assert_allclose(min_area_boxes(corners(box)), box, atol=1e-5)

    @settings(max_examples=100, deadline=None)
    @given(st.integers(0, 10**6))
    def test_what_a_window_shows(self, seed):
        """Areas are shapely's; the box is the smallest around what is visible, and fits a label of the window."""
        boxes, window = random_boxes(seed, 20), (30, 50, 130, 110)
        parts = shapely.intersection(shapely.polygons(corners(boxes)), shapely.box(*window))
        shown, visible = cut(boxes, window)
        np.testing.assert_allclose(visible, shapely.area(parts), atol=1e-3)
        begin, end = corners(boxes).min(1), corners(boxes).max(1)
        inside = ((begin >= window[:2]) & (end <= window[2:])).all(1)
        assert (shown[inside] == boxes[inside]).all()
        center = shown[visible > 1][:, :2]
        assert ((center > [29.99, 49.99]) & (center < [130.01, 110.01])).all()
        for box, part in zip(shown[visible > 1], parts[visible > 1]):
            width, height = hulls(box[None])[0, 2:]
            assert width <= 101.01 and height <= 60.61
            least = shapely.area(shapely.minimum_rotated_rectangle(part))
            if width < 100.9 and height < 60.5:  # else made smaller
                assert areas(box[None])[0] == pytest.approx(least, rel=1e-3)
                assert shapely.area(shapely.difference(part, shapely.polygons(corners(box[None]))[0])) < 1e-2

    @pytest.mark.parametrize("angle", np.linspace(0.1, 1.4, 14))
    def test_what_only_touches_a_window_is_outside(self, angle):
        """An edge through the window's corner, but for rounding."""
        aside = np.array([np.cos(angle), np.sin(angle)])
        box = np.array([[*(np.array([100, 60]) + 4 * aside), 8, 400, angle]])
        assert cut(box, (0, 0, 100, 60))[1] == 0


class TestLabels:
    @pytest.mark.parametrize(
        ("texts", "oriented"),
        [
            (["0 .1 .1 .2 .1 .2 .2 .1 .2\n", ""], True),
            (["0 .5 .5 .1 .1\n", ""], False),
            (["0 .1 .1 .2 .1 .2 .2 .1 .2\n", "0 .1 .1 .2 .1 .2 .2\n"], False),  # polygons
            (["0 .1 .1 .2 .1 .2 .2 .1 .2\n", "0 .5 .5 .1 .1\n"], True),  # whose second file is bad
            ([""], False),
        ],
    )
    def test_of_which_kind_they_are(self, tmp_path, texts, oriented):
        files = [tmp_path / f"{i}.txt" for i in range(len(texts) + 1)]  # the last is not there
        for file, text in zip(files, texts):
            file.write_text(text)
        assert are_oriented(files) == oriented

    def test_a_corner_may_lie_outside_where_ultralytics_takes_it(self, tmp_path):
        """What counts there is the box around it."""
        file = tmp_path / "a.txt"
        file.write_text("0 -0.05 0.5 0.1 0.4 0.2 0.5 0.1 0.6\n")
        assert read_labels(file, 1, oriented=True).shape == (1, 9)
        file.write_text("0 -0.5 0.5 0.1 0.4 0.2 0.5 0.1 0.6\n")
        with pytest.raises(ValueError, match=r"coordinate -0\.15 is not in 0 to 1"):
            read_labels(file, 1, oriented=True)
        file.write_text("0 .5 .5 .1 .1\n")
        with pytest.raises(ValueError, match=r"a\.txt:1: expected 9 columns \(class x1 y1 .* found 5"):
            read_labels(file, 1, oriented=True)


SHIP = [(30.0, 25.0), (60.0, 45.0), (55.0, 52.5), (25.0, 32.5)]  # 36.1 x 9.0 px
QUAD = [(70.0, 60.0), (90.0, 62.0), (88.0, 80.0), (71.0, 79.0)]  # no rectangle


@pytest.fixture
def dota(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (tmp_path / "dota" / split / "images").mkdir(parents=True)
        (tmp_path / "dota" / split / "labelTxt").mkdir()
        image = rng.integers(0, 255, (100, 120, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "dota" / split / "images/P1.png"), image)
        rows = [(SHIP, "ship", 0), (QUAD, "plane", 1), ([(110, 10), (130, 10), (130, 20), (110, 20)], "plane", 0)]
        text = "".join(f"{' '.join(f'{x} {y}' for x, y in points)} {name} {flag}\n" for points, name, flag in rows)
        (tmp_path / "dota" / split / "labelTxt/P1.txt").write_text("imagesource:x\ngsd:1\n" + text)
    return tmp_path / "dota"


class TestDota:
    def test_labels_and_ground_truth(self, dota, tmp_path):
        report = convert_dota(dota, tmp_path / "out", oriented=True)
        rows = read_labels(tmp_path / "out/labels/train/P1.txt", 15, oriented=True)
        assert rows[:, 0].tolist() == [6, 0, 0]  # as DOTA orders its classes
        points = rows[:, 1:].reshape(-1, 4, 2) * [120, 100]
        expected = ops.xyxyxyxy2xywhr(np.array([SHIP, QUAD]))
        np.testing.assert_allclose(ops.xyxyxyxy2xywhr(points)[:2], expected, atol=1e-3)
        assert points[2].max(0).tolist() == pytest.approx([120, 20], abs=1e-3)  # cut at the border
        truth = json.loads((tmp_path / "out/annotations/train.json").read_text())
        for annotation, box in zip(truth["annotations"], expected):
            assert annotation["rbox"] == pytest.approx(box, abs=1e-3)
            assert annotation["area"] == pytest.approx(box[2] * box[3], abs=0.01)
            assert annotation["bbox"] == pytest.approx(hulls(box[None])[0], abs=1e-3)
        counts = report["splits"]["train"]
        assert (counts["clipped"], counts["sizes"]) == (1, {"vt": 0, "t": 1, "s": 2, "m": 0})

    def test_difficult(self, dota, tmp_path):
        convert_dota(dota, tmp_path / "out", difficult=False, oriented=True)
        assert len((tmp_path / "out/labels/train/P1.txt").read_text().splitlines()) == 2
        truth = json.loads((tmp_path / "out/annotations/train.json").read_text())["annotations"]
        assert [(a["iscrowd"], "rbox" in a) for a in truth] == [(0, True), (1, True), (0, True)]

    def test_ultralytics_reads_what_was_written(self, dota, tmp_path):
        """Its loader takes every image, and makes the boxes of the ground truth of the labels."""
        from ultralytics.cfg import get_cfg
        from ultralytics.data import build_yolo_dataset
        from ultralytics.data.utils import check_det_dataset

        main(["data", "dota", "--root", str(dota), "--out", str(tmp_path / "out"), "--oriented"])
        tile_dataset(*listed(tmp_path / "out"), out=tmp_path / "tiles", size=64, overlap=16)
        for folder, images, size in (("out", 1, 120), ("tiles", 6, 64)):  # the size of the pictures: nothing is resized
            data = check_det_dataset(str(tmp_path / folder / "data.yaml"))
            args = get_cfg(overrides={"task": "obb", "imgsz": size, "rect": False})
            dataset = build_yolo_dataset(args, data["val"], 1, data, mode="val")
            truth = json.loads((tmp_path / folder / "annotations/val.json").read_text())
            ids = {image["file_name"]: image["id"] for image in truth["images"]}
            assert len(dataset) == images
            for sample in (dataset[i] for i in range(images)):
                image_id = ids[Path(sample["im_file"]).name]
                expected = np.array([a["rbox"] for a in truth["annotations"] if a["image_id"] == image_id])
                boxes = sample["bboxes"].numpy().astype(float)
                boxes[:, :4] *= size
                boxes[:, :2] -= (size - np.array(sample["ori_shape"])[::-1]) / 2
                assert len(boxes) == len(expected)
                for box in expected:
                    assert pairwise_iou(boxes, np.tile(box, (len(boxes), 1))).max() > 0.99


def listed(root):
    """Names and pairs of a dataset, as `tile_dataset` and `check_data` take them."""
    from rfla_yolo.engine.data import list_images

    names, splits = list_images(root / "data.yaml")
    return splits, names


def one_image(root, boxes, size=(100, 60), name="a", ignored=()):
    """A set with one image, val alone; boxes of class 0."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    image, label = root / "images" / f"{name}.png", root / f"{name}.txt"
    cv2.imwrite(str(image), np.full((size[1], size[0], 3), 90, np.uint8))
    label.write_text(label_lines(boxes, size))
    truth = {"images": [{"id": 1, "file_name": f"{name}.png"}], "categories": [{"id": 7, "name": NAMES[0]}]}
    objects = [{"id": i, "image_id": 1, "category_id": 7, "iscrowd": 1, **box} for i, box in enumerate(ignored, 1)]
    (root / "gt.json").write_text(json.dumps({**truth, "annotations": objects}))
    return {"val": [(image, label)]}


class TestTiles:
    """100 x 60 px, tiles of 60 px with an overlap of 20 start at 0 and 40."""

    inside, half = [20, 20, 12, 6, 0.5], [60, 30, 30, 4, np.pi / 4]  # 49.4..70.6: whole in the second tile

    def cut(self, tmp_path, boxes, **options):
        pairs = one_image(tmp_path, boxes, ignored=options.pop("ignored", ()))
        out = tmp_path / "out"
        report = tile_dataset(pairs, NAMES[:1], out, **{"size": 60, "overlap": 20, **options})
        return out, report["splits"]["val"]

    def test_objects_are_kept_by_their_visible_area(self, tmp_path):
        out, _ = self.cut(tmp_path, [self.inside, self.half], visible=0.45)
        truth = json.loads((out / "annotations/val.json").read_text())
        boxes = {i["file_name"]: [] for i in truth["images"]}
        for a in truth["annotations"]:
            boxes[truth["images"][a["image_id"] - 1]["file_name"]].append(a["rbox"])
        first, second = boxes["a__0_0.png"], boxes["a__40_0.png"]
        assert len(first) == 2 and len(second) == 1
        assert first[0] == pytest.approx(self.inside, abs=1e-3)
        assert second[0] == pytest.approx([20, 30, 30, 4, np.pi / 4], abs=1e-3)  # whole, in pixels of the tile
        part = shapely.intersection(shapely.polygons(corners(np.array([self.half])))[0], shapely.box(0, 0, 60, 60))
        assert first[1][2] * first[1][3] == pytest.approx(
            shapely.area(shapely.minimum_rotated_rectangle(part)), rel=1e-3
        )
        assert first[1][4] == pytest.approx(np.pi / 4, abs=1e-3)  # it keeps its direction
        assert (
            self.cut(tmp_path / "more", [self.half], visible=0.55)[1]["cut_below_visible"] == 1
        )  # half of it is inside

    def test_wholes_keep_the_boxes(self, tmp_path):
        out, _ = self.cut(tmp_path, [self.inside, self.half])
        whole = json.loads((out / "annotations/val_whole.json").read_text())["annotations"]
        assert [a["rbox"] for a in whole] == [pytest.approx(b, abs=1e-3) for b in (self.inside, self.half)]

    def test_ignored_objects_are_cut_too(self, tmp_path):
        ignored = [{"bbox": [0, 0, 1, 1], "rbox": self.half}, {"bbox": [70, 10, 10, 20]}]
        out, _ = self.cut(tmp_path, [self.inside], ignored=ignored, annotations={"val": tmp_path / "gt.json"})
        truth = json.loads((out / "annotations/val.json").read_text())["annotations"]
        assert [a["iscrowd"] for a in truth] == [0, 1, 1, 1]
        assert truth[-1]["rbox"] == pytest.approx([35, 20, 10, 20, 0])  # an upright one stays upright

    def test_a_box_of_the_wrong_kind_is_named(self, tmp_path):
        pairs = one_image(tmp_path, [self.inside])
        (tmp_path / "a.txt").write_text(label_lines([self.inside], (100, 60)) + "0 .5 .5 .1 .1\n")
        with pytest.raises(ValueError, match=r"a\.txt: mixes boxes and polygons"):
            tile_dataset(pairs, NAMES[:1], tmp_path / "out", size=60, overlap=20)

    def test_there_and_back(self, tmp_path):
        """Detections that are the objects: what a seam does not cut is found once, in its place."""
        boxes = [self.inside, self.half, [50, 12, 9, 5, 1.2], [90, 50, 8, 4, 2.0]]
        out, _ = self.cut(tmp_path, boxes, visible=0.6)
        objects = json.loads((out / "annotations/val.json").read_text())["annotations"]
        assert len(objects) == 5  # the third lies in both tiles
        keys = ("image_id", "category_id", "rbox")
        found = [{**{k: a[k] for k in keys}, "score": 1 - 0.1 * i} for i, a in enumerate(objects)]
        merged = merge_tiles(found, out)
        assert sorted(m["rbox"] for m in merged) == [pytest.approx(b, abs=1e-3) for b in sorted(boxes)]
        assert evaluate(out / "annotations/val_whole.json", merged)["AP"] == pytest.approx(1)
        (tmp_path / "predictions.json").write_text(json.dumps(found))
        command = ["data", "merge", "--predictions", str(tmp_path / "predictions.json"), "--tiles", str(out)]
        main([*command, "--out", str(tmp_path / "whole.json"), "--task1", str(tmp_path / "task1")])
        assert json.loads((tmp_path / "whole.json").read_text()) == merged
        lines = (tmp_path / "task1/Task1_ship.txt").read_text().splitlines()
        assert len(lines) == 4 and {line.split()[0] for line in lines} == {"a"}

    @pytest.mark.parametrize("scores", ["equal", "random", "of pieces"])
    def test_perfect_detections_are_perfect_on_the_whole_image(self, tmp_path, scores):
        """Whatever a piece of an object scores, the object stays: the overlap holds all of them."""
        rng = np.random.default_rng(0)
        sides = np.column_stack((rng.uniform(6, 60, 150), rng.uniform(5, 25, 150)))
        center = rng.uniform(35, [565, 465], (150, 2))
        boxes = np.column_stack((center, sides, rng.uniform(-1.5, 1.5, 150))).tolist()
        pairs = one_image(tmp_path, boxes, (600, 500))
        tile_dataset(pairs, NAMES[:1], tmp_path / "out", size=300, overlap=100)
        objects = json.loads((tmp_path / "out/annotations/val.json").read_text())["annotations"]
        assert len(objects) > 220
        score = {"equal": lambda a: 1.0, "random": lambda a: rng.random(), "of pieces": lambda a: 1 / a["area"]}[scores]
        found = [{k: a[k] for k in ("image_id", "category_id", "rbox")} | {"score": score(a)} for a in objects]
        merged = merge_tiles(found, tmp_path / "out")
        assert len(merged) == 150
        assert evaluate(tmp_path / "out/annotations/val_whole.json", merged)["AP"] == pytest.approx(1, abs=1e-6)
        assert {m["score"] for m in merged} <= {f["score"] for f in found}


TRUTH = {
    "images": [{"id": 5, "file_name": "part/P0001.png"}, {"id": 6, "file_name": "P0002.png"}],
    "annotations": [],
    "categories": [{"id": 3, "name": "ground track field"}, {"id": 1, "name": "ship"}],
}


class TestTask1:
    def test_format(self, tmp_path):
        found = [
            {"image_id": 6, "category_id": 3, "rbox": [10, 20, 4, 2, np.pi / 2], "score": 0.25},
            {"image_id": 5, "category_id": 3, "rbox": [10, 20, 4, 2, 0], "score": 0.5},
            {"image_id": 5, "category_id": 3, "rbox": [11, 20, 4, 2, 0], "score": 0.75},
        ]
        files = write_task1(TRUTH, found, tmp_path / "new" / "task1")
        assert [file.name for file in files] == ["Task1_ship.txt", "Task1_ground-track-field.txt"]
        assert files[0].read_text() == ""
        assert files[1].read_text().splitlines() == [
            "P0001 0.750000 13.00 21.00 13.00 19.00 9.00 19.00 9.00 21.00",
            "P0001 0.500000 12.00 21.00 12.00 19.00 8.00 19.00 8.00 21.00",
            "P0002 0.250000 9.00 22.00 11.00 22.00 11.00 18.00 9.00 18.00",
        ]

    def test_what_cannot_be_is_named(self, tmp_path):
        box = {"image_id": 6, "category_id": 3, "bbox": [10, 20, 4, 2], "score": 0.25}
        with pytest.raises(ValueError, match="task 1 needs oriented boxes"):
            write_task1(TRUTH, [box], tmp_path)
        for files, message in (
            (["a/P1.png", "b/P1.tif"], "2 images are called 'P1'"),
            (["my scene.tif"], "'my scene'"),
        ):
            images = [{"id": i, "file_name": name} for i, name in enumerate(files)]
            with pytest.raises(ValueError, match=message):
                write_task1({**TRUTH, "images": images}, [], tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_classes_never_share_a_file(self, tmp_path):
        names = ["a b", "a-B", "a-b-1", "c"]
        twice = {**TRUTH, "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)]}
        found = [{"image_id": 5, "category_id": i, "rbox": [9, 9, 4, 2, 0], "score": i / 10} for i in (1, 2, 3, 4)]
        files = write_task1(twice, found, tmp_path)
        assert len({file.name.casefold() for file in files}) == 4 and files[3].name == "Task1_c.txt"
        assert [file.read_text().split()[1] for file in files] == ["0.100000", "0.200000", "0.300000", "0.400000"]


def test_check(tmp_path):
    """Sizes are those of the object; copies are told by their angle; boxes in an oriented set are named."""
    size = (100, 60)
    box = [50, 30, 32, 2, 0.8]
    train, val = (one_image(tmp_path / s, [box, [50, 30, 32, 2, 0.9], box], size, s)["val"] for s in ("train", "val"))
    found = check_data({"train": train, "val": val}, NAMES[:1], imgsz=100, workers=1)
    assert found.figures["splits"]["train"]["mean_side"] == pytest.approx(8, abs=1e-3)
    findings = {finding.name: finding for finding in found.findings}
    assert findings["duplicate boxes"].count == 2 and "bad label lines" not in findings
    assert found.figures["splits"]["val"]["sizes"]["t"] + found.figures["splits"]["val"]["sizes"]["vt"] == 3
    (tmp_path / "val/val.txt").write_text("0 .5 .5 .1 .1\n")
    findings = {f.name: f for f in check_data({"train": train, "val": val}, NAMES[:1], workers=1).findings}
    assert "val.txt:1: expected 9 columns" in findings["bad label lines"].examples[0]
