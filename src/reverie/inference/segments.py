"""The recursions of hidden chains, along all segments of all sequences at once.

A recursion over a hidden chain, p_t = b_t * (A^T p_{t-1}), costs a few small operations per step of time however many
sequences take the step together, so long sequences are cut and their segments run side by side. A segment needs the
state its predecessor ends in. It first starts from a guess; then it starts again from what its predecessor really ended
in, until the corrected trajectory equals the stored one. Entries of the two are compared relatively: products of
non-negative matrices do not amplify relative errors, so a trajectory that has merged to 1e-13 stays merged, whatever the
chain. Chains that forget too slowly (sticky, left-to-right, cyclic) are finished exactly, by the K x K product over each
segment (Särkkä & García-Fernández 2021 compose the same products as a parallel scan), or one step at a time when that
is cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.inference import compiled
from reverie.inference.algebra import Algebra, Linear
from reverie.inference.layout import STEP, Layout


class Sweep:
    """Both recursions over one layout: p_t(k) = b_t(k) sum_j p_{t-1}(j) A_jk and beta_t(j) = sum_k A_jk b_{t+1}(k)
    beta_{t+1}(k).

    `weights` b (K, N) is scaled in place, column by column, so that the p of every `often`-th step sums to one;
    `scale` (N,) keeps the logarithms. sum_k p_t(k) beta_t(k) = 1 holds at every step.
    """

    def __init__(self, layout: Layout, algebra: Algebra, initial: Tensor, weights: Tensor) -> None:
        """initial (K,) in the algebra's own numbers."""
        self.layout, self.algebra, self.weights, self.initial = layout, algebra, weights, initial
        self.states = layout.room("states", len(weights), weights)
        self.scale = torch.zeros(weights.shape[1], dtype=torch.float64, device=weights.device)
        self.passes = {"forward": 0, "backward": 0}
        self.finish = {"forward": "merged", "backward": "merged"}
        self.betas: Tensor | None = None
        self._products: Tensor | None = None

    def log_scale(self) -> Tensor:
        """(N,) float64: summed over a sequence, its log-probability, but for what the weights were divided by before."""
        last = self.layout.last[self.layout.is_last]
        ends = self.states.index_select(1, last)
        scale = self.scale.clone()
        scale.index_add_(0, last, self.algebra.log_sum(self.algebra.logs(ends), 0).double())
        return scale

    # ---- along time

    def _along(
        self, weights: Tensor, states: Tensor, scale: Tensor, start: Tensor, sizes: list[int], fix: bool
    ) -> None:
        algebra, often = self.algebra, self.algebra.often
        if self.layout.compiled_sums and isinstance(algebra, Linear):
            compiled.along(
                weights, states, scale, start, sizes, algebra.matrix, often=often, least=algebra.least, fix=fix,
                tolerance=algebra.tolerance, lost=algebra.lost,
            )  # fmt: skip
            return
        b, p, s = weights.split_with_sizes(sizes, 1), states.split_with_sizes(sizes, 1), scale.split_with_sizes(sizes)
        for begin in range(0, len(sizes), often):
            end = min(begin + often, len(sizes))
            before = p[end - 1].clone() if fix else None
            for t in range(begin, end):
                if t == 0:
                    algebra.times(start, b[0], out=p[0])
                    continue
                state = p[t - 1] if sizes[t] == sizes[t - 1] else p[t - 1][:, : sizes[t]]
                algebra.forwards(state, out=p[t])
                algebra.times(p[t], b[t], out=p[t])
            s[end - 1].add_(algebra.normalise(p[end - 1], b[end - 1]))
            if before is not None and bool((algebra.gap(p[end - 1], before) <= algebra.tolerance).all()):
                return

    def _against(
        self,
        weights: Tensor,
        betas: Tensor,
        ends: Tensor,
        sizes: list[int],
        fix: bool,
        offsets: list[int] | None = None,
    ) -> None:
        """Step t lies at `offsets[t]`; by default steps lie one after the other."""
        algebra, often = self.algebra, self.algebra.often
        if self.layout.compiled_sums and isinstance(algebra, Linear):
            compiled.against(
                weights, betas, ends, sizes, offsets, algebra.transposed, often=often, fix=fix,
                tolerance=algebra.tolerance, lost=algebra.lost,
            )  # fmt: skip
            return
        b, found = _steps(weights, sizes, offsets), _steps(betas, sizes, offsets)
        room = torch.empty_like(ends)
        running = 0
        carried = ends
        for t in range(len(sizes) - 1, -1, -1):
            beta, size = found[t], sizes[t]
            check = fix and t % often == 0
            before = beta.clone() if check else None
            if running:
                algebra.backwards(carried, out=beta if running == size else beta[:, :running])
            if running < size:
                beta[:, running:] = ends[:, running:size]
                running = size
            if before is not None and bool((algebra.gap(beta, before) <= algebra.tolerance).all()):
                return
            if t:
                carried = room if size == room.shape[1] else torch.empty_like(beta)
                algebra.times(beta, b[t], out=carried)

    # ---- forwards

    def forward(self) -> Tensor:
        """p (K, N); the p of a sequence's last step sums to one, and of every segment that was run as one."""
        if self.layout.steps:
            self._forward()
            last = self.layout.last[self.layout.is_last] if self.finish["forward"] == "steps" else self.layout.last
            states, weights = self.states.index_select(1, last), self.weights.index_select(1, last)
            self.scale.index_add_(0, last, self.algebra.normalise(states, weights).double())
            self.states.index_copy_(1, last, states)
            self.weights.index_copy_(1, last, weights)
        return self.states

    def _forward(self) -> None:
        layout, algebra = self.layout, self.algebra
        size = (algebra.states, len(layout.size))
        start = torch.full(size, algebra.one, dtype=self.weights.dtype, device=self.weights.device)
        if isinstance(algebra, Linear):
            start /= algebra.states
        start[:, layout.heads] = self.initial[:, None]
        self._along(self.weights, self.states, self.scale, start, layout.packing.sizes, False)
        if not len(layout.followers):
            return
        followers, previous = layout.followers, layout.previous[layout.followers]
        used: Tensor | None = None  # the ends the followers started from
        worst = math.inf
        for _ in range(len(layout.ranks) + 2):  # each pass makes one more segment right, at least
            ends = self._ends().index_select(1, previous)
            if used is None:
                stale = torch.ones(len(followers), dtype=torch.bool, device=followers.device)
                gap = math.inf
            else:
                gaps = algebra.gap(ends, used)
                stale = gaps > algebra.tolerance
                gap = float(gaps.max())
            if not bool(stale.any()):
                return
            left, worst = self._passes_left(gap, worst), gap
            how = "merged" if used is None else self._cheapest(left, int(stale.sum()))
            if how == "product":
                self.finish["forward"] = how
                ends = self._ends_by_product()[:, previous]
                stale[:] = True
            elif how == "steps":
                self.finish["forward"] = how
                whole = layout.whole
                b, p, s = self.weights[:, whole.rows], self.states[:, whole.rows], self.scale[whole.rows]
                begin = self.initial[:, None].expand(-1, whole.sizes[0])
                self._along(b, p, s, begin, whole.sizes, False)
                self.weights[:, whole.rows], self.states[:, whole.rows], self.scale[whole.rows] = b, p, s
                return
            self._start_again(followers, ends, stale, start, fix=how == "merged")
            self.passes["forward"] += 1
            if how == "product":
                return
            used = ends if used is None else torch.where(stale, ends, used)

    def _start_again(self, followers: Tensor, ends: Tensor, stale: Tensor, start: Tensor, fix: bool) -> None:
        algebra, layout = self.algebra, self.layout
        slots = followers[stale]
        begin = torch.empty_like(ends[:, stale])
        algebra.forwards(ends[:, stale].contiguous(), out=begin)
        if 2 * len(slots) >= start.shape[1]:
            start[:, slots] = begin
            self._along(self.weights, self.states, self.scale, start, layout.packing.sizes, fix)
            return
        columns, sizes = layout.among(slots)
        b, p, s = self.weights[:, columns], self.states[:, columns], self.scale[columns]
        start[:, slots] = begin
        self._along(b, p, s, begin, sizes, fix)
        self.weights[:, columns], self.states[:, columns], self.scale[columns] = b, p, s

    def _ends(self) -> Tensor:
        """Every segment's last p, normalised, (K, segments)."""
        ends = self.states.index_select(1, self.layout.last)
        self.algebra.normalise(ends, None)
        return ends

    def _passes_left(self, gap: float, before: float) -> float:
        """From how the gap fell in one pass."""
        most = float(len(self.layout.ranks))
        if not gap < 1 or not before < math.inf:
            return most
        fall = math.log(gap / min(before, 1.0)) if gap < min(before, 1.0) else -1e-9
        return min(most, math.log(self.algebra.tolerance / gap) / fall + 1)

    def _cheapest(self, passes: float, segments: int) -> str:
        states, layout, cost = self.algebra.states, self.layout, self.algebra.cost
        length, step = len(layout.packing.sizes), layout.step_seconds(states) / 2
        scan = (50 if states <= 8 else len(layout.size)) * 2 * STEP
        costs = {
            "merged": passes * length * (step + segments * states**2 * cost),
            "product": length * STEP + layout.steps * states**3 * cost + scan,
            "steps": layout.longest * step + layout.steps * states**2 * cost,
        }
        if self._products is not None:
            costs["product"] = scan
        return min(costs, key=costs.__getitem__)

    # ---- products over whole segments

    def _product(self) -> Tensor:
        """log of the sum over paths from state j before a segment to state k at its end, (segments, k, j)."""
        if self._products is not None:
            return self._products
        algebra, sizes, K = self.algebra, self.layout.packing.sizes, self.algebra.states
        count = sizes[0]
        b = self.weights.split_with_sizes(sizes, 1)
        matrix = algebra.numbers(algebra.log.T.contiguous())
        state = torch.empty(K, count, K, dtype=self.weights.dtype, device=self.weights.device)
        algebra.times(matrix[:, None, :].expand(-1, count, -1), b[0][:, :, None], out=state)
        shift = torch.zeros(count, K, dtype=self.weights.dtype, device=self.weights.device)
        found = torch.empty(count, K, K, dtype=self.weights.dtype, device=self.weights.device)
        for t in range(1, len(sizes) + 1):
            size = sizes[t] if t < len(sizes) else 0
            running = state.shape[1]
            if size < running:
                ready = algebra.logs(state[:, size:]) + shift[size:running]
                found[size:running] = ready.permute(1, 0, 2)
                state = state[:, :size].contiguous()
            if size:
                following = torch.empty_like(state)
                algebra.forwards(state.view(K, size * K), out=following.view(K, size * K))
                algebra.times(following, b[t][:, :, None], out=following)
                state = following
                if t % algebra.often == 0:
                    shift[:size] += algebra.normalise(state.view(K, size * K), None).view(size, K)
        self._products = found
        return found

    def _ends_by_product(self) -> Tensor:
        """What every segment ends in, normalised, (K, segments)."""
        algebra, chain = self.algebra, self.layout.chain
        maps = self._product()[chain]
        heads = self.layout.is_head[chain]
        maps[heads] = algebra.logs(self._ends()).T[chain][heads][:, :, None]
        ends = torch.empty_like(maps[:, :, 0])
        ends[chain] = _scan(algebra, maps, heads)
        found = algebra.numbers(ends.T.contiguous())
        algebra.normalise(found, None)
        return found

    def _tails_by_product(self) -> Tensor:
        """log beta at every segment's end, up to a constant, (K, segments)."""
        chain = self.layout.chain.flip(0)
        maps = self._product()[chain].transpose(1, 2).roll(1, 0)  # back over the segment after
        last = self.layout.is_last[chain]
        maps[last] = 0.0
        tails = torch.empty_like(maps[:, :, 0])
        tails[chain] = _scan(self.algebra, maps, last)
        return tails.T.contiguous()

    # ---- backwards

    def backward(self) -> Tensor:
        """beta (K, N), after `forward`."""
        layout, algebra = self.layout, self.algebra
        betas = layout.room("betas", len(self.weights), self.weights)
        if not layout.steps:
            return betas
        sizes = layout.packing.sizes
        ends = torch.full_like(self.weights[:, : len(layout.size)], algebra.one)  # right for last segments
        self._against(self.weights, betas, ends, sizes, False)
        if not len(layout.leaders):
            return betas
        leaders, following = layout.leaders, layout.next[layout.leaders]
        low, high = int(leaders[0]), int(leaders[-1]) + 1
        full = [high - low] * layout.segment
        worst, fixed = math.inf, False
        for _ in range(len(layout.ranks) + 2):  # each pass makes one more segment right, at least
            after = betas[:, following]
            algebra.times(after, self.weights[:, following], out=after)
            true = torch.empty_like(after)
            algebra.backwards(after, out=true)
            gaps = algebra.gap(true, ends[:, leaders])
            stale, gap = gaps > algebra.tolerance, float(gaps.max())
            if not bool(stale.any()):
                return betas
            left, worst = self._passes_left(gap, worst), gap
            how = "merged" if not fixed else self._cheapest(left, int(stale.sum()))
            if not fixed and self.finish["forward"] == "product":
                how = "product"
            fixed = True
            if how == "steps":
                self.finish["backward"] = how
                whole = layout.whole
                gathered = self.weights[:, whole.rows]
                found = torch.empty_like(betas)
                final = layout.is_last.nonzero()[:, 0]
                place = torch.empty_like(layout.lengths)
                place[layout.sequence[final]] = final
                self._against(gathered, found, ends[:, place[whole.order]], whole.sizes, False)
                betas[:, whole.rows] = found
                return betas
            if how == "product":
                self.finish["backward"] = how
                tails = self._tails_by_product()[:, leaders]
                meeting = algebra.log_sum(tails + algebra.logs(self.states[:, layout.last[leaders]]), 0)
                true = algebra.numbers(tails - torch.where(meeting > -math.inf, meeting, 0.0))
                stale = torch.ones_like(stale)
            slots = leaders[stale]
            ends[:, slots] = true[:, stale]
            self.passes["backward"] += 1
            if 2 * len(slots) >= high - low:
                offsets = [offset + low for offset in layout.packing.offsets[: layout.segment]]
                self._against(self.weights, betas, ends[:, low:high].contiguous(), full, how == "merged", offsets)
            else:
                columns, counts = layout.among(slots)
                found = betas[:, columns]
                self._against(self.weights[:, columns], found, ends[:, slots], counts, how == "merged")
                betas[:, columns] = found
            if how == "product":
                break
        return betas


