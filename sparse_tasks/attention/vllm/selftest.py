"""Self-test of a loaded engine: its sparse layers, with nothing left out, against vLLM's own attention.

Both get the same random queries, keys and values, with the code and the cache that requests use later. The rest of the
model does not run, so the test is quick for a model of any size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import EIGHT_BITS
from sparse_tasks.attention.method import Method
from sparse_tasks.attention.vllm.interface import importing, lacks, of_vllm
from sparse_tasks.attention.vllm.session import Session, dtype_of
from sparse_tasks.core.errors import UsageError

with importing():
    from vllm.config import set_current_vllm_config
    from vllm.v1.attention.backend import CommonAttentionMetadata

LENGTHS: Final = (41, 4352)
"""Tokens of the sequences, at most: a prompt that is read at once, and one that is longer than windows of 4,096."""

_AFFORDABLE: Final = 2**22  # numbers of keys of the longer sequence, all layers together, on a CPU: about a second
_CHUNK: Final = 16  # of a prompt that does not come at once: its last tokens
_NOTHING: Final = 1e-300  # left out: a density of 1, where a method does not run at sparsity 0
_SPREADS: Final = (1.0, 2.0, 8.0)  # of scores: large ones show a missing cap, small ones a missing sink


@dataclass(frozen=True)
class _Sequence:
    """A random sequence in the cache: a prompt, and a token that follows it.

    Attributes:
        name: Id of its request.
        read: Position of the first token of the prompt that a step reads; those before it are cached.
        prompt: Tokens of the prompt.
        blocks: Blocks that hold it.
        k: ``[prompt + 1, kv_heads, head_size]``.
        v: Like ``k``.
        slots: int64 ``[prompt + 1]``: its places in the cache.
    """

    name: str
    read: int
    prompt: int
    blocks: range
    k: Tensor
    v: Tensor
    slots: Tensor


@dataclass(frozen=True)
class _Part:
    """Queries of a sequence in a step, those of positions from ``start`` up to ``end``."""

    of: _Sequence
    start: int
    end: int

    @property
    def positions(self) -> slice:
        return slice(self.start, self.end)


_Step: TypeAlias = list[_Part]
_Tested: TypeAlias = tuple[str, str, float]  # name of a layer, name of the methods, greatest difference


def rounding(dtype: torch.dtype) -> float:
    """The greatest difference between outputs that rounding explains, as a share of their size."""
    return max(8 * float(torch.finfo(dtype).eps), 1e-4)


def self_test(config: Any, session: Session, modules: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Compare every sparse layer with vLLM's own attention, before the first request.

    Args:
        config: ``vllm.config.VllmConfig``.
        session: The engine's; it has its own methods again afterwards.
        modules: vLLM's attention modules that are sparse, by name.
        device: Device that they run on.

    Returns:
        ``difference``, the greatest between outputs of a head for a token, as a share of their size; ``bound``, which
        it does not exceed; ``layers``, how many were tested.

    Raises:
        UsageError: A layer differs by more; it names the layer, the difference and the bound. Or vLLM's interface is
            not the one that the test expects.
    """
    dtype = dtype_of(next(iter(modules.values())))
    bound, greatest = rounding(dtype), 0.0
    if any(getattr(module, "query_quant", None) is not None for module in modules.values()):
        bound = float(torch.finfo(EIGHT_BITS).eps)  # vLLM rounds weights to 8 bits too, to multiply them by values
    with torch.inference_mode(), set_current_vllm_config(config):
        for name, method, difference in _known(_differences(config, session, modules, device)):
            if not difference <= bound:  # nor where it is no number
                raise UsageError(
                    "model",
                    config.model_config.model,
                    f"has other attention in vLLM than sparse attention that leaves nothing out: in {name}, outputs "
                    f"of {method} differ by {difference:.2g} of their size, where rounding to "
                    f"{str(dtype).removeprefix('torch.')} explains {bound:.2g}; choose another model, or --attention "
                    "dense (--no-self-test runs it all the same)",
                )
            greatest = max(greatest, difference)
    return {"difference": greatest, "bound": bound, "layers": len(modules)}


