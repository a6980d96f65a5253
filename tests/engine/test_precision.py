"""Half precision: losses, gradients, validation and prediction on boxes that are decoded in float32."""

from __future__ import annotations

import copy
import re
import zipfile
from pathlib import Path

import cv2
import pytest
import torch
from ultralytics.cfg import get_cfg
from ultralytics.models.yolo.detect import DetectionPredictor, DetectionTrainer
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.tasks import DetectionModel, OBBModel, PoseModel, SegmentationModel
from ultralytics.utils.loss import E2ELoss, v8DetectionLoss

from rfla_yolo import RFLAYOLO, RFLAConfig, RFLATrainer
from rfla_yolo.engine.loss import build_criterion
from rfla_yolo.engine.precision import Float32Loss, decode_in_float32, describe_rounding, float32_boxes, in_float32

from . import test_tasks as tasks
from .conftest import QUICK

HALF = [torch.float16, torch.bfloat16]
SIZE = 800  # px: 200 cells at stride 4, where bfloat16 has no halves any more
DOC = Path(__file__).parents[2] / "docs" / "precision.md"


@pytest.fixture(scope="module", params=["yolov8n-p2.yaml", "yolo26n-p2.yaml"])
def model(request):
    torch.manual_seed(0)
    model = DetectionModel(request.param, nc=2, verbose=False)
    model.args = get_cfg(overrides={"epochs": 2})
    return model


