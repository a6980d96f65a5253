"""What an assigner does to a dataset, before training."""

from .analyze import Analysis, analyze

__all__ = ["Analysis", "analyze"]
