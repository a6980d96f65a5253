"""Bins of the distance distribution: what they can draw, and that model, loss and plain Ultralytics agree on them."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import yaml
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel, OBBModel
from ultralytics.utils.loss import BboxLoss, RotatedBboxLoss, v8DetectionLoss, v8OBBLoss
from ultralytics.utils.ops import xywh2xyxy
from ultralytics.utils.tal import bbox2dist

from rfla_yolo import RFLAYOLO, RFLAConfig
from rfla_yolo.analysis import analyze
from rfla_yolo.assign import rfla_assign
from rfla_yolo.config import resource_dir
from rfla_yolo.engine.analysis import predictions
from rfla_yolo.engine.bins import (
    RangedBboxLoss,
    choose_bins,
    describe_cut,
    describe_moved,
    load_weights,
    place_bins,
    use_bins,
    why_kept,
)
from rfla_yolo.engine.distances import DistanceMeter
from rfla_yolo.engine.loss import rf_sizes
from rfla_yolo.engine.shipped import load_model_yaml

BINS = 16


def positives(low, high, seed=0):
    """Anchors, and boxes whose sides lie between two distances from them, in cells; every third is a positive."""
    random = torch.Generator().manual_seed(seed)
    anchors = torch.rand(60, 2, generator=random) * 20
    ltrb = low + (high - low) * torch.rand(1, 60, 4, generator=random)
    boxes = torch.cat([anchors - ltrb[..., :2], anchors + ltrb[..., 2:]], -1)
    scores = torch.rand(1, 60, 3, generator=random)
    logits = torch.randn(1, 60, 4 * BINS, generator=random)
    mask = (torch.arange(60) % 3 == 0).view(1, 60)
    return logits, boxes + torch.rand(1, 60, 4, generator=random), anchors, boxes, scores, scores.sum(), mask


def loop(logits, anchors, boxes, scores, total, mask, low, step):
    """The distribution focal loss, one side of one positive after the other."""
    loss = 0.0
    for a in mask[0].nonzero().flatten().tolist():
        x, y = anchors[a].tolist()
        x1, y1, x2, y2 = boxes[0, a].tolist()
        sides = []
        for side, distance in enumerate((x - x1, y - y1, x2 - x, y2 - y)):
            place = min(max((distance - low) / step, 0), BINS - 1 - 0.01)
            left = int(place)
            log = logits[0, a, side * BINS : (side + 1) * BINS].log_softmax(0)
            sides.append(-(log[left] * (left + 1 - place) + log[left + 1] * (place - left)))
        loss += sum(sides) / 4 * scores[0, a].sum()
    return loss / total


@pytest.mark.parametrize(("low", "high"), [(-1.0, 6.5), (-0.75, 4.5), (0.0, 15.0)])
def test_loss_is_that_of_a_loop(low, high):
    logits, predicted, anchors, boxes, scores, total, mask = positives(low - 0.5, high + 0.5)
    step = (high - low) / (BINS - 1)
    size = (torch.tensor([80.0, 80.0]), torch.ones(60, 1))
    iou, found = RangedBboxLoss(BINS, low, step)(logits, predicted, anchors, boxes, scores, total, mask, *size)
    assert found == pytest.approx(float(loop(logits, anchors, boxes, scores, total, mask, low, step)), rel=1e-5)
    stock = BboxLoss(BINS)(logits, predicted, anchors, boxes, scores, total, mask, *size)
    assert iou == stock[0]  # what a box overlaps does not depend on the bins
    if (low, high) == (0.0, 15.0):
        assert found == pytest.approx(float(stock[1]), rel=1e-5)


def network(yaml="yolov8n-p2.yaml"):
    model = DetectionModel(yaml, nc=2, verbose=False)
    model.args = get_cfg(overrides={"epochs": 2})
    return model


def test_model_and_loss_draw_the_same_boxes():
    model = network()
    criterion = v8DetectionLoss(model)
    assert use_bins(model, criterion, (-1.0, 6.5)) == (-1.0, 6.5)
    head = model.model[-1]
    logits = 9 * torch.randn(1, 4 * BINS, 30, generator=torch.Generator().manual_seed(0))  # now and then of one bin
    by_head = head.dfl(logits)[0].T  # (30, 4), cells
    by_loss = criterion.bbox_decode(torch.zeros(30, 2), logits.permute(0, 2, 1))[0]  # a box about 0, 0
    torch.testing.assert_close(by_loss, torch.cat([-by_head[:, :2], by_head[:, 2:]], 1))
    assert by_head.min() < -0.5  # a side on the other side of the anchor


def test_predictions_of_the_analysis_are_those_of_the_head():
    model = network()
    use_bins(model, v8DetectionLoss(model), (-1.0, 6.5))
    image = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scores, boxes = predictions(model, image)["one2many"]
    with torch.no_grad():
        expected = model(image[None].float() / 255)[0].transpose(1, 2)  # xywh and scores
    torch.testing.assert_close(boxes, xywh2xyxy(expected[..., :4]), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(scores, expected[..., 4:])


def test_a_checkpoint_with_other_bins_goes_on_with_them():
    model = network()
    use_bins(model, v8DetectionLoss(model), (-1.0, 6.5))
    again = v8DetectionLoss(copy.deepcopy(model))
    assert use_bins(model, again, None) == (-1.0, 6.5)
    assert again.proj.tolist() == model.model[-1].dfl.conv.weight.flatten().tolist()


def test_stock_bins_change_nothing():
    model = network()
    criterion = v8DetectionLoss(model)
    assert use_bins(model, criterion, None) is None
    assert type(criterion.bbox_loss) is BboxLoss and criterion.proj.tolist() == list(range(BINS))


def test_a_model_brings_its_bins():
    model = network(str(resource_dir("cfg") / "models" / "yolov8-p234-reg8.yaml"))
    assert choose_bins(model, None) == (0, 7)  # as plain Ultralytics builds it
    place_bins(model)
    assert choose_bins(model, None) == (-0.75, 4.5)
    assert choose_bins(model, (-1.0, 6.5)) == (-1.0, 6.5)  # the setting comes first
    assert use_bins(model, v8DetectionLoss(model), (-1.0, 6.5)) == (-1.0, 6.5)
    assert choose_bins(model, None) == (-1.0, 6.5)  # and then what it was trained with
    assert choose_bins(network(), None) == (0, BINS - 1)
    assert choose_bins(network("yolo26n.yaml"), None) is None


@pytest.mark.parametrize(("low", "high"), [(0.0, 2.0), (-1.0, 15.0)])
def test_what_the_bins_cut_is_said(low, high):
    logits, predicted, anchors, boxes, scores, total, mask = positives(-2.0, 5.0)
    model = network()
    criterion = v8DetectionLoss(model)
    use_bins(model, criterion, (low, high))
    criterion.bbox_loss(logits, predicted, anchors, boxes, scores, total, mask, torch.ones(2), torch.ones(60, 1))
    sides = [side for a in mask[0].nonzero().flatten() for side in bbox2dist(anchors[a], boxes[0, a]).tolist()]
    below, above = (sum(far) / len(sides) for far in ([s < low for s in sides], [s > high for s in sides]))
    assert below > 0.01
    found = describe_cut(criterion)
    assert f"{below:.1%} are nearer than that and {above:.1%} farther" in found
    assert describe_cut(criterion) is None  # nothing since
    criterion = v8DetectionLoss(model)
    use_bins(model, criterion, (-3.0, 15.0))
    criterion.bbox_loss(logits, predicted, anchors, boxes, scores, total, mask, torch.ones(2), torch.ones(60, 1))
    assert describe_cut(criterion) is None


def test_a_head_without_a_distribution_is_refused():
    model = network("yolo26n.yaml")
    with pytest.raises(ValueError, match="not for reg_max 1"):
        use_bins(model, v8DetectionLoss(model), (-1.0, 6.5))


@pytest.mark.parametrize("value", [[1], [2, 1], [0, "a"], 5, "all", [0, float("inf")], [1, 1]])
def test_no_such_range(value):
    with pytest.raises(ValueError, match="dfl_range must be two ascending numbers of cells, 'auto', 'stock', or None"):
        RFLAConfig(dfl_range=value)


def levels(model, config):
    return model.stride.tolist(), rf_sizes(model, config), config


def measured(model, config, labels, imgsz, scale, multi_scale=0.0):
    meter = DistanceMeter(labels, imgsz, scale, multi_scale)
    return meter.range(*levels(model, config), model.model[-1].reg_max)


def measured_by_a_loop(model, labels, imgsz, scale):
    """Every distance of every positive of every object, one image after the other, sorted; cells."""
    strides = [float(s) for s in model.stride]
    shapes = [(math.ceil(imgsz / s), math.ceil(imgsz / s)) for s in strides]
    grids = [(s, x + 0.5, y + 0.5) for s, (h, w) in zip(strides, shapes) for y in range(h) for x in range(w)]
    points = [(x * s, y * s, s) for s, x, y in grids]
    found = []
    for label in labels:
        height, width = label["shape"]
        gain = imgsz / max(height, width)
        for zoom in (1 - scale, 1, 1 + scale):
            boxes = []
            for x, y, w, h in label["bboxes"].tolist():
                corners = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
                middle = [width / 2, height / 2] * 2
                box = [(c - m) * gain * zoom + imgsz / 2 for c, m in zip(corners, middle)]
                cut = [min(max(c, 0.0), float(imgsz)) for c in box]
                boxes.append((cut, (box[2] - box[0]) * (box[3] - box[1])))
            kept = []  # what Ultralytics' augmentation leaves of the objects
            for b, whole in boxes:
                width_left, height_left = b[2] - b[0], b[3] - b[1]
                if min(width_left, height_left) > 2 and width_left * height_left > 0.1 * whole:
                    kept.append(b)
            mask = torch.ones(1, len(kept), dtype=torch.bool)
            choice = {"topk_max": 30, "conflict": "score"}
            assigned = rfla_assign(torch.tensor([kept]), mask, shapes, strides, [2 * s for s in strides], **choice)[0]
            for anchor in (assigned >= 0).nonzero().flatten().tolist():
                (x, y, s), (x1, y1, x2, y2) = points[anchor], kept[assigned[anchor]]
                found += [(x - x1) / s, (y - y1) / s, (x2 - x) / s, (y2 - y) / s]
    return sorted(found)


@pytest.mark.parametrize("scale", [0.0, 0.4])
def test_a_measured_range_is_that_of_a_loop(scale):
    model = network()
    rng = np.random.default_rng(0)
    labels = [
        {
            "shape": (120, 160) if i % 2 else (128, 96),
            "cls": np.zeros(9),
            "bboxes": np.concatenate([rng.uniform(0, 1, (9, 2)), rng.uniform(0.01, 0.3, (9, 2))], 1),
        }
        for i in range(12)
    ]
    low, high = measured(model, RFLAConfig(), [*labels, {"cls": np.zeros(0)}], 128, scale)
    sides = np.array(measured_by_a_loop(model, labels, 128, scale))
    assert low % 0.25 == high % 0.25 == 0
    for end, share in ((low, 0.005), (high, 0.995)):
        assert abs(end - np.quantile(sides, share)) < 0.25 + 1e-4
    assert (sides < low).mean() <= 0.0051 and (sides > high).mean() <= 0.0051


def tiny_and(*sides, imgsz=512):
    """Labels of 3000 objects of 6 px, and of one object of each of some sizes, each in the middle of an image."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(0.1, 0.9, (20, 150, 2))
    boxes = [*np.concatenate([centres, np.full_like(centres, 6 / imgsz)], -1)]
    boxes += [np.array([[0.5, 0.5, px / imgsz, px / imgsz]]) for px in sides]
    return [{"shape": (imgsz, imgsz), "cls": np.zeros(len(b)), "bboxes": b} for b in boxes]


