"""Scenes through a detector, tile row by tile row, into files; a run that was killed goes on."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .area import Area
from .detect import Detector, Image, detect_rows
from .detections import Detections
from .georeference import Georeference
from .images import DamagedError
from .journal import Journal, Row
from .outputs import CocoJson, GeoJson, GeoPackage, Output, YoloLabels
from .page import Spool, write_page
from .seams import SeamMerger
from .source import Source, open_source, words
from .windows import Window, tile_rows

UNFINISHED = "unfinished"  # folder of a run's journal and of its files until they are complete
MANIFEST = "run.json"  # the files that a run wrote, and what they follow from
FILES = (  # what a run may write
    *("predictions.json", "detections.gpkg", "detections.geojson", "labels", "annotated", MANIFEST),
    *("index.html", "histograms.png", "overview-*.png", "densest.png"),
)
Scene = tuple[Path, list[list[Window]], Area | None]  # its file, its tiles row by row, and the area of interest in it


@dataclass(frozen=True)
class Tiling:
    """How scenes are read and cut.

    Attributes:
        tile: Side of a tile, px.
        overlap: Overlap of neighbouring tiles, px.
        batch: Tiles that the detector gets at once.
        conf: Least score of each class, applied after merging; without it all that the detector gives.
        bands: Bands of rasters for red, green and blue, from 1, or one; see `Raster`.
        stretch: Values or percentiles that become 0 and 255; see `Raster`.
        aoi: GeoJSON of the area of interest: tiles outside are not read, detections with their centre outside dropped.
        skip_bad_tiles: Go on where a tile or a scene cannot be read.
        max_det: Detections of a tile at which it is named as full.
    """

    tile: int
    overlap: int
    batch: int = 1
    conf: Sequence[float] = ()
    bands: Sequence[int] = ()
    stretch: Sequence[float | str] = ()
    aoi: str | Path | None = None
    skip_bad_tiles: bool = False
    max_det: int = 3000

    def wanted(self, found: Detections) -> NDArray[np.bool_]:
        """Return which detections reach the score of their class, (N,)."""
        return found.score >= (np.array(self.conf)[found.label] if self.conf else -np.inf)

    def open(self, path: Path) -> Source:
        """Open a scene."""
        return open_source(path, self.bands, self.stretch)


@dataclass
class Tally:
    """What a run has done so far.

    Attributes:
        total: Tiles in all.
        done: Tiles done, those of an earlier part of the run included.
        outside: Tiles outside of the area of interest, in no other count.
        empty: Tiles without a valid pixel.
        unread: What was said of each scene that could not be opened.
        damaged: What was said of each tile that could not be read.
        full: The tiles that have reached the limit of detections.
        objects: Objects by scene.
    """

    total: int = 0
    done: int = 0
    outside: int = 0
    empty: int = 0
    unread: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    full: list[str] = field(default_factory=list)
    objects: Counter[str] = field(default_factory=Counter)

    @property
    def read(self) -> int:
        """The tiles that could be read."""
        return self.done - len(self.damaged)

    def text(self) -> str:
        """Return the counts in words, a line each for scenes that were not read and tiles that were damaged or full."""
        parts = [f"{self.objects.total()} objects on {self.done} tiles"]
        parts += [f"{self.empty} of them without a valid pixel"] if self.empty else []
        parts += [f"{self.outside} tiles outside of the area of interest"] if self.outside else []
        parts += [f"{len(self.damaged)} tiles that cannot be read"] if self.damaged else []
        parts += [f"{len(self.unread)} scenes that cannot be read"] if self.unread else []
        full = [f"{tile}: has reached the limit of detections (--max-det or the exported file's)" for tile in self.full]
        return "\n".join([", ".join(parts), *self.unread, *self.damaged, *full])


def tiles_of(source: Source, tiling: Tiling) -> tuple[list[list[Window]], Area | None]:
    """Return the tiles of a scene that touch the area of interest, row by row, and the area."""
    rows = tile_rows(source.width, source.height, tiling.tile, tiling.overlap)
    if tiling.aoi is None:
        return rows, None
    area = Area(tiling.aoi, source.place, (source.width, source.height), source.path)
    touching = [[window for window in row if area.touches(window)] for row in rows]
    return [row for row in touching if row], area


def scene_rows(source: Source, detector: Detector, tiling: Tiling, tally: Tally | None = None) -> Iterator[Detections]:
    """Detect the objects of a scene.

    Args:
        source: The scene.
        detector: Gives the detections on each of a list of tiles, RGB (H, W, 3), px of the tile.
        tiling: How it is cut.
        tally: Counts to go on with.

    Returns:
        After each row of tiles, the detections of the scene that no later row can change.

    Raises:
        DamagedError: If a tile cannot be read and is not to be skipped.
        ValueError: If the area of interest cannot be read.
    """
    rows, area = tiles_of(source, tiling)
    with closing(_found_rows([(source.path, rows, area)], lambda path: source, detector, tiling)) as found:
        yield from _settled(source, rows, area, found, tiling, Tally() if tally is None else tally)


def _found_rows(
    scenes: Sequence[Scene],
    open_scene: Callable[[Path], Source],
    detector: Detector,
    tiling: Tiling,
    done: int = 0,
) -> Generator[Row, None, None]:
    """Yield what is found on each row of tiles of scenes, one after the other, but for those that are done."""
    paths = [path for path, rows, _ in scenes for _ in rows]
    damaged: dict[tuple[int, Window], str] = {}  # filled by the reader, ahead of the rows
    opened: list[Source] = []  # the reader's, one at a time

    def read(row: int, window: Window) -> Image | None:
        try:
            if not opened or opened[0].path != paths[row]:
                while opened:
                    opened.pop().close()
                opened.append(open_scene(paths[row]))
                opened[0].prepare(tiling.tile)
            return opened[0].read(window)
        except DamagedError as error:
            if not tiling.skip_bad_tiles:
                raise DamagedError(f"{error}; --skip-bad-tiles leaves such tiles out") from None
            damaged[row, window] = str(error)
            return None

    every = [row for _, rows, _ in scenes for row in rows]
    try:
        with closing(detect_rows(read, every, detector, batch=tiling.batch, done=done)) as results:
            for result in results:
                bad = [damaged.pop((result.row, w)) for w in every[result.row] if (result.row, w) in damaged]
                yield Row(result.found, result.skipped - len(bad), bad)
    finally:  # the reader has ended
        for source in opened:
            source.close()


def _settled(
    source: Source,
    rows: Sequence[Sequence[Window]],
    area: Area | None,
    found: Iterator[Row],
    tiling: Tiling,
    tally: Tally,
) -> Iterator[Detections]:
    """Merge what is found on the rows of a scene."""
    merger = SeamMerger(rows, (source.width, source.height))
    for windows in rows:
        yield _settle(source, windows, next(found), merger, area, tally, tiling)


def _settle(
    source: Source,
    windows: Sequence[Window],
    row: Row,
    merger: SeamMerger,
    area: Area | None,
    tally: Tally,
    tiling: Tiling,
) -> Detections:
    """Count a row of tiles and return what it settles, clipped to the scene."""
    found = merger.add_row(row.found)
    bbox = found.bbox.clip(0, [source.width, source.height] * 2)
    kept = tiling.wanted(found) & (bbox[:, 2:] > bbox[:, :2]).all(1)
    if area and len(found):
        kept &= area.holds(bbox)
    found = Detections(bbox, found.score, found.label, found.cut).take(kept)
    tally.done += len(windows)
    tally.empty += row.empty
    tally.damaged += row.damaged
    counts = zip(windows, (tiling.wanted(part).sum() for part in row.found))
    tally.full += [f"{source.path}: {words(window)}" for window, count in counts if count >= tiling.max_det]
    tally.objects[source.name] += len(found)
    return found


def run_scenes(
    paths: Sequence[Path],
    detector: Detector,
    out: str | Path,
    tiling: Tiling,
    names: Mapping[int, str],
    made_of: Mapping[str, Any],
    *,
    save_txt: bool = False,
    save_conf: bool = False,
    overwrite: bool = False,
    outputs: Sequence[Output] = (),
    report: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Detect the objects of scenes and write them into a folder.

    Until all files are complete they lie in the folder ``unfinished``, with the journal by which a run that was killed
    goes on after its last finished row of tiles; what it writes then is what it would have written undisturbed.

    Args:
        paths: The scenes.
        detector: Gives the detections on each of a list of tiles.
        out: The folder.
        tiling: How scenes are cut.
        names: Class names by index.
        made_of: What the detections follow from beside the scenes and their tiling, plain values by name: a run that
            was begun with others is not gone on with.
        save_txt: Also write YOLO labels.
        save_conf: With scores.
        overwrite: Begin anew where the folder holds a finished run or one of other settings.
        outputs: Further outputs.
        report: Is called after each row of tiles.

    Returns:
        The counts.

    Raises:
        ValueError: If a scene cannot be read as asked, or the folder holds a finished run or one of other settings.
    """
    out = Path(out)
    part = out / UNFINISHED
    _check_folder(out, overwrite)
    called = _names(paths)
    stems = _stems(list(called.values()))
    tally, scenes, places, read = _measure(paths, tiling)
    made_of = {**made_of, **_stamps(read, tiling)}
    part.mkdir(parents=True, exist_ok=True)
    with Journal(part / "journal", made_of, overwrite) as journal:
        for left in part.iterdir():
            if left.name != "journal":
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        spool = Spool(part / "boxes")
        writers: list[Output] = [spool, CocoJson(part / "predictions.json"), *outputs]
        if places:
            newest = max(path.stat().st_mtime for path, *_ in scenes)
            writers.append(GeoPackage(part / "detections.gpkg", names, newest))
        if any(place.mappable for place in places):
            writers.append(GeoJson(part / "detections.geojson", names))
        if save_txt:
            writers.append(YoloLabels(part / "labels", save_conf))
        with closing(_found_rows(scenes, tiling.open, detector, tiling, journal.rows)) as new:
            found_rows = chain(journal, _journaled(new, journal))
            for path, rows, area in scenes:
                with tiling.open(path) as source:
                    source.name, source.stem = called[path], stems[called[path]]
                    before = tally.read
                    for found in _settled(source, rows, area, found_rows, tiling, tally):
                        for writer in writers:
                            if tally.read > before or not writer.a_file_each:
                                writer.add(source, found)
                        report(tally)
                    for writer in writers:
                        if tally.read > before or not writer.a_file_each:
                            writer.end(source)
        for writer in writers:
            writer.close()
        write_page(part, spool, {called[path]: path for path, *_ in scenes}, names, tally.text(), tiling.open)
        _publish(part, out, made_of)
        journal.remove()
    part.rmdir()
    return tally


