"""What another setting makes better or worse, object by object on the same images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .assignments import Tally
from .figures import IDLE, by_size, level_names, untrainable

FEWER = 0.1  # share of the positives; a smaller loss of them does not matter, equal scores alone give or take as much
WORTH = 0.01  # mean IoU; a difference in reach below it does not matter, however many objects show it


def differences(before: Tally, after: Tally) -> dict[str, list[dict[str, Any]]]:
    """Return what is measurably better, and what is worse, for the same objects under another setting.

    A sum of differences over objects is measurable where it is above twice the square root of the sum of their
    squares, two standard errors if the setting made no difference; the more objects, the finer. By object size:

    - ``missed`` and ``untrainable``: better where measurably fewer, worse from one object more.
    - ``reach``, each object's mean over its positives: better where measurably higher by `WORTH` or more, worse where
      measurably lower by as much.
    - ``positives``: worse where measurably fewer by `FEWER` or more; more of them are not better by themselves.

    Of the levels, unless anchors are guessed: ``levels`` is better where one that was idle (below `IDLE` of the
    positives) measurably gains work, worse where one becomes idle.

    Args:
        before: Objects and positives under the present setting.
        after: The same objects under the other.

    Returns:
        ``better`` and ``worse``: ``figure``, where it differs (``size``, or ``level``), and its values ``before`` and
        ``after``: numbers of objects, mean IoU, positives per object, or the share of the positives.
    """
    found: dict[str, list[dict[str, Any]]] = {"better": [], "worse": []}
    pairs = {name: (figure(before), figure(after)) for name, figure in _FIGURES.items()}
    for size, chosen in by_size(before.side).items():
        for name, (old, new) in pairs.items():
            gain = (new - old)[chosen] * (-1 if name in _LOST else 1)
            if name in _LOST:
                better, worse = _measurable(gain), gain.sum() < 0
            elif name == "reach":
                visible = abs(gain.sum()) >= WORTH * len(gain)
                better, worse = visible and _measurable(gain), visible and _measurable(-gain)
            else:
                better, worse = False, -gain.sum() >= FEWER * old[chosen].sum() and _measurable(-gain)
            if better or worse:
                total = np.sum if name in _LOST else np.mean
                values = {"before": float(total(old[chosen])), "after": float(total(new[chosen]))}
                found["better" if better else "worse"].append({"figure": name, "size": size, **values})
    for name, (had, has) in _work(before, after).items():
        shares = {"before": had / max(len(before.level), 1), "after": has / max(len(after.level), 1)}
        gained = shares["before"] < IDLE <= shares["after"] and has - had > 2 * np.sqrt(has + had)
        if gained or shares["after"] < IDLE <= shares["before"]:
            found["better" if gained else "worse"].append({"figure": "levels", "level": name, **shares})
    return found


def _mean_reach(tally: Tally) -> NDArray[np.float64]:
    """Return the mean best IoU of the positives of every object, 0 without positives, (N,)."""
    return np.bincount(tally.owner, tally.reach, len(tally.side)) / np.maximum(tally.positives, 1)


_LOST = ("missed", "untrainable")
_FIGURES: dict[str, Callable[[Tally], NDArray[np.float64]]] = {
    "missed": lambda tally: (tally.positives == 0).astype(float),
    "untrainable": lambda tally: untrainable(tally).astype(float),
    "reach": _mean_reach,
    "positives": lambda tally: tally.positives,
}


def _measurable(gain: NDArray[np.float64]) -> bool:
    return bool(gain.sum() > 2 * np.sqrt((gain**2).sum()))


def _work(before: Tally, after: Tally) -> dict[str, tuple[int, int]]:
    """Return the positives of every level that both have, by name; none where anchors are guessed."""
    counts: list[dict[str, int]] = []
    if before.guessed.any() or after.guessed.any():
        return {}
    for tally in (before, after):
        names = level_names(tally.levels.strides)
        counts.append(dict(zip(names, np.bincount(tally.level, minlength=len(names)).tolist())))
    return {name: (count, counts[1][name]) for name, count in counts[0].items() if name in counts[1]}
