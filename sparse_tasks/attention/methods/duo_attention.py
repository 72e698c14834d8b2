"""DuoAttention: some KV heads see everything, the others only first and last tokens (Xiao et al. 2024)."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from sparse_tasks.attention.interactions import causal_count, ceil_div, nearest_size, window_density
from sparse_tasks.attention.method import METHODS, DecodeMethod, PrefillMethod, Span
from sparse_tasks.attention.methods.calibrated import CalibratedMethod
from sparse_tasks.attention.methods.lines import BLOCK_Q, TILE_KEYS, UNIT
from sparse_tasks.core.errors import BadFileError, UsageError, unreadable
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from sparse_tasks.attention.cache import PagedCache
    from sparse_tasks.attention.calibration import Calibration
    from sparse_tasks.attention.index import LineIndex, PageIndex

_STREAMING: Final = 0.5  # if neither it nor a sparsity is given; Xiao et al. for models with grouped heads
_ASKING: Final = 64  # last queries of a prompt, where the question is
_WHOLE: Final = 1e-6  # tolerance, in heads, for a share to count as whole
_GOLDEN: Final = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, kw_only=True)
class DuoMethod(CalibratedMethod):
    """KV heads are retrieval heads, which see everything, or streaming heads, which see first and last tokens.

    A calibration ranks the KV heads of all layers by the largest weight that a query gives to a token outside the first
    and last ones, averaged over the last queries of prompts, which ask for distant facts: the heads with the smallest
    weights stream. The paper learns a gate for each head by training on passkeys; here nothing is trained, but the
    authors' published gates can be used.

    With ``sparsity`` the fewest heads stream that meet it with the whole window, and windows are then lengthened to
    meet it exactly. If all heads are not enough, windows are shorter. The choice depends on the length of the prompt or
    sequence, and is the same in both phases.
    """

    streaming: float | None = parameter(
        None, "share of all KV heads that stream; a half if neither this nor sparsity is given", 0.0, 1.0, kind=float
    )
    sinks: int = parameter(64, "first tokens that streaming heads see", 0)
    recent: int = parameter(256, "last tokens that streaming heads see, at least; fewer where sparsity needs it", 1)

    unit: ClassVar[str] = "KV heads"
    importance: ClassVar[str] = "calibrated largest attention outside of sinks and a window"
    budget: ClassVar[str] = "whole heads of all layers"
    cache: ClassVar[str] = "kept"
    source: ClassVar[str] = "Xiao et al., 2024, arXiv:2410.10819"
    exact: ClassVar[bool] = True
    any_softmax: ClassVar[bool] = True
    budgets: ClassVar[tuple[str, ...]] = ("streaming",)
    version: ClassVar[int] = 1
    family: ClassVar[str] = "duo_attention"
    instead: ClassVar[str] = (
        "all KV heads count as equal, and those that stream are spread evenly over the layers, so scores are not those "
        "of the method"
    )

    @property
    def window(self) -> int:
        """Tokens that a streaming head sees, without a sparsity."""
        return self.sinks + self.recent

    def solve(self, length: int, density: float) -> Mapping[str, float]:
        """The share of streaming heads, and the window that compensates for rounding to whole heads."""
        most = 1 - window_density(length, self.window)
        streaming = 1.0 if most < 1 - density else (1 - density) / most if density < 1 else 0.0
        if streaming == 0:
            return {"streaming": 0.0}
        size = self.size(length, 1 - (1 - density) / streaming)
        sinks = min(self.sinks, max(size - self.recent, size // 2))
        return {"streaming": streaming, "sinks": sinks, "recent": max(1, size - sinks)}

    @abstractmethod
    def size(self, length: int, density: float) -> int:
        """Tokens that a streaming head has to see, at least 1, for this density."""

    def measure(self, seen: Tensor | None, q: Tensor, k: Tensor, handed: list[Tensor]) -> Tensor:
        """float64 ``[query_heads, 2]``: sums of the largest weights outside, and numbers of such queries."""
        import torch

        from sparse_tasks.attention.ops.true_mass import far_peaks

        q = q[-_ASKING:]
        peaks = far_peaks(q, k, self.sinks, self.recent, self.softmax).double().sum(1)
        number = min(len(q), max(0, len(k) - self.window))
        sums = torch.stack([peaks, torch.full_like(peaks, number)], 1)
        return sums if seen is None else seen + sums

    def tensors(self, sums: Sequence[Tensor]) -> dict[str, Tensor]:
        """The mean of each query head, fp32 ``[layers, query_heads]``.

        Raises:
            UsageError: No prompt was longer than the first and last tokens.
        """
        import torch

        shares, queries = torch.stack([*sums]).unbind(2)
        if not queries.all():
            remedy = f"have nothing outside of {self.sinks} first and {self.recent} last tokens; take longer ones"
            raise UsageError("data", "prompts", remedy)
        return {"far": (shares / queries).float()}

    def published(self, path: Path, shape: Shape) -> dict[str, Tensor]:
        """Learned gates, fp32 ``[layers, query_heads]``, the same within a group, from a ``full_attention_heads.tsv``.

        It has a line per layer, with a number per KV head: 0 for a streaming head, 1 for a retrieval head.

        Raises:
            UsageError: It is for another number of layers or KV heads.
            BadFileError: It is not a table of such numbers.
        """
        import torch

        try:
            rows = [[float(text) for text in line.split("\t")] for line in path.read_text().splitlines()]
            gates = torch.tensor(rows, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise BadFileError(f"from: {unreadable(path, error, 'TSV')}") from error
        if not gates.isfinite().all():
            raise BadFileError(f"from: {path} has gates that are not finite numbers")
        layers = shape.layers - shape.windowed_layers
        if gates.shape != (layers, shape.kv_heads):
            remedy = (
                f"has gates for {tuple(gates.shape)} layers and KV heads, where the model has "
                f"{(layers, shape.kv_heads)}; take the file of this model"
            )
            raise UsageError("from", str(path), remedy)
        return {"gates": gates.clamp(0.0, 1.0).repeat_interleave(shape.query_heads // shape.kv_heads, 1)}


@functools.lru_cache(maxsize=16)
def ranks(measured: Calibration | None, layers: int, kv_heads: int) -> tuple[tuple[int, ...], ...]:
    """Ranks of the KV heads of each layer among those of all layers; 0 streams first."""
    heads, shares = range(layers * kv_heads), [0.0] * (layers * kv_heads)
    if measured is not None:
        (tensor,) = measured.tensors.values()  # measured or published
        shares = tensor.view(layers * kv_heads, -1).mean(1).tolist()
    # Among equal heads, consecutive ones are spread over layers.
    order = sorted(heads, key=lambda head: (shares[head], head * _GOLDEN % 1))
    places = [rank for _, rank in sorted(zip(order, heads, strict=True))]
    return tuple(tuple(places[first : first + kv_heads]) for first in range(0, len(heads), kv_heads))


@dataclass(frozen=True, kw_only=True)
class DuoAttentionPrefill(DuoMethod, PrefillMethod):
    """The queries of a prompt: streaming heads see an "A-shape", whose window is rounded up to tiles.

    Which heads stream, and how far they see, is as in ``DuoMethod``.
    """

    name: ClassVar[str] = "duo_attention_prefill"
    place: ClassVar[int] = 11
    summary: ClassVar[str] = "some KV heads see everything, others first and last tokens"

    @property
    def oracle(self) -> tuple[str, JsonObject]:
        return "oracle_lines", {}

    @property
    def unshared(self) -> str | None:
        return super().unshared if self.sparsity is not None else None  # else the window does not depend on the prompt

    def size(self, length: int, density: float) -> int:
        return nearest_size(length, density * causal_count(length, length))

    def density_span(self, length: int) -> Span:
        tiles = 2 * TILE_KEYS / length
        if self.sparsity is not None:
            return 1 - self.sparsity - 2 / length, max(1 - self.sparsity, window_density(length, 2)) + tiles
        streaming = _STREAMING if self.streaming is None else self.streaming
        most = 1 - streaming * (1 - window_density(length, self.window))
        # With a cached prefix only the last queries count, which see as much of more keys.
        return 1 - math.sqrt(streaming) * (1 - min(1.0, self.window / length)), most + tiles

    def index_flops(self, shape: Shape, length: float) -> float:
        return 0.0  # no scores are computed

    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> LineIndex | None:
        from sparse_tasks.attention.kernels.dispatch import check_sequence
        from sparse_tasks.attention.ops.window import window_index_of_some

        check_sequence(q, k)
        n_k, kv_heads = len(k), k.shape[1]
        length = n_k if length is None else length
        at, heads = self.at(length), self.layer.count * kv_heads
        share = _STREAMING if at.streaming is None else at.streaming
        number = math.ceil(share * heads - _WHOLE)
        self.of_layer(self.layer, q.shape[1], q.device)  # refuses a calibration for other heads
        streams = tuple(rank < number for rank in ranks(self.measured, self.layer.count, kv_heads)[self.layer.index])
        if not any(streams):
            return None
        size = self.size(length, 1 - share * heads / number * (1 - window_density(length, at.window)))
        if size >= n_k:
            return None
        recent = max(at.recent, size - at.sinks)
        return window_index_of_some(k.device, streams, at.sinks, recent, BLOCK_Q, UNIT, len(q), n_k)


@dataclass(frozen=True, kw_only=True)
class DuoAttentionDecode(DuoMethod, DecodeMethod):
    """The steps after a prompt: streaming heads read first pages, at most half of their budget, and the last ones.

    Which heads stream, and how far they see, is as in ``DuoMethod``.
    """

    page: int = parameter(16, "tokens in a page; it divides the block size of a paged cache", 1)

    name: ClassVar[str] = "duo_attention_decode"
    place: ClassVar[int] = 6
    summary: ClassVar[str] = "some KV heads read everything, others first and last tokens"
    recordable: ClassVar[bool] = True

    @property
    def oracle(self) -> tuple[str, JsonObject]:
        return "oracle_decode", {"page": self.page, "shared": True}

    def size(self, length: int, density: float) -> int:
        return max(1, round(length * density))

    def read_span(self, prompt: int, cached: int) -> Span:
        streaming = _STREAMING if self.streaming is None else self.streaming
        share = streaming * (1 - min(1.0, self.window / cached)) if self.sparsity is None else self.sparsity
        target = (1 - share) * cached
        return target - self.page / 2, max(self.page, target + self.page / 2)

    def index_reads(self, shape: Shape, length: float) -> float:
        return 0.0  # reads no keys

    def select(self, q: Tensor, cache: PagedCache, state: Tensor | None, *, impl: str = "auto") -> PageIndex:
        import torch

        from sparse_tasks.attention.index import PageIndex
        from sparse_tasks.attention.kernels.sparse_decode import check_queries
        from sparse_tasks.attention.once import numbers_on

        check_queries(q, cache)
        self.of_layer(cache.layer, q.shape[1], q.device)  # refuses a calibration for other heads
        place = numbers_on(q.device, ranks(self.measured, cache.layer.count, cache.kv_heads))[cache.layer.index]
        heads = cache.layer.count * cache.kv_heads
        number, some, every = cache.once((self, heads), lambda: self._pages(cache, heads))[..., None]
        counts = torch.where(place < number, some, every)
        first = (
            (counts - ceil_div(self.recent, self.page)).maximum(counts // 2).clamp_max(ceil_div(self.sinks, self.page))
        )
        pages = torch.arange(ceil_div(cache.capacity, self.page), dtype=torch.int32, device=q.device)
        skipped = torch.where(pages < first[..., None], 0, (every - counts)[..., None])
        return PageIndex(pages + skipped, counts, self.page, cache.lengths)

    def _pages(self, cache: PagedCache, heads: int) -> Tensor:
        """int32 ``[3, batch]``: number of streaming KV heads, pages that each reads, and all pages."""
        import torch

        lengths = cache.lengths.clamp_min(1).double()
        seen = lengths.clamp_max(self.window)
        if self.sparsity is None:
            streaming = torch.full_like(lengths, _STREAMING if self.streaming is None else self.streaming)
            left_out = streaming * (1 - seen / lengths)
        else:
            most = 1 - seen * (2 * lengths - seen + 1) / (lengths * (lengths + 1))  # for a prompt, as in ``solve``
            streaming = (self.sparsity / most.clamp_min(_WHOLE)).clamp_max(1.0)
            left_out = torch.full_like(lengths, self.sparsity)
        number = (streaming * heads - _WHOLE).ceil()
        pages = ((lengths + (self.page - 1)) / self.page).floor()
        read = pages - lengths * left_out * heads / number.clamp_min(1) / self.page
        return torch.stack((number, (read + 0.5).floor().maximum(torch.ones_like(pages)), pages)).int()


METHODS.register("duo_attention_prefill", DuoAttentionPrefill)
METHODS.register("duo_attention_decode", DuoAttentionDecode)
