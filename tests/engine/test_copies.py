"""Copies of tiny objects: where they lie, what is in them, and that training gets them until mosaic ends."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfla_yolo import RFLAYOLO
from rfla_yolo.engine.copies import AROUND, TINY, CopyingDataset, paste_copies

GREY = 100


def scene(boxes: list[list[int]], size: int = 96, value: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Draw objects, whose left column is brighter than the rest, on an even background."""
    image = np.full((size, size, 3), GREY, np.uint8)
    for left, top, right, bottom in boxes:
        image[top:bottom, left:right] = value
        image[top:bottom, left] = value + 50
    return image, np.array(boxes, np.float32).reshape(-1, 4)


def touch(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((np.minimum(a[2:], b[2:]) > np.maximum(a[:2], b[:2])).all())


objects = st.tuples(st.integers(0, 80), st.integers(0, 80), st.integers(1, 24), st.integers(1, 24))


class TestPasteCopies:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(objects, max_size=12), st.floats(0, 4), st.integers(0, 2**32 - 1))
    def test_copies_lie_inside_and_touch_nothing(self, drawn, copies, seed):
        image, boxes = scene([[x, y, min(x + w, 96), min(y + h, 96)] for x, y, w, h in drawn])
        image = np.random.default_rng(seed).integers(0, 256, image.shape, np.uint8)
        before = image.copy()
        result, pasted, source = paste_copies(image, boxes, copies, np.random.default_rng(seed))
        assert np.array_equal(image, before)
        assert len(pasted) == len(source) <= np.ceil(copies) * len(boxes)
        changed = (result != image).any(2)
        for i, box in enumerate(pasted):
            around = box + AROUND
            assert (around >= 0).all() and (around <= 96).all()
            others = [*boxes, *(other for j, other in enumerate(pasted) if j != i)]
            assert not any(touch(around, other) for other in others)
            assert np.allclose(box[2:] - box[:2], boxes[source[i], 2:] - boxes[source[i], :2])
            left, top, right, bottom = around.astype(int)
            changed[top:bottom, left:right] = False
        assert not changed.any()

    @pytest.mark.parametrize("seed", range(4))
    def test_a_copy_is_the_object_or_its_mirror_image(self, seed):
        image, boxes = scene([[40, 50, 47, 55]])
        result, (box,), _ = paste_copies(image, boxes, 1, np.random.default_rng(seed))
        left, top, right, bottom = box.astype(int)
        copied, original = result[top:bottom, left:right], image[50:55, 40:47]
        assert np.array_equal(copied, original) or np.array_equal(copied, original[:, ::-1])

    def test_both_occur(self):
        image, boxes = scene([[40, 50, 47, 55]])
        result, pasted, _ = paste_copies(image, boxes, 12, np.random.default_rng(0))
        first = {int(result[int(box[1]), int(box[0]), 0]) for box in pasted}
        assert first == {200, 250}

    def test_fractional_copies_are_rounded_at_random(self):
        image, boxes = scene([[40, 50, 47, 55]])
        rng = np.random.default_rng(0)
        counts = [len(paste_copies(image, boxes, 1.25, rng)[1]) for _ in range(200)]
        assert set(counts) == {1, 2}
        assert np.mean(counts) == pytest.approx(1.25, abs=0.1)

    @pytest.mark.parametrize(
        "boxes",
        [
            pytest.param([], id="none"),
            pytest.param([[20, 20, 20 + TINY, 20 + TINY]], id="not tiny"),
            pytest.param([[0, 20, 6, 26]], id="cut by the border"),
            pytest.param([[20, 20, 26, 26], [27, 20, 33, 26]], id="beside another"),
            pytest.param([[20, 20, 20, 26]], id="no area"),
        ],
    )
    def test_what_is_not_copied(self, boxes):
        image, boxes = scene(boxes)
        result, pasted, source = paste_copies(image, boxes, 3, np.random.default_rng(0))
        assert result is image
        assert pasted.shape == (0, 4)
        assert len(source) == 0

    def test_no_place_is_free(self):
        image, boxes = scene([[40, 40, 46, 46], [0, 0, 96, 36], [0, 50, 96, 96], [0, 36, 36, 50], [50, 36, 96, 50]])
        result, pasted, _ = paste_copies(image, boxes, 3, np.random.default_rng(0))
        assert len(pasted) == 0
        assert np.array_equal(result, image)

    def test_a_copy_lies_where_it_looks_alike(self):
        image, boxes = scene([[70, 20, 76, 26], [70, 60, 76, 66]])
        image[:, :48] = 20
        pasted = paste_copies(image, boxes, 5, np.random.default_rng(0))[1]
        assert len(pasted) == 10
        assert (pasted[:, 0] > 48).mean() >= 0.9

    def test_a_copy_keeps_its_contrast(self):
        image, boxes = scene([[70, 20, 76, 26]], value=130)
        image[:, :48] = 80  # the only place for a copy, all else is taken
        boxes = np.concatenate([boxes, [[48, 30, 96, 96], [48, 0, 96, 16], [48, 16, 66, 30], [80, 16, 96, 30]]])
        result, pasted, _ = paste_copies(image, boxes.astype(np.float32), 1, np.random.default_rng(0))
        ((left, top, right, bottom),) = pasted.astype(int)
        assert right < 48
        assert set(np.unique(result[top:bottom, left:right])) == {80 + 30, 80 + 80}


