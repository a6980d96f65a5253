"""What half precision costs boxes: ``python benchmarks/precision.py``; with ``--step`` on a GPU, the cost of a step.

Boxes are decoded by Ultralytics' own code and by this package's from the same outputs of a head, in half precision, and
compared with a decoding in double precision of the outputs before they were rounded.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.loss import v8DetectionLoss
from ultralytics.utils.metrics import bbox_iou
from ultralytics.utils.tal import make_anchors

from benchmarks.common import ROOT, environment, fill, write
from rfla_yolo import RFLAConfig
from rfla_yolo.engine.loss import RFLADetectionLoss, build_criterion
from rfla_yolo.engine.precision import float32_boxes, in_float32

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
SIDES = (4, 8, 16, 32)  # px
STRIDES = (4, 8, 16)
IMAGES = (800, 1536)
OBJECTS = 4000
LOSS_OBJECTS = 200
STEP_MODELS = ("yolov8s-p2.yaml", "yolo26s-p2.yaml")


def model_of(name: str) -> DetectionModel:
    """Return an untrained detector of one class, with the arguments that losses read."""
    model = DetectionModel(name, nc=1, verbose=False)
    model.args = get_cfg(overrides={"epochs": 2})
    return model


def distributions(distances: Tensor, reg_max: int) -> Tensor:
    """Return what a head with DFL gives where it predicts distances, cells, without error: (..., reg_max) logits."""
    low = distances.clamp(0, reg_max - 1.001).floor()
    high = distances - low
    bins = torch.arange(reg_max, dtype=distances.dtype)
    weight = (bins == low[..., None]) * (1 - high[..., None]) + (bins == low[..., None] + 1) * high[..., None]
    return weight.clamp(min=1e-9).log()


def objects_at_anchors(points: Tensor, side: float, stride: int) -> Tensor:
    """Return squares that hold their anchor points, which DFL needs, at random places around them; xyxy px."""
    reach = min(stride, side) / 2
    centres = points + (torch.rand(len(points), 2, dtype=points.dtype) * 2 - 1) * reach
    return torch.cat((centres - side / 2, centres + side / 2), 1)


def decoded(model: DetectionModel, dtype: torch.dtype, side: float, stride: int, imgsz: int) -> dict[str, Any]:
    """Return the mean IoU with the true boxes, by use and code."""
    head = model.model[-1]
    grids = [torch.zeros(1, 1, imgsz // int(s), imgsz // int(s), dtype=torch.double) for s in model.stride]
    anchors, strides = make_anchors(grids, model.stride.double(), 0.5)
    chosen = (strides[:, 0] == stride).nonzero()[:, 0]
    chosen = chosen[torch.randint(len(chosen), (OBJECTS,))].unique()
    points = anchors[chosen] * stride
    true = objects_at_anchors(points, side, stride)
    distances = torch.cat((points - true[:, :2], true[:, 2:] - points), 1) / stride  # (N, 4)
    boxes = torch.zeros(1, 4 * head.reg_max, len(anchors))
    values = distributions(distances, head.reg_max).flatten(1) if head.reg_max > 1 else distances
    boxes[0, :, chosen] = values.T.float()
    scores = torch.zeros(1, head.nc, len(anchors))
    preds = {"boxes": boxes.to(dtype), "scores": scores.to(dtype), "feats": [g.to(dtype) for g in grids]}

    def for_training(preds: dict[str, Any], autocast: bool) -> Tensor:
        loss = v8DetectionLoss(model)
        with torch.autocast("cpu", dtype=dtype) if autocast and dtype != torch.float32 else nullcontext():
            points, strides = make_anchors(preds["feats"], loss.stride, 0.5)
            found = loss.bbox_decode(points, preds["boxes"].permute(0, 2, 1).contiguous()) * strides
        return found[0, chosen]

    def for_inference(preds: dict[str, Any]) -> Tensor:
        head.shape = None
        head.dfl.to(dtype)
        found = head._inference(preds)[0, :4, chosen].T
        head.dfl.float()
        return torch.cat((found[:, :2] - found[:, 2:] / 2, found[:, :2] + found[:, 2:] / 2), 1)  # as NMS does, in dtype

    with torch.no_grad():
        found = {"training, stock": for_training(preds, True), "inference, stock": for_inference(preds)}
        found["training, rfla-yolo"] = for_training(in_float32(preds), False)
        with float32_boxes(model):
            found["inference, rfla-yolo"] = for_inference(preds)
    overlaps = {name: bbox_iou(b.double(), true, xywh=False) for name, b in found.items()}
    return {name: {"mean": float(iou.mean()), "least": float(iou.min())} for name, iou in overlaps.items()}


class HalfRFLA(RFLADetectionLoss):
    """RFLA as it would be if it decoded in the precision of the features."""

    def loss(self, preds: dict[str, Any], targets: dict[str, Any]) -> Any:
        """Compute the loss as `RFLALoss` without its base."""
        self.assigner.grid_shapes = [tuple(feature.shape[2:]) for feature in preds["feats"]]
        return v8DetectionLoss.loss(self, preds, targets)


def lost(name: str, dtype: torch.dtype, imgsz: int, side: float) -> dict[str, float]:
    """Return the box loss of objects of one size whose boxes every anchor around predicts without error."""
    model = model_of(name)
    grids = [torch.zeros(1, 1, imgsz // int(s), imgsz // int(s)) for s in model.stride]
    anchors, strides = make_anchors(grids, model.stride, 0.5)
    points = anchors * strides
    centres = torch.rand(LOSS_OBJECTS, 2) * (imgsz - side) + side / 2
    nearest = torch.cdist(points, centres).argmin(1)
    true = torch.cat((centres - side / 2, centres + side / 2), 1)[nearest]
    distances = torch.cat((points - true[:, :2], true[:, 2:] - points), 1) / strides
    preds = {"boxes": distances.T[None].to(dtype), "scores": torch.full((1, 1, len(points)), 2.0).to(dtype)}
    preds["feats"] = [g.to(dtype) for g in grids]
    batch = {"batch_idx": torch.zeros(LOSS_OBJECTS), "cls": torch.zeros(LOSS_OBJECTS, 1)}
    batch["bboxes"] = torch.cat((centres, torch.full_like(centres, side)), 1) / imgsz
    criteria = {
        "stock": v8DetectionLoss(model),
        "RFLA decoded as stock": HalfRFLA(model),
        "rfla-yolo": RFLADetectionLoss(model),
        "target=hard, decoded as stock": HalfRFLA(model, RFLAConfig(target="hard")),
        "target=hard": RFLADetectionLoss(model, RFLAConfig(target="hard")),
    }
    found = {}
    for code, criterion in criteria.items():
        with torch.autocast("cpu", dtype=dtype) if dtype != torch.float32 else nullcontext():
            found[code] = float(criterion(preds, batch)[1]["box_loss"])
    return found


def steps(device: str, imgsz: int, batch: int, objects: int, repeats: int) -> dict[str, Any]:
    """Time steps of training and of inference, stock and ours, by model and precision."""
    image = torch.rand(batch, 3, imgsz, imgsz, device=device)
    boxes = torch.cat((torch.rand(batch * objects, 2), torch.rand(batch * objects, 2) * 12 / imgsz + 4 / imgsz), 1)
    targets = {"batch_idx": torch.arange(batch).repeat_interleave(objects).float(), "bboxes": boxes}
    targets["cls"] = torch.zeros(batch * objects, 1)
    targets = {k: v.to(device) for k, v in targets.items()}
    found = []
    for name, precision, ours in product(STEP_MODELS, ("fp16", "bf16"), (False, True)):
        code = "rfla-yolo" if ours else "stock"
        for use, make in (("training", training), ("inference", inference)):
            row = {"step": use, "model": name.removesuffix(".yaml"), "precision": precision, "code": code}
            try:
                row |= timed(make(name, DTYPES[precision], ours, image, targets), device, repeats)
            except torch.OutOfMemoryError:
                row |= {"seconds": None, "peak_gib": None, "finite": None}
            print(row, flush=True)
            found.append(row)
    return {"imgsz": imgsz, "batch": batch, "objects": objects, "device": device, "steps": found}


def training(name: str, dtype: torch.dtype, ours: bool, image: Tensor, targets: dict[str, Tensor]) -> Any:
    """Return a function that does a step of training as the trainers do, and returns the loss."""
    torch.manual_seed(0)
    model = model_of(name).to(image.device).train()
    criterion = build_criterion(model, RFLAConfig()) if ours else model.init_criterion()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    scaler = torch.amp.GradScaler(image.device.type, enabled=dtype == torch.float16)

    def step() -> Tensor:
        with torch.autocast(image.device.type, dtype=dtype):
            loss = criterion(model(image), targets)[0].sum()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=10.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return loss.detach()

    return step


def inference(name: str, dtype: torch.dtype, ours: bool, image: Tensor, targets: dict[str, Tensor]) -> Any:
    """Return a function that decodes the boxes of the images, and returns them."""
    torch.manual_seed(0)
    model = model_of(name).to(image.device).eval()

    def step() -> Tensor:
        decoding = float32_boxes(model) if ours else nullcontext()
        with torch.no_grad(), torch.autocast(image.device.type, dtype=dtype), decoding:
            found: Tensor = model(image)[0]
        return found

    return step


def timed(step: Any, device: str, repeats: int) -> dict[str, Any]:
    """Return the median time of a step, the peak of memory, and whether all that it returned was finite."""
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None
    step()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds, finite = [], True
    for _ in range(repeats):
        sync()
        start = time.perf_counter()
        result = step()
        sync()
        seconds.append(time.perf_counter() - start)
        finite &= bool(result.isfinite().all())
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
    return {"seconds": statistics.median(seconds), "peak_gib": peak, "finite": finite}


def table_of_boxes(cells: dict[str, Any]) -> str:
    """Return the table of overlaps: stock / ours in each cell."""
    lines = []
    for imgsz in IMAGES:
        for use in ("training", "inference"):
            lines += [f"**{use.capitalize()}, {imgsz} px**", ""]
            lines += ["| stride | precision | " + " | ".join(f"{side} px" for side in SIDES) + " |", "|---" * 6 + "|"]
            for stride in STRIDES:
                for precision in DTYPES:
                    found = [cells[f"{precision} {side} {stride} {imgsz}"] for side in SIDES]
                    pairs = [[cell[f"{use}, {code}"]["mean"] for code in ("stock", "rfla-yolo")] for cell in found]
                    text = " | ".join(f"{stock:.3f} / {ours:.3f}" for stock, ours in pairs)
                    lines.append(f"| {stride} | {precision} | {text} |")
            lines.append("")
    return "\n".join(lines)


def table_of_losses(losses: dict[str, Any]) -> str:
    """Return the table of box losses of perfect predictions."""
    codes = list(next(iter(losses.values())))
    lines = ["| image | object | precision | " + " | ".join(codes) + " |", "|---" * (3 + len(codes)) + "|"]
    for key, row in losses.items():
        precision, side, imgsz = key.split()
        text = " | ".join(f"{row[code]:.3f}" for code in codes)
        lines.append(f"| {imgsz} px | {side} px | {precision} | {text} |")
    return "\n".join(lines)


def table_of_steps(result: dict[str, Any]) -> str:
    """Return the table of the cost of a step."""
    lines = [
        f"{result['imgsz']} px, batch {result['batch']}, {result['objects']} objects an image, "
        f"on {result['machine']['gpu'] or result['machine']['cpu']}.",
        "",
        "| step | model | precision | code | time | images/s | peak memory | NaN or infinity |",
        "|---" * 8 + "|",
    ]
    for row in result["steps"]:
        text = " | ".join(row[name] for name in ("step", "model", "precision", "code"))
        if row["seconds"] is None:
            figures = "out of memory | | | "
        else:
            peak = "" if row["peak_gib"] is None else f"{row['peak_gib']:.2f} GiB"
            rate = result["batch"] / row["seconds"]
            figures = f"{row['seconds'] * 1e3:.1f} ms | {rate:.1f} | {peak} | {'none' if row['finite'] else 'yes'}"
        lines.append(f"| {text} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", action="store_true", help="time steps instead, with CUDA unless --device cpu")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--imgsz", type=int, default=800)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    torch.manual_seed(0)
    document = ROOT / "docs" / "precision.md"
    if args.step:
        result = {**environment(0), **steps(args.device, args.imgsz, args.batch, args.objects, args.repeats)}
        if args.device == "cuda":
            write("precision-cuda", result)
            fill(document, "precision-cuda", table_of_steps(result))
        print(table_of_steps(result))
        return
    model = model_of("yolov8n-p2.yaml")
    cells = {
        f"{precision} {side} {stride} {imgsz}": decoded(model, dtype, side, stride, imgsz)
        for precision, dtype in DTYPES.items()
        for side in SIDES
        for stride in STRIDES
        for imgsz in IMAGES
    }
    losses = {
        f"{precision} {side} {imgsz}": lost("yolo26n-p2.yaml", dtype, imgsz, side)
        for imgsz in IMAGES
        for side in SIDES[:3]
        for precision, dtype in DTYPES.items()
    }
    write("precision", {**environment(0), "objects": OBJECTS, "boxes": cells, "losses": losses})
    fill(document, "precision-boxes", table_of_boxes(cells))
    fill(document, "precision-losses", table_of_losses(losses))


if __name__ == "__main__":
    main()
