"""Make the examples of ``docs/analysis.md`` and ``docs/choose.md`` again: ``python docs/analysis_example.py``.

Needs the shared data.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import yaml
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.torch_utils import get_flops

from benchmarks.common import ROOT, fill
from rfla_yolo import RFLAYOLO
from rfla_yolo.analysis import Analysis, analyze, write_page
from rfla_yolo.analysis.page import sweep_table

BRANCHES = ("assigners", "one2one")  # of a result
PICTURES = ("sizes", "fields", "levels", "examples-4", "examples-11")
CLASSES = 4  # of hituav-half; the heads of the smallest models are wider where there are more
IMGSZ = 320  # px, that of the images
LARGEST = 48  # px; the table of docs/choose.md ends here


def main() -> None:
    """Analyse hituav-half with a model without P2, with and without the paper's settings, and with P2."""
    root = Path(os.environ.get("RFLA_DATA", ROOT.parent / "shared" / "data")) / "hituav-half"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for kind in ("images", "labels"):  # links, so that no label cache is written beside the data
            (folder / kind).mkdir()
            for file in (root / kind / "train").iterdir():
                if file.suffix in {".jpg", ".txt"}:
                    (folder / kind / file.name).symlink_to(file.resolve())
        names = yaml.safe_load((root / "hituav-half.yaml").read_text(encoding="utf-8"))["names"]
        data = folder / "hituav-half.yaml"
        data.write_text(yaml.safe_dump({"path": temporary, "train": "images", "val": "images", "names": names}))
        found = analyze(data, "yolov8n.yaml", images=500, imgsz=320, erf=True, preset="paper")
        write_page(found, folder / "page")
        for name in PICTURES:
            shutil.copy(folder / "page" / f"{name}.png", ROOT / "docs" / "images" / f"analysis-{name}.png")
        models = {
            "without P2": analyze(data, "yolov8n.yaml", images=2000, imgsz=IMGSZ),
            "with P2": analyze(data, "yolov8n-p2.yaml", images=2000, imgsz=IMGSZ),
        }
        branches = branch_table(data, folder)
    document = ROOT / "docs" / "analysis.md"
    fill(document, "verdict", "\n".join(f"> {sentence}\n>" for sentence in found.verdict).removesuffix("\n>"))
    fill(document, "sweep", markdown(*sweep_table(found.result)))
    fill(document, "branches", markdown(*branches))
    choose = ROOT / "docs" / "choose.md"
    fill(choose, "sides", markdown(*side_table(models)))
    fill(choose, "costs", markdown(*cost_table()))
    fill(choose, "imgsz", markdown(*imgsz_table(models)))
    print(f"Wrote {document} and {choose}")


def branch_table(data: Path, folder: Path) -> tuple[list[str], list[list[str]]]:
    """Return how many objects below 8 px each branch of an untrained network leaves out, TAL by its predictions."""
    rows = []
    for name in ("yolo26n", "yolo26n-p2", "yolov10n"):
        torch.manual_seed(0)
        model = RFLAYOLO(f"{name}.yaml")
        model.model = DetectionModel(f"{name}.yaml", nc=CLASSES, verbose=False)
        weights = folder / f"{name}.pt"
        model.save(weights)
        result = analyze(data, weights=weights, images=200, imgsz=IMGSZ, sweep=False).result
        cells = [result[branch][arm]["plain"]["sizes"]["vt"] for arm in ("tal", "rfla") for branch in BRANCHES]
        shares = [f"{cell['missed']} ({100 * cell['missed'] / cell['objects']:.1f} %)" for cell in cells]
        rows.append([name, str(cells[0]["objects"]), *shares])
    arms = (
        f"{arm}, one-to-{'many' if branch == 'assigners' else 'one'}" for arm in ("TAL", "RFLA") for branch in BRANCHES
    )
    return ["network", "objects below 8 px", *arms], rows


def side_table(models: dict[str, Analysis]) -> tuple[list[str], list[list[str]]]:
    """Return, by the side of an object, what the positives of RFLA are worth with each model."""
    head = ["side, px", "objects"]
    for title in ("untrainable", "positives inside", "mean IoU that a positive reaches"):
        head += [f"{title}, {name}" for name in models]
    rows = []
    for bins in zip(*(model.result["assigners"]["rfla"]["plain"]["bins"] for model in models.values())):
        if bins[0]["objects"] and bins[0]["from"] < LARGEST:
            rows.append(
                [
                    f"{bins[0]['from']:g} to {bins[0]['to']:g}",
                    str(bins[0]["objects"]),
                    *(f"{100 * row['untrainable'] / row['objects']:.1f} %" for row in bins),
                    *(f"{100 * row['inside']:.0f} %" for row in bins),
                    *(f"{row['reach']:.2f}" for row in bins),
                ]
            )
    return head, rows


def gflops(name: str, imgsz: float) -> float:
    """Return the GFLOPs of a model YAML for a square image and the classes of hituav-half."""
    return float(get_flops(DetectionModel(f"{name}.yaml", nc=CLASSES, verbose=False), round(imgsz)))


def cost_table() -> tuple[list[str], list[list[str]]]:
    """Return what P2 costs at 640 px."""
    rows = []
    for name in ("yolov8n", "yolov8s", "yolov8m"):
        without, with_p2 = gflops(name, 640), gflops(f"{name}-p2", 640)
        rows.append([name, f"{without:.1f}", f"{with_p2:.1f}", f"{with_p2 / without:.2f}"])
    return ["model", "GFLOPs at 640 px", "with P2", "ratio"], rows


def imgsz_table(models: dict[str, Analysis]) -> tuple[list[str], list[list[str]]]:
    """Return what P2 and a larger image do for RFLA, from the rows of the sweeps, TAL at its best beside it."""
    base = gflops("yolov8n", IMGSZ)
    rows = []
    for name, found in zip(("yolov8n", "yolov8n-p2"), models.values()):
        for row in found.result["sweep"]:
            if row["name"] != "as set" and row["kind"] != "imgsz":
                continue
            sizes = row["sizes"]
            cells = [name if row["zoom"] == 1 else f"{name}, {row['name']}"]
            cells += [f"{100 * sizes['all']['untrainable'] / sizes['all']['objects']:.1f} %"]
            tal = found.result["assigners"]["tal"]["plain"]["sizes"]["all"]
            cells += [f"{100 * tal['untrainable'] / tal['objects']:.1f} %" if row["zoom"] == 1 else ""]
            cells += [f"{sizes['vt']['reach']:.2f}", f"{gflops(name, IMGSZ * row['zoom']) / base:.1f}"]
            rows.append(cells)
    head = ["", "untrainable", "untrainable, TAL at its best", "IoU that positives below 8 px reach", "cost, FLOPs"]
    return head, rows


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a table as Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


if __name__ == "__main__":
    main()
