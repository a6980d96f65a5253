"""The analysis of oriented boxes: every figure against polygons, and TAL against Ultralytics' own loss."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import OBBModel, PoseModel, SegmentationModel
from ultralytics.utils.loss import v8OBBLoss
from ultralytics.utils.ops import xywhr2xyxyxyxy
from ultralytics.utils.tal import dist2rbox

from rfla_yolo import RFLAConfig
from rfla_yolo.analysis import analyze
from rfla_yolo.analysis.assignments import Levels, Tally, assign_rfla, assign_tal, distances
from rfla_yolo.analysis.figures import summarise
from rfla_yolo.analysis.page import example_figure
from rfla_yolo.analysis.sweep import _zoom
from rfla_yolo.cli import main
from rfla_yolo.engine import RFLAAssigner
from rfla_yolo.engine.analysis import OpenRotatedTAL, Sample, predictions
from rfla_yolo.engine.bins import choose_bins
from rfla_yolo.engine.loss import RFLAMatcher, one_to_many

SIDE = 64
LEVELS = Levels((4.0, 8.0, 16.0), (8.0, 16.0, 32.0), (0, 15))
BOX = st.tuples(*[st.floats(0, SIDE)] * 2, *[st.floats(1, 48)] * 2, st.floats(-math.pi / 4, 3 * math.pi / 4))


def sample_of(boxes) -> Sample:
    boxes = torch.tensor(boxes).view(-1, 5).float()
    image = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    return Sample(boxes, torch.zeros(len(boxes), dtype=torch.long), image, "a.png")


def overlap(first, second) -> float:
    """IoU of two oriented boxes by shapely's polygons."""
    shared = shapely.area(shapely.intersection(polygon(first), polygon(second)))
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)


def polygon(box):
    """The corners as Ultralytics has them."""
    return shapely.polygons(xywhr2xyxyxyxy(torch.as_tensor(box, dtype=torch.float64)).numpy())


def drawn(box, point, ltrb) -> list[float]:
    """The box that Ultralytics' head draws from a point by distances in px, at the angle of another."""
    angle = torch.tensor([[float(box[4])]])
    return [*dist2rbox(torch.tensor([ltrb]).float(), angle, torch.tensor([point]).float())[0].tolist(), float(box[4])]


def nearest(box, point, limit) -> list[float]:
    """Distances to the box's sides along its own axes, by its corners, none outside of what a DFL head has."""
    corners = xywhr2xyxyxyxy(torch.tensor([float(v) for v in box])).numpy() - np.array(point)
    axes = np.array([[math.cos(box[4]), math.sin(box[4])], [-math.sin(box[4]), math.cos(box[4])]])
    own = corners @ axes.T
    return np.concatenate([-own.min(0), own.max(0)]).clip(0, limit).tolist()


@settings(deadline=None, max_examples=25)
@given(st.lists(BOX, max_size=5), st.sampled_from(["rfla", "tal"]), st.booleans())
def test_every_figure_is_the_direct_one(boxes, name, one_to_one):
    sample = sample_of(boxes)
    rfla = (RFLAMatcher if one_to_one else RFLAAssigner)(1, LEVELS.strides, LEVELS.rf_sizes, RFLAConfig())
    tal = OpenRotatedTAL(1, list(LEVELS.strides), one_to_one)

    def assign(sample):
        return assign_rfla(sample, LEVELS, rfla) if name == "rfla" else assign_tal(sample, LEVELS, tal)

    found = assign(sample)
    tally = Tally(LEVELS)
    tally.add(sample, found)
    figures = summarise(tally)["sizes"]["all"]
    inside, reach, missed, wanted, lost = [], [], 0, 0, 0
    for number, box in enumerate(sample.boxes.tolist()):
        mine = found.gt == number
        missed += not mine.any()
        if min(box[2:4]) < 2:
            assert not mine.any()  # the loss of oriented boxes leaves it out
        alone = assign(sample_of([box])).gt >= 0
        wanted, lost = wanted + int(alone.sum()), lost + int((alone & ~mine).sum())
        points, level = LEVELS.anchors((SIDE, SIDE))
        for point, stride in zip(points[mine].tolist(), (2.0 ** (2 + level[mine])).tolist()):
            shape, place = polygon(box), shapely.points(point)
            near = shapely.distance(shapely.boundary(shape), place) < 0.01  # labels are rounded
            inside.append(None if near else bool(shapely.contains(shape, place)))
            reach.append(overlap(box, drawn(box, point, nearest(box, point, 15 * stride))))
    assert (figures["objects"], figures["missed"]) == (len(boxes), missed)
    assert figures["lost"] == (pytest.approx(lost / wanted) if wanted else None)
    order = tally.owner.argsort(kind="stable")
    assert tally.reach[order].tolist() == pytest.approx(reach, abs=1e-3)
    assert all(expected in {None, got} for got, expected in zip(tally.inside[order].tolist(), inside, strict=True))


