"""``rfla-yolo data``: a command for each dataset and task."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..config import check_names
from .parser import SWITCH, Parser, fail, stretch


def run(argv: Sequence[str]) -> None:
    """Build, convert, tile or check a dataset: data aitod, coco, visdrone, dota, tinyperson, tile, merge, check."""
    if not argv or argv[0] in {"-h", "--help"}:
        print("usage: rfla-yolo data COMMAND [--name value ...] [name=value ...]\n\ncommands:")
        for name, command in DATA_COMMANDS.items():
            print(f"  {name:11} {(command.__doc__ or '').strip()}")
        return
    check_names("command", [argv[0]], DATA_COMMANDS)
    DATA_COMMANDS[argv[0]](argv[1:])


def _data_aitod(argv: Sequence[str]) -> None:
    """Build AI-TOD from its own images, xView's, and the AI-TOD repository's lists of tiles."""
    parser = _data_parser("aitod", _data_aitod.__doc__)
    parser.add_argument(
        "--aitod", required=True, help="folder of the unpacked AI-TOD_wo_xview images and the JSON files"
    )
    parser.add_argument("--xview", required=True, help="folder of xView's training images, {id}.tif")
    parser.add_argument("--toolkit", required=True, help="a clone of https://github.com/jwwangchn/AI-TOD")
    parser.add_argument("--version", choices=("v1", "v2"), default="v1", help="annotations [v1]")
    parser.add_argument("--channel-order", choices=("official", "rgb"), default="official", help=_CHANNELS)
    parser.add_argument("--workers", type=int, help="processes [all cores]")
    args = parser.parse(argv)
    from ..datasets.aitod import YAMLS, build_aitod

    report = build_aitod(**args)
    print(_summary(report))
    if report["problems"]:
        listed = "\n  ".join(report["problems"])
        fail(f"{len(report['problems'])} problems; mend them and run the same command again:\n  {listed}")
    print(f"Wrote {args['out']}: train with --data {Path(args['out']) / YAMLS[args['version']][0]}")


_CHANNELS = "official: red and blue of xView tiles swapped, as in published results; rgb: mended [official]"


def _data_coco(argv: Sequence[str]) -> None:
    """Convert any COCO detection set."""
    parser = _data_parser("coco", _data_coco.__doc__)
    parser.add_argument("--annotations", required=True, nargs="+", help="one JSON file for each split")
    parser.add_argument("--images", required=True, nargs="+", help="folder of the images, one for all or one for each")
    parser.add_argument("--splits", nargs="+", default=[], help="names of the splits [train val test]")
    _convert("convert_coco", parser, argv)


def _data_visdrone(argv: Sequence[str]) -> None:
    """Convert VisDrone2019-DET."""
    parser = _data_parser("visdrone", _data_visdrone.__doc__)
    parser.add_argument("--root", required=True, help="folder that holds VisDrone2019-DET-train, -val, -test-dev")
    _convert("convert_visdrone", parser, argv)


def _data_dota(argv: Sequence[str]) -> None:
    """Convert DOTA: oriented boxes, or their horizontal hull."""
    parser = _data_parser("dota", _data_dota.__doc__)
    parser.add_argument("--root", required=True, help="folder that holds train and val, each with images and labelTxt")
    parser.add_argument("--version", choices=("1.0", "1.5", "2.0"), default="1.0", help="15, 16 or 18 classes [1.0]")
    text = "train on difficult objects; --no-difficult does not [True]"
    parser.add_argument("--difficult", **SWITCH, default=True, help=text)
    text = "oriented boxes, for --task obb, in place of their horizontal hull [False]"
    parser.add_argument("--oriented", **SWITCH, default=False, help=text)
    _convert("convert_dota", parser, argv)


def _data_tinyperson(argv: Sequence[str]) -> None:
    """Convert TinyPerson, tiles included."""
    parser = _data_parser("tinyperson", _data_tinyperson.__doc__)
    parser.add_argument("--root", required=True, help="folder that holds the annotations and the images")
    _convert("convert_tinyperson", parser, argv)


def _data_tile(argv: Sequence[str]) -> None:
    """Cut the images of a dataset into overlapping tiles."""
    parser = _data_parser("tile", _data_tile.__doc__)
    parser.add_argument("--data", required=True, help="dataset YAML")
    parser.add_argument("--size", type=int, default=800, help="side of a tile, px [800]")
    parser.add_argument("--overlap", type=int, default=200, help="overlap of neighbouring tiles, px [200]")
    parser.add_argument(
        "--visible", type=float, default=0.3, help="keep cut objects with this share of area inside [0.3]"
    )
    parser.add_argument("--empty", type=float, default=0.1, help="empty training tiles for each one with objects [0.1]")
    parser.add_argument("--seed", type=int, default=0, help="seed that draws the empty tiles [0]")
    help_ = "values that become 0 and 255, for images of more than 8 bits: 0,3000, or percentiles: 2%%,98%%"
    parser.add_argument("--stretch", type=stretch, default=[], help=help_)
    args = parser.parse(argv)
    from ..datasets import tile_dataset
    from ..engine.data import find_dataset_yaml, find_keypoints, list_annotations, list_images

    data = find_dataset_yaml(args.pop("data"))
    known = Path(data).resolve() if Path(data).is_file() else data  # else by name, of those that Ultralytics has
    names, splits = list_images(data)
    stated: dict[str, Any] = {"annotations": list_annotations(data), "keypoints": find_keypoints(data)}
    report = tile_dataset(splits, names, data=known, **stated, **args)
    print(_summary(report))
    if report["polygons"]:
        print("The labels hold polygons: the tiles have the boxes around them, and train no segmentation")
    print(f"Wrote {args['out']}: train with --data {Path(args['out']) / 'data.yaml'}")


def _data_merge(argv: Sequence[str]) -> None:
    """Move detections on tiles back to the whole images, every object once."""
    parser = Parser("data merge", _data_merge.__doc__)
    parser.add_argument("--out", required=True, metavar="FILE", help="file for the detections")
    parser.add_argument("--predictions", required=True, help="detections on the tiles, predictions.json of val")
    parser.add_argument("--tiles", required=True, help="folder of the tiled dataset")
    parser.add_argument("--split", default="val", help="their split [val]")
    parser.add_argument("--task1", help="folder for oriented detections in DOTA's format, Task1_{class}.txt")
    args = parser.parse(argv)
    out, task1 = Path(args.pop("out")), args.pop("task1")
    from ..datasets import merge_tiles, write_task1

    merged = merge_tiles(**args)
    out.write_text(json.dumps(merged), encoding="utf-8")
    truth = Path(args["tiles"]) / "annotations" / f"{args['split']}_whole.json"
    if task1:
        print(f"Wrote {len(write_task1(truth, merged, task1))} files Task1_*.txt to {task1}")
    print(f"Wrote {out}: rfla-yolo evaluate --annotations {truth} --predictions {out}")


def _data_check(argv: Sequence[str]) -> None:
    """Check a dataset before it costs a night of training; exits 1 where it finds errors."""
    parser = _data_parser("check", _data_check.__doc__, "folder for check.json and a page of plots", required=False)
    parser.add_argument("--data", required=True, help="dataset YAML")
    parser.add_argument("--imgsz", type=int, default=640, help="training size, px [640]")
    parser.add_argument("--scale", type=float, default=0.5, help="the augmentation of that name [0.5]")
    parser.add_argument("--workers", type=int, help="processes [all cores]")
    args = parser.parse(argv)
    out = args.pop("out")
    from ..datasets import check_data
    from ..engine.data import find_keypoints, list_images

    names, splits = list_images(args["data"])
    diagnosis = check_data(splits, names, keypoints=find_keypoints(args.pop("data")), **args)
    print(diagnosis.text())
    if out:
        print(f"Wrote {diagnosis.write(out)} and check.json")
    errors = [finding.name for finding in diagnosis.findings if finding.level == "error"]
    if errors:
        fail(f"data check found errors: {'; '.join(errors)}")


DATA_COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "aitod": _data_aitod,
    "coco": _data_coco,
    "visdrone": _data_visdrone,
    "dota": _data_dota,
    "tinyperson": _data_tinyperson,
    "tile": _data_tile,
    "merge": _data_merge,
    "check": _data_check,
}


def _data_parser(
    command: str, description: str | None, out: str = "folder to write to", required: bool = True
) -> Parser:
    text = f"{description} docs/datasets.md says where to get each set, its licence, and how to cite it."
    parser = Parser(f"data {command}", text)
    parser.add_argument("--out", required=required, help=out)
    return parser


def _convert(function: str, parser: Parser, argv: Sequence[str]) -> None:
    args = parser.parse(argv)
    from .. import datasets

    print(_summary(getattr(datasets, function)(**args)))
    print(f"Wrote {args['out']}: train with --data {Path(args['out']) / 'data.yaml'}")


def _summary(report: dict[str, Any]) -> str:
    """Return the counts of a report as text."""
    lines = []
    for split, counts in report["splits"].items():
        parts = [f"{counts[k]} {k.replace('_', ' ')}" for k in counts if isinstance(counts[k], int) and counts[k]]
        parts += [f"labels of {' and '.join(report['labels'][split])}"] if "labels" in report else []
        lines.append(f"{split}: {', '.join(parts)}")
    return "\n".join(lines)
