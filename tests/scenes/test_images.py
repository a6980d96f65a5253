"""Opening and reading images: sizes as training sees them, and errors that name the file."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from ultralytics.data.utils import exif_size, verify_image_label
from ultralytics.utils.patches import imread

from rfla_yolo.engine.data import _explain
from rfla_yolo.scenes.images import check_depth, explain_image, image_size, open_image, read_image

PIXELS = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


def grey_png(width: int, height: int) -> bytes:
    """A PNG of one grey, a bit a pixel, so that a huge one is small and quick."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = bytes(1 + (width + 7) // 8)
    packed = zlib.compressobj(1)
    data = b"".join(packed.compress(row) for _ in range(height)) + packed.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "avif"])
def test_upright_as_ultralytics_reads_it(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"ä.{kind}"
    Image.fromarray(PIXELS).save(path, exif=exif)
    size = image_size(path)
    assert size == ((40, 60) if orientation > 4 else (60, 40))
    with Image.open(path) as opened:
        assert size == exif_size(opened)
    picture = read_image(path)
    assert picture.dtype == np.uint8 and picture.shape[1::-1] == size
    assert np.array_equal(picture, imread(path))


def test_grey_and_transparent_are_bgr(tmp_path):
    for name, pixels in (("grey.png", PIXELS[..., 0]), ("alpha.png", np.dstack([PIXELS, PIXELS[..., :1]]))):
        cv2.imwrite(str(tmp_path / name), pixels)
        assert np.array_equal(read_image(tmp_path / name), cv2.imread(str(tmp_path / name)))


@pytest.mark.parametrize("content", [b"", b"no image\n", b"\x89PNG\r\n\x1a\n", b"<html>"])
def test_what_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "page.jpg"
    path.write_bytes(content)
    for read in (open_image, image_size, read_image, check_depth):
        with pytest.raises(ValueError, match=r"page\.jpg: is no image"):
            read(path)
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        image_size(tmp_path / "none.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_half_an_image_is_refused(tmp_path, suffix):
    path = tmp_path / f"half.{suffix}"
    cv2.imwrite(str(path), PIXELS)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert image_size(path) == (60, 40)
    with pytest.raises(ValueError, match=r"half\.\w+: image cannot be read"):
        read_image(path)


@pytest.mark.parametrize("name", ["grey.png", "rgb.png", "rgba.png", "grey.tif", "rgb.tif", "rgb.ppm"])
def test_sixteen_bits_are_refused_by_file_and_type(tmp_path, name):
    wide = np.random.default_rng(0).integers(0, 65535, (40, 60, 4), dtype=np.uint16)
    channels = {"grey": wide[..., 0], "rgb": wide[..., :3], "rgba": wide}[name.split(".")[0]]
    cv2.imwrite(str(tmp_path / name), channels)
    assert image_size(tmp_path / name) == (60, 40)
    for read in (check_depth, read_image):
        with pytest.raises(ValueError, match=rf"{name}: holds uint16 values"):
            read(tmp_path / name)


@pytest.mark.parametrize("channels", [1, 3])
def test_floats_are_refused_by_file_and_type(tmp_path, channels):
    cv2.imwrite(str(tmp_path / "f.tif"), PIXELS[..., :channels].astype(np.float32))
    for read in (check_depth, read_image):
        with pytest.raises(ValueError, match=r"f\.tif: holds float32 values"):
            read(tmp_path / "f.tif")


def planar_tiff(bits: int, width: int = 60, height: int = 40) -> bytes:
    """A TIFF of three colours, each in a plane of its own."""
    plane = bytes(width * height * bits // 8)
    arrays = (
        struct.pack("<3H", bits, bits, bits),
        *[struct.pack("<3I", *numbers) for numbers in ([8 + i * len(plane) for i in range(3)], [len(plane)] * 3)],
    )
    places = [8 + 3 * len(plane) + sum(map(len, arrays[:i])) for i in range(4)]
    tags = [
        *((256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, places[0]), (259, 3, 1, 1), (262, 3, 1, 2)),
        *((273, 4, 3, places[1]), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 3, places[2]), (284, 3, 1, 2)),
    ]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    header = b"II*\0" + struct.pack("<I", places[3])
    return header + 3 * plane + b"".join(arrays) + struct.pack("<H", len(tags)) + entries + bytes(4)


def write_coded(path, bits: int) -> None:
    """Write an image of three colours with so many bits a value."""
    wide = (np.random.default_rng(0).integers(0, 2**bits, (40, 60, 3))).astype(np.uint8 if bits == 8 else np.uint16)
    if path.suffix == ".tif":
        path.write_bytes(planar_tiff(bits))
    else:
        assert cv2.imwrite(str(path), wide, [cv2.IMWRITE_AVIF_DEPTH, bits] if path.suffix == ".avif" else [])


@pytest.mark.parametrize(("name", "bits"), [("planar.tif", 16), ("c.jp2", 16), ("c.avif", 10), ("c.avif", 12)])
def test_more_than_8_bits_that_pillow_does_not_tell(tmp_path, name, bits):
    write_coded(tmp_path / name, bits)
    for read in (check_depth, read_image):
        with pytest.raises(ValueError, match=rf"{name}: holds {bits}-bit values"):
            read(tmp_path / name)
    assert f"holds {bits}-bit values" in explain_image(tmp_path / name)
    write_coded(tmp_path / name, 8)
    check_depth(tmp_path / name)
    assert explain_image(tmp_path / name) == "" and read_image(tmp_path / name).shape == (40, 60, 3)


def test_above_the_limit_of_pillow(tmp_path):
    width, height = 20_000, 9_000  # 180 million px; Pillow's limit is 178,956,970
    (tmp_path / "big.png").write_bytes(grey_png(width, height))
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "big.png")
    assert image_size(tmp_path / "big.png") == (width, height)
    assert read_image(tmp_path / "big.png").shape == (height, width, 3)


def test_a_side_above_the_limit_of_opencv(tmp_path):
    (tmp_path / "strip.png").write_bytes(grey_png(2**20 + 1, 10))
    assert read_image(tmp_path / "strip.png").shape == (10, 2**20 + 1, 3)


def test_what_cannot_be_read_at_once_is_named(tmp_path):
    (tmp_path / "scene.png").write_bytes(grey_png(2**15, 2**15 + 1))
    assert image_size(tmp_path / "scene.png") == (2**15, 2**15 + 1)
    with pytest.raises(ValueError, match=r"scene\.png: 32768 x 32769 px are more than the 1,073,741,824 read at once"):
        read_image(tmp_path / "scene.png")


@pytest.mark.parametrize(
    ("name", "kind", "size", "words"),
    [
        ("a.png", "PNG", (10, 10), ""),
        ("a.jpg", "JPEG", (400, 10), ""),
        ("a.tif", "TIFF", (40, 10), ""),
        ("a.png", "PNG", (40, 9), "a.png: of 40 x 9 px; training leaves out images under 10 px"),
        ("a.png", "GIF", (40, 40), "a.png: is a GIF, which training leaves out"),
        ("a.bmp", "PPM", (40, 40), "a.bmp: is a PPM, which training leaves out"),
    ],
)
def test_explain_image_agrees_with_ultralytics(tmp_path, name, kind, size, words):
    Image.new("RGB", size).save(tmp_path / name, kind)
    assert (words in explain_image(tmp_path / name)) and bool(explain_image(tmp_path / name)) == bool(words)
    stock = verify_image_label((str(tmp_path / name), str(tmp_path / "a.txt"), "", False, 1, 0, 0, False))
    assert (stock[0] is None) == bool(words)


def test_training_says_why_it_leaves_images_out(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png", "GIF")
    (tmp_path / "b.png").write_text("<html>")
    (tmp_path / "c.png").write_bytes(grey_png(20_000, 9_000))
    message = _explain([str(tmp_path / f"{name}.png") for name in "abc"], num_classes=1, keypoints=None)
    assert "a.png: is a GIF" in message and "b.png: is no image" in message
    assert "c.png: is damaged, or above 178,956,970 px and to be cut by 'rfla-yolo data tile'" in message
