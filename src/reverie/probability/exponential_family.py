"""Exponential families in sets of K: p(x | k) = h(x) exp(eta_k . T(x) - A(eta_k)), over the same columns of model space.

Naive Bayes uses such a set with the class observed, a mixture with the class hidden, a hidden Markov model with a chain
of classes. Where the parameters allow, all K log-densities of many rows come from one matrix product eta T(x), and all
sufficient statistics from another, R T(x)^T.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from reverie.rng import Noise

Sums = dict[str, Tensor]
"""Sufficient statistics summed over rows in float64. "count" (K,) is there always: the effective rows of each member."""

Move = Callable[[Sums], Sums]
"""Sums about the old parameters -> the same sums about the new ones."""

EMPTY = 1e-3
"""A member with fewer effective rows than this keeps its parameters instead of dividing by nothing."""

LOG_2PI = math.log(2 * math.pi)

_IMPOSSIBLE = -700.0
"""Logarithm that stands for a probability of zero: exp(-700) is still a number, and -inf times 0 is not."""


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


def log_probability(probability: Tensor) -> Tensor:
    """Logarithms with a large negative number for zero, which times 0 is still 0."""
    return probability.log().clamp_min(_IMPOSSIBLE)


def totals(rows: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Column sums over observed cells, and how many there are."""
    if observed is None:
        return rows.double().sum(0), torch.full((rows.shape[1],), float(len(rows)), dtype=torch.float64).to(rows.device)
    return torch.where(observed, rows.double(), 0.0).sum(0), observed.sum(0).double()
