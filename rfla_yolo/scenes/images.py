"""Opening and reading images the same way everywhere: upright, of any size, 8 bits a value."""

from __future__ import annotations

import mmap
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps

# what Ultralytics trains on, the usual ones first
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"),
    *(".webp", ".jp2", ".mpo", ".avif", ".heic", ".heif", ".dng"),
)
FORMATS = {suffix[1:].upper() for suffix in IMAGE_SUFFIXES} | {"JPEG2000"}
DEEP_SUFFIXES = (".png", ".tif", ".tiff", ".jp2", ".avif", ".dng")  # of these, files may hold more than 8 bits a value
SHORTEST = 10  # px; Ultralytics leaves out images with a shorter side
TRAINED_PIXELS = 178_956_970  # of an image; training leaves larger ones out as a possible attack, as Pillow does
ON_ITS_SIDE = (5, 6, 7, 8)  # EXIF orientations that swap width and height
TURNED_BY_OPENCV = ("JPEG", "MPO", "PNG")  # in every version; of others it depends
LARGEST = 2**30  # px that are read at once, as OpenCV does; some 7 GB of memory
PILLOW_ONLY = ("AVIF", "HEIF")  # OpenCV does not turn them, or cannot read them at all
WIDE_MODES = {"I": "int32", "F": "float32"}  # Pillow's modes of one value of more than 8 bits, beside I;16


class DamagedError(ValueError):
    """An image, or a window of a scene, that cannot be read."""


def open_image(path: Path) -> ImageFile.ImageFile:
    """Open an image without decoding it, whatever its size; use as a context manager.

    Pillow's own ``Image.open`` refuses pictures above 178,956,970 px as a possible attack, and Ultralytics replaces it
    by one that tries to install a package for every file that is no image. Neither is wanted for a user's own data.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is no image.
    """
    opened = _open_by_header(path)
    if opened is not None:
        return opened
    pixels = _decode(path)  # TIFFs of floats are beyond Pillow: say what they are
    if pixels is not None and pixels.dtype != np.uint8:
        raise ValueError(too_deep(path, str(pixels.dtype)))
    raise DamagedError(f"{path}: is no image that can be read")


