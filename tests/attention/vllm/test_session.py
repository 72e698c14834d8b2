"""Guards what a worker, its metadata builders and its layers share: when there is a plan, and what ends a step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.kernels.dispatch import EIGHT_BITS
from sparse_tasks.attention.methods.quest import Quest
from sparse_tasks.attention.methods.snapkv import SnapKV
from sparse_tasks.attention.methods.sparq import SparQ
from sparse_tasks.attention.methods.twilight import Twilight
from sparse_tasks.attention.methods.vertical_slash import VerticalSlash
from sparse_tasks.attention.methods.window_decode import WindowDecode
from sparse_tasks.attention.vllm.arguments import MARK, Offer
from sparse_tasks.attention.vllm.layer import SparseLayer
from sparse_tasks.attention.vllm.session import SESSIONS, Session, session_of, share_of_state
from sparse_tasks.core.errors import EngineError, UsageError
from tests.attention.vllm.served import named, scheduled


def module(kv_heads: int = 2, heads: int = 4, size: int = 16, dtype: torch.dtype = torch.float32) -> SimpleNamespace:
    impl = SimpleNamespace(num_kv_heads=kv_heads, num_heads=heads, head_size=size, scale=0.25, sparse=None,
                           sinks=None, logits_soft_cap=0, latent=False)  # fmt: skip
    return SimpleNamespace(impl=impl, dtype=dtype)


def joined(attention: Attention | None = None, layers: int = 2) -> Session:
    session = Session(Attention.DENSE if attention is None else attention, impl="torch")
    session.join({f"layers.{n}": module() for n in range(layers)}, torch.device("cpu"))
    return session


def metadata(*counts: int) -> SimpleNamespace:
    """vLLM's, of a step in which nothing was cached before, with more room than there are requests."""
    starts = torch.tensor([0, *counts, 0, 0], dtype=torch.int32).cumsum(0).int()
    return SimpleNamespace(
        num_reqs=len(counts),
        causal=True,
        query_start_loc_cpu=starts,
        block_table_tensor=torch.zeros(len(counts) + 2, 8, dtype=torch.int32),
        seq_lens=torch.tensor([*counts, 0, 0], dtype=torch.int32),
    )


def test_the_plan_is_of_the_rows_in_the_models_order() -> None:
    session = joined()
    session.begin(scheduled({"a": 5, "b": 3}, new={"a": (5, 0), "b": (4, 0)}), lambda: ["b", "a"])
    plan = session.plan(["layers.1"], metadata(3, 5), 16)
    assert plan is not None
    assert [(prompt.request, prompt.first, prompt.end, prompt.complete) for prompt in plan.plans[0].prompts] == [
        ("b", 0, 3, False),
        ("a", 3, 5, True),
    ]
    assert plan.table.shape == (2, 1)


def test_the_order_is_asked_for_when_it_is_known() -> None:
    """Once the step has begun, vLLM sorts its requests."""
    session, order = joined(), ["a", "b"]
    session.begin(scheduled({"a": 5, "b": 3}, new={"a": (5, 0), "b": (3, 0)}), lambda: order)
    order.reverse()
    plan = session.plan(["layers.0"], metadata(3, 5), 16)
    assert plan is not None
    assert [prompt.request for prompt in plan.plans[0].prompts] == ["b", "a"]


def test_there_is_no_plan_while_vllm_warms_up() -> None:
    session = joined()
    session.warming_up = True
    session.begin(scheduled({"a": 5}, new={"a": (5, 0)}), lambda: ["a"])
    assert session.plan(["layers.0"], metadata(5), 16) is None
    session.end()
    session.warming_up = False
    session.begin(scheduled({"b": 5}, new={"b": (5, 0)}, finished=["a"]), lambda: ["b"])
    assert session.plan(["layers.0"], metadata(5), 16) is not None


def test_there_is_no_plan_without_requests() -> None:
    """Before the first step, between two, and in one that only tells of what has finished."""
    session = joined()
    assert session.plan(["layers.0"], metadata(5), 16) is None
    session.begin(scheduled({"a": 5}, new={"a": (5, 0)}), lambda: ["a"])
    session.plan(["layers.0"], metadata(5), 16)
    session.end()
    assert session.plan(["layers.0"], metadata(5), 16) is None
    session.begin(scheduled({}, finished=["a"]), list)
    assert session.plan(["layers.0"], metadata(5), 16) is None


def test_there_is_no_plan_for_layers_that_are_not_sparse() -> None:
    """A sliding window's, which have a table of their own."""
    session = joined()
    session.begin(scheduled({"a": 5}, new={"a": (5, 0)}), lambda: ["a"])
    assert session.plan(["window.0", "window.1"], metadata(5), 16) is None
    assert session.plan([], metadata(5), 16) is None
    assert session.plan(["window.0", "layers.1"], metadata(5), 16) is not None


