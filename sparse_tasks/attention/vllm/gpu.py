"""Backend of vLLM on GPUs: FlashAttention, and sparse attention in the phases that methods are for.

Serves both model runners, and CUDA graphs that leave attention out (PIECEWISE).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sparse_tasks.attention.vllm.checks import check_head_size
from sparse_tasks.attention.vllm.interface import importing
from sparse_tasks.attention.vllm.plan import Step
from sparse_tasks.attention.vllm.shared import BuilderMixin, ImplMixin

with importing():
    from vllm.v1.attention.backend import AttentionCGSupport
    from vllm.v1.attention.backends.flash_attn import (
        FlashAttentionBackend,
        FlashAttentionImpl,
        FlashAttentionMetadataBuilder,
    )


@dataclass(frozen=True)
class _Dense:
    """Part of a step for FlashAttention.

    Attributes:
        tokens: Places of its queries among those of the step.
        metadata: vLLM's metadata of this part.
    """

    tokens: slice | Tensor
    metadata: Any


class SparseBuilder(BuilderMixin, FlashAttentionMetadataBuilder):  # type: ignore[misc]  # vLLM is not looked into
    """vLLM's metadata with the plan of the step."""

    @classmethod
    def get_cudagraph_support(cls, vllm_config: Any, kv_cache_spec: Any) -> Any:
        return AttentionCGSupport.NEVER

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> Any:
        metadata = super().build(common_prefix_len, common_attn_metadata, fast_build)
        step: Step | None = getattr(metadata, "sparse", None)
        if step is not None and step.mixed:
            metadata.dense = _dense_part(metadata, step)
        return metadata

    def use_cascade_attention(self, *args: Any, **options: Any) -> bool:
        return False


def _dense_part(metadata: Any, step: Step) -> _Dense:
    """The part of a step that no method computes."""
    spans = step.dense
    device, counts = step.table.device, [span.end - span.start for span in spans]
    starts = torch.tensor([0, *counts], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    together = all(one.tokens.stop == two.first for one, two in pairwise(spans))
    tokens: slice | Tensor = slice(spans[0].first, spans[-1].tokens.stop)
    if not together:
        tokens = torch.cat([torch.arange(span.first, span.tokens.stop) for span in spans]).to(device)
    return _Dense(
        tokens,
        replace(
            metadata,
            num_actual_tokens=sum(counts),
            max_query_len=max(counts),
            query_start_loc=starts.to(device, non_blocking=True),
            max_seq_len=max(span.end for span in spans),
            seq_lens=torch.tensor([span.end for span in spans], dtype=torch.int32, device=device),
            block_table=step.table[torch.tensor([span.row for span in spans], device=device)],
            # The schedule of the whole step does not fit; FlashAttention makes its own.
            scheduler_metadata=None,
        ),
    )


class SparseImpl(ImplMixin, FlashAttentionImpl):  # type: ignore[misc]
    """Sparse attention, or vLLM's own in layers with a sliding window and in engines without sparse attention."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.may_be_sparse:
            check_head_size(self.head_size)

    def do_kv_cache_update(
        self, layer: Any, key: Tensor, value: Tensor, kv_cache: Tensor, slot_mapping: Tensor
    ) -> None:
        super().do_kv_cache_update(layer, key, value, kv_cache, slot_mapping)
        if self.sparse is not None:
            self.sparse.notice(key, self.split(kv_cache)[0], slot_mapping)

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
        if self.sparse is not None and step is not None:
            keys, values = self.split(kv_cache)
            self.sparse.attend(step, query, key, value, keys, values, output)
            if not step.dense:
                return output
            if step.mixed:
                part: _Dense = attn_metadata.dense
                if isinstance(part.tokens, slice):
                    super().forward(layer, query[part.tokens], key, value, kv_cache, part.metadata,
                                    output[part.tokens], *scales, **options)  # fmt: skip
                else:
                    some = torch.empty_like(output[part.tokens])
                    super().forward(layer, query[part.tokens], key, value, kv_cache, part.metadata, some, *scales,
                                    **options)  # fmt: skip
                    output[part.tokens] = some
                return output
        attended: Tensor = super().forward(
            layer, query, key, value, kv_cache, attn_metadata, output, *scales, **options
        )
        return attended


class SparseBackend(FlashAttentionBackend):  # type: ignore[misc]
    """vLLM's FlashAttention, with sparse attention."""

    @staticmethod
    def get_name() -> str:
        return "CUSTOM"

    @staticmethod
    def get_impl_cls() -> type[SparseImpl]:
        return SparseImpl

    @staticmethod
    def get_builder_cls() -> type[SparseBuilder]:
        return SparseBuilder
