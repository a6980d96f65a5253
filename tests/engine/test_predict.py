"""A checkpoint and an exported file as detectors of tiles, and whole runs with them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from ultralytics import YOLO
from ultralytics.utils import LOGGER

from benchmarks.predict import untrained
from rfla_yolo import RFLAYOLO, predict_scene, predict_scene_rows
from rfla_yolo.engine.data import measure_objects
from rfla_yolo.engine.predict import TileDetector, merged_from, predict_files
from rfla_yolo.scenes.detections import Detections, concatenate

from ..scenes.conftest import rectangles

SIZE = 96


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model that finds many things, in the folder of a run."""
    network = untrained(images=np.stack(tiles()), share=0.1)
    network.names = {0: "car", 1: "ship", **{i: f"class {i}" for i in range(2, 80)}}
    network.objects = {"side_max": 30.0, "side_p999": 20.0, "scale": 1.0}
    path = tmp_path_factory.mktemp("run") / "weights" / "best.pt"
    path.parent.mkdir()
    torch.save({"model": network, "train_args": {"imgsz": SIZE, "task": "detect"}, "epoch": -1}, path)
    return path


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(LOGGER, "warning", said.append)
    return said


def tiles(number: int = 3, size: int = SIZE) -> list[np.ndarray]:
    return [rectangles(size, size, 10, seed)[0] for seed in range(number)]


def wanted(detector: TileDetector, found: Detections) -> Detections:
    """Return what reaches the scores that are wanted."""
    return found.take(found.score >= detector.conf[found.label])


def same(found: Detections, expected: np.ndarray, lone: float = 0) -> None:
    """Check that detections are these rows of xyxy, score, class, in any order: equal scores have none.

    Of a file, whose kernels round otherwise, a share may be ``lone``: suppression decides at a threshold.
    """
    rows = np.concatenate([found.bbox.clip(0, SIZE), found.score[:, None], found.label[:, None]], 1)
    apart = np.abs(rows[:, None] - expected[None]).max(2)
    assert len(expected) > 20
    assert (lone or len(rows) == len(expected)) and all((apart.min(axis) > 5e-3).mean() <= lone for axis in (0, 1))


def test_tiles_give_what_ultralytics_predicts(weights):
    detector = TileDetector(weights, conf=0.3)
    model = RFLAYOLO(weights)
    for tile, found in zip(tiles(), detector(tiles())):
        expected = model.predict(tile[..., ::-1], imgsz=SIZE, conf=0.3, verbose=False)[0].boxes
        same(wanted(detector, found), expected.data.numpy())
        assert len(found) > len(expected) and found.score.min() >= 0.15


def test_tiles_of_other_sizes_are_padded_not_resized(weights):
    detector = TileDetector(weights, conf=0.3)
    small = tiles(1)[0][:70, :50]
    padded = np.full((SIZE, 64, 3), 114, dtype=np.uint8)
    padded[:70, :50] = small
    one, other = detector([small])[0], detector([padded])[0]
    assert len(one) > 5
    np.testing.assert_allclose(one.bbox, other.bbox, atol=1e-3)


def test_an_exported_file_finds_the_same(weights):
    pytest.importorskip("onnxruntime")
    file = RFLAYOLO(weights).export(format="onnx", imgsz=SIZE, simplify=False)
    one, other = TileDetector(weights, conf=0.3)(tiles()), TileDetector(file, conf=0.3)(tiles())
    for a, b in zip(one, other):
        same(a, np.concatenate([b.bbox.clip(0, SIZE), b.score[:, None], b.label[:, None]], 1), lone=0.02)
    assert TileDetector(file).imgsz == SIZE
    for tile in (64, 128):
        with pytest.raises(
            ValueError, match=rf"tile must be the exported file's 96 x 96 px, not {tile} x {tile}: leave"
        ):
            predict_scene(file, tiles()[0], tile=tile)


