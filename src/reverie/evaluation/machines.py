"""What machines with an energy are asked beside the verbs of a Model: their log Z, and whether their chains mix."""

from __future__ import annotations

from typing import Any, Literal

import torch

from reverie import catalog
from reverie.config import check_count, check_seed
from reverie.errors import InvalidOption, Unsupported
from reverie.metrics import autocorrelation, effective_draws, r_hat
from reverie.model.model import Model
from reverie.probability.machines.belief import BeliefNetwork
from reverie.probability.machines.partition import Machine
from reverie.rng import RowNoise, generator, stream


def log_partition(
    model: Model,
    *,
    method: Literal["auto", "exact", "ais"] = "auto",
    chains: int = 200,
    temperatures: int = 4000,
    seed: int = 0,
    burn_in: int = 500,
) -> dict[str, Any]:
    """log Z of a machine, by listing states or by AIS with its reverse, whatever the model has cached.

    "log_z" and "standard_error"; of AIS also "effective_chains", "log_z_reverse", "standard_error_reverse" and "gap",
    the reverse estimate less the forward one: the first errs low on average, the second high.
    """
    machine = _machine(model)
    if method not in ("auto", "exact", "ais"):
        raise InvalidOption(f"method: expected auto, exact or ais, got {method!r}")
    for name, value, least in (("chains", chains, 2), ("temperatures", temperatures, 2), ("burn_in", burn_in, 0)):
        check_count(value, name, least=least)
    with torch.inference_mode():
        if method == "exact" or (method == "auto" and machine.listable):
            return {"method": "exact", "log_z": machine.exact_log_partition(), "standard_error": 0.0}
        found = machine.annealed_log_partition(
            chains=chains, temperatures=temperatures, seed=check_seed(seed), burn_in=burn_in
        )
    return {"method": "AIS", **found, "gap": found["log_z_reverse"] - found["log_z"]}


@torch.inference_mode()
def mixing(
    model: Model, *, chains: int = 20, sweeps: int = 2000, seed: int = 0, traces: bool = False
) -> dict[str, Any]:
    """Do Gibbs chains of this machine mix? `chains` of them from independent units, the first half of the `sweeps` left
    out; of the (free) energy and 16 random projections of the states the worst split R-hat and the fewest effective
    draws (Vehtari et al. 2021), those of the energy alone, and how many draws there were. R-hat above 1.01, or fewer
    than 400 effective draws, say that samples still depend on where they began.

    With `traces` also what plots of chains are made of: "energies" (chains, sweeps) from the first sweep on, and
    "autocorrelation" of the energy's second half, from lag 0."""
    machine, seed = _machine(model), check_seed(seed)
    check_count(chains, "chains", least=2)
    check_count(sweeps, "sweeps", least=8)
    parameter = next(machine.parameters())
    noise = RowNoise(stream(seed, "mixing"), chains, device=parameter.device, dtype=parameter.dtype)
    directions, seen, energies = None, [], []
    for sweep, (states, energy) in enumerate(machine.walk(noise, sweeps)):
        if directions is None:
            directions = torch.randn(states.shape[1], 16, generator=generator(seed, "directions")).to(parameter)
        if traces:
            energies.append(energy)
        if sweep >= sweeps // 2:
            seen.append(torch.cat([energy[:, None], states @ directions], 1))
    draws = torch.stack(seen, 2).double().cpu().numpy()  # (chains, quantities, steps)
    r_hats = [r_hat(draws[:, number]) for number in range(draws.shape[1])]
    effective = [effective_draws(draws[:, number]) for number in range(draws.shape[1])]
    found: dict[str, Any] = {
        "r_hat": max(r_hats),
        "effective_draws": min(effective),
        "r_hat_energy": r_hats[0],
        "effective_draws_energy": effective[0],
        "draws": float(chains * len(seen)),
    }
    if traces:
        found["energies"] = torch.stack(energies, 1).double().cpu().numpy()
        found["autocorrelation"] = autocorrelation(draws[:, 0])
    return found


def _machine(model: Model) -> Machine:
    """The model's network, or the machine on top of its directed layers."""
    network = model.network.top if isinstance(model.network, BeliefNetwork) else model.network
    if not isinstance(network, Machine):
        families = ", ".join(name for name, row in catalog.families().items() if row.machine)
        raise Unsupported(
            f"this needs a machine with an energy, and {model.family} is none; families that are: {families}"
        )
    return network
