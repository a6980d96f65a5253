"""What the commands share: flags made from Ultralytics' defaults and our settings, and errors of one line."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ..config import SETTINGS, RFLAConfig, check_names, read_yaml, resource_dir

DEFAULT_MODEL = "yolov8s-p2.yaml"
DEFAULT_MODELS = {"segment": "yolov8s-seg.yaml", "pose": "yolov8s-pose.yaml", "obb": "yolov8s-obb.yaml"}  # by task
PAIRS = "NAME=VALUES"  # metavar of a flag whose words are name=values, up to the next --flag
RENAMED = {"half": "now --quantize 16", "int8": "now --quantize 8"}  # Ultralytics still takes them, with a warning


class Flag(NamedTuple):
    """One ``--flag`` of the commands: its default, its help and the heading it stands under."""

    name: str
    default: Any
    text: str
    heading: str

    @property
    def bare(self) -> bool:
        """Whether the flag may stand without a value, for True."""
        return isinstance(self.default, bool) or self.text.startswith("(bool")

    @property
    def several(self) -> bool:
        """Whether the flag takes several words."""
        return (
            isinstance(self.default, list)
            or self.name in {"rf", "dfl_range"}
            or re.match(r"\([^)]*(list|tuple)", self.text) is not None
        )


class Parser(argparse.ArgumentParser):
    """A parser that takes ``--name value`` and ``name=value``, and whose errors are one line with the nearest flag."""

    def __init__(self, command: str, description: str | None, **options: Any) -> None:
        super().__init__(prog=f"rfla-yolo {command}", description=description, allow_abbrev=False, **options)
        self._negative_number_matcher = re.compile(r"-(?:\d|\.\d|inf)")  # -1,6.5 is a value too, no flag

    def parse(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return what was given on the command line, by argument name."""
        known = [name[2:].replace("-", "_") for name in self._option_string_actions if name.startswith("--")]
        positional = any(not action.option_strings for action in self._actions)
        words: list[str] = []
        closed, switch = True, False  # no flag is open for values; one is that may be followed by a switch
        pairs = False  # the open flag takes name=value
        for i, word in enumerate(argv := _join_equals(argv)):
            pair = re.match(r"(?:--)?([A-Za-z][\w-]*)=(.*)", word, re.DOTALL)
            value = i > 0 and self._needs_value(argv[i - 1])
            pairs = pairs and not word.startswith("--")
            if pair and (word.startswith("--") or not (value or pairs)):
                flag = self._flag(pair[1], known)
                words += [flag, pair[2]]
                closed = self._option_string_actions[flag].nargs != "+"
            elif re.match(r"--no[-_]\w", word) and word[5:].replace("-", "_") in known:
                words += [self._flag(word[5:], known), "False"]
                closed = True
            elif re.match(r"--[A-Za-z]", word):
                words.append(self._flag(word[2:], known))
                action = self._option_string_actions[words[-1]]
                closed, switch = False, self._is_switch(words[-1]) or getattr(action, "several", False)
                pairs = action.metavar == PAIRS
            elif not value and (closed or switch) and self._is_switch(f"--{word}"):
                words += [self._flag(word, known), "True"]  # "rect" alone, as Ultralytics' own command takes it
                closed = True
            elif closed and not positional and word not in {"-h", "--help"}:
                fail(f"expected --name value or name=value, found {word!r}")
            else:
                words.append(word)
        args = vars(self.parse_args(words))
        if file := args.pop("cfg", None):  # arguments that single flags win over, as in Ultralytics' own commands
            given = {name: value for name, value in read_yaml("cfg", file).items() if value is not None}
            given.pop("save_dir", None)  # in the args.yaml of a run: the folder of that run, which would be overwritten
            args = {**given, **args}
        for action in self._actions:
            path = args.get(action.dest)
            if action.metavar == "FILE" and path is not None:
                check_folder(action.dest, Path(path).parent)
                if Path(path).is_dir():
                    fail(f"--{action.dest} must be a file, but {path} is a folder")
            elif action.dest in {"project", "out"} and path is not None:
                check_folder(action.dest, path)
        return args

    def _needs_value(self, word: str) -> bool:
        """Return whether the next word is this one's value, even if it looks like name=value."""
        action = self._option_string_actions.get(word.replace("_", "-"))
        return action is not None and action.nargs != 0 and not self._is_switch(word)

    def _is_switch(self, word: str) -> bool:
        """Return whether a flag may stand without a value, for True."""
        action = self._option_string_actions.get(word.replace("_", "-"))
        return action is not None and (action.nargs == "?" or getattr(action, "bare", False))

    def _flag(self, name: str, known: Sequence[str]) -> str:
        """Return the option of that name, written with dashes or underscores."""
        try:
            check_names("flag", [name.replace("-", "_")], known)
        except ValueError as error:
            fail(str(error).replace("_", "-"))
        return f"--{name.replace('_', '-')}"

    def error(self, message: str) -> NoReturn:
        """End with one line instead of the usage."""
        fail(f"{message}; see {self.prog} --help")


