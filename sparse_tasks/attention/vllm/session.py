"""State that a worker, its metadata builders and its attention layers share: a session for each engine."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from weakref import WeakSet, WeakValueDictionary

import torch

from sparse_tasks.attention.agreement import Agreement
from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import PageIndex
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.method import DecodeMethod, Layer
from sparse_tasks.attention.softmax import Softmax
from sparse_tasks.attention.vllm.arguments import MARK, SESSION, Offer
from sparse_tasks.attention.vllm.checks import check_page
from sparse_tasks.attention.vllm.counting import Counter
from sparse_tasks.attention.vllm.layer import UNSCALED, Scales, SparseLayer
from sparse_tasks.attention.vllm.plan import Plan, Span, Step, Steps, noted_again
from sparse_tasks.attention.vllm.replay import MODEL, Replays
from sparse_tasks.attention.vllm.requests import Choice, Requests
from sparse_tasks.core.errors import EngineError, UsageError
from sparse_tasks.core.records import JsonObject

_WORK: Final = 2**28  # bytes that selection takes at any length
_MARKED: Final = 4096  # marks of requests that are kept until their counts are taken


@dataclass(frozen=True)
class _Ran:
    """A step of the model.

    Attributes:
        output: What the model returned.
        indices: By layer, the index of its decoding that is counted.
    """

    output: Any
    indices: dict[int, PageIndex]

    def nbytes(self) -> int:
        """As of a ``Result`` of replays."""
        return sum(index.nbytes() for index in self.indices.values())


class Session:
    """Methods of an engine, its requests, and its attention layers.

    Args:
        attention: The methods.
        impl: "auto", "triton" or "torch".
        choices: What requests may choose instead (see ``Offer``).
        free_blocks: Whether vLLM frees blocks that no later query sees.
        modules: vLLM's table of the engine's attention modules (``static_forward_context``), by which it is known.
        text: ``PretrainedConfig`` of the text model (see ``Attention.placed``).
    """

    def __init__(
        self,
        attention: Attention,
        impl: str = "auto",
        *,
        choices: tuple[Attention, ...] = (),
        free_blocks: bool = False,
        modules: dict[str, Any] | None = None,
        text: Any = None,
    ) -> None:
        self.offer = Offer(attention, choices, free_blocks)
        self.modules = modules
        self.requests = Requests(attention)
        self.counter: Counter | None = None
        self.warming_up = False
        """Whether vLLM warms up with requests of its own, under dense attention."""
        self._impl, self._text = impl, text
        self._left: tuple[float, tuple[int, int, int, torch.dtype]] | None = None  # for states, and what caches them
        self._replays: Replays | None = None
        self._whole = False  # whether replays are of the model, not of each layer
        self._layers: dict[str, SparseLayer] = {}
        self._agreements: dict[str, Agreement] = {}  # by request
        self._completed: set[str] = set()  # requests whose prompts are complete with this step, or perhaps again
        self._block_sizes: set[int] = set()
        self._order: Callable[[], Sequence[str]] = list
        self._step: Step | None = None
        self._plans = 0  # plans of this step: one for each block table
        self._choices: WeakValueDictionary[tuple[str, float | None], Choice] = WeakValueDictionary()
        self._marked: OrderedDict[str, list[str]] = OrderedDict()  # vLLM's names of sequences, by mark

    def join(
        self,
        modules: dict[str, Any],
        device: torch.device,
        replays: Replays | None = None,
        *,
        whole: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """Register the model's attention layers, in their order, once the model is loaded.

        Args:
            modules: vLLM's attention modules by name, without those that stay dense.
            device: Device that they run on.
            replays: Recorder of decoding steps; None launches each step anew.
            whole: Whether it records the model (see ``run_model``), instead of each layer.
            rank: The device's number among those that share the heads (tensor parallelism).
            ranks: Number of these devices.

        Raises:
            UsageError: No layer can be sparse, or layers differ in their heads.
        """
        if not modules:
            raise UsageError("model", "given", "has no layer with attention over all keys, so no method can run")
        self._replays, self._whole = replays, whole
        shapes = {
            (
                m.impl.num_kv_heads,
                m.impl.num_heads,
                m.impl.head_size,
                getattr(m, "kv_cache_torch_dtype", dtype_of(m)),
                m.impl.latent,
            )
            for m in modules.values()
        }
        if len(shapes) > 1:
            raise UsageError("model", "given", "has layers with different heads, which is not supported")
        kv_heads, heads, size, dtype, latent = shapes.pop()
        key_bytes = size * dtype.itemsize * (1 if latent else 2)
        self.counter = Counter(len(modules), kv_heads, heads // kv_heads, key_bytes, device, self._impl)
        for number, (name, module) in enumerate(modules.items()):
            layer = Layer(number, len(modules), rank, ranks)
            # Without a cap vLLM has 0.
            softmax = Softmax(module.impl.sinks, module.impl.logits_soft_cap or None)
            target = getattr(module, "kv_sharing_target_layer_name", None)
            if target is not None and target not in self._layers:
                raise UsageError("kv_sharing_target_layer_name", target, f"of {name} is no layer that sees all keys")
            of = None if target is None else self._layers[target]
            self._layers[name] = SparseLayer(
                layer,
                self.offer,
                self.counter,
                module.impl.scale,
                self._impl,
                None if whole else replays,
                softmax,
                scales_of(module),
                of,
                self._text,
                self._agreements,
            )
            module.impl.sparse = self._layers[name]

    def dense(self, choice: Choice | None = None) -> tuple[bool, bool]:
        """Whether prefill is dense, and whether decoding is, of a choice or of the engine."""
        methods = next(iter(self._layers.values())).methods(choice)
        return methods.prefill is None, methods.decode is None

    def lay_out(self, layers: Sequence[str], block_size: int) -> None:
        """Record block sizes, once vLLM has chosen them.

        If a model has other kinds of layers, vLLM makes blocks as large as the state of such a layer, and cuts them
        into smaller ones for attention: the smaller size counts.

        Args:
            layers: Names of layers.
            block_size: Positions in a block of theirs, as their tables number them.

        Raises:
            UsageError: A method's pages do not fit into the blocks.
        """
        if any(name in self._layers for name in layers):
            self._block_sizes.add(block_size)
            self._check_pages(self.offer)

    def _check_pages(self, offer: Offer) -> None:
        for method in offer.methods:
            for block_size in sorted(self._block_sizes):
                check_page(method, block_size, frees=offer.free_blocks)

    def change(self, attention: Attention, choices: tuple[Attention, ...] = ()) -> None:
        """Switch to other methods, between requests.

        Raises:
            UsageError: A method's pages do not fit into the blocks, or its state into the memory that is left.
        """
        offer = replace(self.offer, attention=attention, choices=choices)
        self._check_pages(offer)
        if not self.has_room(offer):
            remedy = "stores more beside the cache than the methods that the engine started with; start another engine"
            raise UsageError("attention", attention.method, remedy)
        self.offer, self.requests.attention = offer, attention
        self.forget_graphs()
        self._agreements.clear()
        for layer in self._layers.values():
            layer.change(offer)

    def forget_graphs(self) -> None:
        """Drop recorded graphs, before other methods or another cache are used."""
        if self._replays is not None:
            self._replays.clear()

    def begin(self, scheduled: Any, order: Callable[[], Sequence[str]]) -> None:
        """Prepare a step.

        Args:
            scheduled: vLLM's ``SchedulerOutput``.
            order: Returns the requests in the model's order, which vLLM decides later.
        """
        finished = self.requests.begin(scheduled, self._choose)
        for layer in self._layers.values():
            layer.forget(finished)
        for request in finished:
            self._agreements.pop(request, None)
        if self.counter is not None:
            self.counter.finish(finished)
        for new in scheduled.scheduled_new_reqs:
            extra = getattr(new.sampling_params, "extra_args", None) or {}
            self.offer.check_context(extra)
            session = extra.get(SESSION)
            end, cached, choice = self.requests.beginning(new.req_id)
            if new.sampling_params is None:  # of the self-test, which begins anywhere
                cached = 0
            for layer in self._layers.values():
                layer.begin(new.req_id, end, cached, session if isinstance(session, str) else None, choice)
            mark = extra.get(MARK)
            if isinstance(mark, str) and new.req_id not in (names := self._marked.setdefault(mark, [])):
                names.append(new.req_id)
        while len(self._marked) > _MARKED:
            self._marked.popitem(last=False)
        self._order, self._step, self._plans = order, None, 0
        # Blocks of a request that was preempted are new, even where the prefix cache has all of its prompt.
        self._completed = set(getattr(scheduled.scheduled_cached_reqs, "resumed_req_ids", ()))

    def plan(self, layers: Sequence[str], metadata: Any, block_size: int) -> Step | None:
        """Plan of the running step, for layers that share a block table.

        Args:
            layers: Names of the layers.
            metadata: vLLM's ``CommonAttentionMetadata``.
            block_size: Positions in a block of theirs.

        Returns:
            The plan; None where no layer is sparse, or in a trial run of vLLM's.

        Raises:
            EngineError: Attention of these layers is not causal in this step.
        """
        if any(name in self._layers for name in layers) and metadata.causal is not True:
            raise EngineError("vLLM asks for attention that is not causal, which no method computes")
        if self.warming_up or not self.requests.running or not any(name in self._layers for name in layers):
            return None
        order = list(self._order())
        starts = metadata.query_start_loc_cpu[: metadata.num_reqs + 1]
        rows = list(self.requests.rows(order, starts.diff().tolist()))
        table, cached = metadata.block_table_tensor, metadata.seq_lens
        choices = dict.fromkeys(row.choice for row in rows)
        plans = tuple(Plan.of(rows, table, cached, block_size, choice) for choice in choices)
        dense = list[Span]()
        for plan in plans:
            prompts, steps = self.dense(plan.choice)
            dense += plan.spans(prompts=prompts, steps=steps)
        dense.sort(key=lambda span: span.first)
        self._completed.update(prompt.request for plan in plans for prompt in plan.prompts if prompt.complete)
        again = noted_again(rows, table, block_size)
        self._step = Step(plans, tuple(dense), plans[0].tokens, plans[0].table, again)
        self._plans += 1
        return self._step

    def run_model(self, compute: Callable[[], Any], read: Callable[[], Iterable[object]]) -> Any:
        """Run the model on the step, or replay its graph.

        Args:
            compute: Runs it.
            read: Returns all that it reads, apart from weights and caches: tensors, and values that decide what is
                launched.
        """
        steps, counter = self._alike(), self.counter
        if steps is None or self._replays is None or counter is None:
            return compute()

        def step() -> _Ran:
            output = compute()
            return _Ran(output, counter.waiting())

        ran = self._replays.run(steps, MODEL, tuple(read()), step)
        for layer, index in ran.indices.items():  # a replay tells nobody
            counter.steps(layer, index)
        return ran.output

    def _alike(self) -> Steps | None:
        """The decoding of a step that is nothing else, and of methods that can be recorded."""
        step = self._step
        if not self._whole or step is None or self._plans > 1 or step.again is not None or step.dense:
            return None
        plan = step.plans[0]
        if len(step.plans) > 1 or plan.prompts or plan.choice is not None:
            return None
        return plan.steps if next(iter(self._layers.values())).methods(None).recordable else None

    def dropped(self) -> dict[str, list[range]]:
        """Positions that no layer keeps, by request, of prompts that the last step has completed.

        All layers have to have run. Waits for the device.
        """
        agreed = self._completed & self._agreements.keys()
        return {request: self._agreements[request].dropped() for request in agreed}

    def end(self) -> None:
        """Count the step that has run."""
        self.requests.end()
        if self._step is not None and self.counter is not None:
            for plan in self._step.plans:
                prompts, steps = self.dense(plan.choice)
                self.counter.end(plan, prompts_dense=prompts, steps_dense=steps)
        self._step = None

    def close(self, sessions: Sequence[str]) -> None:
        """Drop what was chosen for sessions (see ``SESSION``)."""
        for layer in self._layers.values():
            for session in sessions:
                layer.close(session)

    def take(self, mark: str) -> list[JsonObject]:
        """Counts of the sequences of a request, by its ``MARK``, which are then dropped."""
        names = self._marked.pop(mark, [])
        if self.counter is None:
            return []
        return [counts for name in names if (counts := self.counter.take(name)) is not None]

    def _choose(self, extra: Mapping[str, object]) -> Choice | None:
        """The choice of a request.

        Raises:
            UsageError: The choice is not offered; a server has refused such requests before.
        """
        given = extra.get("attention"), extra.get("sparsity")
        if given == (None, None):
            return None
        chosen = self.offer.choose(*given)
        key = chosen.method, chosen.sparsity
        if key == (self.offer.attention.method, self.offer.attention.sparsity):
            return None
        choice = self._choices.get(key)
        if choice is None:
            choice = self._choices[key] = Choice(chosen)
        return choice

    def leave_room(self, block_size: int, kv_heads: int, head_size: int, dtype: torch.dtype) -> float:
        """Plan memory for the methods' states, and hold later methods to it.

        Returns:
            As of ``share_of_state``.
        """
        shape = (block_size, kv_heads, head_size, dtype)
        share = share_of_state(self.offer, *shape)
        self._left = share, shape
        return share

    def has_room(self, offer: Offer) -> bool:
        """Whether the states of other methods fit into the memory that was planned; True if none was."""
        if self._left is None:
            return True
        share, shape = self._left
        return share_of_state(offer, *shape) <= share

    def work(self, longest: int, kv_heads: int, head_size: int, dtype: torch.dtype) -> int:
        """Bytes that selection and gathered keys of one layer need beside the cache.

        Args:
            longest: Tokens of the longest sequence.
            kv_heads: KV heads of a layer, on this rank.
            head_size: Numbers in a key.
            dtype: Type of keys and values.
        """
        if not self.offer.methods:
            return 0
        # Keys and values in one piece, and as much again for scores and lists by position.
        size: int = torch.empty(0, dtype=dtype).element_size()
        return _WORK + 4 * ceil_div(longest, 128) * 128 * kv_heads * head_size * size


def share_of_state(offer: Offer, block_size: int, kv_heads: int, head_size: int, dtype: torch.dtype) -> float:
    """Bytes of what methods store, such as page summaries, for each byte of keys and values."""
    keys = torch.empty(1, block_size, kv_heads, head_size, dtype=dtype, device="meta")
    one = torch.zeros(1, dtype=torch.int32, device="meta")
    noting = {method.name: method for method in offer.methods if isinstance(method, DecodeMethod)}
    states = [method.new_state(PagedCache(keys, keys, one[None], one)) for method in noting.values()]
    size: int = sum(state.numel() * state.element_size() for state in states if state is not None)
    return size / int(2 * keys.numel() * keys.element_size())


def dtype_of(module: Any) -> torch.dtype:
    """Type in which a loaded layer of vLLM computes."""
    dtype: torch.dtype = module.W_UK_T.dtype if module.impl.latent else module.dtype
    return dtype


def scales_of(module: Any) -> Scales:
    """Scales of a layer of vLLM with a cache in 8 bits; of another all 1."""
    if not str(getattr(module, "kv_cache_dtype", "")).startswith("fp8"):
        return UNSCALED
    return Scales(module._q_scale_float, module._k_scale_float, module._v_scale_float)


SESSIONS: WeakSet[Session] = WeakSet()
"""Sessions of this process, held by their workers."""


def session_of(config: Any) -> Session | None:
    """Session of an engine; None without sparse attention.

    A model with images builds its text model under a copy of the configuration, which shares the table in which vLLM
    looks attention modules up.
    """
    modules = config.compilation_config.static_forward_context
    return next((session for session in SESSIONS if session.modules is modules), None)
