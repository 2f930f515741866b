"""What is known of users before their ratings are predicted: tables of ratings, and of pairs, as a rating machine reads them."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reverie.data.codec.maps import Prepared
from reverie.data.forms.reading import read_table
from reverie.data.forms.series import category_codes, column_values
from reverie.data.schema import Field as Column
from reverie.data.space import Ragged
from reverie.errors import InvalidOption, SchemaMismatch, Unsupported
from reverie.model.model import Model
from reverie.probability.machines.rating_network import RatingNetwork
from reverie.probability.machines.ratings import refuse_twice


@dataclasses.dataclass
class Part:
    """Some users' known ratings: items and codes (N,), and lengths (n,)."""

    items: Tensor
    codes: Tensor
    lengths: Tensor


class KnownRatings:
    """What is known of users: `ids` (n,) as the schema reads them, and their ratings as codes."""

    def __init__(
        self,
        model: Model,
        network: RatingNetwork,
        columns: tuple[Column, Column],
        known: Any,
        unseen: Literal["refuse", "missing"],
    ) -> None:
        if unseen not in ("refuse", "missing"):
            raise InvalidOption(f"unseen: expected 'refuse' or 'missing', got {unseen!r}")
        self.network, self.unseen = network, unseen
        schema = model.schema
        self.item_field, rating = columns
        ids = schema.with_role("id")
        if not ids:
            raise Unsupported("the training data did not say whose ratings they are: give sequences(df, by='user')")
        self.id_field = ids[0]
        empty = torch.zeros(0, dtype=torch.long)
        self.ids: NDArray[Any] = np.zeros(0, dtype=object)
        self.all = Part(empty, empty, empty)
        if known is not None and len(known):
            table = read_table(schema, known, unseen=unseen)
            self.ids = table[self.id_field.name]
            self.all = self._read(model.intake.prepare(table, False, holes=True), rating)
        device = self.network.ratings.b.device
        self.all = Part(self.all.items.to(device), self.all.codes.to(device), self.all.lengths)
        self.ends = torch.cat([self.all.lengths.new_zeros(1), self.all.lengths.cumsum(0)])
        self.rows = {key: row for row, key in enumerate(self.ids.tolist())}

    def _read(self, prepared: Prepared, rating: Column) -> Part:
        network, x = self.network, prepared.x
        seen = torch.ones_like(x.values, dtype=torch.bool) if prepared.observed is None else prepared.observed
        here, rated = seen[:, network.item.start], seen[:, network.rating.start]
        if not bool(rated.all()):
            raise SchemaMismatch(
                f"known: column {rating.name!r} has cells that are empty or no rating: drop those rows"
            )
        if self.unseen == "refuse" and not bool(here.all()):
            raise SchemaMismatch(f"known: column {self.item_field.name!r} has missing cells: drop those rows")
        row = x.places[0]
        coded = network.coded(x).values[here]
        lengths = torch.bincount(row[here], minlength=len(x))
        items, codes = network.ratings.codes(Ragged(coded, lengths))
        refuse_twice(items, lengths)
        return Part(items, codes, lengths)

    def part(self, first: int, last: int) -> Part:
        """The users from `first` to before `last`."""
        last = min(last, len(self.ids))
        steps = slice(int(self.ends[first]), int(self.ends[last]))
        return Part(self.all.items[steps], self.all.codes[steps], self.all.lengths[first:last])

    def states(self) -> Tensor:
        """What the machine makes of every user, (n, hidden + places), and, last, of nobody in particular."""
        machine = self.network.ratings
        return torch.cat([machine.state(self.all.items, self.all.codes, self.all.lengths), machine.unknown()[None]])

    def own(self, row: Tensor, item: Tensor) -> Tensor:
        """What the pairs themselves add to their users' states where they are known, (m, hidden + places)."""
        machine = self.network.ratings
        user = torch.repeat_interleave(torch.arange(len(self.ids)), self.all.lengths)
        key, order = (user * machine.items + self.all.items.cpu()).sort()
        wanted = row * machine.items + item
        out = torch.zeros(len(row), machine.hidden + len(machine.grid), device=machine.b.device)
        if not len(key):
            return out
        at = torch.searchsorted(key, wanted).clamp_max(len(key) - 1)
        hit = (key[at] == wanted).nonzero()[:, 0]
        code = self.all.codes[order[at[hit]].to(self.all.codes.device)]
        out[hit.to(out.device)] = machine.added(code // machine.levels, code % machine.levels)
        return out

    def pairs(self, pairs: Any) -> tuple[Tensor, Tensor]:
        """(user's number, item's code) of a DataFrame of pairs, (m,) each: the number after the last for a user of whom
        nothing is known, -1 for an item never seen."""
        names = {str(name): name for name in getattr(pairs, "columns", ())}
        for field in (self.id_field, self.item_field):
            if field.name not in names:
                raise SchemaMismatch(f"pairs: a DataFrame with a column {field.name!r} is wanted; it has {list(names)}")
        ids = column_values(self.id_field, pairs[names[self.id_field.name]], SchemaMismatch)
        items = category_codes(
            self.item_field.one_step,
            pairs[names[self.item_field.name]],
            SchemaMismatch,
            what=f"pairs: column {self.item_field.name!r}",
            unseen=self.unseen == "missing",
        )
        if self.unseen == "refuse" and (items < 0).any():
            raise SchemaMismatch(f"pairs: column {self.item_field.name!r} has missing cells: drop those rows")
        row = np.array([self.rows.get(key, len(self.ids)) for key in np.asarray(ids).tolist()], dtype=np.int64)
        return torch.from_numpy(row), torch.from_numpy(items)
