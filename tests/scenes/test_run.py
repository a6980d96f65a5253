"""Runs over scenes: what is found, counted, written, killed and gone on with."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from rfla_yolo.scenes import Detections
from rfla_yolo.scenes.run import FILES, UNFINISHED, Tally, Tiling, run_scenes, scene_rows, written
from rfla_yolo.scenes.source import DamagedError, Picture, open_source

from .conftest import NAMES, detector, rectangles

rasterio = pytest.importorskip("rasterio")
pyogrio = pytest.importorskip("pyogrio")
UTM = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.3, 0, 5e5, 0, -0.3, 5e6)}
TILED = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
TILING = Tiling(tile=128, overlap=32, batch=4)
MADE_OF = {"weights": "stub"}


def found_boxes(out: Path) -> np.ndarray:
    found = np.array([d["bbox"] for d in json.loads((out / "predictions.json").read_text())]).reshape(-1, 4)
    found[:, 2:] += found[:, :2]
    return found[np.lexsort(found.T)]


def in_order(boxes: np.ndarray) -> np.ndarray:
    return boxes[np.lexsort(boxes.T)]


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_every_object_once_and_all_files(write_tiff, tmp_path):
    picture, boxes = rectangles(500, 300)
    reports = []
    path = write_tiff(picture, **TILED, **UTM)
    tally = run_scenes(
        [path],
        detector,
        tmp_path / "out",
        TILING,
        NAMES,
        MADE_OF,
        save_txt=True,
        report=lambda t: reports.append(t.done),
    )
    assert tally.text() == "40 objects on 15 tiles"
    assert reports == [5, 10, 15]
    np.testing.assert_array_equal(found_boxes(tmp_path / "out"), in_order(boxes))
    names = {"predictions.json", "detections.geojson", "detections.gpkg", "index.html", "labels/scene.txt"}
    assert names <= set(files(tmp_path / "out"))
    assert not (tmp_path / "out" / UNFINISHED).exists()
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<td>all</td><td>40</td>" in page.replace(" class=text", "")
    with pytest.raises(ValueError, match="holds a finished run: take another --out, or write over it by --overwrite"):
        run_scenes([path], detector, tmp_path / "out", TILING, NAMES, MADE_OF)
    run_scenes([path], detector, tmp_path / "out", TILING, NAMES, {"weights": "others"}, overwrite=True)


def test_tiles_without_a_valid_pixel_and_outside_of_the_area_are_not_detected(write_tiff, tmp_path):
    picture, boxes = rectangles(500, 500)
    picture[:260] = 0
    path = write_tiff(picture, nodata=0, **TILED)
    seen = []

    def counting(tiles):
        seen.append(len(tiles))
        return detector(tiles)

    tally = run_scenes([path], counting, tmp_path / "out", TILING, NAMES, MADE_OF)
    assert (tally.done, tally.empty, sum(seen)) == (25, 10, 15)
    whole = boxes[boxes[:, 1] >= 260]
    assert {tuple(box) for box in whole} <= {tuple(box) for box in found_boxes(tmp_path / "out")}

    ring = [[0, 0], [200, 0], [200, 500], [0, 500], [0, 0]]
    (tmp_path / "aoi.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    tiling = Tiling(tile=128, overlap=32, batch=4, aoi=tmp_path / "aoi.geojson")
    seen.clear()
    with pytest.warns(
        UserWarning, match=r"aoi: .*aoi.geojson is taken as px of .*scene.tif, which has no CRS$"
    ) as said:
        tally = run_scenes([path], counting, tmp_path / "in", tiling, NAMES, MADE_OF)
    assert len(said) == 1
    assert (tally.total, tally.outside, tally.empty) == (15, 10, 6)
    expected = found_boxes(tmp_path / "out")
    expected = expected[expected[:, ::2].mean(1) < 200]
    np.testing.assert_array_equal(found_boxes(tmp_path / "in"), expected)


def test_a_scene_without_objects_and_an_area_beside_it(write_tiff, tmp_path):
    path = write_tiff(np.ones((100, 100, 3), dtype=np.uint8), **UTM)
    tally = run_scenes([path], detector, tmp_path / "out", TILING, NAMES, MADE_OF)
    assert tally.text() == "0 objects on 1 tiles"
    assert {"detections.gpkg", "detections.geojson", "index.html"} <= set(files(tmp_path / "out"))
    ring = [[0, 0], [1, 0], [1, 1], [0, 0]]
    (tmp_path / "aoi.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    tiling = Tiling(tile=128, overlap=32, aoi=tmp_path / "aoi.geojson")
    with pytest.raises(ValueError, match=r"aoi: .*aoi.geojson touches no scene"):
        run_scenes([path], detector, tmp_path / "in", tiling, NAMES, MADE_OF)


def test_a_damaged_block_is_named_or_its_tiles_left_out(write_tiff, tmp_path):
    picture, boxes = rectangles(500, 500)
    path = write_tiff(picture, **TILED)
    with rasterio.open(path) as file:
        offset = int(file.get_tag_item("BLOCK_OFFSET_3_3", "TIFF", bidx=1))  # px 192 to 256
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * 32)
    message = (
        r"scene.tif: the window of 128 x 128 px at 96, 96 cannot be read: .*; --skip-bad-tiles leaves such tiles out"
    )
    with pytest.raises(DamagedError, match=message):
        run_scenes([path], detector, tmp_path / "out", TILING, NAMES, MADE_OF)
    tiling = Tiling(tile=128, overlap=32, batch=4, skip_bad_tiles=True)
    tally = run_scenes([path], detector, tmp_path / "skipped", tiling, NAMES, MADE_OF, save_txt=True)
    assert len((tmp_path / "skipped" / "labels" / "scene.txt").read_text().splitlines()) == tally.objects.total() > 0
    assert len(tally.damaged) == 4 and tally.read == 21
    assert "128 x 128 px at 192, 96 cannot be read" in tally.text()
    far = boxes[(boxes[:, 2:] < 96).any(1) | (boxes[:, :2] > 320).any(1)]
    assert {tuple(box) for box in far} <= {tuple(box) for box in found_boxes(tmp_path / "skipped")}


def test_pictures_of_a_folder(tmp_path):
    expected = {}
    for name, size in {"a.png": (300, 200), "sub/b.png": (90, 70), "sub/a.png": (200, 300)}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture, boxes = rectangles(*size, 8)
        cv2.imwrite(str(tmp_path / name), picture[..., ::-1])
        expected[name] = boxes
    tally = run_scenes([tmp_path / n for n in expected], detector, tmp_path / "out", TILING, NAMES, MADE_OF)
    assert dict(tally.objects) == dict.fromkeys(expected, 8)
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    for name, boxes in expected.items():
        found = np.array([entry["bbox"] for entry in entries if entry["image_id"] == name])
        np.testing.assert_array_equal(in_order(found[:, :2]), in_order(boxes[:, :2]))
    assert not (tmp_path / "out" / "detections.gpkg").exists()


def frames(folder: Path, number: int = 11) -> list[Path]:
    paths = [folder / f"{i:02d}.png" for i in range(number)]
    for seed, path in enumerate(paths):
        picture, _ = rectangles(*((128, 128) if seed % 5 else (150, 140)), seed + 1, seed)
        cv2.imwrite(str(path), picture[..., ::-1])
    return paths


def test_frames_that_are_a_tile_each_share_batches(tmp_path):
    sizes = []

    def counting(tiles):
        sizes.append(len(tiles))
        return detector(tiles)

    paths = frames(tmp_path)
    tally = run_scenes(paths, counting, tmp_path / "out", TILING, NAMES, MADE_OF)
    assert sizes == [4] * 5  # of 4, 1, 1, 1, 1, 4, 1, 1, 1, 1 and 4 tiles
    assert [tally.objects[path.name] for path in paths] == list(range(1, 12))
    one = run_scenes(paths[3:4], detector, tmp_path / "one", TILING, NAMES, MADE_OF)
    assert one.objects[paths[3].name] == 4


@pytest.mark.parametrize("calls", range(5))
def test_frames_that_were_interrupted_go_on_in_the_same_batches(calls, tmp_path):
    """The detector adds to what it finds how many tiles it was given: another batch would show in the files."""

    def of_batch(tiles):
        return [Detections(d.bbox, d.score - len(tiles) / 100, d.label, d.cut) for d in detector(tiles)]

    left = [calls]

    def interrupted(tiles):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return of_batch(tiles)

    paths = frames(tmp_path)
    run_scenes(paths, of_batch, tmp_path / "whole", TILING, NAMES, MADE_OF)
    with pytest.raises(KeyboardInterrupt):
        run_scenes(paths, interrupted, tmp_path / "out", TILING, NAMES, MADE_OF)
    assert (tmp_path / "out" / UNFINISHED / "journal").exists()
    run_scenes(paths, of_batch, tmp_path / "out", TILING, NAMES, MADE_OF)
    one, other = ((tmp_path / name / "predictions.json").read_bytes() for name in ("whole", "out"))
    assert one == other


def test_tiles_that_reach_the_limit_are_named():
    picture, _ = rectangles(128, 128, 30)
    tally = Tally()
    list(scene_rows(Picture(Path("a"), picture), detector, Tiling(tile=128, overlap=0, max_det=30), tally))
    assert tally.full == ["a: the window of 128 x 128 px at 0, 0"]
    assert "at 0, 0: has reached the limit of detections (--max-det " in tally.text()


def test_the_score_is_applied_after_merging():
    """Two tiles see three objects with scores about the threshold: the tile where each lies deeper decides."""
    boxes = np.array([[100, 20, 110, 30], [114, 60, 124, 70], [116, 90, 126, 100]])  # tiles: 0 to 128 and 96 to 224
    scores = {0: [0.2, 0.4, 0.2], 96: [0.4, 0.2, 0.4]}

    def detector(images):
        lefts = [int(image[0, 0, 0]) for image in images]
        return [Detections.of(boxes - [left, 0, left, 0], scores[left], [0, 0, 1]) for left in lefts]

    picture = np.arange(224, dtype=np.uint8)[None, :, None].repeat(128, 0).repeat(3, 2)
    for conf, expected, full in (((), [100, 114, 116], 2), ([0.3, 0.3], [116], 1), ([0.1, 0.5], [100, 114], 2)):
        tally = Tally()
        tiling = Tiling(tile=128, overlap=32, conf=conf, max_det=2)
        (found,) = scene_rows(Picture(Path("a"), picture), detector, tiling, tally)
        assert sorted(found.bbox[:, 0].tolist()) == expected
        assert len(tally.full) == full


def test_rows_come_as_soon_as_they_are_settled(write_tiff):
    picture, boxes = rectangles(128, 1000)
    with open_source(write_tiff(picture)) as source:
        rows = list(scene_rows(source, detector, TILING))
    assert len(rows) == 11
    assert len(rows[0]) > 0
    np.testing.assert_array_equal(in_order(np.concatenate([row.bbox for row in rows])), in_order(boxes))


def test_files_of_others_stay_and_those_of_an_earlier_run_go(write_tiff, tmp_path):
    path, out = write_tiff(rectangles(200, 100, 8)[0], **UTM), tmp_path / "out"
    for name in ("labels/mine.txt", "annotated/mine.jpg", "densest.png", "predictions.json", "detections.gpkg"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("mine")
        for overwrite in (False, True):
            message = rf"{name} was not written by predict.*take another --out, or remove it if it is of an old version"
            with pytest.raises(ValueError, match=message):
                run_scenes([path], detector, out, TILING, NAMES, MADE_OF, overwrite=overwrite)
        assert (out / name).read_text() == "mine"
        (out / name).unlink()
    (out / "notes.md").write_text("mine")
    run_scenes([path], detector, out, TILING, NAMES, MADE_OF, save_txt=True)
    every = {file.relative_to(out) for name in FILES for file in out.glob(name)}
    assert {Path(file.relative_to(out).parts[0]) for file in written(out)} == every - {Path("annotated")}
    assert "labels/scene.txt" in files(out)
    picture = tmp_path / "p.png"
    cv2.imwrite(str(picture), rectangles(90, 70, 3)[0])
    run_scenes([picture], detector, out, TILING, NAMES, MADE_OF, overwrite=True)
    assert set(files(out)) == {"notes.md", *(str(file.relative_to(out)) for file in written(out))}
    assert not {"detections.gpkg", "detections.geojson", "labels/scene.txt"} & set(files(out))
    (out / "labels").mkdir()
    (out / "labels" / "later.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"labels/later.txt was not written by predict"):
        run_scenes([picture], detector, out, TILING, NAMES, MADE_OF, overwrite=True)


def test_pictures_that_differ_by_their_suffix_get_files_of_their_own(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "a.bmp", tmp_path / "a.png.bmp"]
    for seed, path in enumerate(paths):
        cv2.imwrite(str(path), rectangles(90, 70, seed + 1, seed)[0][..., ::-1])
    run_scenes(paths, detector, tmp_path / "out", TILING, NAMES, MADE_OF, save_txt=True)
    lines = [len((tmp_path / "out" / "labels" / f"{path.name}.txt").read_text().splitlines()) for path in paths]
    assert lines == [1, 2, 3]


def test_one_process_at_a_time(write_tiff, tmp_path):
    path = write_tiff(rectangles(300, 500)[0])

    def second(tiles):
        with pytest.raises(ValueError, match=r"out: another process is writing into this folder"):
            run_scenes([path], detector, tmp_path / "out", TILING, NAMES, MADE_OF)
        return detector(tiles)

    run_scenes([path], second, tmp_path / "out", TILING, NAMES, MADE_OF)
    assert len(found_boxes(tmp_path / "out")) == 40


def test_a_run_does_not_go_on_where_a_file_behind_the_scene_has_changed(write_tiff, tmp_path):
    under = write_tiff(rectangles(300, 300)[0], "under.tif")
    (tmp_path / "scene.vrt").write_text(
        '<VRTDataset rasterXSize="300" rasterYSize="300"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">under.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )

    def failing(tiles):
        raise RuntimeError("killed")

    for path, behind in ((tmp_path / "scene.vrt", under), (under, tmp_path / "under.tif.msk")):
        out = tmp_path / f"out-{path.name}"
        with pytest.raises(RuntimeError):
            run_scenes([path], failing, out, TILING, NAMES, MADE_OF)
        if behind.exists():
            behind.touch()
        else:
            with rasterio.open(under, "r+") as file:
                file.write_mask(True)
        with pytest.raises(ValueError, match="was begun otherwise: source was"):
            run_scenes([path], detector, out, TILING, NAMES, MADE_OF)


def test_the_border_of_the_area_cuts_and_that_of_the_scene_does_not(tmp_path):
    picture = np.zeros((128, 400, 3), dtype=np.uint8)
    picture[20:30, :20] = picture[60:70, 60:140] = 200  # at the scene's border, and over that of the only tile left
    ring = [[0, 0], [95, 0], [95, 128], [0, 128], [0, 0]]
    (tmp_path / "aoi.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    tiling = Tiling(tile=128, overlap=32, aoi=tmp_path / "aoi.geojson")
    found = next(scene_rows(Picture(Path("a"), picture), detector, tiling))
    assert found.bbox.tolist() == [[0, 20, 20, 30], [60, 60, 128, 70]] and found.cut.tolist() == [False, True]


OFF_THE_MAP = {
    "local": 'LOCAL_CS["site",UNIT["metre",1]]',
    "moon": "+proj=eqc +lat_ts=0 +lon_0=0 +R=1737400 +units=m",
    "moon by name": "IAU_2015:30110",
}


@pytest.mark.parametrize("kind", OFF_THE_MAP)
def test_scenes_that_are_not_of_the_earth(kind, write_tiff, tmp_path):
    transform = rasterio.Affine(2, 0, 1000, 0, -2, 5000)
    picture, boxes = rectangles(300, 200)
    path = write_tiff(picture, crs=OFF_THE_MAP[kind], transform=transform)
    message = (
        r"scene.tif: its CRS has no way to longitude and latitude: detections.geojson is not written, side_m is empty"
    )
    with pytest.warns(UserWarning, match=message):
        run_scenes([path], detector, tmp_path / "out", TILING, NAMES, MADE_OF)
    np.testing.assert_array_equal(found_boxes(tmp_path / "out"), in_order(boxes))
    assert not (tmp_path / "out" / "detections.geojson").exists()
    meta, _, _, columns = pyogrio.raw.read(tmp_path / "out" / "detections.gpkg")
    metres = dict(zip(meta["fields"], columns))["side_m"]
    assert len(metres) == len(boxes) and np.isnan(metres).all()

    earth = write_tiff(picture, "earth.tif", **UTM)
    with pytest.warns(UserWarning, match=r"scene.tif: its CRS .*: detections.geojson leaves it out, side_m is empty"):
        run_scenes([path, earth], detector, tmp_path / "both", TILING, NAMES, MADE_OF)
    features = json.loads((tmp_path / "both" / "detections.geojson").read_text())["features"]
    assert [feature["properties"]["image"] for feature in features] == ["earth.tif"] * len(boxes)

    ring = [[0, 0], [1, 0], [1, 1], [0, 0]]
    (tmp_path / "aoi.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    tiling = replace(TILING, aoi=tmp_path / "aoi.geojson")
    with pytest.raises(ValueError, match=r"aoi: .*longitude and latitude, to which the CRS of .*scene.tif has no way"):
        run_scenes([path], detector, tmp_path / "in", tiling, NAMES, MADE_OF)


def test_a_scene_that_shows_more_than_the_earth(write_tiff, tmp_path):
    crs, transform = "+proj=ortho +lat_0=10 +lon_0=20 +datum=WGS84", rasterio.Affine(20_000, 0, -7e6, 0, -25_000, 6.5e6)
    picture, boxes = rectangles(700, 500)
    path = write_tiff(picture, crs=crs, transform=transform)
    run_scenes([path], detector, tmp_path / "out", TILING, NAMES, MADE_OF)
    np.testing.assert_array_equal(found_boxes(tmp_path / "out"), in_order(boxes))
    features = len(json.loads((tmp_path / "out" / "detections.geojson").read_text())["features"])
    meta, _, _, columns = pyogrio.raw.read(tmp_path / "out" / "detections.gpkg")
    metres = dict(zip(meta["fields"], columns))["side_m"]
    assert len(metres) == len(boxes) and np.isfinite(metres).sum() == features
    assert 0 < features < len(boxes)


def test_an_area_is_px_where_the_scene_has_no_crs_and_the_file_names_none(write_tiff, tmp_path):
    path = write_tiff(rectangles(300, 200)[0], transform=rasterio.Affine(2, 0, 1000, 0, -2, 5000))
    area = {"type": "Polygon", "coordinates": [[[0, 0], [150, 0], [150, 200], [0, 200], [0, 0]]]}
    tiling = replace(TILING, aoi=tmp_path / "aoi.geojson")
    (tmp_path / "aoi.geojson").write_text(json.dumps(area))
    picture = tmp_path / "p.png"
    cv2.imwrite(str(picture), np.zeros((90, 70, 3), dtype=np.uint8))
    with pytest.warns(UserWarning, match=r"is taken as px of .*scene.tif and 1 more, which have no CRS$") as said:
        run_scenes([path, picture], detector, tmp_path / "out", tiling, NAMES, MADE_OF)
    assert len(said) == 1
    found = found_boxes(tmp_path / "out")
    assert len(found) > 0 and (found[:, ::2].mean(1) < 150).all()
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}
    (tmp_path / "aoi.geojson").write_text(json.dumps({**area, "crs": crs}))
    with pytest.raises(ValueError, match=r"aoi: .* names longitude and latitude as its CRS, and .*scene.tif has none"):
        run_scenes([path], detector, tmp_path / "in", tiling, NAMES, MADE_OF)


def test_a_truncated_picture_is_left_out(tmp_path):
    picture, boxes = rectangles(300, 200, 8)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), picture[..., ::-1])
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:20_000])
    paths, tiling = [tmp_path / "a.png", tmp_path / "b.png"], Tiling(tile=128, overlap=32, skip_bad_tiles=True)
    with pytest.raises(DamagedError, match=r"a.png: image cannot be read.*--skip-bad-tiles"):
        run_scenes(paths, detector, tmp_path / "out", TILING, NAMES, MADE_OF)
    tally = run_scenes(paths, detector, tmp_path / "skipped", tiling, NAMES, MADE_OF, save_txt=True)
    assert len(tally.damaged) == 6 and tally.objects["b.png"] == len(boxes)
    assert [path.name for path in (tmp_path / "skipped" / "labels").iterdir()] == ["b.txt"]
    run_scenes(paths[:1], detector, tmp_path / "none", tiling, NAMES, MADE_OF, save_txt=True)
    assert (tmp_path / "none" / "index.html").exists() and not (tmp_path / "none" / "labels").exists()


def test_a_raster_whose_first_tiles_cannot_be_read_has_labels_and_one_without_any_has_none(write_tiff, tmp_path):
    picture, boxes = rectangles(64, 256)
    for name, blocks in (("part.tif", 2), ("none.tif", 4)):
        path = write_tiff(picture, name, **TILED)
        with rasterio.open(path) as file:
            offsets = [int(file.get_tag_item(f"BLOCK_OFFSET_0_{row}", "TIFF", bidx=1)) for row in range(blocks)]
        with path.open("r+b") as file:
            for offset in offsets:
                file.seek(offset)
                file.write(b"\0" * 32)
    tiling, paths = (
        replace(TILING, tile=64, overlap=0, skip_bad_tiles=True),
        [tmp_path / "part.tif", tmp_path / "none.tif"],
    )
    tally = run_scenes(paths, detector, tmp_path / "out", tiling, NAMES, MADE_OF, save_txt=True)
    assert (tally.done, tally.read) == (8, 2) and len(tally.damaged) == 6
    assert [path.name for path in (tmp_path / "out" / "labels").iterdir()] == ["part.txt"]
    whole = boxes[(boxes[:, 1] >= 128) & (boxes[:, 1] // 64 == (boxes[:, 3] - 1) // 64)]
    assert {tuple(box) for box in whole} <= {tuple(box) for box in found_boxes(tmp_path / "out")}
    assert {"detections.gpkg", "detections.geojson"} <= set(files(tmp_path / "out"))


def test_a_picture_without_an_object_has_an_empty_label_file(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((90, 70, 3), dtype=np.uint8))
    tiling = replace(TILING, skip_bad_tiles=True)
    run_scenes([tmp_path / "a.png"], detector, tmp_path / "out", tiling, NAMES, MADE_OF, save_txt=True)
    assert (tmp_path / "out" / "labels" / "a.txt").read_text() == ""


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 30, b"II*\0" + b"\xff" * 30])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_file_that_is_no_picture_is_left_out_and_counted(content, suffix, tmp_path):
    cv2.imwrite(str(tmp_path / "b.png"), rectangles(300, 200, 8)[0][..., ::-1])
    (tmp_path / f"a.{suffix}").write_bytes(content)
    paths = [tmp_path / f"a.{suffix}", tmp_path / "b.png"]
    with pytest.raises(DamagedError, match=rf"a.{suffix}: is no .* that .*--skip-bad-tiles leaves such"):
        run_scenes(paths, detector, tmp_path / "out", TILING, NAMES, MADE_OF)
    tiling = replace(TILING, skip_bad_tiles=True)
    tally = run_scenes(paths, detector, tmp_path / "out", tiling, NAMES, MADE_OF)
    assert tally.text().splitlines()[0] == "8 objects on 6 tiles, 1 scenes that cannot be read"
    assert f"a.{suffix}: is no" in tally.text().splitlines()[1]
    with pytest.raises(DamagedError, match=r"source: no scene can be read: .*is no"):
        run_scenes(paths[:1], detector, tmp_path / "none", tiling, NAMES, MADE_OF)


def test_what_needs_a_setting_is_no_damage(write_tiff, tmp_path):
    path = write_tiff(np.ones((50, 50, 1), dtype=np.uint16))
    with pytest.raises(ValueError, match="give --stretch"):
        run_scenes([path], detector, tmp_path / "out", replace(TILING, skip_bad_tiles=True), NAMES, MADE_OF)


RUN = """
import os, signal, sys
from pathlib import Path
from rfla_yolo.scenes import run
from tests.scenes.conftest import NAMES, detector

