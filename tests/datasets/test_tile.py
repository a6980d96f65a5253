"""Tiles: windows, labels cut at borders, empty tiles, and the way back to whole images."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from rfla_yolo import evaluate
from rfla_yolo.cli import main
from rfla_yolo.datasets import merge_tiles, tile_dataset


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
    again = {p.name: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    run(big_set, "--empty", "0.5")
    assert again == {p.name: p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_detections_come_back_to_whole_images(big_set, capsys):
    """Perfect detections on tiles are perfect on the whole images, each object found once."""
    out = run(big_set, "--visible", "1")
    tiles = json.loads((out / "annotations/val.json").read_text())
    found = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.5 + a["id"] / 100}
        for a in tiles["annotations"]
    ]
    part = {"image_id": 1, "category_id": 2, "bbox": [30, 30, 18, 10], "score": 0.3}  # most of the plane, once more
    (big_set / "found.json").write_text(json.dumps([*found, part]))
    merged = big_set / "merged.json"
    main(["data", "merge", "--predictions", str(big_set / "found.json"), "--tiles", str(out), "--out", str(merged)])
    assert "rfla-yolo evaluate" in capsys.readouterr().out
    assert len(json.loads(merged.read_text())) == 4
    result = evaluate(out / "annotations/val_whole.json", merged)
    assert result["AP"] == pytest.approx(1)


def test_bad_input_is_named(big_set):
    out = run(big_set)
    with pytest.raises(ValueError, match=r"image_id 99 is no tile of val"):
        merge_tiles([{"image_id": 99, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}], out)
    with pytest.raises(FileNotFoundError, match="no such file"):
        merge_tiles([], big_set)
    for change, message in (
        ({"overlap": 60}, "overlap must be in px, from 0 to below size"),
        ({"size": 0}, "size must be a whole number"),
        ({"visible": 2}, "visible must be in 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            tile_dataset({}, [], big_set / "new", **{"size": 60, "overlap": 20, **change})
