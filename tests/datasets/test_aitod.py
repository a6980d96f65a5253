"""AI-TOD from a miniature of its parts: tiles, names, labels, counts; interrupted and damaged builds."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from rfla_yolo.cli import main
from rfla_yolo.datasets import aitod, build_aitod
from rfla_yolo.datasets.aitod import tile_starts

NAMES = ["airplane", "bridge", "storage-tank", "ship", "swimming-pool", "vehicle", "person", "wind-mill"]
TILES = {  # by hand: of 1700 x 900 px the columns start at 0, 600, 900 and the rows at 0, 100; 500 px need padding
    "train": ["24__0_0.png", "24__900_100.png", "7__0_0.png"],
    "val": ["24__600_0.png"],
    "test": ["24__0_100.png"],
}
OWN = {"train": ["P0001.png"], "val": ["P0002.png"], "test": ["P0003.png", "P0004.png"]}
FILE_NAMES = {
    "v1": {"train": "aitod_training_v1.json", "val": "aitod_validation_v1.json", "test": "aitod_test_v1.json"},
    "v2": {"train": "aitodv2_train.json", "val": "aitodv2_val.json", "test": "aitodv2_test.json"},
}


def make_sources(root: Path, version: str = "v1", tile: int = 800) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tifs = {}
    for name, (width, height) in {"24": (1700, 900), "7": (500, 640)}.items():
        smooth = cv2.resize(rng.integers(0, 255, (9, 17, 3), dtype=np.uint8), (width, height))
        (root / "xview" / "train_images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth).save(root / "xview" / "train_images" / f"{name}.tif")
        tifs[name] = smooth  # RGB
    (root / "xview" / "xView_train.geojson").write_text('{"features": [{"properties": {"image_id": ')  # broken
    lists = root / "toolkit" / "aitodtoolkit" / "aitod_xview"
    lists.mkdir(parents=True)
    for split in ("train", "val", "test"):
        (lists / f"aitod_xview_{split}.txt").write_text(str(TILES[split]))  # a Python list on one line, as published
        folder = root / "aitod" / "images" / split
        folder.mkdir(parents=True)
        images, annotations = [], []
        for name in OWN[split] + TILES[split]:
            images.append({"id": len(images) + 1, "file_name": name, "width": 800, "height": 800})
            for box in ([100, 200, 8, 4], [790, 790, 20, 20]):
                annotations.append({
                    "id": len(annotations) + 1, "image_id": len(images), "category_id": 1 + len(annotations) % 8,
                    "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
                })  # fmt: skip
        for name in OWN[split]:
            cv2.imwrite(str(folder / name), rng.integers(0, 255, (800, 800, 3), dtype=np.uint8))
        categories = [{"id": i, "name": n} for i, n in enumerate(NAMES, start=1)]
        (root / "aitod" / "annotations").mkdir(exist_ok=True)
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "aitod" / "annotations" / FILE_NAMES[version][split]).write_text(json.dumps(content))
    return tifs


@pytest.fixture
def published(monkeypatch):
    counts = {"train": 4, "val": 2, "test": 3, "boxes": 18}
    monkeypatch.setattr(aitod, "PUBLISHED", {"v1": counts, "v2": {**counts, "boxes": 0}})  # 18, to hundreds


def build(root: Path, out: str = "out", **options):
    options = {"workers": 1, **options}
    return build_aitod(root / "aitod", root / "xview", root / "toolkit", root / out, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("size", "starts"),
    [
        (500, [0]), (800, [0]), (801, [0, 1]), (900, [0, 100]), (1400, [0, 600]), (1401, [0, 600, 601]),
        (1700, [0, 600, 900]), (2600, [0, 600, 1200, 1800]), (3000, [0, 600, 1200, 1800, 2200]),
    ],
)  # fmt: skip
def test_tile_starts(size, starts):
    assert tile_starts(size) == starts


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("order", ["official", "rgb"])
def test_tiles_labels_names_and_counts(tmp_path, published, version, order):
    tifs = make_sources(tmp_path, version)
    report = build(tmp_path, version=version, channel_order=order)
    out = tmp_path / "out"
    assert report["problems"] == []
    for split in TILES:
        assert sorted(p.name for p in (out / "images" / split).iterdir()) == sorted(OWN[split] + TILES[split])
        for name in TILES[split]:
            source, corner = name.removesuffix(".png").split("__")
            left, top = map(int, corner.split("_"))
            expected = np.zeros((800, 800, 3), np.uint8)
            part = tifs[source][top : top + 800, left : left + 800]
            expected[: part.shape[0], : part.shape[1]] = part
            stored = cv2.imread(str(out / "images" / split / name))  # BGR
            # the toolkit hands RGB to a writer of BGR: what it stores as blue is red
            assert np.array_equal(stored, expected if order == "official" else expected[..., ::-1])
        for name in OWN[split]:
            assert (out / "images" / split / name).read_bytes() == (
                tmp_path / "aitod/images" / split / name
            ).read_bytes()
    assert (out / "labels/val/P0002.txt").read_text() == (
        "0 0.13000000 0.25250000 0.01000000 0.00500000\n1 0.99375000 0.99375000 0.01250000 0.01250000\n"
    )
    counts = report["splits"]["train"]
    assert counts["images"] == 4 and counts["boxes_written"] == 8 and counts["clipped"] == 4
    assert counts["sizes"] == {"vt": 4, "t": 4, "s": 0, "m": 0}
    data = yaml.safe_load((out / {"v1": "aitod.yaml", "v2": "aitodv2.yaml"}[version]).read_text())
    assert list(data["names"].values()) == NAMES and data["path"] == str(out)
    for file in data["annotations"].values():
        assert (out / file).is_file()


def test_missing_and_damaged_sources_are_named_and_the_build_goes_on(tmp_path, published, capsys):
    make_sources(tmp_path)
    (tmp_path / "xview/train_images/7.tif").unlink()
    tif = tmp_path / "xview/train_images/24.tif"
    whole = tif.read_bytes()
    tif.write_bytes(whole[: len(whole) // 3])
    own = tmp_path / "aitod/images/test/P0004.png"
    png = own.read_bytes()
    own.write_bytes(png[:-500])
    arguments = ["--aitod", "aitod", "--xview", "xview", "--toolkit", "toolkit", "--out", "out", "--workers", "2"]
    command = ["data", "aitod", *(str(tmp_path / a) if not a.startswith("-") and a != "2" else a for a in arguments)]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 1
    problems = capsys.readouterr().err
    assert "xView image 7.tif: not found; 1 images missing: 7__0_0.png" in problems
    assert "24.tif: cannot be read" in problems and "4 images missing" in problems
    assert "P0004.png: cannot be read" in problems
    assert (tmp_path / "out/images/train/P0001.png").is_file()  # the rest is there
    tif.write_bytes(whole)
    own.write_bytes(png)
    Image.new("RGB", (500, 640)).save(tmp_path / "xview/train_images/7.tif")
    main(command)
    assert "Wrote" in capsys.readouterr().out


def test_an_own_image_of_another_size_is_a_problem(tmp_path, published):
    make_sources(tmp_path)
    Image.new("RGB", (400, 400)).save(tmp_path / "aitod/images/test/P0004.png")
    problems = build(tmp_path)["problems"]
    assert len(problems) == 1 and "P0004.png: cannot be read (it is of 400 x 400 px, AI-TOD's are of 800" in problems[0]


def test_ids_as_text_lose_no_labels(tmp_path, published):
    make_sources(tmp_path)
    file = tmp_path / "aitod/annotations/aitod_training_v1.json"
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])
    file.write_text(json.dumps(content))
    assert build(tmp_path)["splits"]["train"]["boxes_written"] == 8
    content["annotations"][3]["image_id"] = 99
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"aitod_training_v1\.json: annotation 4: image_id 99 is none of the 4 listed"):
        build(tmp_path, "out2")


def test_wrong_counts_are_a_problem(tmp_path):
    make_sources(tmp_path)
    problems = build(tmp_path)["problems"]
    assert problems[0] == "images of train: 4, published are 11214"
    assert problems[-1] == "boxes: 18, published are 700621"


def test_an_image_of_another_size_is_a_problem(tmp_path, published):
    make_sources(tmp_path)
    Image.new("RGB", (1600, 900)).save(tmp_path / "xview/train_images/24.tif")
    problems = build(tmp_path)["problems"]
    assert len(problems) == 1
    assert "24.tif: of 1600 x 900 px has no tile at 900, 100; 24__900_100.png missing" in problems[0]


def test_bad_input_is_named(tmp_path):
    make_sources(tmp_path)
    with pytest.raises(ValueError, match="version must be 'v1' or 'v2', not 'v3'"):
        build(tmp_path, version="v3")
    with pytest.raises(ValueError, match="channel-order must be"):
        build(tmp_path, channel_order="bgr")
    with pytest.raises(FileNotFoundError, match=r"none of aitodv2_train\.json"):
        build(tmp_path, version="v2")
    with pytest.raises(FileNotFoundError, match="xview: no such folder"):
        build_aitod(tmp_path / "aitod", tmp_path / "nowhere", tmp_path / "toolkit", tmp_path / "out")
    build(tmp_path)
    with pytest.raises(ValueError, match="was begun with channel_order 'official', not 'rgb'"):
        build(tmp_path, channel_order="rgb")


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_a_random_moment_and_started_again(tmp_path, seed):
    """Byte for byte the same as an undisturbed build."""
    make_sources(tmp_path)
    root = Path(__file__).parents[2]

    def command(out):
        arguments = [f"--{n}={tmp_path / n}" for n in ("aitod", "xview", "toolkit")]
        code = "import sys; from rfla_yolo.cli import entry; entry()"
        return [sys.executable, "-c", code, "data", "aitod", *arguments, f"--out={tmp_path / out}", "--workers=2"]

    def run(out):
        return subprocess.run(command(out), cwd=root, capture_output=True, text=True)

    start = time.perf_counter()
    assert run("whole").returncode == 1  # the counts are not those published
    took = time.perf_counter() - start
    process = subprocess.Popen(
        command("killed"), cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(random.Random(seed).uniform(0.3, 1.0) * took)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    killed = tmp_path / "killed"
    if killed.is_dir():  # what a kill in the middle of writing leaves
        (killed / "half.png.1234.part").write_bytes(b"half")
    assert run("killed").returncode == 1
    ours, theirs = content(killed), content(tmp_path / "whole")
    for name in ("aitod.yaml", "aitod-trainval.yaml"):  # they name their own folder
        ours[name] = ours[name].replace(str(killed).encode(), b"OUT")
        theirs[name] = theirs[name].replace(str(tmp_path / "whole").encode(), b"OUT")
    assert ours == theirs
