"""The figures of an analysis, by object size and by level."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.writer import SIZES
from .assignments import Levels, Tally

TRAINABLE_IOU = 0.5  # an object whose positives cannot reach it will never be a true positive at AP50
ROUNDING = 1e-3  # of an IoU; labels are rounded, and an object on the border is not to depend on it
OUTSIDE = 0.01  # share of the positives that may lie outside of a range on either side
IDLE = 0.01  # share of the positives below which a level has no work
SIZE_WORDS = {"vt": "below 8 px", "t": "8 to 16 px", "s": "16 to 32 px", "m": "above 32 px"}
BINS = (0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0, 20.0, 24.0, 32.0, 48.0, 64.0, 96.0, float("inf"))  # px
MANY = 10  # the last place of the distribution holds this many positives and more


def summarise(tally: Tally) -> dict[str, Any]:
    """Return all figures of a tally: over all objects, by AI-TOD's sizes, by fine bins, and by level."""
    side = tally.side
    sizes = {"all": figures(tally, np.ones(len(side), dtype=bool))}
    sizes |= {name: figures(tally, chosen) for name, chosen in by_size(side).items()}
    bins = [{"from": low, "to": high, **figures(tally, _within(side, low, high))} for low, high in pairwise(BINS)]
    bins[-1]["to"] = None
    return {
        "sizes": sizes,
        "bins": bins,
        "distances": needed(tally),
        "guessed": int(tally.guessed.sum()),
        "contested_anchors": tally.contested,
        "anchors": tally.anchors,
    }


def needed(tally: Tally) -> dict[str, float] | None:
    """Return which distances the positives' sides need, strides, or None without positives; not of guessed ones.

    Returns:
        ``least`` and ``greatest`` of all; ``low`` and ``high``, which `OUTSIDE` of the positives need to go beyond;
        ``below`` and ``above``, shares of the positives that need more than the head's distribution gives.
    """
    known = tally.known
    nearest, farthest = tally.nearest[known], tally.farthest[known]
    if not len(nearest):
        return None
    first, last = tally.levels.bins or (-np.inf, np.inf)
    return {
        "least": float(nearest.min()),
        "low": float(np.quantile(nearest, OUTSIDE)),
        "high": float(np.quantile(farthest, 1 - OUTSIDE)),
        "greatest": float(farthest.max()),
        "below": float((nearest < first - ROUNDING).mean()),
        "above": float((farthest > last + ROUNDING).mean()),
    }


def figures(tally: Tally, chosen: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the figures of some objects; None where there is nothing to divide by.

    Args:
        tally: Objects and positives.
        chosen: Which objects, bool, (N,).

    Returns:
        ``objects``; ``positives`` per object; ``distribution``, objects with 0, 1, ... and `MANY` or more positives;
        ``missed``, objects without any; ``untrainable``, objects whose positives cannot reach `TRAINABLE_IOU`;
        ``inside``, share of positives inside their object, not on its border; ``reach``, their mean best IoU;
        ``best``, mean over the objects of their best; ``lost``, share of wanted anchors that went to another object;
        ``losers``, objects that lost any; ``levels``, share of the positives on each level, without guessed ones.
    """
    positives, mine = tally.positives[chosen], chosen[tally.owner]
    wanted, lost = tally.wanted[chosen], tally.lost[chosen]
    inside, reach = tally.inside[mine], tally.reach[mine]
    level = tally.level[mine & tally.known]
    shares = np.bincount(level, minlength=len(tally.levels.strides)) / max(len(level), 1)
    return {
        "objects": int(chosen.sum()),
        "positives": _mean(positives),
        "distribution": np.bincount(positives.clip(max=MANY).astype(int), minlength=MANY + 1).tolist(),
        "missed": int((positives == 0).sum()),
        "untrainable": int(untrainable(tally)[chosen].sum()),
        "inside": _mean(inside),
        "reach": _mean(reach),
        "best": _mean(tally.best[chosen]),
        "lost": float(lost.sum() / wanted.sum()) if wanted.sum() else None,
        "losers": int((lost > 0).sum()),
        "levels": shares.tolist() if len(level) else None,
    }


def by_size(side: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    """Return which objects are of each of AI-TOD's sizes, by its name; side in px, (N,)."""
    return {name: _within(side, low, high) for name, (low, high) in zip(SIZES, pairwise([0.0, *SIZES.values()]))}


def untrainable(tally: Tally) -> NDArray[np.bool_]:
    """Return which objects have no positive from which the head can draw them at `TRAINABLE_IOU`, (N,)."""
    return tally.best < TRAINABLE_IOU - ROUNDING


def idle(names: Sequence[str], shares: Sequence[float] | None) -> dict[str, float]:
    """Return the levels below `IDLE` of the positives, and their shares."""
    return {name: share for name, share in zip(names, shares or []) if share < IDLE}


def changes(levels: Levels) -> list[float]:
    """Return the sides at which a centred square object changes to the next level, px (scores of two levels meet)."""
    pairs = zip(levels.rf_sizes, levels.rf_sizes[1:])
    return [float(np.sqrt((b**2 - a**2) / (2 * np.log(b / a)))) if b > a else float("nan") for a, b in pairs]


def level_names(strides: Sequence[float]) -> list[str]:
    """Return P2, P3, ... by stride."""
    return [f"P{np.log2(stride):.3g}" for stride in strides]


def _within(side: NDArray[np.float64], low: float, high: float) -> NDArray[np.bool_]:
    return (side > low) & (side <= high)


def _mean(values: NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None
