"""Images and categories of COCO ground truth, found for the files and classes of a dataset."""

from __future__ import annotations

import pytest

from rfla_yolo.datasets.truth import match_categories, match_images


def coco(*names):
    return {"images": [{"id": i, "file_name": name} for i, name in enumerate(names, start=1)]}


@pytest.mark.parametrize(
    ("entries", "files", "ids"),
    [
        (["a.jpg", "b.jpg"], ["/x/b.jpg", "/x/a.jpg"], [2, 1]),
        (["val/a.jpg"], ["/x/./a.jpg"], [1]),  # other folders, but the only one of its name
        (["1/a.jpg", "./2/a.jpg"], ["/x/2/a.jpg", "/x/1/a.jpg"], [2, 1]),
    ],
)
def test_images_by_name_and_folder(entries, files, ids):
    found = match_images(coco(*entries), files, "truth")
    assert list(found) == files and [image["id"] for image in found.values()] == ids


@pytest.mark.parametrize(
    ("entries", "files", "message"),
    [
        (["a.jpg"], ["/x/b.jpg"], r"truth: 0 entries for image /x/b\.jpg, expected 1"),
        (["1/a.jpg", "2/a.jpg"], ["/x/3/a.jpg"], r"truth: 0 entries for image /x/3/a\.jpg"),
        (["a.jpg", "a.jpg"], ["/x/a.jpg"], r"truth: 2 entries for image /x/a\.jpg"),
        (["a.jpg"], ["/x/1/a.jpg", "/x/2/a.jpg"], r"a\.jpg stands for /x/1/a\.jpg and /x/2/a\.jpg, expected 1 file"),
    ],
)
def test_images_that_cannot_be_told_are_named(entries, files, message):
    with pytest.raises(ValueError, match=message):
        match_images(coco(*entries), files, "truth")


def test_categories_by_name_or_else_by_order():
    truth = {"categories": [{"id": 9, "name": "ship"}, {"id": 4, "name": "plane"}]}
    assert match_categories(truth, {0: "ship"}, "truth") == {0: 9}
    assert match_categories(truth, {0: "avion", 1: "bateau"}, "truth") == {0: 4, 1: 9}
    with pytest.raises(ValueError, match=r"truth: categories \['plane', 'ship'\] are not the classes \['car'\]"):
        match_categories(truth, {0: "car"}, "truth")


def test_categories_of_one_name_are_told_by_order_alone():
    truth = {"categories": [{"id": 7, "name": "ship"}, {"id": 3, "name": "ship"}, {"id": 9, "name": "plane"}]}
    assert match_categories(truth, {0: "ship", 1: "ship", 2: "Plane"}, "truth") == {0: 3, 1: 7, 2: 9}
    with pytest.raises(ValueError, match="are not the classes"):
        match_categories(truth, {0: "plane", 1: "ship", 2: "ship"}, "truth")
    with pytest.raises(ValueError, match="are not the classes"):
        match_categories(truth, {0: "ship"}, "truth")


def test_names_that_agree_in_part_are_no_order():
    """By order, b would be A: a swap of all classes for one letter of case, or of two for one misspelled."""
    truth = {"categories": [{"id": 1, "name": "b"}, {"id": 2, "name": "a"}]}
    assert match_categories(truth, {0: "A", 1: "b"}, "truth") == {0: 2, 1: 1}
    with pytest.raises(ValueError, match=r"categories \['b', 'a'\] are not the classes \['aa', 'b'\]"):
        match_categories(truth, {0: "aa", 1: "b"}, "truth")
