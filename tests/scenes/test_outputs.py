"""Files that others read back: pyogrio, rasterio's transform, our own evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rfla_yolo.evaluation import evaluate
from rfla_yolo.scenes import Detections
from rfla_yolo.scenes.georeference import Georeference, rings, sides_m
from rfla_yolo.scenes.outputs import CocoJson, GeoJson, GeoPackage, YoloLabels
from rfla_yolo.scenes.source import Picture, open_source

from .conftest import NAMES

rasterio = pytest.importorskip("rasterio")
pyogrio = pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")
Affine = rasterio.Affine
PLACES = {
    "rotated UTM": {
        "crs": "EPSG:32633",
        "transform": Affine.translation(5e5, 5e6) @ Affine.rotation(33) @ Affine.scale(0.3, -0.3),
    },
    "degrees": {"crs": "EPSG:4326", "transform": Affine(2e-6, 0, 11.5, 0, -1.4e-6, 48.1)},
    "south": {"crs": "EPSG:32756", "transform": Affine(0.1, 0, 334000, 0, -0.1, 6252000)},
    "feet": {"crs": "EPSG:2263", "transform": Affine(0.5, 0, 985000, 0, -0.5, 210000)},
    "mirrored": {"crs": "EPSG:3857", "transform": Affine(0.5, 0, 1e6, 0, 0.5, 6e6)},
    "no CRS": {"transform": Affine(0.25, 0, 7000, 0, -0.25, 9000)},
    "nothing": {},
}


def boxes(number: int = 50) -> Detections:
    rng = np.random.default_rng(0)
    corner, side = rng.uniform(0, 900, (number, 2)), rng.uniform(2, 60, (number, 2))
    bbox = np.concatenate([corner, corner + side], 1)
    return Detections.of(bbox, rng.random(number), rng.integers(2, size=number), rng.random(number) < 0.2)


def write(output, path: Path, found: Detections):
    with open_source(path) as source:
        for part in (slice(0, 20), slice(20, 20), slice(20, 50)):
            output.add(source, found.take(np.arange(len(found))[part]))
        output.end(source)
    output.close()


def polygons(path: Path) -> tuple[dict, np.ndarray, dict[str, np.ndarray]]:
    meta, _, geometry, columns = pyogrio.raw.read(path)
    corners = np.stack([shapely.get_coordinates(g) for g in shapely.from_wkb(geometry)])
    assert corners.shape[1] == 5
    return meta, corners[:, :4], dict(zip(meta["fields"], columns))


def back(corners: np.ndarray, transform: Affine) -> np.ndarray:
    """Corners in map coordinates as px by rasterio's transform, sorted so that their order does not matter."""
    pixels = np.array([[~transform @ point for point in ring] for ring in corners.tolist()])
    return np.sort(pixels, axis=1)


@pytest.mark.parametrize("place", PLACES)
def test_map_layers_are_read_back_within_a_hundredth_of_a_pixel(place, write_tiff, tmp_path):
    found, options = boxes(), PLACES[place]
    path = write_tiff(np.ones((1000, 1000, 1), dtype=np.uint8), **options)
    write(GeoJson(tmp_path / "d.geojson", NAMES), path, found)
    write(GeoPackage(tmp_path / "d.gpkg", NAMES, 0), path, found)
    with rasterio.open(path) as file:
        transform, crs = file.transform, file.crs
    expected = np.sort(found.bbox[:, [0, 1, 0, 3, 2, 3, 2, 1]].reshape(-1, 4, 2), axis=1)

    meta, corners, columns = polygons(tmp_path / "d.gpkg")
    assert np.abs(back(corners, transform) - expected).max() < 0.01
    if crs:
        assert rasterio.crs.CRS.from_user_input(meta["crs"]) == crs
    assert columns["class"].tolist() == [NAMES[k] for k in found.label]
    np.testing.assert_allclose(columns["score"], found.score, atol=1e-6)
    np.testing.assert_array_equal(columns["cut"].astype(bool), found.cut)
    side = np.sqrt((found.bbox[:, 2:] - found.bbox[:, :2]).prod(1))
    np.testing.assert_allclose(columns["side_px"], side, atol=1e-3)

    _, lonlat, columns = polygons(tmp_path / "d.geojson")
    assert columns["class"].tolist() == [NAMES[k] for k in found.label]
    counterclockwise = [shapely.LinearRing(ring).is_ccw for ring in lonlat]
    assert all(counterclockwise)
    if crs:
        x, y = rasterio.warp.transform("EPSG:4326", crs, lonlat[..., 0].ravel(), lonlat[..., 1].ravel())
        lonlat = np.stack([x, y], 1).reshape(-1, 4, 2)
        metres = {"EPSG:32633": 0.3, "EPSG:32756": 0.1, "EPSG:2263": 0.5 * 0.3048006}.get(options["crs"])
        if metres:  # a map's scale is within 0.1 % there
            np.testing.assert_allclose(columns["side_m"], side * metres, rtol=1e-3, atol=1e-3)
    assert np.abs(back(lonlat, transform) - expected).max() < 0.01


