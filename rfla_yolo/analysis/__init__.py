"""What an assigner does to a dataset, before training."""

from .analyze import Analysis, analyze
from .page import write_page

__all__ = ["Analysis", "analyze", "write_page"]
