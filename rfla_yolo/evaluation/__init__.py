"""AI-TOD evaluation of COCO JSON: average precision and recall by object size, and more. Knows no trainer."""

from .coco import TABLE, Evaluation, evaluate, percent
from .matching import AITOD_AREAS, COCO_AREAS

__all__ = ["AITOD_AREAS", "COCO_AREAS", "TABLE", "Evaluation", "evaluate", "percent"]
