"""Ground truth and detections as other tools write them: what works gives the figures, what cannot is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rfla_yolo import compare, evaluate
from rfla_yolo.evaluation.inputs import load_inputs

from .test_coco import box_set, load

BIG = 2**53  # as a float the same as BIG + 1


def renamed(image=lambda i: i, category=lambda c: c, image_dt=None, category_dt=None):
    """The golden case "single" under other ids."""
    gt, dt = load("single", "gt"), load("single", "dt")
    image_dt, category_dt = image_dt or image, category_dt or category
    gt["images"] = [{**i, "id": image(i["id"])} for i in gt["images"]]
    gt["categories"] = [{**c, "id": category(c["id"])} for c in gt["categories"]]
    for entries, to_image, to_category in ((gt["annotations"], image, category), (dt, image_dt, category_dt)):
        for entry in entries:
            entry["image_id"], entry["category_id"] = to_image(entry["image_id"]), to_category(entry["category_id"])
    return gt, dt


@pytest.mark.parametrize(
    "ids",
    [
        {"image": lambda i: f"image-{i:05d}", "category": lambda c: f"class-{c:03d}"},
        {"image": lambda i: BIG + i, "category": lambda c: BIG + c},
        {"image": lambda i: f"{BIG + i}", "category": lambda c: f"{BIG + c}"},
        {"image_dt": str, "category_dt": str},
        {"image_dt": float, "category_dt": np.int32},
        {"image": float, "image_dt": int},
        {"image": lambda i: f"{i:05d}", "category": str, "category_dt": int},
    ],
)
def test_any_ids(ids):
    expected = evaluate(*renamed())
    result = evaluate(*renamed(**ids))
    assert (result.metrics, result.by_size, result.errors) == (expected.metrics, expected.by_size, expected.errors)
    assert result.per_class == expected.per_class


def test_ids_as_the_ground_truth_has_them():
    gt, dt = renamed(image=lambda i: f"image-{i:05d}")
    assert [image["id"] for image in evaluate(gt, dt).images] == sorted(image["id"] for image in gt["images"])
    some = [image["id"] for image in gt["images"]][:5]
    assert {image["id"] for image in evaluate(gt, dt, some).images} == set(some)
    with pytest.raises(ValueError, match="image_ids 'gone' is none of the images 'image-00001', "):
        evaluate(gt, dt, ["gone"])


SHIP = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5]}


def one(change=None, change_dt=None):
    """One object that is found, with changed entries."""
    gt, dt = box_set([SHIP["bbox"]], [(SHIP["bbox"], 0.5)])
    gt["annotations"][0] |= change or {}
    dt[0] |= change_dt or {}
    return gt, dt


@pytest.mark.parametrize(
    ("change", "change_dt"),
    [
        ({"area": None}, {}),
        ({"area": 25, "iscrowd": None}, {}),
        ({"iscrowd": False, "ignore": 0, "segmentation": None}, {}),
        ({"bbox": (0, 0, 5, 5)}, {"bbox": (0, 0, 5, 5)}),
        ({"bbox": np.array([0, 0, 5, 5])}, {"bbox": np.array([0, 0, 5, 5]), "score": np.float32(0.5)}),
        ({}, {"segmentation": None, "area": None, "id": None, "score": 1}),
    ],
)
def test_what_others_leave_out_or_write_in_another_way(change, change_dt):
    result = evaluate(*one(change, change_dt))
    assert (result["APvt"], result["oLRP"], result.num_objects) == (pytest.approx(1), 0, 1)


@pytest.mark.parametrize(
    ("change", "change_dt", "message"),
    [
        ({"area": "25"}, {}, "annotations, annotation 0: area '25' is not a finite number"),
        ({"area": -1}, {}, "annotation 0: area -1 is below 0"),
        ({"iscrowd": "no"}, {}, "annotation 0: iscrowd 'no' is not 0 or 1"),
        ({"bbox": None}, {}, "annotation 0: bbox None is not x, y, width, height"),
        ({"bbox": ["0", 0, 5, 5]}, {}, r"annotation 0: bbox \['0', 0, 5, 5\] is not"),
        ({}, {"bbox": ["0", "0", "5", "5"]}, "predictions, entry 0: bbox"),
        ({}, {"score": "0.5"}, "predictions, entry 0: score '0.5' is not a finite number"),
        ({}, {"score": None}, "predictions, entry 0: score None is not a finite number"),
        ({}, {"image_id": [1]}, r"predictions, entry 0: image_id \[1\] is none of the images 1"),
        ({}, {"category_id": None}, "predictions, entry 0: category_id None is none of the categories 1"),
    ],
)
def test_what_cannot_be_is_named(change, change_dt, message):
    with pytest.raises(ValueError, match=message):
        evaluate(*one(change, change_dt))


def test_a_float_that_may_be_two_ids_is_refused():
    gt, dt = one({"image_id": BIG + 1}, {"image_id": float(BIG + 1)})
    gt["images"] = [{"id": BIG, "file_name": "a.png"}, {"id": BIG + 1, "file_name": "b.png"}]
    with pytest.raises(ValueError, match=r"entry 0: image_id 9007199254740992\.0 is none of the images"):
        evaluate(gt, dt)


@pytest.mark.parametrize("source", ["annotations", "predictions"])
def test_entries_that_are_no_objects(source):
    gt, dt = one()
    if source == "annotations":
        gt["annotations"] = [[1, 1, 0, 0, 5, 5]]
    with pytest.raises(ValueError, match=rf"{source}.*entry 0: expected an object of names and values, found \[1"):
        evaluate(gt, [[1, 1, 0, 0, 5, 5, 0.5]] if source == "predictions" else dt)


def test_byte_order_mark(tmp_path):
    gt, dt = one()
    for name, content in (("gt", gt), ("dt", dt)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8-sig")
    assert evaluate(tmp_path / "gt.json", tmp_path / "dt.json")["AP"] == pytest.approx(1)


def test_two_categories_of_one_name_are_two_classes():
    """As in pycocotools, which knows only their ids."""
    gt, dt = load("single", "gt"), load("single", "dt")
    ids = sorted(category["id"] for category in gt["categories"])
    same = {**gt, "categories": [{"id": i, "name": "ship"} for i in ids]}
    expected, result = evaluate(gt, dt), evaluate(same, dt)
    assert list(result.per_class) == [f"ship ({i})" for i in ids]
    assert (result.metrics, result.by_size, result.calibration) == (
        expected.metrics,
        expected.by_size,
        expected.calibration,
    )
    assert result.errors == expected.errors
    assert list(result.per_class.values()) == list(expected.per_class.values())
    ours, theirs = (compare(dt[::2], dt, truth) for truth in (same, gt))
    assert ours == theirs


def test_names_that_only_look_alike_after_numbering():
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}, {"id": 5, "name": "a (2)"}, {"id": 6}]
    names = [c["name"] for c in load_inputs({"images": [], "annotations": [], "categories": categories}, []).categories]
    assert names == ["a (1)", "a (2) (2)", "a (2) (5)", "6"]


class TestImagesByName:
    gt: dict = {  # noqa: RUF012
        "images": [{"id": 7, "file_name": "a/one.png"}, {"id": 8, "file_name": "b/two.png"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 5]}],
        "categories": [{"id": 1, "name": "ship"}],
    }

    @pytest.mark.parametrize("key", [7, "a/one.png", "one.png", "one"])
    def test_found(self, key):
        detection = {"image_id": key, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}
        assert evaluate(self.gt, [detection])["APvt"] == pytest.approx(1)

    @pytest.mark.parametrize("key", ["0042", 42])
    def test_ultralytics_file(self, key):
        """Ultralytics writes the stem, as a number where it is one, and the file name; 42 is another image's id."""
        gt = {**self.gt, "images": [{"id": 7, "file_name": "0042.png"}, {"id": 42, "file_name": "x.png"}]}
        detection = {"image_id": key, "file_name": "0042.png", "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}
        assert evaluate(gt, [detection])["AP"] == pytest.approx(1)

    @pytest.mark.parametrize("key", ["three.png", None])
    def test_unknown(self, key):
        with pytest.raises(ValueError, match=f"predictions, entry 0: image_id {key!r} is none of the images 7, 8"):
            evaluate(self.gt, [{"image_id": key, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}])

    def test_ambiguous(self):
        gt = {**self.gt, "images": [{"id": 7, "file_name": "a/one.png"}, {"id": 8, "file_name": "b/one.png"}]}
        with pytest.raises(ValueError, match=r"image_id 'one\.png' fits 2 of the images 7, 8"):
            evaluate(gt, [{"image_id": "one.png", "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}])


class TestBadTruth:
    @pytest.mark.parametrize("what", ["images", "categories"])
    @pytest.mark.parametrize("bad", [None, [1], 0.5])
    def test_id(self, what, bad):
        gt = {**TestImagesByName.gt, what: [{"id": bad, "name": "ship"}]}
        with pytest.raises(ValueError, match=f"annotations: {what}, entry 0: id .* is no whole number and no text"):
            evaluate(gt, [])

    def test_repeated_category(self):
        gt = {**TestImagesByName.gt, "categories": [{"id": 1, "name": "ship"}, {"id": 1, "name": "car"}]}
        with pytest.raises(ValueError, match="annotations: categories: id 1 occurs 2 times, expected once"):
            evaluate(gt, [])

    def test_annotation_ids_are_not_needed(self):
        objects = [{k: v for k, v in SHIP.items() if k != "id"}] * 2
        gt = {**one()[0], "annotations": objects}
        assert evaluate(gt, []).num_objects == 2

    def test_repeated_id(self):
        gt = {**TestImagesByName.gt, "annotations": TestImagesByName.gt["annotations"] * 2}
        with pytest.raises(ValueError, match="annotations: annotations: id 1 occurs 2 times, expected once"):
            evaluate(gt, [])

    def test_unknown_image(self, tmp_path: Path):
        gt = {**TestImagesByName.gt, "images": []}
        (tmp_path / "gt.json").write_text(json.dumps(gt))
        with pytest.raises(ValueError, match=r"gt\.json, annotation 0: image_id 7 is none of the images"):
            evaluate(tmp_path / "gt.json", [])

    def test_annotation_id_zero_counts(self):
        """COCO's matcher takes object 0 for none."""
        gt = {**TestImagesByName.gt, "annotations": [{**TestImagesByName.gt["annotations"][0], "id": 0}]}
        detection = {"image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}
        assert evaluate(gt, [detection])["AP"] == pytest.approx(1)
