"""Inspection of dense attention: the mass of the keys that methods would select, and the error of the output.

    run = Inspection(Attention.parse("quest", sparsity=0.9))
    with attended_by(model, run):
        model.generate(**inputs)  # under dense attention
    run.inspected()

Only phases in which a method acts are inspected. Scores are computed for a chunk of queries of one head at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.huggingface import SparseRun
from sparse_tasks.attention.index import CorrectedIndex, Kept
from sparse_tasks.attention.ops.correction import anchors
from sparse_tasks.attention.patterns import Pattern
from sparse_tasks.attention.picture import Rows
from sparse_tasks.attention.prefill import select_stretches
from sparse_tasks.attention.softmax import PLAIN, Softmax
from sparse_tasks.attention.steps import Memory

_CELLS: Final = 1 << 24  # scores in memory at once: 64 MB of fp32


@dataclass(frozen=True)
class Inspected:
    """A phase of a model under a method, compared with dense attention.

    Attributes:
        phase: "prefill" or "decode".
        queries: Queries inspected in each head.
        layers: Numbers of the layers, as in the model.
        recall: Share of the attention to keys that falls on selected keys, averaged over queries, by layer and query
            head. The share of a sink does not count.
        error: Relative error of the output (ratio of root sums of squares), likewise.
        sparsity: Measured share of query-key interactions left out, by layer.
    """

    phase: str
    queries: int
    layers: list[int]
    recall: list[list[float]]
    error: list[list[float]]
    sparsity: list[float]


class Inspection(SparseRun):
    """A run under dense attention that records what methods would select.

    Args:
        attention: The methods.
        impl: Implementation of their selection: "auto", "triton" or "torch".
    """

    def __init__(self, attention: Attention, impl: str = "auto") -> None:
        super().__init__(attention, impl)
        self._sums: dict[tuple[str, int], Tensor] = {}

    @property
    def reads_by(self) -> None:
        return None

    def inspected(self) -> list[Inspected]:
        """Results so far, by phase in which a method acts."""
        return [found for phase in ("prefill", "decode") if (found := self._of_phase(phase)) is not None]

    def _of_phase(self, phase: str) -> Inspected | None:
        layers = [number for number in self.layers if (phase, number) in self._sums]
        if not layers:
            return None
        held, queries, off, norm = torch.stack([self._sums[phase, number] for number in layers], 1).cpu()
        densities = [self.density(phase, number) for number in layers]
        return Inspected(
            phase,
            int(queries[0, 0]),
            layers,
            (held / queries).tolist(),
            (off / norm.clamp_min(torch.finfo(torch.float64).tiny)).sqrt().tolist(),
            [1 - density.computed for density in densities if density is not None],
        )

    def _prompt(self, number: int, q: Tensor, k: Tensor, v: Tensor, softmax: Softmax) -> Tensor:
        method = self._prefill_of(number)
        if method is None:
            return super()._prompt(number, q, k, v, softmax)
        parts = []
        for queries, index in select_stretches(method.under(softmax), q, k, impl=self.impl):
            sparse, every = (index.sparse, index.every) if isinstance(index, CorrectedIndex) else (index, None)
            out, sums = seen_of_dense(queries, k[: index.n_k], v[: index.n_k], sparse.pattern(), softmax, every)
            self._note("prefill", number, sums)
            self._count_prefill(number, [index])
            parts.append(out)
        return torch.cat(parts).to(q.dtype)

    def _follow(self, number: int, kept: Kept, q: Tensor, k: Tensor, v: Tensor, softmax: Softmax) -> Tensor:
        seen = kept.append(kept.length).pages().mask(kept.length + 1)[0]  # of the first step
        after = seen.new_ones(len(seen), len(k) - kept.length)
        rows = torch.cat([seen[:, : kept.length], after], 1)[:, None].expand(-1, len(q), -1)
        out, sums = seen_of_dense(q, k, v, Rows(rows), softmax)
        self._note("decode", number, sums)
        self._count_follow(number, kept, len(q), len(k))
        return out.to(q.dtype)

    def _step(self, number: int, memory: Memory, q: Tensor, k: Tensor, v: Tensor, softmax: Softmax) -> Tensor:
        if self.attention.decode is None:
            return super()._step(number, memory, q, k, v, softmax)
        _, index = memory.step(q, k, v)
        pattern, shifts = Rows(index.mask(len(k))[0][:, None]), index.shifts(len(k))
        out, sums = seen_of_dense(q, k, v, pattern, softmax, shifts=None if shifts is None else shifts[0])
        self._note("decode", number, sums)
        self._count_decode(number, index, len(k))
        return out.to(q.dtype)

    def _note(self, phase: str, number: int, sums: Tensor) -> None:
        before = self._sums.get((phase, number))
        self._sums[phase, number] = sums if before is None else before + sums


def seen_of_dense(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    softmax: Softmax = PLAIN,
    every: int | None = None,
    shifts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Dense attention of one sequence, and the part that a pattern selects.

    Args:
        q: ``[n_q, query_heads, head_size]``: the last ``n_q`` of ``n_k`` positions, scaled so that scores only need
            ``head_size ** -0.5``.
        k: ``[n_k, kv_heads, head_size]``.
        v: ``[n_k, kv_heads, value_size]``.
        pattern: What queries see, causality understood; its heads are 1, ``kv_heads`` or ``query_heads``.
        softmax: The model's sinks and soft cap.
        every: Positions from one anchor to the next, if anchors see everything and correct the others
            (``CorrectedIndex``).
        shifts: fp32 ``[pattern.heads, n_k]``: added to the scores of selected keys, if some stand for others
            (``PageIndex.shifts``).

    Returns:
        The dense output, fp32 ``[n_q, query_heads, value_size]``; and sums over the queries, float64
        ``[4, query_heads]``: of the share of keys that are seen in the weights of all keys, of 1, of the squared
        differences between the output of attention to these alone, and to the sink (0 where there are none), and the
        dense output, and of the squares of the latter.
    """
    (n_q, heads, size), (n_k, kv_heads, _) = q.shape, k.shape
    out = torch.empty(n_q, heads, v.shape[2], dtype=torch.float32, device=q.device)
    sums = torch.zeros(4, heads, dtype=torch.float64, device=q.device)
    keys, rows = torch.arange(n_k, device=q.device), max(1, _CELLS // n_k)
    for head in range(heads):
        key, value = (x[:, head * kv_heads // heads].float() for x in (k, v))
        off, mass = torch.empty_like(out[:, head]), torch.empty(n_q, device=q.device)
        for start in range(0, n_q, rows):
            some = slice(start, min(start + rows, n_q))
            position = torch.arange(some.start, some.stop, device=q.device) + (n_k - n_q)
            scores = softmax.capped(q[some, head].float() @ key.T * size**-0.5)
            scores = scores.masked_fill(keys > position[:, None], float("-inf"))
            dense = out[some, head] = softmax.of(head).weights(scores) @ value
            seen = pattern.of_head(head * pattern.heads // heads, position, n_k)
            mass[some] = (scores.softmax(1) * seen).sum(1)  # of keys alone
            if shifts is not None:
                scores = scores + shifts[head * pattern.heads // heads]
            weights = softmax.of(head).weights(scores.masked_fill(~seen, float("-inf")))
            off[some] = torch.where(mass[some, None] > 0, weights @ value, 0.0) - dense
        if every is not None:
            anchor, of = anchors(q.device, n_q, n_k, every)
            mass[anchor], off = 1.0, off - off[anchor][of]
        squares = off.square().sum(1), out[:, head].square().sum(1)
        for row, each in enumerate((mass, torch.ones_like(mass), *squares)):
            sums[row, head] += each.double().sum()
    return out, sums
