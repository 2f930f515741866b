"""Exponential families in sets of K: p(x | k) = h(x) exp(eta_k . T(x) - A(eta_k)), over the same columns of model space.

Naive Bayes uses such a set with the class observed, a mixture with the class hidden, a hidden Markov model with a chain
of classes. Where the parameters allow, all K log-densities of many rows come from one matrix product eta T(x), and all
sufficient statistics from another, R T(x)^T.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reverie.probability.pieces import in_parallel, piece_rows, slices
from reverie.rng import Noise

Sums = dict[str, Tensor]
"""Sufficient statistics summed over rows in float64. "count" (K,) is there always: the effective rows of each member."""

Move = Callable[[Sums], Sums]
"""Sums about the old parameters -> the same sums about the new ones."""

EMPTY = 1e-3
"""A member with fewer effective rows than this keeps its parameters instead of dividing by nothing."""

_IMPOSSIBLE = -700.0
"""Logarithm that stands for a probability of zero: exp(-700) is still a number, and -inf times 0 is not."""

_FLOOR = {torch.float64: -600.0, torch.float32: -70.0}
"""Smallest log responsibility: e^-70 of a row changes no sum of float32 numbers, and e^-600 none of float64."""


class Components(nn.Module, ABC):
    """K distributions over `width` columns, as buffers: nothing here has a gradient.

    x is (n, width) and `observed` (n, width) or None for complete rows; what is missing is summed or integrated out.
    """

    size: int
    width: int
    own: tuple[str, ...] = ()
    """Buffers that have one entry per member; others belong to all of them."""
    needs_rows = True
    """A member without rows is a waste; False where it is how superfluous ones go."""

    @abstractmethod
    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """log p(x_observed | k), (n, K) float64."""

    @abstractmethod
    def sums(self, x: Tensor, observed: Tensor | None, r: Tensor) -> Sums:
        """Expected sufficient statistics of rows that belong to the members with weights r (n, K)."""

    @abstractmethod
    def maximise(self, sums: Sums) -> Move:
        """Set the parameters that maximise the expected log-likelihood plus the log prior. Returns the function that
        re-reads older sums from the new parameters: Gaussians keep moments about their means."""

    @abstractmethod
    def implied(self, count: Tensor) -> Sums:
        """The sums of `count` (K,) rows per member that would give the current parameters back (without a prior)."""

    @abstractmethod
    def free_parameters(self) -> int:
        """Numbers that learning sets, for information criteria."""

    @abstractmethod
    def begin(self, rows: Tensor, observed: Tensor | None) -> None:
        """Parameters of all rows together (n, width), for every member: what a member without rows keeps."""

    @abstractmethod
    def draw(self, k: Tensor, noise: Noise) -> Tensor:
        """One row from member k[i] each, (n, width) float64."""

    @abstractmethod
    def means(self) -> Tensor:
        """E[x | k], (K, width) float64; for categories the probabilities of the levels."""

    def split(self, source: int, target: int) -> None:
        """Give member `target` the parameters of `source`, and part the two a little."""
        self._copy(source, target)
        self._part(source, target)

    def _copy(self, source: int, target: int) -> None:
        """Give member `target` the parameters of `source`."""
        for name in self.own:
            buffer = self.get_buffer(name)
            buffer[target] = buffer[source]

    @abstractmethod
    def _part(self, source: int, target: int) -> None:
        """Move two equal members apart, by about half a standard deviation each."""

    def settle(self) -> bool:
        """After the first M-step, from hard assignments: make a new start within each member's own spread, for shapes
        that learn from their last parameters as well as from the rows. False where there is nothing to do."""
        return False

    def correction(self) -> Tensor | float:
        """What the E-step adds to log p(x | k), (K,): with a posterior over the parameters, log-densities are
        expectations."""
        return 0.0

    def predictive(self) -> Components:
        """The members as they are used: p(x | k), parameters integrated out where there is a posterior over them."""
        return self

    def merging(self, sums: Sums, most: int) -> Sums | None:
        """The sums with up to `most` pairs of members merged where that looks better; None where sets do not merge."""
        return None

    def log_prior(self) -> Tensor:
        """Log density of the prior at the current parameters, up to a constant; zero without a prior."""
        return torch.zeros((), dtype=torch.float64)

    def expect(
        self,
        x: Tensor,
        observed: Tensor | None,
        log_weights: Tensor,
        weight: Tensor | None = None,
        given: Tensor | None = None,
    ) -> tuple[Sums, Tensor]:
        """The E-step: sums under r = w p(x | k) / sum, times the row's weight; and log p(x_observed), (n,).

        log_weights: log w, (K,). given: (n, K) log-probabilities added per row (0 and -inf where the member is known).
        """
        joint = self.log_prob(x, observed).add_(log_weights)
        if given is not None:
            joint += given
        log_p = torch.logsumexp(joint, 1)
        r = joint.sub_(log_p[:, None]).exp_()
        return self.sums(x, observed, r if weight is None else r.mul_(weight[:, None])), log_p

    def draw_given(self, x: Tensor, observed: Tensor, k: Tensor, noise: Noise) -> Tensor:
        """x with missing cells drawn from member k[i] given the observed ones; columns are independent given k."""
        return torch.where(observed, x.double(), self.draw(k, noise))

    def mean_given(self, x: Tensor, observed: Tensor, r: Tensor) -> Tensor:
        """x with missing cells at their mean under members weighted by r (n, K)."""
        return torch.where(observed, x.double(), r @ self.means())


class SharedFeatures(Components):
    """A set whose log-densities are linear in features T(x) that all members share."""

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

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
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

    def sums(self, x: Tensor, observed: Tensor | None, r: Tensor) -> Sums:
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

    def expect(
        self,
        x: Tensor,
        observed: Tensor | None,
        log_weights: Tensor,
        weight: Tensor | None = None,
        given: Tensor | None = None,
    ) -> tuple[Sums, Tensor]:
        if not self.safe(x.dtype):
            return Components.expect(self, x, observed, log_weights, weight, given)
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


def stay(sums: Sums) -> Sums:
    """The `Move` of sets whose sums do not depend on their parameters."""
    return sums


def sum_tensors(parts: Sequence[Tensor]) -> Tensor:
    """The sum of a few tensors, in order."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def keep_if_empty(count: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` for members with rows, `old` for those without."""
    alive = count > EMPTY
    return torch.where(alive.view(-1, *[1] * (new.ndim - 1)), new, old)


