"""Tables and plots of ``docs/results.md``, and the README's, from the runs of ``benchmarks/accuracy.py``.

Means and standard deviations come from ``benchmarks/results/accuracy/*.json``, intervals against TAL, over flights and
seeds, from the detections beside them. The detections of the first runs were not kept: their intervals are those that
``benchmarks/results/accuracy.json`` holds, of the percentile bootstrap that ``compare`` used then, and are marked.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.accuracy import SPLITS
from benchmarks.common import RESULTS, ROOT, environment, fill, write
from benchmarks.coverage import CLAIM
from benchmarks.detections import kept, kept_truth
from rfla_yolo import compare, evaluate
from rfla_yolo.evaluation import Evaluation
from rfla_yolo.evaluation.matching import AT_50

FIGURES = ("AP", "AP50", "AP75", "APvt", "APt", "APs", "APm")
SIZES = ("vt", "t", "s", "m")
FLIGHT = r"^(\d+_\d+)_"  # images of one flight share the first two fields of their name
FIELD = r"^(\w+?_g\d+)_"  # images cut from one field of view share the first two as well
UNITS = {"hituav-half": ("flights", FLIGHT), "nuclei-tiny": ("fields of view", FIELD)}  # what is resampled, by set
COUNTED = 50  # objects of a size that a class needs to count in the mean of that size
FOCUS = {"hituav-half": "person", "nuclei-tiny": "nucleus"}  # the class whose objects below 8 px are looked at alone
BASE = "tal"
FIRST, EQUAL = "yolov8n-p2", 0.1  # models within this share of the latency of the first are laid side by side
LIGHT = "yolov8n-p234-reg8"
STOCK, LIGHT_TAL, LIGHT_RFLA = (FIRST, BASE), (LIGHT, "tal-bins-0.75-4.5"), (LIGHT, "tal-from-32")
SETTLED = {"grown30-tal", "below-32", "below-32-auto"}  # arms of the first model that are laid beside the others
OWN, BELOW = "Ultralytics' own", "RFLA below 32 px"  # assigners in words
FINAL = (  # of the final statement: model and arm, those that it is compared with, and its assigner in words
    (STOCK, None, f"{OWN}: stock"),
    ((FIRST, "below-32"), STOCK, f"{BELOW}, stock bins"),
    ((FIRST, "below-32-auto"), STOCK, f"{BELOW}: the default"),
    (LIGHT_TAL, STOCK, OWN),
    (LIGHT_RFLA, STOCK, BELOW),
    (LIGHT_RFLA, LIGHT_TAL, f"{BELOW}, minus {OWN} on this model"),
)
FINAL_FIGURES = ["AP", *(f"AP{size}" for size in SIZES)]
FINAL_SPLITS = {"all": "drones, thermal (hituav-half)", "nuclei": "microscopy (nuclei-tiny)"}
CONFIRMED = ("short", "confirm", "yolov8n-p2")
LOOKS = {CONFIRMED: [(3, 4, 5), (6, 7, 8)]}  # seeds that were run and looked at together, in this order
FORMER, METHOD = "percentile bootstrap", "jackknife, t"  # of an interval
MARK = "†"  # of an interval of the former method
ONE_SEED = "Of one seed the interval does not hold how much trainings of the same arm differ."
Group = tuple[str, str, str]  # protocol, split, model


def read_runs() -> dict[Group, dict[str, dict[int, dict[str, Any]]]]:
    """Return the runs by group, arm and seed."""
    found: dict[Group, dict[str, dict[int, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for file in sorted((RESULTS / "accuracy").glob("*.json")):
        run = json.loads(file.read_text(encoding="utf-8"))
        if run["protocol"] != "smoke":
            found[run["protocol"], run["split"], run["model"]][run["arm"]][run["seed"]] = {**run, "file": file}
    return found


def read_costs() -> dict[str, dict[str, Any]]:
    """Return what ``benchmarks/latency.py`` measured, by model."""
    return {row["model"]: row for row in json.loads((RESULTS / "latency.json").read_text(encoding="utf-8"))["rows"]}


def differences(
    arm: dict[int, dict[str, Any]],
    base: dict[int, dict[str, Any]],
    looks: list[tuple[int, ...]],
    before: list[dict[str, Any]],
    units: str = FLIGHT,
) -> list[dict[str, Any]]:
    """Return the differences from TAL over the seeds that both have run: those of each look, then all.

    Where the detections of a run were not kept, what ``before`` holds stays, or nothing.
    """
    shared = sorted(set(arm) & set(base))
    parts = [sorted(look) for look in looks if set(look) < set(shared)]
    found = []
    for seeds in [*parts, shared]:
        sides = [[runs[seed]["file"].with_suffix(".npz") for seed in seeds] for runs in (base, arm)]
        if seeds and all(file.is_file() for side in sides for file in side):
            run = base[seeds[0]]
            truth = kept_truth(run["file"].with_name(f"{run['split']}.json.gz"))
            result = compare(*[[kept(file) for file in side] for side in sides], truth, groups=units)
            figures = {name: vars(result[name]) for name in FIGURES}
            found.append({"seeds": seeds, "units": result.units, "method": METHOD, "figures": figures})
        else:
            found += [{"method": FORMER, **one} for one in before if one["seeds"] == seeds]
    return found


def sharper(run: dict[str, Any], truth: dict[str, Any]) -> dict[str, float]:
    """Return figures that rest on many objects, from the detections of a run.

    AP by size as a mean over classes with at least `COUNTED` objects of that size, where the official mean gives the AP
    of two cars the weight of that of 439 persons, and below 8 px AP25, AP50 and AP75 of the class with the most.
    """
    found = evaluate(truth, kept(run["file"].with_suffix(".npz")))
    figures = {}
    for size in SIZES:
        names = counted(found, size)
        values = [v for name in names if (v := found.per_class[name][f"AP{size}"]) is not None]
        figures[f"AP{size}"] = float(np.mean(values)) if values else np.nan
    return figures | _below_8(found, FOCUS[SPLITS[run["split"]][0]])


def counted(found: Evaluation, size: str) -> list[str]:
    """Return the classes with at least `COUNTED` objects of a size."""
    place = list(found.matching.areas).index(size)
    return [name for name, matching in found.matching.classes.items() if matching.gt_counts[place].sum() >= COUNTED]


def counted_differences(arm: list[Path], base: list[Path], truth: dict[str, Any], units: str) -> dict[str, Any]:
    """Return the differences of AP, and of AP by size as `sharper` has it, with their intervals.

    Args:
        arm: Detections of an arm, a file for each seed.
        base: Those of the base, of the same seeds.
        truth: COCO ground truth.
        units: Pattern of the part of an image's name by which it is resampled.
    """
    sides = [[kept(file) for file in files] for files in (base, arm)]
    figures = {"AP": vars(compare(*sides, truth, groups=units)["AP"])}
    evaluation = evaluate(truth, sides[0][0])
    for size in SIZES:
        names = counted(evaluation, size)
        ids = {category["id"] for category in truth["categories"] if category["name"] in names}
        if ids:
            classes = {"categories": [category for category in truth["categories"] if category["id"] in ids]}
            classes["annotations"] = [one for one in truth["annotations"] if one["category_id"] in ids]
            chosen = [[[one for one in run if one["category_id"] in ids] for run in side] for side in sides]
            figures[f"AP{size}"] = vars(compare(*chosen, {**truth, **classes}, groups=units)[f"AP{size}"])
    return figures


def final_rows(groups: dict[Group, dict[str, dict[int, dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Return what a training of 48 epochs brings on each set, against stock at equal latency.

    Returns:
        For each set and row of `FINAL` that has runs: ``split``, ``model``, ``assigner`` in words, ``seeds``,
        ``calibration_errors`` of its runs, and either ``values``, one a run, or ``differences``, by figure.
    """
    rows = []
    for split in FINAL_SPLITS:
        truth = kept_truth(RESULTS / "accuracy" / f"{split}.json.gz")
        for (model, arm), against, assigner in FINAL:
            runs = groups.get(("long", split, model), {}).get(arm, {})
            base = groups.get(("long", split, against[0]), {}).get(against[1], {}) if against else runs
            seeds = sorted(set(runs) & set(base))
            if not seeds:
                continue
            errors = [runs[seed]["calibration_error"] for seed in seeds]
            row = {"split": split, "model": model, "assigner": assigner, "seeds": seeds, "calibration_errors": errors}
            if against:
                sides = [[side[seed]["file"].with_suffix(".npz") for seed in seeds] for side in (runs, base)]
                row["differences"] = counted_differences(*sides, truth, UNITS[SPLITS[split][0]][1])
            else:
                values = [{"AP": runs[seed]["metrics"]["AP"], **sharper(runs[seed], truth)} for seed in seeds]
                row["values"] = {name: [value[name] for value in values] for name in FINAL_FIGURES}
            rows.append(row)
    return rows


