"""Scenes by windows: rasters through rasterio (extra ``[geo]``), pictures without it."""

from __future__ import annotations

import glob
import importlib
import math
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .georeference import Georeference
from .images import (
    IMAGE_SUFFIXES,
    TRAINED_PIXELS,
    DamagedError,
    check_depth,
    check_pixels,
    image_size,
    is_turned,
    read_image,
)
from .windows import Window

Pixels = NDArray[np.uint8]

PICTURE_SUFFIXES = tuple(s for s in IMAGE_SUFFIXES if s not in (".tif", ".tiff", ".jp2"))  # these may be georeferenced
RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".img")
CACHE = 64 << 20  # bytes of decoded blocks that GDAL keeps; more where the strips of a row of tiles need it
SAMPLES, SAMPLE = 16, 128  # percentiles are those of 16 x 16 windows of 128 px


class Source:
    """A scene: its size, where it lies on earth, and its pixels by window.

    Attributes:
        path: The file.
        name: What the outputs call it.
        stem: What files of its own are called, without their suffix.
        files: The file and all that it is read with.
        width: px.
        height: px.
        place: Map coordinates of its pixels; None for pictures.
    """

    place: Georeference | None = None

    def __init__(self, path: Path, width: int, height: int) -> None:
        self.path, self.name, self.stem, self.width, self.height = path, path.name, path.stem, width, height
        self.files = [path]

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, window: Window) -> Pixels | None:
        """Return the pixels of a window as RGB, (H, W, 3), or None where no pixel is valid.

        Raises:
            DamagedError: If the file is damaged there.
        """
        raise NotImplementedError

    def overview(self, longest: int) -> Pixels:
        """Return the whole scene as RGB, its longer side at most this many px."""
        raise NotImplementedError

    def prepare(self, rows: int) -> None:
        """Make ready for reading so many rows of pixels at a time."""

    def close(self) -> None:
        """Close the file."""


