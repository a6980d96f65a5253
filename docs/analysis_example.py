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

import yaml

from benchmarks.common import ROOT, fill
from rfla_yolo.analysis import Analysis, analyze, write_page
from rfla_yolo.analysis.page import sweep_table

PICTURES = ("sizes", "fields", "levels", "examples-4", "examples-11")
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
            "without P2": analyze(data, "yolov8n.yaml", images=2000, imgsz=320, assigner="rfla", sweep=False),
            "with P2": analyze(data, "yolov8n-p2.yaml", images=2000, imgsz=320, assigner="rfla", sweep=False),
        }
    document = ROOT / "docs" / "analysis.md"
    fill(document, "verdict", "\n".join(f"> {sentence}\n>" for sentence in found.verdict).removesuffix("\n>"))
    fill(document, "sweep", markdown(*sweep_table(found.result)))
    fill(ROOT / "docs" / "choose.md", "sides", markdown(*side_table(models)))
    print(f"Wrote {document} and {ROOT / 'docs' / 'choose.md'}")


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


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a table as Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


if __name__ == "__main__":
    main()
