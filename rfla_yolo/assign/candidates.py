"""Step 1, candidates: the few anchors of each level that a top-k over the whole image could select."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

GridShapes = Sequence[tuple[int, int]]


class Candidates(NamedTuple):
    """Candidate anchors of every object; trailing dimensions are level, row and column of the window.

    Attributes:
        anchor: Position of the candidate in the flattened anchors of all levels, long, (B, G, L, R, C).
        valid: False where the window reaches beyond the grid, bool, (B, G, L, R, C).
        dx: Object centre minus anchor point, px, broadcasts to (B, G, L, R, C).
        dy: The same for the vertical axis.
    """

    anchor: Tensor
    valid: Tensor
    dx: Tensor
    dy: Tensor


def per_level(values: Sequence[float], like: Tensor) -> Tensor:
    """Return one number per level as an (L,) tensor, filled on the device: no copy from the host."""
    return torch.stack([like.new_full((), value) for value in values])


def window_candidates(centers: Tensor, grid_shapes: GridShapes, strides: Sequence[float], k: int) -> Candidates:
    """Take the 2k nearest columns by 2k nearest rows of every level.

    On one level all receptive fields have the same size, so the score falls with ``|dx|`` and ``|dy|`` separately: the
    anchor in the (i+1)-th nearest column is beaten by at least ``i - 1`` anchors of its own row (all nearer columns but
    the mirrored one). With 2k columns and rows everything that a top-k over the image can select is inside, equal
    scores included, and memory is O(objects x levels x k^2) instead of O(objects x anchors).

    Args:
        centers: Object centres (x, y), px, (B, G, 2).
        grid_shapes: Rows and columns of each level, finest first.
        strides: Stride of each level, px.
        k: The largest number of anchors that one stage selects.

    Returns:
        The candidates, R = C = 2k.
    """
    size = 2 * k
    offset = torch.arange(size, device=centers.device)
    stride = per_level(strides, centers)
    cells = centers.unsqueeze(-1) / stride  # (B, G, 2, L), in cells of each level
    columns, col_valid, dx = _nearest(cells[:, :, 0], centers[..., :1], [w for _, w in grid_shapes], stride, offset)
    rows, row_valid, dy = _nearest(cells[:, :, 1], centers[..., 1:], [h for h, _ in grid_shapes], stride, offset)

    first, width = [0], [w for _, w in grid_shapes]
    for h, w in grid_shapes[:-1]:
        first.append(first[-1] + h * w)
    start = per_level(first, rows)[:, None, None]
    anchor = start + rows.unsqueeze(-1) * per_level(width, rows)[:, None, None] + columns.unsqueeze(-2)
    valid = row_valid.unsqueeze(-1) & col_valid.unsqueeze(-2)  # (B, G, L, R, C)
    return Candidates(anchor.masked_fill(~valid, 0), valid, dx.unsqueeze(-2), dy.unsqueeze(-1))


def _nearest(
    cells: Tensor, center: Tensor, lengths: Sequence[int], stride: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return cell number, validity and distance to the object of the nearest cells on one axis, each (B, G, L, 2k)."""
    length = per_level(lengths, offset)  # (L,)
    size = offset.shape[0]
    start = (cells - size / 2).round().long()
    start = torch.minimum(start, length - size).clamp_(min=0)  # slide the window into the grid
    cell = start.unsqueeze(-1) + offset
    point = (cell + 0.5) * stride[:, None]
    return cell, cell < length[:, None], center.unsqueeze(-1) - point


CANDIDATES: dict[str, Callable[[Tensor, GridShapes, Sequence[float], int], Candidates]] = {"window": window_candidates}
