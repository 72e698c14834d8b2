"""Guards what requests get in a batch, over shuffled blocks: for every method what each gets that is computed alone."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.huggingface import SparseRun
from sparse_tasks.attention.kernels.dispatch import EIGHT_BITS
from sparse_tasks.attention.method import METHODS, Layer, Phase, PrefillMethod, SharedMethod
from sparse_tasks.attention.methods.quest import Quest
from sparse_tasks.attention.methods.streaming_llm import StreamingLLM
from sparse_tasks.attention.prefill import sparse_prefill
from sparse_tasks.attention.softmax import Softmax
from sparse_tasks.attention.vllm.layer import Scales
from sparse_tasks.core.errors import EngineError, UsageError
from tests.attention.vllm.served import HEADS, KV_HEADS, LAYERS, SIZE, Alone, Served, Text, named, same, small
from tests.methods import SERVED

PREFILL = [name for name in SERVED if METHODS.get(name).phase is Phase.PREFILL]
AFTER = [name for name in SERVED if METHODS.get(name).phase is not Phase.PREFILL]
OBSERVING = [name for name in PREFILL if getattr(small(name), "observes", 0)]

A, B, C, D = Text("a", 170, 6, 1), Text("b", 260, 4, 2), Text("c", 33, 6, 3), Text("d", 1, 6, 4)
MIXED: list[dict[str, int]] = [
    {"a": 170, "c": 33},
    {"a": 1, "c": 1, "b": 100},
    {"a": 1, "c": 1, "b": 150, "d": 1},
    {"a": 1, "c": 1, "b": 10, "d": 1},
    *[{"a": 1, "b": 1, "c": 1, "d": 1}] * 3,
    {"b": 1, "d": 1},
]
CUTS = {"a": [170], "b": [100, 250, 260], "c": [33], "d": [1]}


def run(served: Served, steps: Sequence[Mapping[str, int]], only: str | None = None) -> dict[str, Tensor]:
    """All that each request gets, ``[layers, tokens, query_heads, head_size]``; of one alone, if so wanted."""
    found: dict[str, list[Tensor]] = {}
    for step in steps:
        for name, out in served.step(**{n: c for n, c in step.items() if only in (None, n)}).items():
            found.setdefault(name, []).append(out)
    return {name: torch.cat(parts, 1) for name, parts in found.items()}


def mixed(attention: Attention, only: str | None = None, **options: Any) -> tuple[Served, dict[str, Tensor]]:
    """Prompts whole and in chunks, and decoding, all in the same steps."""
    served = Served(attention, **options)
    served.add(A, B, C, D)
    return served, run(served, [step for step in MIXED if only is None or only in step], only)


def measured(served: Served, name: str) -> dict[str, Any]:
    assert served.session.counter is not None
    taken = served.session.counter.take(name)
    assert taken is not None
    return taken


# --- against sequences alone ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "block_size"), [*zip(PREFILL, cycle([16, 32, 48]), strict=False)])
def test_prompts_are_those_of_sparse_prefill(name: str, block_size: int) -> None:
    served, found = mixed(named(name), block_size=block_size)
    sparse = 0
    for text in (A, B, C, D):
        alone = Alone(named(name), text)
        same(found[text.name][:, : text.prompt], alone.chunks(*CUTS[text.name]))
        assert found[text.name][:, text.prompt :].isnan().all()  # decoding is left to dense attention
        taken = measured(served, text.name)
        assert taken["prefill"]["densities"] == pytest.approx(alone.computed, rel=1e-9)
        assert taken["decode"]["densities"] == [1.0] * LAYERS * KV_HEADS
        sparse += max(alone.computed) < 0.95
    assert sparse == 2  # the others are too short


@pytest.mark.parametrize(
    ("name", "block_size"),
    [*zip(AFTER, cycle([32, 16, 528]), strict=False), ("quest", 16), ("quest", 48), ("twilight", 400)],
)
def test_steps_are_those_of_a_memory(name: str, block_size: int) -> None:
    served, found = mixed(named(name), block_size=block_size)
    for text in (A, B, C, D):
        alone = Alone(named(name), text)
        assert found[text.name][:, : text.prompt].isnan().all()  # prompts are left to dense attention
        same(found[text.name][:, text.prompt :], alone.steps(found[text.name].shape[1] - text.prompt))
        taken = measured(served, text.name)
        assert taken["prefill"]["densities"] == [1.0] * LAYERS * HEADS
        assert taken["decode"]["densities"] == pytest.approx(alone.read, rel=1e-9)
        assert taken["decode"]["kv_bytes"] == pytest.approx(alone.read_bytes, rel=1e-9)
        assert text in (C, D) or sum(alone.read) / len(alone.read) < 0.5


SINKS_AND_CAP = Softmax(sinks=torch.tensor([1.0, -3.0, 4.0, 0.5]), soft_cap=2.5)


@pytest.mark.parametrize("name", [name for name in SERVED if METHODS.get(name).any_softmax])
def test_sinks_and_caps_of_a_layer_are_those_of_the_sequence_alone(name: str) -> None:
    served, found = mixed(named(name), softmax=SINKS_AND_CAP)
    for text in (A, B):
        alone = Alone(named(name), text, SINKS_AND_CAP)
        if name in PREFILL:
            same(found[text.name][:, : text.prompt], alone.chunks(*CUTS[text.name]))
        else:
            same(found[text.name][:, text.prompt :], alone.steps(found[text.name].shape[1] - text.prompt))
        assert measured(served, text.name)


ROTARY = SimpleNamespace(
    model_type="llama", head_dim=SIZE, rope_parameters={"rope_type": "default", "rope_theta": 100.0}
)


@pytest.mark.parametrize("name", [name for name in SERVED if METHODS.get(name).reads_positions])
def test_positions_turn_what_methods_read_as_in_the_sequence_alone(name: str) -> None:
    served, found = mixed(named(name), text=ROTARY)
    placed, differs = named(name).placed(ROTARY), 0
    for text in (A, B):
        count = found[text.name].shape[1] - text.prompt
        expected = Alone(placed, text).steps(count)
        same(found[text.name][:, text.prompt :], expected)
        assert measured(served, text.name)
        differs += not torch.allclose(expected, Alone(named(name), text).steps(count), atol=1e-3)
    assert differs == 2
    with pytest.raises(UsageError, match=r"^model_type: 'cohere' rotates keys"):
        Served(named(name), text=SimpleNamespace(model_type="cohere"))


@pytest.mark.parametrize("name", ["xattention", "flexprefill"])
def test_methods_of_another_softmax_are_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match=f"^attention: '{name}' does not go with a model that has attention sinks"):
        Served(named(name), softmax=SINKS_AND_CAP)
    served = Served(named("quest"), softmax=SINKS_AND_CAP)
    with pytest.raises(UsageError, match=f"^attention: '{name}' "):
        served.session.change(named(name))


@pytest.mark.parametrize(
    "name",
    [
        "vertical_slash+quest",
        "block_sparse+twilight",
        "flexprefill+snapkv",
        "tri_shape+h2o",
        "streaming_llm+sparq",
        "block_sparse+expected_attention",
    ],
)
def test_cache_in_8_bits_is_a_cache_of_what_they_mean(name: str) -> None:
    """Prompts, too, see what the cache holds, whichever chunk reads it; bytes are those that are read."""
    scales = Scales(k=0.3, v=1.7)
    served, found = mixed(named(name), scales=scales)
    for text in (A, B, C, D):
        rounded = replace(text)  # whose numbers are made anew
        for tensors in rounded.layers:
            for place, scale in ((1, scales.k), (2, scales.v)):
                tensors[place] = (tensors[place] / scale).to(EIGHT_BITS).float() * scale
        alone = Alone(named(name), rounded)
        same(found[text.name][:, : text.prompt], alone.chunks(*CUTS[text.name]))
        same(found[text.name][:, text.prompt :], alone.steps(found[text.name].shape[1] - text.prompt))
        taken = measured(served, text.name)
        assert taken["decode"]["densities"] == pytest.approx(alone.read, rel=1e-9)
        assert taken["decode"]["kv_bytes"] == pytest.approx(alone.read_bytes / 4, rel=1e-9)


@pytest.mark.parametrize("name", ["vertical_slash+quest", "flexprefill+snapkv", "tri_shape+h2o"])
def test_layer_that_reads_the_cache_of_another_is_given_no_keys(name: str) -> None:
    """It gets what it would get of a cache of its own with the same numbers, and counts as any other."""
    texts = [replace(text) for text in (A, B, C, D)]
    for text in texts:
        text.layers[1][1:] = text.layers[0][1:]
    found = []
    for shares in (False, True):
        served = Served(named(name), shares=shares)
        served.add(*texts)
        found.append((run(served, MIXED), [measured(served, text.name) for text in texts]))
    (own, counts), (shared, shared_counts) = found
    assert counts == shared_counts
    for text in texts:
        same(shared[text.name], own[text.name])


@pytest.mark.parametrize("name", ["vertical_slash+quest", "flexprefill+snapkv", "tri_shape+h2o", "block_sparse+sparq"])
def test_methods_for_both_phases_do_not_meet(name: str) -> None:
    """Prompts come out as under the one alone, and steps as under the other."""
    first, second = name.split("+")
    served, found = mixed(named(name))
    for text in (A, B, C, D):
        count = found[text.name].shape[1] - text.prompt
        prompt, later = Alone(named(first), text), Alone(named(second), text)
        same(found[text.name][:, : text.prompt], prompt.chunks(*CUTS[text.name]))
        same(found[text.name][:, text.prompt :], later.steps(count))
        taken = measured(served, text.name)
        assert taken["prefill"]["densities"] == pytest.approx(prompt.computed)
        assert taken["decode"]["densities"] == pytest.approx(later.read)


@pytest.mark.parametrize("name", SERVED)
def test_a_request_gets_the_same_whatever_runs_beside_it(name: str) -> None:
    """Bit for bit in prompts. In decoding the same is read; lists as wide as the batch's longest round otherwise."""
    served, found = mixed(named(name), seed=1)
    for text in (A, B, C, D):
        other, alone = mixed(named(name), text.name, seed=2)
        if name in PREFILL:
            assert torch.equal(alone[text.name].nan_to_num(7), found[text.name].nan_to_num(7))
        torch.testing.assert_close(alone[text.name], found[text.name], rtol=1e-5, atol=1e-5, equal_nan=True)
        assert measured(other, text.name) == measured(served, text.name)


