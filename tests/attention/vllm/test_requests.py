"""Guards what a worker knows of its requests: where prompts end and what is cached, whatever the scheduler does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.attention.vllm.requests import Requests, Row
from sparse_tasks.core.errors import EngineError
from tests.attention.vllm.served import scheduled


def rows(requests: Requests, tokens: dict[str, int]) -> list[Row]:
    return list(requests.rows(list(tokens), list(tokens.values())))


def test_rows_stand_one_after_the_other_in_the_models_order() -> None:
    requests = Requests()
    requests.begin(scheduled({"a": 5}, new={"a": (5, 0)}))
    requests.begin(scheduled({"a": 1, "b": 30, "c": 8}, new={"b": (30, 0), "c": (9, 0)}, cached={"a": 5}))
    assert rows(requests, {"c": 8, "a": 1, "b": 30}) == [
        Row("c", 0, 0, 8, 9),
        Row("a", 8, 5, 6, 5),
        Row("b", 9, 0, 30, 30),
    ]


def test_a_prefix_that_is_cached_already_is_no_part_of_the_row() -> None:
    requests = Requests()
    requests.begin(scheduled({"a": 36}, new={"a": (100, 64)}))
    assert rows(requests, {"a": 36}) == [Row("a", 0, 64, 100, 100)]


def test_a_prompt_of_embeddings_is_as_long_as_they_are_many() -> None:
    requests = Requests()
    step = scheduled({"a": 7}, new={"a": (1, 0)})
    step.scheduled_new_reqs[0].prompt_token_ids, step.scheduled_new_reqs[0].prompt_embeds = None, [[0.0]] * 7
    requests.begin(step)
    assert rows(requests, {"a": 7}) == [Row("a", 0, 0, 7, 7)]


@pytest.mark.parametrize("as_new", [False, True])
def test_a_preempted_request_keeps_the_length_of_its_prompt(as_new: bool) -> None:
    """Some versions of vLLM send it as a new one, whose tokens are the prompt and what the model wrote."""
    requests = Requests()
    requests.begin(scheduled({"a": 10}, new={"a": (10, 0)}))
    requests.begin(scheduled({"a": 1}, cached={"a": 10}))
    again = {"new": {"a": (12, 0)}} if as_new else {"cached": {"a": 0}}
    requests.begin(scheduled({"a": 12}, **again))  # type: ignore[arg-type]
    assert rows(requests, {"a": 12}) == [Row("a", 0, 0, 12, 10)]
    requests.begin(scheduled({"a": 1}, cached={"a": 12}))
    assert rows(requests, {"a": 1}) == [Row("a", 0, 12, 13, 10)]


def test_a_finished_id_that_comes_again_in_the_same_step_is_a_new_request() -> None:
    requests = Requests()
    requests.begin(scheduled({"a": 10}, new={"a": (10, 0)}))
    assert requests.begin(scheduled({"a": 3}, new={"a": (3, 0)}, finished=["a"])) == {"a"}
    assert rows(requests, {"a": 3}) == [Row("a", 0, 0, 3, 3)]


def test_finished_ones_are_reported_once_also_if_they_never_ran() -> None:
    requests = Requests()
    requests.begin(scheduled({"a": 10}, new={"a": (10, 0)}))
    assert requests.begin(scheduled({}, finished=["a", "stranger"])) == {"a", "stranger"}
    assert requests.begin(scheduled({})) == set()


def test_running_is_a_step_that_has_tokens_and_has_not_ended() -> None:
    requests = Requests()
    assert not requests.running
    requests.begin(scheduled({"a": 10}, new={"a": (10, 0)}))
    assert requests.running
    requests.end()
    assert not requests.running
    requests.begin(scheduled({}, finished=["a"]))
    assert not requests.running


@pytest.mark.parametrize(
    ("order", "tokens"),
    [
        (["b", "a"], [10, 1]),  # another order of counts
        (["a", "b"], [10, 2]),  # another count
        (["a"], [10]),  # too few
        (["a", "b", "c"], [10, 1, 1]),  # one that nobody scheduled
        (["a", "b"], [10]),
        (["a", "b"], [10, 1, 1]),
        ([], []),
    ],
)
def test_rows_that_do_not_agree_are_an_error_not_a_guess(order: list[str], tokens: list[int]) -> None:
    requests = Requests()
    requests.begin(scheduled({"a": 10, "b": 1}, new={"a": (10, 0), "b": (1, 0)}))
    with pytest.raises(EngineError, match="another order than this version of it should have; please report it"):
        list(requests.rows(order, tokens))


@settings(max_examples=50, deadline=None)
@given(
    prompts=st.lists(st.integers(1, 50), min_size=1, max_size=4),
    seed=st.randoms(use_true_random=False),
    preempted=st.booleans(),
    rejects=st.booleans(),
)
def test_over_all_steps_every_position_is_computed_in_turn(
    prompts: list[int], seed: object, preempted: bool, rejects: bool
) -> None:
    """Requests begin, advance, are preempted, and lose tokens that are not accepted, as a scheduler likes."""
    assert hasattr(seed, "randint")
    requests, computed = Requests(), dict.fromkeys(map(str, range(len(prompts))), -1)
    written = dict.fromkeys(computed, 0)
    for step in range(12):
        chosen = {name: seed.randint(1, 9) for name in computed if seed.randint(0, 2)}
        if preempted and step == 6:
            computed["0"] = min(computed["0"], 0)
        new = {name: (prompts[int(name)], 0) for name in chosen if computed[name] < 0}
        cached = {name: computed[name] for name in chosen if name not in new}
        requests.begin(scheduled(chosen, new=new, cached=cached))
        first = 0
        for row in rows(requests, chosen):
            start = max(0, computed[row.request])
            end, taken_back = start + chosen[row.request], start < written[row.request]
            assert row == Row(row.request, first, start, end, prompts[int(row.request)], taken_back=taken_back)
            computed[row.request] = seed.randint(start + 1, end) if rejects else end
            written[row.request] = end
            first += row.end - row.start
        requests.end()
