"""RFLA label assignment, torch only: candidates -> score -> select -> resolve -> targets.

One file per step. Every step has a registry, a plain ``dict`` from a name to the function, so that a step is swapped by
adding an entry and naming it: to `rfla_assign` or, where there is a choice worth offering, in the settings. The file
``task_aligned`` is Ultralytics' assignment, for large objects.
"""

from .candidates import CANDIDATES, Candidates, window_candidates
from .distance import DISTANCES, kl_score, wd_score
from .one_to_one import match_one_to_one, rfla_match
from .resolve import CONFLICTS, resolve_conflicts
from .rfla import Selection, rfla_assign, rfla_select
from .rotated import rotated_candidates
from .select import SELECTORS, select_topk
from .targets import TARGETS, hard_targets, tal_targets
from .task_aligned import task_aligned_assign

__all__ = [
    "CANDIDATES",
    "CONFLICTS",
    "DISTANCES",
    "SELECTORS",
    "TARGETS",
    "Candidates",
    "Selection",
    "hard_targets",
    "kl_score",
    "match_one_to_one",
    "resolve_conflicts",
    "rfla_assign",
    "rfla_match",
    "rfla_select",
    "rotated_candidates",
    "select_topk",
    "tal_targets",
    "task_aligned_assign",
    "wd_score",
    "window_candidates",
]