class Picture(Source):
    """A picture, read at once.

    Args:
        path: The file, or what an array is called.
        pixels: RGB, (H, W, 3); read from the file by default.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is no image, or holds more than 8 bits a value; on reading, if it is damaged or too large.
    """

    def __init__(self, path: Path, pixels: Pixels | None = None) -> None:
        self._given = pixels
        if pixels is None:
            check_depth(path)
            super().__init__(path, *image_size(path))
        else:
            super().__init__(path, pixels.shape[1], pixels.shape[0])

    @cached_property
    def pixels(self) -> Pixels | str:
        """The whole picture as RGB, (H, W, 3), read from the file on first use, or why it cannot be read."""
        if self._given is not None:
            return self._given
        try:
            return np.ascontiguousarray(read_image(self.path)[..., ::-1])
        except ValueError as error:
            return str(error)

    def read(self, window: Window) -> Pixels:
        """Return the pixels of a window."""
        left, top, width, height = window
        if isinstance(self.pixels, str):
            raise DamagedError(f"{self.pixels} ({words(window)})")
        return np.ascontiguousarray(self.pixels[top : top + height, left : left + width])

    def overview(self, longest: int) -> Pixels:
        """Return the picture, shrunk; black where it cannot be read."""
        height, width = _shrunk(self.width, self.height, longest)
        if isinstance(self.pixels, str):
            return np.zeros((height, width, 3), dtype=np.uint8)
        return np.asarray(cv2.resize(self.pixels, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


class Raster(Source):
    """A raster that rasterio reads: GeoTIFF (tiled, striped, COG, BigTIFF) and what else GDAL knows.

    Args:
        path: The file.
        bands: Three bands for red, green and blue, or one, from 1. By default those that the file calls so, else the
            first three, or the one that there is.
        stretch: Values that become 0 and 255, as numbers (0, 3000) or as percentiles ("2%", "98%") of a sample of each
            band. Without it a file that is not 8-bit is refused.

    Raises:
        DamagedError: If the file is no raster.
        ImportError: If rasterio is not installed.
        ValueError: If a band is not there, or the values need a stretch.
    """

    def __init__(self, path: Path, bands: Sequence[int] = (), stretch: Sequence[float | str] = ()) -> None:
        rasterio = _import("rasterio")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                self._file: Any = rasterio.open(path)
        except rasterio.errors.RasterioIOError as error:
            raise DamagedError(f"{path}: is no raster that GDAL can read: {error}") from None
        self._error: type[Exception] = rasterio.errors.RasterioIOError
        super().__init__(path, self._file.width, self._file.height)
        self.files = [Path(name) for name in self._file.files]
        self.place = _place(rasterio, self._file)
        self.bands = _choose_bands(self._file, bands)
        self._palette = _palette(self._file) if not bands else None
        if len(types := {self._file.dtypes[band - 1] for band in self.bands}) > 1:
            raise ValueError(
                f"{path}: bands {', '.join(map(str, self.bands))} hold values of several types, "
                f"{', '.join(sorted(types))}: choose others by --bands"
            )
        self._levels = None if stretch else _levels(self._file, self.bands[0])
        self._type = np.dtype(self._file.dtypes[self.bands[0] - 1])
        self._masked = any("all_valid" not in [f.name for f in self._file.mask_flag_enums[b - 1]] for b in self.bands)
        if not stretch and self._palette is None and self._type != np.uint8:
            raise ValueError(
                f"{path}: holds {self._type} values, not 8-bit ones: give --stretch LOW,HIGH, the values that become 0 "
                "and 255 (0,3000), or percentiles (2%,98%)"
            )
        if stretch and self._palette is not None:
            raise ValueError(f"{path}: has a palette of colours, which cannot be stretched")
        self._stretch = [str(value) for value in stretch]
        _check_stretch(self._stretch)

    def read(self, window: Window) -> Pixels | None:
        """Return the pixels of a window as RGB, (H, W, 3), or None where no pixel is valid."""
        values, masks = self._values(window)
        valid = np.asarray(masks.any(0))
        return None if not valid.any() else self._rgb(values, valid)

    def overview(self, longest: int) -> Pixels:
        """Return the whole scene, read shrunk; what is damaged stays black."""
        height, width = _shrunk(self.width, self.height, longest)
        try:
            values, masks = self._values(Window(0, 0, self.width, self.height), (height, width))
        except DamagedError:
            return np.zeros((height, width, 3), dtype=np.uint8)
        return self._rgb(values, np.asarray(masks.any(0)))

    def prepare(self, rows: int) -> None:
        """Let GDAL keep the strips of a row of tiles, so that they are decoded once; blocks are few for each tile."""
        high, wide = self._file.block_shapes[0]
        strips = (-(-rows // high) + 1) * high * self.width * self._type.itemsize * self._file.count
        _import("rasterio._env").set_gdal_config("GDAL_CACHEMAX", max(CACHE, strips if wide >= self.width else 0))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _values(self, window: Window, shape: tuple[int, int] | None = None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the values of a window, (bands, H, W), and which of them are valid, (bands, H, W)."""
        area = ((window.top, window.top + window.height), (window.left, window.left + window.width))
        size = shape or (window.height, window.width)
        try:
            values = self._file.read(self.bands, window=area, out_shape=(len(self.bands), *size))
            if not self._masked:
                valid = np.ones((len(self.bands), *size), dtype=bool)
            else:
                valid = self._file.read_masks(self.bands, window=area, out_shape=(len(self.bands), *size)) > 0
        except self._error as error:
            raise DamagedError(f"{self.path}: {words(window)} cannot be read: {error.__cause__ or error}") from None
        if self._type.kind == "f":
            valid &= np.isfinite(values).all(0)
        return values, valid

    def _rgb(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> Pixels:
        """Return values as RGB of 8 bits, (H, W, 3); stretched, what is not valid is black."""
        if self._palette is not None:
            return np.asarray(self._palette[values[0]], dtype=np.uint8)
        if self._stretch:
            low, high = self._limits[:, :, None, None]
            scaled = (values.astype(np.float32) - low) * (255 / (high - low))
            scaled[:, ~valid] = 0
            values = scaled.clip(0, 255).round().astype(np.uint8)
        elif self._levels is not None:
            values = self._levels[values]
        return np.asarray(cv2.merge(list(np.broadcast_to(values, (3, *values.shape[1:])))), dtype=np.uint8)

    @cached_property
    def _limits(self) -> NDArray[np.float32]:
        """The values of each band that become 0 and 255, (2, bands)."""
        low, high = (float(word.rstrip("%")) for word in self._stretch)
        if not self._stretch[0].endswith("%"):
            return np.repeat(np.array([[low], [high]], dtype=np.float32), len(self.bands), 1)
        found = np.stack([np.percentile(values, [low, high]) for values in self._sample()], 1).astype(np.float32)
        for band, (dark, bright) in zip(self.bands, found.T):
            if not dark < bright:
                raise ValueError(
                    f"{self.path}: the sample of band {band} holds {dark:g} alone; give --stretch LOW,HIGH"
                )
        return found

    def _sample(self) -> list[NDArray[Any]]:
        """Return the valid values of each band in windows that are spread evenly."""
        wide, high = min(SAMPLE, self.width), min(SAMPLE, self.height)
        lefts, tops = (
            np.linspace(0, whole - part, SAMPLES).astype(int)
            for whole, part in ((self.width, wide), (self.height, high))
        )
        found = []
        for top in np.unique(tops):
            for left in np.unique(lefts):
                values, valid = self._values(Window(int(left), int(top), wide, high))
                found.append([band[mask] for band, mask in zip(values, valid)])
        sample = [np.concatenate(of_band) for of_band in zip(*found)]
        if not all(map(len, sample)):
            raise ValueError(f"{self.path}: its sample holds no valid pixel; give --stretch LOW,HIGH in values")
        return sample


def find_sources(source: str | Path) -> list[Path]:
    """Return the files that a source names: a picture, a folder, a list of files (.txt), or a pattern.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If a file is of no kind that is read.
    """
    path = Path(source)
    suffixes = {*PICTURE_SUFFIXES, *RASTER_SUFFIXES}
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
    elif path.suffix.lower() == ".txt" and path.is_file():
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        found = [path.parent / line if line.startswith("./") else Path(line) for line in lines]
    else:
        found = [path] if path.is_file() else sorted(Path(name) for name in glob.glob(str(source), recursive=True))
    if not found:
        raise FileNotFoundError(f"source: no such file, folder or pattern, or no picture in it: {source}")
    for file in found:
        if not file.is_file():
            raise FileNotFoundError(f"source: no such file: {file}")
        if file.suffix.lower() not in suffixes:
            raise ValueError(f"source: {file} is of none of the kinds {', '.join(sorted(suffixes))}")
    once: dict[Path, Path] = {}
    for file in found:
        once.setdefault(file.resolve(), file)
    return list(once.values())


def open_source(path: Path, bands: Sequence[int] = (), stretch: Sequence[float | str] = ()) -> Source:
    """Open a scene: a picture without rasterio, anything else with it.

    Args:
        path: The file.
        bands: See `Raster`; with it, or with a stretch, pictures are read by rasterio too.
        stretch: See `Raster`.
    """
    turned = is_turned(path)
    if turned and (bands or stretch):
        raise ValueError(f"{path}: is turned by its header, which bands and stretch do not follow; save it upright")
    if not bands and not stretch and (path.suffix.lower() in PICTURE_SUFFIXES or turned):
        return Picture(path)
    return Raster(path, bands, stretch)


def open_dataset_image(path: Path, stretch: Sequence[float | str] = ()) -> Source:
    """Open an image of a dataset, as it is shown: upright, and by windows where it is too large to be decoded whole.

    Args:
        path: The file.
        stretch: See `Raster`; every image is stretched then.

    Raises:
        ImportError: If it has to be read by windows and rasterio is not installed.
        OSError: If the file cannot be opened.
        ValueError: If it is no image, too large for one that can only be read at once, needs a stretch, or is turned by
            its header and to be stretched.
    """
    if stretch:
        if is_turned(path):
            raise ValueError(f"{path}: is turned by its header, which a stretch does not follow; save it upright")
        return Raster(path, (), stretch)
    picture = Picture(path)
    size = picture.width, picture.height
    if size[0] * size[1] > TRAINED_PIXELS and path.suffix.lower() in RASTER_SUFFIXES and not is_turned(path):
        return Raster(path)
    check_pixels(path, size)
    return picture


def _import(name: str) -> Any:
    """Import a module of the extra ``[geo]``."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"this needs {name.split('.')[0]}: pip install 'rfla-yolo[geo]' ({error})") from None


def _check_stretch(words: Sequence[str]) -> None:
    """Raise ValueError unless this is nothing, two values or two percentiles."""
    if not words:
        return
    percent = [word.endswith("%") for word in words]
    try:
        low, high = (float(word.rstrip("%")) for word in words)
    except ValueError:
        low = high = 0.0
    if not -math.inf < low < high < math.inf or percent[0] != percent[1] or (percent[0] and not 0 <= low < high <= 100):
        raise ValueError(
            f"stretch must be LOW,HIGH in values (0,3000) or percentiles (2%,98%), not {','.join(words)!r}"
        )


def _choose_bands(file: Any, bands: Sequence[int]) -> list[int]:
    if bands:
        if len(bands) not in (1, 3) or not all(1 <= band <= file.count for band in bands):
            given = ",".join(map(str, bands))
            raise ValueError(f"bands must be one or three of 1 to {file.count}, which {file.name} has, not {given}")
        return list(bands)
    colors = [color.name for color in file.colorinterp]
    if {"red", "green", "blue"} <= set(colors):
        return [colors.index(name) + 1 for name in ("red", "green", "blue")]
    return [1, 2, 3] if file.count >= 3 else [1]


def _palette(file: Any) -> Pixels | None:
    """Return the colours of a file of colour numbers, (256, 3) or, of 16 bits, (65536, 3)."""
    if file.count > 2 or file.colorinterp[0].name != "palette":
        return None
    colors = np.zeros((1 << 8 * np.dtype(file.dtypes[0]).itemsize, 3), dtype=np.uint8)
    for value, color in file.colormap(1).items():
        colors[value] = color[:3]
    return colors


def _place(rasterio: Any, file: Any) -> Georeference:
    """Return where a raster lies, by its geotransform or the plane through its ground control points."""
    crs, transform = file.crs, file.transform
    points, crs_of_points = file.gcps
    if transform.is_identity and len(points) >= 3:
        fitted = rasterio.transform.from_gcps(points)
        places = [~fitted @ (point.x, point.y) for point in points]
        off = max(math.hypot(x - p.col, y - p.row) for (x, y), p in zip(places, points))
        if off <= 1:
            crs, transform = crs_of_points, fitted
        else:
            warnings.warn(
                f"{file.name}: no affine map fits its ground control points ({off:.3g} px off): "
                "it is not placed on the map; warp it first (gdalwarp)",
                stacklevel=2,
            )
    return Georeference(crs.to_wkt() if crs else None, tuple(transform)[:6])


def _levels(file: Any, band: int) -> Pixels | None:
    """Return what a file's values of 8 bits or fewer are as grey, (256,), as training reads it; None: as they are."""
    bits = int(file.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", 8))
    inverted = file.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
    if bits >= 8 and not inverted:
        return None
    top = (1 << min(bits, 8)) - 1
    grey = np.arange(256).clip(0, top) * 255 // top
    return (255 - grey if inverted else grey).astype(np.uint8)


def _shrunk(width: int, height: int, longest: int) -> tuple[int, int]:
    """Return height and width of a picture whose longer side is at most this."""
    factor = min(1.0, longest / max(width, height))
    return max(round(height * factor), 1), max(round(width * factor), 1)


def words(window: Window) -> str:
    """Return how messages call a window."""
    return f"the window of {window.width} x {window.height} px at {window.left}, {window.top}"
