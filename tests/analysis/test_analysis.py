"""The analysis: every count against a direct count from the assigner's output, in loops."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.loss import E2ELoss, v8DetectionLoss
from ultralytics.utils.tal import TaskAlignedAssigner

from rfla_yolo import RFLAYOLO, RFLAConfig, RFLADetectionLoss
from rfla_yolo.analysis import analyze, write_page
from rfla_yolo.analysis.assignments import Assigned, Levels, Tally, assign_rfla, assign_tal
from rfla_yolo.analysis.figures import MANY, ROUNDING, TRAINABLE_IOU, changes, summarise, untrainable
from rfla_yolo.analysis.verdict import start_from
from rfla_yolo.cli import main
from rfla_yolo.engine import RFLAAssigner
from rfla_yolo.engine.analysis import OpenTAL, Sample, predictions
from rfla_yolo.engine.bins import choose_bins
from rfla_yolo.engine.loss import RFLAMatcher

LEVELS = Levels((4.0, 8.0, 16.0), (8.0, 16.0, 32.0), (0, 15))
SIDE = 64
STOPPED = {"epochs": 1, "batch": 8, "device": "cpu", "plots": False, "workers": 0, "val": False, "save": False}
# not TAL with bins below 0: from anchors alike around an object it takes others when the object is alone, by rounding
CASES = [("rfla", (0.0, 15.0)), ("rfla", (-0.75, 4.5)), ("tal", (0.0, 15.0)), ("both", (0.0, 15.0))]
TAL_FROM = 20.0  # px, of "both": TAL's anchors from there on
BORDERS = {"vt": (0, 8), "t": (8, 16), "s": (16, 32), "m": (32, math.inf)}


@st.composite
def samples(draw) -> Sample:
    count = draw(st.integers(0, 6))
    boxes = []
    for _ in range(count):
        x, y = draw(st.integers(0, 60)), draw(st.integers(0, 60))
        w, h = draw(st.integers(2, 48)), draw(st.integers(2, 48))
        boxes.append([x, y, min(x + w, SIDE), min(y + h, SIDE)])
    image = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    return Sample(torch.tensor(boxes).view(-1, 4).float(), torch.zeros(count, dtype=torch.long), image, "a.png")


def anchors():
    for level, stride in enumerate(LEVELS.strides):
        for row in range(int(SIDE / stride)):
            for column in range(int(SIDE / stride)):
                yield (column + 0.5) * stride, (row + 0.5) * stride, level


def best_iou(box, x, y, stride, bins):
    """Best of what the distances can be, each side as near to the object's as the bins allow."""
    first, last = (end * stride for end in bins)
    low_x, low_y = (p - min(max(p - side, first), last) for p, side in ((x, box[0]), (y, box[1])))
    high_x, high_y = (p + min(max(side - p, first), last) for p, side in ((x, box[2]), (y, box[3])))
    shared = max(min(high_x, box[2]) - max(low_x, box[0]), 0) * max(min(high_y, box[3]) - max(low_y, box[1]), 0)
    union = (high_x - low_x) * (high_y - low_y) + (box[2] - box[0]) * (box[3] - box[1]) - shared
    return shared / union


