"""Backend of vLLM's CPU build: torch throughout, over a plain cache.

vLLM's own kernel packs the cache for the instruction set, so layers that are sparse write it themselves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import EIGHT_BITS
from sparse_tasks.attention.patterns import Everything
from sparse_tasks.attention.reference import masked_attention
from sparse_tasks.attention.vllm.interface import importing
from sparse_tasks.attention.vllm.layer import SparseLayer
from sparse_tasks.attention.vllm.plan import Span, Step
from sparse_tasks.attention.vllm.shared import BuilderMixin, ImplMixin

with importing():
    from vllm.v1.attention.backends.cpu_attn import (
        CPUAttentionBackend,
        CPUAttentionBackendImpl,
        CPUAttentionMetadataBuilder,
    )


class SparseBuilder(BuilderMixin, CPUAttentionMetadataBuilder):  # type: ignore[misc]  # vLLM is not looked into
    """vLLM's metadata with the plan of the step."""


class SparseImpl(ImplMixin, CPUAttentionBackendImpl):  # type: ignore[misc]
    """Sparse attention, or vLLM's own in layers with a sliding window and in engines without sparse attention."""

    def do_kv_cache_update(
        self, layer: Any, key: Tensor, value: Tensor, kv_cache: Tensor, slot_mapping: Tensor
    ) -> None:
        if self.sparse is None:
            super().do_kv_cache_update(layer, key, value, kv_cache, slot_mapping)
            return
        keys, values = self.split(kv_cache)
        real = slot_mapping >= 0
        block, offset = slot_mapping[real] // keys.shape[1], slot_mapping[real] % keys.shape[1]
        keys[block, offset] = _stored(key[: len(real)][real], keys.dtype, self.sparse.scales.k)
        values[block, offset] = _stored(value[: len(real)][real], values.dtype, self.sparse.scales.v)
        self.sparse.notice(key, keys, slot_mapping)

    def forward(
        self,
        layer: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        attn_metadata: Any,
        output: Tensor,
        *scales: Any,
        **options: Any,
    ) -> Tensor:
        step: Step | None = getattr(attn_metadata, "sparse", None)
        if self.sparse is None:
            attended: Tensor = super().forward(
                layer, query, key, value, kv_cache, attn_metadata, output, *scales, **options
            )
            return attended
        if step is None:  # a trial of vLLM's, whose output nobody reads
            return output.zero_()
        keys, values = self.split(kv_cache)
        self.sparse.attend(step, query, key, value, keys, values, output)
        for span in step.dense:
            output[span.tokens] = self._dense(step, span, query[span.tokens], keys, values, self.sparse)
        return output

    def _dense(self, step: Step, span: Span, q: Tensor, keys: Tensor, values: Tensor, sparse: SparseLayer) -> Tensor:
        """Causal attention of the last positions of a sequence over all of it."""
        blocks = step.table[span.row, : ceil_div(span.end, keys.shape[1])].long()
        k, v = (x[blocks].flatten(0, 1)[: span.end].to(q.dtype) for x in (keys, values))
        scale, softmax = self.scale * sparse.scales.k, sparse.softmax
        if not softmax.plain:
            return masked_attention(q, k, v, Everything(), scale=scale, softmax=softmax) * sparse.scales.v
        mask = None
        if len(q) > 1 and span.start > 0:
            mask = torch.arange(span.end) <= torch.arange(span.start, span.end)[:, None]
        attended = torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(0, 1)[None] for x in (q, k, v)), attn_mask=mask, is_causal=span.start == 0 and len(q) > 1,
            scale=scale, enable_gqa=True,
        )  # fmt: skip
        return attended[0].transpose(0, 1) * sparse.scales.v


def _stored(x: Tensor, dtype: torch.dtype, scale: float) -> Tensor:
    """Keys or values as the cache holds them: in 8 bits, where vLLM's GPU build rounds, its CPU build cuts off."""
    if dtype != EIGHT_BITS:
        return x
    most = torch.finfo(dtype).max
    x = (x.float() * (1 / torch.tensor(scale))).clamp(-most, most)
    # Three binary digits behind the first; the smallest numbers have fewer, down to 2 ** -9.
    step = torch.ldexp(torch.ones_like(x), (torch.frexp(x).exponent - 4).clamp_min(-9))
    return ((x / step).trunc() * step).to(dtype)


class SparseBackend(CPUAttentionBackend):  # type: ignore[misc]
    """vLLM's backend on CPUs, with sparse attention."""

    @staticmethod
    def get_impl_cls() -> type[SparseImpl]:
        return SparseImpl

    @staticmethod
    def get_builder_cls() -> type[SparseBuilder]:
        return SparseBuilder