class Bernoulli(SharedFeatures):
    """Bits: P(x_j = 1 | k) = p_kj, with a Beta(1 + a, 1 + a) prior on each (a = pseudo-count, Laplace smoothing at 1)."""

    own = ("probability",)
    probability: Tensor

    def __init__(self, size: int, width: int, *, smoothing: float = 0.0) -> None:
        super().__init__()
        self.size, self.width, self.smoothing = size, width, smoothing
        self.register_buffer("probability", torch.full((size, width), 0.5, dtype=torch.float64))

    def feature_count(self, holes: bool) -> int:
        return self.width * (2 if holes else 1)

    def write(self, x: Tensor, observed: Tensor | None, out: Tensor) -> None:
        out[: self.width] = x
        if observed is not None:
            out[self.width :] = observed

    def coefficients(self, holes: bool) -> tuple[Tensor, Tensor]:
        on, off = log_probability(self.probability), log_probability(1 - self.probability)
        if holes:
            return torch.cat([on - off, off], 1), torch.zeros(self.size, dtype=torch.float64, device=on.device)
        return on - off, off.sum(1)

    def read(self, product: Tensor, count: Tensor, holes: bool) -> Sums:
        seen = product[:, self.width :] if holes else count[:, None].expand(-1, self.width)
        return {"on": product[:, : self.width].clone(), "seen": seen.clone()}

    def maximise(self, sums: Sums) -> Move:
        a = self.smoothing
        total = sums["seen"] + 2 * a
        new = torch.where(total > 0, (sums["on"] + a) / total.clamp_min(1e-300), self.probability).clamp(0, 1)
        self.probability.copy_(keep_if_empty(sums["count"], new, self.probability))
        return stay

    def log_prior(self) -> Tensor:
        p = self.probability
        return self.smoothing * (log_probability(p) + log_probability(1 - p)).sum()

    def _part(self, source: int, target: int) -> None:
        _part_probabilities(self.probability, source, target)

    def implied(self, count: Tensor) -> Sums:
        seen = count[:, None].expand(-1, self.width).clone()
        return {"count": count, "on": seen * self.probability, "seen": seen}

    def free_parameters(self) -> int:
        return self.size * self.width

    def begin(self, rows: Tensor, observed: Tensor | None) -> None:
        on, seen = _totals(rows, observed)
        self.probability.copy_(((on + 0.5) / (seen + 1)).expand_as(self.probability))

    def draw(self, k: Tensor, noise: Noise) -> Tensor:
        return noise.bernoulli(self.probability[k])

    def means(self) -> Tensor:
        return self.probability