@settings(deadline=None, max_examples=40)
@given(
    st.lists(samples(), min_size=1, max_size=3),
    st.sampled_from(CASES),
    st.booleans(),
)
def test_every_count_is_the_direct_count(images, case, one_to_one):
    name, bins = case
    levels = replace(LEVELS, bins=bins)
    config = RFLAConfig(topk=(3, 1), tal_from=TAL_FROM if name == "both" else None)
    rfla = (RFLAMatcher if one_to_one else RFLAAssigner)(1, LEVELS.strides, LEVELS.rf_sizes, config)
    tal = OpenTAL(1, list(LEVELS.strides), one_to_one)
    tally = Tally(levels)
    objects = []  # (side, positives as (level, inside, reach), wanted, lost)
    distances = []  # least and greatest of every positive
    contested = 0
    for sample in images:
        found = assign_tal(sample, levels, tal) if name == "tal" else assign_rfla(sample, levels, rfla)
        tally.add(sample, found)
        claims = [0] * len(found.gt)
        for number, box in enumerate(sample.boxes.tolist()):
            positives = []
            left = name == "both" and not one_to_one and (box[2] - box[0]) * (box[3] - box[1]) >= TAL_FROM**2
            for anchor, (x, y, level) in enumerate(anchors()):
                if int(found.gt[anchor]) == number:
                    inside = box[0] < x < box[2] and box[1] < y < box[3]
                    stride = levels.strides[level]
                    positives.append((None if left else level, inside, best_iou(box, x, y, stride, bins)))
                    sides = [(x - box[0]) / stride, (y - box[1]) / stride, (box[2] - x) / stride, (box[3] - y) / stride]
                    if not left:
                        distances.append((min(sides), max(sides)))
            alone = Sample(sample.boxes[number : number + 1], sample.labels[:1], sample.image, "")
            single = assign_tal(alone, levels, tal) if name == "tal" else assign_rfla(alone, levels, rfla)
            assert bool(found.guessed[number]) == left
            wanted = (single.gt >= 0).tolist()
            claims = [c + w for c, w in zip(claims, wanted)]
            lost = sum(w and owner != number for w, owner in zip(wanted, found.gt.tolist()))
            objects.append((math.sqrt((box[2] - box[0]) * (box[3] - box[1])), positives, sum(wanted), lost))
        contested += sum(c > 1 for c in claims)
        assert not one_to_one or all(len(o[1]) <= 1 and o[2] <= 1 for o in objects)
    result = summarise(tally)
    assert result["contested_anchors"] == contested
    for size, (low, high) in {"all": (0, math.inf), **BORDERS}.items():
        mine = [o for o in objects if low < o[0] <= high]
        figures = result["sizes"][size]
        positives = [p for o in mine for p in o[1]]
        assert figures["objects"] == len(mine)
        assert figures["missed"] == sum(not o[1] for o in mine)
        best = [max((p[2] for p in o[1]), default=0.0) for o in mine]
        assert figures["untrainable"] == sum(b < TRAINABLE_IOU - ROUNDING for b in best)
        assert figures["distribution"] == [sum(min(len(o[1]), MANY) == n for o in mine) for n in range(MANY + 1)]
        assert figures["losers"] == sum(o[3] > 0 for o in mine)
        if mine:
            assert figures["positives"] == pytest.approx(len(positives) / len(mine))
            assert figures["best"] == pytest.approx(np.mean(best), abs=1e-6)
            assert figures["lost"] == pytest.approx(sum(o[3] for o in mine) / sum(o[2] for o in mine))
        if positives:
            assert figures["inside"] == pytest.approx(np.mean([p[1] for p in positives]))
            assert figures["reach"] == pytest.approx(np.mean([p[2] for p in positives]), abs=1e-6)
            known = [p[0] for p in positives if p[0] is not None]
            shares = [known.count(level) / len(known) for level in range(3)] if known else None
            assert figures["levels"] == (shares and pytest.approx(shares))
    assert sum(row["objects"] for row in result["bins"]) == len(objects)
    if not distances:
        assert result["distances"] is None
        return
    least, greatest = zip(*distances)
    assert result["distances"]["least"] == pytest.approx(min(least))
    assert result["distances"]["greatest"] == pytest.approx(max(greatest))
    assert result["distances"]["low"] == pytest.approx(np.quantile(least, 0.01), abs=1e-6)
    assert result["distances"]["high"] == pytest.approx(np.quantile(greatest, 0.99), abs=1e-6)
    assert result["distances"]["below"] == pytest.approx(np.mean(np.array(least) < bins[0] - ROUNDING))
    assert result["distances"]["above"] == pytest.approx(np.mean(np.array(greatest) > bins[1] + ROUNDING))


