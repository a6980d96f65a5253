"""Scenes of any size: a function from tiles to boxes, run tile by tile, gives the detections of the whole."""

from .detect import RowResult, detect_rows
from .detections import Detections
from .seams import MARGIN, SeamMerger, merge, overlap_for
from .windows import Window, tile_rows

__all__ = [
    "MARGIN",
    "Detections",
    "RowResult",
    "SeamMerger",
    "Window",
    "detect_rows",
    "merge",
    "overlap_for",
    "tile_rows",
]