def _known(tested: Iterator[_Tested]) -> Iterator[_Tested]:
    """The same, with vLLM's version where its interface is another one; errors of our own code stay as they are."""
    try:
        yield from tested
    except (AttributeError, ImportError, TypeError) as error:
        if of_vllm(error):
            raise lacks(str(error)) from error
        raise


def _differences(config: Any, session: Session, modules: Mapping[str, Any], device: torch.device) -> Iterator[_Tested]:
    """The greatest difference in each layer at each step."""
    own, first = session.offer, next(iter(modules.values()))
    block_size = first.kv_cache.shape[-2]
    sequences = list(_sequences(first, len(modules), config.model_config.max_model_len, device))
    builders = {}
    for backend in {module.attn_backend for module in modules.values()}:
        alike = [name for name, module in modules.items() if module.attn_backend is backend]
        spec = modules[alike[0]].get_kv_cache_spec(config).copy_with_new_block_size(block_size)
        builders[backend] = backend.get_builder_cls()(spec, alike, config, device)
    whole = [Attention.of(*_whole(each)) for each in (own.attention, *own.choices)]
    try:
        for attention in {each.method: each for each in whole}.values():
            session.change(attention)
            for step in _steps(sequences, latent=first.impl.latent):
                session.begin(_scheduled(step), lambda step=step: [part.of.name for part in step])  # type: ignore[misc]
                common, q = _metadata(step, device), _queries(step, first, device)
                built = {backend: builder.build(0, common) for backend, builder in builders.items()}
                for name, module in modules.items():
                    theirs, ours = (_outputs(module, q, step, built[module.attn_backend], sparse=sparse)
                                    for sparse in (False, True))  # fmt: skip
                    yield name, attention.method, _difference(ours, theirs)
                session.end()
    finally:
        session.begin(_scheduled([], finished=[sequence.name for sequence in sequences]), list)
        session.end()
        for sequence in sequences:
            if session.counter is not None:
                session.counter.take(sequence.name)
        session.change(own.attention, own.choices)


def _whole(attention: Attention) -> Iterator[Method]:
    """The methods that run, with a budget for everything; at sparsity 0 none does. Nothing is left to be corrected."""
    for method in (each.parts[0] for each in attention.methods):
        if method.sparsity != 0:
            left = {"sparsity", *method.budgets}
            kept = {name: value for name, value in method.settings().items() if name not in left and value is not None}
            yield type(method).from_settings(kept | {"sparsity": _NOTHING})


