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
    positive = assigned >= 0
    gt = assigned.clamp(min=0)
    alignment = (score.pow(TAL_ALPHA) * overlap.pow(TAL_BETA)) * positive
    overlap = overlap * positive
    zeros = alignment.new_zeros(assigned.shape[0], num_gts)
    best_alignment = zeros.scatter_reduce(1, gt, alignment, "amax").gather(1, gt)
    best_overlap = zeros.scatter_reduce(1, gt, overlap, "amax").gather(1, gt)
    return alignment * best_overlap / (best_alignment + TAL_EPS)


TARGETS: dict[str, TargetFn] = {"hard": hard_targets, "tal": tal_targets}
