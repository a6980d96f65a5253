"""A search for settings by Ray Tune: RFLA's and Ultralytics' alike, judged by AP by size on val, reported on test."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from ultralytics.cfg import get_cfg, smart_value
from ultralytics.data.utils import check_det_dataset
from ultralytics.utils import DEFAULT_CFG_DICT, RANK

from ..config import SETTINGS, RFLAConfig, check_names, read_yaml
from ..evaluation import TABLE, Evaluation
from .analysis import run_folder
from .data import check_dataset
from .model import RFLAYOLO
from .options import check_options

OBJECTIVES = (*TABLE, "fitness")  # fitness: Ultralytics', its mAP50-95
REFUSED = ("resume", "split", "exist_ok", "save_dir")  # a search has its own folders, and searches on val
SHARED = {*REFUSED, "data", "model", "task", "mode", "device", "project", "name", "cfg", "val"}  # not to be searched
DEFAULTS = {**DEFAULT_CFG_DICT, **RFLAConfig().to_dict()}


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, which are among them; whole ones, or evenly on the logarithmic scale."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @property
    def values(self) -> list[float]:
        """Both ends, for checks."""
        return [self.low, self.high]

    def domain(self) -> Any:
        """Return what Ray samples from."""
        from ray import tune

        if self.whole:
            return (tune.lograndint if self.log else tune.randint)(int(self.low), int(self.high) + 1)
        return (tune.loguniform if self.log else tune.uniform)(self.low, self.high)


@dataclass(frozen=True)
class Choices:
    """Values to choose from."""

    values: list[Any]

    def domain(self) -> Any:
        """Return what Ray samples from."""
        from ray import tune

        return tune.choice(self.values)


@dataclass(frozen=True)
class Search:
    """What a search has found.

    Attributes:
        folder: Its folder: a run folder of each trial, ``best.yaml`` and ``search.json``.
        trials: Run, settings and objective of each trial; the objective is None and there is an ``error`` where it
            failed.
        best: The best of them.
        split: Where its weights were evaluated at the end, "test" or "val".
        evaluation: The figures there.
    """

    folder: Path
    trials: list[dict[str, Any]]
    best: dict[str, Any]
    split: str
    evaluation: Evaluation


def read_space(space: str | Path | Mapping[str, Any]) -> dict[str, Range | Choices]:
    """Read what is searched: settings of RFLA and arguments of Ultralytics by name.

    Args:
        space: ``low..high`` is a range, of whole numbers where the default is one; ``low..high,log`` is even on the
            logarithmic scale. A list, or text with commas, holds choices. Or a YAML file of these.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a name is unknown, is not to be searched, or its values are neither a range nor choices.

    Example:
        >>> read_space({"rf_scale": "1..4", "topk": "[3,1],[9,1]", "distance": ["kl", "wd"]})["rf_scale"]
        Range(low=1.0, high=4.0, log=False, whole=False)
    """
    given = space if isinstance(space, Mapping) else read_yaml("space", space)
    if not given:
        raise ValueError("space: there is nothing to search; expected ranges or choices, such as rf_scale=1..4")
    check_names("name in space", given, DEFAULTS)
    for name in given:
        if name in SHARED:
            raise ValueError(f"space: {name} is the same for all trials; name it before the space")
    return {name: _read_values(name, value) for name, value in given.items()}


def _read_values(name: str, given: Any) -> Range | Choices:
    if isinstance(given, str) and ".." in given:
        low, _, high = given.partition("..")
        high, log, after = high.partition(",log")
        try:
            ends = float(low), float(high)
        except ValueError:
            ends = math.nan, math.nan
        if after or not -math.inf < ends[0] < ends[1] < math.inf or (log and ends[0] <= 0):
            raise ValueError(
                f"space: {name} must be low..high, or low..high,log above 0, for a range, and a,b,c for choices, "
                f"not {given!r}"
            )
        whole = type(DEFAULTS[name]) is int and all(end.is_integer() for end in ends)
        return Range(*ends, log=bool(log), whole=whole)
    if isinstance(given, str):
        try:
            given = yaml.safe_load(f"[{given}]")
        except yaml.YAMLError:
            raise ValueError(f"space: {name} must be choices, such as a,b,c, not {given!r}") from None
    values = given if isinstance(given, (list, tuple)) else [given]
    if not values:
        raise ValueError(f"space: {name} has no choices")
    return Choices([smart_value(value) if isinstance(value, str) else value for value in values])


def tune(
    model: str | Path,
    data: str | Path,
    space: str | Path | Mapping[str, Any],
    objective: str = "AP",
    trials: int = 10,
    **arguments: Any,
) -> Search:
    """Search for settings: train once with each of some draws from a space, and evaluate the best weights on test.

    The draws are random, by ``seed``; choices without ranges that have no more combinations than ``trials`` are tried
    each once. A trial takes one GPU or, without one, all cores. Its objective is that of its ``best.pt`` on val.

    Args:
        model: A model YAML or a checkpoint, where every trial begins.
        data: The dataset YAML.
        space: What is searched, see `read_space`.
        objective: What is to be highest: AP, AP50, AP75, APvt, APt, APs, APm, or fitness, Ultralytics' mAP50-95.
        trials: How many to train.
        **arguments: What all trials share: settings of RFLA and arguments of Ultralytics, as `RFLAYOLO.train` takes
            them.

    Returns:
        What was found.

    Raises:
        FileNotFoundError: If the data or a file is not there.
        ImportError: If Ray is not installed.
        TypeError: If an argument is of a type that Ultralytics does not take.
        ValueError: If a name or a value cannot be; these all before the first trial. After the last, if none has a
            figure to compare.
    """
    data, split = _check(model, data, parsed := read_space(space), objective, trials, arguments)
    try:
        import ray
        from ray.tune import RunConfig, TuneConfig, Tuner, grid_search, with_parameters, with_resources
        from ray.tune.search.basic_variant import BasicVariantGenerator
    except ImportError as error:
        raise ImportError(f"tune needs Ray Tune: pip install 'rfla-yolo[tune]' ({error})") from None

    place = {key: arguments.pop(key, None) for key in ("project", "name")}
    folder = run_folder(place["project"], place["name"] or "tune").resolve()
    folder.mkdir(parents=True)
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # relative paths among the arguments stay what they are
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if started := not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        machine = ray.nodes()[0]["Resources"]
        gpus = 0 if arguments.get("device") else machine.get("GPU", 0)
        train = with_parameters(_train, model=model, arguments={**arguments, "data": data}, folder=folder)
        whole = all(isinstance(s, Choices) for s in parsed.values())
        whole = whole and math.prod(len(s.values) for s in parsed.values()) <= trials
        tuner = Tuner(
            with_resources(train, {"cpu": max(1, machine["CPU"] // max(1, gpus)), "gpu": min(1, gpus)}),
            param_space={name: grid_search(s.values) if whole else s.domain() for name, s in parsed.items()},
            tune_config=TuneConfig(
                num_samples=1 if whole else trials,
                search_alg=BasicVariantGenerator(random_state=arguments.get("seed", 0)),
                trial_name_creator=lambda trial: _run_name(trial.trial_id),
                trial_dirname_creator=lambda trial: _run_name(trial.trial_id),
                reuse_actors=False,
            ),
            run_config=RunConfig(name="ray", storage_path=str(folder), verbose=1),
        )
        found = [_read_trial(folder, result, objective) for result in tuner.fit()]
    finally:
        if started:
            ray.shutdown()
    best = choose(found, objective, folder)
    comment = f"# {objective} {best[objective]:.4f} on val, the best of {len(found)} trials; for --cfg\n"
    (folder / "best.yaml").write_text(comment + yaml.safe_dump(best["settings"], sort_keys=False), encoding="utf-8")

    options = {**arguments, **best["settings"], "data": data, "split": split, "compile": False}
    options = {name: value for name, value in options.items() if name not in {"batch", "model", "task"}}
    weights = folder / best["run"] / "weights" / "best.pt"
    evaluation = RFLAYOLO(weights).val(**options, project=str(folder), name=f"best-{split}").evaluation
    figures = {"objective": objective, "trials": found, "best": best["run"], "split": split}
    figures["figures"] = evaluation.metrics
    (folder / "search.json").write_text(json.dumps(figures, indent=2), encoding="utf-8")
    return Search(folder, found, best, split, evaluation)


def choose(trials: list[dict[str, Any]], objective: str, folder: Path) -> dict[str, Any]:
    """Return the trial of the highest objective.

    Raises:
        ValueError: If none has one; says why.
    """
    compared = [trial for trial in trials if trial[objective] is not None]
    if compared:
        return max(compared, key=lambda trial: trial[objective])
    if failed := [trial for trial in trials if "error" in trial]:
        raise ValueError(
            f"all trials failed, the first by {failed[0]['error']}; {folder}/ray/{failed[0]['run']}/error.txt"
        )
    raise ValueError(
        f"objective: no trial has {objective}, val holds no object that counts for it; the runs are in {folder}"
    )


def _check(
    model: Any, data: Any, space: Mapping[str, Range | Choices], objective: str, trials: int, arguments: dict[str, Any]
) -> tuple[Any, str]:
    """Raise at what no trial could work with; return the data, and the split to report on."""
    check_names("objective", [objective], OBJECTIVES)
    if type(trials) is not int or trials < 1:
        raise ValueError(f"trials must be a whole number of 1 or more, not {trials!r}")
    if RANK != -1:
        raise ValueError("tune starts the processes of its trials itself; start it without torchrun")
    for name in REFUSED:
        if arguments.get(name, "val") not in {None, False, "val"}:  # an args.yaml says split: val
            raise ValueError(f"{name}={arguments[name]} is not for a search: it has a new folder, val and test")
    for name in space.keys() & arguments.keys():
        raise ValueError(f"{name} is given twice: in space, and as {arguments[name]!r} for all trials")
    device = arguments.get("device")
    if device is not None and device not in ("", "cpu", "mps"):
        raise ValueError(
            f"device must be cpu or left out, not {device!r}: a trial takes one GPU, which Ray chooses among those "
            "that CUDA_VISIBLE_DEVICES shows"
        )
    others = dict(arguments)
    config, _ = RFLAConfig.take_from(others)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    check_options(get_cfg(overrides=others), chosen)
    for name, value in ((name, value) for name, searched in space.items() for value in searched.values):
        if name in SETTINGS:
            RFLAConfig.from_dict({**config.to_dict(), name: value})
        else:
            check_options(get_cfg(overrides={**others, name: value}), chosen)
    RFLAYOLO(model, arguments.get("task"))
    data = check_dataset(data, "train", "val")
    split = "test" if check_det_dataset(str(data)).get("test") else "val"
    return check_dataset(data, split), split


def _run_name(trial_id: str) -> str:
    return f"trial{trial_id.rpartition('_')[2]}"


def _train(settings: dict[str, Any], model: Any, arguments: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train in a process of Ray's, in a run folder of its own."""
    from ray.tune import get_context

    place = {"project": str(folder), "name": _run_name(get_context().get_trial_id())}
    arguments = {**arguments, **settings}
    RFLAYOLO(model, arguments.pop("task", None)).train(**arguments, **place)
    return {"done": True}


def _read_trial(folder: Path, result: Any, objective: str) -> dict[str, Any]:
    """Return run, settings and objective of a trial."""
    run = Path(result.path).name
    trial = {"run": run, "settings": result.config, objective: None}
    written = folder / run / "metrics.json"
    if result.error or not written.is_file():
        return {**trial, "error": str(result.error or "it was ended").strip().splitlines()[-1]}
    figures = json.loads(written.read_text(encoding="utf-8"))
    return {**trial, objective: {**figures, **figures["ultralytics"]}[objective]}