def test_a_file_for_oblong_pictures_gets_tiles_of_its_shorter_side(weights):
    detector = TileDetector(RFLAYOLO(weights).export(format="torchscript", imgsz=[SIZE, SIZE + 32]), conf=0.3)
    assert detector.imgsz == SIZE
    detector.check_tile(SIZE)
    with pytest.raises(ValueError, match="tile must be the exported file's 96 x 128 px, not 128 x 128"):
        detector.check_tile(SIZE + 32)
    padded = np.full((SIZE, SIZE + 32, 3), 114, dtype=np.uint8)
    padded[:, :SIZE] = tiles(1)[0]
    found = TileDetector(weights, conf=0.3)([padded])[0]
    rows = np.concatenate([found.bbox.clip(0, SIZE), found.score[:, None], found.label[:, None]], 1)
    same(detector(tiles(1))[0], rows, lone=0.02)


def test_a_tile_is_full_where_the_file_gives_no_more(weights, tmp_path):
    """A file with suppression for 25 boxes: a tile that has 25 is named, though max_det is 3000."""
    file = RFLAYOLO(weights).export(format="torchscript", imgsz=SIZE, nms=True, max_det=25, conf=0.3)
    assert TileDetector(file).max_det == 25 and TileDetector(file, max_det=7).max_det == 7
    cv2.imwrite(str(tmp_path / "scene.png"), tiles(1)[0])
    tally = predict_files(file, tmp_path / "scene.png", tmp_path / "out", conf=0.3)
    assert len(tally.full) == 1 and "(--max-det or the exported file's)" in tally.text()