class TestTraining:
    def build(self, data: Path, tmp_path: Path, **settings):
        yolo = RFLAYOLO("yolov8n-p2.yaml")
        found = {}
        yolo.add_callback("on_train_start", lambda trainer: found.update(dataset=trainer.train_loader.dataset))
        arguments = {
            "epochs": 2,
            "close_mosaic": 1,
            "imgsz": 64,
            "batch": 4,
            "workers": 0,
            "plots": False,
            "val": False,
        }
        yolo.train(data=data, project=tmp_path, **{**arguments, **settings})
        return found["dataset"]

    def test_training_gets_copies_until_mosaic_ends(self, tiny_set, tmp_path, monkeypatch):
        epochs = []
        original = CopyingDataset.get_image_and_label

        def count(self, index):
            label = original(self, index)
            epochs.append((self.copies, len(label["cls"]) - len(self.labels[index]["cls"])))
            assert len(label["instances"]) == len(label["cls"])
            return label

        monkeypatch.setattr(CopyingDataset, "get_image_and_label", count)
        dataset = self.build(tiny_set, tmp_path, copy_tiny=2.0, mosaic=0.0)
        assert dataset.copies == 0
        assert {copies for copies, _ in epochs} == {2.0, 0}
        assert sum(more for copies, more in epochs if copies) > 0
        assert not any(more for copies, more in epochs if not copies)

    def test_labels_of_copies(self, tiny_set, tmp_path):
        dataset = self.build(tiny_set, tmp_path, copy_tiny=2.0, epochs=1, close_mosaic=0)
        dataset = pickle.loads(pickle.dumps(dataset))  # as the workers of a spawned process get it
        random.seed(0)
        index = max(range(len(dataset)), key=lambda i: len(dataset.labels[i]["cls"]))
        plain = len(dataset.labels[index]["cls"])
        label = dataset.get_image_and_label(index)
        assert len(label["cls"]) == len(label["instances"]) > plain
        clean = dataset.load_image(index)[0]
        assert not np.array_equal(clean, label["img"])  # and the image that is kept for the next epoch has none
        height, width = clean.shape[:2]
        label["instances"].convert_bbox("xyxy")
        for left, top, right, bottom in (label["instances"].bboxes[plain:] * [width, height, width, height]).round():
            patch = np.s_[int(top) : int(bottom), int(left) : int(right)]
            assert not np.array_equal(clean[patch], label["img"][patch])

    def test_without_copies_the_dataset_is_ultralytics_own(self, tiny_set, tmp_path):
        assert type(self.build(tiny_set, tmp_path, epochs=1)) is not CopyingDataset

    def test_polygons_get_corners(self, tiny_set, tmp_path):
        dataset = self.build(tiny_set, tmp_path, copy_tiny=2.0, epochs=1, close_mosaic=0)
        index = max(range(len(dataset)), key=lambda i: len(dataset.labels[i]["cls"]))
        x, y, w, h = dataset.labels[index]["bboxes"].T / [[1], [1], [2], [2]]
        corners = np.stack([x - w, y - h, x + w, y - h, x + w, y + h, x - w, y + h], 1).reshape(-1, 4, 2)
        dataset.labels[index]["segments"] = list(corners)
        label = dataset.get_image_and_label(index)
        instances = label["instances"]
        instances.convert_bbox("xyxy")
        assert len(instances.segments) == len(instances.bboxes) > len(corners)
        around = np.concatenate([instances.segments.min(1), instances.segments.max(1)], 1)
        assert np.allclose(around, instances.bboxes, atol=1e-5)

    @pytest.mark.parametrize("value", [-1, "2", True, float("inf")])
    def test_a_wrong_number_is_refused(self, tiny_set, tmp_path, value):
        with pytest.raises(ValueError, match=f"copy_tiny must be a number from 0 on, .* not {value!r}"):
            self.build(tiny_set, tmp_path, copy_tiny=value)

    def test_other_tasks_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="copy_tiny=2 copies boxes, for task 'detect' alone, not 'segment'"):
            RFLAYOLO("yolov8n-seg.yaml").train(data="nowhere.yaml", copy_tiny=2, project=tmp_path)
