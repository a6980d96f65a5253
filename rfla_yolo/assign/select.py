"""Step 3, select: the anchors that an object takes in one stage of the hierarchical assignment, Section 3.3."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def select_topk(scores: Tensor, inside: Tensor, valid: Tensor, k: Tensor, k_max: int) -> Tensor:
    """Take the k anchors of highest score over all levels together, and every anchor that equals one of them.

    Ties are common, because a box is often centred between grid points; with them more than k anchors are taken.

    Args:
        scores: Score of each candidate, (B, G, N).
        inside: Candidates within the object, bool, (B, G, N); not used here.
        valid: Candidates that exist and belong to a real object, bool, (B, G, N).
        k: Anchors for each object, long, at least 1, (B, G); where there are fewer, all are taken.
        k_max: Upper bound of ``k``, known without waiting for the device.

    Returns:
        The selected candidates, bool, (B, G, N).
    """
    scores = scores.masked_fill(~valid, float("-inf"))
    threshold = scores.topk(k_max, dim=-1).values.gather(-1, k.unsqueeze(-1) - 1)
    return valid & (scores >= threshold)


def select_inside(scores: Tensor, inside: Tensor, valid: Tensor, k: Tensor, k_max: int) -> Tensor:
    """Take the anchors within the object alone, of highest score, and as `select_topk` where there is none.

    An anchor outside the object cannot be regressed well by a head that predicts distances from 0. What is nearer in
    both axes than an anchor inside is inside as well, so that the candidates of `window_candidates` hold all that win.

    Args:
        scores: Score of each candidate, in (0, 1], (B, G, N).
        inside: Candidates within the object, bool, (B, G, N).
        valid: Candidates that exist and belong to a real object, bool, (B, G, N).
        k: Anchors for each object, long, at least 1, (B, G).
        k_max: Upper bound of ``k``.

    Returns:
        The selected candidates, bool, (B, G, N).
    """
    some = (inside & valid).any(-1, keepdim=True)
    return select_topk(scores, inside, valid & (inside | ~some), k, k_max)


SELECTORS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]] = {
    "topk": select_topk,
    "inside": select_inside,
}
