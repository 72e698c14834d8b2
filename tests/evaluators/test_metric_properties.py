"""What holds for every metric, from the output of a model to the score. A new metric joins by joining ``METRICS``."""

import random
import string
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sparse_tasks.evaluators.announcements import BEFORE, BEHIND
from sparse_tasks.evaluators.answers import _JOINING, normalise
from sparse_tasks.evaluators.scoring import score
from tests.evaluators.metrics import METRICS, STRICT, numbered

# These read ``answers`` as ways to say one thing; the others as the entries of a list.
ONE_ANSWER = frozenset({"exact_match", "squad_em", "token_f1"})
SETS = sorted(METRICS.keys() - ONE_ANSWER - {"ordered_fraction", "prefix_fraction", "sequence_fraction"})

# Names as the generators write them; without "and" and commas, so that a list on one line can be read back, and without
# words that deny: "Otter no" is ambiguous, "2. Otter no" is not.
_WORD = st.text(alphabet=string.ascii_letters, min_size=2, max_size=8).filter(
    lambda word: word.lower() not in {"an", "ch", "chapter", "chapters", "und", "sowie"} | _JOINING | BEFORE | BEHIND
)
_NAME = st.lists(_WORD, min_size=1, max_size=3).map(" ".join)
_NAMES = st.lists(_NAME, min_size=2, max_size=6, unique_by=str.lower)
_OUTPUT = st.one_of(
    st.text(),
    st.text(alphabet="<>/answerthink {}\\boxed46,;:.\n-*"),
    st.lists(
        st.sampled_from(["<answer>", "</answer>", "<think>", "</think>", "\\boxed{", "}", "46", "Otter", "\n", ", "])
    ).map("".join),
)


def tagged(answer: str) -> str:
    return f"<answer>{answer}</answer>"


def gold_answer(metric: str, gold: list[str]) -> str:
    return gold[0] if metric in ONE_ANSWER else "\n".join(gold)


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=40, deadline=None)
@given(output=_OUTPUT, gold=st.lists(st.text(min_size=1).filter(normalise), min_size=1, max_size=5))
def test_a_score_is_between_zero_and_one(metric: str, output: str, gold: list[str]) -> None:
    for text in (output, tagged(output)):
        one = score(metric, text, gold)
        assert 0.0 <= one.value <= 1.0
        assert one.parsed is (one.extracted is not None)
        assert one.parsed or one.value == 0.0


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=40, deadline=None)
@given(gold=_NAMES, blank=st.text(alphabet=" \t\n\r\u00a0\u3000"))
def test_nothing_scores_zero(metric: str, gold: list[str], blank: str) -> None:
    assert METRICS[metric](None, gold) == METRICS[metric]("", gold) == METRICS[metric](blank, gold) == 0.0
    one = score(metric, blank, gold)
    assert (one.value, one.extracted, one.parsed, one.how) == (0.0, None, False, None)


FORMS: dict[str, Callable[[list[str]], str]] = {
    "lines": "\n".join,
    "commas": ", ".join,
    "semicolons": "; ".join,
    "blank lines": "\n\n".join,
    "numbers": numbered,
    "numbers on one line": lambda entries: numbered(entries).replace("\n", " "),
    "bullets": lambda entries: "\n".join(f"- {entry}" for entry in entries),
    "stars": lambda entries: "\n".join(f"* {entry}" for entry in entries),
    "bold": lambda entries: "\n".join(f"**{entry}**" for entry in entries),
    "bold numbers": lambda entries: "\n".join(f"**{n}.** {entry}" for n, entry in enumerate(entries, start=1)),
    "code": lambda entries: ", ".join(f"`{entry}`" for entry in entries),
    "quotes": lambda entries: ", ".join(f'"{entry}"' for entry in entries),
    "upper case": lambda entries: "\n".join(entries).upper(),
    "title case, full stop": lambda entries: "\n".join(f"{entry.title()}." for entry in entries),
    "repeated": lambda entries: "\n".join([*entries, *entries]),
}


@pytest.mark.parametrize("metric", SETS)
@settings(max_examples=40, deadline=None)
@given(gold=_NAMES, others=_NAMES, order=st.randoms(use_true_random=False))
@example(gold=["AA", "AB", "ES"], others=["AA"], order=random.Random(0))  # "ES" first, in Spanish a verb
def test_order_and_form_leave_set_metrics_alone(
    metric: str, gold: list[str], others: list[str], order: random.Random
) -> None:
    known = {entry.lower() for entry in gold}
    entries = [*gold[::2], *(entry for entry in others if entry.lower() not in known)]
    if len(entries) < 2:
        entries = gold
    plain = score(metric, tagged("\n".join(entries)), gold).value
    shuffled = order.sample(entries, len(entries))
    for form, write in FORMS.items():
        assert score(metric, tagged(write(shuffled)), gold).value == plain, form


@pytest.mark.slow
@pytest.mark.parametrize("metric", STRICT)
@settings(max_examples=1, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), answers=st.integers(1, 8), prose=st.booleans())
@example(seed=0, answers=16, prose=True)
def test_echoing_a_context_of_real_size_scores_below_a_twentieth(
    metric: str, seed: int, answers: int, prose: bool
) -> None:
    chance = random.Random(seed)
    words = ["".join(chance.choices(string.ascii_lowercase, k=6)) for _ in range(1000)]
    entries = [f"{' '.join(chance.choices(words, k=3))} {number}" for number in range(600)]
    gold = chance.sample(entries, answers)
    if prose:
        entries = [f"In chapter {number} the traveller came upon {entry}." for number, entry in enumerate(entries)]
    for separator in ("\n", " ", ", "):
        context = separator.join(entries)
        for output in (context, tagged(context), f"<answer>{context}", f"<answer>{context}</answer>{context}"):
            assert score(metric, output, gold).value < 0.05
        assert METRICS[metric](context, gold) < 0.05


@pytest.mark.parametrize("metric", STRICT)
@settings(max_examples=40, deadline=None)
@given(gold=_NAMES, said=_NAMES, thought=st.text(alphabet=string.ascii_letters + " <>\n46"))
def test_thought_changes_nothing(metric: str, gold: list[str], said: list[str], thought: str) -> None:
    plain = score(metric, tagged("\n".join(said)), gold)
    wrong = f"{thought} {tagged('Nowhere')} \\boxed{{Nowhere}}"
    for output in (
        f"<think>{wrong}</think>{tagged(chr(10).join(said))}",
        f"{wrong}</think>\n{tagged(chr(10).join(said))}",
        f"<thinking>\n{wrong}\n</thinking>\n\nSo: {tagged(chr(10).join(said))}",
        f"{tagged(chr(10).join(said))}<think>{wrong}",
    ):
        assert score(metric, output, gold) == plain
    assert score(metric, f"<think>{tagged(gold_answer(metric, gold))}", gold).value == 0.0


@pytest.mark.parametrize("metric", STRICT)
@settings(max_examples=40, deadline=None)
@given(gold=_NAMES, said=_NAMES)
def test_a_box_is_worth_what_a_tag_is_and_says_so(metric: str, gold: list[str], said: list[str]) -> None:
    answer = gold_answer(metric, said)
    plain = score(metric, tagged(answer), gold)
    for boxed in (f"So it is $\\boxed{{{answer}}}$.", f"\\boxed{{\\text{{{answer}}}}}"):
        one = score(metric, boxed, gold)
        assert (one.value, one.how) == (plain.value, "boxed" if plain.parsed else None)
    inside = score(metric, tagged(f"\\boxed{{{answer}}}"), gold)
    assert (inside.value, inside.how) == (plain.value, plain.how)
