"""Restricted Boltzmann machine (Smolensky 1986; Hinton 2002): two layers of units, connected with each other only.

E(v, h) = U(v) + U(h) - b.v - c.h - v W h,   p(v) = sum_h exp(-E(v, h)) / Z,   F(v) = U(v) - b.v - A(c + v W),

with U and A the layers' own energy and log-partition (`probability.units`): for bits U = 0 and A = sum softplus.

Learned by (persistent) contrastive divergence with closed-form gradients and centring (Melchior, Fischer & Wiskott 2016).
log Z is exact when a layer has at most 20 units, else annealed importance sampling (Salakhutdinov & Murray 2008) paired
with its reverse.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from reverie.config import recipe
from reverie.data.schema import Schema
from reverie.data.space import Space, Wants
from reverie.errors import InvalidOption, Unsupported
from reverie.estimator import Estimator
from reverie.inference.annealing import anneal, ladder, summarise
from reverie.learning.contrastive import ContrastiveDivergence
from reverie.learning.descent import Descent, ScheduleName
from reverie.learning.phases import Phase
from reverie.learning.run import Run
from reverie.metrics import effective_draws, r_hat
from reverie.model import Model, check_seed
from reverie.probability.units import Bernoulli, Categorical, Gaussian, SideBySide, Units, units
from reverie.rng import Noise, RowNoise, generator, stream

EXACT_UNITS = 20
"""A layer is enumerated up to as many states as this many bits have."""


@recipe
class RBM(Estimator):
    """Restricted Boltzmann machine, for yes/no columns and binarised images, or tables of mixed columns."""

    family: ClassVar[str] = "rbm"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 50, "batch_size": 100, "ema": 0.999}

    hidden: int = Field(default=128, ge=1)
    """Hidden units."""
    units: Literal["bernoulli", "spin", "relu", "gaussian"] = "bernoulli"
    """What the hidden units are: bits, spins, numbers from 0 on, or numbers."""
    visible: Literal["binary", "mixed"] = "binary"
    """What the visible units are: bits; or bits for yes/no columns, softmax units for categories and Gaussian ones of
    learned variance for numbers; many numbers want a smaller learning rate."""
    sweeps: int = Field(default=1, ge=1)
    """Gibbs sweeps per update (the k of CD-k and PCD-k)."""
    chains: int = Field(default=200, ge=0)
    """Persistent chains; 0 starts the sweeps from the batch (CD-k)."""
    lr: float = Field(default=0.2, gt=0)
    """Learning rate at its highest. Centred gradients with persistent chains bear far more than plain CD does."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of the updates."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2 penalty on the weights."""
    schedule: ScheduleName = "linear"
    """How the learning rate falls over the budget."""
    centring: float = Field(default=0.01, ge=0, le=1)
    """Rate at which the centring offsets follow the data; 0 turns centring off."""
    pixels: Literal["binary", "threshold"] = "binary"
    """Grey levels become bits by a draw anew for every batch, or by a threshold at one half."""

    def wants(self, schema: Schema) -> Wants:
        if self.visible == "mixed":
            return Wants(
                family=self.family,
                kinds=frozenset({"boolean", "integer", "number", "datetime", "category", "image"}),
                discrete="dequantise",
                images="dequantise",
                missing="refuse",
                mixed=False,
                flat=True,
            )
        return Wants(
            family=self.family,
            kinds=frozenset({"boolean", "integer", "image"}),
            discrete="binary",
            images=self.pixels,
            missing="refuse",
            mixed=False,
            flat=True,
        )

    def build(self, space: Space) -> RBMNetwork:
        layer = units(self.units, self.hidden, learn_variance=False)
        return RBMNetwork(_visible(space), layer, centring=self.centring, pictures=space.grid is not None)

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        assert isinstance(network, RBMNetwork)
        network.fresh = fresh

        def learner() -> ContrastiveDivergence:
            descent = Descent(
                list(network.parameters()),
                run,
                optimizer="sgd",
                lr=self.lr,
                momentum=self.momentum,
                decay=self.schedule,
            )
            network.weight_decay = self.weight_decay
            return ContrastiveDivergence(network, descent, run, sweeps=self.sweeps, chains=self.chains)

        return [Phase("train", learner)]


def _visible(space: Space) -> Units:
    """One layer of units for every run of columns alike."""
    layers: list[Units] = []
    for kind, run in itertools.groupby(
        space.blocks, key=lambda block: (block.kind, block.kind == "category" and block.width)
    ):
        blocks = list(run)
        width = sum(block.width for block in blocks)
        if kind[0] == "category":
            layers.append(Categorical(len(blocks), blocks[0].width))
        else:
            layers.append(Gaussian(width) if kind[0] == "real" else Bernoulli(width))
    return layers[0] if len(layers) == 1 else SideBySide(layers)


class RBMNetwork(nn.Module):
    """Two layers of units (a number means so many bits), W (visible, hidden), b (visible,), c (hidden,), the centring
    offsets, and the cached log Z with its stamp."""

    v_offset: Tensor
    h_offset: Tensor
    base: Tensor
    _partition: Tensor
    _stamp: Tensor

    def __init__(
        self, visible: int | Units, hidden: int | Units, *, centring: float = 0.0, pictures: bool = False
    ) -> None:
        super().__init__()
        self.visible = Bernoulli(visible) if isinstance(visible, int) else visible
        self.hidden = Bernoulli(hidden) if isinstance(hidden, int) else hidden
        v, h = self.visible.width, self.hidden.width
        self.code_width = h
        self.W = nn.Parameter(0.01 * torch.randn(v, h))
        self.b = nn.Parameter(torch.zeros(v))
        self.c = nn.Parameter(torch.zeros(h))
        self.register_buffer("v_offset", torch.zeros(v))
        self.register_buffer("h_offset", torch.zeros(h))
        self.register_buffer("base", torch.zeros(v))
        # method (0 none, 1 exact, 2 AIS), log Z, standard error, log Z backwards, its standard error
        self.register_buffer("_partition", torch.zeros(5, dtype=torch.float64))
        self.register_buffer("_stamp", torch.zeros(32, dtype=torch.uint8))
        self._centring, self._pictures = centring, pictures
        self.weight_decay = 0.0
        self.fresh = True

    # ------------------------------------------------------------------ conditionals

    def hidden_field(self, v: Tensor) -> Tensor:
        """c + v W, (n, hidden)."""
        return torch.addmm(self.c, v, self.W)

    def visible_field(self, h: Tensor) -> Tensor:
        """b + W h, (n, visible)."""
        return torch.addmm(self.b, h, self.W.t())

    def hidden_given(self, v: Tensor) -> Tensor:
        """E[h | v], for bits p(h_j = 1 | v), (n, hidden)."""
        return self.hidden.mean(self.hidden_field(v))

    def visible_given(self, h: Tensor) -> Tensor:
        """E[v | h], for bits p(v_i = 1 | h), (n, visible)."""
        return self.visible.mean(self.visible_field(h))

    def free_energy(self, v: Tensor, field: Tensor | None = None) -> Tensor:
        """F(v), (n,) nats; `field` is the hidden units' where it is known already."""
        linear = v @ self.b + self.hidden.log_partition(self.hidden_field(v) if field is None else field)
        own = self.visible.energy(v)
        return -linear if own is None else own - linear

    def up(self, v: Tensor, noise: Noise, field: Tensor | None = None) -> Tensor:
        """h ~ p(h | v), (n, hidden)."""
        return self.hidden.sample(self.hidden_field(v) if field is None else field, noise)

    def advance(self, h: Tensor, sweeps: int, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        """`sweeps` of block Gibbs sampling v | h, h | v from h: the last v, the field of its hidden units, the last h."""
        v = field = h
        for _ in range(sweeps):
            v = self.visible.sample(self.visible_field(h), noise)
            field = self.hidden_field(v)
            h = self.hidden.sample(field, noise)
        return v, field, h

    def gibbs(self, v: Tensor, sweeps: int, noise: Noise) -> Tensor:
        """`sweeps` of block Gibbs sampling h | v, v | h from v."""
        for _ in range(sweeps):
            v = self.visible.sample(self.visible_field(self.up(v, noise)), noise)
        return v

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
            if self._centring:
                self.v_offset.copy_(self.visible.mean(self.base[None])[0])
                self.h_offset.copy_(self.hidden.mean(self.c[None])[0])

    def chains(self, noise: Noise) -> Tensor:
        """Hidden states that persistent chains start from."""
        return self.up(self.fantasy(noise), noise)

    def fantasy(self, noise: Noise) -> Tensor:
        """Starting states of chains: independent draws at the data's means."""
        return self.visible.sample(self.base.expand(noise.rows, -1), noise)

    def statistics(self, v: Tensor, weight: Tensor | None, field: Tensor | None = None) -> dict[str, Tensor]:
        """Sums over rows of v h^T, v, h (h as its mean), and what the visible units learn of themselves."""
        h = self.hidden_given(v) if field is None else self.hidden.mean(field)
        weighted = v if weight is None else v * weight[:, None].to(v.dtype)
        scaled = h if weight is None else h * weight[:, None].to(v.dtype)
        return {
            "vh": weighted.t() @ h,
            "v": weighted.sum(0),
            "h": scaled.sum(0),
            **{f"own {number}": value for number, value in enumerate(self.visible.learned(v, weight).values())},
        }

    def gradient(self, positive: dict[str, Tensor], negative: dict[str, Tensor]) -> dict[nn.Parameter, Tensor]:
        """The gradient of -log p, centred: dW = <(v - m)(h - l)^T>, db = <v> - W'l-correction, from means over rows.

        Offsets m, l follow the data's means; the gradient is that of the centred machine in plain parameters
        (Melchior et al. 2016, eqs. 16-19). negative["vh"] is used up.
        """
        dv, dh = negative["v"] - positive["v"], negative["h"] - positive["h"]
        dw = negative["vh"].sub_(positive["vh"])
        if self._centring:
            m, rate = self.v_offset, self._centring
            m.lerp_(positive["v"].to(m.dtype), rate)
            self.h_offset.lerp_(positive["h"].to(m.dtype), rate)
            dw.addr_(m, dh, alpha=-1).addr_(dv, self.h_offset, alpha=-1)
            # A step on the centred W moves the plain biases too.
            dv, dh = dv - dw @ self.h_offset, dh - m @ dw
        own = {
            parameter: negative[f"own {number}"] - positive[f"own {number}"]
            for number, parameter in enumerate(self.visible.parameters())
        }
        if self.weight_decay:
            dw.add_(self.W, alpha=self.weight_decay)
        return {self.W: dw, self.b: dv, self.c: dh, **own}

    def signs(self, v: Tensor, field: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error of the mean-field round trip v -> h -> v, and F(v), (n,) each: signs of life, no objectives."""
        error = (self.visible_given(self.hidden.mean(field)) - v).square_().sum(1)
        return error, self.free_energy(v, field)

    # ------------------------------------------------------------------ log Z

    @property
    def likelihood(self) -> str:
        """ "exact" when a layer can be enumerated, else "estimate"."""
        return "estimate" if self._listed() is None else "exact"

    def _listed(self) -> Units | None:
        """The layer with fewer joint states, where they can be listed; None where neither's can."""
        found = [layer for layer in (self.hidden, self.visible) if layer.states is not None]
        layer = min(found, key=_bits, default=None)
        return layer if layer is not None and _bits(layer) <= EXACT_UNITS + 1e-9 else None

    def stamp(self) -> Tensor:
        """SHA-256 of the parameters, which ties a cached log Z to them."""
        digest = hashlib.sha256()
        for parameter in self.parameters():
            digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
        return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)

    @torch.no_grad()
    def exact_log_partition(self) -> float:
        """log Z by summing one layer out and listing the states of the other in blocks, in float64."""
        listed = self._listed()
        if listed is None:
            fewest = min(
                (layer.count for layer in (self.visible, self.hidden) if layer.states is not None), default=None
            )
            what = "both layers hold numbers" if fewest is None else f"the smaller layer has {fewest}"
            raise Unsupported(f"exact log Z enumerates at most {EXACT_UNITS} units; {what}")
        W, b, c = self.W.double(), self.b.double(), self.c.double()
        other = self.visible
        if listed is self.visible:
            W, b, c, other = W.t(), c, b, self.hidden
        assert listed.states is not None
        total_states = listed.states**listed.count
        block = min(listed.states ** min(listed.count, int(10 / math.log2(listed.states))), total_states)
        low = listed.enumerate(0, block).to(W.device)
        low_field, low_bias = low @ W.t() + b, low @ c
        total = torch.tensor(-math.inf, dtype=torch.float64, device=W.device)
        for start in range(0, total_states, block):
            # one addition per block instead of a product: only units beyond the block's differ from its first state's
            more = listed.enumerate(start, start + 1)[0].to(W.device) - low[0]
            terms = other.log_partition(low_field + W @ more) + low_bias + more @ c
            total = torch.logaddexp(total, torch.logsumexp(terms, 0))
        return float(total)

    def annealed_log_partition(
        self, *, chains: int = 200, temperatures: int = 4000, seed: int = 0, burn_in: int = 500
    ) -> dict[str, float]:
        """log Z by AIS from the base-rate model, and backwards from long chains.

        The path is F_beta(v) = U(v) - (1-beta) a.v - beta b.v - A(beta (c + vW)) with a the fields of the data's means
        (Salakhutdinov & Murray 2008, eq. 15). Backward chains start at the data's means and run `burn_in` sweeps at
        beta = 1 first.
        """
        betas = ladder(temperatures)
        base, W = self.base.to(self.W.dtype), self.W
        nothing = torch.zeros(1, self.hidden.width, dtype=torch.float64, device=W.device)
        log_base = float(self.visible.log_partition(base.double()[None]) + self.hidden.log_partition(nothing))
        noise = RowNoise(stream(seed, "ais"), chains, device=W.device, dtype=W.dtype)

        shift = self.b - base

        def move(v: Tensor, a: float, b: float, last: bool) -> tuple[Tensor, Tensor]:
            field = torch.addmm(self.c, v, W)
            scaled = b * field
            gain = (b - a) * (v @ shift) + (self.hidden.log_partition(scaled) - self.hidden.log_partition(a * field))
            if last:
                return gain, v
            h = self.hidden.sample(scaled, noise)
            down = torch.addmm((1 - b) * base + b * self.b, h, W.t(), alpha=b)
            return gain, self.visible.sample(down, noise)

        forward = summarise(anneal(self.fantasy(noise), betas, move))
        state = self.gibbs(self.fantasy(noise), burn_in, noise)
        backward = summarise(anneal(state, betas.flip(0), move))
        return {
            "log_z": log_base + forward.value,
            "standard_error": forward.standard_error,
            "effective_chains": forward.effective,
            "log_z_reverse": log_base - backward.value,
            "standard_error_reverse": backward.standard_error,
        }

    def log_partition(self) -> float:
        """log Z of these parameters: from the cache when its stamp fits, else computed and cached."""
        stamp = self.stamp().to(self._stamp.device)
        if self._partition[0] == 0 or not torch.equal(stamp, self._stamp):
            with torch.no_grad():
                if self.likelihood == "exact":
                    values = [1.0, self.exact_log_partition(), 0.0, 0.0, 0.0]
                else:
                    found = self.annealed_log_partition()
                    values = [2.0, *(found[k] for k in ("log_z", "standard_error"))]
                    values += [found["log_z_reverse"], found["standard_error_reverse"]]
                self._partition.copy_(torch.tensor(values, dtype=torch.float64))
                self._stamp.copy_(stamp)
        return float(self._partition[1])

    def partition_info(self) -> dict[str, Any] | None:
        """Method, log Z, standard error, gap (nats, reverse minus forward) and stamp; None before the first log_prob."""
        if self._partition[0] == 0 or not torch.equal(self.stamp().to(self._stamp.device), self._stamp):
            return None
        method, log_z, error, reverse, reverse_error = self._partition.tolist()
        info: dict[str, Any] = {
            "method": "exact" if method == 1 else "AIS",
            "log_z": log_z,
            "standard_error": error,
            "stamp": bytes(self._stamp.cpu().numpy()).hex(),
        }
        if method == 2:
            info |= {"log_z_reverse": reverse, "standard_error_reverse": reverse_error, "gap": reverse - log_z}
        return info

    # ------------------------------------------------------------------ capabilities

    def log_prob(self, x: Tensor, observed: Tensor | None, y: Tensor | None, noise: Noise) -> Tensor:
        """-F(v) - log Z, (n,) nats."""
        return -self.energy(x) - self.log_partition()

    def energy(self, x: Tensor) -> Tensor:
        """The free energy F(v) in float64, (n,)."""
        x = x.double()
        fields = torch.addmm(self.c.double(), x, self.W.double())
        linear = x @ self.b.double() + self.hidden.log_partition(fields)
        own = self.visible.energy(x)
        return -linear if own is None else own - linear

    def sample(self, noise: Noise, y: Tensor | None, *, sweeps: int = 500, mean: bool | None = None) -> Tensor:
        """Chains from the data's base rates after `sweeps` of Gibbs sampling; with mean=True the last visible
        probabilities instead of a draw. Default: probabilities for images, which show as grey levels, draws for
        tables."""
        if isinstance(sweeps, bool) or not isinstance(sweeps, int) or sweeps < 1:
            raise InvalidOption(f"sweeps: expected a whole number of at least 1, got {sweeps!r}")
        v = self.gibbs(self.fantasy(noise), sweeps - 1, noise)
        field = self.visible_field(self.up(v, noise))
        return (
            self.visible.mean(field)
            if (self._pictures if mean is None else mean)
            else self.visible.sample(field, noise)
        )

    def encode(self, x: Tensor, observed: Tensor | None, y: Tensor | None) -> Tensor:
        """E[h | v], for bits p(h = 1 | v), (n, hidden)."""
        return self.hidden_given(x)

    def decode(self, z: Tensor, y: Tensor | None) -> Tensor:
        """E[v | h], for bits p(v = 1 | h), (n, visible)."""
        return self.visible_given(z)

    def conditional(
        self, x: Tensor, observed: Tensor, y: Tensor | None, noise: Noise, *, mean: bool, sweeps: int = 200
    ) -> Tensor:
        """Clamped Gibbs sampling of the missing units; `mean` averages their means over the second half."""
        v = torch.where(observed, x, self.visible.sample(self.base.expand(len(x), -1), noise))
        total = torch.zeros_like(v)
        for sweep in range(sweeps):
            field = self.visible_field(self.up(v, noise))
            v = torch.where(observed, x, self.visible.sample(field, noise))
            if mean and sweep >= sweeps // 2:
                total += self.visible.mean(field)
        return torch.where(observed, x, total / (sweeps - sweeps // 2)) if mean else v


def _bits(layer: Units) -> float:
    """Binary digits that the joint states of a layer need."""
    assert layer.states is not None
    return layer.count * math.log2(layer.states)


def log_partition(
    model: Model,
    *,
    method: Literal["auto", "exact", "ais"] = "auto",
    chains: int = 200,
    temperatures: int = 4000,
    seed: int = 0,
    burn_in: int = 500,
) -> dict[str, Any]:
    """log Z of an RBM model, by enumeration or by AIS with its reverse, without touching the model's cache."""
    network = _machine(model)
    if method not in ("auto", "exact", "ais"):
        raise InvalidOption(f"method: expected auto, exact or ais, got {method!r}")
    with torch.inference_mode():
        if method == "exact" or (method == "auto" and network.likelihood == "exact"):
            return {"method": "exact", "log_z": network.exact_log_partition(), "standard_error": 0.0}
        found = network.annealed_log_partition(chains=chains, temperatures=temperatures, seed=seed, burn_in=burn_in)
    return {"method": "AIS", **found, "gap": found["log_z_reverse"] - found["log_z"]}


@torch.inference_mode()
def mixing(model: Model, *, chains: int = 20, sweeps: int = 2000, seed: int = 0) -> dict[str, float]:
    """Do Gibbs chains of this machine mix? `chains` of them from the data's means, the first half of the `sweeps` left
    out; of the free energy and 16 random projections of v the worst split R-hat and the fewest effective draws (Vehtari
    et al. 2021), those of the free energy alone, and how many draws there were. R-hat above 1.01, or fewer than 400
    effective draws, say that samples still depend on where they began."""
    network, seed = _machine(model), check_seed(seed)
    for name, value, least in (("chains", chains, 2), ("sweeps", sweeps, 8)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidOption(f"{name}: expected a whole number of at least {least}, got {value!r}")
    noise = RowNoise(stream(seed, "mixing"), chains, device=network.W.device, dtype=network.W.dtype)
    directions = torch.randn(network.visible.width, 16, generator=generator(seed, "directions")).to(network.W)
    h, seen = network.chains(noise), []
    for sweep in range(sweeps):
        v, field, h = network.advance(h, 1, noise)
        if sweep >= sweeps // 2:
            seen.append(torch.cat([network.free_energy(v, field)[:, None], v @ directions], 1))
    draws = torch.stack(seen, 2).double().cpu().numpy()  # (chains, quantities, steps)
    r_hats = [r_hat(draws[:, number]) for number in range(draws.shape[1])]
    effective = [effective_draws(draws[:, number]) for number in range(draws.shape[1])]
    return {
        "r_hat": max(r_hats),
        "effective_draws": min(effective),
        "r_hat_energy": r_hats[0],
        "effective_draws_energy": effective[0],
        "draws": float(chains * len(seen)),
    }


def _machine(model: Model) -> RBMNetwork:
    if not isinstance(model.network, RBMNetwork):
        raise Unsupported(f"this needs an rbm model, got {model.family}")
    return model.network
