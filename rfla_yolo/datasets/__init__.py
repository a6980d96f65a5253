"""Datasets: checks of label files and the generator of the demo set."""

from .checks import explain_label_file
from .demo import make_demo

__all__ = ["explain_label_file", "make_demo"]
