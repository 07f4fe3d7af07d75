"""Saliency consistency (SC): two views of one image must point at the same tissue. Relatives: SEAM, VAC, CGC.

Letters: B images, h w map cells, q the h w cells of the view compared in. Views are x_i(q) = x(A_i q), A_i a
3x3 affine in normalised coordinates (x right, y down, -1 and 1 at the image's edges).
"""

from typing import Literal, get_args

import torch
from torch import Tensor

ConsistencyKind = Literal["mse", "l1", "cosine"]
MIN_OVERLAP = 0.25  # of the cells in the field of view; less says too little about the pair
MIN_INSIDE = 0.5  # of the source's bilinear weight that must lie in its field of view
_EPS = 1e-4


def consistency(
    map1_Bhw: Tensor,
    map2_Bhw: Tensor,
    fov1_Bhw: Tensor,
    fov2_Bhw: Tensor,
    affine1_B33: Tensor,
    affine2_B33: Tensor,
    *,
    kind: ConsistencyKind = "mse",
    include_B: Tensor,
) -> tuple[Tensor, Tensor]:
    """Summed distance of the maps, both directions averaged, and the number of samples covered.

    Maps are saliency maps in [0, 1]. A sample whose overlap is below 25 % in either direction is left out.
    """
    if kind not in get_args(ConsistencyKind):
        raise ValueError(f"consistency kind {kind!r} is unknown: choose one of {get_args(ConsistencyKind)}")
    to_2 = invert_affine(affine1_B33) @ affine2_B33
    to_1 = invert_affine(affine2_B33) @ affine1_B33
    in_2_B, enough_2_B = _one_way(map1_Bhw, fov1_Bhw, map2_Bhw, fov2_Bhw, to_2, kind)
    in_1_B, enough_1_B = _one_way(map2_Bhw, fov2_Bhw, map1_Bhw, fov1_Bhw, to_1, kind)
    covered_B = include_B & enough_1_B & enough_2_B
    return ((in_1_B + in_2_B) / 2).where(covered_B, 0.0).sum(), covered_B.sum()


def invert_affine(affine_B33: Tensor) -> Tensor:
    """The inverse of [[a b c] [d e f] [0 0 1]] in closed form."""
    a, b, c, d, e, f = affine_B33[:, :2].flatten(1).unbind(1)
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    determinant = a * e - b * d
    rows = (e, -b, b * f - e * c, -d, a, d * c - a * f, zero, zero, determinant * one)
    return torch.stack(rows, 1).reshape(-1, 3, 3) / determinant[:, None, None]


def _one_way(
    source_Bhw: Tensor,
    source_fov_Bhw: Tensor,
    target_Bhw: Tensor,
    target_fov_Bhw: Tensor,
    target_to_source_B33: Tensor,
    kind: ConsistencyKind,
) -> tuple[Tensor, Tensor]:
    """Distance (B,) of the warped source to the target in their overlap, and whether that is enough."""
    rows_Bqh, columns_Bqw = bilinear_weights(target_to_source_B33, source_Bhw)
    inside_Bhw = source_fov_Bhw.to(source_Bhw.dtype)
    weight_Bq = _warp(inside_Bhw, rows_Bqh, columns_Bqw)
    moved_Bq = _warp(source_Bhw * inside_Bhw, rows_Bqh, columns_Bqw) / weight_Bq.clamp_min(MIN_INSIDE)
    target_fov_Bq = target_fov_Bhw.flatten(1)
    overlap_Bq = (weight_Bq >= MIN_INSIDE) & target_fov_Bq
    enough_B = overlap_Bq.sum(1) >= MIN_OVERLAP * target_fov_Bq.sum(1).clamp_min(1)
    return _distance(moved_Bq, target_Bhw.flatten(1), overlap_Bq.to(moved_Bq.dtype), kind), enough_B


def bilinear_weights(target_to_source_B33: Tensor, map_Bhw: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of source rows (B, q, h) and columns (B, q, w) at each target cell; cells outside weigh 0.

    Two small dense factors, not ``grid_sample``: its gradient is not deterministic on a GPU.
    """
    height, width = map_Bhw.shape[-2:]
    device, dtype = map_Bhw.device, map_Bhw.dtype
    row_h, column_w = (torch.arange(size, device=device, dtype=dtype) for size in (height, width))
    y_q = ((2 * row_h + 1) / height - 1).repeat_interleave(width)
    x_q = ((2 * column_w + 1) / width - 1).repeat(height)
    a, b, c, d, e, f = target_to_source_B33[:, :2].to(dtype).flatten(1).unsqueeze(-1).unbind(1)
    at_row_Bq = ((d * x_q + e * y_q + f + 1) * height - 1) / 2
    at_column_Bq = ((a * x_q + b * y_q + c + 1) * width - 1) / 2
    return _hat(at_row_Bq, row_h), _hat(at_column_Bq, column_w)


def _hat(position_Bq: Tensor, cell_n: Tensor) -> Tensor:
    return (1 - (position_Bq.unsqueeze(-1) - cell_n).abs()).relu()


def _warp(map_Bhw: Tensor, rows_Bqh: Tensor, columns_Bqw: Tensor) -> Tensor:
    return ((rows_Bqh @ map_Bhw) * columns_Bqw).sum(-1)


def _distance(one_Bq: Tensor, two_Bq: Tensor, weight_Bq: Tensor, kind: ConsistencyKind) -> Tensor:
    """``mse`` of maps standardised in the overlap, mean absolute difference ``l1``, or 1 - ``cosine``."""
    n_B1 = weight_Bq.sum(1, keepdim=True).clamp_min(1)
    if kind == "l1":
        return ((one_Bq - two_Bq).abs() * weight_Bq / n_B1).sum(1)
    if kind == "mse":
        one_Bq, two_Bq = (_standardised(values, weight_Bq, n_B1) for values in (one_Bq, two_Bq))
        return ((one_Bq - two_Bq).square() * weight_Bq / n_B1).sum(1)
    product, power1, power2 = (
        (left * right * weight_Bq / n_B1).sum(1)
        for left, right in ((one_Bq, two_Bq), (one_Bq, one_Bq), (two_Bq, two_Bq))
    )
    return 1 - (product + _EPS) / ((power1 + _EPS) * (power2 + _EPS)).sqrt()


def _standardised(values_Bq: Tensor, weight_Bq: Tensor, n_B1: Tensor) -> Tensor:
    centred = (values_Bq - (values_Bq * weight_Bq).sum(1, keepdim=True) / n_B1) * weight_Bq
    variance = centred.square().sum(1, keepdim=True) / n_B1
    return centred / (variance + _EPS).sqrt()
