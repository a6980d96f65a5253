"""The settings of this package: one frozen object, checked once. ``cfg/rfla.yaml`` explains every one of them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from .assign import CONFLICTS, DISTANCES, TARGETS
from .assign.rfla import check_decay, check_topk, check_topk_max, lookup

ASSIGNERS = ("rfla", "tal")
RF_SCALES = {"trf": 0.5, "erf": 0.5, "stride": 2.0}  # source of the receptive fields: its default scale
DFL_RANGES = ("auto", "stock")  # beside two numbers: measured on the dataset; Ultralytics' 0, 1, ...
PRESETS = ("paper",)  # cfg/{name}.yaml
KEPT = "resume_with_rfla_yolo"  # where an unfinished run keeps the settings, see `RFLATrainer.save_model`
YOUNGER = {"tal_from": None, "dfl_range": None}  # settings that 0.1 had not, and what it did, for its interrupted runs
RETIRED = {"candidates": "window", "select": "topk"}  # settings of 0.1 with one value, still in its files
FITNESS = {"map": None, "aitod": "AP", "APt": "APt", "APvt": "APvt"}  # setting: figure of the evaluation


@dataclass(frozen=True)
class RFLAConfig:
    """Settings of the assignment and of the data checks; ``cfg/rfla.yaml`` says what each means and where it is from.

    Scalars and arrays of NumPy become plain numbers and lists.

    Raises:
        ValueError: If a value is out of its range; the message names the setting, its value and what was expected.

    Example:
        >>> RFLAConfig(topk=(9, 1)).topk
        (9, 1)
        >>> RFLAConfig(decay=1.5)
        Traceback (most recent call last):
            ...
        ValueError: decay must be in (0, 1], not 1.5
    """

    assigner: str = "rfla"
    topk: tuple[int, int] = (3, 1)
    topk_max: int = 30
    tal_from: float | None = 32.0
    decay: float = 0.9
    distance: str = "kl"
    conflict: str = "score"
    target: str = "tal"
    one2one: str = "tal"
    rf: str | tuple[float, ...] = "stride"
    rf_scale: float | None = None
    dfl_range: str | tuple[float, float] | None = "auto"
    skip_bad_labels: bool = False
    fitness: str = "map"

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        if self.assigner not in ASSIGNERS:
            raise ValueError(f"assigner must be one of {', '.join(map(repr, ASSIGNERS))}, not {self.assigner!r}")
        check_topk(self.topk)
        check_topk_max(self.topk_max)
        check_decay(self.decay)
        if self.tal_from is not None and not _is_positive(self.tal_from):
            raise ValueError(f"tal_from must be a side in px above 0, or None, not {self.tal_from!r}")
        lookup("distance", self.distance, DISTANCES)
        lookup("conflict", self.conflict, CONFLICTS)
        lookup("target", self.target, TARGETS)
        if self.one2one not in ASSIGNERS:
            raise ValueError(f"one2one must be one of {', '.join(map(repr, ASSIGNERS))}, not {self.one2one!r}")
        lookup("fitness", self.fitness, FITNESS)
        if self.rf_scale is not None and not _is_positive(self.rf_scale):
            raise ValueError(f"rf_scale must be a number above 0, or None, not {self.rf_scale!r}")
        sizes: Any = [self.rf] if _is_positive(self.rf) else self.rf  # one level: the number alone
        if isinstance(sizes, str):
            if sizes not in RF_SCALES:
                raise ValueError(f"rf must be 'trf', 'erf', 'stride' or one size in px for each level, not {sizes!r}")
        elif not isinstance(sizes, (tuple, list)) or not sizes or not all(map(_is_positive, sizes)):
            raise ValueError(
                f"rf must be 'trf', 'erf', 'stride' or one size in px (above 0) for each level, not {self.rf!r}"
            )
        else:
            object.__setattr__(self, "rf", tuple(map(float, sizes)))
        if not isinstance(self.skip_bad_labels, bool):
            raise ValueError(f"skip_bad_labels must be True or False, not {self.skip_bad_labels!r}")
        object.__setattr__(self, "topk", tuple(self.topk))
        if self.dfl_range is not None and self.dfl_range not in DFL_RANGES:
            others = f", {', '.join(map(repr, DFL_RANGES))}, or None"
            object.__setattr__(self, "dfl_range", check_dfl_range(self.dfl_range, others))

    @property
    def scale(self) -> float:
        """Factor on the receptive fields: ``rf_scale``, or the default of their source; 1 for sizes given in px."""
        if not isinstance(self.rf, str):
            return 1.0
        return RF_SCALES[self.rf] if self.rf_scale is None else self.rf_scale

    def without_effect(self, given: Collection[str], one_to_one: bool) -> list[str]:
        """Say in words which of the settings that were asked for change nothing, and why.

        Args:
            given: Names of those that were given; what differs from its default counts as asked for too.
            one_to_one: Whether the model's head has a one-to-one branch.

        Example:
            >>> RFLAConfig(one2one="rfla").without_effect([], one_to_one=False)
            ['without effect: one2one, because the head of this model has no one-to-one branch']
        """
        default = RFLAConfig()
        asked = [name for name in SETTINGS if name in given or getattr(self, name) != getattr(default, name)]
        found: dict[str, tuple[str, ...]] = {}
        if self.assigner != "rfla":
            found[f"assigner={self.assigner} takes no setting of RFLA"] = RFLA_ALONE
        else:
            if not one_to_one:
                found["the head of this model has no one-to-one branch"] = ("one2one",)
            if not isinstance(self.rf, str):
                found["rf gives the sizes in px"] = ("rf_scale",)
        idle = {why: [name for name in asked if name in names] for why, names in found.items()}
        return [f"without effect: {', '.join(names)}, because {why}" for why, names in idle.items() if names]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain lists, numbers and strings: safe in a checkpoint and in YAML."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> RFLAConfig:
        """Build the settings from a mapping, as `to_dict` or release 0.1 has written it.

        Raises:
            ValueError: If a name is unknown (the nearest one is named) or a value is out of its range.
        """
        settings = _current(settings)
        check_names("setting", settings, SETTINGS)
        return cls(**settings)

    @classmethod
    def take_from(cls, overrides: MutableMapping[str, Any]) -> tuple[RFLAConfig, list[str]]:
        """Take this package's settings out of a mapping of arguments.

        In order of precedence: single settings, the file named by ``rfla_cfg``, the shipped file named by ``preset``,
        settings that came with another trainer's arguments as one dict `KEPT`, the defaults.

        Args:
            overrides: Arguments by name; ours are removed.

        Returns:
            The settings, and the names of those that were given one by one or by file.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If a name is unknown or a value is out of its range.
        """
        given = overrides.pop(KEPT, None) or {}
        file, preset = overrides.pop("rfla_cfg", None), overrides.pop("preset", None)
        explicit = _preset(preset) if preset else {}
        explicit |= _read(file) if file else {}
        explicit |= {k: overrides.pop(k) for k in SETTINGS if k in overrides}
        config = cls.from_dict(given)
        check_names("setting", explicit, SETTINGS)
        return replace(config, **explicit), list(explicit)

    def save(self, path: Path, comment: str = "") -> None:
        """Write the settings as YAML that ``rfla_cfg`` reads again."""
        lines = "".join(f"# {line}\n" for line in comment.splitlines())
        path.write_text(lines + yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")

    def is_in(self, path: Path) -> bool:
        """Return whether a file as `save` writes it holds these settings, and not others or none."""
        try:
            return RFLAConfig.from_dict(_read(path)) == self
        except (FileNotFoundError, ValueError):
            return False


SETTINGS = tuple(f.name for f in fields(RFLAConfig))
RFLA_ALONE = tuple(name for name in SETTINGS if name not in {"assigner", "dfl_range", "skip_bad_labels", "fitness"})


def check_dfl_range(value: Any, others: str = "") -> tuple[float, float]:
    """Return the distances of the first and the last bin, cells; ``others`` is what else the message allows."""
    ends = value if isinstance(value, (tuple, list)) else ()
    if len(ends) != 2 or not all(map(_is_number, ends)) or not ends[0] < ends[1]:
        raise ValueError(f"dfl_range must be two ascending numbers of cells{others}, not {value!r}")
    return float(ends[0]), float(ends[1])


def check_names(what: str, names: Collection[str], known: Collection[str]) -> None:
    """Raise ValueError at a name that is not known, with the nearest one that is."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
            raise ValueError(f"unknown {what} {name!r}{hint}")


