"""Sparse attention in Hugging Face ``transformers``, through its attention interface.

    with sparse_attention(model, "vertical_slash+quest", sparsity=0.9) as run:
        model.generate(**inputs)
    run.density("decode").computed

Each layer looks up its attention by name in the interface and passes queries, keys and values. No module is patched,
and the model's own attention is restored when the block ends. The cache stays complete: evicted tokens are hidden,
which has the same effect on accuracy, but not freed. Each sequence of a batch is computed separately, without padding.
Layers with a sliding window are dense and left to torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.index import Kept, PageIndex, PrefillIndex
from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.attention.kernels.sparse_decode import sparse_decode
from sparse_tasks.attention.method import EvictMethod, Layer, PrefillMethod, RepeatMethod
from sparse_tasks.attention.prefill import sparse_prefill
from sparse_tasks.attention.softmax import PLAIN, Softmax, what_config_says
from sparse_tasks.attention.steps import Memory, attend_after
from sparse_tasks.core.errors import UsageError, install

_NAME: Final = "sparse_tasks"
_UNSUPPORTED: Final = ("softcap", "s_aux", "position_bias", "cache", "indices", "block_indices")
_CHOOSES: Final = "selects keys with its own indexer, which neither methods nor dense attention support"
# Models whose attention is known to add nothing beyond these options of ``Softmax``.
_SUPPORTED: Final[Mapping[str, tuple[str, ...]]] = {
    "softcap": ("gemma2", "vaultgemma"),
    "s_aux": ("gpt_oss", "granite_swa", "granitemoe_swa"),
}


@dataclass(frozen=True)
class Density:
    """Query-key interactions over those of dense causal attention, counted from the indices that ran.

    Attributes:
        selected: Selected by the method.
        computed: Computed, including what tiles add.
    """

    selected: float
    computed: float


class SparseRun:
    """Attention inside a ``sparse_attention`` block, and its measured density."""

    def __init__(self, attention: Attention, impl: str, context: int | None = None) -> None:
        self.attention = attention
        self.context = context
        """Tokens of a prompt after which methods that evict choose; None is all of them."""
        self.chosen: dict[tuple[int, int], Kept] = {}
        """What stays of a prompt that is not read yet, by number of the layer and row of the batch."""
        self.windowed = 0
        """Calls of layers with a sliding window, which are left to torch."""
        self.impl = impl
        self._sequences: dict[tuple[int, int], _Sequence] = {}
        self._totals: dict[tuple[str, int], Tensor] = {}  # selected, computed and dense, by phase and layer
        self._handed: dict[tuple[int, int], dict[object, Any]] = {}  # by sequence and position
        self._here: dict[object, Any] = {}  # the entry for the current prompt
        self._places: dict[int, Layer] = {}  # by number in the model
        self._mask: Tensor | None = None
        self._spans: list[tuple[int, int]] = []

    @property
    def reads_by(self) -> PrefillMethod | None:
        """The method for prompts; None if dense."""
        return self.attention.prefill

    def density(self, phase: str, layer: int | None = None) -> Density | None:
        """Measured density so far, over all heads, sequences and calls.

        Args:
            phase: "prefill" or "decode".
            layer: One of ``layers``, or all of them if None.

        Returns:
            The density; None if the phase did not run.

        Raises:
            UsageError: The phase is unknown.
        """
        if phase not in ("prefill", "decode"):
            raise UsageError("phase", phase, "is not a measured phase; choose from prefill, decode")
        totals = [t.cpu() for (p, number), t in self._totals.items() if p == phase and layer in (None, number)]
        if not totals:
            return None
        selected, computed, dense = sum(totals[1:], totals[0]).tolist()
        return Density(selected / dense, computed / dense)

    @property
    def layers(self) -> list[int]:
        """Numbers of the layers that ran, as in the model."""
        return sorted({number for _, number in self._totals})

    def attend(
        self,
        number: int,
        layer: Layer,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float,
        softmax: Softmax = PLAIN,
    ) -> Tensor:
        """Attention of one layer, called by the interface.

        Args:
            number: Number of the layer in the model.
            layer: Position among the sparse layers.
            query: ``[batch, query_heads, n_q, head_size]``, the last ``n_q`` positions.
            key: ``[batch, kv_heads, n_k, head_size]``.
            value: ``[batch, kv_heads, n_k, value_size]``.
            mask: Bool ``[batch, n_k]``, False at padding, or None.
            scaling: Factor of the scores.
            softmax: Sinks and soft cap of the layer.

        Returns:
            ``[batch, n_q, query_heads, value_size]``, 0 at padding.
        """
        # Methods and kernels scale by head_size ** -0.5 themselves.
        factor = scaling * query.shape[3] ** 0.5
        query = query if abs(factor - 1) < 1e-6 else query * factor
        self._places[number] = layer
        first = key.shape[2] - query.shape[2]
        if layer.index == 0:
            self._handed.clear()
        out = query.new_zeros(len(query), query.shape[2], query.shape[1], value.shape[3])
        for row, (start, end) in enumerate(self._spans_of(mask, len(key), key.shape[2])):
            rows = slice(max(start - first, 0), max(end - first, 0))
            q = query[row, :, rows].transpose(0, 1)
            k, v = (x[row, :, start:end].transpose(0, 1) for x in (key, value))
            if len(q) == 0:
                continue
            sequence = self._sequence(number, row, layer, k, len(q), softmax)
            at_once = self._read_at_once(len(q), len(k))
            past, parts = len(k) - len(q), list[Tensor]()
            if at_once:
                end = past + at_once
                self._here = self._handed.setdefault((row, end), {})
                parts.append(self._prompt(number, q[:at_once], k[:end], v[:end], softmax))
                if (chosen := self.chosen.pop((number, row), None)) is not None:
                    sequence.memory.take(chosen)
                else:
                    sequence.memory.read(q[:at_once], k[:end], v[:end], self._here)
            if len(q) - at_once > 1 and (kept := sequence.memory.follow(past + at_once, len(k))) is not None:
                parts.append(self._follow(number, kept, q[at_once:], k, v, softmax))
                at_once = len(q)
            for i in range(at_once, len(q)):
                end = past + i + 1
                if len(q) > 1:
                    sequence.memory.widen()
                sequence.memory.handed = self._handed.setdefault((row, end), {})
                parts.append(self._step(number, sequence.memory, q[i : i + 1], k[:end], v[:end], softmax))
            out[row, rows] = torch.cat(parts) if len(parts) > 1 else parts[0]
            sequence.seen, sequence.tail = len(k), k[-1].clone()
        return out

    def _read_at_once(self, n_q: int, n_k: int) -> int:
        """The number of leading queries that belong to a prompt; the others are steps, which see what was kept."""
        # Only evicting methods compress at the context's end.
        if self.context is not None and isinstance(self.attention.decode, EvictMethod):
            return min(n_q, max(0, self.context - (n_k - n_q)))
        return 0 if n_q == 1 and n_k > 1 else n_q

    def _prompt(self, number: int, q: Tensor, k: Tensor, v: Tensor, softmax: Softmax) -> Tensor:
        """Attention of a prompt, or a chunk of it, in one layer: ``[n_q, query_heads, value_size]``."""
        out, indices = sparse_prefill(self._prefill_of(number), q, k, v, softmax=softmax, impl=self.impl)
        self._count_prefill(number, indices)
        return out

    def _prefill_of(self, number: int) -> PrefillMethod | None:
        """The method for prompts in one layer; None if dense."""
        prefill = self.attention.prefill
        return None if prefill is None else prefill.in_layer(self._places[number], self._here)

    def _follow(self, number: int, kept: Kept, q: Tensor, k: Tensor, v: Tensor, softmax: Softmax) -> Tensor:
        """Attention of tokens after an eviction in one layer, all at once: ``[n_q, query_heads, value_size]``."""
        self._count_follow(number, kept, len(q), len(k))
        return attend_after(kept, q, k, v, softmax)

    def _step(self, number: int, memory: Memory, q: Tensor, k: Tensor, v: Tensor, softmax: Softmax) -> Tensor:
        """Attention of the next token's query in one layer: ``[1, query_heads, value_size]``."""
        cache, index = memory.step(q, k, v)
        self._count_decode(number, index, len(k))
        return sparse_decode(q, cache, index, softmax=softmax, impl=self.impl)

    def _sequence(self, number: int, row: int, layer: Layer, k: Tensor, new: int, softmax: Softmax) -> _Sequence:
        """The state of a sequence; a new one if its cache is not the one from the last step."""
        past = len(k) - new
        known = self._sequences.get((number, row))
        if known is None or known.seen != past or not torch.equal(known.tail, k[past - 1]):
            memory = Memory(self.attention.decode, layer, self.impl, softmax)
            known = self._sequences[number, row] = _Sequence(memory)
        return known

    def _count_decode(self, number: int, index: PageIndex, cached: int) -> None:
        computed = index.computed().double().mean()
        self._add("decode", number, computed, computed, cached)

    def _count_follow(self, number: int, kept: Kept, n_q: int, n_k: int) -> None:
        seen = kept.counts.double().mean() * n_q + (n_q + 1) * n_q / 2
        self._add("decode", number, seen, seen, (n_k - n_q) * n_q + (n_q + 1) * n_q // 2)

    def _count_prefill(self, number: int, indices: list[PrefillIndex]) -> None:
        for index in indices:
            dense = causal_count(index.n_q, index.n_k)
            selected, computed = index.selected_density().mean() * dense, index.density().mean() * dense
            self._add("prefill", number, selected, computed, dense)

    def _add(self, phase: str, number: int, selected: Tensor, computed: Tensor, dense: int) -> None:
        total = torch.stack([selected, computed, torch.full_like(computed, dense)])
        before = self._totals.get((phase, number))
        self._totals[phase, number] = total if before is None else before + total

    def _spans_of(self, mask: Tensor | None, batch: int, n_k: int) -> list[tuple[int, int]]:
        """Start and end of each sequence; all layers get the same mask, so it is read once."""
        if mask is None:
            return [(0, n_k)] * batch
        if mask is not self._mask:
            first, after = mask.int().argmax(1), n_k - mask.flip(1).int().argmax(1)
            if not torch.equal(mask.sum(1), after - first):
                raise UsageError(
                    "attention_mask",
                    "0 inside a sequence",
                    "is not supported; pad on one side only, on the left to generate",
                )
            self._mask, self._spans = mask, list(zip(first.tolist(), after.tolist(), strict=True))
        return self._spans


@dataclass
class _Sequence:
    """One sequence in one layer."""

    memory: Memory
    seen: int = 0
    tail: Tensor | None = None  # the last key, which identifies the cache


RunOf = TypeVar("RunOf", bound=SparseRun)

_LAYERS: WeakKeyDictionary[Any, tuple[SparseRun, Layer]] = WeakKeyDictionary()
"""The attention modules of the models that are inside a block."""


@contextmanager
def sparse_attention(
    model: Any,
    attention: str | Attention,
    *,
    sparsity: float | None = None,
    arguments: Mapping[str, object] | None = None,
    context: int | None = None,
    impl: str = "auto",
) -> Iterator[SparseRun]:
    """Run a model of ``transformers`` with sparse attention inside a block.

    Prompts may come whole or in chunks (a chunk sees the cache before it whole, and methods that look at the last
    queries look at the chunk's), alone or as a batch padded at the left. A new prompt resets the state. With a method
    that evicts, a prompt that continues an earlier answer sees the whole cache again, and what to keep is chosen anew;
    beams cannot be reordered.

    With ``context``, an evicting method chooses after this many tokens, before it has seen the rest of the prompt (the
    question): later tokens see what was kept, and the tokens since. They count as decoding steps.

    Args:
        model: A causal language model whose attention goes through ``transformers.AttentionInterface``.
        attention: ``quest``, ``vertical_slash+quest``, ``dense``, or an ``Attention``.
        sparsity: For all named methods, in [0, 1).
        arguments: ``METHOD.PARAMETER`` to a value.
        context: Tokens of each sequence, without padding, after which evicting methods choose what to keep; None: the
            whole prompt. It does not affect other methods.
        impl: "auto", "triton" or "torch".

    Yields:
        The run, which measures density.

    Raises:
        UsageError: ``transformers`` is missing, a method or its parameters are wrong, or the model is not supported,
            which may only show at the end of the block: all its layers had a sliding window.
    """
    if context is not None and context < 1:
        raise UsageError("context", context, "has to be at least 1 token")
    if isinstance(attention, str):
        attention = Attention.parse(attention, sparsity=sparsity, arguments=arguments)
    elif sparsity is not None or arguments:
        raise UsageError("attention", attention.method, "has its parameters already; set them there")
    if context is not None:
        attention.check_context("context", context)
    with attended_by(model, SparseRun(attention, impl, context)) as run:
        yield run


@contextmanager
def attended_by(model: Any, run: RunOf) -> Iterator[RunOf]:
    """Let a run compute the attention of a model inside a block. Raises as ``sparse_attention`` does."""
    _register()
    if not isinstance(model, torch.nn.Module):
        raise UsageError("model", type(model).__name__, "is not a model; load one with transformers")
    modules = [m for m in model.modules() if _is_sparse(m)]
    if not modules:
        raise UsageError("model", type(model).__name__, "has no layer of causal attention over all keys")
    if any(getattr(module, "indexer", None) is not None for module in modules):
        raise UsageError("model", type(model).__name__, _CHOOSES)
    if any(module in _LAYERS for module in modules):
        raise UsageError("model", type(model).__name__, "is already in another block; leave that one first")
    if isinstance(run.attention.decode, EvictMethod) and (why := _attends_often(modules)):
        raise UsageError("model", type(model).__name__, f"{why}, and methods that evict keep one set of tokens a layer")
    run.attention = run.attention.placed(model.config.get_text_config())
    # Submodels may have their own implementation; the whole model comes first, so that theirs are restored last.
    before = [(m, m.config._attn_implementation) for m in model.modules() if hasattr(m, "set_attn_implementation")]
    for place, module in enumerate(modules):
        _LAYERS[module] = (run, Layer(place, len(modules)))
    try:
        model.set_attn_implementation(_NAME)
        if any(module.config._attn_implementation != _NAME for module in modules):
            raise UsageError("model", type(model).__name__, "does not go through transformers' attention interface")
        method = run.attention.decode
        if isinstance(method, RepeatMethod):
            from sparse_tasks.attention.repeating import repeating

            with repeating(model, run, method):
                yield run
        else:
            yield run
    finally:
        for part, implementation in before:
            part.set_attn_implementation(implementation)
        for module in modules:
            del _LAYERS[module]
    if run.windowed and not run.layers:
        raise UsageError("model", type(model).__name__, "has a sliding window in every layer that ran; all were dense")


@contextmanager
def read_by(other: SparseRun, run: SparseRun) -> Iterator[None]:
    """Let another run compute a model's attention within a run's block."""
    layers = {module: layer for module, (its, layer) in _LAYERS.items() if its is run}
    try:
        _LAYERS.update({module: (other, layer) for module, layer in layers.items()})
        yield
    finally:
        _LAYERS.update({module: (run, layer) for module, layer in layers.items()})


def check_config(name: str, config: Any, attention: Attention = Attention.DENSE) -> None:
    """Refuse an unsupported model by its config, before it is loaded; some cases only show when it runs.

    Args:
        name: Of the model.
        config: Its ``PretrainedConfig``.
        attention: The methods.

    Raises:
        UsageError: All its layers have a sliding window, it selects keys itself, or a method does not support its
            softmax or needs unknown rotary positions.
    """
    text = config.get_text_config()
    for method in attention.methods:
        method.check_softmax(what_config_says(text))
    attention.placed(text)
    kinds = getattr(text, "layer_types", None)
    if kinds and all("sliding" in kind for kind in kinds):
        raise UsageError("model", name, "has a sliding window in every layer, and methods are for layers that see all "
                         "keys; choose another model, or --attention dense")  # fmt: skip
    if getattr(text, "index_n_heads", None):  # DeepSeek-V3.2, GLM-5, MiniMax M3
        raise UsageError("model", name, f"{_CHOOSES}; choose another model, or --attention dense")


def _is_sparse(module: Any) -> bool:
    """Whether a module is causal self-attention over all keys, judged by the names in ``transformers``.

    If the config does not give a layer's type, the layer reports when attending whether it has a window.
    """
    number = getattr(module, "layer_idx", None)
    if number is None or not getattr(module, "is_causal", False):
        return False
    kinds = getattr(getattr(module, "config", None), "layer_types", None) or ()
    return number >= len(kinds) or "sliding" not in kinds[number]


def _attends_often(modules: list[Any]) -> str | None:
    """Why layers attend to a token more than once, if they do."""
    if any(hasattr(module, "lambda_init") for module in modules):
        return "attends twice in each layer (differential attention)"
    if len({module.layer_idx for module in modules}) < len(modules):
        return "has several layers of one number, as models do that run theirs in cycles"
    return None


def _register() -> None:
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
    except ImportError as error:
        remedy = f"needs transformers, 5 or newer; {install('transformers')}"
        raise UsageError("attention", "sparse_attention", remedy) from error
    AttentionInterface.register(_NAME, _forward)
    AttentionMaskInterface.register(_NAME, _make_mask)


def _make_mask(
    batch_size: int, q_length: int, kv_length: int, q_offset: Any = 0, kv_offset: int = 0, **options: Any
) -> Tensor | None:
    """The mask of a model's layers: a padding mask ``[batch, n_k]`` if they see all keys, else the mask for sdpa."""
    from transformers.masking_utils import causal_mask_function, sdpa_mask

    mask: Tensor | None
    if options.get("mask_function", causal_mask_function) is not causal_mask_function:
        mask = sdpa_mask(batch_size, q_length, kv_length, q_offset, kv_offset, **options)
        return mask
    if isinstance(q_offset, torch.Tensor) or kv_length != q_offset + q_length:
        raise UsageError(
            "cache_implementation", "static", "allocates more room than the keys need; use a cache that grows (dynamic)"
        )
    mask = options.get("attention_mask")
    return None if mask is None or bool(mask.all()) else mask


def _forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The attention function for ``transformers``; layers that are not sparse use torch's."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    kind = getattr(getattr(module, "config", None), "model_type", None)
    for name in _UNSUPPORTED:
        if options.get(name) is not None and kind not in _SUPPORTED.get(name, ()):
            raise UsageError("model", type(module).__name__, f"attends with {name}, which methods do not support")
    softmax = Softmax(options.get("s_aux"), options.get("softcap"))
    causal = options.get("is_causal")
    if module in _LAYERS and options.get("sliding_window") is not None:
        _LAYERS[module][0].windowed += 1
    if module not in _LAYERS or options.get("sliding_window") is not None or causal is False:
        if softmax.plain:
            out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
            return out, None
        if dropout or causal is False or (attention_mask is not None and attention_mask.dtype != torch.bool):
            raise UsageError("model", type(module).__name__, f"has {softmax.what}, which run only on causal layers, "
                             "and not in training; call model.eval()")  # fmt: skip
        return _windowed(query, key, value, attention_mask, scaling, softmax), None
    if attention_mask is not None and attention_mask.ndim != 2:
        raise UsageError(
            "attention_mask", tuple(attention_mask.shape), "hides more than padding; give [batch, tokens] of 0 and 1"
        )
    if dropout:
        raise UsageError("model", type(module).__name__, "is in training; call model.eval()")
    run, layer = _LAYERS[module]
    scaling = query.shape[3] ** -0.5 if scaling is None else scaling
    return run.attend(module.layer_idx, layer, query, key, value, attention_mask, scaling, softmax), None


def _windowed(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, softmax: Softmax
) -> Tensor:
    """Dense attention of a layer with a window and a softmax that torch's attention does not support.

    Args:
        query: ``[batch, query_heads, n_q, head_size]``, the last ``n_q`` positions.
        key: ``[batch, kv_heads, n_k, head_size]``.
        value: ``[batch, kv_heads, n_k, value_size]``.
        mask: Bool ``[batch, 1, n_q, n_k]``, False where a query does not see a key, or None for causal attention.
        scaling: Scale of the scores; ``head_size ** -0.5`` if None.
        softmax: Sinks and soft cap of the layer.

    Returns:
        ``[batch, n_q, query_heads, value_size]``.
    """
    (n_q, size), (kv_heads, n_k) = query.shape[2:], key.shape[1:3]
    scaling = size**-0.5 if scaling is None else scaling
    if mask is None:
        mask = torch.ones(n_q, n_k, dtype=torch.bool, device=query.device).tril(n_k - n_q)
    out = query.new_empty(len(query), n_q, query.shape[1], value.shape[3])
    group = query.shape[1] // kv_heads
    for head in range(query.shape[1]):
        scores = softmax.capped(query[:, head].float() @ key[:, head // group].float().mT * scaling)
        weights = softmax.of(head).weights(scores.masked_fill(~mask.squeeze(-3), float("-inf")))
        out[:, :, head] = weights.nan_to_num(0.0) @ value[:, head // group].float()
    return out
