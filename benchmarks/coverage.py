"""How often the 95 % interval of ``compare`` holds the true difference: ``python benchmarks/coverage.py``.

Two detectors are imitated on random scenes: groups of images (flights) differ in clutter, density, object size, classes
and difficulty, for both detectors and for each; runs (seeds) of a detector differ as a whole, by group and by object.
The population is finite and its figures are known: all groups, all runs. Each trial draws groups or images and runs
with replacement, compares, and looks whether the interval holds the population's difference. With a single run a model
is that run, so the difference is that of the two runs. The percentile bootstrap, which ``compare`` used before, stands
beside. It writes ``benchmarks/results/coverage.json`` and fills the table of ``docs/evaluation.md``.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import ROOT, environment, fill, write
from rfla_yolo import evaluate
from rfla_yolo.evaluation.compare import compare_matchings, resample
from rfla_yolo.evaluation.inputs import load_inputs
from rfla_yolo.evaluation.matching import Matching, match

Array = NDArray[Any]
Boxes = dict[str, Array]  # columns image, label, xy, wh, and hardness or score

FIGURES = ("AP", "AP50", "APvt", "AR100")
AREAS = {"all": (0.0, 1e10), "vt": (0.0, 64.0)}
CLASSES = {"person": 7.0, "car": 12.0}  # median side, px
SIDE = 640  # px of an image
RESAMPLES = 500  # of the percentile bootstrap
BETTER = 0.12  # how much easier every object is for the second detector, logits


@dataclass(frozen=True)
class Design:
    """What one comparison is made of: units, whether they are groups or single images, and runs of each model."""

    units: int
    grouped: bool
    runs: int

    def __str__(self) -> str:
        seeds = "1 run" if self.runs == 1 else f"{self.runs} seeds"
        return f"{self.units} {'groups' if self.grouped else 'images'}, {seeds}"


CLAIM = Design(4, True, 6)  # the design behind docs/results.md
DESIGNS = (
    CLAIM,
    Design(4, True, 3),
    Design(10, True, 3),
    Design(20, True, 1),
    Design(60, False, 1),
    Design(200, False, 1),
)


@dataclass(frozen=True)
class Population:
    """All groups and all runs.

    Attributes:
        group_of: Group of each image, (images,).
        objects: Objects of each image, COCO.
        detections: By model, run and image the detections, COCO.
        figures: By model and run the figures on all images.
    """

    group_of: Array
    objects: list[list[dict[str, Any]]]
    detections: list[list[list[list[dict[str, Any]]]]]
    figures: list[list[dict[str, float]]]


def make_population(groups: int, runs: int, seed: int) -> Population:
    """Return a population of some groups of about twelve images and some runs of each of the two detectors."""
    rng = np.random.default_rng(seed)
    images = np.exp(rng.normal(2.5, 0.35, groups)).astype(int)
    group_of = np.repeat(np.arange(groups), images)
    scene = {
        "density": np.exp(rng.normal(1.6, 0.4, groups)),  # objects an image
        "clutter": np.exp(rng.normal(1.0, 0.4, groups)),  # false positives an image
        "scale": rng.normal(0, 0.3, groups),  # log of the size, as by altitude
        "easiness": rng.normal(0, 0.6, groups),
        "mix": rng.dirichlet((1.5, 1.2), groups).cumsum(1),
    }
    objects = _place(rng.poisson(scene["density"][group_of]), group_of, scene, rng)
    objects["hardness"] = rng.normal(0, 1, len(objects["image"]))
    truth = _by_image(objects, len(group_of))
    population = Population(group_of, truth, [], [])
    for better in (0.0, BETTER):
        easier = better + scene["easiness"] + rng.normal(0, 0.25, groups)  # a detector has flights that suit it
        found = [_by_image(_detect(objects, group_of, scene, easier, rng), len(group_of)) for _ in range(runs)]
        population.detections.append(found)
    everything = np.arange(len(group_of))
    for detections in population.detections:
        sets = [(_truth(truth, everything, group_of), _flat(run, everything)) for run in detections]
        population.figures.append([evaluate(*one, areas=AREAS, details=False).metrics for one in sets])
    return population


def _place(counts: Array, group_of: Array, scene: dict[str, Array], rng: np.random.Generator) -> Boxes:
    """Return boxes at random places, as many as asked for in each image."""
    image = np.repeat(np.arange(len(counts)), counts)
    group = group_of[image]
    label = (rng.random((len(image), 1)) > scene["mix"][group, :-1]).sum(1)
    side = np.exp(np.log(list(CLASSES.values()))[label] + scene["scale"][group] + rng.normal(0, 0.45, len(image)))
    aspect = np.exp(rng.normal(0, 0.2, len(image)))
    wh = np.stack((side * aspect, side / aspect), 1).clip(2, 200)
    return {"image": image, "label": label, "wh": wh, "xy": rng.random((len(image), 2)) * (SIDE - wh)}


def _detect(objects: Boxes, group_of: Array, scene: dict[str, Array], easier: Array, rng: np.random.Generator) -> Boxes:
    """Return the detections of one run: the easier an object, the likelier found, the better placed and scored."""
    count = len(objects["image"])
    of_run = rng.normal(0, 0.12) + rng.normal(0, 0.15, len(easier))  # a run as a whole, and by group
    side = np.sqrt(objects["wh"].prod(1))
    ease = 0.2 + 0.8 * np.log(side / 10) + (easier + of_run)[group_of[objects["image"]]] - objects["hardness"]
    ease += rng.normal(0, 0.5, count)
    found = rng.random(count) < _sigmoid(ease + 0.7)
    spread = ((0.05 + 0.8 / side) * np.exp(-0.25 * ease).clip(0.3, 3))[:, None]
    hits = {
        "image": objects["image"],
        "label": objects["label"],
        "xy": objects["xy"] + spread * objects["wh"] * rng.normal(0, 1, (count, 2)),
        "wh": objects["wh"] * np.exp(spread * rng.normal(0, 1, (count, 2))),
        "score": _sigmoid(0.9 * ease - 0.6 + rng.normal(0, 0.5, count)),
    }
    false = _place(rng.poisson(scene["clutter"][group_of]), group_of, scene, rng)
    false["score"] = _sigmoid(rng.normal(-2, 1.2, len(false["image"])))
    return {name: np.concatenate((values[found], false[name])) for name, values in hits.items()}


@dataclass(frozen=True)
class Trial:
    """One comparison.

    Attributes:
        sides: Detections of the runs of both models, COCO.
        truth: COCO ground truth; files are named by unit.
        units: Unit of each image.
        target: Difference of the population by figure.
    """

    sides: list[list[list[dict[str, Any]]]]
    truth: dict[str, Any]
    units: Array
    target: dict[str, float]


def draw(population: Population, design: Design, rng: np.random.Generator) -> Trial:
    """Draw units and runs with replacement."""
    sizes = np.bincount(population.group_of)
    if design.grouped:
        chosen = rng.integers(len(sizes), size=design.units)
        images = np.concatenate([np.flatnonzero(population.group_of == group) for group in chosen])
        units = np.repeat(np.arange(design.units), sizes[chosen])
    else:
        images = rng.integers(len(population.group_of), size=design.units)
        units = np.arange(design.units)
    sides, means = [], []
    for detections, figures in zip(population.detections, population.figures):
        runs = rng.integers(len(detections), size=design.runs)
        sides.append([_flat(detections[run], images) for run in runs])
        known = figures if design.runs > 1 else [figures[runs[0]]]
        means.append({name: float(np.mean([run[name] for run in known])) for name in FIGURES})
    target = {name: means[1][name] - means[0][name] for name in FIGURES}
    return Trial(sides, _truth(population.objects, images, units), units, target)


def percentile(
    sides: list[list[Matching]], unit_of: Array, rng: np.random.Generator
) -> dict[str, tuple[float | None, float | None]]:
    """Return the middle 95 % over resampled units, the same for both models, and resampled runs."""
    units = int(unit_of.max()) + 1
    draws = rng.multinomial(units, np.full(units, 1 / units), size=RESAMPLES).T
    means = []
    for runs in sides:
        values = [resample(run, unit_of, draws) for run in runs]
        chosen = rng.integers(len(runs), size=(len(runs), RESAMPLES)), np.arange(RESAMPLES)
        means.append({name: np.stack([run[name] for run in values])[chosen].mean(0) for name in FIGURES})
    differences = {name: means[1][name] - means[0][name] for name in FIGURES}
    known = {name: values[np.isfinite(values)] for name, values in differences.items()}
    return {n: tuple(np.percentile(v, (2.5, 97.5))) if len(v) else (None, None) for n, v in known.items()}


def cover(population: Population, design: Design, trials: int, seed: int, old: bool = False) -> dict[str, Any]:
    """Return, by method and figure, the share of trials whose interval held the target, and the median width.

    A trial whose interval is undefined counts as no cover.
    """
    rng = np.random.default_rng((seed, design.units, design.runs))
    held: dict[str, dict[str, list[tuple[bool, float]]]] = {}
    for _ in range(trials):
        trial = draw(population, design, rng)
        sides = [[match(load_inputs(trial.truth, run), AREAS) for run in runs] for runs in trial.sides]
        result = compare_matchings(sides, trial.units)
        intervals = {"compare": {name: (result[name].low, result[name].high) for name in FIGURES}}
        if old:
            intervals["percentile"] = percentile(sides, trial.units, rng)
        for method, found in intervals.items():
            for name, (low, high) in found.items():
                inside = low is not None and high is not None and low <= trial.target[name] <= high
                width = high - low if low is not None and high is not None else np.nan
                held.setdefault(method, {}).setdefault(name, []).append((inside, width))
    return {
        method: {
            name: {
                "coverage": float(np.mean([h for h, _ in pairs])),
                "width": float(np.nanmedian([w for _, w in pairs])),
            }
            for name, pairs in figures.items()
        }
        for method, figures in held.items()
    }


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = ["| design | " + " | ".join(FIGURES) + " | width, AP |", "|---" * (len(FIGURES) + 2) + "|"]
    for name, found in result["designs"].items():
        pairs = [(found["compare"][figure], found["percentile"][figure]) for figure in FIGURES]
        cells = [f"{new['coverage']:.1%} ({old['coverage']:.1%})" for new, old in pairs]
        width = f"{100 * pairs[0][0]['width']:.1f} ({100 * pairs[0][1]['width']:.1f})"
        lines.append(f"| {name} | " + " | ".join([*cells, width]) + " |")
    error = 100 * (0.95 * 0.05 / result["trials"]) ** 0.5
    lines += [
        "",
        f"{result['trials']} trials a design (standard error {error:.1f} points), commit {result['commit'][:10]}.",
    ]
    return "\n".join(lines)


def _truth(objects: list[list[dict[str, Any]]], images: Array, units: Array) -> dict[str, Any]:
    """Return COCO ground truth of the images, named by unit."""
    boxes = [{**box, "image_id": i} for i, image in enumerate(images, 1) for box in objects[image]]
    return {
        "images": [{"id": i, "file_name": f"{unit:04d}_{i:06d}.png"} for i, unit in enumerate(units, 1)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)],
        "annotations": [{**box, "id": i, "iscrowd": 0} for i, box in enumerate(boxes, 1)],
    }


def _flat(by_image: list[list[dict[str, Any]]], images: Array) -> list[dict[str, Any]]:
    return [{**box, "image_id": i} for i, image in enumerate(images, 1) for box in by_image[image]]


def _by_image(boxes: Boxes, images: int) -> list[list[dict[str, Any]]]:
    """Return COCO boxes by image."""
    found: list[list[dict[str, Any]]] = [[] for _ in range(images)]
    scores = boxes.get("score")
    rows = zip(boxes["image"].tolist(), boxes["label"].tolist(), boxes["xy"].tolist(), boxes["wh"].tolist())
    for i, (image, label, xy, wh) in enumerate(rows):
        known = {"area": wh[0] * wh[1]} if scores is None else {"score": float(scores[i])}
        found[image].append({"category_id": label + 1, "bbox": [*xy, *wh], **known})
    return found


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def main() -> None:
    """Simulate all designs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--groups", type=int, default=120, help="of the population")
    parser.add_argument("--runs", type=int, default=12, help="of each model in the population")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    about = environment(args.seed)  # the commit may move on in the meantime
    population = make_population(args.groups, args.runs, args.seed)
    with ProcessPoolExecutor(args.processes, mp_context=get_context("fork")) as pool:
        jobs = [pool.submit(cover, population, design, args.trials, args.seed, old=True) for design in DESIGNS]
        designs = {str(design): job.result() for design, job in zip(DESIGNS, jobs)}
    settings = {"trials": args.trials, "groups": args.groups, "runs": args.runs, "resamples": RESAMPLES}
    result = {**about, **settings, "designs": designs}
    path = write("coverage", result)
    fill(ROOT / "docs" / "evaluation.md", "coverage", table(result))
    print(table(result), f"\nWrote {path} and docs/evaluation.md")


if __name__ == "__main__":
    main()
