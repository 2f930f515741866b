"""`Model`: what `fit` returns. The only place that converts data, seeds, chunks, moves devices and checks capabilities."""

from __future__ import annotations

import copy
import inspect
import math
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reverie import catalog, config, serial
from reverie.config import check_count, check_seed
from reverie.data.codec.maps import Codec, Prepared
from reverie.data.codec.negotiate import codec_from_json
from reverie.data.codec.sequences import SequenceCodec
from reverie.data.forms.conditions import label_lengths, restore_y
from reverie.data.forms.reading import restore_table
from reverie.data.schema import Schema
from reverie.data.space import Points
from reverie.data.table import Table
from reverie.errors import CheckpointError, InvalidOption, Unsupported, did_you_mean
from reverie.model.intake import Intake, one_hot
from reverie.rng import Chosen, LatticeNoise, Noise, RowNoise, stream

NEEDS: dict[str, tuple[str, ...]] = {
    "sample": ("sample",),
    "log_prob": ("log_prob",),
    "encode": ("encode",),
    "decode": ("decode",),
    "reconstruct": ("encode", "decode"),
    "interpolate": ("encode", "decode", "blend"),
    "impute": ("conditional",),
    "energy": ("energy",),
    "predict": ("classify",),
    "predict_proba": ("classify",),
}
"""Verb -> the methods a network's class must have for it."""

_CHUNK = 1024
_LIGHT_NUMBERS = 2**23


def discover(network_type: type[nn.Module]) -> frozenset[str]:
    """The verbs a network class supports, from its methods (never from its attributes or submodules)."""
    return frozenset(
        verb
        for verb, methods in NEEDS.items()
        if all(callable(getattr(network_type, method, None)) for method in methods)
    )