def final_table(rows: list[dict[str, Any]], groups: dict[Group, dict[str, dict[int, dict[str, Any]]]]) -> str:
    """Return `final_rows` as Markdown, with what each model costs."""
    costs = read_costs()
    names = ["calibration error", *FINAL_FIGURES]
    lines = ["| set | model, image size | assigner | time | GFLOPs | seeds | " + " | ".join(names) + " |"]
    lines.append("|---" * (len(names) + 6) + "|")
    for row in rows:
        cells = [_cell([100 * error for error in row["calibration_errors"]], 2)]
        if "values" in row:
            cells += [_cell([100 * value for value in row["values"][name]]) for name in FINAL_FIGURES]
        else:
            found = row["differences"]
            cells += [_difference(found[name]) if name in found else "-" for name in FINAL_FIGURES]
        cost = costs[row["model"]]
        what = f"{FINAL_SPLITS[row['split']]} | {row['model']}, {cost['imgsz']} px | {row['assigner']} | "
        what += f"{cost['ratio']:.2f} | {cost['gflops']:.1f} | {', '.join(map(str, row['seeds']))}"
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    runs = groups[CONFIRMED][BASE].values()
    spread = [f"{100 * np.std([run['metrics'][name] for run in runs], ddof=1):.1f} ({name})" for name in FINAL_FIGURES]
    note = f"{len(runs)} runs by TAL for 16 epochs differ by a standard deviation of {', '.join(spread)} points."
    one = f"{ONE_SEED} " if any(len(row["seeds"]) == 1 for row in rows) else ""
    return "\n".join([*lines, "", textwrap.fill(one + note, width=120)])


