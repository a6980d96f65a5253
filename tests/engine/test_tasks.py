"""Segment, pose and oriented boxes: the losses under RFLA, and a training of each."""

from __future__ import annotations

import math

import pytest
import torch
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import OBBModel, PoseModel, SegmentationModel
from ultralytics.utils.loss import E2ELoss

from rfla_yolo import RFLAConfig, rfla_assign
from rfla_yolo.assign import rfla_match
from rfla_yolo.assign.targets import TAL_EPS
from rfla_yolo.engine.loss import LOSSES, RFLALoss, RFLAMatcher, build_criterion, one_to_many
from rfla_yolo.engine.positives import PositiveCounter

MODELS = {"seg": SegmentationModel, "pose": PoseModel, "obb": OBBModel}
SIZE = 256
SIDES = (3.0, 6.0, 12.0, 16.0, 40.0, 70.0, 230.0)  # px, for every level


def model_of(name):
    torch.manual_seed(0)
    task = name.split("-")[1]
    options = {"data_kpt_shape": (3, 3)} if task == "pose" else {}
    model = MODELS[task](f"{name}.yaml", nc=3, verbose=False, **options)
    model.args = get_cfg()
    return model


def batch_of(task, overlap=True):
    """Two images with objects of all sizes, with their masks, keypoints or angles."""
    rows, angles, masks = [], [], torch.zeros(2, SIZE, SIZE)
    ys, xs = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    for image in range(2):
        for i, side in reversed(list(enumerate(SIDES))):  # the largest first, so that the others' masks cover it
            x, y = (0.5, 0.5) if side > SIZE / 2 else (0.2 + 0.1 * i, 0.8 - 0.1 * i)
            rows.append([image, i % 3, x, y, side / SIZE, side / SIZE * (0.5 + 0.5 * image)])
            angles.append(0.4 * i - math.pi / 4)
            inside = ((xs - x * SIZE).abs() <= side / 2) & ((ys - y * SIZE).abs() <= side / 2)
            masks[image][inside] = len(SIDES) - i
    rows = torch.tensor(rows)
    batch = {"batch_idx": rows[:, 0], "cls": rows[:, 1:2], "bboxes": rows[:, 2:]}
    batch["img"] = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    if task == "seg":
        batch["masks"] = masks if overlap else torch.stack([masks[int(i)] == n for i, n in _numbered(rows[:, 0])])
        batch["sem_masks"] = torch.zeros(2, SIZE, SIZE)
    elif task == "pose":
        corners = torch.tensor([[-0.5, -0.5], [0.5, 0.5], [0.0, 0.0]])
        points = rows[:, None, 2:4] + corners * rows[:, None, 4:]
        batch["keypoints"] = torch.cat((points, torch.tensor([2.0, 1.0, 0.0]).expand(len(rows), 3)[..., None]), -1)
    else:
        batch["bboxes"] = torch.cat((batch["bboxes"], torch.tensor(angles)[:, None]), 1)
    return batch


def _numbered(images):
    """Every object's image and its number in it, from 1."""
    return [(i, int((images[: place + 1] == i).sum())) for place, i in enumerate(images)]


def gradients(head):
    """The largest gradient of every branch and level, and of the prototypes."""
    found = {}
    for name, part in head.named_children():
        if name.startswith(("cv", "one2one_cv")) and part is not None:
            found |= {f"{name}.{i}": part[i].parameters() for i in range(head.nl)}
        elif name == "proto":
            found[name] = part.parameters()
    return {name: max(float(p.grad.abs().max()) for p in own if p.grad is not None) for name, own in found.items()}


NEWEST = [f"yolo26n-{task}" for task in MODELS]
STEPS = [(f"yolo{v}n-{task}", "tal") for v in ("v8", "11") for task in MODELS]
STEPS += [(name, one2one) for name in NEWEST for one2one in ("tal", "rfla")]


@pytest.mark.parametrize(("name", "one2one"), STEPS)
def test_one_step(name, one2one):
    model = model_of(name)
    criterion = build_criterion(model, RFLAConfig(one2one=one2one))
    assert isinstance(one_to_many(criterion), RFLALoss)
    assert isinstance(criterion, E2ELoss) == (name in NEWEST)
    if name in NEWEST:
        assert isinstance(criterion.one2one.assigner, RFLAMatcher) == (one2one == "rfla")
        assert isinstance(criterion.one2one, RFLALoss) == (one2one == "rfla")
    counter = PositiveCounter(criterion)
    batch = batch_of(name.split("-")[1])
    total, items = criterion(model.train()(batch["img"]), batch)
    assert total.isfinite().all() and all(value.isfinite() for value in items.values())
    total.sum().backward()
    found = gradients(model.model[-1])
    assert all(value > 0 for value in found.values()), found
    counted = counter.read()
    assert counted["assign/missed"] == 0
    assert 3 <= counted["assign/positivesvt"] <= 6  # three and their equals, and one of the second stage
    if one2one == "rfla":
        assert counted["assign/missed_one2one"] == 0


