"""`reverie info`: what a run or saved model is, how it was asked for, and how it came about."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from reverie.cli.app import OK
from reverie.cli.flags import JSON, QUIET, parse
from reverie.cli.sample import RUN
from reverie.cli.screen import Screen, duration, size, table
from reverie.errors import InvalidOption, ReverieError

_TAIL = 5


def run(argv: list[str], screen: Screen) -> int:
    """Print what is known."""
    run_ = dataclasses.replace(RUN)
    parsed = parse([run_, QUIET, JSON], argv, prog="reverie info", description="What a run or saved model is.")
    if parsed["run"] is None:
        raise InvalidOption("reverie info: give the run, as in reverie info runs/digits")
    document = facts(Path(parsed["run"]))
    screen.result(document, text(document))
    return OK


def facts(path: Path) -> dict[str, Any]:
    """All of it as one document. A model whose custom network is not at hand is described from its files."""
    from reverie import serial, store

    folder = store.model_folder(path)
    saved = serial.read_json(folder / "model.json")
    info = saved["info"]
    out: dict[str, Any] = {
        "path": str(path),
        "kind": "run" if (path / "config.json").exists() else "model",
        "family": saved["family"],
        "asked": saved["estimator"],
        "resolved": info.get("resolved", saved["estimator"]),
        "training": info.get("training"),
        "seed": info.get("seed"),
        "data": info.get("data"),
        "parameters": info.get("parameters"),
        "steps": info.get("steps"),
        "seconds": info.get("seconds"),
        "versions": info.get("versions"),
        "epochs": saved["history"][-1]["epoch"] if saved["history"] else 0,
        "history": saved["history"],
        "warnings": saved["warnings"],
        "findings": info.get("findings", []),
        "pace": info.get("pace", []),
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
    }
    if out["kind"] == "run":
        from reverie.learning.folder import read_config

        out["source"] = read_config(path)["data"].get("source")
    try:
        model = store.load(path)
    except ReverieError as error:
        return {**out, "not_loaded": str(error)}
    out["can"] = sorted(model.can)
    out["rules"] = [
        {"rule": rule.text, "rows": rule.evidence.rows, "log_chance": rule.evidence.log_chance} for rule in model.rules
    ]
    out["columns"] = model.codec.supports()
    if model.log_prob_kind:
        out["likelihood"] = {"kind": model.log_prob_kind, "measure": model.measure, "info": model.log_prob_info}
    out["phases"] = _phases(model, out)
    return out


def _phases(model: Any, out: dict[str, Any]) -> list[dict[str, Any]]:
    """How the budget was split: each phase's share of it, and what it has done so far."""
    import torch

    from reverie import config
    from reverie.learning.run import Run

    resolved = config.from_json(type(model.estimator), out["resolved"])
    run_ = Run(seed=out["seed"] or 0, device=torch.device("cpu"))
    phases = resolved.phases(model.network, run_, fresh=True)
    seen = {record["phase"] for record in out["history"]}
    if seen and phases[0].name not in seen:  # it went on from another model, and may have had fewer phases
        phases = resolved.phases(model.network, run_, fresh=False)
    whole = sum(phase.share for phase in phases)
    training = out["training"] or {}
    budget = next(((name, training[name]) for name in ("epochs", "steps", "minutes") if training.get(name)), None)
    rows = []
    for phase in phases:
        row: dict[str, Any] = {"phase": phase.name, "share": phase.share / whole}
        if budget is not None:
            row["budget"] = f"{budget[1] * phase.share / whole:g} {budget[0]}"
        done = [record for record in out["history"] if record["phase"] == phase.name]
        row["epochs_done"] = done[-1]["epoch"] if done else 0
        rows.append(row)
    return rows


def _pace(measured: dict[str, Any]) -> str:
    """What was chosen of the ways to compute steps, and how fast each was."""
    chosen = measured["chosen"]
    kept = ", ".join([chosen["precision"], *(name for name in ("compile", "channels_last") if chosen[name])])
    timed = ", ".join(f"{name} {seconds * 1000:.3g} ms" for name, seconds in measured["seconds_per_step"].items())
    return f"{kept} (a step took: {timed})"


