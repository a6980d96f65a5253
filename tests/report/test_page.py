"""A page is one file that says what it was told, text columns on the left."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from rfla_yolo.report import Page


@pytest.fixture
def page(tmp_path):
    return Page(tmp_path / "made" / "here", "Figures & more")


def test_text_columns_are_left_aligned_and_wrap(page):
    page.table(["class", "AP", "note"], [["ship", "12.3", "a long sentence"]], text=["note"])
    html = page.write().read_text()
    assert "<th scope=col>AP</th><th scope=col class=text>note</th>" in html
    assert "<td>ship</td><td>12.3</td><td class=text>a long sentence</td>" in html
    assert re.search(r"th:first-child, td:first-child, \.text \{ text-align: left \}", html)
    assert re.search(r"td\.text \{ white-space: normal", html)


def test_what_is_told_is_escaped(page):
    page.heading("<1 px")
    page.text("a & b")
    page.table(["<b>"], [["<i>"]])
    html = page.write().read_text()
    assert all(text in html for text in ("Figures &amp; more", "&lt;1 px", "a &amp; b", "&lt;b&gt;", "&lt;i&gt;"))


def test_a_picture_is_shown_pixel_by_pixel(page):
    pixels = np.random.default_rng(0).integers(256, size=(5, 7, 3), dtype=np.uint8)
    page.picture("small", pixels, "seven by five")
    assert '<img src="small.png" alt="seven by five">' in page.write().read_text()
    np.testing.assert_array_equal(np.asarray(Image.open(page.folder / "small.png").convert("RGB")), pixels)