class Recorder:
    """Keeps the arguments and outputs of an assigner's calls."""

    def __init__(self, assigner):
        assigner.register_forward_hook(self.keep, with_kwargs=True)

    def keep(self, assigner, args, kwargs, output):
        self.args, self.extra, self.output = args, kwargs, output


@pytest.mark.parametrize("name", [f"yolo{v}n-{task}" for v in ("v8", "26") for task in MODELS])
def test_assignment_is_that_of_rfla_and_targets_have_the_tasks_own_overlap(name):
    """Stock's overlap of every positive pair, as stock's own assigner computes it in a table of all pairs."""
    task = name.split("-")[1]
    model = model_of(name)
    config = RFLAConfig()
    criterion = build_criterion(model, config)
    branches = {"one2many": one_to_many(criterion)}
    if name in NEWEST:
        branches["one2one"] = build_criterion(model, RFLAConfig(one2one="rfla")).one2one
    batch = batch_of(task)
    preds = model.train()(batch["img"])
    for branch, loss in branches.items():
        recorder = Recorder(loss.assigner)
        loss.loss(preds.get(branch, preds), batch)
        scores, boxes, _, labels, gt, mask = recorder.args
        _, _, target_scores, positive, gt_idx = recorder.output
        grid = [(SIZE // s, SIZE // s) for s in (8, 16, 32)]
        levels = (grid, [8, 16, 32], [16, 32, 64])
        if branch == "one2one":
            expected = rfla_match(gt, mask[..., 0].bool(), *levels)
        else:
            expected = rfla_assign(gt, mask[..., 0].bool(), *levels, topk_max=config.topk_max)
        assert torch.equal(torch.where(positive, gt_idx, -1), expected)

        extra = {key: value for key, value in recorder.extra.items() if key != "anc_strides"}
        stock = type(one_to_many(model.init_criterion()).assigner)
        assert type(loss.assigner.stock) is stock
        assigner = loss.assigner.stock
        assigner.bs, assigner.n_max_boxes, assigner.topk = len(gt), gt.shape[1], 40
        image, anchor = positive.nonzero(as_tuple=True)
        pairs = (image, gt_idx[image, anchor], anchor)
        if name == "yolo26n-seg":
            extra |= {"scores": scores, "labels": labels}
        overlap = assigner.pair_overlaps(pairs, gt, boxes, **extra)
        boxes_alone = type(assigner).iou_calculation(assigner, gt[pairs[:2]], boxes[image, anchor])
        assert (overlap > 0).sum() > 10
        if name in {"yolo26n-seg", "yolo26n-pose"}:  # the task's own part counts
            assert ((overlap - boxes_alone).abs() > 1e-3).sum() > 10 and ((overlap - boxes_alone / 2) > 1e-3).any()
        align = scores[image, anchor, labels[pairs[:2]].long()[:, 0]] ** 0.5 * overlap**6
        same = (pairs[0][:, None] == pairs[0]) & (pairs[1][:, None] == pairs[1])
        best, best_align = ((values * same).amax(1) for values in (overlap, align))
        wanted = align * best / (best_align + TAL_EPS)
        assert torch.allclose(target_scores.sum(-1)[image, anchor], wanted, rtol=1e-4, atol=1e-7)
        assert target_scores.sum() == pytest.approx(float(wanted.sum()), rel=1e-4)


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("name", NEWEST)
def test_batches_without_and_with_one_object(name, rows):
    model = model_of(name)
    batch = {key: value[:rows] for key, value in batch_of(name.split("-")[1]).items() if key not in {"img", "masks"}}
    batch |= {"img": torch.rand(2, 3, SIZE, SIZE), "masks": torch.zeros(2, SIZE, SIZE)}
    if "sem_masks" in batch:
        batch["sem_masks"] = torch.zeros(2, SIZE, SIZE)
    total, _ = build_criterion(model, RFLAConfig(one2one="rfla"))(model.train()(batch["img"]), batch)
    total.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_masks_one_by_one_are_judged_as_overlapping_ones():
    """``overlap_mask=False`` hands every object's mask alone."""
    found = []
    for overlap in (True, False):
        model = model_of("yolo26n-seg")
        model.args.overlap_mask = overlap
        criterion = build_criterion(model, RFLAConfig(one2one="rfla"))
        batch = batch_of("seg", overlap)
        found.append(criterion(model.train()(batch["img"]), batch)[1]["cls_loss"])
    assert found[0] == found[1]


def test_no_task_loss_of_a_known_head_is_missing():
    from ultralytics.utils import loss

    derived = {c for c in vars(loss).values() if isinstance(c, type) and issubclass(c, loss.v8DetectionLoss)}
    assert derived == {stock for ours in LOSSES.values() for stock in ours.__bases__ if stock is not RFLALoss}