def test_one_large_object_among_many_tiny_ones_is_reached():
    """However rare: a share of the sides would leave it out."""
    model, config = network(), RFLAConfig()
    tiny = measured(model, config, tiny_and(), 512, 0.0)
    low, high = measured(model, config, tiny_and(480), 512, 0.0)
    assert tiny[1] < 4 and low == tiny[0]
    drawn = min(480 / 2, (high - 0.5) * 32) + min(480 / 2, (high + 0.5) * 32)  # the middle is half a cell off an anchor
    assert 0.9 <= (drawn / 480) ** 2 < 0.97  # and no farther than that takes
    meter = DistanceMeter(tiny_and(480), 512, 0.0)
    assert meter.describe_unreached(*levels(model, config), (low, high)) is None
    words = meter.describe_unreached(*levels(model, config), tiny)
    assert "an object of the training set, up to 480 px of the input, cannot be drawn to an IoU of 0.5" in words


def test_measured_bins_are_no_coarser_than_stock():
    """What 8 bins of a cell do not reach is said."""
    model, config = network(str(resource_dir("cfg") / "models" / "yolov8-p2-reg8.yaml")), RFLAConfig()
    labels = tiny_and(500, 600, 610, imgsz=640)
    first, last = measured(model, config, labels, 640, 0.0)
    assert last - first == model.model[-1].reg_max - 1 == 7
    meter = DistanceMeter(labels, 640, 0.0)
    assert "2 objects" in meter.describe_unreached(*levels(model, config), (first, 6.0))
    assert "3 objects" in meter.describe_unreached(*levels(model, config), (first, 3.0))


