"""Pages of tables and pictures that open from disk, without a network."""

from .page import Page, subplots

__all__ = ["Page", "subplots"]
