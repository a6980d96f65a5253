"""AI-TOD evaluation of COCO JSON: average precision and recall by object size, and more. Knows no trainer."""

from .coco import TABLE, Evaluation, evaluate
from .compare import Comparison, Difference, compare
from .figures import percent
from .matching import AITOD_AREAS, COCO_AREAS
from .pages import write_comparison, write_page

__all__ = [
    "AITOD_AREAS",
    "COCO_AREAS",
    "TABLE",
    "Comparison",
    "Difference",
    "Evaluation",
    "compare",
    "evaluate",
    "percent",
    "write_comparison",
    "write_page",
]