def test_another_file_is_no_model(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    for call in (TileDetector, RFLAYOLO):
        with pytest.raises(ValueError, match=r"notes\.txt is no .*checkpoint \(\.pt\) or exported file$"):
            call(tmp_path / "notes.txt")


def test_conf_best_takes_the_scores_that_val_wrote(weights, warnings, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"conf: best needs the metrics.json"):
        TileDetector(weights, conf="best")
    figures = {"per_class": {"car": {"threshold": 0.35}, "ship": {"threshold": 0.45}, "class 2": {"threshold": None}}}
    (weights.parents[1] / "metrics.json").write_text(json.dumps(figures))
    (tmp_path / "m.json").write_text(json.dumps(figures))
    for conf in ("best", tmp_path / "m.json"):
        detector = TileDetector(weights, conf=conf)
        np.testing.assert_allclose(detector.conf[:3], [0.35, 0.45, 0.4])
    assert "no threshold for class 2, class 3" in warnings[0]
    every = TileDetector(weights, conf=0.01)(tiles())[0]
    found = wanted(detector, detector(tiles())[0])
    expected = every.take(every.score >= detector.conf[every.label])
    np.testing.assert_allclose(found.score, expected.score, atol=1e-6)
    (tmp_path / "m.json").write_text('{"per_class": {"tree": {"threshold": 0.2}}}')
    with pytest.raises(ValueError, match="holds no threshold of any of the classes"):
        TileDetector(weights, conf=tmp_path / "m.json")


@pytest.mark.parametrize("content", ['{"per_class": [1]}', '{"per_class": {"car": 3}}', "[]", '{"per_class": null}'])
def test_odd_files_of_scores(content, weights, tmp_path):
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(ValueError, match="holds no threshold of any"):
        TileDetector(weights, conf=tmp_path / "m.json")
    for wrong in ("NaN", "-0.1", "1.5", '"a"'):
        (tmp_path / "m.json").write_text(f'{{"per_class": {{"car": {{"threshold": {wrong}}}}}}}')
        with pytest.raises(ValueError, match="the threshold of car must be in 0 to 1, not"):
            TileDetector(weights, conf=tmp_path / "m.json")


def test_numbers_as_text_and_single_classes(weights):
    one, other = TileDetector(weights, conf="0.3", classes=1), TileDetector(weights, conf=0.3, classes=[1])
    np.testing.assert_array_equal(one(tiles(1))[0].bbox, other(tiles(1))[0].bbox)


def test_an_area_that_does_not_touch_the_scene(weights, tmp_path):
    ring = [[500, 500], [600, 500], [600, 600], [500, 500]]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    with pytest.raises(ValueError, match="does not touch the scene"):
        predict_scene(weights, tiles()[0], aoi=tmp_path / "a.geojson")


def test_max_det_keeps_the_best(weights):
    every, few = TileDetector(weights, conf=0.1)(tiles(1))[0], TileDetector(weights, conf=0.1, max_det=7)(tiles(1))[0]
    np.testing.assert_array_equal(few.score, every.score[:7])
    assert (np.diff(every.score) <= 0).all()


def test_max_det_keeps_what_is_wanted_of_each_class(weights, tmp_path):
    every = TileDetector(weights, conf=0.1)(tiles(1))[0]
    rare = every.label[-1]  # its detections are weaker than those of the others
    figures = {name: {"threshold": 0.1 if k == rare else 0.9} for k, name in RFLAYOLO(weights).names.items()}
    (tmp_path / "m.json").write_text(json.dumps({"per_class": figures}))
    whole = TileDetector(weights, conf=tmp_path / "m.json")
    of_tile = whole(tiles(1))[0]
    number = len(wanted(whole, of_tile))
    assert 0 < number < len(of_tile)
    few = TileDetector(weights, conf=tmp_path / "m.json", max_det=number)(tiles(1))[0]
    np.testing.assert_array_equal(few.bbox, wanted(whole, of_tile).bbox)


@pytest.mark.parametrize(("conf", "expected"), [(0.25, 0.125), (0.015, 0.01), (0.004, 0.004), (0.0, 0.0), (1.0, 0.5)])
def test_merging_begins_below_the_score_that_is_wanted(conf, expected):
    assert merged_from(np.array([conf])).tolist() == [expected]


def test_the_one_to_one_branch(tmp_path):
    model = RFLAYOLO("yolo26n.yaml")
    detector = TileDetector(model, nms=False, conf=0.0, max_det=40)
    assert len(detector(tiles(1))[0]) <= 40
    assert model.model.model[-1].cv2 is not None  # the caller's model stays whole
    assert len(TileDetector(model, conf=0.0, max_det=50)(tiles(1))[0]) <= 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conf": 1.5}, "conf must be in 0 to 1"),
        ({"iou": -1}, "iou must be in 0 to 1"),
        ({"max_det": 0}, "max_det must be at least 1"),
        ({"classes": []}, "classes holds none"),
        ({"tile": "192"}, "tile must be a whole number of px, not '192'"),
        ({"overlap": 0.2}, "overlap must be a whole number of px, not 0.2"),
        ({"stretch": [0, 100]}, "bands and stretch are for files"),
        ({"bands": [3, 2, 1]}, "bands and stretch are for files"),
        ({"conf": "nan"}, "conf must be in 0 to 1"),
        ({"classes": [80]}, "classes must be of 0 to 79"),
        ({"tile": 0}, "tile must be at least 1 px"),
        ({"overlap": 96}, r"overlap must be in px, from 0 to below size \(96\)"),
        ({"overlaps": 3}, "unknown option 'overlaps'; did you mean 'overlap'"),
    ],
)
def test_options_out_of_range(options, message, weights):
    with pytest.raises(ValueError, match=message):
        predict_scene(weights, tiles()[0], **options)
    with pytest.raises(FileNotFoundError, match="no such file: nowhere"):
        predict_scene("nowhere.onnx", tiles()[0])


def of_task(name: str) -> RFLAYOLO:
    """An untrained model whose scores differ from place to place, of both branches."""
    torch.manual_seed(0)
    model = RFLAYOLO(f"{name}.yaml")
    head = model.model.model[-1]
    for module in model.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    for layer in [*head.cv3, *(getattr(head, "one2one_cv3", None) or [])]:
        torch.nn.init.normal_(layer[-1].weight, std=0.2)
        torch.nn.init.zeros_(layer[-1].bias)
    with torch.no_grad():
        model.model.train()(torch.from_numpy(np.stack(tiles())).permute(0, 3, 1, 2) / 255)
    model.model.eval()
    return model


