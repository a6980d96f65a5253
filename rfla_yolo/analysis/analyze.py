"""``analyze``: what an assigner does to a dataset, before training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..assign.resolve import box_area
from ..config import ASSIGNERS, RFLAConfig
from ..engine import RFLAYOLO, RFLAAssigner, rf_sizes
from ..engine.analysis import (
    BRANCHES,
    DEFAULT_IMGSZ,
    OpenRotatedTAL,
    OpenTAL,
    Sample,
    count_classes,
    distance_meter,
    predictions,
    starting_model,
    training_samples,
    training_size,
)
from ..engine.bins import check_bins, choose_bins, why_kept
from ..engine.distances import DistanceMeter
from ..engine.effective_field import effective_receptive_fields
from ..engine.loss import RFLAMatcher, check_head, has_one_to_one
from .assignments import Assigned, Levels, Tally, assign_rfla, assign_tal
from .figures import changes, level_names, summarise
from .sweep import try_variants, variants
from .verdict import start_from, verdict

SHOWN = (4.0, 7.0, 11.0, 22.0, 45.0)  # px; objects near to these sizes are drawn
EXAMPLES = 3  # objects drawn of each size, one an image
NEAR, ALIKE = 0.5, 0.05  # logarithms of a ratio of sizes: an object this far from a size is not drawn for it; no nearer
MODES = {"plain": False, "augmented": True}


@dataclass(frozen=True)
class Example:
    """An object to draw: its image, its number there, and the assignments of the image by assigner."""

    sample: Sample
    number: int
    assigned: dict[str, Assigned]


@dataclass(frozen=True)
class Analysis:
    """Everything that an analysis found.

    Attributes:
        result: The figures, plain values as in ``analysis.json``.
        config: The settings that were analysed.
        levels: The levels of the model.
        tallies: Objects and positives by assigner and mode ("plain", "augmented").
        one_to_one: The same of the one-to-one branch; empty without one.
        examples: Objects to draw, by the size in px that they are near to.
    """

    result: dict[str, Any]
    config: RFLAConfig
    levels: Levels
    tallies: dict[str, dict[str, Tally]] = field(repr=False)
    one_to_one: dict[str, dict[str, Tally]] = field(repr=False)
    examples: dict[float, list[Example]] = field(repr=False)

    @property
    def verdict(self) -> list[str]:
        """The sentences of the verdict."""
        return [sentence["text"] for sentence in self.result["verdict"]]

    @property
    def start_from(self) -> RFLAConfig:
        """The settings to start from: the best of the sweep, or those analysed where none was made."""
        sweep = self.result["sweep"]
        return RFLAConfig.from_dict(start_from(sweep)["settings"]) if sweep else self.config


def analyze(
    data: Any,
    model: str | Path = "yolov8s-p2.yaml",
    *,
    assigner: str | Sequence[str] = ASSIGNERS,
    images: int = 500,
    weights: str | Path | None = None,
    erf: bool = False,
    sweep: bool = True,
    seed: int = 0,
    **arguments: Any,
) -> Analysis:
    r"""Compute what assigners do to the objects of a training set, without training.

    The images come from Ultralytics' training loader, as they are and (a quarter as many) augmented; the assignment
    from the code that training calls. TAL depends on predictions: without weights every pair of anchor and object
    gets score 1 and the best IoU that the head can draw there, which is the most that TAL could do. Of a head with a
    one-to-one branch both branches are assigned, the other by TAL (7 -> 1) and by `rfla_match`. What RFLA leaves to TAL
    (``tal_from``) is shown as TAL's, its levels and distances only with weights. Oriented boxes are
    assigned as such; of models that segment or find keypoints the boxes are analysed, as of a detector.

    Args:
        data: Dataset YAML.
        model: Model YAML; not used with weights.
        assigner: "rfla", "tal" or both.
        images: Images to look at, evenly picked.
        weights: A checkpoint, whose predictions TAL uses (without augmentation only).
        erf: Also measure the effective receptive fields.
        sweep: Also try other settings of RFLA, where it is among the assigners.
        seed: Seed of the augmentation.
        **arguments: Settings of `RFLAConfig` and arguments of Ultralytics' training (imgsz, mosaic, scale, ...), which
            mean what they mean there: imgsz is rounded to what training would take.

    Returns:
        The analysis.

    Raises:
        FileNotFoundError: If the data or the model is not there.
        ValueError: If a setting is wrong, RFLA cannot train the model, or the data holds no object.

    Example:
        >>> analysis = analyze("aitod.yaml", "yolov8s-p2.yaml", imgsz=800)  # doctest: +SKIP
        >>> print(*analysis.verdict, sep="\n")  # doctest: +SKIP
    """
    chosen = [assigner] if isinstance(assigner, str) else list(assigner)
    if not chosen or set(chosen) - set(ASSIGNERS):
        raise ValueError(f"assigner must be one or several of {', '.join(ASSIGNERS)}, not {assigner!r}")
    if type(images) is not int or images < 1:
        raise ValueError(f"images must be a whole number from 1, not {images!r}")
    config, _ = RFLAConfig.take_from(arguments)
    config = replace(config, assigner="rfla")
    detector = RFLAYOLO(weights or model, arguments.get("task"))
    net = starting_model(detector, arguments.get("pretrained"))
    if "rfla" in chosen:
        check_head(net)
    check_bins(net, config.dfl_range)
    imgsz = training_size(net, arguments.get("imgsz", detector.overrides.get("imgsz", DEFAULT_IMGSZ)))
    load = {"skip_bad_labels": config.skip_bad_labels, **arguments, "imgsz": imgsz, "task": detector.task}
    levels, meter = levels_of(net, config), None
    own = levels.bins
    if "rfla" in chosen and why_kept(net, config) is None:
        meter = distance_meter(data, **load)
        levels = measured(meter, levels, config, net)
    drawn = {"rfla": levels, "tal": replace(levels, bins=own)}  # measured bins are RFLA's alone
    num_classes = count_classes(data)
    if weights and num_classes != net.model[-1].nc:
        raise ValueError(f"weights: {weights} has {net.model[-1].nc} classes, data {data} has {num_classes}")
    branches = BRANCHES if has_one_to_one(net) else BRANCHES[:1]
    oriented = detector.task == "obb"
    assign = {branch: _assigners(branch, num_classes, drawn, config, oriented) for branch in branches}
    tallies = {branch: {name: {mode: Tally(drawn[name]) for mode in MODES} for name in chosen} for branch in branches}
    by_tal = "tal" in chosen or config.tal_from is not None  # RFLA itself needs no predictions
    picker = _Picker(seed)
    kept: list[Sample] = []
    for mode, augment in MODES.items():
        count = max(images // 4, 1) if augment else images  # a mosaic holds the objects of four
        for sample in training_samples(data, count, augment, seed, **load):
            predicted = predictions(net, sample.image) if weights and by_tal and not augment else {}
            assigned = {b: {name: assign[b][name](sample, predicted.get(b)) for name in chosen} for b in branches}
            for branch, arms in assigned.items():
                for name, one in arms.items():
                    tallies[branch][name][mode].add(sample, one)
            if not augment:
                picker.look(sample, assigned["one2many"])
                kept.append(replace(sample, image=sample.image[:, :1, :1].expand_as(sample.image)))
    dense, single = tallies["one2many"], tallies.get("one2one", {})
    if not len(dense[chosen[0]]["plain"].side):
        raise ValueError(f"data {data}: no object in {len(kept)} training images")

    rows = []
    if sweep and "rfla" in chosen:
        cases = variants(net, config, levels, imgsz, erf)
        if meter:  # as each would be trained
            cases = (replace(v, levels=measured(meter, v.levels, v.config, net, v.zoom)) for v in cases)
        rows = try_variants(cases, kept, num_classes)
    result: dict[str, Any] = {
        "data": str(data),
        "model": str(weights or model),
        "task": detector.task,
        "predictions": str(weights) if weights else None,
        "imgsz": list(kept[0].image.shape[1:]),
        "images": len(kept),
        "settings": config.to_dict(),
        "levels": {
            "names": level_names(levels.strides),
            "strides": list(levels.strides),
            "rf_sizes": list(levels.rf_sizes),
            "changes_at": [None if np.isnan(side) else side for side in changes(levels)],
            "erf_sigmas": effective_receptive_fields(net) if erf else None,
            "bins": levels.bins,
        },
        "assigners": {n: {mode: summarise(tally) for mode, tally in modes.items()} for n, modes in dense.items()},
        "one2one": {n: {mode: summarise(tally) for mode, tally in modes.items()} for n, modes in single.items()},
        "sweep": rows,
    }
    result["verdict"] = verdict(result)
    return Analysis(result, config, levels, dense, single, picker.examples())


def _assigners(
    branch: str, num_classes: int, drawn: dict[str, Levels], config: RFLAConfig, oriented: bool
) -> dict[str, Callable[[Sample, tuple[Tensor, Tensor] | None], Assigned]]:
    """Return what assigns an image in a branch, by the name of the assigner, as the levels of each are."""
    levels, one_to_one = drawn["rfla"], branch == "one2one"
    rfla = (RFLAMatcher if one_to_one else RFLAAssigner)(num_classes, levels.strides, levels.rf_sizes, config)
    tal = (OpenRotatedTAL if oriented else OpenTAL)(num_classes, list(levels.strides), one_to_one)
    return {
        "rfla": lambda sample, predicted: assign_rfla(sample, levels, rfla, predicted),
        "tal": lambda sample, predicted: assign_tal(sample, drawn["tal"], tal, predicted),
    }


class _Picker:
    """Keeps objects of the sizes to be shown, of different images.

    Objects that miss a size by as many times `ALIKE` are all as good; chance decides among them, since neighbouring
    images of a set are often of one scene.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._best: dict[float, list[tuple[int, float, Example]]] = {size: [] for size in SHOWN}

    def look(self, sample: Sample, assigned: dict[str, Assigned]) -> None:
        side = box_area(sample.boxes).sqrt()
        if not len(side):
            return
        off = (side.clamp(min=1e-3)[:, None] / torch.tensor(SHOWN)).log().abs()
        off[off > off.amin(1, keepdim=True)] = torch.inf  # an object stands for the nearest size alone
        for place, best in enumerate(self._best.values()):
            number = int(off[:, place].argmin())
            if float(off[number, place]) < NEAR:
                alike = int(off[number, place] / ALIKE)
                best.append((alike, self._rng.random(), Example(sample, number, dict(assigned))))
                best.sort(key=lambda entry: entry[:2])
                del best[EXAMPLES:]

    def examples(self) -> dict[float, list[Example]]:
        """Return objects by the size that they are near to, only sizes that have any."""
        return {size: [example for *_, example in best] for size, best in self._best.items() if best}


def measured(meter: DistanceMeter, levels: Levels, config: RFLAConfig, net: Any, zoom: float = 1.0) -> Levels:
    """Return levels with the bins that a training would measure, at an image size ``zoom`` times the meter's."""
    bins = meter.range(levels.strides, levels.rf_sizes, config, net.model[-1].reg_max, zoom)
    return replace(levels, bins=bins or levels.bins)


def levels_of(net: Any, config: RFLAConfig) -> Levels:
    """Return the levels of a model, with the receptive fields of settings, and its bins where they name no others."""
    bins = choose_bins(net, None if config.dfl_range == "auto" else config.dfl_range)
    return Levels(tuple(float(s) for s in net.stride), tuple(rf_sizes(net, config)), bins)