def test_sides_in_metres_are_those_on_the_ellipsoid():
    for latitude in (0.0, 30.0, 60.0, -75.0):
        ring = np.array([[10.0, latitude], [10.0, latitude - 1e-4], [10.0003, latitude - 1e-4], [10.0003, latitude]])
        equal_area = f"+proj=laea +lat_0={latitude} +lon_0=10 +ellps=WGS84 +units=m"
        x, y = rasterio.warp.transform("EPSG:4326", equal_area, *ring.T)
        expected = np.sqrt(shapely.Polygon(zip(x, y)).area)
        assert sides_m(ring[None])[0] == pytest.approx(expected, rel=1e-6)


def test_a_ring_across_the_antimeridian_does_not_span_the_globe():
    ring = np.array([[[179.9999, 1.0], [179.9999, 0.9999], [-179.9999, 0.9999], [-179.9999, 1.0]]])
    assert np.ptp(rings(ring)[0, :, 0]) < 0.001


def test_points_come_back_from_the_map():
    place = Georeference(None, (0.3, 0.1, 500.0, 0.05, -0.3, 700.0))
    points = np.random.default_rng(0).uniform(0, 1000, (20, 2))
    np.testing.assert_allclose(place.to_pixels(place.to_map(points)), points)


def test_scenes_of_several_crs_get_a_layer_each(write_tiff, tmp_path):
    found, output = boxes(), GeoPackage(tmp_path / "d.gpkg", NAMES, 0)
    for number, crs in enumerate(["EPSG:32633", "EPSG:32634", "EPSG:32633"]):
        transform = PLACES["rotated UTM"]["transform"]
        path = write_tiff(np.ones((9, 9, 1), dtype=np.uint8), f"{number}.tif", crs=crs, transform=transform)
        with open_source(path) as source:
            output.add(source, found)
    output.close()
    layers = dict(pyogrio.list_layers(tmp_path / "d.gpkg").tolist())
    assert list(layers) == ["detections", "detections_2"]
    assert pyogrio.read_info(tmp_path / "d.gpkg", layer="detections")["features"] == 100
    assert pyogrio.read_info(tmp_path / "d.gpkg", layer="detections_2")["crs"] == "EPSG:32634"


def test_a_scene_without_detections_gives_empty_layers(write_tiff, tmp_path):
    path = write_tiff(np.ones((9, 9, 1), dtype=np.uint8), **PLACES["degrees"])
    write(GeoJson(tmp_path / "d.geojson", NAMES), path, Detections.empty())
    write(GeoPackage(tmp_path / "d.gpkg", NAMES, 0), path, Detections.empty())
    assert json.loads((tmp_path / "d.geojson").read_text())["features"] == []
    assert pyogrio.read_info(tmp_path / "d.gpkg")["features"] == 0


def test_evaluate_takes_the_predictions(tmp_path):
    found, source = boxes(), Picture(tmp_path / "a.png", np.zeros((1000, 1000, 3), dtype=np.uint8))
    output = CocoJson(tmp_path / "predictions.json")
    output.add(source, found)
    output.add(source, Detections.empty())
    output.close()
    xywh = np.concatenate([found.bbox[:, :2], found.bbox[:, 2:] - found.bbox[:, :2]], 1)
    truth = [
        {"id": i + 1, "image_id": 7, "category_id": int(k) + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, (k, box) in enumerate(zip(found.label, xywh.tolist()))
    ]
    gt = {"images": [{"id": 7, "file_name": "a.png"}], "annotations": truth}
    gt["categories"] = [{"id": 1, "name": "car"}, {"id": 2, "name": "ship"}]
    assert evaluate(gt, tmp_path / "predictions.json")["AP"] == pytest.approx(1.0)


def test_yolo_labels_are_shares_of_the_scene(tmp_path):
    source = Picture(tmp_path / "a.png", np.zeros((100, 200, 3), dtype=np.uint8))
    output = YoloLabels(tmp_path / "labels", scores=True)
    output.add(source, Detections.of([[10, 20, 30, 50]], [0.5], [1]))
    output.add(source, Detections.of([[0, 0, 200, 100]], [0.25], [0]))
    rows = [line.split() for line in (tmp_path / "labels" / "a.txt").read_text().splitlines()]
    assert [row[0] for row in rows] == ["1", "0"]
    np.testing.assert_allclose(np.array(rows, dtype=float)[0, 1:], [0.1, 0.35, 0.1, 0.3, 0.5])