class Poisson(SharedFeatures):
    """Counts: P(x_j | k) = rate^x e^-rate / x!, with a Gamma prior that adds `smoothing` rows of the overall rate."""

    own = ("rate",)
    rate: Tensor
    overall: Tensor

    def __init__(self, size: int, width: int, *, smoothing: float = 0.0) -> None:
        super().__init__()
        self.size, self.width, self.smoothing = size, width, smoothing
        self.register_buffer("rate", torch.ones(size, width, dtype=torch.float64))
        self.register_buffer("overall", torch.ones(width, dtype=torch.float64))

    def feature_count(self, holes: bool) -> int:
        return self.width * (2 if holes else 1)

    def write(self, x: Tensor, observed: Tensor | None, out: Tensor) -> None:
        out[: self.width] = x
        if observed is not None:
            out[self.width :] = observed

    def coefficients(self, holes: bool) -> tuple[Tensor, Tensor]:
        log_rate = log_probability(self.rate)
        if holes:
            return torch.cat([log_rate, -self.rate], 1), torch.zeros(self.size).to(log_rate)
        return log_rate, -self.rate.sum(1)

    def base(self, x: Tensor, observed: Tensor | None) -> Tensor | None:
        return -torch.lgamma(x.double() + 1).sum(0)

    def read(self, product: Tensor, count: Tensor, holes: bool) -> Sums:
        seen = product[:, self.width :] if holes else count[:, None].expand(-1, self.width)
        return {"total": product[:, : self.width].clone(), "seen": seen.clone()}

    def maximise(self, sums: Sums) -> Move:
        a = self.smoothing
        seen = sums["seen"] + a
        new = torch.where(seen > 0, (sums["total"] + a * self.overall) / seen.clamp_min(1e-300), self.rate)
        self.rate.copy_(keep_if_empty(sums["count"], new, self.rate))
        return stay

    def log_prior(self) -> Tensor:
        return self.smoothing * (self.overall * log_probability(self.rate) - self.rate).sum()

    def _part(self, source: int, target: int) -> None:
        self.rate[source] *= 0.8
        self.rate[target] *= 1.25

    def implied(self, count: Tensor) -> Sums:
        seen = count[:, None].expand(-1, self.width).clone()
        return {"count": count, "total": seen * self.rate, "seen": seen}

    def free_parameters(self) -> int:
        return self.size * self.width

    def begin(self, rows: Tensor, observed: Tensor | None) -> None:
        total, seen = _totals(rows, observed)
        self.overall.copy_((total + 0.5) / (seen + 1))
        self.rate.copy_(self.overall.expand_as(self.rate))

    def draw(self, k: Tensor, noise: Noise) -> Tensor:
        """By inverting the distribution function, so that a row's draw depends on its own uniforms only."""
        rate = self.rate[k]
        u = noise.uniform(self.width).double()
        out = torch.zeros_like(rate)
        term = torch.exp(-rate)
        below = term.clone()
        most = int(torch.ceil(rate.max() + 12 * rate.max().sqrt() + 30)) if rate.numel() else 0
        if most > 2000:  # a sum of so many terms is slow, and exp(-rate) vanishes: the normal quantile is as good
            wide = rate > 500
            normal = torch.special.ndtri(u.clamp(1e-16, 1 - 1e-16))
            # Cornish-Fisher to second order: error O(1 / rate) in the count.
            approximate = torch.floor(rate + normal * rate.sqrt() + (normal.square() - 1) / 6 + 0.5).clamp_min(0)
            out, below = torch.where(wide, approximate, out), torch.where(wide, torch.ones_like(below), below)
            most = 800
        for value in range(1, most + 1):
            more = u >= below
            if not bool(more.any()):
                break
            out += more
            term = term * rate / value
            below = below + term
        return out

    def means(self) -> Tensor:
        return self.rate