def inside_of(boxes: torch.Tensor, side: int = 320) -> list[bool]:
    """Whether the anchor of stride 4 in column 5 and row 5, at (22, 22), is inside of each box, its only positive."""
    tally = Tally(LEVELS)
    sample = Sample(torch.zeros(1, 4), torch.zeros(1), torch.zeros(3, side, side, dtype=torch.uint8), "")
    for box in boxes:
        gt = torch.full((len(LEVELS.anchors((side, side))[0]),), -1)
        gt[5 * side // 4 + 5] = 0
        tally.add(replace(sample, boxes=box[None]), Assigned(gt, torch.zeros(1), torch.zeros(1), 0, torch.zeros(1)))
    return tally.inside.tolist()


ON_BORDER = [[22.0, 9, 30, 30], [10, 22, 30, 30], [10, 10, 22, 30], [10, 10, 30, 22], [22, 22, 26, 26]]
WITHIN = [[21.9, 9, 30, 30], [10, 21.9, 30, 30], [10, 10, 22.1, 30], [10, 10, 30, 22.1], [21.9, 21.9, 26, 26]]


def test_an_anchor_on_the_border_is_outside():
    assert inside_of(torch.tensor(ON_BORDER)) == [False] * len(ON_BORDER)
    assert inside_of(torch.tensor(WITHIN)) == [True] * len(WITHIN)


def test_an_anchor_on_the_border_is_no_candidate_of_tal():
    """The same way to count as Ultralytics' own."""
    points = torch.tensor([[22.0, 22.0]])
    assert (
        not TaskAlignedAssigner(stride=[1, 1, 1])
        .select_candidates_in_gts(points, torch.tensor([ON_BORDER]), torch.ones(1, len(ON_BORDER), 1))
        .any()
    )


@pytest.mark.parametrize("side", [96, 608, 1280, 2496])
def test_rounding_of_labels_does_not_decide(side):
    """Labels are centre and size in shares of the image, in six decimals, and float32 is what becomes of them."""
    for boxes, inside in ((ON_BORDER, False), (WITHIN, True)):
        exact = np.array(boxes)
        rows = np.concatenate([(exact[:, :2] + exact[:, 2:]) / 2, exact[:, 2:] - exact[:, :2]], 1) / side
        read = torch.tensor([[float(f"{value:.6f}") for value in row] for row in rows]) * side
        again = torch.cat([read[:, :2] - read[:, 2:] / 2, read[:, :2] + read[:, 2:] / 2], 1)
        assert not torch.equal(again, torch.tensor(boxes))
        assert inside_of(again, side) == [inside] * len(boxes)


def test_an_object_that_is_drawn_at_half_exactly_is_trainable():
    """From (22, 22) the best box covers half of this one; rounding must not decide."""
    for off in (0.0, 1e-4, -1e-4):
        tally = Tally(LEVELS)
        gt = torch.full((len(LEVELS.anchors((320, 320))[0]),), -1)
        gt[5 * 80 + 5] = 0
        box = torch.tensor([[26.0 + off, 18, 30, 26]])
        sample = Sample(box, torch.zeros(1), torch.zeros(3, 320, 320, dtype=torch.uint8), "")
        tally.add(sample, Assigned(gt, torch.zeros(1), torch.zeros(1), 0, torch.zeros(1)))
        assert tally.best[0] == pytest.approx(0.5, abs=1e-4)
        assert not untrainable(tally).any()


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(*[st.floats(1, 40)] * 2),
    st.tuples(*[st.floats(2, 60)] * 2),
    st.tuples(*[st.floats(0, 63)] * 2),
    st.integers(0, 2),
)
def test_no_box_that_the_head_can_draw_is_better(corner, size, point, level):
    box = torch.tensor([[*corner, corner[0] + size[0], corner[1] + size[1]]])
    reach = float(LEVELS.reach(box, torch.tensor([point]), torch.tensor([level])))
    limit = 15 * LEVELS.strides[level]
    rng = np.random.default_rng(0)
    x1, y1, x2, y2 = box[0].double().numpy()
    sides = rng.uniform(0, limit, (4000, 4))
    near = np.abs([point[0] - x1, point[1] - y1, x2 - point[0], y2 - point[1]])
    sides[::2] = np.clip(near * rng.uniform(0, 1.5, (2000, 4)), 0, limit)
    low, high = np.array(point) - sides[:, :2], np.array(point) + sides[:, 2:]
    shared = np.clip(np.minimum(high, [x2, y2]) - np.maximum(low, [x1, y1]), 0, None).prod(1)
    iou = shared / ((high - low).prod(1) + (x2 - x1) * (y2 - y1) - shared)
    assert iou.max() <= reach + 1e-5


