"""Sets whose K log-densities of many rows are one matrix product eta T(x), and whose sums are another, R T(x)^T.

Rows are worked on in pieces that the cache holds: features, responsibilities and sums of a piece in one go.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.inference.pieces import in_parallel, piece_rows, slices
from reverie.probability.exponential_family import Components, Sums, sum_tensors

_FLOOR = {torch.float64: -600.0, torch.float32: -70.0}
"""Smallest log responsibility: e^-70 of a row changes no sum of float32 numbers, and e^-600 none of float64."""


class SharedFeatures(Components):
    """A set whose log-densities are linear in features T(x) that all members share.

    Where the features say all there is to know and lose no digits, everything comes from them (`_featured`); otherwise
    from the `_apart` methods, which sets that are always featured need not have.
    """

    @abstractmethod
    def feature_count(self, holes: bool) -> int:
        """Rows that `write` fills; with holes the constants of each column are features too."""

    @abstractmethod
    def write(self, x: Tensor, observed: Tensor | None, out: Tensor) -> None:
        """Features of x (width, m), feature-major, into out (F, m). Missing cells give zeros."""

    @abstractmethod
    def coefficients(self, holes: bool) -> tuple[Tensor, Tensor]:
        """(eta (K, F), constant (K,)) in float64; with holes the constants stand in eta."""

    @abstractmethod
    def read(self, product: Tensor, count: Tensor, holes: bool) -> Sums:
        """Sums without "count" from R T(x)^T (K, F)."""

    def base(self, x: Tensor, observed: Tensor | None) -> Tensor | None:
        """log h(x), (m,) float64 of x (width, m); None when it is 0."""
        return None

    def complete(self, holes: bool) -> bool:
        """Features, base and sums say all there is to know of a row; with `holes`, of rows with missing cells."""
        return True

    def safe(self, dtype: torch.dtype) -> bool:
        """The expansion eta T(x) loses no digits that matter in this type, at the current parameters."""
        return True

    def fused(self, x: Tensor, observed: Tensor | None) -> bool:
        """These rows are computed from their features."""
        return self.complete(observed is not None) and self.safe(x.dtype)

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        return self._log_prob_featured(x, observed) if self.fused(x, observed) else self._log_prob_apart(x, observed)

    def sums(self, x: Tensor, observed: Tensor | None, r: Tensor) -> Sums:
        return self._sums_featured(x, observed, r) if self.fused(x, observed) else self._sums_apart(x, observed, r)

    def expect(
        self,
        x: Tensor,
        observed: Tensor | None,
        log_weights: Tensor,
        weight: Tensor | None = None,
        given: Tensor | None = None,
    ) -> tuple[Sums, Tensor]:
        kind = self._expect_featured if self.fused(x, observed) else self._expect_apart
        return kind(x, observed, log_weights, weight, given)

    def _log_prob_apart(self, x: Tensor, observed: Tensor | None) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has nothing but its features")

    def _sums_apart(self, x: Tensor, observed: Tensor | None, r: Tensor) -> Sums:
        raise NotImplementedError(f"{type(self).__name__} has nothing but its features")

    def _expect_apart(
        self, x: Tensor, observed: Tensor | None, log_weights: Tensor, weight: Tensor | None, given: Tensor | None
    ) -> tuple[Sums, Tensor]:
        return super().expect(x, observed, log_weights, weight, given)

    def _log_prob_featured(self, x: Tensor, observed: Tensor | None) -> Tensor:
        eta, constant = self._coefficients(x.dtype, observed is not None)
        out = torch.empty(len(x), self.size, dtype=torch.float64, device=x.device)

        def work(pieces: Sequence[slice]) -> None:
            buffers = _Buffers(eta, x)
            for rows in pieces:
                features = buffers.features(rows)
                part, seen = _transposed(x, observed, rows)
                self.write(part, seen, features)
                joint = torch.mm(eta, features, out=buffers.joint(rows))
                out[rows] = joint.t()
                base = self.base(part, seen)
                if base is not None:
                    out[rows] += base[:, None]

        in_parallel(work, self._pieces(x, eta), x.device)
        return out.add_(constant)

    def _sums_featured(self, x: Tensor, observed: Tensor | None, r: Tensor) -> Sums:
        holes = observed is not None
        eta, _ = self._coefficients(x.dtype, holes)

        def work(pieces: Sequence[slice]) -> Tensor:
            buffers = _Buffers(eta, x)
            total = torch.zeros(eta.shape, dtype=torch.float64, device=x.device)
            for rows in pieces:
                features = buffers.features(rows)
                self.write(*_transposed(x, observed, rows), features)
                total += torch.mm(r[rows].t().to(x.dtype), features.t(), out=buffers.product)
            return total

        product = sum_tensors(in_parallel(work, self._pieces(x, eta), x.device))
        count = r.sum(0, dtype=torch.float64)
        return {"count": count, **self.read(product, count, holes)}

    def _expect_featured(
        self, x: Tensor, observed: Tensor | None, log_weights: Tensor, weight: Tensor | None, given: Tensor | None
    ) -> tuple[Sums, Tensor]:
        holes = observed is not None
        eta, constant = self._coefficients(x.dtype, holes)
        constant = (constant + log_weights)[:, None].to(x.dtype)
        log_p = torch.empty(len(x), dtype=torch.float64, device=x.device)

        def work(pieces: Sequence[slice]) -> tuple[Tensor, Tensor]:
            buffers = _Buffers(eta, x)
            total = torch.zeros(eta.shape, dtype=torch.float64, device=x.device)
            count = torch.zeros(self.size, dtype=torch.float64, device=x.device)
            for rows in pieces:
                features = buffers.features(rows)
                part, seen = _transposed(x, observed, rows)
                self.write(part, seen, features)
                r = torch.addmm(constant, eta, features, out=buffers.joint(rows))
                if given is not None:
                    r += given[rows].t()
                top = r.amax(0).clamp_min_(-torch.finfo(r.dtype).max)
                # Floored: denormal numbers would be far below rounding and make the products ten times slower.
                r.sub_(top).clamp_min_(_FLOOR[r.dtype]).exp_()
                norm = r.sum(0)
                log_p[rows] = norm.log().add_(top)
                r.mul_(norm.reciprocal_() if weight is None else norm.reciprocal_() * weight[rows])
                base = self.base(part, seen)
                if base is not None:
                    log_p[rows] += base
                total += torch.mm(r, features.t(), out=buffers.product)
                count += r.sum(1)
            return total, count

        parts = in_parallel(work, self._pieces(x, eta), x.device)
        product, count = sum_tensors([p for p, _ in parts]), sum_tensors([c for _, c in parts])
        return {"count": count, **self.read(product, count, holes)}, log_p

    def features(self, x: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
        """T(x) of all rows, feature-major (F, n), and log h(x) (n,) float64, for callers that keep them over many
        passes."""
        out = torch.empty(self.feature_count(observed is not None), len(x), dtype=x.dtype, device=x.device)
        base = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for rows in slices(len(x), piece_rows(len(out), x.dtype)):
            part, seen = _transposed(x, observed, rows)
            self.write(part, seen, out[:, rows])
            found = self.base(part, seen)
            if found is not None:
                base[rows] = found
        return out, base

    def log_prob_of(self, features: Tensor, holes: bool, out: Tensor) -> Tensor:
        """log p(x | k) less log h(x) from kept features, member-major into out (K, n), in their type."""
        eta, constant = self._coefficients(features.dtype, holes)
        return torch.addmm(constant[:, None].to(features.dtype), eta, features, out=out)

    def sums_of(self, features: Tensor, r: Tensor, holes: bool) -> Sums:
        """`sums` from kept features and member-major weights r (K, n)."""
        count = r.sum(1, dtype=torch.float64)
        product = (r.to(features.dtype) @ features.t()).double()
        return {"count": count, **self.read(product, count, holes)}

    def _coefficients(self, dtype: torch.dtype, holes: bool) -> tuple[Tensor, Tensor]:
        eta, constant = self.coefficients(holes)
        return eta.to(dtype), constant

    def _pieces(self, x: Tensor, eta: Tensor) -> list[slice]:
        return slices(len(x), piece_rows(sum(eta.shape), x.dtype))


class _Buffers:
    """One thread's scratch: features (F, m), joint (K, m) and their product (K, F), reused from piece to piece."""

    def __init__(self, eta: Tensor, x: Tensor) -> None:
        self._eta, self._like = eta, x
        self._features: Tensor | None = None
        self._joint: Tensor | None = None
        self.product = torch.empty(eta.shape, dtype=x.dtype, device=x.device)

    def features(self, rows: slice) -> Tensor:
        self._features = self._fit(self._features, self._eta.shape[1], rows.stop - rows.start)
        return self._features

    def joint(self, rows: slice) -> Tensor:
        self._joint = self._fit(self._joint, self._eta.shape[0], rows.stop - rows.start)
        return self._joint

    def _fit(self, buffer: Tensor | None, height: int, rows: int) -> Tensor:
        if buffer is None or buffer.shape[1] != rows:
            return torch.empty(height, rows, dtype=self._like.dtype, device=self._like.device)
        return buffer


def _transposed(x: Tensor, observed: Tensor | None, rows: slice) -> tuple[Tensor, Tensor | None]:
    """The rows of a piece, feature-major; missing cells at 0."""
    if observed is None:
        return x[rows].t(), None
    seen = observed[rows].t().to(x.dtype)
    return torch.nan_to_num(x[rows].t()) * seen, seen
