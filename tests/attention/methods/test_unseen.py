"""Guards positions declared unseen by later queries, which an engine may free, against what each query sees."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.method import METHODS, DecodeMethod, EvictMethod, Method, PrefillMethod
from tests.attention.methods.naive import make_sequence, wide_cache

BY_POSITION = [name for name in METHODS.names() if METHODS.get(name).unseen is not Method.unseen]


def test_methods_that_choose_by_position() -> None:
    """``tri_shape`` does too, and says that its last queries see all."""
    assert sorted(BY_POSITION) == ["streaming_llm", "tri_shape", "window_decode", "window_evict", "window_prefill"]


def seen_last(method: Method, prompt: int, total: int) -> torch.Tensor:
    """The last position whose query sees each key, of a prompt and what follows it; -1 where none does."""
    q, k = make_sequence(prompt, prompt, 2, 1, 16)
    rows = torch.zeros(total, total, dtype=torch.bool)
    if isinstance(method, PrefillMethod):
        index = method.select(q, k, impl="torch")
        rows[:prompt, :prompt] = True if index is None else index.pattern().mask(prompt, prompt)[0]
    elif isinstance(method, EvictMethod):
        kept = method.keep(q, k, impl="torch")
        rows[prompt:, kept.positions[0].long()] = True
        rows[prompt:, prompt:] = True
    elif isinstance(method, DecodeMethod):
        lengths = list(range(prompt + 1, total + 1))
        cache = wide_cache(lengths, -(-total // 16) * 16)
        rows[prompt:] = method.select(torch.randn(len(lengths), 1, 16), cache, None, impl="torch").mask(total)[:, 0]
    rows &= torch.ones_like(rows).tril()
    return torch.where(rows, torch.arange(total)[:, None], -1).amax(0)


@pytest.mark.parametrize("name", BY_POSITION)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_unseen_positions_stay_unseen(name: str, data: st.DataObject) -> None:
    kind = METHODS.get(name)
    given: dict[str, object] = {"sinks": data.draw(st.integers(0, 20))}
    if name == "window_decode":
        given["page"] = data.draw(st.sampled_from([1, 4, 16]))
    if data.draw(st.booleans()):
        given["sparsity"] = data.draw(st.floats(0, 0.99))
    else:
        given[kind.budgets[0]] = data.draw(st.integers(1, 120))
    method = kind.from_settings(given)
    prompt = data.draw(st.integers(1, 600))
    total = prompt if isinstance(method, PrefillMethod) else prompt + data.draw(st.integers(1, 80))
    last = seen_last(method, prompt, total)
    before = range(0)
    for position in range(0 if isinstance(method, PrefillMethod) else prompt, total):
        unseen = method.unseen(prompt, position)
        assert set(before) <= set(unseen)
        assert (last[unseen.start : unseen.stop] < position).all()
        before = unseen


@pytest.mark.parametrize(("name", "share"), [("window_evict", 0.88), ("window_decode", 0.88), ("streaming_llm", 0.5)])
def test_almost_all_unseen_positions_are_reported(name: str, share: float) -> None:
    """At the end of a prompt of 2,000 tokens, of which tiles of prompts may see some more."""
    method = METHODS.get(name).from_settings({"sparsity": 0.9 if share > 0.5 else 0.8})
    assert len(method.unseen(2000, 2000)) >= share * 2000


def test_later_tokens_count_while_a_prompt_is_read() -> None:
    attention = Attention.parse(
        "streaming_llm+window_evict",
        arguments={
            "streaming_llm.window": 100, "streaming_llm.sinks": 50, "window_evict.capacity": 300,
            "window_evict.sinks": 4,
        },
    )  # fmt: skip
    assert attention.frees
    assert attention.unseen(1000, 999) == range(50, 704)  # by the window of what follows
    assert attention.unseen(1000, 500) == range(50, 500 + 1 - 100 - 191)
    assert attention.unseen(1000, 1000) == attention.unseen(1000, 1500) == range(4, 704)
    assert Attention.parse("window_evict", sparsity=0.9).unseen(1000, 999) == range(0)  # all see all of the prompt
    assert Attention.parse("streaming_llm", sparsity=0.9).unseen(1000, 1500) == range(0)  # what follows sees all of it


@pytest.mark.parametrize("name", ["dense", "quest", "snapkv", "streaming_llm", "vertical_slash+quest"])
def test_content_based_methods_free_nothing(name: str) -> None:
    attention = Attention.parse(name)
    assert not attention.frees
    assert len(attention.unseen(5000, 4999)) == len(attention.unseen(5000, 6000)) == 0