def _open_by_header(path: Path) -> ImageFile.ImageFile | None:
    """Open an image by Pillow, None where it knows no such format."""
    Image.init()
    with open(path, "rb") as file:
        start = file.read(16)
    formats: dict[str, Any] = Image.OPEN  # given a path, a format opens and closes the file itself
    for factory, accepts in (formats[name] for name in Image.ID):
        try:
            answer = not accepts or accepts(start)
            if answer and not isinstance(answer, str):  # a string says why the format is not supported here
                opened: ImageFile.ImageFile = factory(str(path), str(path))
                return opened
        except (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error):
            continue  # another format may know it
    return None


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height of an image, px, as it is shown and trained on: upright by its EXIF orientation.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is no image.
    """
    with open_image(path) as image:
        size: tuple[int, int] = image.size
        if _orientation(image) not in ON_ITS_SIDE:
            return size
        if image.format in (*TURNED_BY_OPENCV, *PILLOW_ONLY):
            return size[1], size[0]
    height, width = read_image(path).shape[:2]
    return width, height


def is_turned(path: Path) -> bool:
    """Return whether the header of an image says that it is shown turned or mirrored; reads no pixel."""
    image = _open_by_header(path)
    if image is None:
        return False
    with image:
        return _orientation(image) != 1


def check_depth(path: Path) -> None:
    """Check by its header that an image holds 8 bits a value.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is no image, or holds more; names the type.
    """
    with open_image(path) as image:
        if depth := image_depth(image):
            raise ValueError(too_deep(path, depth))


def check_pixels(path: Path, size: tuple[int, int]) -> None:
    """Check the width and height of an image against what `read_image` reads.

    Raises:
        ValueError: If it is too large.
    """
    width, height = size
    if width * height > LARGEST:
        raise ValueError(f"{path}: {width} x {height} px are more than the {LARGEST:,} read at once")


def explain_depth(path: Path) -> str:
    """Return in words that 8 bits do not hold the values of an image, by its header, or an empty string.

    Whatever else is wrong with it, other checks say.
    """
    with suppress(OSError, ValueError), open_image(path) as image:
        if depth := image_depth(image):
            return too_deep(path, depth)
    return ""


def image_depth(image: ImageFile.ImageFile) -> str:
    """Return the type of the values of an opened image where 8 bits do not hold them, else an empty string."""
    if image.mode in WIDE_MODES or image.mode.startswith("I;16"):
        return WIDE_MODES.get(image.mode, "uint16")
    # colours of 16 bits are opened as 8: only how they are stored tells
    arguments = [tile[3] for tile in image.tile]
    stored = [a for args in arguments for a in (args if isinstance(args, tuple) else (args,))]
    if any(isinstance(a, str) and a.endswith((";16B", ";16L", ";16N")) for a in stored):
        return "uint16"
    if image.format == "PPM" and any(isinstance(a, int) and a > 255 for a in stored):
        return "uint16"
    bits = _coded_bits(image)
    return f"{bits}-bit" if bits > 8 else ""


def _coded_bits(image: ImageFile.ImageFile) -> int:
    """Return the bits of a value as the file's own header has them, where Pillow does not say."""
    if image.format == "TIFF":  # colours in planes of 16 bits
        tags: Any = getattr(image, "tag_v2", {})
        return max(tags.get(258, (8,)))  # BitsPerSample
    if image.format not in ("JPEG2000", "AVIF"):
        return 8
    with open(image.filename, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if image.format == "AVIF":
            found = content.find(b"av1C\x81")  # AV1's configuration, 1 byte of profile, 1 byte of flags
            flags = content[found + 6] if found >= 0 else 0
            return 8 + 2 * bool(flags & 0x40) + 2 * bool(flags & 0x20)  # high_bitdepth, twelve_bit
        found = content.find(b"\xff\x4f\xff\x51")  # the codestream's first two markers, SOC and SIZ
        channels = int.from_bytes(content[found + 40 : found + 42], "big") if found >= 0 else 0
        depths = content[found + 42 : found + 42 + 3 * channels : 3]  # Ssiz: a bit for signed, then bits less one
        return max((depth & 0x7F for depth in depths), default=7) + 1


def explain_image(path: Path) -> str:
    """Return why training cannot use an image, by its header, in words, or an empty string."""
    try:
        with open_image(path) as image:
            if depth := image_depth(image):
                return too_deep(path, depth)
            if image.format not in FORMATS:
                return f"{path}: is a {image.format}, which training leaves out; save it as PNG or JPEG"
            if min(image.size) < SHORTEST:
                width, height = image.size
                return f"{path}: of {width} x {height} px; training leaves out images under {SHORTEST} px"
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def too_deep(path: Path, depth: str) -> str:
    """Return the words for an image whose values 8 bits do not hold."""
    problem = f"{path}: holds {depth} values, which reading as 8 bits would cut"
    return f"{problem}; stretch them to 8 bits first: data tile --stretch 0,3000"


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return an image as BGR, (H, W, 3), upright by its EXIF orientation.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is no image or a damaged one, too large to be read at once, or of more than 8 bits a value.
    """
    with open_image(path) as image:
        if depth := image_depth(image):
            raise ValueError(too_deep(path, depth))
        check_pixels(path, image.size)
        pixels = None if image.format in PILLOW_ONLY else _decode(path)
        if pixels is None:
            try:
                pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))[..., ::-1]
            except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
                raise DamagedError(f"{path}: image cannot be read: {error}") from None
    if pixels.dtype != np.uint8:
        raise ValueError(too_deep(path, str(pixels.dtype)))
    return np.ascontiguousarray(pixels)


def _decode(path: Path) -> NDArray[Any] | None:
    """Decode by OpenCV from memory: reading by path fails for turned TIFFs, and for some names on Windows."""
    content = np.fromfile(path, np.uint8)
    pixels: NDArray[Any] | None = None
    with suppress(cv2.error):  # for a file without a byte, and for sides above 2^20 px
        pixels = cv2.imdecode(content, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    return pixels


def _orientation(image: ImageFile.ImageFile) -> int:
    try:
        # a TIFF's own tags: Pillow takes the orientation out of what it shows as EXIF
        tags = getattr(image, "tag_v2", None) if image.format == "TIFF" else image.getexif()
        return int((tags or {}).get(ExifTags.Base.Orientation, 1))
    except (OSError, SyntaxError, TypeError, ValueError, struct.error):
        return 1
