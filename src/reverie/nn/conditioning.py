"""What a condition y is to a network: a vector, a feature map or a sequence with a mask, whatever y itself is.

A network that y guides asks for the form it can use; one that shall also do without y (for classifier-free guidance, Ho &
Salimans 2022) drops it for a share of rows in training and passes `given` at will afterwards.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.data.space import Condition, Points, Ragged
from reverie.errors import InvalidOption
from reverie.nn.sequences import Steps, padded


class Conditioner(nn.Module):
    """Features of y in one form, `width` wide: call `vector`, `map` or `steps`.

    y of kind labels, vector or columns is (n, w); of kind picture (n, C, H, W); of kind sequence a `Ragged` of symbols or
    numbers. `given` (n,) bool says which rows have their y; the others get a learned feature in its place, the same for
    all of them. None: all rows have it.
    """

    def __init__(self, slot: Condition, width: int, *, channels: int = 32) -> None:
        super().__init__()
        if slot.kind == "steps":
            raise InvalidOption(
                "labels per step go along with the steps of a sequence; they are no condition of the whole"
            )
        self.kind, self.width = slot.kind, width
        self.absent = nn.Parameter(torch.zeros(width))
        if slot.kind == "picture":
            assert slot.space is not None
            assert slot.space.shape is not None
            self.reader: nn.Module = _Picture(slot.space.shape, channels, width)
        elif slot.kind == "sequence":
            assert slot.space is not None
            self.reader = _Sequence(slot, width)
        else:
            self.reader = nn.Linear(slot.width, width)

    def vector(self, y: Points, given: Tensor | None = None) -> Tensor:
        """(n, width): one vector a row; of a picture or sequence the mean of its features."""
        if self.kind == "picture":
            found = self.reader(y).mean((2, 3))
        elif self.kind == "sequence":
            steps: Steps = self.reader(y)
            weight = steps.mask[..., None].to(steps.values.dtype)
            found = (steps.values * weight).sum(1) / weight.sum(1).clamp_min(1)
        else:
            found = self.reader(y)
        return self._or_absent(found, given, 1)

    def map(self, y: Points, size: tuple[int, int], given: Tensor | None = None) -> Tensor:
        """(n, width, *size): a feature at every place; pictures of another size are resized, other kinds the same
        everywhere."""
        if self.kind != "picture":
            return self.vector(y, given)[:, :, None, None].expand(-1, -1, *size)
        found: Tensor = self.reader(y)
        if found.shape[2] > size[0] or found.shape[3] > size[1]:
            found = F.adaptive_avg_pool2d(found, size)
        elif tuple(found.shape[2:]) != tuple(size):
            found = F.interpolate(found, size, mode="bilinear", align_corners=False)
        return self._or_absent(found, given, 3)

    def steps(self, y: Points, given: Tensor | None = None) -> Steps:
        """A sequence of features with its mask: the steps of a sequence, the places of a picture row by row, one step for
        other kinds."""
        if self.kind == "sequence":
            steps: Steps = self.reader(y)
        elif self.kind == "picture":
            values = self.reader(y).flatten(2).transpose(1, 2)
            steps = Steps(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))
        else:
            values = self.reader(y)[:, None]
            steps = Steps(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))
        if given is None:
            return steps
        # A row without y is one step, the learned one: attention over nothing has no meaning.
        first = torch.arange(steps.mask.shape[1], device=steps.mask.device) == 0
        mask = torch.where(given[:, None], steps.mask, first[None])
        return Steps(torch.where(given[:, None, None], steps.values, self.absent), mask)

    def _or_absent(self, found: Tensor, given: Tensor | None, axes: int) -> Tensor:
        if given is None:
            return found
        shape = (1, -1, *(1,) * (axes - 1))
        return torch.where(given.view(-1, *(1,) * axes), found, self.absent.view(shape))


class _Picture(nn.Module):
    """Two convolutions at full size: local features of every pixel."""

    def __init__(self, shape: tuple[int, int, int], channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(shape[0], channels, 3, padding=1), nn.SiLU(), nn.Conv2d(channels, width, 3, padding=1)
        )

    def forward(self, y: Tensor) -> Tensor:
        out: Tensor = self.layers(y)
        return out


class _Sequence(nn.Module):
    """Steps embedded with the angle code of their place (Vaswani et al. 2017, section 3.5), then one layer of attention, so
    that a step knows its neighbours."""

    def __init__(self, slot: Condition, width: int) -> None:
        super().__init__()
        assert slot.space is not None
        blocks = slot.space.blocks
        self._levels = blocks[0].levels if len(blocks) == 1 and blocks[0].kind == "symbol" else 0
        self.embed: nn.Module = (
            nn.Embedding(self._levels, width) if self._levels else nn.Linear(slot.space.width, width)
        )
        heads = next(h for h in (4, 2, 1) if width % h == 0)
        # Without biases: that of the keys cancels in the softmax, and rounding alone would move it.
        self.mix = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, bias=False
        )

    def forward(self, y: Ragged) -> Steps:
        steps = padded(y)
        values = self.embed(steps.values[..., 0].long() if self._levels else steps.values)
        places = torch.arange(values.shape[1], device=values.device)
        values = values + angles(places, values.shape[2]).to(values.dtype)
        return Steps(self.mix(values, src_key_padding_mask=~steps.mask), steps.mask)


def angles(places: Tensor, width: int) -> Tensor:
    """(T, width) sines and cosines of places at wavelengths from 2 pi to 20000 pi."""
    half = (width + 1) // 2
    rates = torch.exp(-math.log(10_000.0) * torch.arange(half, device=places.device) / max(half, 1))
    turns = places[:, None] * rates
    return torch.stack([turns.sin(), turns.cos()], 2).flatten(1)[:, :width]


def dropped(rows: int, share: float, u: Tensor) -> Tensor | None:
    """Which of the rows keep their y when a `share` of them shall go without, from u (n,) in [0, 1); None for all."""
    return None if share <= 0 else u.view(rows) >= share
