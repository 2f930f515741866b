"""`Model`: what `fit` returns. The only place that converts data, seeds, chunks, moves devices and checks capabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

from numpy.typing import NDArray

from reverie.data.codec.negotiate import codec_from_json
from reverie.data.schema import Schema
from reverie.errors import CheckpointError
from reverie.model import classes, codes, filling, sampling, saving, scoring
from reverie.model.capabilities import keyword_options
from reverie.model.core import Core


@final
class Model(Core):
    """A trained model: recipe, schema, codec, network, and how it came about.

    `can` lists its verbs; others raise `Unsupported` and name the families that have them. Every method takes and
    returns data in the form the training data had. Sampling with the same seed gives the same rows whatever the chunk
    size, and `sample(10, seed=s)` is the head of `sample(100, seed=s)`.
    """

    def sample(
        self,
        n: int,
        *,
        y: Any = None,
        seed: int | None = None,
        return_y: bool = False,
        length: int | None = None,
        given: Any = None,
        **options: Any,
    ) -> Any:
        """Draw `n` examples, in the form of the training data.

        y: one value for all rows, or n of them (`{column: value}` where y is several columns); without it a conditional
        model draws y as often as it occurred in training (`return_y=True` returns (examples, y)). given: {column: one
        value, or n of them} (numbers of columns for an array) fixes those columns, and the others are drawn from
        p(others | given), exactly where the family can, else as it imputes; y then is drawn from p(y | given). Sequences have `length` steps, or as many as training
        sequences had. options are the family's (`model.sample_options`).
        """
        return sampling.sample(self, n, y=y, seed=seed, return_y=return_y, length=length, given=given, **options)

    @property
    def sample_options(self) -> dict[str, Any]:
        """The family's sampling options and their defaults."""
        options = keyword_options(self.network.sample)
        return {name: default for name, default in options.items() if name != "lengths"}

    def log_prob(
        self, X: Any, y: Any = None, *, seed: int = 0, dequantisation: int = 8, **options: Any
    ) -> NDArray[Any]:
        """log p(x | y) when y is given, log p(x) otherwise: (n,) nats per example, in the data's own units.

        Missing cells are summed or integrated out. Dequantised columns average `dequantisation` fixed offsets inside
        each grid cell, which keeps a lower bound; stochastically binarised pixels are drawn once, from `seed`.
        A conditional model without y sums over the classes by their training frequency.
        """
        return scoring.log_prob(self, X, y, seed=seed, dequantisation=dequantisation, **options)

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
        return scoring.anomaly_attribution(self, X, y, **options)

    def bits_per_dim(self, X: Any, y: Any = None, **options: Any) -> NDArray[Any]:
        """(n,) -log2 p(x) per column or pixel, and per step of sequences."""
        return scoring.bits_per_dim(self, X, y, **options)

    def energy(self, X: Any) -> NDArray[Any]:
        """(n,) E(x) with p(x) = exp(-E(x)) / Z: the free energy where hidden units are summed out."""
        return scoring.energy(self, X)

    def encode(self, X: Any, y: Any = None) -> Any:
        """(n, d) codes: responsibilities, hidden probabilities or latent means, as the family has them.

        For sequences codes are per step: a list of (T, d), or for a long DataFrame one row for each of its rows.
        """
        return codes.encode(self, X, y)

    def decode(self, Z: Any, y: Any = None) -> Any:
        """(n, d) codes -> examples in the form of the training data."""
        return codes.decode(self, Z, y)

    def reconstruct(self, X: Any, y: Any = None) -> Any:
        """Each example encoded and decoded again."""
        return codes.reconstruct(self, X, y)

    def interpolate(self, a: Any, b: Any, steps: int = 8, *, y: Any = None) -> Any:
        """From each row of `a` to the same row of `b` through code space: n blocks of `steps` examples, ends included."""
        return codes.interpolate(self, a, b, steps, y=y)

    def impute(self, X: Any, y: Any = None, *, n_draws: int | None = None, seed: int = 0) -> Any:
        """Fill missing cells (NaN, None, NaT, NA) given the observed ones, which come back untouched.

        Without n_draws: one best guess per cell (conditional mean or mode). With it: a list of that many completions
        drawn from the conditional distribution.
        """
        return filling.impute(self, X, y, n_draws=n_draws, seed=seed)

    def predict_proba(self, X: Any) -> Any:
        """(n, classes) P(y | x), with the classes in the order of `classes`; missing cells are summed out.

        For labels per step: a list of (T, classes), or one row for each row of a long DataFrame.
        """
        return classes.predict_proba(self, X)

    def predict(self, X: Any) -> Any:
        """The likeliest class of each row (or step), in the form y had in training; its numbers where y is numbers."""
        return classes.predict(self, X)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write this model into a folder of its own. An existing model is replaced only with overwrite=True; a folder
        that holds anything else, or a training run, is refused."""
        return saving.save(self, path, overwrite=overwrite)

    def write(self, folder: Path) -> None:
        """Write model.json and model.safetensors into an existing folder."""
        return saving.write(self, folder)

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
