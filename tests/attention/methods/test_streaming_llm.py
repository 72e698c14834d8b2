"""Guards StreamingLLM: what each query sees, the window that a density takes, and chunks of a prompt."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.attention.methods.streaming_llm import StreamingLLM
from tests.attention.methods.naive import crossed_bands, line_lists, make_sequence
from tests.attention.toys import Where


def seen(position: int, sinks: int, window: int) -> set[int]:
    """The keys that a query sees."""
    return {key for key in range(position + 1) if key < sinks or position - key < window}


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize(
    ("n_q", "n_k", "sinks", "window"), [(300, 300, 4, 50), (77, 301, 0, 1), (1, 200, 9, 129), (130, 150, 1, 148)]
)
def test_queries_see_sinks_and_window(impl: str, n_q: int, n_k: int, sinks: int, window: int) -> None:
    index = StreamingLLM(sinks=sinks, window=window).select(*make_sequence(n_q, n_k, 4, 2, 16), impl=impl)
    assert index is not None
    columns, slashes, bands = line_lists(index)
    assert columns == [list(range(sinks))]
    assert slashes == [list(range(window))]
    assert bands == [crossed_bands(slashes[0], 128, 64)]
    mask = index.pattern().mask(n_q, n_k)[0]
    assert (mask | ~Where(lambda i, j: (j < sinks) | (i - j < window)).mask(n_q, n_k)[0]).all()
    wanted = sum(len(seen(position, sinks, window)) for position in range(n_k - n_q, n_k))
    assert index.selected_density().tolist() == [wanted / causal_count(n_q, n_k)]
    assert index.computed().tolist() == [int(mask.sum())]


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 60), density=st.floats(0.001, 1), sinks=st.integers(0, 9))
def test_no_other_window_is_nearer(length: int, density: float, sinks: int) -> None:
    window = StreamingLLM(sparsity=1 - density, sinks=sinks).at(length).window
    assert window is not None
    wanted = (1 - (1 - density)) * causal_count(length, length)

    def error(window: int) -> float:
        return abs(sum(len(seen(p, sinks, window)) for p in range(length)) - wanted)

    assert error(window) <= min(error(other) for other in range(1, length + 1)) + 1e-9


def test_a_chunk_has_the_window_of_its_prompt() -> None:
    q, k = make_sequence(400, 400, 2, 1, 16)
    method = StreamingLLM(sparsity=0.8)
    whole = method.select(q, k, impl="torch")
    assert whole is not None
    mask = whole.pattern().mask(400, 400)
    for start, end in ((0, 150), (150, 300), (300, 400)):
        part = method.select(q[start:end], k[:end], length=400, impl="torch")
        assert part is not None
        assert line_lists(part)[1] == line_lists(whole)[1]
        assert torch.equal(part.pattern().mask(end - start, end), mask[:, start:end, :end])


def test_the_default_window() -> None:
    index = StreamingLLM().select(*make_sequence(3, 1100, 2, 1, 16), impl="torch")
    assert index is not None
    assert line_lists(index)[1] == [list(range(1024))]
