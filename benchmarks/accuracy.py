"""RFLA against Ultralytics' assigner at equal budget: train arms over seeds, evaluate, and write one JSON per run.

``python benchmarks/accuracy.py --protocol short --arms tal,paper --seeds 0,1,2`` trains what has no result yet, so it
can be stopped and started again; an unfinished run starts anew, because a resumed run never equals an undisturbed one.
All arms share one recipe; only the assigner and its targets differ. ``--split choose`` is for finding settings,
``--split confirm`` for the seeds that no choice has seen, ``--split all`` for a final statement on both with fresh
ones. ``python benchmarks/accuracy_report.py`` makes the tables.
The detections of every run are kept beside its result, small enough to commit, so that intervals can be taken anew.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import yaml

from benchmarks.common import RESULTS, ROOT, environment
from benchmarks.detections import keep, keep_truth

SPLITS: dict[str, tuple[str, str | None, int]] = {  # set, list of validation images, share of training images by 1/n
    "choose": ("hituav-half", "val-choose.txt", 2),
    "confirm": ("hituav-half", "val-confirm.txt", 2),
    "all": ("hituav-half", None, 2),
    "nuclei": ("nuclei-tiny", None, 1),
}
RECIPE = {
    "batch": 16,
    "nbs": 16,
    "optimizer": "AdamW",
    "lr0": 0.002,
    "warmup_epochs": 1,
    "mosaic": 1.0,
    "scale": 0.3,
    "close_mosaic": 3,
    "val": False,
    "plots": False,
    "deterministic": True,
}
MODELS: dict[str, tuple[str, int]] = {  # model YAML and image size, px
    "yolov8n-p2": ("yolov8n-p2.yaml", 320),
    "yolov8n": ("yolov8n.yaml", 320),
    "yolov8s-p2": ("yolov8s-p2.yaml", 320),
    "yolo26n": ("yolo26n.yaml", 320),
    "yolo26n-p2": ("yolo26n-p2.yaml", 320),
    # about the latency of yolov8n-p2 at 320 px (benchmarks/latency.py)
    "yolov8n-p2-reg8": ("yolov8n-p2-reg8.yaml", 352),
    "yolov8n-p234-reg8": ("yolov8n-p234-reg8.yaml", 384),
    "yolo26n-p2-416": ("yolo26n-p2.yaml", 416),
    "yolo26n-p234": ("yolo26n-p234.yaml", 448),
    "yolo11n-p2-reg8": ("yolo11n-p2-reg8.yaml", 352),
    "yolo11n-p234-reg8": ("yolo11n-p234-reg8.yaml", 384),
}
PROTOCOLS: dict[str, dict[str, Any]] = {
    "short": {"epochs": 16},
    "long": {"epochs": 48},
    "smoke": {"every": 80, "epochs": 1},  # does it run at all
    "full": {"every": 1, "epochs": 100, "close_mosaic": 10},
}
PAPER = {"preset": "paper"}
GROWN30 = {**PAPER, "rf": "stride", "rf_scale": 2.0, "topk_max": 30}
BELOW32 = {**GROWN30, "target": "tal", "tal_from": 32.0}
ARMS: dict[str, dict[str, Any]] = {
    "tal": {"assigner": "tal"},
    "paper": PAPER,
    "grown30-tal": {**GROWN30, "target": "tal"},  # RFLA at every size
    "below-32": BELOW32,
    "below-32-one2one-rfla": {**BELOW32, "one2one": "rfla"},
    "below-32-auto": {**BELOW32, "dfl_range": "auto"},  # the default
    "below-32-bins-1-6.5": {**BELOW32, "dfl_range": [-1.0, 6.5]},
    "one2one-rfla": {**GROWN30, "target": "tal", "one2one": "rfla"},
    "tal-bins-1-6.5": {"assigner": "tal", "dfl_range": [-1.0, 6.5]},
    "bins-0.75-4.5": {**GROWN30, "target": "tal", "dfl_range": [-0.75, 4.5]},
    "tal-bins-0.75-4.5": {"assigner": "tal", "dfl_range": [-0.75, 4.5]},
    "tal-from-32": {**BELOW32, "dfl_range": [-0.75, 4.5]},
    "grown30-hard": GROWN30,
    "grown30-wd": {**GROWN30, "target": "tal", "distance": "wd"},
    "grown30-trf-tal": {**PAPER, "topk_max": 30, "target": "tal"},
    "grown0-tal": {**GROWN30, "topk_max": 0, "target": "tal"},
}


def data_root(name: str) -> Path:
    """Return the folder of a set, or end with a message."""
    root = Path(os.environ.get("RFLA_DATA", ROOT.parent / "shared" / "data")) / name
    if not root.is_dir():
        sys.exit(f"no {name} at {root}; set RFLA_DATA to the folder that holds it")
    return root.resolve()


def prepare(folder: Path, every: int, split: str) -> Path:
    """Write the list of training images and the data YAML of a split.

    The images are linked, not copied, so that Ultralytics' label caches are written beside the links.
    """
    name, listed, _ = SPLITS[split]
    root = data_root(name)
    for part in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
            for file in sorted((root / kind / part).iterdir()):
                link = folder / kind / part / file.name
                if file.suffix in {".jpg", ".txt"} and not link.exists():
                    link.symlink_to(file)
    train = sorted((folder / "images" / "train").iterdir())[::every]
    val = sorted(file.name for file in (folder / "images" / "val").iterdir())
    if listed:
        val = [Path(name).name for name in (root / listed).read_text(encoding="utf-8").split()]
    (folder / f"train-{every}.txt").write_text("".join(f"{file}\n" for file in train))
    (folder / f"val-{split}.txt").write_text("".join(f"{folder / 'images' / 'val' / name}\n" for name in val))
    names = yaml.safe_load((root / f"{name}.yaml").read_text(encoding="utf-8"))["names"]
    data = {"path": str(folder), "train": f"train-{every}.txt", "val": f"val-{split}.txt", "names": names}
    (folder / f"{every}-{split}.yaml").write_text(yaml.safe_dump(data))
    return folder / f"{every}-{split}.yaml"


def run(out: Path, protocol: str, arm: str, model: str, seed: int, split: str, options: argparse.Namespace) -> None:
    """Train one arm, evaluate the last checkpoint and write the result."""
    from rfla_yolo import RFLAYOLO
    from rfla_yolo.engine.loss import has_one_to_one

    recipe = dict(PROTOCOLS[protocol])
    every = recipe.pop("every", SPLITS[split][2])
    architecture, imgsz = MODELS[model]
    folder = options.work / f"{protocol}-{split}-{model}-{arm}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    data = prepare(folder / "data", every, split)
    place = {"data": str(data), "device": options.device, "workers": options.workers, "project": str(folder)}
    arguments = {**RECIPE, **recipe, "imgsz": imgsz, "seed": seed}
    bfloat16 = options.device == "cpu" and options.bfloat16
    start = time.time()
    yolo = RFLAYOLO(architecture)
    if bfloat16:
        yolo.add_callback("on_train_start", use_bfloat16)
    yolo.train(**arguments, **place, name="train", **ARMS[arm])
    seconds = time.time() - start
    last = folder / "train" / "weights" / "last.pt"
    checked = RFLAYOLO(last).val(imgsz=imgsz, batch=16, plots=False, name="val", **place)
    evaluation = checked.evaluation
    one_to_one = {}
    if has_one_to_one(yolo.model):  # the figures above are those of the one-to-many branch
        check = RFLAYOLO(last).val(imgsz=imgsz, batch=16, plots=False, name="one2one", nms=False, **place)
        one_to_one = check.evaluation.metrics
    history = (folder / "train" / "results.csv").read_text(encoding="utf-8").splitlines()
    content = {
        **environment(seed),
        "protocol": protocol,
        "arm": arm,
        "model": model,
        "split": split,
        "settings": ARMS[arm],
        "arguments": arguments,
        "device": options.device,
        "precision": "bfloat16 forward, float32 loss" if bfloat16 else "Ultralytics' default",
        "seconds": round(seconds),
        "train_images": len((folder / "data" / f"train-{every}.txt").read_text(encoding="utf-8").split()),
        "metrics": evaluation.metrics,
        "one_to_one": one_to_one,
        "per_class": evaluation.per_class,
        "by_size": evaluation.by_size,
        "calibration_error": evaluation.calibration["ece"],
        "last_epoch": dict(zip(history[0].split(","), map(float, history[-1].split(",")))),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    keep(out.with_suffix(".npz"), json.loads((folder / "val" / "predictions.json").read_text(encoding="utf-8")))
    truth = json.loads((folder / "val" / "annotations.json").read_text(encoding="utf-8"))
    keep_truth(out.parent / f"{split}.json.gz", truth)
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{out.stem}: " + ", ".join(f"{k} {100 * v:.2f}" for k, v in evaluation.metrics.items() if v is not None))


def use_bfloat16(trainer: Any) -> None:
    """Let a CPU with bfloat16 units run the network in it, as Ultralytics' AMP does on a GPU; the loss is float32."""
    model = trainer.model
    predict = model.predict
    model.to(memory_format=torch.channels_last)

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16) if model.training else nullcontext():
            return _to_float(predict(*args, **kwargs))

    model.predict = forward


