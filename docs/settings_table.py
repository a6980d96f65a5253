"""Write the table of settings into the README, from ``cfg/rfla.yaml``: ``python docs/settings_table.py``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import ROOT, fill
from rfla_yolo.cli.parser import rfla_flags
from rfla_yolo.config import SETTINGS


def table() -> str:
    """Return the settings as Markdown."""
    lines = ["| setting | default | meaning (source) |", "|---|---|---|"]
    lines += [f"| `{flag.name}` | `{flag.default}` | {flag.text} |" for flag in rfla_flags() if flag.name in SETTINGS]
    return "\n".join(lines)


if __name__ == "__main__":
    fill(ROOT / "README.md", "settings", table())
