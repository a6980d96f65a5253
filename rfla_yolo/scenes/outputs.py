"""What a run writes, some detections at a time: map layers, COCO JSON, YOLO labels."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from .detections import Detections
from .georeference import Floats, rings, sides_m
from .source import Source

BATCH = 20_000  # detections that a GeoPackage takes at once
POLYGON = np.dtype([("order", "u1"), ("type", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("xy", "<f8", (5, 2))])


class Output:
    """Takes the detections of one scene after the other, and is closed at the end.

    Attributes:
        a_file_each: Whether it writes a file for each scene, which says that it was looked at: such outputs are not
            given scenes of which no tile could be read.
    """

    a_file_each = False

    def add(self, source: Source, found: Detections) -> None:
        """Take more detections of a scene."""
        raise NotImplementedError

    def end(self, source: Source) -> None:
        """Take note that a scene has no more."""

    def close(self) -> None:
        """Write what is left."""


class JsonOutput(Output):
    """Writes a JSON file of many entries, some at a time.

    Args:
        path: The file.
        head: What comes before the entries.
        tail: What comes after them.
    """

    def __init__(self, path: Path, head: str, tail: str) -> None:
        self._file: TextIO = path.open("w", encoding="utf-8")
        self._file.write(head)
        self._tail, self._separator = tail, "\n"

    def write(self, entries: Sequence[str]) -> None:
        """Write entries."""
        if entries:
            self._file.write(self._separator + ",\n".join(entries))
            self._separator = ",\n"

    def close(self) -> None:
        """End the file."""
        self._file.write(self._tail)
        self._file.close()


class GeoJson(JsonOutput):
    """``detections.geojson`` after RFC 7946: longitude and latitude, WGS 84, rings counterclockwise.

    Of scenes without a CRS it holds the coordinates of their geotransform, px where they have none; pictures are left
    out.

    Args:
        path: The file.
        names: Class names by index.
    """

    def __init__(self, path: Path, names: Mapping[int, str]) -> None:
        super().__init__(path, '{"type": "FeatureCollection", "features": [', "\n]}\n")
        self._names = {label: json.dumps(name) for label, name in names.items()}

    def add(self, source: Source, found: Detections) -> None:
        """Write detections."""
        if source.place is None or not source.place.mappable:
            return
        corners = source.place.corners(found.bbox)
        if source.place.crs:
            lonlat = source.place.to_lonlat(corners)
            there = np.asarray(np.isfinite(lonlat).all((1, 2)))  # some projections show what is beyond the earth
            found, lonlat = found.take(there), lonlat[there]
            corners, metres = rings(lonlat), [f"{side:.3f}" for side in sides_m(lonlat)]
        else:
            corners, metres = rings(corners), ["null"] * len(found)
        image, digits = json.dumps(source.name), 9 if source.place.crs else 6
        points = ", ".join([f"[%.{digits}f, %.{digits}f]"] * 5)
        closed = np.concatenate([corners, corners[:, :1]], 1).reshape(-1, 10).tolist()
        columns = zip(closed, found.label.tolist(), found.score.tolist(), _sides(found).tolist(), metres, found.cut)
        self.write(
            [
                f'{{"type": "Feature", "geometry": {{"type": "Polygon", "coordinates": [[{points % tuple(ring)}]]}}, '
                f'"properties": {{"image": {image}, "class": {self._names[label]}, "score": {score:.7g}, '
                f'"side_px": {side:.3f}, "side_m": {metre}, "cut": {"true" if cut else "false"}}}}}'
                for ring, label, score, side, metre, cut in columns
            ]
        )


class GeoPackage(Output):
    """``detections.gpkg``: a layer for each CRS of the scenes, boxes as polygons in it; pictures are left out.

    Args:
        path: The file.
        names: Class names by index.
        date: Seconds since 1970 that the file names as the time of its last change: the same run, the same bytes.
    """

    FIELDS = ("image", "class", "score", "side_px", "side_m", "cut")

    def __init__(self, path: Path, names: Mapping[int, str], date: float) -> None:
        import pyogrio

        self._pyogrio: Any = pyogrio
        self._path = path
        self._names = np.array([names[i] for i in range(len(names))], dtype=object)
        self._date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(date))
        self._layers: dict[str | None, str] = {}
        self._crs: str | None = None
        self._waiting: list[tuple[Any, ...]] = []
        self._number = 0

    def add(self, source: Source, found: Detections) -> None:
        """Take detections, and write them where they have become many."""
        if source.place is None:
            return
        if source.place.crs != self._crs:
            self.close()
            self._crs = source.place.crs
        corners = source.place.corners(found.bbox)
        metres = np.full(len(found), np.nan)
        if self._crs and source.place.on_earth:
            lonlat = source.place.to_lonlat(corners)
            there = np.isfinite(lonlat).all((1, 2))
            metres[there] = sides_m(lonlat[there])
        image = np.full(len(found), source.name, dtype=object)
        scores, sides = found.score.round(7), _sides(found).round(3)
        row = (_polygons(corners), image, self._names[found.label], scores, sides, metres.round(3), found.cut)
        self._waiting.append(row)
        self._number += len(found)
        if self._number >= BATCH:
            self.close()

    def close(self) -> None:
        """Write what is left."""
        if not self._waiting:
            return
        geometry, *columns = (np.concatenate(column) for column in zip(*self._waiting))
        self._waiting, self._number = [], 0
        further = f"_{len(self._layers) + 1}" if self._layers else ""
        self._pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": self._date})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided")  # a scene may have none
            self._pyogrio.raw.write(
                self._path,
                geometry=geometry,
                field_data=columns,
                fields=self.FIELDS,
                field_mask=[np.isnan(column) if column.dtype.kind == "f" else None for column in columns],
                layer=self._layers.setdefault(self._crs, f"detections{further}"),
                driver="GPKG",
                geometry_type="Polygon",
                crs=self._crs,
                append=self._path.exists(),
            )
        self._pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})


class CocoJson(JsonOutput):
    """``predictions.json``: COCO detections, xywh px of the scene; images by file name, classes counted from 1.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "[", "\n]\n")

    def add(self, source: Source, found: Detections) -> None:
        """Write detections."""
        xywh = np.concatenate([found.bbox[:, :2], found.bbox[:, 2:] - found.bbox[:, :2]], 1).round(4)
        image = json.dumps(source.name)
        self.write(
            [
                f'{{"image_id": {image}, "category_id": {label + 1}, "bbox": {box}, "score": {score}}}'  # as json.dumps
                for label, box, score in zip(found.label.tolist(), xywh.tolist(), found.score.round(7).tolist())
            ]
        )