def test_what_the_augmentation_drops_is_not_measured():
    """A sliver at the border of a zoomed image has sides many cells away from the anchors that it would get."""
    label = {"shape": (96, 96), "cls": np.zeros(2), "bboxes": np.array([[0.9, 0.3, 0.2, 0.13], [0.5, 0.5, 0.1, 0.1]])}
    low, high = measured(network(), RFLAConfig(), [label], 96, 0.25 - 1e-7)  # its left side comes to lie on the border
    assert low >= -1 and high < 5


def test_larger_images_are_measured():
    config, labels = RFLAConfig(), tiny_and(300, 320, 340, 360)
    assert measured(network(), config, labels, 512, 0.0, 0.5)[1] > measured(network(), config, labels, 512, 0.0)[1]


def test_what_is_measured():
    """The bins of a new model under RFLA, where it has any and its YAML brings none."""
    auto = RFLAConfig()
    trained = network()
    assert why_kept(trained, auto) is None
    trained.model[-1].cv2[0][-1].bias.data[0] += 0.01
    assert "trained with bins from 0 to 15 cells" in why_kept(trained, auto)
    for setting in ({"assigner": "tal"}, {"dfl_range": None}, {"dfl_range": "stock"}, {"dfl_range": (0, 4)}):
        assert why_kept(network(), RFLAConfig(**setting))
    assert "no bins" in why_kept(network("yolo26n.yaml"), auto)
    assert "axis-aligned" in why_kept(OBBModel("yolov8n-obb.yaml", verbose=False), auto)
    model = network(str(resource_dir("cfg") / "models" / "yolov8-p234-reg8.yaml"))
    place_bins(model)
    assert "brings bins from -0.75 to 4.5" in why_kept(model, auto)
    assert measured(network(), auto, [{"cls": np.zeros(0)}], 128, 0.5) is None  # no object