def plot_final(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the differences of `final_rows` with their intervals, a panel for each set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    series = [assigner for _, against, assigner in FINAL if against]
    labelled: set[str] = set()
    for axis, (split, title) in zip(figure.subplots(1, len(FINAL_SPLITS)), FINAL_SPLITS.items()):
        for row in rows:
            if row["split"] != split or "differences" not in row:
                continue
            i = series.index(row["assigner"])
            found = {name: row["differences"][name] for name in FINAL_FIGURES if name in row["differences"]}
            middle = 100 * np.array([one["difference"] for one in found.values()])
            ends = 100 * np.array([[one["low"], one["high"]] for one in found.values()]).T
            places = [FINAL_FIGURES.index(name) + (i - (len(series) - 1) / 2) * 0.15 for name in found]
            label = None if row["assigner"] in labelled else f"{row['model']}: {row['assigner']}"
            labelled.add(row["assigner"])
            reach = np.abs(ends - middle)
            axis.errorbar(places, middle, yerr=reach, fmt="o", ms=4, capsize=2, color=f"C{i}", label=label)
        axis.axhline(0, color="black", lw=0.8)
        axis.set(xticks=range(len(FINAL_FIGURES)), xticklabels=FINAL_FIGURES, title=title, ylabel="points, minus stock")
        axis.grid(axis="y", alpha=0.3)
    figure.legend(fontsize=8, ncols=2, loc="outside lower center")
    figure.savefig(path, dpi=110)


def _below_8(found: Evaluation, name: str) -> dict[str, float]:
    """Return AP25, AP50 and AP75 of a class below 8 px."""
    precision = found.matching.precision[:, :, list(found.matching.classes).index(name)]
    place = list(found.matching.areas).index("vt")
    thresholds = {"AP25": 0, "AP50": AT_50, "AP75": AT_50 + 5}
    return {f"{name}, below 8 px, {n}": float(precision[t, :, place].mean()) for n, t in thresholds.items()}


def sharper_table(arms: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Return the figures of `sharper` of the arms whose detections were kept, as Markdown; empty where none were."""
    rows, names = [], []
    for arm, runs in sorted(arms.items(), key=lambda item: -_mean(item[1], "AP")):
        having = {seed: run for seed, run in runs.items() if run["file"].with_suffix(".npz").is_file()}
        if having:
            figures = [
                sharper(run, kept_truth(run["file"].with_name(f"{run['split']}.json.gz"))) for run in having.values()
            ]
            names = list(figures[0])
            cells = [_cell([100 * figure[name] for figure in figures]) for name in names]
            rows.append(f"| {arm} | {', '.join(map(str, sorted(having)))} | " + " | ".join(cells) + " |")
    if not rows:
        return ""
    head = f"\nMean over the classes with at least {COUNTED} objects of the size:\n\n"
    return head + "\n".join([f"| arm | seeds | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|", *rows]) + "\n"


def latency_table(groups: dict[Group, dict[str, dict[int, dict[str, Any]]]]) -> str:
    """Return all models of about one latency against TAL on the first of them, over the seeds that both have run."""
    cost = {model: row["ratio"] for model, row in read_costs().items() if abs(row["ratio"] - 1) <= EQUAL}
    lines = []
    for (protocol, split, model), arms in sorted(groups.items()):
        base = groups.get((protocol, split, FIRST), {}).get(BASE, {})
        pattern = UNITS[SPLITS[split][0]][1]
        for arm, runs in sorted(arms.items()):
            seeds = sorted(set(runs) & set(base))
            if model not in cost or not seeds or (model == FIRST and arm not in SETTLED):
                continue
            if rows := differences(runs, base, [], [], pattern):
                cells = [_difference(rows[-1]["figures"][name]) for name in FIGURES]
            else:
                ours, theirs = ({seed: side[seed] for seed in seeds} for side in (runs, base))
                cells = [f"{100 * (_mean(ours, name) - _mean(theirs, name)):+.1f}" for name in FIGURES]
            what = f"{protocol}, {split} | {model} | {arm} | {cost[model]:.2f} | {', '.join(map(str, seeds))}"
            lines.append(f"| {what} | " + " | ".join(cells) + " |")
    head = f"| protocol, split | model | arm | time / {FIRST} | seeds | " + " | ".join(FIGURES) + " |"
    return "\n".join([head, "|---" * (len(FIGURES) + 5) + "|", *lines])


def one_to_one_table(arms: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Return the means of the one-to-one branch (``nms=False``) as Markdown; empty for heads without one."""
    having = {arm: runs for arm, runs in arms.items() if all(run.get("one_to_one") for run in runs.values())}
    if not having:
        return ""
    lines = ["\nThe one-to-one branch of the same runs (`nms=False`):\n", f"| arm | seeds | {' | '.join(FIGURES)} |"]
    lines.append("|---" * (len(FIGURES) + 2) + "|")
    for arm, runs in sorted(having.items(), key=lambda item: -_mean(item[1], "AP", "one_to_one")):
        cells = [_cell([100 * run["one_to_one"][name] for run in runs.values()]) for name in FIGURES]
        lines.append(f"| {arm} | {', '.join(map(str, sorted(runs)))} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def table(
    arms: dict[str, dict[int, dict[str, Any]]], intervals: dict[str, list[dict[str, Any]]], units: str = "flights"
) -> str:
    """Return the means of one group as Markdown, and the differences from TAL; ``units`` are what was resampled."""
    lines = ["| arm | seeds | " + " | ".join(FIGURES) + " | calibration error | positives per object |"]
    lines.append("|---" * (len(FIGURES) + 4) + "|")
    for arm, runs in sorted(arms.items(), key=lambda item: -_mean(item[1], "AP")):
        cells = [_cell([100 * run["metrics"][name] for run in runs.values()]) for name in FIGURES]
        cells.append(_cell([100 * run["calibration_error"] for run in runs.values()], 2))
        cells.append(_cell([run["last_epoch"]["assign/positives"] for run in runs.values()]))
        lines.append(f"| {arm} | {', '.join(map(str, sorted(runs)))} | " + " | ".join(cells) + " |")
    if intervals:
        lines += ["", "| minus TAL, points | seeds | " + " | ".join(FIGURES) + " |", "|---" * (len(FIGURES) + 2) + "|"]
        for arm, rows in sorted(intervals.items(), key=lambda item: -item[1][-1]["figures"]["AP"]["difference"]):
            for row in rows:
                cells = [_difference(row["figures"][name]) for name in FIGURES]
                seeds = ", ".join(map(str, row["seeds"])) + (f" {MARK}" if row["method"] == FORMER else "")
                lines.append(f"| {arm} | {seeds} | " + " | ".join(cells) + " |")
        rows = [row for several in intervals.values() for row in several]
        lines.append(f"\n95 % intervals over {rows[0]['units']} {units} and the seeds.")
        lines += [f"\n{ONE_SEED}"] if any(len(row["seeds"]) == 1 for row in rows) else []
        if any(row["method"] == FORMER for row in rows):
            lines.append(f"\n{MARK} {former()}")
    return "\n".join(lines)


def former() -> str:
    """Return what to know about an interval of the former method."""
    design = json.loads((RESULTS / "coverage.json").read_text(encoding="utf-8"))["designs"][str(CLAIM)]
    new, old = design["compare"]["AP"], design["percentile"]["AP"]
    return textwrap.fill(
        f"The printed 95 % intervals are of the former method, a percentile bootstrap: with {CLAIM} it covers about "
        f"{100 * old['coverage']:.0f} % (simulated, `benchmarks/results/coverage.json`), and that of `compare` is "
        f"about {100 * (new['width'] / old['width'] - 1):.0f} % wider. The detections of these runs were not kept; new "
        "runs replace them.",
        width=120,
    )


def arms_table(runs: list[dict[str, Any]]) -> str:
    """Return settings and latest commit of every arm as Markdown; what is not named is as in the paper."""
    arms = {run["arm"]: run for run in runs}
    rows = []
    for arm, run in arms.items():
        settings = ", ".join(f"`{k}: {v}`" for k, v in run["settings"].items() if k != "preset")
        rows.append(f"| {arm} | {settings or '`preset: paper`'} | {run['commit'][:7]} |")
    return "\n".join(["| arm | settings | commit |", "|---|---|---|", *rows])


def plot(group: Group, arms: dict[str, dict[int, dict[str, Any]]], path: Path) -> None:
    """Draw AP by size of every arm, a dot for each seed."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axis = figure.subplots()
    for i, (arm, runs) in enumerate(sorted(arms.items(), key=lambda item: item[0] != BASE)):
        shift = (i - (len(arms) - 1) / 2) * 0.8 / max(len(arms), 1)
        for place, name in enumerate(FIGURES):
            values = [100 * run["metrics"][name] for run in runs.values()]
            color = "black" if arm == BASE else colormaps["tab20"](i - 1)
            label = arm if place == 0 else None
            axis.plot([place + shift] * len(values), values, "o", color=color, ms=4, label=label)
    axis.set(xticks=range(len(FIGURES)), xticklabels=FIGURES, ylabel="percent", title=", ".join(group))
    axis.grid(axis="y", alpha=0.3)
    figure.legend(fontsize=7, ncols=6, loc="outside lower center")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Fill the document."""
    stored = RESULTS / "accuracy.json"
    before = json.loads(stored.read_text(encoding="utf-8"))["intervals"] if stored.is_file() else {}
    document = ROOT / "docs" / "results.md"
    parts, intervals, everything = [], {}, []
    groups = read_runs()
    for group, arms in sorted(groups.items()):
        key = "-".join(group)
        found = {}
        units, pattern = UNITS[SPLITS[group[1]][0]]
        for arm, runs in arms.items():
            if arm != BASE and BASE in arms:
                stored_rows = before.get(key, {}).get(arm, [])
                rows = differences(runs, arms[BASE], LOOKS.get(group, []), stored_rows, pattern)
                if rows:
                    found[arm] = rows
        intervals[key] = found
        runs = [run for seeds in arms.values() for run in seeds.values()]
        plot(group, arms, ROOT / "docs" / "images" / f"results-{key}.png")
        everything += runs
        images = runs[0]["train_images"]
        hours = sum(run["seconds"] for run in runs) / 3600
        precision = ", ".join(sorted({f"{run['device']}, {run['precision']}" for run in runs}))
        parts.append(f"### {group[0]}, {group[2]}, split {group[1]}\n")
        parts.append(f"{images} training images, {len(runs)} runs, {hours:.1f} hours; {precision}.\n")
        parts.append(table(arms, found, units) + "\n")
        parts += filter(None, [sharper_table(arms), one_to_one_table(arms)])
        parts.append(f"![AP by size](images/results-{key}.png)\n")
    write("accuracy", {**environment(0), "intervals": intervals})
    fill(document, "arms", arms_table(everything))
    fill(document, "runs", "\n".join(parts))
    fill(document, "latency", latency_table(groups))
    rows = final_rows(groups)
    plot_final(rows, ROOT / "docs" / "images" / "results-final.png")
    final = final_table(rows, groups)
    for file in (document, ROOT / "README.md"):
        fill(file, "final", final)
    print(f"Wrote {document}")


def _mean(runs: dict[int, dict[str, Any]], name: str, branch: str = "metrics") -> float:
    return float(np.mean([run[branch][name] for run in runs.values()]))


def _difference(figure: dict[str, float | None]) -> str:
    """Return difference and interval in points, a dash for what is undefined."""
    middle, low, high = (
        "-" if value is None else f"{100 * value:+.1f}" for value in (figure[n] for n in ("difference", "low", "high"))
    )
    return f"{middle} [{low}, {high}]"


def _cell(values: list[float], digits: int = 1) -> str:
    if np.isnan(values).any():
        return "-"
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
