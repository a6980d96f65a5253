"""Receptive fields, loss, trainer, validator and export: the only folder that knows Ultralytics' internals."""

from .distributed import is_first_process
from .export import compare_export, export_model
from .loss import RFLAAssigner, RFLADetectionLoss, rf_sizes
from .model import RFLAYOLO
from .receptive_field import receptive_fields
from .trainer import RFLAOBBTrainer, RFLAPoseTrainer, RFLASegmentationTrainer, RFLATrainer
from .validator import RFLAOBBValidator, RFLAPoseValidator, RFLASegmentationValidator, RFLAValidator

__all__ = [
    "RFLAYOLO",
    "RFLAAssigner",
    "RFLADetectionLoss",
    "RFLAOBBTrainer",
    "RFLAOBBValidator",
    "RFLAPoseTrainer",
    "RFLAPoseValidator",
    "RFLASegmentationTrainer",
    "RFLASegmentationValidator",
    "RFLATrainer",
    "RFLAValidator",
    "compare_export",
    "export_model",
    "is_first_process",
    "receptive_fields",
    "rf_sizes",
]
