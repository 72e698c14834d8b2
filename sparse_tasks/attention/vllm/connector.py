"""Connector that tells vLLM's scheduler which blocks the layers of its workers have agreed to drop.

vLLM has connectors to move keys and values between engines, and loads them by the path of their module. Another of
their features is used here: a worker's part reports to the scheduler's part at the end of each step. Nothing is moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparse_tasks.attention.vllm.freeing import MANAGERS
from sparse_tasks.attention.vllm.interface import importing
from sparse_tasks.attention.vllm.session import session_of

with importing():
    from vllm.distributed.kv_transfer.kv_connector.v1.base import (
        KVConnectorBase_V1,
        KVConnectorMetadata,
        KVConnectorWorkerMetadata,
        SupportsHMA,
    )


@dataclass(frozen=True)
class Dropped(KVConnectorWorkerMetadata):  # type: ignore[misc]  # vLLM is not looked into
    """What a worker reports.

    Attributes:
        positions: Runs of positions, ascending, that none of its layers will read, by request.
    """

    positions: dict[str, list[range]]

    def aggregate(self, other: Dropped) -> Dropped:
        """What neither of two workers will read; each has its own heads (tensor parallelism)."""
        both = self.positions.keys() & other.positions.keys()
        return Dropped({name: common(self.positions[name], other.positions[name]) for name in both})


def common(ours: list[range], theirs: list[range]) -> list[range]:
    """Runs of the positions that are in both, in ascending order."""
    met, i, j = list[range](), 0, 0
    while i < len(ours) and j < len(theirs):
        start, stop = max(ours[i].start, theirs[j].start), min(ours[i].stop, theirs[j].stop)
        if start < stop:
            met.append(range(start, stop))
        if ours[i].stop < theirs[j].stop:
            i += 1
        else:
            j += 1
    return met


class FreeingConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """A connector that moves no keys and values."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._session = session_of(vllm_config)  # None in the scheduler, where it is in another process
        self._pool: object = None

    @property
    def requires_kv_delivery(self) -> bool:
        return False

    # --- in a worker ---

    def build_connector_worker_meta(self) -> Dropped | None:
        dropped = {} if self._session is None else self._session.dropped()
        return Dropped(dropped) if dropped else None

    def start_load_kv(self, forward_context: Any, **options: Any) -> None:
        """Load nothing."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Wait for nothing."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **options: Any) -> None:
        """Save nothing."""

    def wait_for_save(self) -> None:
        """Wait for nothing."""

    # --- in the scheduler ---

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        self._pool = gpu_block_pool

    def update_connector_output(self, connector_output: Any) -> None:
        dropped = connector_output.kv_connector_worker_meta
        if isinstance(dropped, Dropped):
            for manager in MANAGERS:
                if manager.block_pool is self._pool:
                    for request, positions in dropped.positions.items():
                        manager.drop(request, positions)

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        return 0, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Do nothing."""

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        return KVConnectorMetadata()

    def request_finished_all_groups(self, request: Any, block_ids: Any) -> tuple[bool, None]:
        return False, None
