"""Step 2, score: the receptive field distance (RFD) between a receptive field and an object, Section 3.2 of the paper.

Both are Gaussians: a receptive field of side r at (px, py) with sigma = r/2, an object w x h at (cx, cy) with
Sigma = diag(w^2/4, h^2/4). A score is 1 / (1 + distance), in (0, 1], 1 where the two are identical.

The order of the operations is that of the reference implementation: float32 rounding decides what is a tie. Its other
forms, exp(-KL/10) and 1/(10 + KL), rank the anchors as KL does and are left out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

EPS = 1e-6  # added to every side, as the reference does

Distance = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def kl_score(dx: Tensor, dy: Tensor, w: Tensor, h: Tensor, r: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(receptive field || object), the default; invariant to scale.

    KL = 1/2 [r^2/w^2 + r^2/h^2 + 4 dx^2/w^2 + 4 dy^2/h^2 + ln(w^2/r^2) + ln(h^2/r^2) - 2]

    Args:
        dx: Object centre minus anchor point, px; all arguments broadcast against each other.
        dy: The same for the vertical axis, px.
        w: Width of the object, px.
        h: Height of the object, px.
        r: Side of the receptive field, px.

    Returns:
        1 / (1 + KL).

    Example:
        >>> zero, side = torch.zeros(1), torch.full((1,), 8.0)
        >>> kl_score(zero, zero, side, side, side)
        tensor([1.])
    """
    w2, h2, r2 = (w + EPS) ** 2, (h + EPS) ** 2, (r + EPS) ** 2
    kl = r2 / w2 + r2 / h2 + 4 * dx**2 / w2 + 4 * dy**2 / h2 + torch.log(w2 / r2) + torch.log(h2 / r2) - 2
    return 1 / (1 + kl / 2)


def wd_score(dx: Tensor, dy: Tensor, w: Tensor, h: Tensor, r: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance; grows with the square of the scale, unlike KL.

    WD = dx^2 + dy^2 + 1e-6 + ((w - r)^2 + (h - r)^2) / 4

    Args:
        dx: Object centre minus anchor point, px; all arguments broadcast against each other.
        dy: The same for the vertical axis, px.
        w: Width of the object, px.
        h: Height of the object, px.
        r: Side of the receptive field, px.

    Returns:
        1 / (1 + WD).
    """
    w, h, r = w + EPS, h + EPS, r + EPS
    return 1 / (1 + (dx * dx + dy * dy + EPS + ((w - r) ** 2 + (h - r) ** 2) / 4))


DISTANCES: dict[str, Distance] = {"kl": kl_score, "wd": wd_score}
ISOTROPIC = frozenset({"wd"})  # those that do not depend on the angle of an oriented object