@final
class Model:
    """A trained model: recipe, schema, codec, network, and how it came about.

    `can` lists its verbs; others raise `Unsupported` and name the families that have them. Every method takes and
    returns data in the form the training data had. Sampling with the same seed gives the same rows whatever the chunk
    size, and `sample(10, seed=s)` is the head of `sample(100, seed=s)`.
    """

    def __init__(
        self,
        estimator: Any,
        schema: Schema,
        codec: Codec,
        network: nn.Module,
        *,
        history: list[dict[str, Any]] | None = None,
        warnings: list[str] | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        self.estimator, self.schema, self.codec = estimator, schema, codec
        self.network = network.eval().requires_grad_(False)
        self.history = history or []
        self.warnings = warnings or []
        self.info = info or {}
        self.chunk = _chunk(network, codec)
        self.intake = Intake(schema, codec, self.family, predicts_y=getattr(network, "predicts_y", False))

    # ------------------------------------------------------------------ what it is

    @property
    def family(self) -> str:
        """The catalog name of the family."""
        return str(self.estimator.family)

    @property
    def can(self) -> frozenset[str]:
        """The verbs this very model supports: those of its class, less what its data rule out."""
        return discover(type(self.network)) - set(self._limits())

    def _limits(self) -> dict[str, str]:
        limits = getattr(type(self.network), "limits", None)
        return dict(limits(self.network, self.codec.space)) if callable(limits) else {}

    @property
    def log_prob_kind(self) -> str | None:
        """ "exact", "lower bound", "estimate" or "unnormalised"; None when there is no likelihood."""
        if "log_prob" not in self.can:
            return None
        kind = str(getattr(self.network, "likelihood", "exact"))
        return "lower bound" if kind == "exact" and self.codec.lowers else kind

    @property
    def measure(self) -> str:
        """What the likelihood is a density or probability of; two figures compare only under the same measure."""
        return self.codec.measure

    @property
    def log_prob_info(self) -> dict[str, Any] | None:
        """How the last normalising constant was found (method, log Z, standard error, gap), for families that need one."""
        info = getattr(self.network, "partition_info", None)
        return info() if callable(info) else None

    @property
    def device(self) -> torch.device:
        for tensor in (*self.network.parameters(), *self.network.buffers()):
            return tensor.device
        return torch.device("cpu")

    def to(self, device: str | torch.device) -> Model:
        """A copy of this model on another device."""
        try:
            place = torch.device(device)
        except (RuntimeError, TypeError):
            raise InvalidOption(f"device: no such device as {device!r}; give 'cpu', 'cuda' or 'mps'") from None
        moved = copy.copy(self)
        moved.network = copy.deepcopy(self.network).to(place)
        return moved

    # ------------------------------------------------------------------ verbs

    def sample(
        self,
        n: int,
        *,
        y: Any = None,
        seed: int | None = None,
        return_y: bool = False,
        length: int | None = None,
        **options: Any,
    ) -> Any:
        """Draw `n` examples, in the form of the training data.

        y: one value for all rows, or n of them; without it a conditional model draws y as often as it occurred in
        training (`return_y=True` returns (examples, y)). Sequences have `length` steps, or as many as training
        sequences had. options are the family's (`model.sample_options`).
        """
        self._require("sample")
        check_count(n, "n")
        self._check_options("sample", options)
        seed = secrets.randbits(62) if seed is None else check_seed(seed)
        if self.codec.space.sequence:
            return self._sample_sequences(n, y, seed, return_y, length, options)
        if length is not None:
            raise InvalidOption(f"length: this {self.family} learned rows, not sequences; leave length out")
        condition, user_y = self.intake.conditions(y, n, seed)
        tables = []
        for start in range(0, n, self.chunk):
            rows = min(self.chunk, n - start)
            part = None if condition is None else condition[start : start + rows].to(self.device)
            with torch.inference_mode():
                x = self.network.sample(self._noise(seed, "sample", rows, start), part, **options)  # type: ignore[operator]
            tables.append(self.codec.decode(x))
        examples = restore_table(self.schema, Table.concat(tables))
        return (examples, user_y) if return_y else examples

    def _sample_sequences(
        self, n: int, y: Any, seed: int, return_y: bool, length: int | None, options: dict[str, Any]
    ) -> Any:
        """`sample` for sequences; labels per step are drawn from the chain when y is not given."""
        codec, network = self.codec, self.network
        assert isinstance(codec, SequenceCodec)
        if length is not None:
            check_count(length, "length")
        condition, user_y = self.intake.conditions(y, n, seed)
        if condition is not None and self.intake.per_step:
            lengths = torch.from_numpy(label_lengths(self.schema, y, n))
            if length is not None:
                raise InvalidOption("length: y gives every sequence its length; leave length out")
        elif length is not None:
            lengths = torch.full((n,), length)
        else:
            lengths = codec.draw_lengths(RowNoise(stream(seed, "lengths"), n))
        starts = lengths.cumsum(0) - lengths
        tables, codes = [], []
        for start in range(0, n, self.chunk):
            rows = min(self.chunk, n - start)
            own = lengths[start : start + rows]
            noise = self._noise(seed, "sample", rows, start)
            part = condition
            if condition is not None and self.intake.per_step:
                part = condition[starts[start] : starts[start] + own.sum()]
            elif condition is not None:
                part = condition[start : start + rows]
            with torch.inference_mode():
                if part is None and self.intake.per_step:
                    drawn = network.draw_labels(self._noise(seed, "labels", rows, start), own)  # type: ignore[operator]
                    codes.append(drawn.cpu().numpy())
                    part = one_hot(drawn, codec.space.condition_width, codec.space.torch_dtype)
                x = network.sample(noise, _moved(part, self.device), lengths=own, **options)  # type: ignore[operator]
            tables.append(codec.decode(x))
        examples = restore_table(self.schema, Table.concat(tables))
        if not return_y:
            return examples
        return (examples, self.intake.step_labels(tables, np.concatenate(codes)) if codes else user_y)

    @property
    def sample_options(self) -> dict[str, Any]:
        """The family's sampling options and their defaults."""
        options = _keyword_options(self.network.sample)
        return {name: default for name, default in options.items() if name != "lengths"}

    def log_prob(
        self, X: Any, y: Any = None, *, seed: int = 0, dequantisation: int = 8, **options: Any
    ) -> NDArray[Any]:
        """log p(x | y) when y is given, log p(x) otherwise: (n,) nats per example, in the data's own units.

        Missing cells are summed or integrated out. Dequantised columns average `dequantisation` fixed offsets inside
        each grid cell, which keeps a lower bound; stochastically binarised pixels are drawn once, from `seed`.
        A conditional model without y sums over the classes by their training frequency.
        """
        self._require("log_prob")
        check_count(dequantisation, "dequantisation")
        seed = check_seed(seed)
        self._check_options("log_prob", options)
        parts = []
        for start, _, prepared in self.intake.prepared(X, y, self.chunk):
            parts.append(self._log_prob_rows(prepared, start, seed, dequantisation, options))
        return torch.cat(parts).numpy() if parts else np.empty(0)

    def _log_prob_rows(self, rows: Prepared, start: int, seed: int, offsets: int, options: dict[str, Any]) -> Tensor:
        codec, n = self.codec, len(rows)
        draws: list[Noise]
        if codec.noise_width and codec.lowers and codec.space.grid is None:
            draws = [LatticeNoise(n, number, offsets) for number in range(offsets)]
        elif codec.noise_width and codec.lowers:
            draws = [self._noise(seed, f"dequantise {number}", n, start) for number in range(offsets)]
        else:
            draws = [self._noise(seed, "binarise", n, start)]
        total = torch.zeros(n, dtype=torch.float64)
        for number, draw in enumerate(draws):
            x = codec.noise(rows.x, draw)
            further = codec.batch_log_det(x)
            with torch.inference_mode():
                value = self._marginal(x, rows, (seed, f"log_prob {number}", n, start), options).cpu()
            total += value if further is None else value + further
        return total / len(draws) + rows.log_det

    def _marginal(self, x: Points, rows: Prepared, key: tuple[int, str, int, int], options: dict[str, Any]) -> Tensor:
        """log p(x | y), or log sum_y p(y) p(x | y) with the same noise (`key`) for every class."""
        x, observed = x.to(self.device), _moved(rows.observed, self.device)
        log_prob: Any = self.network.log_prob
        alone = getattr(self.network, "marginalises", False)  # sums y out by itself
        if rows.y is not None or self.codec.condition is None or alone:
            given: Tensor = log_prob(x, observed, _moved(rows.y, self.device), self._noise(*key), **options)
            return given.double()
        frequencies = self.codec.condition.frequencies
        if frequencies is None:
            raise InvalidOption("log_prob: this model was trained with a numeric y: pass y to get log p(x | y)")
        terms = []
        for label in np.flatnonzero(frequencies):
            y = self.codec.encode_condition(np.full(len(rows), label)).to(self.device)
            value = log_prob(x, observed, y, self._noise(*key), **options).double()
            terms.append(value + math.log(frequencies[label]))
        return torch.logsumexp(torch.stack(terms), 0)

    def score_samples(self, X: Any, y: Any = None, **options: Any) -> NDArray[Any]:
        """(n,) scores, higher = more normal: `log_prob`."""
        return self.log_prob(X, y, **options)

    def anomaly_score(self, X: Any, y: Any = None, **options: Any) -> NDArray[Any]:
        """(n,) scores, higher = more abnormal: `-log_prob`."""
        return -self.log_prob(X, y, **options)

    def anomaly_attribution(self, X: Any, y: Any = None, **options: Any) -> Any:
        """Which columns make a row abnormal: -log p(x_j | the row's other columns), (n, columns), in nats.

        Large where the column disagrees with the rest of its row; 0 where its cell is missing. In the form of X: a
        DataFrame for a DataFrame, else an array. For rows of tables whose model takes missing cells.
        """
        self._require("log_prob")
        row = catalog.families().get(self.family)
        if row is not None and not row.holes:
            can = catalog.who_takes(set(), verb="log_prob", holes=True)
            raise Unsupported(
                f"anomaly_attribution leaves out one cell at a time, and {self.family} scores complete rows only; "
                f"families that can: {can}"
            )
        whole = self.log_prob(X, y, **options)
        table = Table.concat([table for _, table in self.intake.tables(X, y, self.chunk)])
        found: dict[str, NDArray[Any]] = {}
        for field in self.schema.data_fields:
            if field.kind in ("image", "sequence", "text"):
                raise Unsupported(f"anomaly_attribution is for the columns of tables, not for {field.kind} data")
            for position in range(max(field.width, 1)):
                hidden = restore_table(
                    self.schema, table.with_columns({field.name: field.hidden(table[field.name], position)})
                )
                name = field.name if not field.shape else f"{field.name}[{position}]"
                found[name] = self.log_prob(hidden, self._y_of(table, y), **options) - whole
        if self.schema.container != "dataframe":
            return np.column_stack(list(found.values()))
        import pandas as pd

        return pd.DataFrame(found, index=getattr(X, "index", None))

    def _y_of(self, table: Table, y: Any) -> Any:
        return None if y is None else restore_y(self.schema, table)

    def bits_per_dim(self, X: Any, y: Any = None, **options: Any) -> NDArray[Any]:
        """(n,) -log2 p(x) per column or pixel, and per step of sequences."""
        cells: Any = sum(math.prod(field.shape) for field in self.schema.data_fields)
        if self.codec.space.sequence:
            tables = [table for _, table in self.intake.tables(X, y, self.chunk)]
            cells = cells * self.intake.lengths(Table.concat(tables))
        return np.asarray(-self.log_prob(X, y, **options) / (math.log(2) * cells))

    def encode(self, X: Any, y: Any = None) -> Any:
        """(n, d) codes: responsibilities, hidden probabilities or latent means, as the family has them.

        For sequences codes are per step: a list of (T, d), or for a long DataFrame one row for each of its rows.
        """
        self._require("encode")
        found = list(self._codes(X, y))
        codes = np.concatenate([codes.cpu().numpy() for _, codes, _ in found])
        return self.intake.steps([table for table, _, _ in found], codes) if self.codec.space.sequence else codes

    def decode(self, Z: Any, y: Any = None) -> Any:
        """(n, d) codes -> examples in the form of the training data."""
        self._require("decode")
        try:
            codes = torch.as_tensor(np.asarray(Z, dtype=np.float64)).to(self.codec.space.torch_dtype)
        except (TypeError, ValueError):
            raise InvalidOption("decode: codes must be an array of numbers (n, d)") from None
        width = int(getattr(self.network, "code_width", codes.shape[-1]))
        if codes.ndim != 2 or codes.shape[1] != width or not torch.isfinite(codes).all():
            raise InvalidOption(f"decode: codes must be finite, of shape (n, {width}); got {tuple(codes.shape)}")
        self._require_y(y)
        condition, _ = self.intake.conditions(y, len(codes), 0)
        with torch.inference_mode():
            x = self.network.decode(codes.to(self.device), _moved(condition, self.device))  # type: ignore[operator]
        return restore_table(self.schema, self.codec.decode(x))

    def reconstruct(self, X: Any, y: Any = None) -> Any:
        """Each example encoded and decoded again."""
        self._require("reconstruct")
        tables = []
        for _, codes, condition in self._codes(X, y):
            with torch.inference_mode():
                tables.append(self.codec.decode(self.network.decode(codes, condition)))  # type: ignore[operator]
        return restore_table(self.schema, Table.concat(tables))

    def interpolate(self, a: Any, b: Any, steps: int = 8, *, y: Any = None) -> Any:
        """From each row of `a` to the same row of `b` through code space: n blocks of `steps` examples, ends included."""
        self._require("interpolate")
        check_count(steps, "steps", least=2)
        first = torch.cat([codes for _, codes, _ in self._codes(a, y)])
        second = torch.cat([codes for _, codes, _ in self._codes(b, y)])
        if first.shape != second.shape:
            raise InvalidOption(f"interpolate: a has {len(first)} rows and b {len(second)}; give as many")
        weights = torch.linspace(0, 1, steps, dtype=first.dtype, device=first.device)
        with torch.inference_mode():
            path = torch.stack([self.network.blend(first, second, t) for t in weights], 1).flatten(0, 1)  # type: ignore[operator]
            condition, _ = self.intake.conditions(y, len(first), 0)
            if condition is not None:
                condition = condition.to(self.device).repeat_interleave(steps, 0)
            x = self.network.decode(path, condition)  # type: ignore[operator]
        return restore_table(self.schema, self.codec.decode(x))

    def impute(self, X: Any, y: Any = None, *, n_draws: int | None = None, seed: int = 0) -> Any:
        """Fill missing cells (NaN, None, NaT, NA) given the observed ones, which come back untouched.

        Without n_draws: one best guess per cell (conditional mean or mode). With it: a list of that many completions
        drawn from the conditional distribution.
        """
        self._require("impute")
        seed = check_seed(seed)
        if n_draws is not None:
            check_count(n_draws, "n_draws")
        alone = getattr(self.network, "marginalises", False)
        if self.codec.condition is not None and y is None and not alone:
            raise InvalidOption("y: this model was trained with y: pass y, on which what is missing depends")
        results = [self._impute_once(X, y, None if n_draws is None else draw, seed) for draw in range(n_draws or 1)]
        return results if n_draws is not None else results[0]

    def _impute_once(self, X: Any, y: Any, draw: int | None, seed: int) -> Any:
        tables = []
        for start, raw in self.intake.tables(X, y, self.chunk, filling=True):
            prepared = self.intake.prepare(raw, y is not None, holes=True)
            middle = draw is None and self.codec.lowers  # best guesses start from the middle of every cell
            within: Noise = self._noise(seed, "impute noise", len(prepared), start)
            x = self.codec.noise(prepared.x, LatticeNoise(len(prepared), 0, 1) if middle else within)
            observed = prepared.observed
            if observed is not None:
                x, observed, condition = x.to(self.device), observed.to(self.device), _moved(prepared.y, self.device)
                chains = getattr(self.network, "mean_chains", 1) if draw is None else 1
                names = [f"impute {draw}", *(f"impute {draw}, chain {chain}" for chain in range(1, chains))]
                noises = [self._noise(seed, name, len(prepared), start) for name in names]
                with torch.inference_mode():
                    x = self._completed(x, observed, condition, noises, mean=draw is None)
            tables.append(self.schema.fill(raw, self.codec.decode(x, means=draw is None)))
        return restore_table(self.schema, Table.concat(tables))

    def _completed(self, x: Any, observed: Tensor, y: Tensor | None, noises: Sequence[Noise], *, mean: bool) -> Any:
        """x with the mean over the noises of what the network puts in for cells that are not observed; where rows are
        tensors, those without such cells are left alone."""
        conditional: Any = self.network.conditional
        holed = None if not isinstance(x, Tensor) else (~observed).flatten(1).any(1).nonzero()[:, 0]
        if holed is not None and len(holed) < len(x):
            if not len(holed):
                return x
            rows, seen, own = x[holed], observed[holed], None if y is None else y[holed]
            found = self._completed(rows, seen, own, [Chosen(noise, holed) for noise in noises], mean=mean)
            return x.index_copy(0, holed, found.to(x.dtype))
        runs = [conditional(x, observed, y, noise, mean=mean) for noise in noises]
        return runs[0] if len(runs) == 1 else torch.where(observed, x, torch.stack(runs).mean(0))

    def _classified(self, X: Any) -> tuple[list[Table], NDArray[Any]]:
        tables, parts = [], []
        for _, table, prepared in self.intake.prepared(X, None, self.chunk):
            x = self.codec.middle(prepared.x).to(self.device)
            with torch.inference_mode():
                found = self.network.classify(x, _moved(prepared.observed, self.device))  # type: ignore[operator]
            tables.append(table)
            numbers = self.codec.condition is not None and self.codec.condition.kind == "vector"
            parts.append((found if numbers else found.exp()).double().cpu())
        return tables, torch.cat(parts).numpy()

    def predict_proba(self, X: Any) -> Any:
        """(n, classes) P(y | x), with the classes in the order of `classes`; missing cells are summed out.

        For labels per step: a list of (T, classes), or one row for each row of a long DataFrame.
        """
        self._require("predict_proba")
        tables, found = self._classified(X)
        return self.intake.steps(tables, found) if self.intake.per_step else found

    def predict(self, X: Any) -> Any:
        """The likeliest class of each row (or step), in the form y had in training; its numbers where y is numbers."""
        self._require("predict")
        tables, found = self._classified(X)
        condition = self.codec.condition
        if condition is not None and condition.kind == "vector":
            return self.intake.labels(Table({}, len(found)), condition.decode(found))
        codes = found.argmax(1)
        if self.intake.per_step:
            return self.intake.step_labels(tables, codes)
        return self.intake.labels(Table({}, len(codes)), codes)

    @property
    def classes(self) -> tuple[Any, ...]:
        """The classes of y, in the order of `predict_proba`'s columns; empty without classes."""
        field = self.schema.condition
        if field is None or field.one_step.kind not in ("category", "boolean"):
            return ()
        return (False, True) if field.one_step.kind == "boolean" else tuple(field.categories or ())

    def energy(self, X: Any) -> NDArray[Any]:
        """(n,) E(x) with p(x) = exp(-E(x)) / Z: the free energy where hidden units are summed out."""
        self._require("energy")
        parts = []
        for start, _, prepared in self.intake.prepared(X, None, self.chunk):
            if prepared.observed is not None and not bool(prepared.observed.all()):
                raise InvalidOption("energy: a row with missing cells has none; log_prob sums missing cells out")
            x = self.codec.noise(prepared.x, self._noise(0, "binarise", len(prepared), start))
            with torch.inference_mode():
                parts.append(self.network.energy(x.to(self.device)).double().cpu())  # type: ignore[operator]
        return torch.cat(parts).numpy()

    # ------------------------------------------------------------------ inside

    def _require(self, verb: str) -> None:
        if verb in self.can:
            return
        reason = self._limits().get(verb)
        have = ", ".join(sorted(self.can))
        if reason:
            raise Unsupported(f"this {self.family} can't {verb}: {reason}. It can: {have}")
        raise Unsupported(
            f"{self.family} can't {verb}; families that can: {catalog.who_can(verb)}. This model can: {have}"
        )

    def _require_y(self, y: Any) -> None:
        if self.codec.condition is not None and y is None and not getattr(self.network, "marginalises", False):
            raise InvalidOption("y: this model was trained with y: pass y, which its encoder and decoder also read")

    def _check_options(self, verb: str, options: dict[str, Any]) -> None:
        known = _keyword_options(getattr(self.network, verb))
        for name in options:
            if name not in known:
                raise InvalidOption(
                    f"{verb}: {name}: no such option of {self.family}{did_you_mean(name, known) or '.'} "
                    f"Options: {', '.join(known) or 'none'}"
                )

    def _noise(self, seed: int, name: str, rows: int, start: int) -> RowNoise:
        return RowNoise(stream(seed, name), rows, start=start, device=self.device, dtype=self.codec.space.torch_dtype)

    def _codes(self, X: Any, y: Any) -> Iterator[tuple[Table, Tensor, Tensor | None]]:
        self._require_y(y)
        for start, table, prepared in self.intake.prepared(X, y, self.chunk):
            if getattr(self.network, "reads_middle", False):
                x = self.codec.middle(prepared.x).to(self.device)
            else:
                x = self.codec.noise(prepared.x, self._noise(0, "binarise", len(prepared), start)).to(self.device)
            condition = _moved(prepared.y, self.device)
            with torch.inference_mode():
                codes = self.network.encode(x, _moved(prepared.observed, self.device), condition)  # type: ignore[operator]
            yield table, codes, condition

    # ------------------------------------------------------------------ on disk and on screen

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write this model into a folder of its own. An existing model is replaced only with overwrite=True; a folder
        that holds anything else, or a training run, is refused."""
        root = Path(path)
        if root.exists() and not root.is_dir():
            raise CheckpointError(f"{root} is a file; choose another name for the model's folder")
        current = serial.latest(root) if root.exists() else None
        if root.exists() and current is None and any(root.iterdir()):
            raise CheckpointError(f"{root} holds other files and no model; choose a new or empty folder")
        if current is not None and (root / "config.json").exists():
            raise CheckpointError(f"{root} is a training run, which saves itself; choose another folder for a copy")
        if current is not None and not overwrite:
            raise CheckpointError(f"{root} already holds a model; pass overwrite=True to replace it")
        serial.make_folder(root)
        serial.commit(root, 0, self.write, keep=1)
        return root

    def write(self, folder: Path) -> None:
        """Write model.json and model.safetensors into an existing folder."""
        document = {
            "kind": "model",
            "family": self.family,
            "estimator": config.to_json(self.estimator),
            "schema": self.schema.to_json(),
            "codec": self.codec.to_json(),
            "history": self.history,
            "warnings": self.warnings,
            "info": self.info,
        }
        serial.write(folder, "model", document, dict(self.network.state_dict()))

    def summary(self) -> str:
        """A few lines: what it is, on what it was trained, what it can."""
        count = sum(p.numel() for p in self.network.parameters())
        lines = [
            f"{type(self.estimator).__name__} ({self.family}), {count:,} parameters",
            f"data: {', '.join(f'{f.name} ({f.kind})' for f in self.schema.data_fields[:8])}",
            f"can: {', '.join(sorted(self.can))}",
        ]
        if self.log_prob_kind:
            lines.append(f"likelihood: {self.log_prob_kind}, {self.measure}")
        if self.history:
            last = self.history[-1]
            shown = {k: v for k, v in last.items() if isinstance(v, float)}
            lines.append(
                f"epoch {last['epoch']}" + ": " * bool(shown) + ", ".join(f"{k} {v:.4g}" for k, v in shown.items())
            )
        lines += [f"warning: {text}" for text in self.warnings]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Model({self.estimator!r}, {len(self.history)} epochs)"

    def _repr_html_(self) -> str:
        from reverie.data.cards import model_card

        return model_card(self)


def restore(estimator: Any, document: dict[str, Any], state: Any) -> Model:
    """Rebuild a model from `Model.write`'s document and tensors, given its recipe (with the network filled in)."""
    schema = Schema.from_json(document["schema"])
    codec = codec_from_json(schema, document["codec"])
    network = estimator.build(codec.space)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"the saved weights do not fit the network: {error}") from None
    return Model(
        estimator,
        schema,
        codec,
        network,
        history=document["history"],
        warnings=document["warnings"],
        info=document["info"],
    )


def _chunk(network: nn.Module, codec: Codec) -> int:
    """Examples computed at a time: more where the network keeps little beside its input."""
    if not getattr(network, "light", False):
        return _CHUNK
    return max(_CHUNK, min(2**16, _LIGHT_NUMBERS // max(codec.space.width, 1)))


def _moved(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)


def _keyword_options(method: Any) -> dict[str, Any]:
    parameters = inspect.signature(method).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
