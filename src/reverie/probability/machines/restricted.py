"""The restricted Boltzmann machine's maths: two layers of units, connected with each other only, and label units beside.

E(v, h) = U(v) + U(h) - b.v - c.h - v W h,   F(v) = U(v) - b.v - A(c + v W),   p(v) = exp(-F(v)) / Z.

A label y of K classes is one more softmax unit among the visible ones (Larochelle & Bengio 2008): W has K more rows, and
p(y | v) is exact, for its K values can be listed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.probability.machines.bipartite import Bipartite
from reverie.probability.machines.units import Bernoulli, Categorical, SideBySide, Units
from reverie.rng import Noise


@dataclass(frozen=True)
class Side:
    """One expectation of a gradient: even states (n, even width), the odd units' means given them (n, odd width), and the
    rows' shares (n,), which sum to 1 over all processes."""

    even: Tensor
    odd: Tensor
    share: Tensor

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """This process's part of the expectations of both."""
        return self.share @ self.even, self.share @ self.odd


@dataclass(frozen=True)
class Penalties:
    """What the gradient adds to that of -log p: `l2` |W|^2 / 2 + `l1` |W|, and a pull of the hidden units' mean activity
    towards `activity`, of strength `sparsity` (Hinton 2012, section 11: the cross-entropy's gradient)."""

    l2: float = 0.0
    l1: float = 0.0
    sparsity: float = 0.0
    activity: float = 0.1


