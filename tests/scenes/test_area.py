"""The area of interest in pixels, against points that are inside by construction."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rfla_yolo.scenes import Window
from rfla_yolo.scenes.area import Area
from rfla_yolo.scenes.georeference import Georeference

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("shapely")
SQUARE = [[[100, 100], [300, 100], [300, 300], [100, 300], [100, 100]]]
HOLE = [[150, 150], [150, 250], [250, 250], [250, 150], [150, 150]]


def write(path, geometry, **members):
    path.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": geometry, **members}))
    return path


def at(*points):
    return np.array([[x - 3, y - 2, x + 3, y + 2] for x, y in points], dtype=float)


def test_pixels_where_the_scene_has_no_crs(tmp_path):
    file = write(tmp_path / "a.geojson", {"type": "Polygon", "coordinates": [*SQUARE, HOLE]})
    area = Area(file, None)
    assert area.holds(at((110, 110), (200, 200), (99, 200), (260, 290))).tolist() == [True, False, False, True]
    windows = [Window(0, 0, 90, 90), Window(0, 0, 128, 128), Window(160, 160, 50, 50), Window(0, 0, 999, 999)]
    assert [area.touches(window) for window in windows] == [False, True, False, True]


def test_longitude_and_latitude_elsewhere(tmp_path):
    transform = rasterio.Affine.translation(5e5, 5e6) @ rasterio.Affine.rotation(20) @ rasterio.Affine.scale(30, -30)
    place = Georeference(rasterio.crs.CRS.from_epsg(32633).to_wkt(), tuple(transform)[:6])
    corners = place.to_lonlat(place.to_map(np.array(SQUARE[0], dtype=float)))
    file = write(tmp_path / "a.geojson", {"type": "Polygon", "coordinates": [corners.tolist()]})
    area = Area(file, place)
    inside = area.holds(at((101, 101), (299, 299), (200, 101), (200, 97), (97, 200), (303, 200), (200, 303)))
    assert inside.tolist() == [True] * 3 + [False] * 4


def test_the_whole_world_holds_every_scene_and_metres_are_refused(tmp_path):
    transform = (10.0, 0.0, 5e5, 0.0, -10.0, 5e6)
    place = Georeference(rasterio.crs.CRS.from_epsg(32633).to_wkt(), transform)
    for lon, lat in ((180, 90), (170, 80)):
        ring = [[-lon, -lat], [lon, -lat], [lon, lat], [-lon, lat], [-lon, -lat]]
        file = write(tmp_path / "a.geojson", {"type": "Polygon", "coordinates": [ring]})
        area = Area(file, place, (500, 400))
        assert area.touches(Window(0, 0, 10, 10)) and area.holds(at((5, 5), (495, 395))).all()
    ring = [[5e5, 4.9e6], [6e5, 4.9e6], [6e5, 5e6], [5e5, 4.9e6]]
    file = write(tmp_path / "a.geojson", {"type": "Polygon", "coordinates": [ring]})
    with pytest.raises(ValueError, match="which is no longitude and latitude; save it as GeoJSON in EPSG:4326"):
        Area(file, place, (500, 400))


def test_a_crs_without_a_way_to_the_earth(tmp_path):
    local = Georeference('LOCAL_CS["site",UNIT["metre",1]]')
    assert not local.on_earth
    file = write(tmp_path / "a.geojson", {"type": "Polygon", "coordinates": SQUARE})
    with pytest.raises(ValueError, match="to which the CRS of the scene has no way"):
        Area(file, local, (500, 400))
    ortho = Georeference(rasterio.crs.CRS.from_string("+proj=ortho +lat_0=10 +lon_0=20 +datum=WGS84").to_wkt())
    assert ortho.on_earth
    found = ortho.to_lonlat(np.array([[0.0, 0], [-7e6, 6.5e6]]))
    np.testing.assert_allclose(found[0], [20, 10])
    assert not np.isfinite(found[1]).any()


def test_several_polygons(tmp_path):
    second = [[[400, 0], [500, 0], [450, 90], [400, 0]]]
    many = {"type": "MultiPolygon", "coordinates": [SQUARE, second]}
    points = at((200, 200), (450, 20), (350, 50))
    assert Area(write(tmp_path / "a.geojson", many), None).holds(points).tolist() == [True, True, False]
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}} for rings in (SQUARE, second)
    ]
    (tmp_path / "b.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    assert Area(tmp_path / "b.geojson", None).holds(points).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nothing", "is no GeoJSON"),
        ("[1]", "is no GeoJSON"),
        ('{"type": "FeatureCollection", "features": [3]}', "is no GeoJSON of polygons"),
        ('{"type": "Feature", "geometry": "here"}', "is no GeoJSON of polygons"),
        ('{"type": "Polygon", "crs": "EPSG:4326"}', "is no GeoJSON of polygons"),
        ('{"type": "FeatureCollection", "features": []}', "holds no polygon"),
        ('{"type": "Point", "coordinates": [1, 2]}', "must hold polygons, not Point"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [9, 9], [0, 9], [9, 0], [0, 0]]]}', "Self-intersection"),
        ('{"type": "Polygon", "crs": {"properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}}', "is in urn.*32633"),
    ],
)
def test_what_is_no_area_is_refused(content, message, tmp_path):
    (tmp_path / "a.geojson").write_text(content)
    with pytest.raises(ValueError, match=message):
        Area(tmp_path / "a.geojson", None)
    with pytest.raises(FileNotFoundError, match="aoi: no such file"):
        Area(tmp_path / "b.geojson", None)
