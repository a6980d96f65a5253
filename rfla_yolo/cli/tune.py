"""``rfla-yolo tune``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .parser import PAIRS, fail, make_parser, need_data, take_model


def run(argv: Sequence[str]) -> None:
    """Search for settings by Ray Tune, with AP by object size as the objective."""
    parser = make_parser("tune", run.__doc__)
    group = parser.add_argument_group("Search; what is not in the space is the same for all trials")
    text = "rf_scale=1..4 (range) lr0=1e-4..1e-2,log tal_from=16,32,64 (choices), or a YAML file of these"
    group.add_argument("--space", nargs="+", action="extend", metavar=PAIRS, default=[], help=text)
    group.add_argument("--objective", default="AP", help="AP, AP50, AP75, APvt, APt, APs, APm or fitness, on val [AP]")
    group.add_argument("--trials", type=int, default=10, help="trainings to do [10]")
    args = parser.parse(argv)
    space = read_words(args.pop("space"))
    if "data" not in space:
        need_data(args)
    model = take_model(args)
    from ..engine.tune import tune
    from ..evaluation import TABLE, percent

    found = tune(model, args.pop("data", None), space, **args)
    objective = args["objective"]
    print(f"\n{'trial':12} {objective:>7}  settings")
    for trial in sorted(found.trials, key=lambda t: -1 if t[objective] is None else t[objective], reverse=True):
        value = "failed" if "error" in trial else percent(trial[objective], 2)
        print(f"{trial['run']:12} {value:>7}  " + " ".join(f"{k}={v}" for k, v in trial["settings"].items()))
    remark = "" if found.split == "test" else " (on which it was chosen: the data YAML names no test)"
    figures = ", ".join(f"{name} {percent(found.evaluation[name], 2)}" for name in TABLE)
    print(f"\n{found.best['run']}/weights/best.pt on {found.split}{remark}: {figures}")
    print(f"Wrote {found.folder}: search.json, best.yaml (--cfg), {found.best['run']}/rfla.yaml (--rfla-cfg)")


def read_words(words: Sequence[str]) -> Any:
    """Return what ``--space`` names: a file, or values by name."""
    if len(words) == 1 and "=" not in words[0]:
        return words[0]
    space: dict[str, str] = {}
    for word in words:
        name, found, values = word.partition("=")
        name = name.replace("-", "_")
        if not found or not values:
            fail(f"--space: expected name=values or one YAML file, found {word!r}")
        if name in space:
            fail(f"--space: {name} is given twice")
        space[name] = values
    return space