def text(found: dict[str, Any]) -> str:
    """The document as text."""
    from reverie.learning.watching.findings import Finding

    lines = [f"{found['path']}: {found['kind']} of the family {found['family']}, {size(found['bytes'])} on disk"]
    if found["parameters"] is not None:
        lines.append(f"parameters: {found['parameters']:,}")
    data = found["data"]
    if data:
        lines.append(f"data: {data['name']}, {data['rows']:,} training rows, hash {data['hash'][:12]}")
    if found.get("source"):
        lines.append("read from: " + ", ".join(f"{key}={value}" for key, value in found["source"].items()))
    asked, resolved = found["asked"], found["resolved"]
    lines += ["", "recipe:"]
    for name, value in asked.items():
        became = f"  ->  {_short(resolved[name])}" if resolved.get(name) != value else ""
        lines.append(f"  {name} = {_short(value)}{became}")
    training = {k: v for k, v in (found["training"] or {}).items() if v is not None and k != "out"}
    lines += ["", "training: " + ", ".join(f"{k} {_short(v)}" for k, v in training.items()) + f", seed {found['seed']}"]
    if found.get("phases"):
        rows = [[r["phase"], f"{r['share']:.0%}", r.get("budget", ""), r["epochs_done"]] for r in found["phases"]]
        lines += ["", table(["phase", "share", "budget", "epochs done"], rows)]
        if len(rows) > 1 and found["kind"] == "run":
            last = rows[-1][0]
            lines += [
                f"fit --resume with a larger budget lengthens the last phase, {last!r}, alone once the others are over"
            ]
    if found["steps"] is not None:
        lines += ["", f"trained: {found['epochs']} epochs, {found['steps']} steps, {duration(found['seconds'])}"]
    if found["history"]:
        lines += _history(found["history"])
    if found.get("columns"):
        lines += ["", "columns on a support or scale of their own:"]
        lines += [f"  {name}: {support}" for name, support in found["columns"].items()]
    if found.get("rules"):
        lines += ["", "rules that all rows keep:"]
        lines += [f"  {item['rule']} ({item['rows']:,} rows{_chance(item['log_chance'])})" for item in found["rules"]]
    if found.get("can"):
        lines += ["", f"can: {', '.join(found['can'])}"]
    if found.get("likelihood"):
        known = found["likelihood"]
        lines.append(f"likelihood: {known['kind']}, {known['measure']}")
        if known["info"]:
            lines.append("  " + ", ".join(f"{key} {_short(value)}" for key, value in known["info"].items()))
    if found["versions"]:
        lines.append("made with: " + ", ".join(f"{name} {version}" for name, version in found["versions"].items()))
    lines += [f"warning: {warning}" for warning in found["warnings"]]
    lines += [f"finding: {Finding(**item)}" for item in found["findings"]]
    lines += [f"pace from step {item['step']}: {_pace(item)}" for item in found["pace"]]
    if found.get("not_loaded"):
        lines.append(f"not loaded: {found['not_loaded']}")
    return "\n".join(lines)


def _chance(log_chance: float) -> str:
    """The chance that a rule found would hold by itself; nothing for one that was asked for."""
    return f", by chance in 1 of 10^{-log_chance / math.log(10):.0f} tables" if log_chance else ", asked for"


def _history(history: list[dict[str, Any]]) -> list[str]:
    tail = history[-_TAIL:]
    names = list(dict.fromkeys(name for record in tail for name in record if name != "partial"))
    rows = [[record.get(name) for name in names] for record in tail]
    return ["", f"the last {len(tail)} of {len(history)} epochs:", table(names, rows)]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        inside = ", ".join(f"{key}={_short(item)}" for key, item in value.items() if key != "type")
        return f"{value['type']}({inside})" if "type" in value else f"({inside})"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
