"""vLLM around attention layers: blocks and requests in any order, chunks, preemption.

Outputs can be held against those of a sequence that is computed alone, by ``sparse_prefill`` and ``Memory``.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.examples import structured
from sparse_tasks.attention.index import PageIndex
from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.attention.kernels.dispatch import EIGHT_BITS
from sparse_tasks.attention.kernels.sparse_decode import sparse_decode
from sparse_tasks.attention.method import METHODS, Layer, Method
from sparse_tasks.attention.prefill import sparse_prefill
from sparse_tasks.attention.softmax import PLAIN, Softmax
from sparse_tasks.attention.steps import Memory
from sparse_tasks.attention.vllm.arguments import CONTEXT
from sparse_tasks.attention.vllm.layer import Scales, SparseLayer
from sparse_tasks.attention.vllm.plan import Step
from sparse_tasks.attention.vllm.session import Session
from sparse_tasks.core.parameters import parameters

__all__ = ["HEADS", "KV_HEADS", "LAYERS", "SIZE", "Alone", "Served", "Text", "named", "same", "scheduled", "small"]

HEADS, KV_HEADS, SIZE, LAYERS = 4, 2, 16, 2
_PADDING = 3  # tokens past those of a step, as CUDA graphs have them
_SMALL = {"window": 24, "recent": 12, "kernel": 5, "last": 20, "block": 16, "r": 8, "first": 1, "anchors": 1}


def small(name: str, sparsity: float = 0.6) -> Method:
    """A registered method, with windows so small that prompts of a few hundred tokens are sparse."""
    kind = METHODS.get(name)
    known = {p.name: p for p in parameters(kind)}
    fitting = {
        key: value
        for key, value in _SMALL.items()
        if key in known and key not in kind.budgets and known[key].kind is int
    }
    return kind(sparsity=sparsity, **fitting)


def named(name: str, sparsity: float = 0.6) -> Attention:
    """Small methods by name, composed with a plus sign."""
    return Attention.of(*(small(part, sparsity) for part in name.split("+")))


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def scheduled(
    tokens: Mapping[str, int],
    *,
    new: Mapping[str, tuple[int, int]] | None = None,
    cached: Mapping[str, int] | None = None,
    finished: Iterable[str] = (),
    extra: Mapping[str, Mapping[str, object]] | None = None,
) -> SimpleNamespace:
    """A ``SchedulerOutput`` of vLLM, as much of it as is read.

    Args:
        tokens: Of each request in the step.
        new: The tokens that new requests come with, and how many of them are computed already.
        cached: How many tokens the others have computed.
        finished: Those that are over.
        extra: ``extra_args`` of new requests that have some.
    """
    cached = cached or {}
    return SimpleNamespace(
        finished_req_ids=set(finished),
        scheduled_new_reqs=[
            SimpleNamespace(
                req_id=name,
                prompt_token_ids=list(range(length)),
                prompt_embeds=None,
                num_computed_tokens=computed,
                sampling_params=SimpleNamespace(extra_args=(extra or {}).get(name)),
            )
            for name, (length, computed) in (new or {}).items()
        ],
        scheduled_cached_reqs=SimpleNamespace(req_ids=list(cached), num_computed_tokens=list(cached.values())),
        num_scheduled_tokens=dict(tokens),
    )


@dataclass(eq=False)
class Text:
    """A request, and all that it will be: queries, keys and values of each layer, from a seed."""

    name: str
    prompt: int
    written: int
    seed: int = 0
    loud: float = 1.0
    context: int | None = None
    extra: dict[str, object] = field(default_factory=dict)
    layers: list[list[Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        self.layers = [
            [x * self.loud for x in structured(self.total, HEADS, KV_HEADS, SIZE, seed=100 * self.seed + layer)]
            for layer in range(LAYERS)
        ]

    @property
    def total(self) -> int:
        return self.prompt + self.written


@dataclass(eq=False)
class _Served:
    text: Text
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    known: bool = False


class Served:
    """A session with layers, a cache, and requests in it.

    Args:
        attention: The methods.
        block_size: Positions in a block.
        blocks: Of the cache.
        choices: What requests may choose in their place.
        seed: Of the order of blocks and rows.
        scale: Factor of the scores.
        softmax: Sinks and soft cap of its layers.
        scales: Of a cache in 8 bits.
        shares: Whether the second layer reads the cache of the first.
    """

    def __init__(
        self,
        attention: Attention,
        *,
        choices: tuple[Attention, ...] = (),
        block_size: int = 16,
        blocks: int = 80,
        seed: int = 0,
        scale: float = SIZE**-0.5,
        softmax: Softmax = PLAIN,
        scales: Scales | None = None,
        shares: bool = False,
        text: object = None,
    ) -> None:
        self.shares = shares
        self.session = Session(attention, impl="torch", choices=choices, text=text)
        modules = [
            SimpleNamespace(
                impl=SimpleNamespace(
                    num_kv_heads=KV_HEADS,
                    num_heads=HEADS,
                    head_size=SIZE,
                    scale=scale,
                    sparse=None,
                    sinks=softmax.sinks,
                    logits_soft_cap=softmax.soft_cap or 0,
                    latent=False,
                ),
                dtype=torch.float32,
                kv_cache_torch_dtype=torch.float32 if scales is None else torch.uint8,
                kv_cache_dtype="auto" if scales is None else "fp8",
                _q_scale_float=1.0,
                _k_scale_float=1.0 if scales is None else scales.k,
                _v_scale_float=1.0 if scales is None else scales.v,
            )
            for _ in range(LAYERS)
        ]
        self.names = [f"model.layers.{number}.attn" for number in range(LAYERS)]
        if shares:
            modules[1].kv_sharing_target_layer_name = self.names[0]
        self.session.join(dict(zip(self.names, modules, strict=True)), torch.device("cpu"))
        self.session.lay_out(self.names, block_size)
        self.layers: list[SparseLayer] = [module.impl.sparse for module in modules]
        self.block_size, self.scales = block_size, scales
        self.random = random.Random(seed)
        self.requests: dict[str, _Served] = {}
        self.over: list[str] = []
        self.dropped: dict[str, list[range]] = {}
        self.new_cache(blocks)

    def new_cache(self, blocks: int) -> None:
        """A cache of NaN, whose first block belongs to no request."""
        shape = (LAYERS, blocks, self.block_size, 2, KV_HEADS, SIZE)
        self.cache = torch.full(shape, float("nan")).to(torch.float32 if self.scales is None else EIGHT_BITS)
        self.free = list(range(1, blocks))
        self.random.shuffle(self.free)

    def add(self, *texts: Text) -> None:
        """They wait to be scheduled."""
        for text in texts:
            self.requests[text.name] = _Served(text)

    def finish(self, *names: str) -> None:
        """They are over: their blocks are free, and taken again before any other."""
        for name in names:
            self.free += self.requests.pop(name).blocks
            self.over.append(name)

    def preempt(self, name: str, *, as_new: bool = False) -> None:
        """It loses its blocks, and begins at its first token again; as a new request in some versions of vLLM."""
        one = self.requests[name]
        self.free += one.blocks
        one.blocks, one.computed, one.known = [], 0, not as_new

    def share(self, name: str, blocks: Sequence[int]) -> None:
        """A request that begins with blocks that another one filled (prefix caching)."""
        one = self.requests[name]
        one.blocks, one.computed = list(blocks), len(blocks) * self.block_size

    def step_without_tokens(self) -> None:
        """As vLLM has them to tell of what has finished."""
        over, self.over = self.over, []
        self.session.begin(scheduled({}, finished=over), list)
        self.session.end()

    def step(self, **tokens: int) -> dict[str, Tensor]:
        """A step of so many tokens for each request, in an order of its own.

        Returns:
            ``[layers, tokens, query_heads, head_size]`` of each request, NaN where no method wrote.
        """
        order = list(tokens)
        self.random.shuffle(order)
        new, cached = {}, {}
        for name in tokens:
            one = self.requests[name]
            if one.known:
                cached[name] = one.computed
            else:
                new[name] = (one.text.prompt if one.computed < one.text.prompt else one.text.total, one.computed)
            one.known = True
            while len(one.blocks) * self.block_size < one.computed + tokens[name]:
                one.blocks.append(self.free.pop())
        over, self.over = self.over, []
        texts = {name: one.text for name, one in self.requests.items()}
        extra = {
            name: text.extra | ({} if text.context is None else {CONTEXT: text.context}) for name, text in texts.items()
        }
        step = scheduled(tokens, new=new, cached=cached, finished=over, extra=extra)
        self.session.begin(step, lambda: order)
        plan = self.session.plan(self.names, self._metadata(order, tokens), self.block_size)
        assert plan is not None
        slots = torch.cat([*(self._slots(self.requests[name], tokens[name]) for name in order), _filled(-1)])
        out = torch.stack([self._layer(number, plan, order, tokens, slots) for number in range(LAYERS)])
        self.session.end()
        self.dropped = self.session.dropped()
        found, first = {}, 0
        for name in order:
            found[name] = out[:, first : first + tokens[name]]
            first += tokens[name]
            self.requests[name].computed += tokens[name]
        assert out[:, first:].isnan().all()  # nothing is written past the step's tokens
        return found

    def verify(self, name: str, right: int, wrong: int, **tokens: int) -> Tensor:
        """A step in which a request's last tokens are rejected (speculative decoding): outputs of the right ones.

        The keys of the wrong ones are so long that they would win every comparison.
        """
        one = self.requests[name]
        text, guessed = one.text, replace(one.text)  # whose numbers are made anew
        for tensors in guessed.layers:
            for tensor in tensors:
                tensor[one.computed + right :] *= -10
        one.text = guessed
        out = self.step(**{name: right + wrong}, **tokens)[name]
        one.text, one.computed = text, one.computed - wrong
        return out[:, :right]

    def _layer(self, number: int, step: Step, order: list[str], tokens: Mapping[str, int], slots: Tensor) -> Tensor:
        layer = self.layers[number]
        shares = self.shares and number == 1
        keys, values = self.cache[0 if shares else number].unbind(2)
        parts = [self._tokens(self.requests[name], number, tokens[name]) for name in order]
        padding = [torch.full((_PADDING, heads, SIZE), float("nan")) for heads in (HEADS, KV_HEADS, KV_HEADS)]
        q, k, v = (torch.cat(part) for part in zip(*parts, padding, strict=True))
        if not shares:
            real = slots[slots >= 0]
            keys[real // self.block_size, real % self.block_size] = self._stored(k[: len(real)], "k")
            values[real // self.block_size, real % self.block_size] = self._stored(v[: len(real)], "v")
            layer.notice(k, keys, slots)
        out = torch.full_like(q, float("nan"))
        layer.attend(step, q, None if shares else k, None if shares else v, keys, values, out)
        return out

    def _stored(self, x: Tensor, what: str) -> Tensor:
        return x if self.scales is None else (x / getattr(self.scales, what)).to(EIGHT_BITS)

    def _tokens(self, one: _Served, layer: int, count: int) -> list[Tensor]:
        return [x[one.computed : one.computed + count] for x in one.text.layers[layer]]

    def _slots(self, one: _Served, count: int) -> Tensor:
        position = torch.arange(one.computed, one.computed + count)
        return torch.tensor(one.blocks)[position // self.block_size] * self.block_size + position % self.block_size

    def _metadata(self, order: list[str], tokens: Mapping[str, int]) -> SimpleNamespace:
        """With a row and a column too many in everything, as vLLM's buffers have them."""
        served = [self.requests[name] for name in order]
        table = torch.zeros(len(order) + 1, 40, dtype=torch.int32)
        for row, one in enumerate(served):
            table[row, : len(one.blocks)] = torch.tensor(one.blocks)
        lengths = [one.computed + tokens[one.text.name] for one in served]
        starts = torch.tensor([0, *(tokens[name] for name in order), 0], dtype=torch.int32).cumsum(0).int()
        return SimpleNamespace(
            num_reqs=len(order),
            causal=True,
            query_start_loc_cpu=starts,
            block_table_tensor=table,
            seq_lens=torch.tensor([*lengths, 0], dtype=torch.int32),
        )