def _journaled(found: Iterator[Row], journal: Journal) -> Iterator[Row]:
    """Yield rows as soon as they are in the journal."""
    for row in found:
        journal.append(row)
        yield row


def written(out: str | Path) -> list[Path]:
    """Return the files that a finished run wrote into a folder, none where none did.

    Raises:
        ValueError: If its manifest is none.
    """
    path = Path(out) / MANIFEST
    if not path.exists():
        return []
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["files"]
        files = [Path(out, name) for name in names]
    except (ValueError, KeyError, TypeError, OSError):
        raise ValueError(f"{path} is not of a run of predict: take another --out") from None
    home = Path(out).resolve()
    return [path, *(file for file in files if file.resolve().is_relative_to(home))]


def _check_folder(out: Path, overwrite: bool) -> None:
    """Raise ValueError where a run into this folder would write over another one or over files of others."""
    own = set(written(out))
    if own and not overwrite and not (out / UNFINISHED / "journal").exists():
        raise ValueError(f"{out} holds a finished run: take another --out, or write over it by --overwrite")
    there = [file for name in FILES for file in sorted(out.glob(name))]
    inside = [file for found in there for file in ([found] if found.is_file() else sorted(found.rglob("*")))]
    foreign = next((file for file in inside if not file.is_dir() and file not in own), None)
    if foreign:
        raise ValueError(
            f"{out}: {foreign.relative_to(out)} was not written by predict, which would replace it or write beside it: "
            f"take another --out, or remove it if it is of an old version, which left no {MANIFEST} to tell"
        )


