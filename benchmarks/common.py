"""What every benchmark writes beside its figures: versions, machine, seed and commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
WRITTEN = (":!benchmarks/results", ":!docs", ":!README.md")  # what benchmarks write themselves is no change of the code


def environment(seed: int) -> dict[str, Any]:
    """Return versions, machine, seed and commit."""
    packages = ("rfla-yolo", "ultralytics", "torch", "faster-coco-eval", "numpy")
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        },
        "seed": seed,
        "commit": _git("rev-parse", "HEAD")
        + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no", "--", ".", *WRITTEN) else ""),
    }


def write(name: str, content: dict[str, Any]) -> Path:
    """Write a result file and return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def run_cell(script: str, cell: Any) -> dict[str, Any]:
    """Measure one cell in a process of its own, by the ``--cell`` of a benchmark, and return what it prints last."""
    command = [sys.executable, script, "--cell", json.dumps(cell)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def fill(document: Path, block: str, text: str) -> None:
    """Replace the text between ``<!-- block -->`` and ``<!-- /block -->`` of a document."""
    start, end = f"<!-- {block} -->", f"<!-- /{block} -->"
    before, _, rest = document.read_text(encoding="utf-8").partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{document} has no block {start} ... {end}")
    document.write_text(f"{before}{start}\n{text.strip()}\n{end}{after}", encoding="utf-8")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # run from a checkout
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