def test_without_methods_nothing_is_written_and_all_is_counted_as_dense() -> None:
    served, found = mixed(Attention.DENSE)
    for text in (A, B, C, D):
        assert found[text.name].isnan().all()
        taken = measured(served, text.name)
        assert set(taken["prefill"]["densities"] + taken["decode"]["densities"]) == {1.0}


@pytest.mark.parametrize("name", ["vertical_slash", "quest", "snapkv"])
def test_sparsity_of_nothing_leaves_everything_to_dense_attention(name: str) -> None:
    served, found = mixed(named(name, 0.0))
    assert served.session.dense() == (True, True)
    for text in (A, B):
        assert found[text.name].isnan().all()
        taken = measured(served, text.name)
        assert set(taken["prefill"]["densities"] + taken["decode"]["densities"]) == {1.0}


@pytest.mark.parametrize("name", ["vertical_slash", "quest", "h2o", "snapkv"])
def test_the_models_own_scale_is_that_of_scores(name: str) -> None:
    """Methods see queries by which scores come out right."""
    served = Served(named(name), scale=0.4)
    served.add(A)
    found = run(served, [{"a": 170}, {"a": 1}, {"a": 1}])["a"]
    text = replace(A)
    # Made anew, numbers may differ in their last bits, and with them what is selected.
    text.layers = [[q * (0.4 * SIZE**0.5), k, v] for q, k, v in A.layers]
    alone = Alone(named(name), text)
    if name in PREFILL:
        same(found[:, :170], alone.chunks(170))
    else:
        same(found[:, 170:], alone.steps(2))


