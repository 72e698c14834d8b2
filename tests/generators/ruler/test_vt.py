"""Variable tracking."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.ruler.noise import noise
from sparse_tasks.generators.seeds import Stream
from tests.generators.drafts import context_of, draft_of, farthest_from_uniform, fill, prompt_of, task_of

NAME = "ruler_vt"
STATEMENT = re.compile(r"^VAR ([A-Z]{5}) = (?:VAR ([A-Z]{5})|(\d{5}))$", re.M)


def statements(text: str) -> list[tuple[str, str, str]]:
    return STATEMENT.findall(text)


def oracle(prompt: str) -> str:
    return task_of(NAME).oracle(prompt)


def chains(text: str) -> dict[str, list[str]]:
    """The variables of each value, followed from each variable back to its value."""
    comes_from = {name: other or value for name, other, value in statements(text)}
    found: dict[str, list[str]] = {}
    for name in comes_from:
        at = name
        while not at.isdigit():
            at = comes_from[at]
        found.setdefault(at, []).append(name)
    return found


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(1, 64), st.integers(1, 32), st.integers(0, 150), st.integers(0, 2**32))
def test_gold_are_the_variables_of_the_value(n: int, hops: int, size: int, seed: int) -> None:
    draft = fill(draft_of(NAME, seed, size, chains=n, hops=hops), 3)
    context = context_of(draft)
    found = chains(context)
    value = re.findall(r"have the value (\d+),", draft.question)[0]
    assert len(found) == n
    assert all(len(names) == hops + 1 for names in found.values())
    assert sorted(found[value]) == sorted(draft.answers)
    assert draft.answer == ", ".join(draft.answers) == oracle(prompt_of(draft))
    assert f"There are {hops + 1} of them." in draft.question
    assert len(statements(context)) == n * (hops + 1)
    assert len({name for name, _, _ in statements(context)}) == n * (hops + 1)
    assert context.count(value) == 1
    # Each variable is passed on at most once, so that a hop cannot be skipped.
    sources = [other for _, other, _ in statements(context) if other]
    assert len(set(sources)) == len(sources)


def test_statements_are_spread_over_the_context() -> None:
    places = []
    for seed in range(80):
        lines = context_of(draft_of(NAME, f"spread {seed}", 300)).splitlines()[2:]
        places += [i / len(lines) for i, line in enumerate(lines) if STATEMENT.match(line)]
    assert len(places) == 80 * 40
    assert farthest_from_uniform(places) < 0.035


def test_chains_are_interleaved() -> None:
    # If a chain were contiguous, one place would be enough.
    apart = 0
    for seed in range(40):
        gold = set(draft_of(NAME, seed, 50).answers)
        order = [name in gold for name, _, _ in statements(context_of(draft_of(NAME, seed, 50)))]
        inside = order[order.index(True) : len(order) - order[::-1].index(True)]
        apart += inside.count(False) >= 5
    assert apart / 40 > 0.9


def test_the_asked_chain_is_not_always_first_or_last() -> None:
    first = sum(statements(context_of(draft := draft_of(NAME, seed, 50)))[0][0] in draft.answers for seed in range(160))
    # One of eight chains.
    assert 5 < first < 40


def test_filler_has_nothing_to_do_with_it() -> None:
    stream = Stream("noise")
    said = {noise(stream) for _ in range(2_000)}
    assert len(said) >= 40
    for line in said:
        assert re.fullmatch(r"[A-Z][^\n]*[.!?]\n", line)
        assert not re.search(r"\d|=|VAR|[A-Z]{2}|key|value", line)


def test_a_broken_chain_gives_another_answer() -> None:
    for seed in range(8):
        draft = draft_of(NAME, seed, 40)
        prompt = prompt_of(draft)
        others = [name for name, _, _ in statements(prompt) if name not in draft.answers]
        before = {name: at for at, (name, _, _) in enumerate(statements(prompt))}
        for name, source, _ in statements(prompt):
            if name in draft.answers and source:
                stranger = next((o for o in others if before[o] < before[name]), None)
                if stranger is None:
                    continue
                broken = prompt.replace(f"VAR {name} = VAR {source}\n", f"VAR {name} = VAR {stranger}\n")
                answer = oracle(broken)
                assert name not in answer.split(", ")
                assert answer != draft.answer


def test_a_variable_used_before_it_is_assigned_is_found() -> None:
    prompt = prompt_of(draft_of(NAME, "before", 40))
    name, source, _ = next(statement for statement in statements(prompt) if statement[1])
    with pytest.raises(DataError, match="before it is assigned"):
        oracle(prompt.replace(f"VAR {name} = VAR {source}\n", f"VAR {name} = VAR QQQQQ\n"))
    # Two statements of one chain change places.
    late = next(s for s in statements(prompt) if s[1] == name)
    one, two = f"VAR {name} = VAR {source}\n", f"VAR {late[0]} = VAR {name}\n"
    with pytest.raises(DataError, match="before it is assigned"):
        oracle(prompt.replace(one, "\0").replace(two, one).replace("\0", two))


def test_a_variable_assigned_twice_is_found() -> None:
    prompt = prompt_of(draft_of(NAME, "twice", 40))
    for name, _, _ in statements(prompt)[::7]:
        with pytest.raises(DataError, match="assigned twice"):
            oracle(prompt.replace("\nThe log ends here.", f"\nVAR {name} = 12345\n\nThe log ends here."))


def test_evidence_is_the_statement_of_each_variable() -> None:
    draft = fill(draft_of(NAME, "evidence", 40), 5)
    marks = draft.marks()
    assert [mark.label for mark in marks] == draft.answers
    for mark in marks:
        assert mark.first.text[mark.start : mark.end].startswith(f"VAR {mark.label} = ")