class Restricted(Bipartite):
    """Two layers of units (a number means so many bits), W (visible, hidden), b (visible,), c (hidden,), the centring
    offsets, and the cached log Z with its stamp. With `labels` the last so many columns of the visible layer are a
    softmax unit that holds the class."""

    up_scale = down_scale = 1.0
    """What the weights count for on the way up and on the way down: 2 stands for a twin layer that shares the weights."""
    v_offset: Tensor
    h_offset: Tensor
    activity: Tensor
    base: Tensor
    _rest: Tensor

    def __init__(
        self,
        visible: int | Units,
        hidden: int | Units,
        *,
        labels: int = 0,
        centring: float = 0.0,
        pictures: bool = False,
        penalties: Penalties | None = None,
        short_products: bool = False,
    ) -> None:
        super().__init__(labels)
        data = Bernoulli(visible) if isinstance(visible, int) else visible
        self.visible = SideBySide([data, Categorical(1, labels)]) if labels else data
        self.hidden = Bernoulli(hidden) if isinstance(hidden, int) else hidden
        v, h = self.visible.width, self.hidden.width
        self.code_width, self.data_width = h, data.width
        self.W = nn.Parameter(0.01 * torch.randn(v, h))
        self.b = nn.Parameter(torch.zeros(v))
        self.c = nn.Parameter(torch.zeros(h))
        self.register_buffer("v_offset", torch.zeros(v))
        self.register_buffer("h_offset", torch.zeros(h))
        self.register_buffer("activity", torch.zeros(h))
        self.register_buffer("base", torch.zeros(v))
        self.register_buffer("_rest", torch.zeros(h), persistent=False)
        self.centring, self.pictures, self.short_products = centring, pictures, short_products
        self.penalties = penalties or Penalties()
        self.fresh = True

    # ------------------------------------------------------------------ the two groups

    @property
    def data_units(self) -> Units:
        """The visible units without the label."""
        return self.visible.layers[0] if self.labels and isinstance(self.visible, SideBySide) else self.visible

    @property
    def even(self) -> Units:
        return self.visible

    @property
    def odd(self) -> Units:
        return self.hidden

    @property
    def even_bias(self) -> Tensor:
        return self.b

    @property
    def odd_bias(self) -> Tensor:
        return self.c

    @property
    def even_base(self) -> Tensor:
        return self.base

    @property
    def odd_base(self) -> Tensor:
        return self._rest

    def odd_field(self, even: Tensor) -> Tensor:
        """c + v W, (n, hidden)."""
        return self.weighed(self.c, even, self.W, scale=self.up_scale)

    def even_field(self, odd: Tensor) -> Tensor:
        """b + W h, (n, visible)."""
        return self.weighed(self.b, odd, self.W, down=True, scale=self.down_scale)

    def hidden_given(self, v: Tensor) -> Tensor:
        """E[h | v], for bits p(h_j = 1 | v), (n, hidden)."""
        return self.hidden.mean(self.odd_field(v))

    def visible_given(self, h: Tensor) -> Tensor:
        """E[v | h], for bits p(v_i = 1 | h), (n, visible)."""
        return self.visible.mean(self.even_field(h))

    # ------------------------------------------------------------------ learning

    def start(self, mean: Tensor, variance: Tensor) -> None:
        """Visible biases at which independent units have the data's mean (visible,), for bits logit(mean), clipped;
        their own variances; offsets likewise (Hinton 2012, section 8)."""
        mean, variance = mean.to(self.b), variance.to(self.b)
        if not self.fresh:
            self.base.copy_(self.visible.field_of(mean))
            return
        with torch.no_grad():
            self.base.copy_(self.visible.start(mean, variance))
            self.b.copy_(self.base)
            self.activity.copy_(self.hidden.mean(self.c[None])[0])
            if self.centring:
                self.v_offset.copy_(self.visible.mean(self.base[None])[0])
                self.h_offset.copy_(self.activity)

    def rows(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Visible states (n, visible) of rows of data, the label after them, zeros where there is none."""
        if not self.labels:
            return x
        return torch.cat([x, x.new_zeros(len(x), self.labels) if y is None else y.to(x.dtype)], 1)

    def clamp(self, x: Tensor, y: Tensor | None, noise: Callable[[], Noise]) -> Tensor:
        """`rows`, with labels that are missing drawn from p(y | v)."""
        v = self.rows(x, y)
        if self.labels:
            known = v[:, self.data_width :].sum(1, keepdim=True) > 0
            if not bool(known.all()):
                drawn = noise().categorical(self.class_scores(x)[:, None])[:, 0]
                guess = torch.cat([x, F.one_hot(drawn, self.labels).to(x.dtype)], 1)
                v = torch.where(known, v, guess)
        return v

    def gradient(
        self, positive: Side, negative: Side, total: Callable[[Sequence[Tensor]], None]
    ) -> dict[nn.Parameter, Tensor]:
        """The gradient of -log p by parameter, centred: dW = <(v - m)(h - l)>_negative - <...>_positive, brought back to
        plain biases (Melchior et al. 2016, eqs. 16-19); `total` sums over processes in place.

        Offsets m, l follow the data's means at the rate `centring`; without centring they are zero.
        """
        (pv, ph), (nv, nh) = positive.means, negative.means
        own = [self.visible.learned(side.even, side.share) for side in (positive, negative)]
        sums = [pv, ph, nv, nh, *own[0].values(), *own[1].values()]
        total(sums)
        if self.centring:
            self.v_offset.lerp_(pv.to(self.v_offset.dtype), self.centring)
            self.h_offset.lerp_(ph.to(self.h_offset.dtype), self.centring)
        m, l = self.v_offset, self.h_offset  # noqa: E741 - the letters of the paper
        v = torch.cat([positive.even, negative.even]) - m
        h = torch.cat([positive.odd, negative.odd]).sub_(l)
        h.mul_(torch.cat([-positive.share, negative.share])[:, None])
        dw = self.product(v.t(), h)
        db, dc = nv - pv, nh - ph
        if self.centring:
            # a step on the centred W moves the plain biases too, by dW l and m dW: products of rows cost less than of dW
            dw_l, m_dw = (h @ l) @ v, (v @ m) @ h
            total([dw, dw_l, m_dw])
            db, dc = db - self.down_scale * dw_l, dc - self.up_scale * m_dw
        else:
            total([dw])
        self._penalise(dw, dc, pv, ph)
        learned = {parameter: own[1][parameter] - own[0][parameter] for parameter in own[0]}
        return {self.W: dw, self.b: db, self.c: dc, **learned}

    def pseudo_log_likelihood(self, v: Tensor) -> Tensor:
        """sum_i log p(v_i | the other visible bits), (n,): log sigmoid of how much F rises when a bit flips."""
        field = self.odd_field(v)
        partition = self.hidden.log_partition(field)
        total = torch.zeros_like(partition)
        for i in range(self.data_width):
            change = 1 - 2 * v[:, i : i + 1]
            flipped = self.hidden.log_partition(torch.addcmul(field, change, self.W[i]))
            total += F.logsigmoid(partition - flipped - change[:, 0] * self.b[i])
        return total

    def _penalise(self, dw: Tensor, dc: Tensor, v: Tensor, h: Tensor) -> None:
        """Add the penalties' gradients; the activity follows the batches' means `h` at a rate of a tenth."""
        p = self.penalties
        if p.l2:
            dw.add_(self.W, alpha=p.l2)
        if p.l1:
            dw.add_(self.W.sign(), alpha=p.l1)
        if p.sparsity:
            self.activity.lerp_(h.to(self.activity.dtype), 0.1)
            pull = p.sparsity * (self.activity - p.activity)
            dc.add_(pull)
            dw.addr_(v, pull)

    def signs(self, v: Tensor, field: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error of the mean-field round trip v -> h -> v, and F(v), (n,) each: signs of life, no objectives."""
        error = (self.visible_given(self.hidden.mean(field)) - v).square_().sum(1)
        return error, self.even_energy(v, field)

    # ------------------------------------------------------------------ labels

    @property
    def label_bias(self) -> Tensor:
        return self.b[self.data_width :]

    def of_class(self, k: int) -> Restricted:
        """The machine over data and hidden units with hidden biases c + U_k."""
        with torch.random.fork_rng(devices=[]):  # its initial weights are thrown away
            machine = Restricted(self.data_units, self.hidden).to(self.W)
        with torch.no_grad():
            machine.W.copy_(self.W[: self.data_width])
            machine.b.copy_(self.b[: self.data_width])
            machine.c.copy_(self.c + self.W[self.data_width + k])
            machine.base.copy_(self.base[: self.data_width])
        return machine

    def fill(self, x: Tensor, y: Tensor | None, observed: Tensor, noise: Noise, sweeps: int) -> Tensor:
        """`rows` with cells that are not observed, and labels that are missing, drawn by `sweeps` of clamped Gibbs
        sampling from independent units."""
        held, v = self.held(observed, y), self.rows(x, y)
        start = torch.where(held, v, self.fantasy(noise))
        return self.gibbs(start, sweeps, noise, clamped=(held, v))

    def held(self, observed: Tensor, y: Tensor | None) -> Tensor:
        """Which visible columns are known, (n, visible): the label's in rows that have one."""
        if not self.labels:
            return observed
        known = observed.new_zeros(len(observed), 1) if y is None else y.sum(1, keepdim=True) > 0
        return torch.cat([observed, known.expand(-1, self.labels)], 1)

    def hold_odd(self, odd: Tensor, y: Tensor | None) -> Tensor:
        """The odd units' means with what is known of them put in: nothing, the label being an even unit."""
        return odd

    def class_scores(self, x: Tensor, field: Tensor | None = None) -> Tensor:
        """-F(v, y) up to what does not depend on y, (n, K): d_y + A(c + v W + U_y); its softmax is p(y | v)."""
        data, labels = self.W[: self.data_width], self.W[self.data_width :]
        field = torch.addmm(self.c, x, data) if field is None else field
        scores = [self.hidden.log_partition(field + row) for row in labels]
        return torch.stack(scores, 1) + self.label_bias

    def label_scores(self, x: Tensor) -> Tensor:
        """-F(v, y), (n, K)."""
        scores = self.class_scores(x) + (x @ self.b[: self.data_width])[:, None]
        own = self.data_units.energy(x)
        return scores if own is None else scores - own[:, None]

    def hidden_mean(self, x: Tensor, y: Tensor | None) -> Tensor:
        """E[h | v, y], or E[h | v] with the label summed out, (n, hidden)."""
        if not self.labels or y is not None:
            return self.hidden_given(self.rows(x, y))
        chance = torch.softmax(self.class_scores(x), 1)
        classes = torch.eye(self.labels, dtype=x.dtype, device=x.device)
        means = [self.hidden_given(self.rows(x, row.expand(len(x), -1))) for row in classes]
        return torch.einsum("nk,knh->nh", chance, torch.stack(means))

    def discriminate(
        self, x: Tensor, y: Tensor, share: Tensor, total: Callable[[Sequence[Tensor]], None]
    ) -> tuple[dict[nn.Parameter, Tensor], Tensor]:
        """The gradient of sum share * -log p(y | v), and -log p(y | v) of every row (n,); rows without a label count 0.

        With r = p(k | v) - [k = y]: dU_k = sum_n r_k E[h | v, k], dW = v^T sum_k r_k E[h | v, k], and so on.
        """
        data, labels = self.W[: self.data_width], self.W[self.data_width :]
        field = torch.addmm(self.c, x, data)
        log_p = torch.log_softmax(self.class_scores(x, field), 1)
        known = y.sum(1)
        residual = (log_p.exp() * known[:, None] - y) * share[:, None]
        down = torch.zeros_like(field)
        rows = []
        for k, row in enumerate(labels):
            mean = self.hidden.mean(field + row)
            rows.append(residual[:, k] @ mean)
            down.addcmul_(residual[:, k : k + 1], mean)
        dw = torch.cat([x.t() @ down, torch.stack(rows)])
        db = torch.cat([x.new_zeros(self.data_width), residual.sum(0)])
        dc = down.sum(0)
        total([dw, db, dc])
        return {self.W: dw, self.b: db, self.c: dc}, -(log_p * y).sum(1)
