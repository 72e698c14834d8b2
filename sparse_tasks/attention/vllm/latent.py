"""Backend of vLLM's CPU build for latent attention (MLA): decoding is sparse on the latents, prompts are vLLM's own.

vLLM caches one row for each token, a latent and a part that knows its position, which all heads share. In decoding it
takes rows as they are: each head's query is brought to their space, the row is the key, and its latent the value. So
methods see one KV head, whose group is all query heads.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparse_tasks.attention.vllm.checks import importing
from sparse_tasks.attention.vllm.plan import Step
from sparse_tasks.attention.vllm.shared import BuilderMixin, ImplMixin
from sparse_tasks.core.errors import EngineError

with importing():
    from vllm.model_executor.layers.attention.mla_attention import MLACommonMetadataBuilder
    from vllm.v1.attention.backends.mla.cpu_mla import CPUMLABackend, CPUMLAImpl


class LatentBuilder(BuilderMixin, MLACommonMetadataBuilder):  # type: ignore[misc]  # vLLM is not looked into
    """vLLM's metadata with the plan of the step."""

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> Any:
        metadata = super().build(common_prefix_len, common_attn_metadata, fast_build)
        if self._session is not None:
            metadata.sparse = self._session.plan(self._names, common_attn_metadata, self.page_size)
        return metadata


class LatentImpl(ImplMixin, CPUMLAImpl):  # type: ignore[misc]
    """Sparse decoding, or vLLM's own in engines without sparse attention."""

    latent = True
    sinks = None
    logits_soft_cap = None

    def do_kv_cache_update(
        self, kv_c_normed: Tensor, k_pe: Tensor, kv_cache: Tensor, slot_mapping: Tensor, *others: Any
    ) -> None:
        super().do_kv_cache_update(kv_c_normed, k_pe, kv_cache, slot_mapping, *others)
        if self.sparse is not None and kv_cache.numel():
            rows = torch.cat([kv_c_normed, k_pe.squeeze(1)], dim=-1)
            self.sparse.notice(rows[:, None], kv_cache[:, :, None], slot_mapping.flatten())

    def forward_mqa(
        self, q: Tensor | tuple[Tensor, Tensor], kv_c_and_k_pe_cache: Tensor, attn_metadata: Any, layer: Any
    ) -> tuple[Tensor, Tensor | None]:
        step: Step | None = getattr(attn_metadata, "sparse", None)
        queries = torch.cat(q, dim=-1) if isinstance(q, tuple) else q
        if self.sparse is None or step is None:
            attended: tuple[Tensor, Tensor | None] = super().forward_mqa(
                queries, kv_c_and_k_pe_cache, attn_metadata, layer
            )
            return attended
        for plan in step.plans:
            if plan.steps is not None and any(span.first >= len(queries) for span in plan.steps.spans):
                raise EngineError("vLLM reads a step of decoding as a prompt, which no method computes")
        rows = kv_c_and_k_pe_cache[:, :, None]
        out = queries.new_empty(*queries.shape[:2], self.kv_lora_rank)
        self.sparse.attend(step, queries, None, None, rows, rows[..., : self.kv_lora_rank], out)
        # Each of vLLM's own has one token here, the only one of a prompt too.
        left = torch.tensor([span.first for span in step.dense if span.first < len(queries)], dtype=torch.int64)
        if len(left):
            decode = attn_metadata.decode
            some = replace(decode, block_table=decode.block_table[left], seq_lens=decode.seq_lens[left])
            metadata = replace(attn_metadata, decode=some)
            out[left], _ = super().forward_mqa(queries[left], kv_c_and_k_pe_cache, metadata, layer)
        return out, None


class LatentBackend(CPUMLABackend):  # type: ignore[misc]
    """vLLM's backend of latent attention on CPUs, with sparse decoding."""

    @staticmethod
    def get_impl_cls() -> type[LatentImpl]:
        return LatentImpl

    @staticmethod
    def get_builder_cls() -> type[LatentBuilder]:
        return LatentBuilder
