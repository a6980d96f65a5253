"""What windows of a scene hold: layouts, bands, stretch, nodata, damage."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from rfla_yolo.scenes import Window
from rfla_yolo.scenes.images import read_image
from rfla_yolo.scenes.source import DamagedError, Picture, find_sources, open_source

from .conftest import rectangles

rasterio = pytest.importorskip("rasterio")
LAYOUTS = {
    "striped": {},
    "one strip a row": {"blockysize": 1},
    "tiled": {"tiled": True, "blockxsize": 64, "blockysize": 32, "compress": "deflate"},
    "planes": {"interleave": "band", "tiled": True, "blockxsize": 64, "blockysize": 64},
    "BigTIFF": {"BIGTIFF": "YES", "compress": "lzw"},
    "COG": {"driver": "COG", "blocksize": 128},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_windows_hold_what_was_written(layout, write_tiff):
    picture, _ = rectangles(300, 200)
    with open_source(write_tiff(picture, **LAYOUTS[layout])) as source:
        source.prepare(64)
        assert (source.width, source.height) == (300, 200)
        for left, top, width, height in [(0, 0, 300, 200), (37, 51, 100, 60), (299, 199, 1, 1)]:
            expected = picture[top : top + height, left : left + width]
            np.testing.assert_array_equal(source.read(Window(left, top, width, height)), expected)
        assert source.overview(150).shape == (100, 150, 3)


def test_pictures_are_read_upright_and_without_rasterio(tmp_path):
    picture, _ = rectangles(60, 40, 4)
    cv2.imwrite(str(tmp_path / "a.png"), picture[..., ::-1])
    exif = Image.Exif()
    exif[0x0112] = 6  # turn to the right
    Image.fromarray(picture).save(tmp_path / "b.jpg", quality=100, subsampling=0, exif=exif)
    Image.fromarray(picture).save(tmp_path / "c.tif", exif=exif)
    with open_source(tmp_path / "a.png") as source:
        np.testing.assert_array_equal(source.read(Window(3, 5, 20, 30)), picture[5:35, 3:23])
    for name in ("b.jpg", "c.tif"):
        with open_source(tmp_path / name) as source:
            assert isinstance(source, Picture)
            assert (source.width, source.height) == (40, 60)
            difference = source.read(Window(0, 0, 40, 60)).astype(int) - np.rot90(picture, -1)
            assert np.abs(difference).mean() < 6


def test_deep_values_need_a_stretch(write_tiff, tmp_path):
    values = np.random.default_rng(0).integers(200, 3000, (50, 60, 4)).astype(np.uint16)
    path = write_tiff(values)
    with pytest.raises(ValueError, match=r"scene.tif: holds uint16 values, not 8-bit ones: give --stretch"):
        open_source(path)
    with open_source(path, stretch=[0, 3000]) as source:
        got = source.read(Window(0, 0, 60, 50))
        assert np.abs(got - values[..., :3] * (255 / 3000)).max() <= 0.501  # the nearest of 256
    with open_source(path, bands=[4, 3, 2], stretch=["2%", "98%"]) as source:
        low, high = np.percentile(values[..., [3, 2, 1]], [2, 98], axis=(0, 1))
        expected = ((values[..., [3, 2, 1]] - low) * 255 / (high - low)).clip(0, 255)
        assert np.abs(source.read(Window(0, 0, 60, 50)) - expected).max() <= 0.51
    cv2.imwrite(str(tmp_path / "deep.png"), values[..., :3])
    with pytest.raises(ValueError, match="holds uint16 values"):
        open_source(tmp_path / "deep.png")
    with open_source(tmp_path / "deep.png", stretch=[0, 3000]) as source:
        assert source.read(Window(0, 0, 60, 50)).shape == (50, 60, 3)


@pytest.mark.parametrize("stretch", [[3000, 0], ["2%", "3000"], ["-1%", "98%"], ["a", "b"], [1], [1, 2, 3]])
def test_a_stretch_that_is_none_is_refused(stretch, write_tiff):
    path = write_tiff(np.zeros((8, 8, 1), dtype=np.uint16))
    with pytest.raises(ValueError, match="stretch must be LOW,HIGH"):
        open_source(path, stretch=stretch)


def test_bands(write_tiff):
    values = np.arange(5, dtype=np.uint8) * np.ones((20, 20, 5), dtype=np.uint8)
    path = write_tiff(values)
    for bands, expected in [([], [0, 1, 2]), ([5, 3, 1], [4, 2, 0]), ([4], [3, 3, 3])]:
        with open_source(path, bands=bands) as source:
            assert source.read(Window(0, 0, 20, 20))[0, 0].tolist() == expected
    for bands in ([6, 1, 2], [0], [1, 2]):
        with pytest.raises(ValueError, match=r"bands must be one or three of 1 to 5"):
            open_source(path, bands=bands)
    with rasterio.open(path, "r+") as file:  # blue, green, red, infrared as satellites have them
        names = ("blue", "green", "red", "nir", "undefined")
        file.colorinterp = [rasterio.enums.ColorInterp[name] for name in names]
    with open_source(path) as source:
        assert source.read(Window(0, 0, 20, 20))[0, 0].tolist() == [2, 1, 0]


def test_colours_by_number_are_looked_up(tmp_path):
    picture = Image.fromarray(rectangles(40, 30, 3)[0]).quantize(16)
    picture.save(tmp_path / "palette.tif")
    with open_source(tmp_path / "palette.tif") as source:
        np.testing.assert_array_equal(source.read(Window(0, 0, 40, 30)), np.asarray(picture.convert("RGB")))


def test_grey_is_read_as_in_training(write_tiff, tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (30, 40, 1), dtype=np.uint8)
    paths = [write_tiff(grey, "white.tif", photometric="MINISWHITE")]
    paths += [write_tiff(grey >> 8 - bits, f"{bits}.tif", nbits=bits) for bits in (1, 2, 4)]
    paths += [write_tiff(grey >> 7, "1w.tif", nbits=1, photometric="MINISWHITE")]
    for path in paths:
        with open_source(path) as source, Image.open(path) as image:
            expected = np.asarray(image.convert("RGB"))
            np.testing.assert_array_equal(source.read(Window(0, 0, 40, 30)), expected, err_msg=path.name)
    assert np.array_equal(read_image(paths[0])[..., 0], 255 - grey[..., 0])


def test_nodata_of_one_band_does_not_count_in_its_percentiles(write_tiff):
    values = np.random.default_rng(0).integers(1000, 3000, (60, 80, 3), dtype=np.uint16)
    values[:40, :, 1] = 0
    with open_source(write_tiff(values, nodata=0), stretch=["2%", "98%"]) as source:
        expected = np.percentile(values[40:, :, 1], [2, 98])
        np.testing.assert_allclose(source._limits[:, 1], expected, atol=5)


def test_what_bands_and_stretch_cannot_follow_is_refused(write_tiff, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(rectangles(40, 30, 3)[0]).save(tmp_path / "turned.jpg", exif=exif)
    for options in ({"bands": [1]}, {"stretch": [0, 200]}):
        with pytest.raises(ValueError, match=r"turned.jpg: is turned by its header"):
            open_source(tmp_path / "turned.jpg", **options)
    path = write_tiff(rectangles(40, 30, 3)[0])
    with pytest.raises(ValueError, match="stretch must be"):
        open_source(path, stretch=[0, float("inf")])
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{i + 1}"/>' for i, kind in enumerate(("Byte", "Float32", "Byte"))
    )
    (tmp_path / "mix.vrt").write_text(f'<VRTDataset rasterXSize="40" rasterYSize="30">{bands}</VRTDataset>')
    with pytest.raises(ValueError, match=r"mix.vrt: bands 1, 2, 3 hold values of several types, float32, uint8"):
        open_source(tmp_path / "mix.vrt", stretch=[0, 1])


def test_a_palette_of_16_bits(tmp_path):
    numbers = np.arange(1200, dtype=np.uint16).reshape(1, 30, 40) % 700
    profile = {"driver": "GTiff", "dtype": "uint16", "count": 1, "width": 40, "height": 30, "photometric": "palette"}
    with rasterio.open(tmp_path / "p.tif", "w", **profile) as file:
        file.write(numbers)
        file.write_colormap(1, {i: (i % 256, i // 256, 7, 255) for i in range(700)})
    with open_source(tmp_path / "p.tif") as source:
        found = source.read(Window(0, 0, 40, 30))
    np.testing.assert_array_equal(found[..., 0], numbers[0] % 256)
    np.testing.assert_array_equal(found[..., 1], numbers[0] // 256)


@pytest.mark.parametrize("bend", [0, 0.002])
def test_ground_control_points_place_a_scene_where_they_fit(bend, tmp_path):
    point = rasterio.control.GroundControlPoint
    corners = [
        point(0, 0, 10, 50),
        point(0, 40, 10.01, 50),
        point(30, 0, 10, 49.99),
        point(30, 40, 10.01 + bend, 49.99),
    ]
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "width": 40, "height": 30}
    with rasterio.open(tmp_path / "g.tif", "w", **profile, crs="EPSG:4326", gcps=corners) as file:
        file.write(np.ones((3, 30, 40), dtype=np.uint8))
    if bend:
        with pytest.warns(UserWarning, match=r"g.tif: no affine map fits"), open_source(tmp_path / "g.tif") as source:
            assert source.place.crs is None
        return
    with open_source(tmp_path / "g.tif") as source:
        found = source.place.to_lonlat(source.place.corners(np.array([[0.0, 0, 40, 30]])))
    np.testing.assert_allclose(found[0], [[10, 50], [10, 49.99], [10.01, 49.99], [10.01, 50]], atol=1e-9)


def test_windows_without_a_valid_pixel_are_none(write_tiff):
    picture, _ = rectangles(100, 60)
    picture[:, :50] = 0
    mask = np.full((60, 100), 255, dtype=np.uint8)
    mask[:, :50] = 0
    alpha = np.concatenate([picture, mask[..., None]], 2)
    for path in (
        write_tiff(picture, "nodata.tif", nodata=0),
        write_tiff(picture, "mask.tif", mask=mask),
        write_tiff(alpha, "alpha.tif", photometric="RGB", ALPHA="YES"),
    ):
        with open_source(path) as source:
            assert source.read(Window(0, 0, 50, 60)) is None
            np.testing.assert_array_equal(source.read(Window(40, 0, 50, 60)), picture[:, 40:90])
    floats = picture.astype(np.float32)
    floats[:, :50] = np.nan
    with open_source(write_tiff(floats, "nan.tif"), stretch=[0, 255]) as source:
        assert source.read(Window(0, 0, 50, 60)) is None
        np.testing.assert_array_equal(source.read(Window(40, 0, 50, 60)), picture[:, 40:90])


def test_damage_is_named_by_its_window(write_tiff):
    path = write_tiff(rectangles(256, 256)[0], tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    with rasterio.open(path) as file:
        offset = int(file.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * 64)
    with open_source(path) as source:
        assert source.read(Window(128, 128, 64, 64)) is not None
        with pytest.raises(DamagedError, match=r"scene.tif: the window of 50 x 40 px at 70, 80 cannot be read"):
            source.read(Window(70, 80, 50, 40))


def test_what_a_source_names(tmp_path):
    for name in ("b.jpg", "a.tif", "notes.md", "c.PNG"):
        (tmp_path / name).touch()
    assert [path.name for path in find_sources(tmp_path)] == ["a.tif", "b.jpg", "c.PNG"]
    assert find_sources(tmp_path / "*.jpg") == [tmp_path / "b.jpg"]
    (tmp_path / "list.txt").write_text(f"./a.tif\n\n{tmp_path / 'b.jpg'}\n")
    assert find_sources(tmp_path / "list.txt") == [tmp_path / "a.tif", tmp_path / "b.jpg"]
    (tmp_path / "list.txt").write_text(f"\ufeff./a.tif\n{tmp_path / 'a.tif'}\n./x/../b.jpg\n./b.jpg\n", "utf-8")
    (tmp_path / "x").mkdir()
    assert [file.name for file in find_sources(tmp_path / "list.txt")] == ["a.tif", "b.jpg"]
    (tmp_path / "list.txt").write_text("./d.tif\n")
    for wrong in (tmp_path / "list.txt", tmp_path / "d*.tif", Path("nowhere")):
        with pytest.raises(FileNotFoundError, match="no such file"):
            find_sources(wrong)
    with pytest.raises(ValueError, match=r"notes.md is of none of the kinds"):
        find_sources(tmp_path / "notes.md")
    with pytest.raises(ValueError, match=r"a.tif: is no raster"):
        open_source(tmp_path / "a.tif")