def _to_float(outputs: Any) -> Any:
    if isinstance(outputs, torch.Tensor):
        return outputs.float()
    if isinstance(outputs, dict):
        return {k: _to_float(v) for k, v in outputs.items()}
    return type(outputs)(map(_to_float, outputs))


def main() -> None:
    """Run what has no result yet, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--protocol", choices=PROTOCOLS, default="short")
    parser.add_argument("--arms", default="tal,paper", help=f"of {', '.join(ARMS)}")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--models", default="yolov8n-p2", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--split", choices=SPLITS, default="choose")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "accuracy", help="folder of runs and predictions")
    parser.add_argument("--bfloat16", action="store_true", help="on a CPU: network in bfloat16, in all arms alike")
    options = parser.parse_args()
    options.work = options.work.resolve()
    arms = options.arms.split(",")
    if unknown := set(arms) - set(ARMS):
        parser.error(f"unknown arms {', '.join(unknown)}; there are {', '.join(ARMS)}")
    models = options.models.split(",")
    if unknown := set(models) - set(MODELS):
        parser.error(f"unknown models {', '.join(unknown)}; there are {', '.join(MODELS)}")
    for seed in map(int, options.seeds.split(",")):
        for model in models:
            for arm in arms:
                name = f"{options.protocol}-{options.split}-{model}-{arm}-{seed}.json"
                out = RESULTS / "accuracy" / name
                if out.exists():
                    print(f"{out.stem}: done")
                else:
                    run(out, options.protocol, arm, model, seed, options.split, options)


if __name__ == "__main__":
    main()
