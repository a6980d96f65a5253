"""The assigner in Ultralytics' loss: outputs, targets, gradients, and a plain loss as oracle."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import tal
from ultralytics.utils.loss import v8DetectionLoss
from ultralytics.utils.metrics import bbox_iou

from rfla_yolo import RFLAConfig, RFLADetectionLoss, rfla_assign
from rfla_yolo.assign import TARGETS
from rfla_yolo.engine import RFLAAssigner, rf_sizes

from ..assign.oracle import anchors

PAPER = RFLAConfig.take_from({"preset": "paper"})[0]
GRID, STRIDES, RF = [(16, 12), (8, 6), (4, 3), (2, 2)], [4, 8, 16, 32], [11.5, 47.5, 119.5, 199.5]


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = DetectionModel("yolov8n-p2.yaml", nc=3, verbose=False)
    model.args = get_cfg()
    return model


def batch_of(rows, images=2, size=64):
    """Rows of (image, class, x, y, w, h), normalised."""
    rows = torch.tensor(rows).view(-1, 6)
    image = torch.rand(images, 3, size, size, generator=torch.Generator().manual_seed(0))
    return {"img": image, "batch_idx": rows[:, 0], "cls": rows[:, 1:2], "bboxes": rows[:, 2:]}


ROWS = [[0, 1, 0.5, 0.5, 0.1, 0.1], [0, 2, 0.2, 0.3, 0.05, 0.08], [1, 0, 0.7, 0.7, 0.6, 0.5]]


class TestAssigner:
    def call(self, config, boxes, labels, mask, num_classes=3):
        points, _ = anchors(GRID, STRIDES)
        generator = torch.Generator().manual_seed(0)
        scores = torch.rand(len(boxes), len(points), num_classes, generator=generator)
        reach = torch.rand(len(boxes), len(points), 4, generator=generator) * 12
        predicted = torch.cat((points - reach[..., :2], points + reach[..., 2:]), -1)
        assigner = RFLAAssigner(num_classes, STRIDES, RF, config)
        assigner.grid_shapes = GRID
        out = assigner(scores, predicted, None, labels, boxes, mask)
        return scores, predicted, out

    def test_outputs_agree_with_the_assignment(self):
        boxes = torch.tensor([[[8.0, 8, 14, 14], [20, 20, 40, 44]], [[3, 4, 9, 9], [0, 0, 0, 0]]])
        labels, mask = torch.tensor([[[2.0], [0]], [[1], [0]]]), torch.tensor([[[1.0], [1]], [[1], [0]]])
        _, _, (target_labels, target_bboxes, target_scores, fg_mask, gt_idx) = self.call(PAPER, boxes, labels, mask)
        assigned = rfla_assign(boxes, mask[..., 0].bool(), GRID, STRIDES, RF)
        assert torch.equal(fg_mask, assigned >= 0)
        for image, anchor in fg_mask.nonzero().tolist():
            gt = assigned[image, anchor]
            assert gt_idx[image, anchor] == gt
            assert target_labels[image, anchor] == labels[image, gt, 0]
            assert torch.equal(target_bboxes[image, anchor], boxes[image, gt])
            expected = torch.zeros(3).scatter(0, labels[image, gt].long(), 1.0)
            assert torch.equal(target_scores[image, anchor], expected)
        assert target_scores[~fg_mask].sum() == 0

    def test_tal_targets_are_the_normalised_alignment_of_ultralytics(self):
        boxes = torch.tensor([[[8.0, 8, 14, 14], [20, 20, 40, 44]]])
        labels, mask = torch.tensor([[[2.0], [0]]]), torch.ones(1, 2, 1)
        scores, predicted, out = self.call(replace(PAPER, target="tal"), boxes, labels, mask)
        assigned = rfla_assign(boxes, mask[..., 0].bool(), GRID, STRIDES, RF)[0]
        for gt in (0, 1):
            mine = (assigned == gt).nonzero().flatten()
            iou = bbox_iou(boxes[0, gt], predicted[0, mine], xywh=False, CIoU=True).flatten().clamp(0)
            align = scores[0, mine, int(labels[0, gt])] ** 0.5 * iou**6
            expected = align * iou.max() / (align.max() + 1e-9)
            assert torch.allclose(out[2][0, mine, int(labels[0, gt])], expected, atol=1e-6)

    @pytest.mark.parametrize("target", sorted(TARGETS))
    def test_targets_are_those_of_the_dense_form(self, target, monkeypatch):
        """Overlaps at the positives alone give what overlaps at every anchor give."""
        generator = torch.Generator().manual_seed(1)
        corner = torch.rand(3, 20, 2, generator=generator) * 50
        boxes = torch.cat((corner, corner + torch.rand(3, 20, 2, generator=generator) * 20 + 1), -1)
        labels, mask = torch.randint(0, 3, (3, 20, 1), generator=generator).float(), torch.ones(3, 20, 1)
        mask[1, 7:] = 0
        seen = []
        iou = lambda *args, **kwargs: seen.append(args[0].shape[0]) or bbox_iou(*args, **kwargs)  # noqa: E731
        monkeypatch.setattr(tal, "bbox_iou", iou)
        scores, predicted, out = self.call(RFLAConfig(target=target), boxes, labels, mask)
        assert seen == ([int(out[3].sum())] if target == "tal" else [])
        dense = out[3].float()
        if target == "tal":
            overlap = bbox_iou(out[1], predicted, xywh=False, CIoU=True).squeeze(-1).clamp(0) * out[3]
            align = scores.gather(2, out[0][..., None]).squeeze(-1) ** 0.5 * overlap**6
            best_align, best_overlap = (
                torch.zeros(3, 20).scatter_reduce(1, out[4], x, "amax").gather(1, out[4]) for x in (align, overlap)
            )
            dense = align * best_overlap / (best_align + 1e-9)
        expected = torch.zeros(3, dense.shape[1], 3).scatter_(2, out[0][..., None], dense[..., None])
        assert torch.allclose(out[2], expected, rtol=1e-5, atol=0)
        assert (expected > 0).sum() > 100


class TestLargeObjects:
    """``tal_from``: Ultralytics' assigner chooses the anchors of objects that are large enough."""

    def scene(self):
        generator = torch.Generator().manual_seed(2)
        centre = torch.rand(3, 12, 2, generator=generator) * 128
        side = 2 + 60 * torch.rand(3, 12, 1, generator=generator) ** 2
        boxes = torch.cat((centre - side / 2, centre + side / 2), -1).clamp(0, 128)
        labels = torch.randint(0, 3, (3, 12, 1), generator=generator).float()
        mask = torch.ones(3, 12, 1)
        mask[0, 3:] = 0  # padding
        mask[2] = 0
        grid = [(32, 32), (16, 16), (8, 8), (4, 4)]
        points, _ = anchors(grid, STRIDES)
        scores = torch.rand(3, len(points), 3, generator=generator)
        reach = torch.rand(3, len(points), 4, generator=generator) * 30
        predicted = torch.cat((points - reach[..., :2], points + reach[..., 2:]), -1)
        return grid, (scores, predicted, points, labels, boxes, mask)

    @pytest.mark.parametrize("border", [0.5, 8.0, 20.0, 40.0, 1000.0])
    def test_they_take_what_tal_gives_them_and_no_smaller_one_has(self, model, border):
        grid, args = self.scene()
        config = RFLAConfig(tal_from=border)
        stock = v8DetectionLoss(model).assigner
        assigner = RFLAAssigner(3, STRIDES, RF, config, stock)
        assigner.grid_shapes = grid
        out = assigner(*args)
        boxes, mask = args[4], args[5]
        large = mask * ((boxes[..., 2:] - boxes[..., :2]).prod(-1, keepdim=True) >= border**2)
        by_tal = stock(*args[:5], large)  # a row for every object
        small = RFLAAssigner(3, STRIDES, RF, RFLAConfig(tal_from=None)).assign(
            boxes, (mask * (1 - large))[..., 0].bool(), grid
        )
        for image, anchor in torch.cartesian_prod(torch.arange(3), torch.arange(len(args[2]))).tolist():
            expected = int(small[image, anchor])
            if expected < 0 and by_tal[3][image, anchor]:
                expected = int(by_tal[4][image, anchor])
            assert (int(out[4][image, anchor]) if out[3][image, anchor] else -1) == expected
        assert 0 < large.sum() < mask.sum() or border in {0.5, 1000.0}

    def test_ultralytics_makes_no_row_for_the_others(self):
        """None at all for boxes, whose overlap is known."""
        grid, args = self.scene()
        sides = (args[4][..., 2:] - args[4][..., :2]).prod(-1).sqrt() * args[5][..., 0]
        own = type("OwnOverlap", (tal.TaskAlignedAssigner,), {})
        for kind, border, expected in (
            (own, 30.0, [int((sides >= 30).sum(1).max())]),
            (own, 1000.0, []),
            (tal.TaskAlignedAssigner, 30.0, []),
        ):
            stock = kind(topk=10, num_classes=3, alpha=0.5, beta=6.0, stride=STRIDES)
            assigner = RFLAAssigner(3, STRIDES, RF, RFLAConfig(tal_from=border), stock)
            assigner.grid_shapes = grid
            rows = []
            stock.register_forward_pre_hook(lambda _, inputs, rows=rows: rows.append(inputs[4].shape[1]))
            assigner(*args)
            assert rows == expected


