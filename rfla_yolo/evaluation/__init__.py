"""AI-TOD evaluation of COCO JSON: average precision and recall by object size. Knows no trainer."""

from .coco import AITOD_AREAS, METRICS, Evaluation, evaluate

__all__ = ["AITOD_AREAS", "METRICS", "Evaluation", "evaluate"]
