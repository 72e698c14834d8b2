"""Blocks of vLLM's cache that go back to its pool once no later query sees them.

vLLM lets a worker say how a layer is cached (``get_kv_cache_spec``), and has a registry of managers by such specs. Ours
extends the manager of full attention: it also frees blocks within a request, as the manager of sliding windows does.
Which blocks depends on positions, or on what the layers have agreed on, which the worker sends through our connector.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Self
from weakref import WeakSet

from sparse_tasks.attention.interactions import whole_blocks
from sparse_tasks.attention.vllm.arguments import KEY, parse_offer
from sparse_tasks.attention.vllm.interface import importing
from sparse_tasks.core.errors import UsageError

with importing():
    from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
    from vllm.v1.kv_cache_interface import FullAttentionSpec
    from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry


class FreeingManager(FullAttentionManager):  # type: ignore[misc]  # vLLM is not looked into
    """Blocks of requests, of which those that no later query sees are freed.

    A freed block keeps its hash until another request takes it. A later request finds a prefix of blocks that are all
    there, or a shorter one.
    """

    def __init__(self, kv_cache_spec: FreeingSpec, *args: Any, **options: Any) -> None:
        super().__init__(kv_cache_spec, *args, **options)
        self._attention = parse_offer({KEY: json.loads(kv_cache_spec.settings)}).attention
        self._dropped: dict[str, list[range]] = {}
        MANAGERS.add(self)

    def drop(self, request_id: str, dropped: list[range]) -> None:
        """Take note of positions of a prompt that no query behind it sees; blocks of these alone are freed next time.

        A preempted request reports them again, once its prompt is computed again.
        """
        if request_id in self.req_to_blocks:
            self._dropped[request_id] = dropped

    def pop_blocks_for_free(self, request_id: str) -> Any:
        self._dropped.pop(request_id, None)  # of one whose client left before its next step
        return super().pop_blocks_for_free(request_id)

    def remove_skipped_blocks(
        self, request_id: str, processed_computed_tokens: int, num_prompt_tokens: int | None = None
    ) -> None:
        """Free blocks that queries behind the processed tokens do not see; vLLM calls it before it allocates others."""
        if num_prompt_tokens is None:
            return
        unseen = [self._attention.unseen(num_prompt_tokens, processed_computed_tokens)]
        dropped = self._dropped.pop(request_id, [])
        if processed_computed_tokens >= num_prompt_tokens:  # else it was preempted since
            unseen += dropped
        for positions in unseen:
            self._remove_blocks_in_range(request_id, *whole_blocks(positions, self.block_size))


MANAGERS: Final[WeakSet[FreeingManager]] = WeakSet()
"""Managers of this process."""


@dataclass(frozen=True, kw_only=True)
class FreeingSpec(FullAttentionSpec):  # type: ignore[misc]
    """Cache of a layer under methods that free blocks.

    Attributes:
        settings: What vLLM's ``additional_config`` says of the methods, as JSON.
    """

    settings: str = ""

    @classmethod
    def of(cls, spec: Any, settings: object) -> Self:
        """The same cache, with blocks that are freed.

        Raises:
            UsageError: It is of another kind, as that of latents, or vLLM does not tell its managers where prompts end.
        """
        if type(spec) is not FullAttentionSpec:
            remedy = f"does not go with a model for which vLLM uses another cache ({type(spec).__name__})"
            raise UsageError("free_blocks", True, remedy)
        if "num_prompt_tokens" not in inspect.signature(FullAttentionManager.remove_skipped_blocks).parameters:
            remedy = "needs a vLLM whose cache manager knows where prompts end, as that of 0.32 does"
            raise UsageError("free_blocks", True, remedy)
        return cls(**{each.name: getattr(spec, each.name) for each in fields(spec)}, settings=json.dumps(settings))

    @classmethod
    def merge(cls, specs: Sequence[Self]) -> Self:
        if not all(isinstance(spec, cls) for spec in specs):
            raise AssertionError("layers of which others see more share no blocks")  # which vLLM takes as a no
        merged: Self = replace(super().merge(specs), settings=specs[0].settings)
        return merged


# The registry takes vLLM's own specs only while it is empty.
KVCacheSpecRegistry.check_kv_cache_spec_registry({})
KVCacheSpecRegistry.register(FreeingSpec, FreeingManager, uniform_type_base_spec=FullAttentionSpec)
