"""``rfla-yolo compare``."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from pathlib import Path

from .parser import Parser, add_areas


def run(argv: Sequence[str]) -> None:
    """Compare two models on the same ground truth: the difference of each figure, with its 95 % interval."""
    parser = Parser("compare", run.__doc__)
    runs = "; several runs (seeds) by a quoted pattern: 'tal-*/predictions.json'"
    parser.add_argument("first", help=f"detections of the first model{runs}")
    parser.add_argument("second", help=f"detections of the second model{runs}")
    parser.add_argument("--annotations", required=True, help="COCO ground truth")
    parser.add_argument("--groups", help="regular expression on file names: images of one match are one unit")
    parser.add_argument("--out", help="folder for comparison.json and a page with a picture")
    add_areas(parser)
    args = parser.parse(argv)
    out = args.pop("out")
    sides = (args.pop("first"), args.pop("second"))
    first, second = ([side] if Path(side).is_file() else sorted(glob.glob(side)) or [side] for side in sides)
    from .. import evaluation

    result = evaluation.compare(first, second, **args)
    print(result.table())
    if out:
        page = evaluation.write_comparison(result, out)
        (page.parent / "comparison.json").write_text(json.dumps(result.to_dict(), indent=2), encoding="utf-8")
        print(f"Wrote {page} and comparison.json")