def _filled(value: int) -> Tensor:
    return torch.full((_PADDING,), value)


class Alone:
    """Outputs and counts of a sequence that is computed alone, its keys and values in one piece.

    Args:
        attention: The methods.
        text: The sequence.
        softmax: Sinks and soft cap of its layers.
    """

    def __init__(self, attention: Attention, text: Text, softmax: Softmax = PLAIN) -> None:
        self.attention, self.text, self.softmax = attention, text, softmax
        self._computed = torch.zeros(LAYERS, HEADS, dtype=torch.float64)
        self._read = torch.zeros(LAYERS, KV_HEADS, dtype=torch.float64)
        self._lengths: list[int] = []
        self._memories = [Memory(attention.decode, Layer(number, LAYERS), "torch", softmax) for number in range(LAYERS)]
        if attention.decode is not None:
            handed = dict[object, Any]()
            for memory, (q, k, v) in zip(self._memories, text.layers, strict=True):
                memory.read(q[: text.prompt], k[: text.prompt], v[: text.prompt], handed)

    def chunks(self, *cuts: int) -> Tensor:
        """Of the prompt, in chunks that end there."""
        return torch.cat([self._chunk(start, end) for start, end in zip([0, *cuts], cuts, strict=False)], 1)

    def steps(self, count: int) -> Tensor:
        """The next tokens."""
        return torch.cat([self._step() for _ in range(count)], 1)

    @property
    def computed(self) -> list[float]:
        """Of the whole prompt, once its chunks are there: the density of each head of each layer."""
        return (self._computed / causal_count(self.text.prompt, self.text.prompt)).flatten().tolist()

    @property
    def read(self) -> list[float]:
        """Density of the steps, of each KV head of each layer."""
        return (self._read / sum(self._lengths)).flatten().tolist()

    @property
    def read_bytes(self) -> float:
        """Bytes that a step has read, on average."""
        return float(self._read.sum()) / len(self._lengths) * 2 * SIZE * 4

    def _chunk(self, start: int, end: int) -> Tensor:
        """Where it has fewer queries than the method looks at, those before them help to select."""
        method, out = self.attention.prefill, []
        assert method is not None
        first, handed = min(start, max(0, end - method.observes)), dict[object, Any]()
        for number, (computed, (q, k, v)) in enumerate(zip(self._computed, self.text.layers, strict=True)):
            part, indices = sparse_prefill(
                method.in_layer(Layer(number, LAYERS), handed),
                q[first:end],
                k[:end],
                v[:end],
                softmax=self.softmax,
                length=self.text.prompt,
                impl="torch",
            )
            out.append(part[start - first :])
            for index in indices:
                counted = index.tail(min(index.n_q, index.n_k - start)).computed()
                computed += counted.repeat_interleave(HEADS // len(counted))
        return torch.stack(out)

    def _step(self) -> Tensor:
        position, out, handed = self.text.prompt + len(self._lengths), [], dict[object, PageIndex]()
        seen = position + 1
        self._lengths.append(seen)
        for read, memory, (q, k, v) in zip(self._read, self._memories, self.text.layers, strict=True):
            memory.handed = handed
            cache, index = memory.step(q[position:seen], k[:seen], v[:seen])
            read += index.computed()[0]
            attended = sparse_decode(q[position:seen], cache, index, softmax=self.softmax, impl="torch")
            assert isinstance(attended, Tensor)
            out.append(attended)
        return torch.stack(out)