@settings(deadline=None, max_examples=30)
@given(BOX, st.tuples(*[st.floats(0, SIDE)] * 2), st.integers(0, 2))
def test_no_box_at_its_angle_that_the_head_can_draw_is_better(box, point, level):
    reach = float(LEVELS.reach(torch.tensor([box]), torch.tensor([point]), torch.tensor([level])))
    limit = 15 * LEVELS.strides[level]
    rng = np.random.default_rng(0)
    near = np.abs(torch.cat(distances(torch.tensor([box]), torch.tensor([point])), 1)[0].numpy())
    tries = [np.clip(near * rng.uniform(0, 1.5, 4), 0, limit) for _ in range(60)]
    assert max(overlap(box, drawn(box, point, ltrb.tolist())) for ltrb in tries) <= reach + 1e-4
    assert float(Levels((4.0,), (8.0,), None).reach(torch.tensor([box]), torch.tensor([point]), torch.tensor([0]))) == 1


def test_at_angle_zero_all_is_as_for_upright_boxes():
    torch.manual_seed(0)
    center, size = torch.rand(200, 2) * SIDE, 2 + torch.rand(200, 2) * 20
    upright = torch.cat([center - size / 2, center + size / 2], 1)
    oriented = torch.cat([center, size, torch.zeros(200, 1)], 1)
    points, level = torch.rand(200, 2) * SIDE, torch.randint(3, (200,))
    assert torch.allclose(LEVELS.reach(oriented, points, level), LEVELS.reach(upright, points, level), atol=1e-5)
    for one, other in zip(distances(oriented, points), distances(upright, points)):
        assert torch.allclose(one, other, atol=1e-4)


def test_a_larger_image_keeps_the_angle():
    assert _zoom(sample_of([[10, 20, 8, 4, 0.5]]), 1.5).boxes.tolist() == [[15, 30, 12, 6, 0.5]]


@pytest.mark.parametrize("name", ["yolov8n-obb.yaml", "yolo26n-obb.yaml"])
def test_tal_with_predictions_is_that_of_the_loss(name):
    torch.manual_seed(0)
    model = OBBModel(name, nc=2, verbose=False)
    model.args = get_cfg()
    image = torch.randint(0, 255, (3, SIDE, SIDE), dtype=torch.uint8)
    boxes = torch.cat([torch.rand(12, 2) * SIDE, 1 + torch.rand(12, 2) * 30, torch.rand(12, 1) * 3 - 0.7], 1)
    boxes[3, 3] = 1.5  # px: the loss leaves it out
    sample = Sample(boxes, torch.arange(12) % 2, image, "a.png")
    levels = Levels(tuple(model.stride.tolist()), (16.0, 32.0, 64.0), choose_bins(model, None))
    criterion = one_to_many(model.init_criterion())
    assert isinstance(criterion, v8OBBLoss)
    seen = []
    criterion.assigner.register_forward_hook(lambda module, args, output: seen.append((args[4], output)))
    normalised = boxes / torch.tensor([SIDE, SIDE, SIDE, SIDE, 1])
    batch = {"batch_idx": torch.zeros(12), "cls": sample.labels[:, None].float(), "bboxes": normalised}
    with torch.no_grad():
        raw = model.eval()(image[None].float() / 255)[1]
        criterion.loss(raw.get("one2many", raw), batch)
    kept = sample.trained.nonzero().squeeze(1)
    (gt, (_, _, _, positive, index)) = seen[0]
    assert torch.allclose(gt[0], boxes[kept], atol=1e-4) and 3 not in kept.tolist()
    found = assign_tal(sample, levels, OpenRotatedTAL(2, model.stride.tolist()), predictions(model, image)["one2many"])
    assert torch.equal(found.gt, torch.where(positive[0], kept[index[0].long()], -1))


