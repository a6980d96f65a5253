"""The commands of ``rfla-yolo``, a file each; the scripts of a checkout, ``train.py`` and others, call them too."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from ..config import check_names
from . import analyze, compare, data, evaluate, export, predict, train, tune, val
from .parser import fail

COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train.run,
    "tune": tune.run,
    "val": val.run,
    "predict": predict.run,
    "export": export.run,
    "analyze": analyze.run,
    "evaluate": evaluate.run,
    "compare": compare.run,
    "data": data.run,
}


def main(argv: Sequence[str]) -> None:
    """Run ``rfla-yolo COMMAND ...``."""
    if not argv or argv[0] in {"-h", "--help"}:
        print("usage: rfla-yolo COMMAND [--name value ...] [name=value ...]\n\ncommands:")
        for name, command in COMMANDS.items():
            print(f"  {name:8} {(command.__doc__ or '').strip()}")
        return
    check_names("command", [argv[0]], COMMANDS)
    COMMANDS[argv[0]](argv[1:])


def entry(*command: str) -> None:
    """Run a command on the program's arguments; what the user can mend ends in one line instead of a traceback."""
    try:
        main([*command, *sys.argv[1:]])
    except (ValueError, TypeError, OSError, SyntaxError, NotImplementedError, ImportError) as error:
        fail(str(error))