class TestLoss:
    @pytest.mark.parametrize("target", sorted(TARGETS))
    def test_only_the_assigner_differs(self, model, target):
        """Ultralytics' own loss with our targets handed to it gives the same numbers."""
        batch = batch_of(ROWS)
        preds = model(batch["img"])
        ours = RFLADetectionLoss(model, RFLAConfig(target=target))
        plain = v8DetectionLoss(model)
        plain.assigner = ours.assigner
        mine, theirs = ours(preds, batch), plain(preds, batch)
        assert torch.equal(mine[0], theirs[0])
        assert all(mine[0] > 0)

    def test_with_every_object_left_to_tal_it_is_stocks(self, model):
        batch = batch_of(ROWS)
        preds = model(batch["img"])
        mine, theirs = (
            RFLADetectionLoss(model, RFLAConfig(tal_from=0.001))(preds, batch),
            v8DetectionLoss(model)(preds, batch),
        )
        assert torch.allclose(mine[0], theirs[0], rtol=1e-5)

    @pytest.mark.parametrize("rows", [[], ROWS])
    def test_backward_is_finite(self, model, rows):
        batch = batch_of(rows)
        RFLADetectionLoss(model)(model(batch["img"]), batch)[0].sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert gradients
        assert all(g.isfinite().all() for g in gradients)

    def test_images_not_square(self, model):
        batch = batch_of(ROWS)
        batch["img"] = torch.rand(2, 3, 64, 128)
        items = RFLADetectionLoss(model)(model(batch["img"]), batch)[1]
        assert set(items) == {"box_loss", "cls_loss", "dfl_loss"}


class TestReceptiveFieldSetting:
    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({}, [8, 16, 32, 64]),
            ({"rf": "trf"}, [11.5, 47.5, 119.5, 199.5]),
            ({"rf": "trf", "rf_scale": 1.0}, [23, 95, 239, 399]),
            ({"rf": "stride", "rf_scale": 3.0}, [12, 24, 48, 96]),
            ({"rf": (5, 6, 7, 8), "rf_scale": 2.0}, [5, 6, 7, 8]),
        ],
    )
    def test_sizes(self, model, settings, expected):
        assert rf_sizes(model, RFLAConfig(**settings)) == expected

    def test_wrong_number_of_sizes(self, model):
        with pytest.raises(ValueError, match=r"4 levels \(strides 4, 8, 16, 32\), not 3: \[5\.0, 6\.0, 7\.0\]"):
            rf_sizes(model, RFLAConfig(rf=(5, 6, 7)))