def test_a_head_with_signed_distances_reaches_everything():
    levels = Levels((8.0,), (16.0,), None)
    assert float(levels.reach(torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[60.0, 60]]), torch.tensor([0]))) == 1


def test_levels_change_where_two_scores_meet():
    levels = Levels((4.0, 8.0, 16.0, 32.0), (11.5, 47.5, 119.5, 199.5), (0, 15))
    assert [round(side) for side in changes(levels)] == [27, 81, 158]  # method.md, section 1


def test_reach_of_the_smallest_objects_on_real_data(data_dir, tmp_path):
    """The table of method.md, section 3, on a copy of the labels: objects below 8 px."""
    root = data_dir / "hituav-half"
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for file in (root / kind / "train").iterdir():
            if file.suffix in {".jpg", ".txt"}:
                (tmp_path / kind / file.name).symlink_to(file)
    data = tmp_path / "set.yaml"
    data.write_text(f"path: {tmp_path}\ntrain: images\nval: images\nnames: [person, car, bicycle, other]\n")
    for model, inside, reach in (("yolov8n-p2.yaml", 0.68, 0.98), ("yolov8n.yaml", 0.18, 0.78)):
        found = analyze(
            data,
            model,
            images=300,
            imgsz=320,
            assigner="rfla",
            sweep=False,
            mosaic=0.0,
            topk=(3, 1),
            rf="trf",
            rf_scale=0.5,
            dfl_range="stock",
        )
        tiny = found.result["assigners"]["rfla"]["plain"]["sizes"]["vt"]
        assert tiny["inside"] == pytest.approx(inside, abs=0.04)
        assert tiny["reach"] == pytest.approx(reach, abs=0.02)


def test_page_file_and_settings(tiny_set, tmp_path, capsys):
    arguments = ["--data", str(tiny_set), "--model", "yolov8n-p2.yaml", "--imgsz", "64", "--images", "6", "--erf"]
    target = tmp_path / "my.yaml"
    main(["analyze", *arguments, "--project", str(tmp_path), "--name", "found", "--write-cfg", str(target)])
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "found" / "analysis.json").read_text())
    page = (tmp_path / "found" / "index.html").read_text()
    assert {path.name for path in (tmp_path / "found").glob("*.png")} == {
        "sizes.png", "fields.png", "levels.png", *(f"examples-{size}.png" for size in (4, 7, 11)),
    }  # fmt: skip
    for sentence in result["verdict"]:
        assert sentence["text"] in printed
    assert "every pair of anchor and object has score 1" in page
    assert result["assigners"]["tal"]["plain"]["sizes"]["all"]["objects"] > 0
    assert len(result["levels"]["erf_sigmas"]) == 4
    assert RFLAConfig.take_from({"rfla_cfg": target})[0].to_dict() == start_from(result["sweep"])["settings"]
    names = [row["name"] for row in result["sweep"]]
    assert names[0] == "as set" and "without P2" in names and "imgsz x 2" in names and "rf erf, rf_scale 1/2" in names


def test_a_model_without_p2_is_tried_with_one(tiny_set):
    found = analyze(tiny_set, "yolov8n.yaml", images=4, imgsz=64, assigner="rfla", rf="trf", rf_scale=0.5)
    row = next(row for row in found.result["sweep"] if row["name"] == "with P2")
    assert row["strides"] == [4, 8, 16, 32]
    assert row["rf_sizes"][0] == 11.5  # that of yolov8n-p2