def _sequences(module: Any, layers: int, longest: int, device: torch.device) -> Iterator[_Sequence]:
    """Sequences for which cache and model have room, from the cache's second block on: the first is vLLM's own."""
    blocks, block_size, impl = module.kv_cache.shape[0], module.kv_cache.shape[-2], module.impl
    generator, begin = torch.Generator().manual_seed(0), 1
    if device.type == "cpu":
        longest = min(longest, max(2 * LENGTHS[0], _AFFORDABLE // (layers * impl.num_kv_heads * impl.head_size)))
    for number, most in enumerate(LENGTHS):
        tokens = min(most, longest, (blocks - begin) * block_size)
        if tokens < 2:
            return
        made = torch.randn(2, tokens, impl.num_kv_heads, impl.head_size, generator=generator)
        k, v = made.to(device, dtype_of(module))
        slots = torch.arange(begin * block_size, begin * block_size + tokens, device=device)
        taken = range(begin, begin + ceil_div(tokens, block_size))
        read = max(0, tokens - 1 - _CHUNK) if number else 0
        yield _Sequence(f"self-test {number}", read, tokens - 1, taken, k, v, slots)
        begin = taken.stop


def _steps(sequences: list[_Sequence], *, latent: bool) -> list[_Step]:
    """Prompts one after the other, each beside the step of decoding that follows the one before.

    Prompts are vLLM's own where its cache has latents: all decode at once.
    """
    prompts = [[_Part(one, one.read, one.prompt)] for one in sequences]
    continued = [[_Part(one, one.prompt, one.prompt + 1)] for one in sequences]
    if latent:
        return [[part for parts in continued for part in parts]]
    return [before + prompt for before, prompt in zip([[], *continued], [*prompts, []], strict=True)]


def _queries(step: _Step, module: Any, device: torch.device) -> Tensor:
    """Random queries ``[tokens, query_heads, head_size]``, whose scores have each of the spreads in each head."""
    impl, tokens = module.impl, sum(part.end - part.start for part in step)
    q = torch.randn(tokens, impl.num_heads, impl.head_size, generator=torch.Generator().manual_seed(1))
    kinds = (torch.arange(tokens)[:, None] + torch.arange(impl.num_heads)) % len(_SPREADS)
    spread = torch.tensor(_SPREADS)[kinds] / (impl.scale * impl.head_size**0.5)
    return (q * spread[..., None]).to(device, dtype_of(module))


def _metadata(step: _Step, device: torch.device) -> Any:
    """Metadata of a step as vLLM has it (``CommonAttentionMetadata``)."""
    counts = [part.end - part.start for part in step]
    lengths = torch.tensor([part.end for part in step], dtype=torch.int32)
    starts = torch.tensor([0, *counts], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    table = torch.zeros(len(step), max(len(part.of.blocks) for part in step), dtype=torch.int32)
    for row, part in zip(table, step, strict=True):
        row[: len(part.of.blocks)] = torch.tensor(part.of.blocks)
    return CommonAttentionMetadata(
        query_start_loc=starts.to(device),
        query_start_loc_cpu=starts,
        seq_lens=lengths.to(device),
        num_reqs=len(step),
        num_actual_tokens=sum(counts),
        max_query_len=max(counts),
        max_seq_len=max(part.end for part in step),
        block_table_tensor=table.to(device),
        slot_mapping=torch.cat([part.of.slots[part.positions] for part in step]),
        seq_lens_cpu_upper_bound=lengths,
    )


def _scheduled(step: _Step, finished: list[str] | None = None) -> Any:
    """The schedule of a step as vLLM has it (``SchedulerOutput``), as much of it as a session reads."""
    return SimpleNamespace(
        finished_req_ids=set(finished or ()),
        scheduled_new_reqs=[
            SimpleNamespace(
                req_id=part.of.name,
                prompt_token_ids=range(part.of.prompt),
                num_computed_tokens=part.start,
                sampling_params=None,
            )
            for part in step
        ],
        scheduled_cached_reqs=SimpleNamespace(req_ids=[], num_computed_tokens=[]),
        num_scheduled_tokens={part.of.name: part.end - part.start for part in step},
    )


def _outputs(module: Any, q: Tensor, step: _Step, metadata: Any, *, sparse: bool) -> Tensor:
    """What a layer gives in a step, ``[tokens, query_heads, head_size]``, by our code or by vLLM's own."""
    impl, cache, layer = module.impl, module.kv_cache, module.impl.sparse
    k = torch.cat([part.of.k[part.positions] for part in step])
    v = torch.cat([part.of.v[part.positions] for part in step])
    out: Tensor = torch.full_like(q, torch.nan)
    if (quantize := getattr(module, "query_quant", None)) is not None:
        q = quantize(q.flatten(1), module._q_scale)[0].view(q.shape)
    impl.sparse = layer if sparse else None
    try:
        for part in step:  # the two may lay the cache out otherwise, so each writes all of it
            cached = slice(part.end)
            if impl.latent:
                latent, position = part.of.k[cached].split([impl.kv_lora_rank, impl.qk_rope_head_dim], dim=-1)
                impl.do_kv_cache_update(
                    latent[:, 0], position, cache, part.of.slots[cached], module.kv_cache_dtype, module._k_scale
                )
            else:
                impl.do_kv_cache_update(module, part.of.k[cached], part.of.v[cached], cache, part.of.slots[cached])
        if impl.latent:
            out, _ = impl.forward_mqa(q, cache, metadata, module)
        else:
            impl.forward(module, q, k, v, cache, metadata, out)
    finally:
        impl.sparse = layer
    return out


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """The greatest distance of two outputs, as a share of the size of vLLM's."""
    ours, theirs = ours.float(), theirs.float()
    return float(((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max())