path, out, calls, moves = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
left = {"calls": calls, "moves": moves}

def killed(what, function):
    def wrapped(*arguments):
        left[what] -= 1
        if left[what] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return wrapped

os.replace = killed("moves", os.replace)
tiling = run.Tiling(tile=128, overlap=32, batch=4)
run.run_scenes([path], killed("calls", detector), out, tiling, NAMES, {"weights": "stub"})
"""


def run_killed(path, out, calls, moves):
    """Run in a process of its own that is killed after so many calls of the detector or moves of files."""
    command = [sys.executable, "-c", RUN, str(path), str(out), str(calls), str(moves)]
    return subprocess.run(command, cwd=Path(__file__).parents[2]).returncode


def test_killed_at_random_moments_and_started_again_gives_the_same_files(write_tiff, tmp_path):
    picture, _ = rectangles(500, 900, 120)
    path = write_tiff(picture, **TILED, **UTM)
    rng = random.Random()  # other moments in every run
    moments = [(rng.randint(1, 6), 99), (rng.randint(1, 6), 99), (99, rng.randint(0, 6)), (99, 99)]
    assert (
        run_killed(path, tmp_path / "whole", 99, 99) == 0
    )  # a process like theirs: the style of figures is a process's
    codes = [run_killed(path, tmp_path / "killed", *moment) for moment in moments]
    assert codes == [-signal.SIGKILL] * 3 + [0], moments
    assert files(tmp_path / "killed") == files(tmp_path / "whole"), moments


def test_a_run_goes_on_only_with_the_same_scene_and_settings(write_tiff, tmp_path):
    path = write_tiff(rectangles(300, 500)[0])
    calls = []

    def failing(tiles):
        calls.append(len(tiles))
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return detector(tiles)

    with pytest.raises(RuntimeError, match="out of memory"):
        run_scenes([path], failing, tmp_path / "out", TILING, NAMES, MADE_OF)
    others = [(Tiling(tile=128, overlap=16, batch=4), MADE_OF, "overlap was 32 and is 16")]
    others += [(TILING, {"weights": "others"}, "weights was 'stub' and is 'others'")]
    for tiling, made_of, message in others:
        with pytest.raises(ValueError, match=message):
            run_scenes([path], detector, tmp_path / "out", tiling, NAMES, made_of)
    path.touch()
    with pytest.raises(ValueError, match="source was"):
        run_scenes([path], detector, tmp_path / "out", TILING, NAMES, MADE_OF)
    assert sum(calls) > 4