@pytest.mark.parametrize(("kind", "name"), [(SegmentationModel, "yolo26n-seg.yaml"), (PoseModel, "yolov8n-pose.yaml")])
def test_predictions_of_other_tasks_are_their_boxes(kind, name):
    model = kind(name, nc=2, verbose=False)
    model.args = get_cfg()
    image = torch.randint(0, 255, (3, SIDE, SIDE), dtype=torch.uint8)
    with torch.no_grad():
        decoded = model.eval()(image[None].float() / 255)[0]
    decoded = decoded[0] if isinstance(decoded, tuple) else decoded
    scores, boxes = predictions(model, image)["one2many"]
    assert torch.allclose(decoded[0, 4:6].T, scores[0], atol=1e-6)
    assert torch.allclose(decoded[0, :2].T, (boxes[0, :, :2] + boxes[0, :, 2:]) / 2, atol=1e-3)


@pytest.fixture
def oriented_set(tmp_path):
    """Six images of 64 px with turned bars."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for i in range(6):
        image = rng.integers(60, 100, (SIDE, SIDE, 3), dtype=np.uint8)
        lines = []
        for side in (5, 12, 20):
            box = torch.tensor([*rng.uniform(16, SIDE - 16, 2), side, side / 2, rng.uniform(0, 3)])
            corners = xywhr2xyxyxyxy(box).numpy()
            cv2.fillPoly(image, [corners.round().astype(np.int32)], (255, 255, 255))
            lines.append("0 " + " ".join(f"{v / SIDE:.6f}" for v in corners.ravel()) + "\n")
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), image)
        (tmp_path / "labels" / f"{i}.txt").write_text("".join(lines))
    data = tmp_path / "data.yaml"
    data.write_text(f"path: {tmp_path}\ntrain: images\nval: images\nnames: [bar]\n")
    return data


def test_command_and_pictures(oriented_set, tmp_path, capsys):
    arguments = ["--data", str(oriented_set), "--model", "yolo26n-obb.yaml", "--imgsz", "64", "--images", "6"]
    main(["analyze", *arguments, "--no-sweep", "--task", "obb", "--project", str(tmp_path), "--name", "found"])
    result = json.loads((tmp_path / "found" / "analysis.json").read_text())
    assert result["task"] == "obb" and result["assigners"]["rfla"]["plain"]["sizes"]["all"]["objects"] == 18
    assert "cannot be drawn at IoU 0.5 and their own angle with this model" in capsys.readouterr().out
    assert "Oriented boxes: inside is meant" in (tmp_path / "found" / "index.html").read_text()

    found = analyze(oriented_set, "yolov8n-obb.yaml", images=6, imgsz=64, sweep=False, assigner="rfla")
    example = found.examples[11.0][0]
    axis = example_figure(found, [example]).axes[0]
    widest = max((patch for patch in axis.patches), key=lambda patch: patch.get_linewidth())
    corners = widest.get_patch_transform().transform(np.array([[0, 0], [1, 0], [1, 1], [0, 1]]))
    expected = xywhr2xyxyxyxy(example.sample.boxes[example.number]).numpy()
    assert np.allclose(sorted(corners.tolist()), sorted(expected.tolist()), atol=1e-3)
