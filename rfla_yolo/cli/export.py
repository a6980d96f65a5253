"""``rfla-yolo export``."""

from __future__ import annotations

from collections.abc import Sequence

from ..config import RFLAConfig
from .parser import fail, make_parser, take_weights


def run(argv: Sequence[str]) -> None:
    """Export a checkpoint; the file is run and compared with it, on the image that --source names."""
    args = make_parser("export", run.__doc__).parse(argv)
    weights = take_weights(args)
    RFLAConfig.take_from(args)  # accepted everywhere, of no effect here
    from ..engine import export_model

    try:
        print(f"Wrote {export_model(weights, args.pop('source', None), **args)}")
    except AssertionError as error:  # Ultralytics' word for an argument that the format does not take
        fail(str(error))
