"""Step 1 for oriented boxes: the anchors of each level that a top-k over the whole image could select, at any angle.

An oriented object is the Gaussian N(c, R diag(w^2/4, h^2/4) R^T), R the rotation by its angle; a receptive field is
isotropic. So `kl_score` holds for oriented objects with the offset along the object's own axes, (u, v) = R^T (c - p),
in place of (dx, dy). The Wasserstein distance does not depend on the angle: `window_candidates` holds all for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .candidates import ROOM, Candidates, GridShapes, per_level
from .distance import EPS


class _Objects(NamedTuple):
    """Oriented objects, and the quadratic form q by which their score falls on one level; each (B, G, 1, ...)."""

    x: Tensor
    y: Tensor
    cos: Tensor
    sin: Tensor
    w: Tensor
    h: Tensor
    slope: Tensor  # how far the least q moves down from a column to the next, px per px

    @classmethod
    def of(cls, boxes: Tensor) -> _Objects:
        x, y, w, h, angle = boxes.unsqueeze(-1).unbind(2)
        cos, sin, w, h = torch.cos(angle), torch.sin(angle), w + EPS, h + EPS
        slope = cos * sin * (1 / w**2 - 1 / h**2) / ((sin / w) ** 2 + (cos / h) ** 2)
        return cls(x, y, cos, sin, w, h, slope)

    def unsqueeze(self) -> _Objects:
        return _Objects(*(value.unsqueeze(-1) for value in self))

    def offset(self, dx: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        """Turn an offset into the object's own axes, px."""
        return dx * self.cos + dy * self.sin, dy * self.cos - dx * self.sin

    def best_y(self, dx: Tensor) -> Tensor:
        """Return where q is least in a column of anchors, px."""
        return self.y + dx * self.slope

    def form(self, dx: Tensor, dy: Tensor) -> Tensor:
        """Return q of an offset."""
        u, v = self.offset(dx, dy)
        return (u / self.w) ** 2 + (v / self.h) ** 2


def rotated_candidates(objects: Tensor, grid_shapes: GridShapes, strides: Sequence[float], k: int) -> Candidates:
    """Take the anchors of every level that a top-k over the whole image could select, equal scores included.

    On one level the score falls with the quadratic form ``q = u^2/w^2 + v^2/h^2``, which rises from the best row of a
    column outwards. Where m columns have a j-th best row that is at least as good as some anchor, m * j anchors are.
    So the j-th best row of a column is needed only if that column is, by its j-th best row, among the first k / j:
    k log k anchors, whatever angle, aspect ratio and border. Here the columns are ordered anew at every power of two:
    the first k by their best row, of these the first k / 2 by their second, of these the first k / 4 by their fourth.
    As in `window_candidates`, `ROOM` is added to k for scores that are equal.

    Args:
        objects: Centre x and y, w, h in px, angle of w's axis in radians, (B, G, 5).
        grid_shapes: Rows and columns of each level, finest first.
        strides: Stride of each level, px.
        k: The largest number of anchors that one stage selects.

    Returns:
        The candidates; their ``dx`` and ``dy`` are the offsets along the object's own axes, u and v.
    """
    which = _Objects.of(objects)
    size = k + ROOM
    most_columns, most_rows = (min(size, max(shape[axis] for shape in grid_shapes)) for axis in (1, 0))
    pairs = zip(grid_shapes, strides)
    column = torch.stack([_best_columns(which, *shape, step, most_columns) for shape, step in pairs], 2)  # (B, G, L, C)
    first = [0]
    for height, width in grid_shapes[:-1]:
        first.append(first[-1] + height * width)
    numbers = (strides, [h for h, _ in grid_shapes], [w for _, w in grid_shapes], first)
    stride, rows, columns, start = (per_level(values, objects)[:, None] for values in numbers)  # each (L, 1)

    which, column = which.unsqueeze(), column.to(objects.dtype)
    dx = which.x - (column + 0.5) * stride
    walk = torch.stack((column, *_walk(which.best_y(dx) / stride - 0.5, rows)), -1)  # (B, G, L, C, 4)
    places: list[Tensor] = []  # column and row of the candidates, (2, B, G, L, ...)
    rank: list[Tensor] = []
    ranks: list[int] = []
    begin = 1
    while begin <= most_rows:
        end = min(2 * begin, most_rows + 1)
        column, nearest, side, here = walk.unbind(-1)
        j = torch.arange(begin, end + 1, device=column.device)
        row = _nearest_row(nearest, side, here, rows, j)  # (B, G, L, columns, end - begin + 1)
        row, following = row[..., :-1], row[..., -1]
        places.append(torch.stack((column.unsqueeze(-1).expand_as(row), row)).flatten(-2))
        by_column = (torch.arange(row.shape[-2], device=column.device) + 1) * begin
        rank.append(by_column.unsqueeze(-1).expand(row.shape[-2:]).flatten())
        ranks += [(c + 1) * begin for c in range(row.shape[-2]) for _ in range(row.shape[-1])]
        begin = end
        if begin <= most_rows:
            q = which.form(which.x - (column + 0.5) * stride, which.y - (following + 0.5) * stride)
            q = q.masked_fill((column >= columns) | (begin > rows), float("inf"))
            best = q.topk(min(size // begin, q.shape[3]), 3, largest=False).indices
            walk = walk.gather(3, best.unsqueeze(-1).expand(*best.shape, 4))

    column, row = torch.cat(places, -1)  # each (B, G, L, P)
    u, v = which.offset(which.x - (column + 0.5) * stride, which.y - (row + 0.5) * stride)
    valid = (column < columns) & (row >= 0) & (row < rows)
    anchor = (start + row * columns + column).long().masked_fill(~valid, 0)
    return Candidates(anchor, valid, u, v, torch.cat(rank), sorted(ranks))


def _walk(middle: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the existing row nearest to a place, the side of the next, -1 or 1, and how many rows lie there."""
    nearest = middle.round().minimum(rows - 1).clamp(min=0)
    side = torch.where(middle < nearest, -1.0, 1.0)
    return nearest, side, torch.where(side > 0, rows - 1 - nearest, nearest)


def _nearest_row(nearest: Tensor, side: Tensor, here: Tensor, rows: Tensor, j: Tensor) -> Tensor:
    """Return the j-th row of each column's `_walk`, j from 1; beyond the number of rows, places outside the grid."""
    here, rows = here.unsqueeze(-1), rows.unsqueeze(-1)
    there = rows - 1 - here
    step = torch.where(j % 2 == 0, j // 2, -(j // 2))  # in turn on this side and on the other
    step = torch.where(j > 2 * here + 1, here + 1 - j, step)  # until one of them has come to an end
    step = torch.where(j > 2 * there + 2, j - there - 1, step)
    return nearest.unsqueeze(-1) + side.unsqueeze(-1) * step


def _best_columns(which: _Objects, rows: int, columns: int, stride: float, most: int) -> Tensor:
    """Return the columns of a level by their best row, (B, G, most); where there are fewer, others follow."""
    dx = which.x - (torch.arange(columns, device=which.x.device) + 0.5) * stride  # (B, G, columns)
    row = (which.best_y(dx) / stride - 0.5).round().clamp(0, rows - 1)
    best = which.form(dx, which.y - (row + 0.5) * stride).topk(min(most, columns), largest=False).indices
    return pad(best, (0, most - best.shape[-1]), value=columns)
