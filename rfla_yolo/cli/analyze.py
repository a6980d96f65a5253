"""``rfla-yolo analyze``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .parser import SWITCH, make_parser, need_data, take_model


def run(argv: Sequence[str]) -> None:
    """Show what RFLA and TAL do to the objects of a dataset, before training."""
    parser = make_parser("analyze", run.__doc__, several=["assigner"])
    group = parser.add_argument_group("Analysis; --assigner takes one or several, --weights lets TAL use predictions")
    group.add_argument("--images", type=int, default=500, help="training images to look at [500]")
    group.add_argument("--erf", **SWITCH, default=False, help="also measure the effective receptive fields [False]")
    group.add_argument("--sweep", **SWITCH, default=True, help="try other settings; --no-sweep does not [True]")
    group.add_argument("--write-cfg", metavar="FILE", help="write the settings to start from, for --rfla-cfg")
    args = parser.parse(argv)
    need_data(args)
    model = take_model(args)
    target = args.pop("write_cfg")
    from .. import analysis
    from ..engine.analysis import run_folder

    folder = run_folder(**{name: args.pop(name) for name in ("project", "name", "exist_ok") if name in args})
    found = analysis.analyze(args.pop("data"), model, weights=model if Path(model).suffix == ".pt" else None, **args)
    print(*found.verdict, sep="\n")
    print(f"Wrote {analysis.write_page(found, folder)} and analysis.json")
    if target:
        found.start_from.save(Path(target), f"from rfla-yolo analyze on {found.result['data']}")
        print(f"Wrote {target}: train with --rfla-cfg {target}")
