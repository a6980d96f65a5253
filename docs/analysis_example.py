"""Make the example of ``docs/analysis.md`` again: ``python docs/analysis_example.py`` (needs the shared data)."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml

from benchmarks.common import ROOT, fill
from rfla_yolo import analyze
from rfla_yolo.analysis import write_page
from rfla_yolo.analysis.page import sweep_table

PICTURES = ("sizes", "fields", "levels", "examples")


def main() -> None:
    """Analyse hituav-half with a model without P2, and fill the document."""
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
    document = ROOT / "docs" / "analysis.md"
    fill(document, "verdict", "\n".join(f"> {sentence}\n>" for sentence in found.verdict).removesuffix("\n>"))
    head, rows = sweep_table(found.result)
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    fill(document, "sweep", "\n".join(lines))
    print(f"Wrote {document}")


if __name__ == "__main__":
    main()