def _measure(paths: Sequence[Path], tiling: Tiling) -> tuple[Tally, list[Scene], list[Georeference], list[Path]]:
    """Open every scene, before any work: return counts, the scenes, their places, and all files behind."""
    tally, read = Tally(), []
    scenes: list[Scene] = []
    places: dict[Path, Georeference] = {}
    in_px: list[Path] = []  # scenes in whose pixels the area of interest is taken
    for path in paths:
        try:
            source = tiling.open(path)
        except DamagedError as error:
            if not tiling.skip_bad_tiles:
                raise DamagedError(f"{error}; --skip-bad-tiles leaves such scenes out") from None
            tally.unread.append(str(error))
            continue
        with source:
            rows, area = tiles_of(source, tiling)
            scenes.append((path, rows, area))
            number = sum(map(len, rows))
            tally.total += number
            if area:
                every = tile_rows(source.width, source.height, tiling.tile, tiling.overlap)
                tally.outside += sum(map(len, every)) - number
                in_px += [] if source.place and source.place.crs else [path]
            if source.place:
                places[path] = source.place
            read += source.files
    if not scenes:
        raise DamagedError(f"source: no scene can be read: {'; '.join(tally.unread)}")
    if in_px:
        none = "which have no CRS" if in_px[1:] else "which has no CRS"
        warnings.warn(f"aoi: {tiling.aoi} is taken as px of {_listed(in_px)}, {none}", stacklevel=2)
    if not tally.total:
        raise ValueError(f"aoi: {tiling.aoi} touches no scene")
    if lost := [path for path, place in places.items() if not place.mappable]:
        warnings.warn(
            f"{_listed(lost)}: its CRS has no way to longitude and latitude: detections.geojson "
            f"{'leaves it out' if len(lost) < len(places) else 'is not written'}, side_m is empty, "
            "and detections.gpkg is in its own coordinates",
            stacklevel=2,
        )
    return tally, scenes, list(places.values()), read


