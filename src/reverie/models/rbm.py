"""Restricted Boltzmann machine (Smolensky 1986; Hinton 2002): binary units in two layers.

E(v, h) = -b.v - c.h - v W h,   p(v) = sum_h exp(-E(v, h)) / Z,   F(v) = -b.v - sum_j softplus(c_j + (v W)_j).

Learned by (persistent) contrastive divergence with closed-form gradients and centring (Melchior, Fischer & Wiskott 2016).
log Z is exact when a layer has at most 20 units, else annealed importance sampling (Salakhutdinov & Murray 2008) paired
with its reverse.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
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
from reverie.model import Model
from reverie.rng import Noise, RowNoise, stream

EXACT_UNITS = 20
"""The smaller layer is enumerated up to this many units."""


@recipe
class RBM(Estimator):
    """Binary restricted Boltzmann machine, for yes/no columns and binarised images."""

    family: ClassVar[str] = "rbm"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 50, "batch_size": 100, "ema": 0.999}

    hidden: int = Field(default=128, ge=1)
    """Hidden units."""
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
        return RBMNetwork(space.width, self.hidden, centring=self.centring, pictures=space.grid is not None)

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


class RBMNetwork(nn.Module):
    """W (visible, hidden), b (visible,), c (hidden,), the centring offsets, and the cached log Z with its stamp."""

    v_offset: Tensor
    h_offset: Tensor
    base: Tensor
    _partition: Tensor
    _stamp: Tensor

    def __init__(self, visible: int, hidden: int, *, centring: float = 0.0, pictures: bool = False) -> None:
        super().__init__()
        self.code_width = hidden
        self.W = nn.Parameter(0.01 * torch.randn(visible, hidden))
        self.b = nn.Parameter(torch.zeros(visible))
        self.c = nn.Parameter(torch.zeros(hidden))
        self.register_buffer("v_offset", torch.zeros(visible))
        self.register_buffer("h_offset", torch.zeros(hidden))
        self.register_buffer("base", torch.zeros(visible))
        # method (0 none, 1 exact, 2 AIS), log Z, standard error, log Z backwards, its standard error
        self.register_buffer("_partition", torch.zeros(5, dtype=torch.float64))
        self.register_buffer("_stamp", torch.zeros(32, dtype=torch.uint8))
        self._centring, self._pictures = centring, pictures
        self.weight_decay = 0.0
        self.fresh = True

    # ------------------------------------------------------------------ conditionals

    def hidden_given(self, v: Tensor) -> Tensor:
        """p(h_j = 1 | v), (n, hidden)."""
        return torch.sigmoid(torch.addmm(self.c, v, self.W))

    def visible_given(self, h: Tensor) -> Tensor:
        """p(v_i = 1 | h), (n, visible)."""
        return torch.sigmoid(torch.addmm(self.b, h, self.W.t()))

    def free_energy(self, v: Tensor) -> Tensor:
        """F(v), (n,) nats."""
        return -(v @ self.b) - F.softplus(torch.addmm(self.c, v, self.W)).sum(1)

    def gibbs(self, v: Tensor, sweeps: int, noise: Noise) -> Tensor:
        """`sweeps` of block Gibbs sampling h | v, v | h from v."""
        for _ in range(sweeps):
            v = noise.bernoulli(self.visible_given(noise.bernoulli(self.hidden_given(v))))
        return v

    # ------------------------------------------------------------------ learning

    def start(self, mean: Tensor) -> None:
        """Visible biases from the data mean (n,): b = logit(mean), clipped; offsets likewise (Hinton 2012, section 8)."""
        mean = mean.to(self.b).clamp(0.001, 0.999)
        self.base.copy_(torch.logit(mean))
        if not self.fresh:
            return
        with torch.no_grad():
            self.b.copy_(self.base)
            if self._centring:
                self.v_offset.copy_(mean)
                self.h_offset.fill_(0.5)

    def fantasy(self, noise: Noise) -> Tensor:
        """Starting states of chains: independent draws from the visible biases' rates."""
        return noise.bernoulli(torch.sigmoid(self.base).expand(noise.rows, -1))

    def statistics(self, v: Tensor, weight: Tensor | None) -> dict[str, Tensor]:
        """Sums over rows of v h^T, v, h (h as probabilities) and F(v)."""
        h = self.hidden_given(v)
        weighted = v if weight is None else v * weight[:, None].to(v.dtype)
        scaled = h if weight is None else h * weight[:, None].to(v.dtype)
        free = self.free_energy(v)
        return {
            "vh": weighted.t() @ h,
            "v": weighted.sum(0),
            "h": scaled.sum(0),
            "free_energy": (free if weight is None else free * weight.to(free.dtype)).sum(),
        }

    def gradient(self, positive: dict[str, Tensor], negative: dict[str, Tensor]) -> dict[nn.Parameter, Tensor]:
        """The gradient of -log p, centred: dW = <(v - m)(h - l)^T>, db = <v> - W'l-correction, from means over rows.

        Offsets m, l follow the data's means; the gradient is that of the centred machine in plain parameters
        (Melchior et al. 2016, eqs. 16-19).
        """
        dv, dh = negative["v"] - positive["v"], negative["h"] - positive["h"]
        dw = negative["vh"] - positive["vh"]
        if self._centring:
            m, rate = self.v_offset, self._centring
            m.lerp_(positive["v"].to(m.dtype), rate)
            self.h_offset.lerp_(positive["h"].to(m.dtype), rate)
            dw = dw - torch.outer(m, dh) - torch.outer(dv, self.h_offset)
            # A step on the centred W moves the plain biases too.
            dv, dh = dv - dw @ self.h_offset, dh - m @ dw
        return {self.W: dw + self.weight_decay * self.W, self.b: dv, self.c: dh}

    def reconstruction(self, v: Tensor) -> Tensor:
        """The mean-field round trip v -> h -> v."""
        return self.visible_given(self.hidden_given(v))

    # ------------------------------------------------------------------ log Z

    @property
    def likelihood(self) -> str:
        """ "exact" when a layer can be enumerated, else "estimate"."""
        return "exact" if min(self.W.shape) <= EXACT_UNITS else "estimate"

    def stamp(self) -> Tensor:
        """SHA-256 of the parameters, which ties a cached log Z to them."""
        digest = hashlib.sha256()
        for parameter in (self.W, self.b, self.c):
            digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
        return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)

    def exact_log_partition(self) -> float:
        """log Z by summing the larger layer out and enumerating the smaller in blocks, in float64."""
        W, b, c = self.W.double(), self.b.double(), self.c.double()
        if W.shape[0] < W.shape[1]:
            W, b, c = W.t(), c, b
        units = W.shape[1]  # enumerate these; b is the bias of the summed layer, c theirs
        if units > EXACT_UNITS:
            raise Unsupported(f"exact log Z enumerates at most {EXACT_UNITS} units; the smaller layer has {units}")
        low = min(units, 10)
        bits = (torch.arange(2**low, device=W.device)[:, None] >> torch.arange(low, device=W.device)) & 1
        low_bits = bits.double()
        low_field, low_bias = low_bits @ W[:, :low].t(), low_bits @ c[:low]
        total = torch.tensor(-math.inf, dtype=torch.float64, device=W.device)
        for high in range(2 ** (units - low)):
            # one addition per block instead of a product: the high units are fixed in it
            on = torch.tensor([(high >> k) & 1 for k in range(units - low)], dtype=torch.float64, device=W.device)
            field = low_field + (b + W[:, low:] @ on)
            terms = F.softplus(field).sum(1) + low_bias + on @ c[low:]
            total = torch.logaddexp(total, torch.logsumexp(terms, 0))
        return float(total)

    def annealed_log_partition(
        self, *, chains: int = 200, temperatures: int = 4000, seed: int = 0, burn_in: int = 500
    ) -> dict[str, float]:
        """log Z by AIS from the base-rate model, and backwards from long chains.

        The path is F_beta(v) = -(1-beta) a.v - beta b.v - sum_j softplus(beta (c_j + (vW)_j)) with a the data's base
        rates (Salakhutdinov & Murray 2008, eq. 15). Backward chains start at the data's base rates and run `burn_in`
        sweeps at beta = 1 first.
        """
        betas = ladder(temperatures)
        base, W = self.base.to(self.W.dtype), self.W
        log_base = float(F.softplus(base.double()).sum()) + W.shape[1] * math.log(2)
        noise = RowNoise(stream(seed, "ais"), chains, device=W.device, dtype=W.dtype)

        shift = self.b - base

        def move(v: Tensor, a: float, b: float, last: bool) -> tuple[Tensor, Tensor]:
            field = torch.addmm(self.c, v, W)
            gain = (b - a) * (v @ shift) + (F.softplus(b * field) - F.softplus(a * field)).sum(1)
            if last:
                return gain, v
            h = noise.bernoulli(torch.sigmoid_(b * field))
            return gain, noise.bernoulli(torch.sigmoid_(torch.addmm((1 - b) * base + b * self.b, h, W.t(), alpha=b)))

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
        return -(x @ self.b.double()) - F.softplus(fields).sum(1)

    def sample(self, noise: Noise, y: Tensor | None, *, sweeps: int = 500, mean: bool | None = None) -> Tensor:
        """Chains from the data's base rates after `sweeps` of Gibbs sampling; with mean=True the last visible
        probabilities instead of a draw. Default: probabilities for images, which show as grey levels, draws for
        tables."""
        if isinstance(sweeps, bool) or not isinstance(sweeps, int) or sweeps < 1:
            raise InvalidOption(f"sweeps: expected a whole number of at least 1, got {sweeps!r}")
        v = self.gibbs(self.fantasy(noise), sweeps - 1, noise)
        probability = self.visible_given(noise.bernoulli(self.hidden_given(v)))
        return probability if (self._pictures if mean is None else mean) else noise.bernoulli(probability)

    def encode(self, x: Tensor, observed: Tensor | None, y: Tensor | None) -> Tensor:
        """p(h = 1 | v), (n, hidden)."""
        return self.hidden_given(x)

    def decode(self, z: Tensor, y: Tensor | None) -> Tensor:
        """p(v = 1 | h), (n, visible)."""
        return self.visible_given(z)

    def conditional(
        self, x: Tensor, observed: Tensor, y: Tensor | None, noise: Noise, *, mean: bool, sweeps: int = 200
    ) -> Tensor:
        """Clamped Gibbs sampling of the missing units; `mean` averages their probabilities over the second half."""
        v = torch.where(observed, x, noise.bernoulli(torch.sigmoid(self.base).expand(len(x), -1)))
        total = torch.zeros_like(v)
        for sweep in range(sweeps):
            probability = self.visible_given(noise.bernoulli(self.hidden_given(v)))
            v = torch.where(observed, x, noise.bernoulli(probability))
            if sweep >= sweeps // 2:
                total += probability
        return torch.where(observed, x, total / (sweeps - sweeps // 2)) if mean else v


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
    network = model.network
    if not isinstance(network, RBMNetwork):
        raise Unsupported(f"rbm.log_partition needs an rbm model, got {model.family}")
    if method not in ("auto", "exact", "ais"):
        raise InvalidOption(f"method: expected auto, exact or ais, got {method!r}")
    with torch.inference_mode():
        if method == "exact" or (method == "auto" and network.likelihood == "exact"):
            return {"method": "exact", "log_z": network.exact_log_partition(), "standard_error": 0.0}
        found = network.annealed_log_partition(chains=chains, temperatures=temperatures, seed=seed, burn_in=burn_in)
    return {"method": "AIS", **found, "gap": found["log_z_reverse"] - found["log_z"]}