@cache
def resource_dir(kind: str) -> Path:
    """Return the folder of shipped YAMLs, ``"cfg"`` or ``"data"``: in the package, or beside it in a checkout."""
    package = Path(__file__).parent
    return package / kind if (package / kind).is_dir() else package.parent / kind


def read_yaml(argument: str, file: Any) -> dict[str, Any]:
    """Read the ``name: value`` lines of the YAML file that an argument names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its content is something else.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{argument}: no such file: {file}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{argument}: {file} is no YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{argument}: {file}: expected 'name: value' lines, found {type(content).__name__}")
    return content


def _read(file: Any) -> dict[str, Any]:
    """Read settings from a YAML file; one given by name alone is also looked for among the shipped ones."""
    path = Path(file)
    if not path.is_file() and path.parent == Path() and (resource_dir("cfg") / path).is_file():
        path = resource_dir("cfg") / path
    content = _current(read_yaml("rfla_cfg", path))
    try:
        check_names("setting", content, SETTINGS)
    except ValueError as error:
        raise ValueError(f"rfla_cfg: {file}: {error}") from None
    return content


def _preset(name: Any) -> dict[str, Any]:
    """Read the settings of a shipped preset."""
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {name!r}")
    return _read(resource_dir("cfg") / f"{name}.yaml")


def _current(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the settings that are no longer there, where they have the one value that they had."""
    return {name: value for name, value in settings.items() if (name, value) not in RETIRED.items()}


def _plain(value: Any) -> Any:
    """Turn what NumPy made into the numbers and lists of Python; YAML and checkpoints hold no others."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (tuple, list)):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0