def _join_equals(argv: Sequence[str]) -> list[str]:
    """Join name, = and value where they stand apart, as Ultralytics' own command does."""
    text: list[str] = []
    for word in argv:
        begun = text and re.fullmatch(r"[A-Za-z][\w-]*=", text[-1]) and "=" not in word
        if begun or (text and word.startswith("=") and re.fullmatch(r"[A-Za-z][\w-]*", text[-1])):
            text[-1] += word
        else:
            text.append(word)
    return text


def make_parser(command: str, description: str | None, several: Collection[str] = ()) -> Parser:
    """Return the parser of a command: every argument of Ultralytics, from its own defaults, and our settings.

    Args:
        command: Name of the command.
        description: What it does.
        several: Flags that take several words here, beside those that always do.
    """
    usage = f"rfla-yolo {command} [--name value ...] [name=value ...]"
    parser = Parser(command, description, usage=usage)
    groups: dict[str, Any] = {}
    for flag in [*rfla_flags(), *ultralytics_flags()]:
        group = groups.get(flag.heading) or groups.setdefault(flag.heading, parser.add_argument_group(flag.heading))
        names = [f"--{flag.name.replace('_', '-')}"] + (["--weights"] if flag.name == "model" else [])
        group.add_argument(
            *names,
            dest=flag.name,
            nargs="*",
            action=_Store,
            default=argparse.SUPPRESS,
            metavar="",
            help=f"{flag.text} [{flag.default}]".replace("%", "%%"),
            bare=flag.bare,
            several=flag.several or flag.name in several,
        )
    return parser


class _Store(argparse.Action):
    """Read a value as Ultralytics does: no value is True, several are a list."""

    def __init__(self, *args: Any, bare: bool, several: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self.bare, self.several = bare, several

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        from ultralytics.cfg import smart_value

        if "" in values or (not values and not self.bare):
            fail(f"{option_string} needs a value")
        if len(values) > 1 and not self.several:
            fail(f"{option_string} takes one value, found {' '.join(values)!r}; put quotes around a value with spaces")
        if self.dest in {"name", "project"}:
            read = list(values)
        else:  # our settings are written as in their YAML too
            null = {"null"} if self.dest in SETTINGS else set()
            read = [None if value in null else smart_value(value) for value in values or ["True"]]
        value = read[0] if len(read) == 1 else read
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
    return flags + [Flag(name, False, text, "Ultralytics: Former names") for name, text in RENAMED.items()]


def _comments(path: Path) -> list[tuple[str, tuple[str, str]]]:
    """Return the comment of each ``name: value # comment`` line of a YAML file, with the heading above it."""
    heading, found = "General", []
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"(\w+):[^#]*# ?(.*)", line):
            found.append((match[1], (heading, match[2])))
        elif match := re.match(r"# ([\w./ ]+?)(?: (?:settings|-+).*)?$", line, re.IGNORECASE):
            heading = match[1].strip().rstrip("-").strip()
    return found


def boolean(text: str) -> bool:
    """Read True or False."""
    if text.lower() not in {"true", "false"}:
        raise argparse.ArgumentTypeError(f"expected True or False, not {text!r}")
    return text.lower() == "true"


SWITCH: dict[str, Any] = {"type": boolean, "nargs": "?", "const": True}  # of a flag that may also stand alone


def stretch(text: str) -> list[str]:
    """Read the values or percentiles that become 0 and 255, checked where they are used."""
    return text.split(",")


def add_areas(parser: argparse.ArgumentParser) -> None:
    """Add ``--areas``, the size ranges of an evaluation."""

    def areas(text: str) -> str | list[float]:
        return [float(border) for border in text.split(",")] if text[:1].isdigit() else text

    parser.add_argument("--areas", type=areas, default="aitod", help="aitod, coco, or borders in px: 0,8,16,32 [aitod]")


def take_model(args: dict[str, Any]) -> Any:
    """Take the model out of the arguments; without one, the default of the task."""
    return args.pop("model", None) or DEFAULT_MODELS.get(str(args.get("task")), DEFAULT_MODEL)


def take_weights(args: dict[str, Any]) -> Any:
    """Take the checkpoint out of the arguments: validating or exporting an untrained model is never meant."""
    weights = args.pop("model", None) or fail("--weights is required: a checkpoint (.pt), or for val an exported file")
    if Path(str(weights)).suffix in {".yaml", ".yml"}:
        fail(f"--weights must be a checkpoint (.pt) or an exported model, not the YAML {weights}")
    return weights


def need_data(args: dict[str, Any]) -> None:
    """Fail unless a dataset is named."""
    if not args.get("data"):
        shipped = sorted(path.name for path in resource_dir("data").glob("*.yaml"))
        fail("--data is required: the path of a dataset YAML, or the name of one of " + ", ".join(shipped))


def check_folder(name: str, path: Any) -> None:
    """Fail, before any work, where a folder to write to can be none."""
    folder = Path(path).resolve()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        fail(f"--{name} must be a folder, but {existing} is a file")
    if not os.access(existing, os.W_OK):
        fail(f"--{name}: cannot write to {existing}")


def fail(message: str) -> NoReturn:
    """Print an error and end with status 1."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(1)