# --- chunks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [1, pytest.param(5, marks=pytest.mark.nightly), 60])
@pytest.mark.parametrize("name", OBSERVING)
def test_a_short_last_chunk_selects_by_the_queries_before_it_too(name: str, last: int) -> None:
    """Also over several short chunks; the few queries alone would select something else."""
    method = small(name)
    assert isinstance(method, PrefillMethod)
    served = Served(named(name))
    served.add(B)
    cuts = [190, 197, 260 - last, 260]
    found = run(served, [{"b": end - start} for start, end in zip([0, *cuts], cuts, strict=False)])["b"]
    assert found.isfinite().all()
    differs = False
    for layer, (q, k, v) in enumerate(B.layers):
        k, v = k[:260], v[:260]
        looked_at = q[260 - max(last, method.observes) : 260]
        out, _ = sparse_prefill(method, looked_at, k, v, length=260, impl="torch")
        same(found[layer, 260 - last :], out[len(out) - last :])
        few, _ = sparse_prefill(method, looked_at[len(looked_at) - last :], k, v, length=260, impl="torch")
        differs |= not torch.allclose(few, out[len(out) - last :], rtol=1e-3, atol=1e-4)
    assert differs or last >= min(method.observes, 60)  # of so many, the last queries may speak for all


@pytest.mark.parametrize("cuts", [[1, 2, 90, 170], pytest.param([16, 100, 169, 170], marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", [name for name in AFTER if METHODS.get(name).phase is Phase.EVICT])
def test_what_is_kept_of_chunks_is_what_is_kept_of_the_whole(name: str, cuts: list[int]) -> None:
    served = Served(named(name))
    served.add(A)
    found = run(served, [{"a": end - start} for start, end in zip([0, *cuts], cuts, strict=False)] + [{"a": 1}] * 4)
    alone = Alone(named(name), A)
    same(found["a"][:, 170:], alone.steps(4))
    assert measured(served, "a")["decode"]["densities"] == alone.read


@pytest.mark.parametrize("name", PREFILL)
def test_chunks_of_two_prompts_may_alternate(name: str) -> None:
    """The memory of one request is not given to another."""
    served = Served(named(name))
    e = Text("e", 255, 1, 5)
    served.add(B, e)
    found = run(served, [{"b": 150, "e": 140}, {"e": 110}, {"b": 105}, {"b": 5, "e": 5}])
    same(found["b"], Alone(named(name), B).chunks(150, 255, 260))
    same(found["e"], Alone(named(name), e).chunks(140, 250, 255))


# --- questions ----------------------------------------------------------------------------------------------------

CONTEXT = 150
EVICT = [
    name for name in AFTER if METHODS.get(name).phase is Phase.EVICT and not issubclass(METHODS.get(name), SharedMethod)
]


def asking() -> Text:
    return Text("q", 190, 5, 8, context=CONTEXT)


def in_transformers(attention: Attention, text: Text, count: int) -> tuple[Tensor, list[float]]:
    """What all tokens get in ``transformers``, and the density of the steps of each layer."""
    out, read = [], []
    for number, layer in enumerate(text.layers):
        run_of_layer, parts = SparseRun(attention, "torch", text.context), []
        q, k, v = (x.transpose(0, 1)[None] for x in layer)
        for start, end in [(0, text.prompt), *((n, n + 1) for n in range(text.prompt, text.prompt + count))]:
            heads = q[:, :, start:end], k[:, :, :end], v[:, :, :end]
            parts.append(run_of_layer.attend(number, Layer(number, LAYERS), *heads, None, SIZE**-0.5)[0])
        out.append(torch.cat(parts))
        density = run_of_layer.density("decode")
        assert density is not None
        read.append(density.computed)
    return torch.stack(out), read


@pytest.mark.parametrize("cuts", [[190], [150, 190], [60, 155, 156, 190], [150, *range(151, 191)]])
@pytest.mark.parametrize("name", EVICT)
def test_a_question_is_read_after_the_eviction_as_in_transformers(name: str, cuts: list[int]) -> None:
    """Whole or in chunks, which may begin in the context and end in the question, beside other requests."""
    served, text = Served(named(name)), asking()
    served.add(text, A, C)
    steps = [{"q": end - start} for start, end in zip([0, *cuts], cuts, strict=False)]
    steps[0] |= {"c": 33}
    steps[-1] |= {"c": 1, "a": 170}
    found = run(served, [*steps, {"q": 1}, *[{"c": 1, "q": 1, "a": 1}] * 2])
    expected, read = in_transformers(named(name), text, 3)
    assert found["q"][:, :CONTEXT].isnan().all()  # the context is left to dense attention
    same(found["q"][:, CONTEXT:], expected[:, CONTEXT:])
    densities = measured(served, "q")
    assert densities["prefill"]["densities"] == [1.0] * LAYERS * HEADS
    by_layer = torch.tensor(densities["decode"]["densities"], dtype=torch.float64).view(LAYERS, KV_HEADS).mean(1)
    assert by_layer.tolist() == pytest.approx(read)
    same(found["a"][:, 170:], Alone(named(name), A).steps(2))  # requests without a context see all of their prompt


def test_a_prefill_method_works_in_the_context_of_one_that_evicts() -> None:
    served, text = Served(named("block_sparse+snapkv")), asking()
    served.add(text)
    found = run(served, [{"q": 190}, {"q": 1}])["q"]
    same(found, in_transformers(named("block_sparse+snapkv"), text, 1)[0])


@pytest.mark.parametrize("name", ["snapkv", "h2o"])
@pytest.mark.parametrize("at", [170, 193])
def test_a_question_is_asked_again_after_a_preemption(name: str, at: int) -> None:
    served, text = Served(named(name)), asking()
    served.add(text)
    run(served, [{"q": 100}, {"q": min(at, 190) - 100}, *[{"q": 1}] * max(0, at - 190)])
    served.preempt("q")
    rest = [{"q": 160}, {"q": 30}, *[{"q": 1}] * 5]
    same(run(served, rest)["q"][:, CONTEXT:], in_transformers(named(name), text, 5)[0][:, CONTEXT:])


@pytest.mark.parametrize("name", ["quest", "vertical_slash"])
def test_methods_that_do_not_evict_read_questions_with_their_prompts(name: str) -> None:
    served, text = Served(named(name)), asking()
    served.add(text)
    found = run(served, [{"q": 190}, {"q": 1}])["q"]
    alone = Alone(named(name), text)
    if name in PREFILL:
        same(found[:, :190], alone.chunks(190))
    else:
        assert found[:, :190].isnan().all()
        same(found[:, 190:], alone.steps(1))


# --- preemption -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "as_new"), [*((name, False) for name in AFTER), ("quest", True), ("h2o", True)])
def test_preemption_changes_no_token(name: str, as_new: bool) -> None:
    """The prompt and what was written are computed again, in one go or in pieces, and decoding goes on."""
    served = Served(named(name), blocks=40)
    text = Text("a", 150, 9, 1)
    served.add(text, C)
    run(served, [{"a": 150}, {"a": 1, "c": 33}, {"a": 1, "c": 1}, {"a": 1, "c": 1}, {"a": 1}])
    served.preempt("a", as_new=as_new)
    again = [{"a": 154, "c": 1}] if as_new else [{"a": 60, "c": 1}, {"a": 92, "c": 1}, {"a": 2}]
    found = run(served, [*again, {"a": 1, "c": 1}, {"a": 1}, {"a": 1}, {"a": 1}])
    alone = Alone(named(name), text)
    first = alone.steps(4)
    once = alone.read
    same(found["a"][:, 150:], torch.cat([first, alone.steps(4)], 1))
    # What was computed again is counted again: four steps, and then eight.
    early, late = sum(range(151, 155)), sum(range(151, 159))
    wanted = [(a * early + b * late) / (early + late) for a, b in zip(once, alone.read, strict=True)]
    assert measured(served, "a")["decode"]["densities"] == pytest.approx(wanted)


@pytest.mark.parametrize("name", PREFILL)
def test_a_prompt_that_is_preempted_half_read_begins_anew(name: str) -> None:
    served = Served(named(name))
    served.add(B)
    run(served, [{"b": 100}, {"b": 90}])
    served.preempt("b")
    cuts = [60, 255, 260]
    found = run(served, [{"b": 60}, {"b": 195}, {"b": 5}])
    same(found["b"], Alone(named(name), B).chunks(*cuts))


# --- speculative decoding -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "block_size"),
    [
        (name, block_size)
        for name, block_size in [*zip(AFTER, cycle([16, 32, 48]), strict=False), ("quest", 32), ("twilight", 16)]
        if not getattr(small(name), "each_step", False)
    ],
)
def test_rejected_tokens_leave_nothing_behind(name: str, block_size: int) -> None:
    """Each verified token gets what it gets as a step of its own, within pages and blocks and across them."""
    served, text = Served(named(name), block_size=block_size), Text("a", 150, 60, 1)
    served.add(text, C)
    out = [served.step(a=150, c=33)["a"][:, :0]]
    for right, wrong in [(1, 3), (2, 2), (1, 0), (4, 1), (1, 7), (3, 0), (1, 3), (1, 20), (1, 2), (12, 3), (5, 1)]:
        out.append(served.verify("a", right, wrong, **({"c": 1} if right == 1 and wrong else {})))
    found = torch.cat(out, 1)
    same(found, Alone(named(name), text).steps(found.shape[1]))


@pytest.mark.parametrize("name", [name for name in AFTER if getattr(small(name), "each_step", False)])
def test_methods_that_evict_at_each_step_do_not_go_on_from_rejected_tokens(name: str) -> None:
    served = Served(named(name))
    served.add(Text("a", 150, 12, 1))
    served.step(a=150)
    served.verify("a", 1, 2)
    with pytest.raises(EngineError, match=f"{name} has seen 153 tokens of 151"):
        served.step(a=1)


@pytest.mark.parametrize("dtype", ["float32", "8 bits"])
def test_a_layer_that_reads_another_ones_cache_reads_what_was_noted_again(dtype: str) -> None:
    scales = None if dtype == "float32" else Scales(k=0.3, v=1.7)
    served, text = Served(named("quest"), shares=True, scales=scales), Text("a", 150, 30, 1)
    served.add(text)
    served.step(a=150)
    found = torch.cat([served.verify("a", 1, 3), served.verify("a", 20, 3), served.verify("a", 2, 0)], 1)
    once = Served(named("quest"), shares=True, scales=scales)
    once.add(text)
    same(found, run(once, [{"a": 150}, *[{"a": 1}] * 23])["a"][:, 150:])


# --- the cache ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["quest", "twilight"])
def test_blocks_that_are_used_again_remember_nothing(name: str) -> None:
    """Summaries of another request's keys, ten times as long, would win every comparison."""
    served = Served(named(name), blocks=13)
    loud = Text("loud", 180, 4, 7, loud=10.0)
    served.add(loud)
    run(served, [{"loud": 180}, *[{"loud": 1}] * 4])
    blocks = set(served.requests["loud"].blocks)
    served.finish("loud")
    text = Text("a", 150, 12, 1)
    served.add(text)
    found = run(served, [{"a": 70}, {"a": 80}, *[{"a": 1}] * 12])
    assert set(served.requests["a"].blocks) <= blocks
    same(found["a"][:, 150:], Alone(named(name), text).steps(12))


@pytest.mark.parametrize("name", ["quest", "twilight", "sparq"])
def test_requests_may_share_blocks(name: str) -> None:
    """Prefix caching: what pages hold was noticed when another request wrote them."""
    served = Served(named(name))
    text = Text("a", 150, 4, 1)
    served.add(text)
    run(served, [{"a": 150}])
    blocks = served.requests["a"].blocks[:8]
    served.add(Text("again", 150, 4, 1))
    served.share("again", blocks)
    found = run(served, [{"again": 22, "a": 1}, {"again": 1}, {"a": 1, "again": 1}])
    same(found["again"][:, 22:], Alone(named(name), text).steps(2))


@pytest.mark.parametrize("name", ["quest", "snapkv", "vertical_slash"])
def test_another_cache_is_another_cache(name: str) -> None:
    """First vLLM tries its model out on one cache, and serves on the next, which may be larger."""
    served = Served(named(name), blocks=20)
    served.add(A)
    run(served, [{"a": 170}, {"a": 1}])
    served.finish("a")
    served.new_cache(60)
    text = Text("e", 170, 6, 5)
    served.add(text)
    found = run(served, [{"e": 170}, {"e": 1}, {"e": 1}])
    if name in PREFILL:
        same(found["e"][:, :170], Alone(named(name), text).chunks(170))
    else:
        same(found["e"][:, 170:], Alone(named(name), text).steps(2))


# --- other methods, and what is over ----------------------------------------------------------------------------


CHOSEN: dict[str, Attention] = {
    "a": named("vertical_slash+quest"),
    "b": named("snapkv"),
    "c": Attention.DENSE,
    "d": Attention.parse("quest", sparsity=0.8),
    "e": named("flexprefill+h2o"),
}


def choosing(only: str | None = None) -> tuple[Served, dict[str, Tensor]]:
    """Requests under attentions of their own, in the same steps, beside one under the engine's."""
    own, *others = CHOSEN.values()
    served = Served(own, choices=(own, others[0], Attention.parse("quest", sparsity=0.3), others[-1]))
    prompts = {"a": 170, "b": 200, "c": 90, "d": 150, "e": 120}
    for number, (name, prompt) in enumerate(prompts.items()):
        extra: dict[str, object] = {} if name == "a" else {"attention": CHOSEN[name].method}
        served.add(Text(name, prompt, 6, number, extra=extra | ({"sparsity": 0.8} if name == "d" else {})))
    steps = [{"a": 170, "c": 90, "d": 100}, {"a": 1, "b": 140, "c": 1, "d": 50, "e": 119}, {"a": 1, "b": 60, "e": 1},
             *[dict.fromkeys(prompts, 1)] * 3]  # fmt: skip
    return served, run(served, [step for step in steps if only is None or only in step], only)


def test_requests_under_attentions_of_their_own_get_what_each_gets_alone() -> None:
    """Under an engine of that attention alone, with the same counts."""
    served, found = choosing()
    for name, attention in CHOSEN.items():
        alone = Served(attention)
        text = served.requests[name].text
        alone.add(Text(name, text.prompt, text.written, text.seed))
        cuts = {"b": [140, 60], "d": [100, 50], "e": [119, 1]}.get(name, [text.prompt])
        steps = found[name].shape[1] - text.prompt
        expected = run(alone, [{name: cut} for cut in cuts] + [{name: 1}] * steps)[name]
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-5, equal_nan=True)
        assert measured(served, name) == measured(alone, name)


def test_what_was_chosen_ends_with_the_requests_that_chose_it() -> None:
    """A server may be asked for any number of sparsities."""
    served, _ = choosing()
    assert [len(layer._chosen) for layer in served.layers] == [4] * LAYERS
    served.finish("b", "d", "e")
    served.step(a=1)
    gc.collect()
    assert [len(layer._chosen) for layer in served.layers] == [1] * LAYERS  # "c" goes on


def test_a_choice_that_no_server_lets_through_ends_the_engine() -> None:
    served = Served(named("quest"))
    served.add(Text("a", 40, 2, extra={"attention": "snapkv"}))
    with pytest.raises(UsageError, match="attention: 'snapkv' cannot be chosen by a request here"):
        served.step(a=40)


@pytest.mark.parametrize(
    ("first", "second"),
    [("vertical_slash+quest", "flexprefill+tova"), ("tri_shape+h2o", "quest"), ("snapkv", "xattention")],
)
def test_other_methods_start_afresh(first: str, second: str) -> None:
    served = Served(named(first))
    served.add(A, B)
    run(served, [{"a": 170, "b": 100}, {"a": 1, "b": 50}])
    served.finish("a", "b")
    served.step_without_tokens()
    served.session.change(named(second))
    text = Text("a", 170, 4, 6)  # a name that was there
    served.add(text)
    found = run(served, [{"a": 165}, {"a": 5}, {"a": 1}, {"a": 1}])["a"]
    attention = named(second)
    if attention.prefill is not None:
        same(found[:, :170], Alone(named(second.split("+")[0]), text).chunks(165, 170))
    else:
        assert found[:, :170].isnan().all()
    if attention.decode is not None:
        same(found[:, 170:], Alone(Attention.of(attention.decode), text).steps(2))
    else:
        assert found[:, 170:].isnan().all()


def test_a_change_to_dense_and_back() -> None:
    quest = Attention.of(StreamingLLM(window=20), Quest(sparsity=0.6))
    served = Served(quest)
    for number, attention in enumerate((quest, Attention.DENSE, quest)):
        served.session.change(attention)
        text = Text(f"r{number}", 140, 3, number)
        served.add(text)
        found = run(served, [{text.name: 140}, {text.name: 1}, {text.name: 1}])[text.name]
        assert bool(found.isnan().all()) == (attention == Attention.DENSE)
        if attention.prefill is not None:
            same(found[:, :140], Alone(quest, text).chunks(140))
            same(found[:, 140:], Alone(quest, text).steps(2))
        served.finish(text.name)


def test_after_a_change_pages_are_noticed_anew_as_the_new_method_wants_them() -> None:
    """Without what it remembers, a method would make it of the whole cache at each step."""
    served = Served(Attention.of(Quest(page=16)))
    for page in (16, 8, 8):
        served.session.change(Attention.of(Quest(page=page)))
        served.add(Text("a", 40, 2, page))
        served.step(a=40)
        for layer in served.layers:
            state = layer._states["quest"]
            assert state is not None
            assert state.shape == (len(served.cache[0]) * 16 // page, KV_HEADS, 2, SIZE)
            assert state.count_nonzero(dim=(1, 2, 3)).count_nonzero() == -(-40 // page)
        served.finish("a")


def test_what_is_over_is_forgotten() -> None:
    attention = Attention.of(small("vertical_slash"), small("snapkv"))  # type: ignore[arg-type]
    served = Served(attention)
    served.add(A, B, C)
    run(served, [{"a": 170, "b": 100, "c": 33}, {"a": 1, "b": 20, "c": 1}])
    served.finish("a", "b")
    served.step(c=1)
    for layer in served.layers:
        methods = layer.methods(None)
        assert methods.queries == {}
        assert methods.evicted is not None
        assert methods.evicted._seen == {}
        assert set(methods.evicted._kept) == {"c"}


@pytest.mark.parametrize("name", ["snapkv", "tova", "h2o", "knorm"])
def test_what_was_never_read_cannot_be_decoded(name: str) -> None:
    """Under another method the prompt was not looked at."""
    served = Served(Attention.of(Quest(sparsity=0.5)))
    served.add(A)
    run(served, [{"a": 170}])
    served.session.change(named(name))
    with pytest.raises(EngineError, match=f"a: decoding begins before {name} has seen the prompt"):
        served.step(a=1)


def test_a_layer_knows_which_one_it_is() -> None:
    """PyramidKV keeps more in lower layers, and the methods of each layer are told."""
    served, _ = mixed(named("pyramidkv"))
    densities = measured(served, "b")["decode"]["densities"]
    assert min(densities[:KV_HEADS]) > max(densities[KV_HEADS:])