def _listed(paths: Sequence[Path]) -> str:
    """Return how a message calls scenes: the first, and how many more."""
    return f"{paths[0]}{f' and {len(paths) - 1} more' if paths[1:] else ''}"


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """Return what scenes are called: their file names or, where two share one, also their folders."""
    plain = Counter(path.name for path in paths)
    if max(plain.values()) == 1:
        return {path: path.name for path in paths}
    shared = os.path.commonpath([os.path.abspath(path.parent) for path in paths])
    return {path: Path(os.path.relpath(path, shared)).as_posix() for path in paths}


def _stems(names: Sequence[str]) -> dict[str, str]:
    """Return what files of one scene are called before their suffix: with that of the scene where two differ by it."""
    stems = {name: Path(name).with_suffix("").as_posix() for name in names}
    return stems if len(set(stems.values())) == len(names) else {name: name for name in names}


def _stamps(read: Sequence[Path], tiling: Tiling) -> dict[str, Any]:
    """Return what tells that the files of scenes or their tiling have changed."""
    there = [path for path in read if path.exists()]  # what a VRT names may lie on a server
    stamps = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in there]
    area = Path(tiling.aoi).read_text(encoding="utf-8-sig") if tiling.aoi else None
    names = ("tile", "overlap", "batch", "max_det", "skip_bad_tiles")
    plain = {name: getattr(tiling, name) for name in names}
    lists = {name: list(getattr(tiling, name)) for name in ("conf", "bands", "stretch")}
    return {"source": stamps, "aoi": area, **plain, **lists}


def _publish(part: Path, out: Path, made_of: Mapping[str, Any]) -> None:
    """Move complete files to their place, instead of those of an earlier run."""
    (part / "boxes").unlink()
    for file in sorted(written(out), reverse=True):
        file.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            if file.parent != out:
                file.parent.rmdir()
    files = sorted(file for file in part.rglob("*") if file.is_file() and file != part / "journal")
    content = {"files": [file.relative_to(part).as_posix() for file in files], "made of": made_of}
    manifest = part / MANIFEST  # in its place before the others, so that a killed run's files are known as its own
    manifest.write_text(json.dumps(content, indent=1), encoding="utf-8")
    for file in (manifest, *files):
        target = out / file.relative_to(part)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)
    for folder in ("labels", "annotated"):
        shutil.rmtree(part / folder, ignore_errors=True)
