"""Step 1, candidates: the few anchors of each level that a top-k over the whole image could select."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

GridShapes = Sequence[tuple[int, int]]

ROOM = 8  # candidates of one axis beyond k


class Candidates(NamedTuple):
    """Candidate anchors of every object; the last two dimensions are level and candidate.

    Attributes:
        anchor: Position of the candidate in the flattened anchors of all levels, long, (B, G, L, P).
        valid: False where there is no such anchor, bool, (B, G, L, P).
        dx: Object centre minus anchor point, px, (B, G, L, P).
        dy: The same for the vertical axis.
        rank: Anchors of that level which are known to be at least as near as the candidate, itself among them, (P,).
        ranks: The same numbers, rising, known without waiting for the device.
    """

    anchor: Tensor
    valid: Tensor
    dx: Tensor
    dy: Tensor
    rank: Tensor
    ranks: Sequence[int]

    def nearest(self, k: int) -> Candidates:
        """Return those that are enough for a smaller k."""
        count = bisect_right(self.ranks, k + ROOM)
        if count == len(self.ranks):
            return self
        few = self.rank.argsort(stable=True)[:count]
        anchor, valid, dx, dy, rank = (value.index_select(-1, few) for value in self[:5])
        return Candidates(anchor, valid, dx, dy, rank, self.ranks[:count])


def per_level(values: Sequence[float], like: Tensor) -> Tensor:
    """Return one number per level as an (L,) tensor, filled on the device: no copy from the host."""
    return torch.stack([like.new_full((), value) for value in values])


def window_candidates(centers: Tensor, grid_shapes: GridShapes, strides: Sequence[float], k: int) -> Candidates:
    """Take the anchors of every level that a top-k over the whole image could select, equal scores included.

    On one level all receptive fields have the same size, so the score falls with ``|dx|`` and ``|dy|`` separately. The
    anchor in the i-th nearest column and the j-th nearest row is beaten by all i * j that are not farther in either,
    but for those at equal distance, itself among them: four at most, left or right, above or below. With ``i * j - 4``
    of k or more it can neither be among the best k nor equal one of them, so only a star of anchors around the object
    is left: ``i * j <= k + 3``, and `ROOM` instead of 3 for scores that rounding makes equal, as beside a sliver of
    1000:1. Memory is O(objects x levels x k log k) instead of O(objects x anchors), and never more than the finest
    level on every level, however large k is.

    Args:
        centers: Object centres (x, y), px, (B, G, 2).
        grid_shapes: Rows and columns of each level, finest first.
        strides: Stride of each level, px.
        k: The largest number of anchors that one stage selects.

    Returns:
        The candidates.
    """
    height, width = ([shape[axis] for shape in grid_shapes] for axis in (0, 1))
    down, across = (torch.arange(min(k + ROOM, max(sides)), device=centers.device) for sides in (height, width))
    stride = per_level(strides, centers)
    cells = centers.unsqueeze(-1) / stride  # (B, G, 2, L), in cells of each level
    columns, col_valid, dx = _nearest(cells[:, :, 0], centers[..., :1], width, stride, across)
    rows, row_valid, dy = _nearest(cells[:, :, 1], centers[..., 1:], height, stride, down)
    ranks = sorted(i * j for i in range(1, len(down) + 1) for j in range(1, min(len(across), (k + ROOM) // i) + 1))
    rank, star = ((down + 1)[:, None] * (across + 1)).flatten().sort(stable=True)
    rank, star = rank[: len(ranks)], star[: len(ranks)]
    row, column = (axis.expand(*rows.shape[:-1], -1) for axis in (star // len(across), star % len(across)))

    first = [0]
    for h, w in grid_shapes[:-1]:
        first.append(first[-1] + h * w)
    start = per_level(first, rows)[:, None]
    anchor = start + rows.gather(-1, row) * per_level(width, rows)[:, None] + columns.gather(-1, column)
    valid = row_valid.gather(-1, row) & col_valid.gather(-1, column)  # (B, G, L, P)
    return Candidates(anchor.masked_fill(~valid, 0), valid, dx.gather(-1, column), dy.gather(-1, row), rank, ranks)


def _nearest(
    cells: Tensor, center: Tensor, lengths: Sequence[int], stride: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return number, validity and distance of the nearest cells on one axis, in order, (B, G, L, places)."""
    length = per_level(lengths, offset)  # (L,)
    size = offset.shape[0]
    start = (cells - size / 2).round().long()
    start = torch.minimum(start, length - size).clamp_(min=0)  # slide the window into the grid
    cell = start.unsqueeze(-1) + offset
    valid = cell < length[:, None]
    distance = center.unsqueeze(-1) - (cell + 0.5) * stride[:, None]
    order = distance.abs().masked_fill(~valid, float("inf")).argsort(dim=-1)
    return cell.gather(-1, order), valid.gather(-1, order), distance.gather(-1, order)


CANDIDATES: dict[str, Callable[[Tensor, GridShapes, Sequence[float], int], Candidates]] = {"window": window_candidates}