@pytest.mark.parametrize("causal", [False, None, torch.tensor([True, False])])
def test_attention_that_is_not_causal_is_an_error(causal: object) -> None:
    """Also while vLLM warms up, and not where vLLM computes it."""
    session, step = joined(), metadata(5)
    step.causal = causal
    with pytest.raises(EngineError, match="not causal"):
        session.plan(["window.0", "layers.1"], step, 16)
    assert session.plan(["window.0"], step, 16) is None


def test_rows_that_vllm_counts_otherwise_are_an_error() -> None:
    session = joined()
    session.begin(scheduled({"a": 5}, new={"a": (5, 0)}), lambda: ["a"])
    with pytest.raises(EngineError, match="please report it"):
        session.plan(["layers.0"], metadata(4), 16)


def test_the_end_of_a_step_counts_what_was_planned() -> None:
    session = joined()
    assert session.counter is not None
    session.begin(scheduled({"a": 5}, new={"a": (5, 0)}), lambda: ["a"])
    session.plan(["layers.0"], metadata(5), 16)
    session.end()
    session.end()  # nothing is counted twice
    assert session.counter._running["a"].prompt_dense == 5 * 6 // 2
    session.begin(scheduled({"a": 1}, cached={"a": 5}), lambda: ["a"])
    session.plan(["layers.0"], metadata(1), 16)
    session.end()
    session.begin(scheduled({}, finished=["a"]), list)
    session.end()
    assert session.counter.take("a") == {
        "prefill": {"densities": [1.0] * 8},
        "decode": {"densities": [1.0] * 4, "kv_bytes": 4 * 6 * 2 * 16 * 4.0, "steps": 1},
    }


def test_what_was_not_planned_is_not_counted() -> None:
    session = joined()
    assert session.counter is not None
    session.warming_up = True
    session.begin(scheduled({"a": 5}, new={"a": (5, 0)}), lambda: ["a"])
    session.plan(["layers.0"], metadata(5), 16)
    session.end()
    assert session.counter.take("a") is None


def test_a_step_that_begins_before_layers_are_there_is_let_through() -> None:
    """First vLLM measures memory, without a cache."""
    session = Session(Attention.DENSE, impl="torch")
    session.begin(scheduled({}), list)
    assert session.plan(["layers.0"], metadata(5), 16) is None
    session.end()
    assert session.counter is None


@pytest.mark.parametrize(
    ("attention", "expected"),
    [
        ("dense", (True, True)),
        ("vertical_slash", (False, True)),
        ("quest", (True, False)),
        ("snapkv", (True, False)),
        ("vertical_slash+snapkv", (False, False)),
    ],
)
def test_a_phase_without_a_method_is_dense(attention: str, expected: tuple[bool, bool]) -> None:
    assert joined(Attention.parse(attention)).dense() == expected
    assert joined(Attention.parse(attention, sparsity=0.0)).dense() == (True, True)
    session = joined()
    session.change(Attention.parse(attention))
    assert session.dense() == expected


def test_layers_join_in_their_order_with_what_they_are() -> None:
    session = Session(named("pyramidkv"), impl="torch")
    modules = {name: module() for name in ("first", "second", "third")}
    session.join(modules, torch.device("cpu"))
    layers = [one.impl.sparse for one in modules.values()]
    assert all(isinstance(layer, SparseLayer) for layer in layers)
    assert [(layer._layer.index, layer._layer.count) for layer in layers] == [(0, 3), (1, 3), (2, 3)]


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(UsageError, match="has no layer with attention over all keys") as error:
        Session(Attention.DENSE).join({}, torch.device("cpu"))
    assert error.value.field == "model"


@pytest.mark.parametrize("other", [{"kv_heads": 4}, {"heads": 8}, {"size": 32}, {"dtype": torch.float16}])
def test_layers_that_differ_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="has layers with different heads") as error:
        Session(Attention.DENSE).join({"a": module(), "b": module(**other)}, torch.device("cpu"))
    assert error.value.field == "model"


def test_a_layer_that_shares_the_cache_of_one_that_is_not_sparse_is_refused() -> None:
    sharing = module()
    sharing.kv_sharing_target_layer_name = "sliding"
    with pytest.raises(UsageError, match="of b is no layer that sees all keys") as error:
        Session(Attention.DENSE).join({"a": module(), "b": sharing}, torch.device("cpu"))
    assert (error.value.field, error.value.value) == ("kv_sharing_target_layer_name", "sliding")


@pytest.mark.parametrize("name", ["quest", "twilight"])
def test_other_methods_have_to_fit_the_blocks(name: str) -> None:
    session = joined(named("vertical_slash"))
    session.lay_out(["layers.0", "layers.1"], 24)
    session.change(Attention.parse(name, arguments={"page": 8}))
    with pytest.raises(UsageError, match=f"block size, 24; take one that does .--set {name}.page=16") as error:
        session.change(Attention.parse(f"tri_shape+{name}"))
    assert (error.value.field, error.value.value) == (f"{name}.page", 16)
    assert session.offer.attention == Attention.parse(name, arguments={"page": 8})  # as it was
    session.change(Attention.parse("snapkv"))  # has no pages


