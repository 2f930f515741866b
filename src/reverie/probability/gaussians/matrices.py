"""Factors and inverses of many small symmetric positive definite matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.errors import DataError


def whitening(covariances: Tensor) -> tuple[Tensor, Tensor]:
    """(A, log det) of (K, d, d) matrices: A lower triangular with A^T A the inverse."""
    lower = cholesky(covariances)
    eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
    a = torch.linalg.solve_triangular(lower, eye, upper=False)
    return a, 2 * lower.diagonal(dim1=1, dim2=2).log().sum(1)


def cholesky(matrices: Tensor) -> Tensor:
    """Batched Cholesky factors; only matrices that fail get jitter, ten times more each try."""
    lower: Tensor
    lower, info = torch.linalg.cholesky_ex(matrices)
    jitter = 1e-12
    while bool((info > 0).any()):
        if jitter > 1e-2:
            raise DataError("a covariance is not positive definite: raise floor, or use fewer components")
        scale = matrices.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-300)
        bad = (info > 0).to(matrices.dtype)
        eye = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
        lower, info = torch.linalg.cholesky_ex(matrices + (bad * scale * jitter)[..., None, None] * eye)
        jitter *= 10
    return lower


def symmetric(matrices: Tensor) -> Tensor:
    return 0.5 * (matrices + matrices.transpose(-1, -2))


def spd_inverse(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Inverses and log-determinants of symmetric positive definite (..., m, m).

    Small ones are swept column by column, all at once: LAPACK is called once per matrix, which costs more than they do.
    """
    m = matrices.shape[-1]
    if m > 4:
        lower = torch.linalg.cholesky(matrices)
        return torch.cholesky_inverse(lower), 2 * lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    shape = matrices.shape[:-2]
    a = matrices.reshape(-1, m, m).permute(1, 2, 0).contiguous()
    log_det = torch.zeros(a.shape[2], dtype=a.dtype, device=a.device)
    for j in range(m):
        pivot = a[j, j].clone()
        log_det += pivot.log()
        row = a[j] / pivot
        column = a[:, j].clone()
        a -= column[:, None] * row[None]
        a[j], a[:, j] = row, -column / pivot
        a[j, j] = 1 / pivot
    return a.permute(2, 0, 1).reshape(*shape, m, m), log_det.view(shape)
