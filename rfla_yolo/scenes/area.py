"""The area of interest: polygons of a GeoJSON file, in pixels of a scene."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .georeference import Georeference
from .windows import Window

STEP = 0.005  # degrees: straight lines of longitude and latitude are none in most maps


class Area:
    """Polygons in pixels of a scene.

    Args:
        file: GeoJSON of polygons: longitude and latitude, WGS 84, as RFC 7946 has it, or px where the scene has no CRS.
        place: Where the scene lies.
        size: Its width and height, px: polygons of longitude and latitude are cut to its surroundings first, as far
            ones may have no place in its CRS.
        scene: What messages call it.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If shapely is not installed.
        ValueError: If it is no GeoJSON of polygons, says that it is in another CRS, or is longitude and latitude, to
            which the scene has no way.
    """

    def __init__(
        self,
        file: str | Path,
        place: Georeference | None,
        size: tuple[int, int] | None = None,
        scene: str | Path = "the scene",
    ) -> None:
        try:
            import shapely
        except ImportError as error:
            raise ImportError(f"aoi needs shapely: pip install 'rfla-yolo[geo]' ({error})") from None
        self._shapely: Any = shapely
        content = _read(file)
        polygons = shapely.union_all([_polygon(shapely, part, file) for part in _parts(content, file)])
        if place and place.crs:
            if not place.on_earth:
                raise ValueError(f"aoi: {file} is longitude and latitude, to which the CRS of {scene} has no way")
            _check_degrees(shapely, polygons, file)
            polygons = _near(shapely, polygons, place, size) if size else polygons
            polygons = shapely.segmentize(polygons, STEP)
            polygons = shapely.transform(polygons, lambda xy: place.to_pixels(place.from_lonlat(xy)))
            if not np.isfinite(shapely.get_coordinates(polygons)).all():
                raise ValueError(f"aoi: {file} reaches beyond what the CRS of {scene} can show; cut it to the scene")
        elif content.get("crs"):
            raise ValueError(
                f"aoi: {file} names longitude and latitude as its CRS, and {scene} has none: give the scene its CRS, "
                "or polygons in px, in a file without the member 'crs'"
            )
        self._polygons = polygons
        shapely.prepare(polygons)

    def touches(self, window: Window) -> bool:
        """Return whether any of a tile lies inside."""
        left, top, width, height = window
        return bool(self._shapely.intersects(self._polygons, self._shapely.box(left, top, left + width, top + height)))

    def holds(self, bbox: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether the centres of boxes, xyxy px, (N, 4), lie inside, (N,)."""
        x, y = (bbox[:, :2] + bbox[:, 2:]).T / 2
        inside: NDArray[np.bool_] = self._shapely.intersects_xy(self._polygons, x, y)
        return inside


def _check_degrees(shapely: Any, polygons: Any, file: str | Path) -> None:
    left, bottom, right, top = shapely.bounds(polygons)
    if left < -360 or right > 360 or bottom < -90 or top > 90:
        raise ValueError(
            f"aoi: {file} reaches from {left:g}, {bottom:g} to {right:g}, {top:g}, which is no longitude and latitude; "
            "save it as GeoJSON in EPSG:4326"
        )


def _near(shapely: Any, polygons: Any, place: Georeference, size: tuple[int, int]) -> Any:
    """Return the part of polygons of longitude and latitude that lies about the scene."""
    grid = np.stack(np.meshgrid(*(np.linspace(0, side, 33) for side in size)), -1)
    lonlat = place.to_lonlat(place.to_map(grid)).reshape(-1, 2)
    lonlat = lonlat[np.isfinite(lonlat).all(1)]
    if np.ptp(lonlat[:, 0]) > 180:
        lonlat[:, 0] %= 360
    low, high = lonlat.min(0), lonlat.max(0)
    low, high = low - (high - low) / 8, high + (high - low) / 8
    if high[0] - low[0] > 180:  # a pole, or half of the earth
        return polygons
    boxes = [shapely.box(low[0] + turn, low[1], high[0] + turn, high[1]) for turn in (-360, 0, 360)]
    return shapely.intersection(polygons, shapely.union_all(boxes))


def _read(file: str | Path) -> dict[str, Any]:
    """Return the content of a GeoJSON file."""
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"aoi: no such file: {file}")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"aoi: {file} is no GeoJSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"aoi: {file} is no GeoJSON: it holds no object")
    return content


def _parts(content: dict[str, Any], file: str | Path) -> list[dict[str, Any]]:
    """Return the geometries of a GeoJSON file."""
    try:
        crs = str(((content.get("crs") or {}).get("properties") or {}).get("name", ""))
        features = content.get("features") if content.get("type") == "FeatureCollection" else [content]
        found = [f.get("geometry") if f.get("type") == "Feature" else f for f in features or []]
        parts = [part for geometry in found if geometry for part in geometry.get("geometries", [geometry])]
    except (AttributeError, TypeError) as error:
        raise ValueError(f"aoi: {file} is no GeoJSON of polygons: {error}") from None
    if crs and not crs.endswith(("CRS84", "EPSG::4326", "EPSG:4326")):
        raise ValueError(f"aoi: {file} is in {crs}; GeoJSON is longitude and latitude, WGS 84 (RFC 7946): save it so")
    if not parts:
        raise ValueError(f"aoi: {file} holds no polygon")
    return parts


def _polygon(shapely: Any, geometry: dict[str, Any], file: str | Path) -> Any:
    kind = geometry.get("type")
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"aoi: {file} must hold polygons, not {kind}")
    try:
        polygon = shapely.from_geojson(json.dumps(geometry))
    except shapely.errors.GEOSException as error:
        raise ValueError(f"aoi: {file}: {error}") from None
    polygon = shapely.force_2d(polygon)
    if not shapely.is_valid(polygon):
        raise ValueError(f"aoi: {file}: {shapely.is_valid_reason(polygon)}")
    return polygon