def test_pages_have_to_fit_blocks_of_sparse_layers_alone() -> None:
    """Blocks of layers of other kinds are as long as a sequence may be, or as a state needs."""
    session = joined(Attention.parse("quest"))
    session.lay_out(["mamba.0"], 1000)
    session.lay_out(["layers.0"], 528)
    with pytest.raises(UsageError, match="block size, 40") as error:
        session.lay_out(["layers.1"], 40)
    assert (error.value.field, error.value.value) == ("quest.page", 16)


@pytest.mark.parametrize("page", [1, 8, 16, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_pages_remember_is_two_keys_each(page: int, dtype: torch.dtype) -> None:
    """A page has as many keys, and as many values."""
    for method in (Quest(page=page), Twilight(page=page)):
        share = share_of_state(Offer(Attention.of(method)), 32, 8, 128, dtype)
        assert share == pytest.approx(1 / page)


def test_room_is_kept_for_what_requests_may_choose() -> None:
    quest, both = Attention.of(Quest()), (Attention.of(Quest(sparsity=0.5)), Attention.of(Twilight()))
    shares = [share_of_state(Offer(Attention.DENSE, choices), 16, 8, 128, torch.bfloat16)
              for choices in ((), (quest,), (quest, *both))]  # fmt: skip
    assert shares == [0, shares[1], pytest.approx(2 * shares[1])]
    assert shares[1] > 0
    assert Session(Attention.DENSE, choices=both).work(1000, 8, 128, torch.bfloat16) > 0


def test_counts_are_taken_by_the_mark_of_a_request() -> None:
    """One request may have several sequences, whose names are vLLM's."""
    session = joined()
    extra: dict[str, dict[str, object]] = {"0_x-1": {MARK: "m"}, "1_x-2": {MARK: "m"}, "y": {}}
    tokens = {"0_x-1": 5, "1_x-2": 3, "y": 2}
    step = scheduled(tokens, new={name: (count, 0) for name, count in tokens.items()}, extra=extra)
    session.begin(step, lambda: list(tokens))
    session.plan(["layers.0"], metadata(5, 3, 2), 16)
    session.end()
    assert session.take("m") == [{"prefill": {"densities": [1.0] * 8}}] * 2
    assert session.take("m") == session.take("other") == []
    assert session.counter is not None
    assert session.counter.take("y") is not None


@pytest.mark.parametrize(
    "attention",
    [Attention.DENSE, Attention.of(VerticalSlash()), Attention.of(WindowDecode()), Attention.of(SnapKV())],
    ids=lambda attention: attention.method,
)
def test_other_methods_remember_nothing_of_pages(attention: Attention) -> None:
    assert share_of_state(Offer(attention), 16, 8, 128, torch.bfloat16) == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, EIGHT_BITS])
def test_keys_by_component_take_as_much_as_the_keys(dtype: torch.dtype) -> None:
    for block_size in (16, 784):
        assert share_of_state(Offer(Attention.of(SparQ())), block_size, 8, 128, dtype) == 0.5


@pytest.mark.parametrize(
    ("first", "then", "fits"),
    [
        ("quest", "sparq", False),
        ("snapkv", "quest", False),
        ("sparq", "quest", True),
        ("sparq", "streaming_llm+sparq", True),
        ("twilight", "quest", True),
    ],
)
def test_states_of_later_methods_have_to_fit_where_the_first_were_planned(first: str, then: str, fits: bool) -> None:
    session, later = joined(Attention.parse(first)), Attention.parse(then)
    session.change(later)  # as on a CPU, where nothing is planned
    session.change(Attention.parse(first))
    session.leave_room(16, 8, 128, torch.bfloat16)
    assert session.has_room(Offer(later)) == fits
    session.change(Attention.parse(first))
    if fits:
        session.change(later)
        return
    with pytest.raises(UsageError, match=r"^attention: .*start another engine") as error:
        session.change(later)
    assert error.value.value == then
    assert session.offer.attention.method == first


def test_room_is_left_for_what_methods_need_and_none_for_dense_attention() -> None:
    assert Session(Attention.DENSE).work(100_000, 8, 128, torch.bfloat16) == 0
    session = Session(Attention.parse("quest"))
    short, long = (session.work(n, 8, 128, torch.bfloat16) for n in (1000, 100_000))
    keys_and_values = 2 * 8 * 128 * 2
    assert long - short >= 99_000 * keys_and_values
    assert 0 < short < 2**30


def test_the_session_of_an_engine_is_found_while_it_lives() -> None:
    def config(modules: dict[str, object]) -> SimpleNamespace:
        return SimpleNamespace(compilation_config=SimpleNamespace(static_forward_context=modules))

    modules: dict[str, object] = {}
    equal: dict[str, object] = {}
    assert session_of(config(modules)) is None
    session = Session(Attention.DENSE, modules=modules)
    other = Session(Attention.DENSE, modules=equal)
    SESSIONS.update((session, other))
    assert session_of(config(modules)) is session  # also under a copy of the configuration, which shares the table
    assert session_of(config(equal)) is other
    assert session_of(config({})) is None
    del session
    assert session_of(config(modules)) is None
    assert session_of(config(equal)) is other
