"""``rfla-yolo val``."""

from __future__ import annotations

from collections.abc import Sequence

from .parser import make_parser, take_weights


def run(argv: Sequence[str]) -> None:
    """Validate a checkpoint or an exported model: Ultralytics' metrics and AP by object size."""
    args = make_parser("val", run.__doc__).parse(argv)
    weights = take_weights(args)
    from ..engine import RFLAYOLO

    RFLAYOLO(weights, args.pop("task", None)).val(**args)