def outputs(model, dtype):
    """Outputs of a network in half precision, made up, of one image."""
    generator = torch.Generator().manual_seed(0)
    head = model.model[-1]
    grids = [SIZE // int(s) for s in head.stride]
    anchors = sum(n * n for n in grids)
    boxes = torch.rand(1, 4 * head.reg_max, anchors, generator=generator) * 2
    scores = torch.randn(1, head.nc, anchors, generator=generator) - 4
    return {
        "boxes": boxes.to(dtype),
        "scores": scores.to(dtype),
        "feats": [torch.zeros(1, 1, n, n, dtype=dtype) for n in grids],
    }


def batch_of_tiny_objects():
    generator = torch.Generator().manual_seed(1)
    centres, sides = torch.rand(100, 2, generator=generator), torch.full((100, 2), 4 / SIZE)
    return {"batch_idx": torch.zeros(100), "cls": torch.zeros(100, 1), "bboxes": torch.cat((centres, sides), 1)}


def in_single(preds):
    """The same outputs in float32, features too."""
    return {k: type(v)(f.float() for f in v) if isinstance(v, (list, tuple)) else v.float() for k, v in preds.items()}


def loss_and_gradients(criterion, preds, dtype=None):
    """Loss, and gradients of boxes and scores by branch; under autocast where a dtype is given."""
    names = ("one2many", "one2one") if isinstance(criterion, E2ELoss) else ("",)
    branches = {
        name: {k: v if k == "feats" else v.clone().requires_grad_() for k, v in preds.items()} for name in names
    }
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        total, items = criterion(branches if len(names) == 2 else branches[""], batch_of_tiny_objects())
    total.sum().backward()
    gradients = {(name, k): branches[name][k].grad for name in names for k in ("boxes", "scores")}
    return {k: float(v) for k, v in items.items()}, gradients


class TestLoss:
    @pytest.mark.parametrize("dtype", HALF)
    @pytest.mark.parametrize("one2one", ["tal", "rfla"])
    def test_equals_that_in_float32_on_the_same_outputs(self, model, dtype, one2one):
        if one2one == "rfla" and model.model[-1].reg_max > 1:
            pytest.skip("one branch only")
        preds = outputs(model, dtype)
        criterion = build_criterion(model, RFLAConfig(one2one=one2one))
        items, gradients = loss_and_gradients(criterion, preds, dtype)
        expected, wanted = loss_and_gradients(criterion, in_single(preds))
        assert items == pytest.approx(expected, rel=1e-6)
        for name, gradient in gradients.items():
            assert gradient.dtype == dtype
            assert wanted[name].abs().max() > 0
            assert torch.equal(gradient, wanted[name].to(dtype)), name

    @pytest.mark.parametrize(("dtype", "least"), [(torch.float16, 1e-5), (torch.bfloat16, 1e-3)])
    def test_stock_differs(self, model, dtype, least):
        """What the test above would find if our loss decoded in half precision."""
        preds = outputs(model, dtype)
        stock = v8DetectionLoss(model)
        items, _ = loss_and_gradients(stock, preds, dtype)
        expected, _ = loss_and_gradients(stock, in_single(preds))
        assert abs(items["box_loss"] / expected["box_loss"] - 1) > least

    @pytest.mark.parametrize("dtype", HALF)
    def test_perfect_boxes_cost_nothing(self, dtype):
        """Objects of 4 px on their anchor points: distances of half a cell, exact in any precision."""
        model = DetectionModel("yolo26n-p2.yaml", nc=2, verbose=False)
        model.args = get_cfg(overrides={"epochs": 2})
        preds = outputs(model, dtype)
        preds["boxes"] = torch.full_like(preds["boxes"], 0.5)
        cells = torch.randint(0, SIZE // 4, (100, 2), generator=torch.Generator().manual_seed(0))
        batch = batch_of_tiny_objects()
        batch["bboxes"][:, :2] = (cells.unique(dim=0)[:100] + 0.5) * 4 / SIZE
        config = RFLAConfig(topk=(1, 0), topk_max=0, target="hard")
        lost = {}
        for name, criterion in (("ours", build_criterion(model, config).one2many), ("stock", v8DetectionLoss(model))):
            with torch.autocast("cpu", dtype=dtype):
                lost[name] = float(criterion(preds, batch)[1]["box_loss"])
        assert lost["ours"] == pytest.approx(0, abs=1e-4)
        assert dtype == torch.float16 or lost["stock"] > 1

    @pytest.mark.parametrize("name", ["yolo11n-seg", "yolo26n-seg", "yolo26n-pose", "yolov8n-obb"])
    def test_every_task(self, name):
        model = tasks.model_of(name).train()
        batch = tasks.batch_of(name.split("-")[1])
        criterion = build_criterion(model, RFLAConfig())
        with torch.no_grad():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                preds = model(batch["img"])
                found = criterion(preds, batch)[1]
            exact = {k: in_single(v) for k, v in preds.items()} if "one2one" in preds else in_single(preds)
            expected = criterion(exact, batch)[1]
        assert {k: float(v) for k, v in found.items()} == pytest.approx({k: float(v) for k, v in expected.items()})

    def test_outputs_of_every_task(self):
        preds = {k: torch.ones(1, 2, 5, dtype=torch.float16) for k in ("boxes", "scores", "mask_coefficient", "angle")}
        preds |= {"feats": [torch.ones(2, 64, 8, 8, dtype=torch.float16)], "proto": (preds["boxes"], preds["scores"])}
        exact = in_float32(preds)
        tensors = [v for k, v in exact.items() if k not in {"feats", "proto"}] + [*exact["proto"], *exact["feats"]]
        assert len(tensors) == 7 and all(t.dtype == torch.float32 for t in tensors)
        assert exact["feats"][0].shape == (2, 64, 8, 8)
        assert exact["feats"][0].untyped_storage().nbytes() == 4


def spread(model):
    """Let the untrained head of a model predict boxes that are no multiples of a cell."""
    head = model.model[-1]
    with torch.no_grad():
        for branch in ("cv2", "one2one_cv2"):
            for level in getattr(head, branch, None) or []:
                torch.nn.init.normal_(level[-1].bias, 1.0, 1.0)
    return model.eval()


class TestDecoding:
    @pytest.mark.parametrize(
        ("kind", "name", "dtype"),
        [
            (DetectionModel, "yolov8n-p2.yaml", torch.float16),
            (DetectionModel, "yolo26n.yaml", torch.bfloat16),
            (SegmentationModel, "yolov8n-seg.yaml", torch.bfloat16),
            (PoseModel, "yolo26n-pose.yaml", torch.bfloat16),
            (OBBModel, "yolov8n-obb.yaml", torch.bfloat16),
        ],
    )
    def test_boxes_are_those_of_the_outputs_in_double(self, kind, name, dtype):
        torch.manual_seed(0)
        model = spread(kind(name, verbose=False))
        head = model.model[-1]
        image = torch.rand(1, 3, 32, 1184)
        with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
            stock, _ = model(image)
            with float32_boxes(model):
                ours, preds = model(image)
        first = lambda y: y[0] if isinstance(y, tuple) else y  # noqa: E731  with prototypes
        preds = preds.get("one2many", preds)
        assert preds["boxes"].dtype == dtype
        double = copy.deepcopy(head).double()
        double.shape = None
        double.stride = head.stride.double()
        with torch.no_grad():
            cast = {k: v.double() for k, v in preds.items() if k not in {"feats", "proto"}}
            exact = double._inference({**cast, "feats": [f.double() for f in preds["feats"]]})[:, :4]
        assert first(ours).dtype == torch.float32
        assert (first(ours)[:, :4] - exact).abs().max() < 1e-3
        assert (first(stock)[:, :4].double() - exact).abs().max() > 0.05
        assert "_inference" not in vars(head)

    def test_a_network_in_half_precision(self):
        """As ``val --half`` and ``predict --half`` have it on a GPU."""
        model = spread(DetectionModel("yolov8n-p2.yaml", verbose=False)).fuse(verbose=False).half()
        image = torch.rand(1, 3, 32, 832).half()
        with torch.inference_mode():
            before, _ = model(image)
            decode_in_float32(model)
            ours, _ = model(image)
        assert model.model[-1].dfl.conv.weight.dtype == torch.float16
        assert ours.dtype == torch.float32 and before.dtype == torch.float16
        assert 0.05 < (ours[:, :4] - before[:, :4].float()).abs().max() < 4

    def test_wrapped_for_validation_and_files(self, tmp_path):
        model = DetectionModel("yolov8n-p2.yaml", verbose=False).eval()
        wrapped = AutoBackend(model, device=torch.device("cpu"), fuse=False)
        assert decode_in_float32(wrapped) == [model.model[-1]]
        assert decode_in_float32(torch.nn.Identity()) == []


class OnGPU:
    """A validator that takes the training for one in half precision on a GPU: autocast, on a CPU in bfloat16."""

    def init_metrics(self, model):
        if self.training:
            self.args.quantize = 16
        super().init_metrics(model)
        self.boxes = []
        vars(self).setdefault("precisions", []).append(self.args.quantize)

    def update_metrics(self, preds, batch):
        self.boxes += [p["bboxes"].flatten() for p in preds] if self.training else []
        super().update_metrics(preds, batch)


def train_on_gpu(trainer_class, trained, folder):
    """Go on training for an epoch with such a validator."""
    seen = {}

    class Trainer(trainer_class):
        def get_validator(self):
            validator = super().get_validator()
            validator.__class__ = type("Emulated", (OnGPU, type(validator)), {})
            return validator

        def validate(self):
            result = super().validate()
            seen["boxes"] = torch.cat(self.validator.boxes)
            return result

    options = {"model": str(trained / "weights" / "best.pt"), "data": str(trained.parent / "set" / "set.yaml")}
    options |= {
        **QUICK,
        "epochs": 1,
        "lr0": 1e-6,
        "max_det": 100,
        "project": str(folder),
        "name": trainer_class.__name__,
    }
    trainer = Trainer(overrides=options)
    trainer.train()
    return trainer, seen["boxes"]


def rounded(boxes, border=32):
    """Share of the coordinates from a border on that are multiples of 1/4 px.

    The numbers of bfloat16 are from 32 on, those of float16 from 256 on.
    """
    coarse = boxes[(boxes >= border) & (boxes != 448)]  # prediction cuts at the border of the image
    assert len(coarse) > 30
    return float(((coarse * 4) % 1 == 0).float().mean())


class TestValidation:
    def test_boxes_of_a_half_network(self, trained, tmp_path):
        trainer, boxes = train_on_gpu(RFLATrainer, trained, tmp_path)
        assert rounded(boxes) < 0.1
        # the last validation is in float32, as any later one of the checkpoint; Ultralytics stays in half precision
        assert trainer.validator.precisions == [16, None]
        checkpoint = torch.load(trainer.last, weights_only=False)
        assert "_inference" not in vars(checkpoint["model"].model[-1])
        with zipfile.ZipFile(trainer.last) as archive:
            member = next(n for n in archive.namelist() if n.endswith("data.pkl"))
            assert b"rfla_yolo" not in archive.read(member)

    def test_ultralytics_own_rounds_them(self, trained, tmp_path):
        _, boxes = train_on_gpu(DetectionTrainer, trained, tmp_path)
        assert rounded(boxes) > 0.9


class TestPredictor:
    def predict(self, trained, **options):
        model = RFLAYOLO(trained / "weights" / "best.pt")
        image = cv2.resize(cv2.imread(str(trained.parent / "set" / "images" / "val" / "0.png")), (448, 448))
        result = model.predict(image, imgsz=448, conf=0.001, verbose=False, device="cpu", **options)[0]
        return result.boxes.xyxy, model.predictor.model.model.model[-1]

    def test_exact_where_the_network_is_in_half_precision(self, trained, monkeypatch):
        _, head = self.predict(trained)
        assert "_inference" not in vars(head)  # in float32: nothing to do
        setup = DetectionPredictor.setup_model

        def in_half(self, model, verbose=True):  # what Ultralytics does on a GPU alone
            setup(self, model, verbose)
            self.model.backend.fp16 = True
            self.model.backend.model.half()

        monkeypatch.setattr(DetectionPredictor, "setup_model", in_half)
        ours, _ = self.predict(trained)
        stock, _ = self.predict(trained, predictor=DetectionPredictor)
        assert rounded(ours, 256) < 0.1 and rounded(stock, 256) > 0.9


class TestWords:
    @pytest.mark.parametrize(("dtype", "pixels"), [(torch.float16, "0.25 px"), (torch.bfloat16, "2 px")])
    def test_rounding_of_the_baseline(self, dtype, pixels):
        text = describe_rounding(dtype, 4.0, 800)
        assert f"up to {pixels}" in text and "stride 4 and 800 px" in text and "docs/precision.md" in text
        edge = torch.linspace(128, 200, 9999)
        worst = float((edge.to(dtype).float() - edge).abs().max()) * 4
        assert worst == pytest.approx(float(pixels.split()[0]), rel=0.02)

    def test_reproduction_in_the_docs(self, capsys):
        """The description for Ultralytics holds a script in plain Ultralytics, and what it prints."""
        code, printed = re.search(r"```python\n(.*?)```.*?```text\n(.*?)```", DOC.read_text(), re.DOTALL).groups()
        assert "rfla" not in code and len(code.splitlines()) <= 14
        exec(compile(code, "precision.md", "exec"), {})
        assert capsys.readouterr().out == printed


def test_mixin_is_in_every_loss(model):
    criterion = build_criterion(model, RFLAConfig())
    for loss in (criterion.one2many, criterion.one2one) if isinstance(criterion, E2ELoss) else (criterion,):
        assert isinstance(loss, Float32Loss)
