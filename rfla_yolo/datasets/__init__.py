"""Datasets: builders, converters, tiles, checks, and the generator of the demo set."""

from .aitod import build_aitod
from .checks import explain_label_file
from .demo import make_demo
from .doctor import check_data
from .dota import write_task1
from .sources import convert_coco, convert_dota, convert_tinyperson, convert_visdrone
from .tile import merge_tiles, tile_dataset

__all__ = [
    "build_aitod",
    "check_data",
    "convert_coco",
    "convert_dota",
    "convert_tinyperson",
    "convert_visdrone",
    "explain_label_file",
    "make_demo",
    "merge_tiles",
    "tile_dataset",
    "write_task1",
]