@pytest.mark.parametrize("name", ["tal", "rfla"])
def test_with_predictions_it_is_that_of_the_loss(name):
    """The positives of the criterion, on objects that hold more than ten anchors; one of three is left to TAL."""
    torch.manual_seed(0)
    model = DetectionModel("yolov8n-p2.yaml", nc=2, verbose=False)
    model.args = get_cfg()
    image = torch.randint(0, 255, (3, SIDE, SIDE), dtype=torch.uint8)
    boxes = torch.tensor([[4.0, 4, 34, 34], [20, 24, 60, 60], [40, 8, 45, 13]])
    sample = Sample(boxes, torch.tensor([0, 1, 1]), image, "a.png")
    levels = Levels((4.0, 8.0, 16.0, 32.0), (8.0, 16.0, 32.0, 64.0), (0, 15))
    tal, config = OpenTAL(2, list(levels.strides)), RFLAConfig(tal_from=35.0)
    rfla = RFLAAssigner(2, levels.strides, levels.rf_sizes, config)
    predicted = predictions(model, image)["one2many"]
    found, blind = (
        assign_tal(sample, levels, tal, given) if name == "tal" else assign_rfla(sample, levels, rfla, given)
        for given in (predicted, None)
    )
    loss = v8DetectionLoss(model) if name == "tal" else RFLADetectionLoss(model, config)
    if name == "rfla":
        loss.assigner.grid_shapes = levels.grid((SIDE, SIDE))
    batch = {
        "batch_idx": torch.zeros(3),
        "cls": torch.tensor([[0.0], [1], [1]]),
        "bboxes": torch.stack([(boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2,
                               boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]], 1) / SIDE,
    }  # fmt: skip
    with torch.no_grad():
        (positive, gt, *_), _, _ = loss.get_assigned_targets_and_loss(model.eval()(image[None].float() / 255)[1], batch)
    assert torch.equal(found.gt, torch.where(positive[0], gt[0], -1))
    assert not torch.equal(found.gt, blind.gt)
    assert not found.guessed.any() and blind.guessed.tolist() == [False, name == "rfla", False]


def test_weights_give_tal_its_predictions(tiny_set, tmp_path):
    """And the image size is what training makes of two numbers that are no multiple of 32."""
    model = RFLAYOLO("yolov8n-p2.yaml")
    quick = {"imgsz": [40, 60], "epochs": 1, "batch": 4, "device": "cpu", "plots": False, "workers": 0, "val": False}
    model.train(data=str(tiny_set), project=str(tmp_path), name="run", **quick)
    weights = tmp_path / "run" / "weights" / "last.pt"
    found = analyze(tiny_set, weights=weights, images=4, imgsz=[40, 60], assigner="tal")
    assert found.result["imgsz"] == [model.trainer.args.imgsz] * 2 == [64, 64]
    assert not found.result["sweep"]  # RFLA's, which was not asked for
    assert found.result["predictions"] == str(weights)
    assert found.result["assigners"]["tal"]["plain"]["sizes"]["all"]["objects"] > 0
    assert f"uses the predictions of {weights}" in write_page(found, tmp_path / "page").read_text()
    assert analyze(tiny_set, weights=weights, images=1, assigner="tal").result["imgsz"] == [64, 64]  # the checkpoint's


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"assigner": "atss"}, "assigner must be one or several of rfla, tal, not 'atss'"),
        ({"images": 0}, "images must be a whole number from 1, not 0"),
        ({"decay": 2}, "decay must be in"),
        ({"task": "segment"}, "task must be 'detect' for model yolov8n-p2.yaml, not 'segment'"),
        ({"model": "yolov8n-obb.yaml"}, "are boxes .*, task .obb. needs lines of class x1"),
    ],
)
def test_bad_input_is_named(tiny_set, change, message):
    with pytest.raises(ValueError, match=message):
        analyze(tiny_set, **{"model": "yolov8n-p2.yaml", "imgsz": 64, **change})