class Categorical(SharedFeatures):
    """Fields of one-hot columns: P(level l of field j | k), each with a Dirichlet(1 + a) prior (a = pseudo-count)."""

    own = ("probability",)
    probability: Tensor
    field: Tensor

    def __init__(self, size: int, widths: Sequence[int], *, smoothing: float = 0.0) -> None:
        super().__init__()
        self.size, self.width, self.smoothing = size, sum(widths), smoothing
        self.widths = tuple(widths)
        levels = torch.tensor(self.widths, dtype=torch.float64)
        field = torch.repeat_interleave(torch.arange(len(widths)), levels.long())
        self.register_buffer("field", field, persistent=False)
        self.register_buffer("probability", (1 / levels[field]).expand(size, -1).clone())

    def feature_count(self, holes: bool) -> int:
        return self.width

    def write(self, x: Tensor, observed: Tensor | None, out: Tensor) -> None:
        out.copy_(x)

    def coefficients(self, holes: bool) -> tuple[Tensor, Tensor]:
        # A missing field has no 1 among its columns and drops out by itself.
        zero = torch.zeros(self.size, dtype=torch.float64, device=self.probability.device)
        return log_probability(self.probability), zero

    def read(self, product: Tensor, count: Tensor, holes: bool) -> Sums:
        return {"levels": product.clone()}

    def maximise(self, sums: Sums) -> Move:
        raised = sums["levels"] + self.smoothing
        total = self._per_field(raised)
        new = torch.where(total > 0, raised / total.clamp_min(1e-300), self.probability)
        self.probability.copy_(keep_if_empty(sums["count"], new, self.probability))
        return stay

    def _per_field(self, values: Tensor) -> Tensor:
        """The sum over each column's field, (K, width)."""
        totals = torch.zeros(values.shape[0], len(self.widths), dtype=values.dtype, device=values.device)
        return totals.index_add_(1, self.field, values)[:, self.field]

    def log_prior(self) -> Tensor:
        return self.smoothing * log_probability(self.probability).sum()

    def _part(self, source: int, target: int) -> None:
        _part_probabilities(self.probability, source, target)
        self.probability.div_(self._per_field(self.probability))

    def implied(self, count: Tensor) -> Sums:
        return {"count": count, "levels": count[:, None] * self.probability}

    def free_parameters(self) -> int:
        return self.size * (self.width - len(self.widths))

    def begin(self, rows: Tensor, observed: Tensor | None) -> None:
        on, _ = _totals(rows, observed)
        raised = (on + 0.5)[None]
        self.probability.copy_((raised / self._per_field(raised)).expand_as(self.probability))

    def draw(self, k: Tensor, noise: Noise) -> Tensor:
        u = noise.uniform(len(self.widths)).double()
        chosen = self.probability[k]
        out = torch.zeros_like(chosen)
        for number, (start, width) in enumerate(zip(self._starts(), self.widths, strict=True)):
            cumulative = chosen[:, start : start + width].cumsum(1)
            level = (cumulative <= u[:, number, None] * cumulative[:, -1:]).sum(1).clamp_(max=width - 1)
            out[torch.arange(len(k), device=k.device), start + level] = 1.0
        return out

    def _starts(self) -> list[int]:
        return [sum(self.widths[:number]) for number in range(len(self.widths))]

    def means(self) -> Tensor:
        return self.probability


