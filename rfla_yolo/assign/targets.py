"""Step 5, targets: how much every positive anchor counts, as class target and as weight of its box loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Score of the object's class and overlap with the object, of the prediction at every positive, each (P,). A function,
# so that targets that do not depend on the predictions need not pay for it.
Predictions = Callable[[], tuple[Tensor, Tensor]]
TargetFn = Callable[[Tensor, int, Predictions], Tensor]

TAL_ALPHA, TAL_BETA = 0.5, 6.0  # exponents of score and overlap in Ultralytics' alignment
TAL_EPS = 1e-9


def hard_targets(objects: Tensor, num_objects: int, predictions: Predictions) -> Tensor:
    """1 for every positive, as in the paper.

    Args:
        objects: Object of each positive, numbered through the batch, long, (P,).
        num_objects: Objects of the batch, padding included.
        predictions: Gives score and overlap of each positive's prediction, each (P,); not used here.

    Returns:
        The targets, float, (P,).
    """
    return torch.ones_like(objects, dtype=torch.float32)


def tal_targets(objects: Tensor, num_objects: int, predictions: Predictions) -> Tensor:
    """TAL's normalised alignment, computed over the positives at hand.

    The alignment ``score^0.5 * overlap^6``, scaled so that the best positive of an object gets the object's best
    overlap: objects whose overlap is still low, tiny ones above all, get low targets.

    Args:
        objects: Object of each positive, numbered through the batch, long, (P,).
        num_objects: Objects of the batch, padding included.
        predictions: Gives score and overlap of each positive's prediction, each (P,).

    Returns:
        The targets in [0, 1], float, (P,).
    """
    score, overlap = predictions()
    alignment = score.pow(TAL_ALPHA) * overlap.pow(TAL_BETA)
    best = _best_of_object(alignment, objects, num_objects)
    return alignment * _best_of_object(overlap, objects, num_objects) / (best + TAL_EPS)


def _best_of_object(values: Tensor, objects: Tensor, num_objects: int) -> Tensor:
    """Return, at each positive, the highest of the values (P,) at the positives of its object."""
    return values.new_zeros(num_objects).scatter_reduce(0, objects, values, "amax").gather(0, objects)


TARGETS: dict[str, TargetFn] = {"hard": hard_targets, "tal": tal_targets}