@pytest.mark.parametrize("given", [50, [50, 33], "50", (33, 64)])
def test_image_size_is_that_of_training(given, tiny_set, monkeypatch):
    """Two numbers and sizes that are no multiple of the stride are taken, and warned about, as training does."""
    said: list[str] = []
    monkeypatch.setattr("ultralytics.utils.LOGGER.warning", said.append)
    detector = RFLAYOLO("yolov8n.yaml")
    detector.train(data=str(tiny_set), imgsz=given, **STOPPED)
    by_training, trained = [line for line in said if "imgsz" in line], detector.trainer.args.imgsz
    said.clear()
    found = analyze(tiny_set, "yolov8n.yaml", images=1, assigner="rfla", sweep=False, imgsz=given)
    assert found.result["imgsz"] == [trained] * 2 == [64, 64]
    assert [line for line in said if "imgsz" in line] == by_training != []


@pytest.mark.parametrize("given", [50.0, "fifty"])
def test_image_sizes_that_training_refuses(given, tiny_set):
    messages = []
    for call in (
        lambda: RFLAYOLO("yolov8n.yaml").train(data=str(tiny_set), imgsz=given, **STOPPED),
        lambda: analyze(tiny_set, "yolov8n.yaml", images=1, imgsz=given),
    ):
        with pytest.raises((TypeError, ValueError), match="imgsz=") as error:
            call()
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_coarse_levels_ask_for_larger_steps(tiny_set):
    found = analyze(tiny_set, "yolov8n-p6.yaml", images=1, assigner="rfla", imgsz=70)
    assert found.result["imgsz"] == [128, 128]
    assert [row["name"] for row in found.result["sweep"] if row["kind"] == "imgsz"] == [
        "imgsz x 0.5", "imgsz x 1.5", "imgsz x 2",
    ]  # fmt: skip


def test_only_image_sizes_are_tried_that_can_be_trained(tiny_set):
    found = analyze(tiny_set, "yolov8n.yaml", images=2, assigner="rfla", imgsz=96)
    assert [96 * row["zoom"] for row in found.result["sweep"] if row["kind"] == "imgsz"] == [64, 160, 192]


@pytest.mark.parametrize("model", ["yolov8s-worldv2.yaml", "rtdetr-l.yaml", "yolov8n-cls.yaml"])
def test_refuses_the_models_that_training_refuses(model, tiny_set):
    messages = []
    for call in (
        lambda: RFLAYOLO(model).train(data=str(tiny_set), imgsz=64, **STOPPED),
        lambda: analyze(tiny_set, model, images=1, imgsz=64),
    ):
        with pytest.raises((ValueError, NotImplementedError)) as error:
            call()
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("name", ["yolo26n.yaml", "yolov10n.yaml"])
def test_branches_with_predictions_are_those_of_the_loss(name):
    """The positives of Ultralytics' own criterion in both branches, on a crowd whose objects want the same anchors."""
    torch.manual_seed(0)
    model = DetectionModel(name, nc=2, verbose=False)
    model.args = get_cfg()
    image = torch.randint(0, 255, (3, SIDE, SIDE), dtype=torch.uint8)
    corners = torch.rand(24, 2) * 50
    boxes = torch.cat([corners, corners + 4 + torch.rand(24, 2) * 6], 1)
    sample = Sample(boxes, torch.arange(24) % 2, image, "a.png")
    strides = tuple(model.stride.tolist())
    levels = Levels(strides, tuple(2 * stride for stride in strides), choose_bins(model, None))
    assert levels.bins == (None if "26" in name else (0, 15))
    xywh = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1) / SIDE
    batch = {"batch_idx": torch.zeros(24), "cls": sample.labels[:, None].float(), "bboxes": xywh}
    criterion = E2ELoss(model)
    with torch.no_grad():
        raw = model.eval()(image[None].float() / 255)[1]
    predicted = predictions(model, image)
    missed = {}
    for branch in ("one2many", "one2one"):
        (positive, gt, *_), _, _ = getattr(criterion, branch).get_assigned_targets_and_loss(raw[branch], batch)
        tal = OpenTAL(2, list(strides), branch == "one2one")
        found = assign_tal(sample, levels, tal, predicted[branch])
        assert torch.equal(found.gt, torch.where(positive[0], gt[0], -1))
        missed[branch] = 24 - len(found.gt[found.gt >= 0].unique())
    assert missed["one2one"] > 0