class Mixed(SharedFeatures):
    """Several sets side by side, each over columns of its own, independent given k: tables of mixed columns."""

    def __init__(self, parts: Sequence[tuple[Tensor, Components]]) -> None:
        super().__init__()
        self.parts = nn.ModuleList([part for _, part in parts])
        self.columns = [columns for columns, _ in parts]
        self.size = parts[0][1].size
        self.width = sum(len(columns) for columns, _ in parts)
        self._all_shared = all(isinstance(part, SharedFeatures) for _, part in parts)

    def _pairs(self) -> list[tuple[Tensor, Any]]:
        return list(zip(self.columns, self.parts, strict=True))

    def feature_count(self, holes: bool) -> int:
        return sum(part.feature_count(holes) for _, part in self._pairs())

    def write(self, x: Tensor, observed: Tensor | None, out: Tensor) -> None:
        start = 0
        for columns, part in self._pairs():
            stop = start + part.feature_count(observed is not None)
            part.write(x[columns], None if observed is None else observed[columns], out[start:stop])
            start = stop

    def coefficients(self, holes: bool) -> tuple[Tensor, Tensor]:
        found = [part.coefficients(holes) for _, part in self._pairs()]
        return torch.cat([eta for eta, _ in found], 1), sum_tensors([constant for _, constant in found])

    def base(self, x: Tensor, observed: Tensor | None) -> Tensor | None:
        found = [part.base(x[c], None if observed is None else observed[c]) for c, part in self._pairs()]
        present = [value for value in found if value is not None]
        return sum_tensors(present) if present else None

    def safe(self, dtype: torch.dtype) -> bool:
        return self._all_shared and all(part.safe(dtype) for _, part in self._pairs())

    def complete(self, holes: bool) -> bool:
        return self._all_shared and all(part.complete(holes) for _, part in self._pairs())

    def _together(self, x: Tensor, observed: Tensor | None) -> bool:
        """All parts may be computed from features side by side."""
        return self.complete(observed is not None) and self.safe(x.dtype)

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        if self._together(x, observed):
            return super().log_prob(x, observed)
        return sum_tensors([part.log_prob(x[:, c], _columns(observed, c)) for c, part in self._pairs()])

    def expect(
        self,
        x: Tensor,
        observed: Tensor | None,
        log_weights: Tensor,
        weight: Tensor | None = None,
        given: Tensor | None = None,
    ) -> tuple[Sums, Tensor]:
        kind = SharedFeatures if self._together(x, observed) else Components
        return kind.expect(self, x, observed, log_weights, weight, given)

    def sums(self, x: Tensor, observed: Tensor | None, r: Tensor) -> Sums:
        if self._together(x, observed):
            return super().sums(x, observed, r)
        out: Sums = {}
        for number, (columns, part) in enumerate(self._pairs()):
            found = part.sums(x[:, columns], _columns(observed, columns), r)
            out["count"] = found.pop("count")
            out |= {f"{number}.{name}": value for name, value in found.items()}
        return out

    def read(self, product: Tensor, count: Tensor, holes: bool) -> Sums:
        out: Sums = {}
        start = 0
        for number, (_, part) in enumerate(self._pairs()):
            stop = start + part.feature_count(holes)
            found = part.read(product[:, start:stop], count, holes)
            out |= {f"{number}.{name}": value for name, value in found.items()}
            start = stop
        return out

    def maximise(self, sums: Sums) -> Move:
        moves = [part.maximise(_own(sums, number)) for number, (_, part) in enumerate(self._pairs())]

        def move(sums: Sums) -> Sums:
            out = dict(sums)
            for number, one in enumerate(moves):
                found = one(_own(sums, number))
                out |= {f"{number}.{name}": value for name, value in found.items() if name != "count"}
            return out

        return move

    def _copy(self, source: int, target: int) -> None:
        for _, part in self._pairs():
            part._copy(source, target)

    def _part(self, source: int, target: int) -> None:
        for _, part in self._pairs():
            part._part(source, target)

    def implied(self, count: Tensor) -> Sums:
        out: Sums = {"count": count}
        for number, (_, part) in enumerate(self._pairs()):
            out |= {f"{number}.{name}": value for name, value in part.implied(count).items() if name != "count"}
        return out

    def log_prior(self) -> Tensor:
        return sum_tensors([part.log_prior() for _, part in self._pairs()])

    def free_parameters(self) -> int:
        return sum(part.free_parameters() for _, part in self._pairs())

    def begin(self, rows: Tensor, observed: Tensor | None) -> None:
        for columns, part in self._pairs():
            part.begin(rows[:, columns], _columns(observed, columns))

    def draw(self, k: Tensor, noise: Noise) -> Tensor:
        out = torch.empty(len(k), self.width, dtype=torch.float64, device=k.device)
        for columns, part in self._pairs():
            out[:, columns] = part.draw(k, noise)
        return out

    def means(self) -> Tensor:
        out = torch.empty(self.size, self.width, dtype=torch.float64, device=next(self.buffers()).device)
        for columns, part in self._pairs():
            out[:, columns] = part.means()
        return out

    def draw_given(self, x: Tensor, observed: Tensor, k: Tensor, noise: Noise) -> Tensor:
        out = x.double().clone()
        for columns, part in self._pairs():
            out[:, columns] = part.draw_given(x[:, columns], observed[:, columns], k, noise)
        return out

    def mean_given(self, x: Tensor, observed: Tensor, r: Tensor) -> Tensor:
        out = x.double().clone()
        for columns, part in self._pairs():
            out[:, columns] = part.mean_given(x[:, columns], observed[:, columns], r)
        return out


def _own(sums: Sums, number: int) -> Sums:
    """The sums of one part of a `Mixed` set."""
    prefix = f"{number}."
    own = {name.removeprefix(prefix): value for name, value in sums.items() if name.startswith(prefix)}
    return {"count": sums["count"], **own}


def _part_probabilities(probability: Tensor, source: int, target: int) -> None:
    """Raise every second probability of one member and lower those of the other by a fifth of their room."""
    room = 0.2 * probability[source] * (1 - probability[source])
    room[::2] *= -1
    probability[source] += room
    probability[target] -= room


def _columns(observed: Tensor | None, columns: Tensor) -> Tensor | None:
    return None if observed is None else observed[:, columns]


def log_probability(probability: Tensor) -> Tensor:
    """Logarithms with a large negative number for zero, which times 0 is still 0."""
    return probability.log().clamp_min(_IMPOSSIBLE)


def _totals(rows: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Column sums over observed cells, and how many there are."""
    if observed is None:
        return rows.double().sum(0), torch.full((rows.shape[1],), float(len(rows)), dtype=torch.float64).to(rows.device)
    return torch.where(observed, rows.double(), 0.0).sum(0), observed.sum(0).double()


LOG_2PI = math.log(2 * math.pi)