@pytest.mark.parametrize(
    ("name", "nms", "left_out"),
    [("yolov8n-seg", None, "masks"), ("yolo26n-seg", False, "masks"), ("yolo26n-pose", None, "keypoints")],
)
def test_boxes_of_models_that_segment_or_find_keypoints(name, nms, left_out, warnings):
    model = of_task(name)
    detector = TileDetector(model, conf=0.5, nms=nms)
    assert [words for words in warnings if f"its boxes and scores are kept, {left_out} are left out" in words]
    for tile in tiles():
        found = detector([tile])[
            0
        ]  # one at a time, as there: in a batch the last digits differ, and with them IoUs of 0.7
        options = {"imgsz": SIZE, "conf": 0.5, "max_det": 3000, "nms": nms}
        expected = model.predict(tile[..., ::-1], verbose=False, **options)[0].boxes
        same(wanted(detector, found), expected.data.numpy())


@pytest.mark.parametrize("nms", [None, pytest.param(True, marks=pytest.mark.slow)])
def test_boxes_of_an_exported_file_that_segments(nms, tmp_path):
    pytest.importorskip("onnxruntime")
    model = of_task("yolov8n-seg")
    torch.save({"model": model.model, "train_args": {"imgsz": SIZE, "task": "segment"}}, tmp_path / "a-seg.pt")
    options = {"conf": 0.25, "iou": 0.7} if nms else {}
    file = RFLAYOLO(tmp_path / "a-seg.pt").export(format="onnx", imgsz=SIZE, simplify=False, nms=nms, **options)
    one, other = TileDetector(model, conf=0.5), TileDetector(file, conf=0.5, task="segment")
    for tile in tiles():
        a, b = one([tile])[0], other([tile])[0]
        same(a, np.concatenate([b.bbox.clip(0, SIZE), b.score[:, None], b.label[:, None]], 1), lone=0.02)
    with pytest.raises(ValueError, match=r"task must be 'segment' for model .*a-seg\.onnx, not 'detect'"):
        TileDetector(file, task="detect")


def test_other_tasks_are_refused():
    message = r"is for 'obb'; scenes are merged by axis-aligned boxes, of .*detect, segment, pose.*\.predict\("
    with pytest.raises(ValueError, match=message):
        TileDetector(YOLO("yolov8n-obb.yaml"))
    with pytest.raises(ValueError, match=r"task must be 'detect' for model yolov8n\.yaml, not 'pose'"):
        TileDetector(YOLO("yolov8n.yaml"), task="pose")


def test_tile_and_overlap_follow_the_checkpoint(weights, warnings):
    picture = rectangles(300, 200)[0]
    rows = list(predict_scene_rows(weights, picture))
    assert len(rows) == 3  # of 96 px, 24 of them shared: 20 px and the margins
    assert not warnings
    whole = predict_scene(weights, picture, tile=SIZE, overlap=24)
    np.testing.assert_array_equal(concatenate(rows).bbox, whole.bbox)
    predict_scene(weights, picture, tile=128)
    assert "tile: 128 px, but the model was trained on 96 px" in warnings[0]


def with_objects(weights: Path, path: Path, **objects: float) -> Path:
    """Save the model again, with other things kept of its objects."""
    content = torch.load(weights, weights_only=False)
    content["model"].objects = objects
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("objects", "rows", "message"),
    [
        ({}, 4, "overlap: 64 px; the model does not say how large its objects are: give --overlap for more"),
        ({"side_p999": 80.0}, 4, "overlap: 48 px, half of the tile, though the largest objects need 84 px"),
        ({"side_p999": 20.0, "scale": 0.5}, 3, "training saw its images at 0.50 times their size"),
    ],
)
def test_an_overlap_that_is_a_guess_or_too_small_is_warned_of(objects, rows, message, weights, warnings, tmp_path):
    file, picture = with_objects(weights, tmp_path / "a.pt", **objects), rectangles(200, 220)[0]
    assert len(list(predict_scene_rows(file, picture))) == rows
    assert message in " ".join(warnings)
    warnings.clear()
    list(predict_scene_rows(file, picture, overlap=24))
    assert "overlap" not in " ".join(warnings)