class YoloLabels(Output):
    """``labels/``: a text file for each scene, lines of class, centre, width and height as shares of its size.

    Args:
        folder: The folder.
        scores: End each line by the score.
    """

    a_file_each = True

    def __init__(self, folder: Path, scores: bool) -> None:
        self._folder, self._scores = folder, scores
        self._begun: set[str] = set()

    def add(self, source: Source, found: Detections) -> None:
        """Write detections."""
        path = self._folder / f"{source.stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = np.array([source.width, source.height])
        center, sides = (found.bbox[:, :2] + found.bbox[:, 2:]) / 2, found.bbox[:, 2:] - found.bbox[:, :2]
        rows = np.concatenate([center / size, sides / size, found.score[:, None]], 1)[:, : 5 if self._scores else 4]
        lines = [" ".join([str(k), *(f"{v:.8f}" for v in row)]) + "\n" for k, row in zip(found.label, rows.tolist())]
        with path.open("a" if source.name in self._begun else "w", encoding="utf-8") as file:
            file.write("".join(lines))
        self._begun.add(source.name)


def _sides(found: Detections) -> Floats:
    """Return the square roots of the areas of boxes, px."""
    sides: Floats = np.sqrt((found.bbox[:, 2:] - found.bbox[:, :2]).prod(1))
    return sides


def _polygons(corners: Floats) -> Any:
    """Return quadrilaterals, (N, 4, 2), as well-known binary, (N,) of bytes."""
    rows = np.zeros(len(corners), dtype=POLYGON)
    rows["order"], rows["type"], rows["rings"], rows["points"] = 1, 3, 1, 5
    rows["xy"][:, :4], rows["xy"][:, 4:] = corners, corners[:, :1]
    content, size = rows.tobytes(), POLYGON.itemsize
    found = np.empty(len(corners), dtype=object)
    found[:] = [content[start : start + size] for start in range(0, len(content), size)]
    return found