def test_stock_wins_over_what_a_model_brings():
    model = network(str(resource_dir("cfg") / "models" / "yolov8-p234-reg8.yaml"))
    assert choose_bins(model, "stock") == (0, 7)
    use_bins(model, v8DetectionLoss(model), (-1.0, 6.5))
    criterion = v8DetectionLoss(model)
    assert use_bins(model, criterion, "stock") is None and type(criterion.bbox_loss) is BboxLoss
    assert model.model[-1].dfl.conv.weight.flatten().tolist() == list(range(8))
    assert choose_bins(model, None) == (0, 7)  # also when it is trained again


def test_weights_bring_their_bins(tiny_set, tmp_path):
    """Also those at 0, 1, ..., which are nothing that a YAML may move; weights that do not fit bring none."""
    fitting = YOLO("yolov8n-p2.yaml")
    fitting.model = DetectionModel(
        load_model_yaml(resource_dir("cfg") / "models" / "yolov8n-p2-reg8.yaml")
    )  # bins 0 to 7
    fitting.model.model[-1].cv2[0][-1].bias.data += 0.1  # as if trained
    fitting.save(tmp_path / "fits.pt")
    YOLO("yolov8n-p2.yaml").save(tmp_path / "other.pt")
    given = {"data": str(tiny_set), "imgsz": 64, "epochs": 1, "workers": 0, "plots": False, "val": False}
    given |= {"device": "cpu", "project": str(tmp_path)}

    def bins(name, model, **more):
        RFLAYOLO(model).train(**given, name=name, **more)
        return YOLO(tmp_path / name / "weights" / "last.pt").model.model[-1].dfl.conv.weight.flatten().tolist()

    assert bins("tuned", tmp_path / "fits.pt") == bins("tal", tmp_path / "fits.pt", assigner="tal") == list(range(8))
    assert bins("pretrained", "yolov8n-p2-reg8.yaml", pretrained=str(tmp_path / "fits.pt")) == list(range(8))
    kept = bins("fresh", "yolov8n-p2-reg8.yaml", pretrained=str(tmp_path / "other.pt"))
    assert kept == pytest.approx([-0.75 + 0.75 * i for i in range(8)])
    assert bins("again", tmp_path / "fresh" / "weights" / "last.pt") == kept
    YOLO("yolov8n.yaml").save(tmp_path / "backbone.pt")  # its head has another place than that of yolov8n-p2
    measured = bins("backbone", "yolov8n-p2.yaml", pretrained=str(tmp_path / "backbone.pt"))
    assert measured[0] < 0 and measured[-1] < BINS - 1  # as for a new model
    model = RFLAYOLO("yolov8n-p2.yaml").load(tmp_path / "backbone.pt")
    model.train(**given, name="loaded")
    assert model.model.model[-1].dfl.conv.weight.flatten().tolist() == measured