def test_a_file_with_suppression_of_its_own_is_warned_of(weights, warnings, tmp_path):
    pytest.importorskip("onnxruntime")
    own = with_objects(weights, tmp_path / "a.pt")
    file = RFLAYOLO(own).export(format="onnx", imgsz=SIZE, simplify=False, nms=True, conf=0.4, iou=0.6)
    warnings.clear()
    detector = TileDetector(file, conf=0.1)
    assert "a.onnx holds its own suppression" in warnings[0] and "conf can only be raised" in warnings[0]
    found = detector(tiles(1))[0]
    assert len(found) and found.score.min() >= 0.4


def test_sizes_of_objects_are_those_of_the_source():
    labels = [
        {"shape": (100, 200), "cls": np.zeros((2, 1)), "bboxes": np.array([[0.5, 0.5, 0.1, 0.1], [0, 0, 0.01, 0.3]])},
        {"shape": (400, 400), "cls": np.zeros((0, 1)), "bboxes": np.zeros((0, 4))},
    ]
    found = measure_objects(labels, 100)
    assert found["side_max"] == pytest.approx(30)
    assert 20 < found["side_p999"] < 30
    assert found["scale"] == pytest.approx(np.median([0.5, 0.25]))
    assert measure_objects(labels[1:], 100) == {}


def test_a_folder_that_is_source_and_out_does_not_detect_on_what_was_written(weights, tmp_path):
    cv2.imwrite(str(tmp_path / "b.png"), tiles(1)[0])
    predict_files(weights, tmp_path, tmp_path, conf=0.3)
    assert (tmp_path / "densest.png").exists()
    tally = predict_files(weights, tmp_path, tmp_path, conf=0.3, overwrite=True)
    assert list(tally.objects) == ["b.png"]
    with pytest.raises(ValueError, match="names nothing but what an earlier run wrote"):
        predict_files(weights, tmp_path / "densest.png", tmp_path, overwrite=True)


def test_a_picture_that_cannot_be_read_is_not_drawn_and_has_no_labels(weights, tmp_path):
    for name in ("a", "b", "c"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), tiles(1)[0])
    for name in ("a", "c"):
        content = (tmp_path / f"{name}.png").read_bytes()
        (tmp_path / f"{name}.png").write_bytes(content[: len(content) // 2])
    out = tmp_path / "out"
    tally = predict_files(weights, tmp_path, out, save=True, save_txt=True, skip_bad_tiles=True, conf=0.3)
    assert len(tally.damaged) == 2
    found = {
        file.relative_to(out).as_posix() for folder in ("labels", "annotated") for file in (out / folder).iterdir()
    }
    assert found == {"labels/b.txt", "annotated/b.jpg"}


def test_a_geotiff_and_a_picture_end_to_end(weights, tmp_path):
    rasterio, pyogrio = pytest.importorskip("rasterio"), pytest.importorskip("pyogrio")
    picture, _ = rectangles(250, 150)
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "width": 250, "height": 150, "crs": "EPSG:32633"}
    with rasterio.open(tmp_path / "a.tif", "w", transform=rasterio.Affine(1, 0, 5e5, 0, -1, 5e6), **profile) as file:
        file.write(np.moveaxis(picture, 2, 0))
    cv2.imwrite(str(tmp_path / "b.png"), picture[..., ::-1])
    tally = predict_files(weights, tmp_path, tmp_path / "out", save=True, save_txt=True, conf=0.3)
    assert tally.objects["a.tif"] == tally.objects["b.png"] > 50
    expected = predict_scene(weights, tmp_path / "b.png", conf=0.3)
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    found = np.array([entry["bbox"] for entry in entries if entry["image_id"] == "b.png"])
    np.testing.assert_allclose(found[:, :2], expected.bbox[:, :2], atol=1e-3)
    assert pyogrio.read_info(tmp_path / "out" / "detections.gpkg")["features"] == tally.objects["a.tif"]
    for name in ("annotated/a.jpg", "annotated/b.jpg", "labels/b.txt", "index.html"):
        assert (tmp_path / "out" / name).stat().st_size > 100
