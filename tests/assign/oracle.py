"""The assignment as the paper writes it: dense, slow, one object and one anchor at a time; no code of the package.

`reference_assign` goes further back: it keeps receptive fields as boxes, as the reference implementation does.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-6


def anchors(grid_shapes, strides):
    """Anchor points (A, 2) and level of each anchor."""
    points, levels = [], []
    for level, ((rows, columns), stride) in enumerate(zip(grid_shapes, strides)):
        for row in range(rows):
            for column in range(columns):
                points.append(((column + 0.5) * stride, (row + 0.5) * stride))
                levels.append(level)
    return torch.tensor(points, dtype=torch.float32), torch.tensor(levels)


def kl(cx, cy, w, h, px, py, r):
    w, h, r = w + EPS, h + EPS, r + EPS
    terms = r**2 / w**2 + r**2 / h**2 + 4 * (cx - px) ** 2 / w**2 + 4 * (cy - py) ** 2 / h**2
    return (terms + torch.log(w**2 / r**2) + torch.log(h**2 / r**2) - 2) / 2


def wd(cx, cy, w, h, px, py, r):
    w, h, r = w + EPS, h + EPS, r + EPS
    return (cx - px) ** 2 + (cy - py) ** 2 + EPS + ((w - r) ** 2 + (h - r) ** 2) / 4


def scores(box: Tensor, points: Tensor, r: Tensor, distance: str) -> Tensor:
    cx, cy, w, h = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]
    return 1 / (1 + {"kl": kl, "wd": wd}[distance](cx, cy, w, h, points[:, 0], points[:, 1], r))


def stage(boxes, mask, points, r, k, distance, conflict):
    wanted_by = [[] for _ in points]  # per anchor: (object, its score)
    for i, box in enumerate(boxes):
        if not mask[i]:
            continue
        score = scores(box, points, r, distance)
        best = sorted(score.tolist(), reverse=True)[: k[i]]
        for a, value in enumerate(score.tolist()):
            if value in best:
                wanted_by[a].append((i, value))
    return [winner(claims, boxes, conflict) for claims in wanted_by]


def winner(claims, boxes, conflict):
    if not claims:
        return -1
    if conflict == "last":
        return max(i for i, _ in claims)

    def key(claim):
        i, score = claim
        x1, y1, x2, y2 = boxes[i].tolist()
        area = float((boxes[i][2] - boxes[i][0]) * (boxes[i][3] - boxes[i][1]))
        return (-score, area, x1, y1, x2, y2, i)

    return min(claims, key=key)[0]


def literal_assign(boxes, mask, grid_shapes, strides, rf_sizes, topk, decay, distance, conflict, topk_max=0) -> Tensor:
    """One image: boxes (G, 4), mask (G,) -> (A,)."""
    points, levels = anchors(grid_shapes, strides)
    r = torch.tensor(rf_sizes, dtype=torch.float32)[levels]
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt().tolist()
    k1 = [max(topk[0], min(round(topk[0] * side / 8), topk_max)) for side in sides]
    first = stage(boxes, mask, points, r, k1, distance, conflict)
    second = stage(boxes, mask, points, r * decay, [topk[1]] * len(boxes), distance, conflict)
    return torch.tensor([a if a >= 0 else b for a, b in zip(first, second)])


def reference_assign(boxes: Tensor, grid_shapes, strides, rf_sizes, topk=(3, 1), decay=0.9) -> Tensor:
    """One image by the dense matrix of the reference implementation; the last index wins."""
    return dense_assign(boxes, *reference_fields(grid_shapes, strides, rf_sizes, decay), topk)


def reference_fields(grid_shapes, strides, rf_sizes, decay=0.9) -> tuple[Tensor, Tensor]:
    """Receptive fields of both stages as boxes, each (A, 4)."""
    points, levels = anchors(grid_shapes, strides)
    half = torch.tensor(rf_sizes, dtype=torch.float32)[levels][:, None] / 2
    fields = torch.cat((points - half, points + half), 1)
    middle, sides = (fields[:, 2:] + fields[:, :2]) / 2, fields[:, 2:] - fields[:, :2]
    return fields, torch.cat((middle - sides * decay / 2, middle + sides * decay / 2), 1)


def dense_assign(boxes: Tensor, fields: Tensor, shrunk: Tensor, topk=(3, 1)) -> Tensor:
    """Score every object against every field, stage by stage."""
    result = torch.zeros(len(fields), dtype=torch.long)
    for stage_fields, k in ((fields, topk[0]), (shrunk, topk[1])):
        matrix = torch.stack([_box_score(box, stage_fields) for box in boxes])
        assigned = torch.zeros_like(result)
        for i, best in enumerate(matrix.topk(k, dim=1).values):
            for value in best:
                assigned[matrix[i] == value] = i + 1
        result = torch.where(result > 0, result, assigned)
    return result - 1


def _box_score(box: Tensor, fields: Tensor) -> Tensor:
    offset = (box[:2] + box[2:]) / 2 - (fields[:, :2] + fields[:, 2:]) / 2
    (w1, h1), (w2, h2) = box[2:] - box[:2] + EPS, (fields[:, 2:] - fields[:, :2] + EPS).T
    terms = w2**2 / w1**2 + h2**2 / h1**2 + 4 * offset[:, 0] ** 2 / w1**2 + 4 * offset[:, 1] ** 2 / h1**2
    return 1 / (1 + (terms + torch.log(w1**2 / w2**2) + torch.log(h1**2 / h2**2) - 2) / 2)
