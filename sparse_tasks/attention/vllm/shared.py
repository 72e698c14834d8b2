"""Mixins of the CPU and the GPU backend, which connect layers and metadata builders with their engine's session."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from sparse_tasks.attention.kernels.dispatch import EIGHT_BITS
from sparse_tasks.attention.vllm.checks import check_attributes
from sparse_tasks.attention.vllm.interface import importing
from sparse_tasks.attention.vllm.layer import SparseLayer
from sparse_tasks.attention.vllm.session import Session, session_of

with importing():
    from vllm.config import get_current_vllm_config


class BuilderMixin:
    """Mixin of metadata builders."""

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: Any) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)  # type: ignore[call-arg]
        self._session: Session | None = session_of(vllm_config)
        self._names, self._block_size = layer_names, kv_cache_spec.block_size
        if self._session is not None:
            self._session.lay_out(layer_names, self._block_size)

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> Any:
        """VLLM's metadata, with the plan of the step as ``sparse``."""
        metadata = super().build(common_prefix_len, common_attn_metadata, fast_build)  # type: ignore[misc]
        if self._session is not None:
            metadata.sparse = self._session.plan(self._names, common_attn_metadata, self._block_size)
        return metadata


class ImplMixin:
    """Mixin of attention layers; ``sparse`` is None in those that are left to vLLM.

    Class attributes:
        latent: Whether the cache has one row for each token, which is key and value of all heads (MLA).
    """

    sparse: SparseLayer | None = None
    latent: ClassVar[bool] = False
    head_size: int

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        alibi_slopes: list[float] | None,
        sliding_window: int | None,
        *args: Any,
        **options: Any,
    ) -> None:
        self.may_be_sparse = session_of(get_current_vllm_config()) is not None and sliding_window is None
        if self.may_be_sparse:
            check_attributes(options, latent=self.latent)  # before vLLM's own class is given what it does not know
        super().__init__(  # type: ignore[call-arg]
            num_heads, head_size, scale, num_kv_heads, alibi_slopes, sliding_window, *args, **options
        )
        if self.may_be_sparse:
            check_attributes(vars(self), latent=self.latent)

    def split(self, kv_cache: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of vLLM's joint cache, ``[blocks, block_size, kv_heads, head_size]`` each."""
        if kv_cache.dtype == torch.uint8:  # so vLLM calls 8 bits of any type, of which one is let through
            kv_cache = kv_cache.view(EIGHT_BITS)
        keys, values = kv_cache.transpose(1, 2).split(self.head_size, dim=-1)
        return keys, values
