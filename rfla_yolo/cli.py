"""The commands of ``rfla-yolo``, and the scripts ``train.py``, ``val.py`` and ``export.py``."""

from __future__ import annotations

import argparse
import glob
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from .config import SETTINGS, RFLAConfig, check_names, resource_dir

DEFAULT_MODEL = "yolov8s-p2.yaml"
DEMO = {"data": "demo.yaml", "model": "yolov8n-p2.yaml", "imgsz": 192, "epochs": 8, "batch": 8, "name": "demo"}
DEMO |= {"optimizer": "AdamW", "lr0": 0.003, "warmup_epochs": 1.0, "nbs": 8, "close_mosaic": 2, "workers": 2}
DEMO_AP50 = 0.5  # the demo training must reach it, or the command fails


class Flag(NamedTuple):
    """One ``--flag`` of the commands: its default, its help and the heading it stands under."""

    name: str
    default: Any
    text: str
    heading: str


class Parser(argparse.ArgumentParser):
    """A parser whose errors name the nearest valid flag."""

    def parse(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return what was given on the command line, by argument name."""
        known = [*(action.dest for action in self._actions), "weights"]
        for i, word in enumerate(argv):
            if re.match(r"--[a-z]", word):
                flag = word[2:].split("=")[0].replace("-", "_").removeprefix("no_")
                try:
                    check_names("flag", [flag], known)
                except ValueError as error:
                    fail(str(error).replace("_", "-"))
            elif i == 0 and word not in {"-h", "--help"}:
                fail(f"expected --name value, found {word!r}")
        return vars(self.parse_args(argv))


def train(argv: Sequence[str]) -> None:
    """Train; without any argument, train on the generated demo set and fail if the model has learned nothing."""
    args = make_parser("train", "Train a YOLO detector with RFLA assignment.").parse(argv)
    demo = not set(args) - {"project", "name", "exist_ok", "device"}
    if demo:
        args = {**DEMO, **args}
    resume = args.get("resume")
    if not resume:
        _need_data(args)
    from .engine import RFLAYOLO

    if resume:
        args = _resumed(args)
    model = RFLAYOLO(args.pop("model", DEFAULT_MODEL))
    model.train(**args)
    run: Any = model.trainer
    print(
        f"\nWrote to {run.save_dir}: weights/best.pt, weights/last.pt, results.csv, args.yaml, rfla.yaml, metrics.json"
    )
    if demo:
        ap50 = run.validator.evaluation["AP50"] or 0.0
        if ap50 < DEMO_AP50:
            fail(f"the demo reached AP50 {ap50:.3f}, below the {DEMO_AP50} that shows that training works")
        print(f"AP50 {ap50:.3f} on the demo set (at least {DEMO_AP50} expected). Next: --data your.yaml")


def val(argv: Sequence[str]) -> None:
    """Validate a checkpoint or an ONNX file."""
    args = make_parser("val", "Validate a detector: Ultralytics' metrics and AP by object size.").parse(argv)
    from .engine import RFLAYOLO

    RFLAYOLO(_weights(args)).val(**args)


def export(argv: Sequence[str]) -> None:
    """Export a checkpoint; an ONNX file is run and compared with it."""
    args = make_parser("export", "Export a detector and check the ONNX file.").parse(argv)
    from .engine import export_model

    weights = _weights(args)
    RFLAConfig.take_from(args)  # accepted everywhere, of no effect here
    print(f"Wrote {export_model(weights, **args)}")


def analyze(argv: Sequence[str]) -> None:
    """Show what RFLA and TAL do to the objects of a dataset, before training."""
    parser = make_parser("analyze", analyze.__doc__ or "")
    group = parser.add_argument_group("Analysis; --assigner takes one or several, --weights lets TAL use predictions")
    group.add_argument("--images", type=int, default=500, help="training images to look at [500]")
    group.add_argument("--erf", action="store_true", help="also measure the effective receptive fields")
    group.add_argument("--no-sweep", dest="sweep", action="store_false", help="do not try other settings")
    group.add_argument("--write-cfg", metavar="FILE", help="write the settings to start from, for --rfla-cfg")
    args = parser.parse(argv)
    _need_data(args)
    from . import analysis
    from .engine.analysis import run_folder

    model, target = args.pop("model", DEFAULT_MODEL), args.pop("write_cfg")
    folder = run_folder(**{name: args.pop(name) for name in ("project", "name", "exist_ok") if name in args})
    found = analysis.analyze(args.pop("data"), model, weights=model if Path(model).suffix == ".pt" else None, **args)
    print(*found.verdict, sep="\n")
    print(f"Wrote {found.write(folder)} and analysis.json")
    if target:
        found.start_from.save(Path(target), f"from rfla-yolo analyze on {found.result['data']}")
        print(f"Wrote {target}: train with --rfla-cfg {target}")


def evaluate(argv: Sequence[str]) -> None:
    """Evaluate a file of detections, COCO JSON: AP by object size and more."""
    parser = _plain_parser("evaluate", evaluate.__doc__)
    parser.add_argument("--annotations", required=True, help="COCO ground truth")
    parser.add_argument("--predictions", required=True, help="COCO detections; images by id or file name")
    parser.add_argument("--out", help="folder for metrics.json and a page of tables and pictures")
    parser.add_argument("--images", help="folder of the images, to show the worst of them on the page")
    _add_areas(parser)
    args = parser.parse_args(argv)
    from . import evaluation

    result = evaluation.evaluate(args.annotations, args.predictions, areas=args.areas)
    print(result.table())
    if args.out:
        files = {image["id"]: Path(args.images, image["file_name"]) for image in result.images} if args.images else {}
        page = result.plot(args.out, {i: file for i, file in files.items() if file.is_file()})
        (page.parent / "metrics.json").write_text(json.dumps(result.to_dict(), indent=2), encoding="utf-8")
        print(f"Wrote {page} and metrics.json")


def compare(argv: Sequence[str]) -> None:
    """Compare two models on the same ground truth, by a paired bootstrap."""
    parser = _plain_parser("compare", compare.__doc__)
    runs = "; several runs (seeds) by a quoted pattern: 'tal-*/predictions.json'"
    parser.add_argument("first", help=f"detections of the first model{runs}")
    parser.add_argument("second", help=f"detections of the second model{runs}")
    parser.add_argument("--annotations", required=True, help="COCO ground truth")
    parser.add_argument("--groups", help="regular expression on file names: images of one match are drawn together")
    parser.add_argument("--resamples", type=int, default=2000, help="number of resamples [2000]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the resampling [0]")
    parser.add_argument("--out", help="folder for comparison.json and a page with a picture")
    _add_areas(parser)
    args = parser.parse_args(argv)
    from . import evaluation

    first, second = (sorted(glob.glob(side)) or [side] for side in (args.first, args.second))
    options: dict[str, Any] = {
        "groups": args.groups,
        "areas": args.areas,
        "resamples": args.resamples,
        "seed": args.seed,
    }
    result = evaluation.compare(first, second, args.annotations, **options)
    print(result.table())
    if args.out:
        page = result.plot(args.out)
        (page.parent / "comparison.json").write_text(json.dumps(result.to_dict(), indent=2), encoding="utf-8")
        print(f"Wrote {page} and comparison.json")


def data(argv: Sequence[str]) -> None:
    """Build, convert, tile or check a dataset: data aitod, coco, visdrone, dota, tinyperson, tile, merge, check."""
    if not argv or argv[0] in {"-h", "--help"}:
        print("usage: rfla-yolo data COMMAND [--name value ...]\n\ncommands:")
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
    args = vars(parser.parse_args(argv))
    from .datasets.aitod import YAMLS, build_aitod

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
    """Convert DOTA, oriented boxes to their horizontal hull."""
    parser = _data_parser("dota", _data_dota.__doc__)
    parser.add_argument("--root", required=True, help="folder that holds train and val, each with images and labelTxt")
    parser.add_argument("--version", choices=("1.0", "1.5", "2.0"), default="1.0", help="15, 16 or 18 classes [1.0]")
    parser.add_argument(
        "--no-difficult", dest="difficult", action="store_false", help="do not train on difficult objects"
    )
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
    args = vars(parser.parse_args(argv))
    from .datasets import tile_dataset
    from .engine.data import list_images

    names, splits = list_images(args.pop("data"))
    print(_summary(tile_dataset(splits, names, **args)))
    print(f"Wrote {args['out']}: train with --data {Path(args['out']) / 'data.yaml'}")


def _data_merge(argv: Sequence[str]) -> None:
    """Move detections on tiles back to the whole images."""
    parser = _data_parser("merge", _data_merge.__doc__, "file for the detections")
    parser.add_argument("--predictions", required=True, help="detections on the tiles, predictions.json of val")
    parser.add_argument("--tiles", required=True, help="folder of the tiled dataset")
    parser.add_argument("--split", default="val", help="their split [val]")
    parser.add_argument("--iou", type=float, default=0.5, help="overlap of two detections of one object [0.5]")
    args = vars(parser.parse_args(argv))
    out = Path(args.pop("out"))
    from .datasets import merge_tiles

    out.write_text(json.dumps(merge_tiles(**args)), encoding="utf-8")
    truth = Path(args["tiles"]) / "annotations" / f"{args['split']}_whole.json"
    print(f"Wrote {out}: rfla-yolo evaluate --annotations {truth} --predictions {out}")


def _data_check(argv: Sequence[str]) -> None:
    """Check a dataset before it costs a night of training."""
    parser = _data_parser("check", _data_check.__doc__, "folder for check.json and a page of plots", required=False)
    parser.add_argument("--data", required=True, help="dataset YAML")
    parser.add_argument("--imgsz", type=int, default=640, help="training size, px [640]")
    parser.add_argument("--scale", type=float, default=0.5, help="the augmentation of that name [0.5]")
    parser.add_argument("--workers", type=int, help="processes [all cores]")
    args = vars(parser.parse_args(argv))
    out = args.pop("out")
    from .datasets import check_data
    from .engine.data import list_images

    names, splits = list_images(args.pop("data"))
    diagnosis = check_data(splits, names, **args)
    print(diagnosis.text())
    if out:
        print(f"Wrote {diagnosis.write(out)} and check.json")


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
) -> argparse.ArgumentParser:
    text = f"{description} docs/datasets.md says where to get each set, its licence, and how to cite it."
    parser = argparse.ArgumentParser(prog=f"rfla-yolo data {command}", description=text, allow_abbrev=False)
    parser.add_argument("--out", required=required, help=out)
    return parser


def _convert(function: str, parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    args = vars(parser.parse_args(argv))
    from . import datasets

    print(_summary(getattr(datasets, function)(**args)))
    print(f"Wrote {args['out']}: train with --data {Path(args['out']) / 'data.yaml'}")


def _summary(report: dict[str, Any]) -> str:
    """Return the counts of a report as text."""
    lines = []
    for split, counts in report["splits"].items():
        parts = [f"{counts[k]} {k.replace('_', ' ')}" for k in counts if isinstance(counts[k], int) and counts[k]]
        lines.append(f"{split}: {', '.join(parts)}")
    return "\n".join(lines)


def _plain_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"rfla-yolo {command}", description=description, allow_abbrev=False)


def _add_areas(parser: argparse.ArgumentParser) -> None:
    def areas(text: str) -> str | list[float]:
        return [float(border) for border in text.split(",")] if text[:1].isdigit() else text

    parser.add_argument("--areas", type=areas, default="aitod", help="aitod, coco, or borders in px: 0,8,16,32 [aitod]")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "val": val,
    "export": export,
    "analyze": analyze,
    "evaluate": evaluate,
    "compare": compare,
    "data": data,
}


def main(argv: Sequence[str]) -> None:
    """Run ``rfla-yolo COMMAND ...``."""
    if not argv or argv[0] in {"-h", "--help"}:
        print("usage: rfla-yolo COMMAND [--name value ...]\n\ncommands:")
        for name, command in COMMANDS.items():
            print(f"  {name:8} {(command.__doc__ or '').strip()}")
        return
    check_names("command", [argv[0]], COMMANDS)
    COMMANDS[argv[0]](argv[1:])


def entry() -> None:
    """Run the installed command."""
    run(main)


def run(command: Callable[[Sequence[str]], None]) -> None:
    """Run a command on the program's arguments; what the user can mend ends in one line instead of a traceback."""
    try:
        command(sys.argv[1:])
    except (ValueError, TypeError, FileNotFoundError, SyntaxError, NotImplementedError, ImportError) as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Print an error and end with status 1."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(1)


def make_parser(command: str, description: str) -> Parser:
    """Return the parser of a command: every argument of Ultralytics, from its own defaults, and our settings."""
    parser = Parser(usage=f"rfla-yolo {command} [--name value ...]", description=description, allow_abbrev=False)
    groups: dict[str, Any] = {}
    for flag in [*rfla_flags(), *ultralytics_flags()]:
        group = groups.get(flag.heading) or groups.setdefault(flag.heading, parser.add_argument_group(flag.heading))
        names = dict.fromkeys(f"--{name}" for name in (flag.name.replace("_", "-"), flag.name))
        if flag.name == "model":
            names["--weights"] = None
        group.add_argument(
            *names,
            dest=flag.name,
            nargs="*",
            action=_Store,
            default=argparse.SUPPRESS,
            metavar="",
            help=f"{flag.text} [{flag.default}]".replace("%", "%%"),
        )
    return parser


class _Store(argparse.Action):
    """Read a value as Ultralytics does: no value is True, several are a list."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        from ultralytics.cfg import smart_value

        if not values and option_string:
            values = [True]
        elif self.dest not in {"name", "project"}:
            values = [smart_value(value) if isinstance(value, str) else value for value in values]
        value = values[0] if len(values) == 1 else values
        setattr(namespace, self.dest, list(value) if isinstance(value, tuple) else value)


def rfla_flags() -> list[Flag]:
    """Return our settings with their explanations, from ``cfg/rfla.yaml``."""
    defaults = RFLAConfig().to_dict()
    texts = dict(_comments(resource_dir("cfg") / "rfla.yaml"))
    flags = [Flag(name, defaults[name], texts[name][1], "RFLA settings") for name in SETTINGS]
    preset = Flag("preset", None, "paper: the paper's literal form (cfg/paper.yaml)", "RFLA settings")
    return [
        *flags,
        preset,
        Flag("rfla_cfg", None, "YAML file with these settings; single flags win over it", "RFLA settings"),
    ]


def ultralytics_flags() -> list[Flag]:
    """Return every argument of Ultralytics with its explanation, from its ``default.yaml``."""
    from ultralytics.utils import DEFAULT_CFG_DICT, DEFAULT_CFG_PATH

    texts = dict(_comments(Path(DEFAULT_CFG_PATH)))
    ours = {"max_det": 3000}
    flags = []
    for name, default in DEFAULT_CFG_DICT.items():
        heading, text = texts.get(name, ("Other", ""))
        flags.append(Flag(name, ours.get(name, default), text, f"Ultralytics: {heading}"))
    return flags


def _comments(path: Path) -> list[tuple[str, tuple[str, str]]]:
    """Return the comment of each ``name: value # comment`` line of a YAML file, with the heading above it."""
    heading, found = "General", []
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"(\w+):[^#]*# ?(.*)", line):
            found.append((match[1], (heading, match[2])))
        elif match := re.match(r"# ([\w./ ]+?)(?: (?:settings|-+).*)?$", line, re.IGNORECASE):
            heading = match[1].strip().rstrip("-").strip()
    return found


def _resumed(args: dict[str, Any]) -> dict[str, Any]:
    """Turn ``--resume [last.pt]`` into the model to go on with; without a path, the latest run."""
    from ultralytics.utils.files import get_latest_run

    resume = args["resume"]
    model = resume if isinstance(resume, str) else args.get("model") or get_latest_run()
    if not model:
        fail("resume: found no run to resume; give --resume path/to/last.pt")
    return {**args, "model": model, "resume": True}


def _weights(args: dict[str, Any]) -> Any:
    """Take the checkpoint out of the arguments: validating or exporting an untrained model is never meant."""
    return args.pop("model", None) or fail("--weights is required: a checkpoint (.pt), or for val an exported .onnx")


def _need_data(args: dict[str, Any]) -> None:
    if not args.get("data"):
        fail("--data is required: the path of a dataset YAML, or the name of one of " + ", ".join(_shipped("data")))


def _shipped(kind: str) -> list[str]:
    return sorted(path.name for path in resource_dir(kind).glob("*.yaml"))
