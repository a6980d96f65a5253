"""Pixels of a scene on the map: its own coordinates, longitude and latitude, metres."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WGS84 = "OGC:CRS84"  # longitude, latitude
SEMI_MAJOR, ECCENTRICITY2 = 6_378_137.0, 0.00669437999014  # of WGS 84's ellipsoid: m, squared
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Georeference:
    """Where the pixels of a scene lie.

    Attributes:
        crs: Coordinate reference system as WKT; None where the file names none.
        transform: a, b, c, d, e, f of x = a * column + b * row + c, y = d * column + e * row + f.
    """

    crs: str | None
    transform: tuple[float, ...] = IDENTITY

    def to_map(self, xy: Floats) -> Floats:
        """Return map coordinates of points in px, (..., 2)."""
        a, b, c, d, e, f = self.transform
        return xy @ np.array([[a, d], [b, e]]) + (c, f)

    def to_pixels(self, xy: Floats) -> Floats:
        """Return px of points in map coordinates, (..., 2)."""
        a, b, c, d, e, f = self.transform
        moved: Floats = (xy - (c, f)) @ np.linalg.inv(np.array([[a, d], [b, e]]))
        return moved

    def corners(self, bbox: Floats) -> Floats:
        """Return the corners of boxes, xyxy px, (N, 4), in map coordinates: top left, bottom left, ..., (N, 4, 2)."""
        return self.to_map(bbox[:, [0, 1, 0, 3, 2, 3, 2, 1]].reshape(-1, 4, 2))

    def to_lonlat(self, xy: Floats) -> Floats:
        """Return longitude and latitude, WGS 84, of points in map coordinates, (..., 2); needs a CRS."""
        return _transform(self._parsed, WGS84, xy)

    def from_lonlat(self, lonlat: Floats) -> Floats:
        """Return map coordinates of points given by longitude and latitude, WGS 84, (..., 2); needs a CRS."""
        return _transform(WGS84, self._parsed, lonlat)

    @cached_property
    def on_earth(self) -> bool:
        """Whether its CRS has a way to longitude and latitude: local ones and those of other planets have none."""
        from rasterio._err import CPLE_NotSupportedError

        try:
            self.to_lonlat(np.array([[self.transform[2], self.transform[5]]]))
        except CPLE_NotSupportedError:
            return False
        return True

    @property
    def mappable(self) -> bool:
        """Whether GeoJSON can hold it: in longitude and latitude or, without a CRS, as it is."""
        return not self.crs or self.on_earth

    @cached_property
    def _parsed(self) -> object:
        from rasterio.crs import CRS

        return CRS.from_wkt(self.crs)


def rings(lonlat: Floats) -> Floats:
    """Return quadrilaterals of longitude and latitude, (N, 4, 2), as RFC 7946 has them: counterclockwise.

    Those that span the antimeridian go on beyond 180 degrees.
    """
    lonlat = lonlat.copy()
    lon = lonlat[..., 0]
    wide = np.ptp(lon, axis=1) > 180
    lon[wide] += 360 * (lon[wide] < 0)
    clockwise = _shoelace(lonlat - lonlat[:, :1]) < 0
    lonlat[clockwise] = lonlat[clockwise, ::-1]
    return lonlat


def sides_m(lonlat: Floats) -> Floats:
    """Return the square roots of the areas of small quadrilaterals on the ellipsoid, (N, 4, 2) -> (N,), m."""
    latitude = np.radians(lonlat[..., 1].mean(1))
    bend = 1 - ECCENTRICITY2 * np.sin(latitude) ** 2
    meridian, normal = SEMI_MAJOR * (1 - ECCENTRICITY2) / bend**1.5, SEMI_MAJOR / np.sqrt(bend)
    scale = np.stack([normal * np.cos(latitude), meridian], 1)
    sides: Floats = np.sqrt(np.abs(_shoelace(np.radians(lonlat - lonlat[:, :1]) * scale[:, None])))
    return sides


def _shoelace(ring: Floats) -> Floats:
    """Return the signed areas of polygons, (N, P, 2)."""
    x, y = ring[..., 0], ring[..., 1]
    area: Floats = (x * np.roll(y, -1, 1) - np.roll(x, -1, 1) * y).sum(1) / 2
    return area


def _transform(source: object, target: object, xy: Floats) -> Floats:
    from rasterio._err import CPLE_BaseError, CPLE_NotSupportedError
    from rasterio.warp import transform

    points = xy.reshape(-1, 2)
    try:
        found = np.array(transform(source, target, points[:, 0], points[:, 1])).T
    except CPLE_NotSupportedError:  # the CRS, not a point
        raise
    except CPLE_BaseError:
        if len(points) == 1:  # off the earth, or beyond what the CRS can show
            return np.full(xy.shape, np.inf)
        half = len(points) // 2
        found = np.concatenate([_transform(source, target, points[:half]), _transform(source, target, points[half:])])
    return found.reshape(xy.shape)
