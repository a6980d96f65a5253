"""What models cost: ``python benchmarks/latency.py`` exports them to ONNX and runs them in turns on one core.

The figure to compare is the ratio of two models of one run: processor time, its median over rounds in which every model
runs once, so that other work on the machine strikes all alike.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnxruntime
from ultralytics.utils.torch_utils import get_flops, get_num_params

from benchmarks.accuracy import MODELS
from benchmarks.common import ROOT, environment, fill, write
from rfla_yolo import RFLAYOLO

BASE = "yolov8n-p2"  # at the size of the accuracy runs
CLASSES = 5  # of hituav-half
PAGE = ROOT / "docs" / "models.md"


def build(name: str, folder: Path) -> tuple[onnxruntime.InferenceSession, dict[str, Any]]:
    """Export a model and return its session on one core, and its size."""
    yaml, imgsz = MODELS[name]
    detector = RFLAYOLO(yaml)
    model = type(detector.model)(detector.model.yaml, nc=CLASSES, verbose=False)
    model.args, model.task = detector.model.args, detector.task
    detector.model = model
    row = {
        "model": name,
        "yaml": yaml,
        "imgsz": imgsz,
        "gflops": get_flops(model, imgsz),
        "parameters": get_num_params(model),
    }
    file = Path(detector.export(format="onnx", imgsz=imgsz, device="cpu", verbose=False))
    target = folder / f"{name}.onnx"
    shutil.move(file, target)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(target, options, providers=["CPUExecutionProvider"]), row


def measure(names: list[str], rounds: int) -> list[dict[str, Any]]:
    """Run the models in turns and return a row each."""
    with tempfile.TemporaryDirectory() as folder:
        built = [build(name, Path(folder)) for name in names]
        times: list[list[float]] = [[] for _ in built]
        for number in range(-2, rounds):  # two rounds warm up
            for (session, row), found in zip(built, times):
                image = np.random.default_rng(number + 2).random((1, 3, row["imgsz"], row["imgsz"]), dtype=np.float32)
                start = time.process_time()
                session.run(None, {session.get_inputs()[0].name: image})
                if number >= 0:
                    found.append(time.process_time() - start)
    base = times[names.index(BASE)]
    rows = []
    for (_, row), found in zip(built, times):
        ratios = [one / other for one, other in zip(found, base)]
        low, _, high = statistics.quantiles(ratios, n=4)
        rows.append({**row, "ms": 1000 * statistics.median(found), "ratio": statistics.median(ratios)})
        rows[-1] |= {"ratio_quartiles": [low, high]}
    return rows


def table(content: dict[str, Any]) -> str:
    """Return the rows as a table, cheapest first."""
    machine = content["machine"]["cpu"]
    lines = [
        f"One core of {machine}, ONNX Runtime {content['onnxruntime']}, median of {content['rounds']} rounds, "
        f"commit {content['commit'][:10]}; {CLASSES} classes, boxes and scores without suppression.",
        "",
        f"| model | px | GFLOPs | parameters, million | ms | time / {BASE} |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(content["rows"], key=lambda row: float(row["ratio"])):
        low, high = row["ratio_quartiles"]
        lines.append(
            f"| {row['model']} | {row['imgsz']} | {row['gflops']:.2f} | {row['parameters'] / 1e6:.2f} "
            f"| {row['ms']:.1f} | {row['ratio']:.2f} ({low:.2f} to {high:.2f}) |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, write the JSON and fill the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help=f"of {', '.join(MODELS)}; {BASE} is added")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    names = list(dict.fromkeys([BASE, *options.models.split(",")]))
    if unknown := set(names) - set(MODELS):
        parser.error(f"unknown models {', '.join(unknown)}; there are {', '.join(MODELS)}")
    content = {
        **environment(0),
        "onnxruntime": onnxruntime.__version__,
        "rounds": options.rounds,
        "rows": measure(names, options.rounds),
    }
    write("latency", content)
    fill(PAGE, "latency", table(content))
    print(table(content))


if __name__ == "__main__":
    main()