def _steps(columns: Tensor, sizes: list[int], offsets: list[int] | None) -> Sequence[Tensor]:
    """The columns of every step."""
    if offsets is None:
        return columns.split_with_sizes(sizes, 1)
    return [columns[:, offset : offset + size] for offset, size in zip(offsets, sizes, strict=True)]


def _scan(algebra: Algebra, maps: Tensor, fresh: Tensor) -> Tensor:
    """States (P, K), as logarithms up to constants: state_i(k) = sum_j maps_i(k, j) state_{i-1}(j).

    Where `fresh` (P,), as the first is, any column of the map is the state. Small maps are composed in pairs (a parallel
    scan, log P rounds of K^3); large ones are applied one after the other (K^2).
    """
    count, K = maps.shape[:2]
    if count == 1 or K > 8:
        state, found = maps[0, :, 0], []
        for each, new in zip(maps.unbind(0), fresh.tolist(), strict=True):
            state = each[:, 0] if new else _centred(algebra.log_sum(each + state, 1), 0)
            found.append(state)
        return torch.stack(found)
    early, late = maps[: count - 1 : 2], maps[1::2]
    both = _centred(algebra.log_sum(late[:, :, :, None] + early[:, None], 2), (1, 2))
    both = torch.where(fresh[1::2, None, None], late, both)
    odd = _scan(algebra, both, fresh[: count - 1 : 2] | fresh[1::2])
    states = torch.empty_like(maps[:, :, 0])
    states[0], states[1::2] = maps[0, :, 0], odd
    after = maps[2::2]
    moved = _centred(algebra.log_sum(after + odd[: len(after), None, :], 2), 1)
    states[2::2] = torch.where(fresh[2::2, None], after[:, :, 0], moved)
    return states


def _centred(logs: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Less their maximum, unless that is -inf."""
    top = logs.amax(dim, keepdim=True)
    return logs - torch.where(top > -math.inf, top, 0.0)
