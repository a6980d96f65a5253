"""Images of earlier runs: what has gone or changed at the source does not stay in the dataset."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from rfla_yolo.datasets.writer import Record, claim_folder, write_dataset


def record(path, seed=0):
    image = np.random.default_rng(seed).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
    none = np.zeros((0, 4)), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)
    return Record(path, path.name, 30, 20, *none)


def build(out, **splits):
    return write_dataset(claim_folder(out, {"command": "test"}), splits, ("ship",), {})


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_gone_and_replaced_sources_are_forgotten(tmp_path):
    out, source = tmp_path / "out", tmp_path / "source"
    first = [record(source / name) for name in ("a.png", "b.png", "c.png")]
    build(out, train=first, test=[record(source / "d.png")])
    (out / "images/train/a.npy").touch()  # what training keeps beside an image
    (out / "images/train/b.npy").touch()
    (source / "b.png").unlink()
    before = (out / "images/train/c.png").stat()
    build(out, train=[record(source / "a.png", seed=1), first[2]])
    assert (out / "images/train/c.png").stat().st_mtime_ns == before.st_mtime_ns  # not written again
    assert (out / "images/train/a.png").read_bytes() == (source / "a.png").read_bytes()
    again = content(out)
    shutil.rmtree(out)
    build(out, train=[record(source / "a.png", seed=1), first[2]])
    fresh = content(out)
    del again["sources.json"], fresh["sources.json"]  # a.png has been written once more
    assert again == fresh


@pytest.mark.parametrize("saved", [False, True])
def test_an_image_without_a_byte_is_written_again(tmp_path, saved):
    """As a full disk or a crash of the machine leaves it; copied images and those made by ``save``."""
    one = record(tmp_path / "source/a.png")
    if saved:
        one = replace(one, save=lambda target: shutil.copyfile(one.image, target))
    build(tmp_path / "out", train=[one])
    before = content(tmp_path / "out")
    (tmp_path / "out/images/train/a.png").write_bytes(b"")
    build(tmp_path / "out", train=[one])
    assert content(tmp_path / "out") == before


def test_the_same_bytes_at_another_time_or_place(tmp_path):
    """Bytes may be the same in number: time and path tell files apart."""
    out = tmp_path / "out"
    one = record(tmp_path / "1" / "a.bmp", seed=1)
    build(out, train=[one])
    state = one.image.stat()
    record(one.image, seed=2)
    os.utime(one.image, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    build(out, train=[one])
    assert (out / "images/train/a.bmp").read_bytes() == one.image.read_bytes()
    other = record(tmp_path / "2" / "a.bmp", seed=3)
    os.utime(other.image, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    build(out, train=[other])
    assert (out / "images/train/a.bmp").read_bytes() == other.image.read_bytes()


def test_names_are_checked_before_anything_is_removed(tmp_path):
    first = record(tmp_path / "1" / "a.png")
    build(tmp_path / "out", train=[first])
    with pytest.raises(ValueError, match="train: two images are called 'a'"):
        build(tmp_path / "out", train=[first, record(tmp_path / "2" / "a.png")])
    assert (tmp_path / "out/images/train/a.png").is_file()
