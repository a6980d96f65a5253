"""``rfla-yolo predict``."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .parser import SWITCH, Parser, boolean, fail, stretch


def run(argv: Sequence[str]) -> None:
    """Detect the objects of scenes of any size: map layers, COCO JSON, a page."""
    parser = Parser("predict", f"{run.__doc__} docs/predict.md explains the flags.")
    add = parser.add_argument
    add("--weights", required=True, help="a checkpoint (.pt) or an exported model")
    add("--source", required=True, help="a GeoTIFF or picture, a folder, a list of files (.txt), or a quoted pattern")
    add("--out", required=True, help="folder to write to; a run that was killed there goes on")
    add("--tile", type=int, help="side of a tile, px [the training's imgsz]")
    add("--overlap", type=int, help="overlap of tiles, px [what the training's largest objects need, else 64]")
    add(
        "--conf",
        type=_conf,
        default=0.25,
        help="least score, after merging; best, or a metrics.json: of lowest LRP, by class [0.25]",
    )
    add("--iou", type=float, default=0.7, help="boxes of a class in a tile that overlap more are one object [0.7]")
    add("--max-det", type=int, default=3000, help="detections a tile; tiles that reach it are named [3000]")
    add("--classes", type=int, nargs="+", help="indices of the classes to keep [all]")
    add("--nms", type=boolean, help="False: the one-to-one branch of YOLO26 and YOLOv10 [None]")
    add("--batch", type=int, help="tiles that the network gets at once [1; on a GPU 8]")
    add("--task", help="of an exported file that does not say it: detect, segment or pose [the model's]")
    add("--device", help="0, cpu, ... [the first GPU, or the CPU]")
    add("--half", **SWITCH, default=False, help="half precision, on a GPU [False]")
    add("--bands", type=_bands, help="bands of a raster for red, green and blue, from 1: 4,3,2 [1,2,3]")
    add("--stretch", type=stretch, help="values that become 0 and 255: 0,3000, or percentiles: 2%%,98%%")
    add("--aoi", help="GeoJSON of polygons: what lies outside is left out")
    add("--skip-bad-tiles", **SWITCH, default=False, help="go on where a tile or a file cannot be read [False]")
    add("--save", **SWITCH, default=False, help="also draw on pictures of up to 16 megapixels [False]")
    add("--save-txt", **SWITCH, default=False, help="also write YOLO labels [False]")
    add("--save-conf", **SWITCH, default=False, help="write scores into the YOLO labels [False]")
    add("--overwrite", **SWITCH, default=False, help="begin anew where --out holds another run [False]")
    args = parser.parse(argv)
    from ..engine.predict import predict_files
    from ..scenes.run import written

    out = args.pop("out")
    try:
        with _plain_warnings():
            tally = predict_files(args.pop("weights"), args.pop("source"), out, **args)
    except KeyboardInterrupt:
        fail(f"interrupted; the same command goes on in {out}")
    print(tally.text())
    parts = [file.relative_to(out).parts for file in written(out) if file.suffix != ".png"]  # but the page's pictures
    names = sorted({f"{first}/" if rest else first for first, *rest in parts})
    print(f"Wrote {out}: {', '.join(names)}")


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show what is warned of as a line, once, without the place in the source."""
    said: set[str] = set()  # a scene is opened more than once

    def show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        if category is not UserWarning:
            shown(message, category, *place, **options)
        elif str(message) not in said:
            said.add(str(message))
            print(f"WARNING: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        shown, warnings.showwarning = warnings.showwarning, show
        yield


def _conf(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _bands(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers like 4,3,2, not {text!r}") from None
