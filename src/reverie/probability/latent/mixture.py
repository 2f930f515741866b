"""A mixture of any set of exponential families: p(x) = sum_k w_k p(x | k), its E-step, its start, its conditionals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from reverie.data.space import Batch, Space
from reverie.errors import DataError
from reverie.inference.kmeans import kmeans
from reverie.probability.exponential_family import EMPTY, Components, Move, Sums
from reverie.rng import Noise, generator

_START_ROWS = 20_000
_START_STEPS = 5
_LOST_ROWS = 0.5
"""A member with fewer effective rows is given a new start."""


class Weights(nn.Module, ABC):
    """The law of the hidden member k."""

    @abstractmethod
    def log(self) -> Tensor:
        """What the E-step adds to the log-densities, (K,)."""

    @abstractmethod
    def mean(self) -> Tensor:
        """P(k), (K,), summing to 1."""

    @abstractmethod
    def maximise(self, count: Tensor) -> None:
        """Learn from the members' effective rows (K,)."""

    @abstractmethod
    def log_prior(self) -> Tensor:
        """Log density of the prior (or minus the divergence from it) at the current parameters, up to a constant."""

    def split(self, source: int, target: int) -> None:
        """Both members get half of what they had together."""
        return


class UniformWeights(Weights):
    """P(k) = 1 / K, whatever the data say."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.full((size,), 1 / size, dtype=torch.float64))

    weight: Tensor

    def log(self) -> Tensor:
        return self.weight.log()

    def mean(self) -> Tensor:
        return self.weight

    def maximise(self, count: Tensor) -> None:
        return

    def log_prior(self) -> Tensor:
        return torch.zeros((), dtype=torch.float64)


class Memory(nn.Module):
    """Sums kept with the parameters, so that later rows can be added to them exactly."""

    def __init__(self, like: Sums) -> None:
        super().__init__()
        self.names = list(like)
        for name, value in like.items():
            self.register_buffer(name.replace(".", "_"), torch.zeros_like(value))

    def keep(self, sums: Sums) -> None:
        for name in self.names:
            self.get_buffer(name.replace(".", "_")).copy_(sums[name])

    def sums(self) -> Sums:
        return {name: self.get_buffer(name.replace(".", "_")).clone() for name in self.names}


class PointWeights(Weights):
    """Maximum a posteriori weights under a Dirichlet(1 + a) prior: w_k = (N_k + a) / (N + K a)."""

    weight: Tensor

    def __init__(self, size: int, *, smoothing: float = 0.0) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("weight", torch.full((size,), 1 / size, dtype=torch.float64))

    def log(self) -> Tensor:
        return self.weight.log()

    def mean(self) -> Tensor:
        return self.weight

    def maximise(self, count: Tensor) -> None:
        raised = count.clamp_min(EMPTY) + self.smoothing
        self.weight.copy_(raised / raised.sum())

    def log_prior(self) -> Tensor:
        return self.smoothing * self.weight.log().sum()

    def split(self, source: int, target: int) -> None:
        half = 0.5 * (self.weight[source] + self.weight[target])
        self.weight[source], self.weight[target] = half, half


class Mixture(nn.Module):
    """Weights (K,) over a set of K components. The network of every mixture family, learned by EM."""

    likelihood = "exact"
    light = True
    """Needs little memory beside its input."""
    marginalises = True
    """Without y, `log_prob` sums over the members by itself."""

    def __init__(
        self,
        components: Components,
        weights: Weights,
        dtype: torch.dtype,
        *,
        classes: int = 0,
        restarts: int = 1,
        remembers: bool = False,
    ) -> None:
        super().__init__()
        if classes > components.size:
            raise DataError(
                f"components={components.size}: y has {classes} classes, each a component of its own; ask for at least as many"
            )
        zero = torch.zeros(components.size, dtype=torch.float64)
        self.memory = Memory(components.implied(zero)) if remembers else None
        self.components, self.weights = components, weights
        self.dtype, self.classes, self.restarts = dtype, classes, restarts
        self.code_width = components.size

    # ------------------------------------------------------------------ densities

    def joint(self, x: Tensor, observed: Tensor | None) -> Tensor:
        """log p(x_observed, k), (n, K) float64."""
        return self.components.predictive().log_prob(x, observed).add_(self.weights.mean().log())

    def log_prob(self, x: Tensor, observed: Tensor | None, y: Tensor | None, noise: Noise) -> Tensor:
        """log p(x_observed), or log p(x_observed | k = y) when y is given, (n,)."""
        if y is None:
            return torch.logsumexp(self.joint(x, observed), 1)
        return self._of(y, self.components.predictive().log_prob(x, observed))

    def _of(self, y: Tensor, values: Tensor) -> Tensor:
        return values.gather(1, y.argmax(1, keepdim=True))[:, 0]

    def encode(self, x: Tensor, observed: Tensor | None, y: Tensor | None) -> Tensor:
        """Responsibilities p(k | x_observed), (n, K)."""
        joint = self.joint(x, observed)
        return torch.softmax(joint if y is None else joint + self._given(y), 1)

    def classify(self, x: Tensor, observed: Tensor | None) -> Tensor:
        """log p(y | x_observed) over the classes that some training rows named, (n, classes)."""
        return torch.log_softmax(self.joint(x, observed)[:, : self.classes], 1)

    def limits(self, space: Space) -> dict[str, str]:
        found: dict[str, str] = {}
        if not self.classes:
            reason = "it was trained without y, so its members have no names (encode gives their probabilities)"
            found |= {"predict": reason, "predict_proba": reason}
        tied = [block.name for block in space.blocks if block.rounded]
        if tied:
            found["log_prob"] = (
                f"{tied[0]!r} was given a density as it is, and its values repeat, so that figure would be no "
                "likelihood; fit with numeric='exact'"
            )
        return found

    def class_log_prior(self) -> Tensor:
        """log P(y) of the classes, (classes,)."""
        return torch.log_softmax(self.weights.mean()[: self.classes].log(), 0)

    def _given(self, y: Tensor) -> Tensor:
        """One-hot rows, zero where unknown, -> (n, K): 0 for the member named, -inf for others, all 0 where unknown."""
        given = torch.zeros(len(y), self.components.size, dtype=torch.float64, device=y.device)
        known = y.sum(1) > 0
        wide = torch.full_like(given, -torch.inf)
        wide[:, : y.shape[1]] = y.double().log()
        return torch.where(known[:, None], wide, given)

    # ------------------------------------------------------------------ learning

    def _log_weights(self) -> Tensor:
        return self.weights.log() + self.components.correction()

    def statistics(self, batch: Batch) -> Sums:
        """The E-step on a batch: sums over rows, weighted where rows have weights."""
        weight = None if batch.weight is None else batch.weight.double()
        known = None if batch.y is None else batch.y.sum(1) > 0
        if batch.y is not None and known is not None and bool(known.all()):
            return self._count(batch.x, batch.observed, batch.y.double(), weight)
        given = None if batch.y is None else self._given(batch.y)
        sums, log_p = self.components.expect(batch.x, batch.observed, self._log_weights(), weight, given)
        if weight is None:
            weight = torch.ones_like(log_p)
        hidden = weight.sum() if known is None else weight[~known].sum()
        return {**sums, "log_likelihood": log_p @ weight, "rows": weight.sum(), "hidden": hidden}

    def _count(self, x: Tensor, observed: Tensor | None, y: Tensor, weight: Tensor | None) -> Sums:
        """Nothing hidden: the rows count for their own member, and no density is needed."""
        r = nn.functional.pad(y, (0, self.components.size - y.shape[1]))
        weight = torch.ones_like(r[:, 0]) if weight is None else weight
        zero = torch.zeros((), dtype=torch.float64, device=x.device)
        sums = self.components.sums(x, observed, r * weight[:, None])
        return {**sums, "log_likelihood": zero, "rows": weight.sum(), "hidden": zero}

    def log_likelihood(self, batch: Batch) -> Tensor:
        """log p(x_observed), or log p(x_observed, y) where y is known, (n,)."""
        joint = self.joint(batch.x, batch.observed)
        return torch.logsumexp(joint if batch.y is None else joint + self._given(batch.y), 1)

    def rescue(self, sums: Sums) -> bool:
        """Give each member that has lost its rows half of the heaviest one's. Named classes stay as they are."""
        if not self.components.needs_rows:
            return False
        count = sums["count"].clone()
        dead = torch.nonzero(count < _LOST_ROWS)[:, 0]
        found = False
        for member in dead[dead >= self.classes].tolist():
            heaviest = int(count[self.classes :].argmax()) + self.classes
            if count[heaviest] < 4 * _LOST_ROWS:
                break
            self.components.split(heaviest, member)
            self.weights.split(heaviest, member)
            count[heaviest] /= 2
            count[member] = count[heaviest]
            found = True
        return found

    def propose(self, sums: Sums, most: int) -> Sums | None:
        """Sums with up to `most` pairs of members merged, for the learner to try; None when there is nothing to try."""
        return None if self.classes else self.components.merging(sums, most)

    def maximise(self, sums: Sums) -> Move:
        """The M-step. Returns the function that re-reads older sums from the new parameters."""
        self.weights.maximise(sums["count"])
        move = self.components.maximise(sums)
        if self.memory is not None:
            self.memory.keep(move({name: sums[name] for name in self.memory.names}))
        return move

    def remembered(self) -> Sums:
        """The sums that the present parameters came from, for families that keep them; else nothing."""
        return {} if self.memory is None else self.memory.sums()

    def implied(self, rows: float) -> Sums:
        """The sums of `rows` rows that would give the current parameters back."""
        return self.components.implied(self.weights.mean() * rows)

    def free_parameters(self) -> int:
        """Numbers that learning sets, the weights' among them."""
        return self.components.free_parameters() + self.components.size - 1

    def log_prior(self) -> Tensor:
        """Log density of the priors at the current parameters, up to a constant; zero without priors."""
        return self.weights.log_prior() + self.components.log_prior()

    def start(self, batches: Callable[[], Iterable[Batch]], seed: int) -> None:
        """Where EM begins. When every member is a named class: all rows' parameters for each of them. Else k-means++
        (Arthur & Vassilvitskii 2007) and a few Lloyd steps on up to 20,000 rows, then one M-step from the hard
        assignment; with several restarts, the one that is likeliest after a few EM steps on those rows. Holes take the
        column mean for k-means only."""
        rows, observed, y = spread_rows(batches, _START_ROWS)
        size = self.components.size
        if self.classes == size:
            self.components.begin(rows, observed)
            return
        if len(rows) < size:
            raise DataError(f"components={size}: there are only {len(rows)} training rows; ask for at most as many")
        filled = _filled(rows, observed)
        best, kept = -torch.inf, None
        for attempt in range(self.restarts):
            name = "kmeans++" if attempt == 0 else f"kmeans++ {attempt}"
            centres = kmeans(filled, size, generator(seed, name))
            self.components.begin(rows, observed)
            r = self._assign(filled, centres, y)
            # In float64: from parameters as wide as all rows, narrow members' moments would drown in float32's rounding.
            self.maximise(self.components.sums(rows, observed, r))
            if self.components.settle():
                self.maximise(self.components.sums(rows, observed, r))
            if self.restarts == 1:
                return
            value = self._try(rows.to(self.dtype), observed, y)
            if value > best:
                best, kept = value, {name: tensor.clone() for name, tensor in self.state_dict().items()}
        if kept is not None:
            self.load_state_dict(kept)

    def _assign(self, rows: Tensor, centres: Tensor, y: Tensor | None) -> Tensor:
        """One-hot members of the rows: the nearest centre, and the class where it is known."""
        size = self.components.size
        r = nn.functional.one_hot(torch.cdist(rows, centres).argmin(1), size).double()
        if y is None:
            return r
        known = y.sum(1) > 0
        named = nn.functional.pad(y.double(), (0, size - y.shape[1]))
        if bool(known.any()):
            own = self._named_centres(centres, rows[known], named[known])
            r = nn.functional.one_hot(torch.cdist(rows, own).argmin(1), size).double()
        return torch.where(known[:, None], named, r)

    def _named_centres(self, centres: Tensor, rows: Tensor, named: Tensor) -> Tensor:
        """Centres 0 .. classes - 1 at the classes' own means, each in place of the nearest one; the others as they are."""
        count = named.sum(0)
        means = (named.t() @ rows) / count.clamp_min(1)[:, None]
        own, free = centres.clone(), list(range(len(centres)))
        for label in range(self.classes):
            at = means[label] if count[label] > 0 else centres[label]
            free.pop(int((centres[free] - at).square().sum(1).argmin()))
            own[label] = at
        own[self.classes :] = centres[free]
        return own

    def _try(self, rows: Tensor, observed: Tensor | None, y: Tensor | None) -> float:
        """A few EM steps; the objective after them."""
        given = None if y is None else self._given(y)
        sums, log_p = self.components.expect(rows, observed, self._log_weights(), None, given)
        for _ in range(_START_STEPS):
            self.maximise(sums)
            sums, log_p = self.components.expect(rows, observed, self._log_weights(), None, given)
        return float(log_p.sum() + self.log_prior())

    # ------------------------------------------------------------------ use

    def sample(self, noise: Noise, y: Tensor | None) -> Tensor:
        """k ~ w (or the class asked for), then x ~ p(x | k)."""
        logits = self.weights.mean().log().expand(noise.rows, -1)
        k = noise.categorical(logits)
        return self.components.predictive().draw(k if y is None else y.argmax(1), noise).to(self.dtype)

    def conditional(self, x: Tensor, observed: Tensor, y: Tensor | None, noise: Noise, *, mean: bool) -> Tensor:
        """Missing cells from p(x_missing | x_observed), exactly: the mean, or a draw."""
        joint = self.joint(x, observed)
        if y is not None:
            joint = joint + self._given(y)
        k = noise.categorical(joint)
        members = self.components.predictive()
        if mean:
            filled = members.mean_given(x, observed, torch.softmax(joint, 1))
        else:
            filled = members.draw_given(x, observed, k, noise)
        return torch.where(observed, x, filled.to(x.dtype))


def _filled(rows: Tensor, observed: Tensor | None) -> Tensor:
    """Holes at their column's mean."""
    if observed is None:
        return rows
    kept = torch.where(observed, rows, 0.0)
    return torch.where(observed, rows, kept.sum(0) / observed.sum(0).clamp_min(1))


def spread_rows(batches: Callable[[], Iterable[Batch]], most: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Up to `most` rows spread evenly over the data: x float64, observed and y (None when there are none)."""
    total = sum(len(batch.x) for batch in batches())
    stride = max(1, -(-total // most))
    xs, seen, ys, offset = [], [], [], 0
    for batch in batches():
        part = slice((-offset) % stride, None, stride)
        xs.append(batch.x[part].double())
        seen.append(
            torch.ones_like(batch.x[part], dtype=torch.bool) if batch.observed is None else batch.observed[part]
        )
        if batch.y is not None:
            ys.append(batch.y[part])
        offset += len(batch.x)
    observed = torch.cat(seen)
    return torch.cat(xs), None if bool(observed.all()) else observed, torch.cat(ys) if ys else None