@pytest.mark.parametrize("value", ["[5, 1]", "[-1, .inf]", "[2, 2]", "[1]", "auto", "stock", "3", "[0, x]"])
def test_a_yaml_with_no_such_range(value, tmp_path):
    text = (resource_dir("cfg") / "models" / "yolov8-p2-reg8.yaml").read_text().replace("[-0.75, 4.5]", value)
    (file := tmp_path / "own-yolov8n.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"own-yolov8n\.yaml: dfl_range must be two ascending numbers of cells, not "):
        RFLAYOLO(file)


def test_a_yaml_with_a_range_for_a_head_without_bins(tmp_path):
    text = (resource_dir("cfg") / "models" / "yolo26-p234.yaml").read_text()
    (file := tmp_path / "own-yolo26n.yaml").write_text(text + "\ndfl_range: [-1, 6]\n")
    with pytest.raises(ValueError, match=r"own-yolo26n\.yaml: dfl_range \(-1.0, 6.0\) is for heads with a distance"):
        RFLAYOLO(file)


def test_one_distance_alone_is_a_range():
    """All sides of all objects alike: a box of one cell about its only anchor."""
    label = {"shape": (64, 64), "cls": np.zeros(1), "bboxes": np.array([[18 / 64, 18 / 64, 4 / 64, 4 / 64]])}
    low, high = measured(network(), RFLAConfig(topk=(1, 0), topk_max=0), [label], 64, 0.0)
    assert (low, high) == (0.5, 0.75)


def test_auto_becomes_numbers_that_the_run_keeps(tiny_set, tmp_path):
    given = {"data": str(tiny_set), "imgsz": 64, "epochs": 1, "batch": 8, "workers": 0, "plots": False, "device": "cpu"}
    RFLAYOLO("yolov8n-p2.yaml").train(**given, project=str(tmp_path), name="run")
    text = (tmp_path / "run" / "rfla.yaml").read_text()
    net = YOLO(tmp_path / "run" / "weights" / "last.pt").model
    low, high = net.rfla["dfl_range"]
    assert -2 < low < 0 < high < 6
    assert f"DFL bins from {low:g} to {high:g} cells" in text
    assert yaml.safe_load(text)["dfl_range"] == "auto"  # as asked
    weight = net.model[-1].dfl.conv.weight.flatten()
    torch.testing.assert_close(weight, torch.linspace(low, high, BINS), rtol=0, atol=2e-3)  # kept in float16
    found = analyze(tiny_set, "yolov8n-p2.yaml", imgsz=64, images=8, sweep=False)
    assert found.levels.bins == found.tallies["rfla"]["plain"].levels.bins == (low, high)
    assert found.tallies["tal"]["plain"].levels.bins == (0, BINS - 1)  # what stock draws
    assert found.config == found.start_from == RFLAConfig()  # as asked
    RFLAYOLO("yolov8n-p2.yaml").train(**given, project=str(tmp_path), name="tal", assigner="tal")
    weight = YOLO(tmp_path / "tal" / "weights" / "last.pt").model.model[-1].dfl.conv.weight.flatten()
    assert weight.tolist() == list(range(BINS))


def test_a_sweep_measures_for_every_setting(tiny_set):
    """What another size of image or other fields would train with, not what these do."""
    given = {"model": "yolov8n-p2.yaml", "assigner": "rfla", "images": 8}
    found = analyze(tiny_set, imgsz=64, **given)
    rows = {row["name"]: row for row in found.result["sweep"]}
    assert "keep the default" in found.verdict[-1]
    assert tuple(rows["imgsz x 1.5"]["bins"]) == analyze(tiny_set, imgsz=96, **given, sweep=False).levels.bins
    narrow = analyze(tiny_set, imgsz=64, rf_scale=1, **given, sweep=False).levels.bins
    assert tuple(rows["rf stride, rf_scale 1"]["bins"]) == narrow != found.levels.bins


def test_an_analysis_starts_from_what_training_would(tiny_set, tmp_path):
    trained = YOLO("yolov8n-p2.yaml")
    trained.model.model[-1].cv2[0][-1].bias.data += 0.1
    trained.save(tmp_path / "trained.pt")
    given = {"imgsz": 64, "images": 8, "sweep": False, "assigner": "rfla"}
    new = analyze(tiny_set, "yolov8n-p2.yaml", **given).levels.bins
    assert new[0] < 0
    stock = (0, BINS - 1)
    assert analyze(tiny_set, "yolov8n-p2.yaml", pretrained=str(tmp_path / "trained.pt"), **given).levels.bins == stock
    assert analyze(tiny_set, tmp_path / "trained.pt", **given).levels.bins == stock
    assert analyze(tiny_set, tmp_path / "trained.pt", pretrained=False, **given).levels.bins == new
    with pytest.raises(FileNotFoundError, match=r"pretrained: no such file: absent\.pt"):
        analyze(tiny_set, "yolov8n-p2.yaml", pretrained="absent.pt", **given)


def test_what_is_said_of_bins(tiny_set, tmp_path, caplog):
    """That bins move under trained boxes, that an auto measures nothing, and what is too large."""
    model = YOLO("yolov8n-p2.yaml")
    model.model.model[-1].cv2[0][-1].bias.data += 0.1
    model.save(file := tmp_path / "trained.pt")
    given = {"data": str(tiny_set), "imgsz": 64, "epochs": 1, "workers": 0, "plots": False, "val": False}
    given |= {"device": "cpu", "project": str(tmp_path), "exist_ok": True, "name": "run"}

    def said(model, **more):
        caplog.clear()
        RFLAYOLO(model).train(**given, **more)
        return caplog.text

    assert "moves the bins from 0 to 15 cells" in said(file, dfl_range=(-1.0, 6.5))
    kept = "without effect: dfl_range, because the boxes of this model were trained with bins from 0 to 15 cells"
    assert kept in said(file, dfl_range="auto") and kept not in said(file)
    assert "without effect: dfl_range, because assigner=tal" in said(file, dfl_range="auto", assigner="tal")
    text = said("yolov8n-p2.yaml", dfl_range=(0.0, 0.25))
    assert "cannot be drawn to an IoU of 0.5" in text and "moves the bins" not in text


@pytest.mark.parametrize("assigner", ["rfla", "tal"])
def test_trained_checkpoint_holds_them_and_runs_in_plain_ultralytics(tiny_set, tmp_path, assigner):
    model = RFLAYOLO("yolov8n-p234-reg8.yaml")
    given = {"data": str(tiny_set), "imgsz": 64, "epochs": 1, "batch": 8, "workers": 0, "plots": False, "device": "cpu"}
    model.train(**given, project=str(tmp_path), name="run", assigner=assigner)
    last = tmp_path / "run" / "weights" / "last.pt"
    plain = YOLO(last)
    assert plain.model.model[-1].dfl.conv.weight.flatten().tolist() == [-0.75 + 0.75 * i for i in range(8)]
    assert [float(s) for s in plain.model.stride] == [4, 8, 16]
    plain.predict(torch.zeros(1, 3, 64, 64), verbose=False, device="cpu")
    assert "DFL bins from -0.75 to 4.5 cells" in (tmp_path / "run" / "rfla.yaml").read_text()
    again = RFLAYOLO(last)  # fine-tuned without the setting
    again.train(**given, project=str(tmp_path), name="again", assigner=assigner)
    assert "DFL bins from -0.75 to 4.5 cells" in (tmp_path / "again" / "rfla.yaml").read_text()


def test_oriented_boxes_take_their_own_bins_from_a_detector_with_others():
    detector = network("yolov8n.yaml")
    use_bins(detector, v8DetectionLoss(detector), (-0.75, 5.5))
    detector.model[-1].bias_init()
    for layer in detector.model[-1].cv2:
        layer[-1].bias.data += 0.01  # trained
    model = OBBModel("yolov8n-obb.yaml", nc=2, verbose=False)
    model.args = get_cfg()
    load_weights(model, detector)
    assert model.model[-1].dfl.conv.weight[0, 0] == -0.75
    assert "task obb moves the bins from -0.75 to 5.5 cells" in describe_moved(model, choose_bins(model, None))
    criterion = v8OBBLoss(model)
    assert use_bins(model, criterion, None) is None and type(criterion.bbox_loss) is RotatedBboxLoss
    assert model.model[-1].dfl.conv.weight.flatten().tolist() == criterion.proj.tolist() == list(range(BINS))
    assert describe_moved(model, choose_bins(model, None)) is None
