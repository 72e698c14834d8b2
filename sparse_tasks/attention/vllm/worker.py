"""vLLM's worker with sparse attention: ``worker_cls`` of an engine that runs it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch
import vllm
from torch import Tensor
from vllm.platforms import current_platform

from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.vllm.arguments import KEY, Offer, parse_offer, parse_self_test
from sparse_tasks.attention.vllm.checks import check_cache, check_config, check_layer
from sparse_tasks.attention.vllm.interface import (
    CONFIGURATION,
    EVERYWHERE,
    ON_CPUS,
    ON_GPUS,
    TO_FREE_BLOCKS,
    WITH_LATENTS,
    check_cache_layout,
    check_names,
    check_object,
    check_order,
    check_version,
    importing,
    in_order,
)
from sparse_tasks.attention.vllm.plugin import take_the_place_of_cpu_attention
from sparse_tasks.attention.vllm.replay import Compute, CudaRecorder, Found, Recorder, Replays
from sparse_tasks.attention.vllm.selftest import self_test
from sparse_tasks.attention.vllm.session import SESSIONS, Session
from sparse_tasks.core.errors import UsageError

with importing():
    from vllm.config import CUDAGraphMode
    from vllm.distributed import get_tensor_model_parallel_rank
    from vllm.forward_context import get_forward_context
    from vllm.model_executor.layers.attention import Attention as AttentionModule
    from vllm.model_executor.layers.attention import MLAAttention
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase

    if current_platform.is_cpu():
        from vllm.v1.worker.cpu_worker import CPUWorker as VllmWorker
    else:
        from vllm.v1.worker.gpu.model_runner import sort_batch_req_ids
        from vllm.v1.worker.gpu_worker import Worker as VllmWorker

if TYPE_CHECKING:
    from vllm.config import VllmConfig

_LOG: Final = logging.getLogger("vllm.sparse_tasks")
_RECORDABLE: Final = frozenset(("CPU_ATTN", "CUSTOM", "FLASH_ATTN", "GDN_ATTN"))
"""Backends of vLLM whose decoding can be part of a graph: sliding windows, and the gated delta rule."""


def freeing() -> Any:
    """The class ``FreeingSpec``, of a part of vLLM that nothing else needs.

    Raises:
        UsageError: This release lacks it.
    """
    from sparse_tasks.attention.vllm.freeing import FreeingSpec

    return FreeingSpec


def _check_interface(config: VllmConfig, offer: Offer) -> None:
    """Refuse a release of vLLM that lacks a name that this engine will use."""
    check_names(EVERYWHERE, ON_CPUS if current_platform.is_cpu() else ON_GPUS)
    if not current_platform.is_cpu():
        check_order(sort_batch_req_ids)
    if config.model_config.use_mla:
        check_names(WITH_LATENTS)
    if offer.free_blocks:
        check_names(TO_FREE_BLOCKS)


def _check_parts(module: Any) -> None:
    """Refuse a release of vLLM whose attention layers lack an attribute."""
    latent = isinstance(module, MLAAttention)
    check_object("latent attention layer" if latent else "attention layer", module)
    check_object("latent attention" if latent else "attention", module.impl)
    if not latent and module.kv_cache_dtype.startswith("fp8"):
        check_object("attention layer in 8 bits", module)


def _read_by(layers: Iterable[str]) -> Iterator[object]:
    """What vLLM's own layers read of the running step's metadata: tensors, and values that decide what is launched.

    Apart from the length of the longest sequence, for which the longest that a model takes will do.
    """
    plain = Tensor | int | str | tuple | None
    metadata = get_forward_context().attn_metadata
    for one in {id(metadata[layer]): metadata[layer] for layer in layers}.values():
        for name, value in vars(one).items():
            if name != "max_seq_len":
                yield value if isinstance(value, plain) else object()  # what is not known is never alike


def _record_whole(recorder: Recorder, layers: Iterable[str], longest: int, compute: Compute[Found]) -> Compute[Found]:
    """Record a model without vLLM's graphs of its pieces, which cannot be parts of another graph.

    Args:
        recorder: Records a computation.
        layers: Layers that vLLM computes.
        longest: Tokens of the longest sequence that the model takes.
        compute: Runs the model.
    """

    def without_pieces() -> Found:
        context = get_forward_context()
        for layer in layers:
            if hasattr(metadata := context.attn_metadata[layer], "max_seq_len"):
                metadata.max_seq_len = longest
        mode, context.cudagraph_runtime_mode = context.cudagraph_runtime_mode, CUDAGraphMode.NONE
        try:
            return compute()
        finally:
            context.cudagraph_runtime_mode = mode

    return recorder(without_pieces)


class SparseWorker(VllmWorker):  # type: ignore[misc]  # vLLM is not looked into
    """vLLM's worker, which tells the session of each step and returns measurements."""

    def __init__(self, vllm_config: VllmConfig, *args: Any, **options: Any) -> None:
        if untested := check_version(vllm.__version__):
            _LOG.warning(untested)
        check_names(CONFIGURATION)
        offer = parse_offer(vllm_config.additional_config)
        check_config(vllm_config, offer)
        _check_interface(vllm_config, offer)
        self._tests_itself = parse_self_test(vllm_config.additional_config)
        self._tested: dict[str, Any] | None = None  # None where there was no self-test
        if current_platform.is_cpu():
            take_the_place_of_cpu_attention()
        self._sparse = Session(
            offer.attention,
            "torch" if current_platform.is_cpu() else "auto",
            choices=offer.choices,
            free_blocks=offer.free_blocks,
            modules=vllm_config.compilation_config.static_forward_context,
            text=vllm_config.model_config.hf_text_config,
        )
        SESSIONS.add(self._sparse)
        super().__init__(vllm_config, *args, **options)

    def load_model(self, *args: Any, **options: Any) -> None:
        super().load_model(*args, **options)
        modules = self.vllm_config.compilation_config.static_forward_context
        sparse = {
            name: module
            for name, module in modules.items()
            if isinstance(module, AttentionModule | MLAAttention) and module.sliding_window is None
        }
        check_object("worker", self)
        check_object("model runner V2" if self.use_v2_model_runner else "model runner", self.model_runner)
        for module in sparse.values():
            _check_parts(module)
            check_layer(module)
        self._modules = sparse
        mode = self.vllm_config.compilation_config.cudagraph_mode
        records = mode is not None and mode.has_piecewise_cudagraphs() and not current_platform.is_cpu()
        self._join(CudaRecorder(self.device) if records else None)

    def _join(self, recorder: Recorder | None) -> None:
        """Give the session its layers, and have decoding steps recorded.

        The model is recorded whole, unless vLLM compiles it as a whole, or computes layers that cannot be recorded.
        """
        model: Any = self.get_model()
        table = self.vllm_config.compilation_config.static_forward_context
        others = {
            name: module.get_attn_backend().get_name()
            for name, module in table.items()
            if isinstance(module, AttentionLayerBase) and name not in self._modules
        }
        whole = set(others.values()) <= _RECORDABLE and type(model).__call__ is torch.nn.Module.__call__
        replays = None
        if recorder is not None:
            replays = Replays(
                partial(_record_whole, recorder, others, self.model_config.max_model_len) if whole else recorder
            )
            if whole:
                model.forward = partial(self._run_model, model.forward, others)
        rank, ranks = get_tensor_model_parallel_rank(), self.vllm_config.parallel_config.tensor_parallel_size
        self._sparse.join(self._modules, self.device, replays, whole=whole, rank=rank, ranks=ranks)

    def _run_model(self, forward: Callable[..., Any], others: Iterable[str], *args: Any, **options: Any) -> Any:
        """Run the model, or replay its graph."""
        given = [one for one in (*args, *options.values()) if one is not None]
        compute = partial(forward, *args, **options)
        if not all(isinstance(one, Tensor) for one in given):
            return compute()
        return self._sparse.run_model(
            compute, lambda: [*given, *get_forward_context().slot_mapping.values(), *_read_by(others)]
        )

    def get_kv_cache_spec(self) -> dict[str, Any]:
        specs: dict[str, Any] = super().get_kv_cache_spec()
        for name in self._modules.keys() & specs.keys():  # others read the cache of one of these
            check_cache(specs[name])
            if self._sparse.offer.free_blocks:
                specs[name] = freeing().of(specs[name], self.vllm_config.additional_config[KEY])
        self._of_each_kind = Counter(specs.values())
        return specs

    def initialize_from_config(self, kv_cache_config: Any) -> None:
        self._sparse.forget_graphs()
        if self._sparse.offer.free_blocks:
            for group in kv_cache_config.kv_cache_groups:
                kept = type(group.kv_cache_spec) is not freeing()
                if kept and (layer := next((name for name in group.layer_names if name in self._modules), None)):
                    remedy = f"does not go with this model and its options: vLLM keeps the blocks of {layer} as others'"
                    raise UsageError("free_blocks", True, remedy)
        super().initialize_from_config(kv_cache_config)
        for module in self._modules.values():
            impl = module.impl
            check_cache_layout(module.kv_cache.shape, impl.num_kv_heads, impl.head_size, latent=impl.latent)

    def determine_available_memory(self) -> int:
        """Memory for the cache, without that of methods, which vLLM's trial run does not see."""
        available: int = super().determine_available_memory()
        if current_platform.is_cpu():
            return available
        model, block_size = self.model_config, self.cache_config.block_size
        impl = next(iter(self._modules.values())).impl  # of a layer with methods: those of others may be others
        shape = (impl.num_kv_heads, impl.head_size, model.dtype)
        left = available - self._sparse.work(model.max_model_len, *shape)
        # Layers of several kinds share memory: it is cut for as many layers as the rarest kind has, and others come in
        # several groups, each of which may take all of it.
        groups = ceil_div(len(self._modules), min(self._of_each_kind.values()))
        return max(0, int(left / (1 + groups * self._sparse.leave_room(block_size, *shape))))

    def compile_or_warm_up_model(self) -> Any:
        self._sparse.warming_up = True
        try:
            done = super().compile_or_warm_up_model()
        finally:
            self._sparse.warming_up = False
        if self._tests_itself:
            self._test()
        return done

    def execute_model(self, scheduler_output: Any) -> Any:
        self._sparse.begin(scheduler_output, lambda: self._rows(scheduler_output))
        try:
            return super().execute_model(scheduler_output)
        finally:
            self._sparse.end()

    def sparse_tasks_tested(self) -> dict[str, Any] | None:
        """Result of the self-test of the methods that run (see ``self_test``); None where there was none."""
        return self._tested

    def sparse_tasks_take(self, requests: Sequence[str]) -> list[dict[str, Any] | None]:
        """Counts of requests, which are then dropped (see ``Counter.take``)."""
        counter = self._sparse.counter
        return [None if counter is None else counter.take(request) for request in requests]

    def sparse_tasks_measure(self, mark: str) -> list[dict[str, Any]]:
        """Counts of the sequences of a request that has a ``MARK``, which are then dropped (see ``Counter.take``)."""
        return self._sparse.take(mark)

    def sparse_tasks_close(self, sessions: Sequence[str]) -> None:
        """Drop what methods that evict chose for sessions (see ``SESSION``)."""
        self._sparse.close(sessions)

    def sparse_tasks_layers(self) -> int:
        """Layers in which methods run and sparsity is measured."""
        return len(self._modules)

    def sparse_tasks_has_room(self, settings: dict[str, Any]) -> bool:
        """Whether what other methods store fits beside the cache."""
        return self._sparse.has_room(parse_offer({KEY: settings}))

    def sparse_tasks_change(self, settings: dict[str, Any]) -> None:
        """Switch to other methods or budgets, between requests and after ``LLM.reset_prefix_cache``.

        Cached keys were computed under the old methods, and new ones summarise pages as they are written.
        """
        offer = parse_offer({KEY: settings})
        if offer.free_blocks or self._sparse.offer.free_blocks:
            raise UsageError("free_blocks", True, "holds for the attention that an engine started with; start another")
        check_config(self.vllm_config, offer)
        self._sparse.change(offer.attention, offer.choices)
        self._tested = None
        if parse_self_test({KEY: settings}):
            self._test()

    def _test(self) -> None:
        """Run the self-test, between requests; it writes to the cache."""
        self._tested = self_test(self.vllm_config, self._sparse, self._modules, self.device)
        _LOG.info(
            "self-test: %(layers)d layers differ from vLLM's own attention by at most %(difference).2g, where rounding "
            "explains %(bound).2g",
            self._tested,
        )

    def _rows(self, scheduled: Any) -> Sequence[str]:
        """The requests in the model's order."""
        if not self.use_v2_model_runner:
            rows: Sequence[str] = self.model_runner.input_batch.req_ids
            return rows
        return in_order(sort_batch_req_ids, scheduled, self.model_runner.decode_query_len)