def test_both_branches_are_shown(tiny_set, tmp_path):
    weights = tmp_path / "untrained.pt"
    model = RFLAYOLO("yolo26n.yaml")
    model.model = DetectionModel("yolo26n.yaml", nc=2, verbose=False)
    model.save(weights)
    for name, options in (("yolo26n.yaml", {"sweep": False}), (None, {"weights": weights, "assigner": "tal"})):
        found = analyze(tiny_set, name, images=8, imgsz=64, **options)
        arms = found.result["one2one"]
        assert set(arms) == set(found.result["assigners"]) == set(found.one_to_one)
        page = write_page(found, tmp_path / "page").read_text()
        assert "<h2>One-to-one branch</h2>" in page and (tmp_path / "page" / "one2one.png").is_file()
        for assigner, arm in arms.items():
            tally, figures = found.one_to_one[assigner]["plain"], arm["plain"]["sizes"]
            assert tally.positives.max() == 1
            missed, tiny = (tally.positives == 0), tally.side <= 8
            assert (figures["all"]["missed"], figures["vt"]["missed"]) == (missed.sum(), (missed & tiny).sum())
            said = next(text for text in found.verdict if text.startswith(f"One-to-one branch, {assigner}: "))
            assert f": {missed.sum()} of {len(missed)} objects (" in said
            assert ("chooses among equals" in said) == (assigner == "tal" and not options.get("weights"))


def test_a_share_of_the_images_is_the_one_that_training_takes(tiny_set):
    """Ultralytics' `fraction` cuts the list of images after its first ones."""
    found = analyze(tiny_set, "yolov8n.yaml", images=8, imgsz=64, sweep=False, fraction=0.5)
    assert found.result["images"] == 4
    assert found.result["assigners"]["rfla"]["plain"]["sizes"]["all"]["objects"] == 16


def test_augmented_images_without_an_object(tmp_path, tiny_set):
    (tiny_set.parent / "labels" / "train" / "0.txt").write_text("")  # the only image that is augmented here
    found = analyze(tiny_set, "yolov8n.yaml", images=4, imgsz=64, sweep=False, mosaic=0.0)
    assert not len(found.tallies["rfla"]["augmented"].side)
    assert (write_page(found, tmp_path / "page")).is_file()


def test_bins_that_training_refuses_are_refused(tiny_set):
    with pytest.raises(ValueError, match=r"dfl_range \(-1.0, 6.0\) is for heads with a distance distribution"):
        analyze(tiny_set, "yolo26n.yaml", images=2, imgsz=64, sweep=False, dfl_range=(-1, 6))


def test_a_head_of_one_branch_has_nothing_of_another(tiny_set, tmp_path):
    found = analyze(tiny_set, "yolov8n.yaml", images=2, imgsz=64, sweep=False)
    assert found.result["one2one"] == found.one_to_one == {}
    assert "One-to-one" not in write_page(found, tmp_path).read_text()


def test_several_examples_of_a_size_come_from_several_images(tiny_set):
    found = analyze(tiny_set, "yolov8n-p2.yaml", images=8, imgsz=64, assigner="rfla", sweep=False)
    assert {size: len(examples) for size, examples in found.examples.items()} == {4.0: 3, 7.0: 3, 11.0: 3}
    for size, examples in found.examples.items():
        assert len({example.sample.im_file for example in examples}) == 3
        for example in examples:
            x1, y1, x2, y2 = example.sample.boxes[example.number].tolist()
            side = math.sqrt((x2 - x1) * (y2 - y1))
            assert min(found.examples, key=lambda other: abs(math.log(side / other))) == size
