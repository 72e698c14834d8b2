"""Backend of vLLM's CPU build for latent attention (MLA): decoding is sparse on the latents, prompts are vLLM's own.

vLLM caches one row for each token, a latent and a part that knows its position, which all heads share. In decoding it
takes rows as they are: each head's query is brought to their space, the row is the key, and its latent the value. So
methods see one KV head, whose group is all query heads. Sizes below are DeepSeek's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sparse_tasks.attention.vllm.interface import importing
from sparse_tasks.attention.vllm.layer import SparseLayer
from sparse_tasks.attention.vllm.plan import Step
from sparse_tasks.attention.vllm.shared import BuilderMixin, ImplMixin

with importing():
    from vllm.model_executor.layers.attention.mla_attention import MLACommonMetadataBuilder, split_kv_b_proj
    from vllm.v1.attention.backends.mla.cpu_mla import CPUMLABackend, CPUMLAImpl


class LatentBuilder(BuilderMixin, MLACommonMetadataBuilder):  # type: ignore[misc]  # vLLM is not looked into
    """vLLM's metadata with the plan of the step."""


class LatentImpl(ImplMixin, CPUMLAImpl):  # type: ignore[misc]
    """Sparse decoding, or vLLM's own in engines without sparse attention."""

    latent = True
    sinks = None
    logits_soft_cap = None
    to_rows: Tensor
    from_rows: Tensor
    _again: _Again | None = None

    def do_kv_cache_update(
        self, kv_c_normed: Tensor, k_pe: Tensor, kv_cache: Tensor, slot_mapping: Tensor, *others: Any
    ) -> None:
        super().do_kv_cache_update(kv_c_normed, k_pe, kv_cache, slot_mapping, *others)
        if self.sparse is not None and kv_cache.numel():
            rows = torch.cat([kv_c_normed, k_pe.squeeze(1)], dim=-1)
            self.sparse.notice(rows[:, None], kv_cache[:, :, None], slot_mapping.flatten())

    def process_weights_after_loading(self, act_dtype: torch.dtype) -> None:
        super().process_weights_after_loading(act_dtype)
        keys, values = split_kv_b_proj(
            self.kv_b_proj, act_dtype, self.kv_lora_rank, self.num_heads, self.qk_nope_head_dim, self.v_head_dim
        )
        self.to_rows, self.from_rows = keys.permute(1, 2, 0), values.transpose(0, 1)

    def forward_mha(
        self,
        q: Tensor,
        kv_c_normed: Tensor,
        k_pe: Tensor,
        kv_c_and_k_pe_cache: Tensor,
        attn_metadata: Any,
        k_scale: Tensor,
        output: Tensor,
        *others: Any,
        **options: Any,
    ) -> None:
        super().forward_mha(
            q, kv_c_normed, k_pe, kv_c_and_k_pe_cache, attn_metadata, k_scale, output, *others, **options
        )
        step: Step | None = getattr(attn_metadata, "sparse", None)
        if self.sparse is None or step is None:
            return
        first = attn_metadata.num_decode_tokens
        places = _written(step, first)
        if len(places):
            latent, position = q[places - first].split([self.qk_nope_head_dim, self.qk_rope_head_dim], dim=-1)
            rows = torch.bmm(latent.transpose(0, 1), self.to_rows).transpose(0, 1)
            self._again = _Again(places, torch.cat([rows, position], dim=-1), output, first)
            if first == 0:  # else vLLM asks for the others next
                self._decode(step, q.new_empty(0, self.num_heads, self.head_size), kv_c_and_k_pe_cache, self.sparse)

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
        out = self._decode(step, queries, kv_c_and_k_pe_cache, self.sparse)
        # Each of vLLM's own has one token here, the only one of a prompt too.
        left = torch.tensor([span.first for span in step.dense if span.first < len(queries)], dtype=torch.int64)
        if len(left):
            decode = attn_metadata.decode
            some = replace(decode, block_table=decode.block_table[left], seq_lens=decode.seq_lens[left])
            metadata = replace(attn_metadata, decode=some)
            out[left], _ = super().forward_mqa(queries[left], kv_c_and_k_pe_cache, metadata, layer)
        return out, None

    def _decode(self, step: Step, queries: Tensor, cache: Tensor, sparse: SparseLayer) -> Tensor:
        """Sparse attention of the step's first tokens, ``[tokens, heads, 512]``, and of what waits to be decoded again.

        Args:
            step: The step.
            queries: ``[tokens, heads, 576]``, in the space of rows.
            cache: ``[blocks, block_size, 576]``.
            sparse: The layer.
        """
        again, self._again = self._again, None
        count = len(queries)
        if again is not None:
            whole = queries.new_zeros(step.tokens, *queries.shape[1:])
            whole[:count], whole[again.places] = queries, again.queries
            queries = whole
        rows = cache[:, :, None]
        out = queries.new_empty(*queries.shape[:2], self.kv_lora_rank)
        sparse.attend(step, queries, None, None, rows, rows[..., : self.kv_lora_rank], out)
        if again is not None:
            values = torch.bmm(out[again.places].transpose(0, 1), self.from_rows)
            again.output[again.places - again.first] = values.transpose(0, 1).flatten(1)
        return out[:count]


@dataclass(frozen=True)
class _Again:
    """Tokens that a request wrote before it was preempted, which vLLM reads together, with the prompt.

    Attributes:
        places: int64 ``[tokens]``: their places in the step.
        queries: ``[tokens, heads, 576]``, in the space of rows.
        output: ``[tokens of prompts, heads * value_size]``: vLLM's, written to.
        first: Place in the step of the first of these.
    """

    places: Tensor
    queries: Tensor
    output: Tensor
    first: int


def _written(step: Step, first: int) -> Tensor:
    """int64 ``[tokens]``: places, from ``first`` on, of tokens that a method decodes."""
    spans = [span for plan in step.plans if plan.steps is not None for span in plan.steps.spans]
    places = [n for span in spans if span not in step.dense for n in range(span.first, span.tokens.stop) if n >= first]
    return torch.tensor(places, dtype=torch.int64)


class LatentBackend(CPUMLABackend):  # type: ignore[misc]
    """vLLM's backend of latent attention on CPUs, with sparse decoding."""

    @staticmethod
    def get_impl_cls() -> type[LatentImpl]:
        return LatentImpl

    @staticmethod
    def get_builder_cls() -> type[LatentBuilder]:
        return LatentBuilder
