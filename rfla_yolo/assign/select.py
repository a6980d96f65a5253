"""Step 3, select: the anchors that an object takes in one stage of the hierarchical assignment, Section 3.3."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def select_topk(scores: Tensor, valid: Tensor, k: Tensor, k_max: int) -> Tensor:
    """Take the k anchors of highest score over all levels together, and every anchor that equals one of them.

    Ties are common, because a box is often centred between grid points; with them more than k anchors are taken.

    Args:
        scores: Score of each candidate, (B, G, N).
        valid: Candidates that exist and belong to a real object, bool, (B, G, N).
        k: Anchors for each object, long, at least 1, (B, G); where there are fewer, all are taken.
        k_max: Upper bound of ``k``, known without waiting for the device.

    Returns:
        The selected candidates, bool, (B, G, N).
    """
    scores = scores.masked_fill(~valid, float("-inf"))
    threshold = scores.topk(k_max, dim=-1).values.gather(-1, k.unsqueeze(-1) - 1)
    return valid & (scores >= threshold)


SELECTORS: dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {"topk": select_topk}
