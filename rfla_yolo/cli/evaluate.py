"""``rfla-yolo evaluate``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from .parser import Parser, add_areas, fail


def run(argv: Sequence[str]) -> None:
    """Evaluate a file of detections, COCO JSON: AP by object size and more."""
    parser = Parser("evaluate", run.__doc__)
    parser.add_argument("--annotations", required=True, help="COCO ground truth; boxes are rbox, oriented, or bbox")
    parser.add_argument("--predictions", required=True, help="COCO detections; images by id or file name")
    parser.add_argument("--out", help="folder for metrics.json and a page of tables and pictures")
    parser.add_argument("--images", help="folder of the images, to show the worst of them on the page")
    add_areas(parser)
    args = parser.parse(argv)
    images, out = args["images"], args["out"]
    if images and not out:
        fail("--images is for the page: give --out as well")
    if images and not Path(images).is_dir():
        fail(f"--images: no such folder: {images}")
    from .. import evaluation

    result = evaluation.evaluate(args["annotations"], args["predictions"], areas=args["areas"])
    print(result.table())
    if out:
        named = {image["id"]: Path(images, image.get("file_name") or "") for image in result.images} if images else {}
        files = {i: file for i, file in named.items() if file.is_file()}
        if named and not files:
            print(f"{images} holds none of the {len(named)} images: the page shows none", file=sys.stderr)
        page = evaluation.write_page(result, out, files)
        (page.parent / "metrics.json").write_text(json.dumps(result.to_dict(), indent=2), encoding="utf-8")
        print(f"Wrote {page} and metrics.json")
