"""Step 5, targets: how much every positive anchor counts, as class target and as weight of its box loss."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

# Score of the object's class and overlap with the object, of the prediction at every anchor, each (B, A). A function,
# so that targets that do not depend on the predictions need not pay for it.
Predictions = Callable[[], tuple[Tensor, Tensor]]
TargetFn = Callable[[Tensor, int, Predictions], Tensor]

TAL_ALPHA, TAL_BETA = 0.5, 6.0  # exponents of score and overlap in Ultralytics' alignment
TAL_EPS = 1e-9


def hard_targets(assigned: Tensor, num_gts: int, predictions: Predictions) -> Tensor:
    """1 for every positive, as in the paper.

    Args:
        assigned: Index of the object of each anchor, -1 for background, long, (B, A).
        num_gts: Objects an image, padding included, G.
        predictions: Gives score and overlap of each anchor's prediction, each (B, A); not used here.

    Returns:
        The targets, float, (B, A).
    """
    return (assigned >= 0).float()


def tal_targets(assigned: Tensor, num_gts: int, predictions: Predictions) -> Tensor:
    """TAL's normalised alignment, computed over the positives at hand.

    The alignment ``score^0.5 * overlap^6``, scaled so that the best positive of an object gets the object's best
    overlap: objects whose overlap is still low, tiny ones above all, get low targets.

    Args:
        assigned: Index of the object of each anchor, -1 for background, long, (B, A).
        num_gts: Objects an image, padding included, G.
        predictions: Gives score and overlap of each anchor's prediction, each (B, A).

    Returns:
        The targets in [0, 1], float, (B, A).
    """
    score, overlap = predictions()
    overlap = overlap * (assigned >= 0)
    alignment = score.pow(TAL_ALPHA) * overlap.pow(TAL_BETA)
    best = _best_of_object(alignment, assigned, num_gts)
    return alignment * _best_of_object(overlap, assigned, num_gts) / (best + TAL_EPS)


def _best_of_object(values: Tensor, assigned: Tensor, num_gts: int) -> Tensor:
    """Return, at each anchor, the highest of the values (B, A) at the anchors of its object."""
    gt = assigned.clamp(min=0)
    return values.new_zeros(assigned.shape[0], num_gts).scatter_reduce(1, gt, values, "amax").gather(1, gt)


TARGETS: dict[str, TargetFn] = {"hard": hard_targets, "tal": tal_targets}
